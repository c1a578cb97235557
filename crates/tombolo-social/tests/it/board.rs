//! Boards, rule by rule.

use tombolo_social::board::{Board, Entry, NOTICE_BYTES_MAX, NOTICES_MAX, PAYLOAD_BYTES_MAX};
use tombolo_social::{EntryError, MessageId, OperationId, Place, Time};

#[test]
fn notices_are_numbered_and_one_that_is_sent_again_is_there_once() {
    let mut board = Board::new();
    assert_eq!(board.last(), None);
    for id in [1, 2, 1] {
        let done = board.apply(&entry(id, 10, 1));
        assert_eq!(
            (done.number, done.is_repeated),
            (id, id < board.last().unwrap().offset)
        );
    }
    let numbers: Vec<_> = board.notices_after(1).map(|notice| notice.number).collect();
    assert_eq!(numbers, [2]);
}

#[test]
fn what_had_to_make_place_is_lost_unless_it_had_expired() {
    let mut board = Board::new();
    for id in 1..=NOTICES_MAX as u64 {
        let expires = if id <= 5 { NOW } else { NOW + 1_000 };
        board.apply(&entry(id, expires, 1));
    }
    let epoch = board.last().unwrap().epoch;
    for id in 2001..=2005 {
        board.apply(&entry(id, NOW + 1_000, 1));
    }
    assert_eq!(board.lost(), 0);
    assert!(board.is_recoverable(Place { epoch, offset: 0 }));
    board.apply(&entry(2006, NOW + 1_000, 1));
    assert_eq!(board.lost(), 6);
    assert!(!board.is_recoverable(Place { epoch, offset: 5 }));
    assert!(board.is_recoverable(Place { epoch, offset: 6 }));
    let other = OperationId([9; 16]);
    assert!(!board.is_recoverable(Place {
        epoch: other,
        offset: 6
    }));
}

#[test]
fn a_board_is_bounded_by_its_bytes() {
    let mut board = Board::new();
    for id in 1..=NOTICES_MAX as u64 {
        board.apply(&entry(id, NOW + 1_000, PAYLOAD_BYTES_MAX));
    }
    let kept = board.notices_after(0).map(|notice| notice.payload.len());
    assert_eq!(kept.sum::<usize>(), NOTICE_BYTES_MAX);
    assert_eq!(Board::restore(&board.snapshot()), Ok(board));
}

#[test]
fn entries_and_snapshots_that_are_cut_off_or_break_a_rule_are_refused() {
    let whole = entry(1, NOW, 8);
    let bytes = whole.encode();
    assert_eq!(Entry::decode(&bytes), Ok(whole.clone()));
    for length in 0..bytes.len() {
        assert_ne!(Entry::decode(&bytes[..length]), Ok(whole.clone()));
    }
    let long = entry(1, NOW, PAYLOAD_BYTES_MAX + 1);
    assert_eq!(Entry::decode(&long.encode()), Err(EntryError::TooLong));
    let mut board = Board::new();
    board.apply(&whole);
    board.apply(&entry(2, NOW, 3));
    let snapshot = board.snapshot();
    for length in 0..snapshot.len() {
        assert_ne!(Board::restore(&snapshot[..length]), Ok(board.clone()));
    }
}

fn entry(id: u64, expires: u64, bytes: usize) -> Entry {
    let id = u128::from(id).to_be_bytes();
    Entry {
        operation: OperationId(id),
        time: Time::from_millis(NOW),
        expires: Time::from_millis(expires),
        id: MessageId(id),
        payload: vec![7; bytes].into(),
    }
}

const NOW: u64 = 1_000_000;
