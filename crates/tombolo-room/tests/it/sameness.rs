use std::collections::BTreeMap;

use tombolo_room::{Body, Entry, Room};

use crate::random::entries;
use crate::world::check;

#[test]
fn the_same_log_gives_the_same_room_byte_for_byte() {
    for seed in 0..40 {
        let log = entries(seed, 400);
        let mut first = Room::new();
        let mut second = Room::new();
        for (at, entry) in log.iter().enumerate() {
            let appended = entry.encode();
            let results = (
                first.apply(entry),
                second.apply(&Entry::decode(&appended).unwrap()),
            );
            assert_eq!(results.0, results.1, "seed {seed}, entry {at}");
            if at % 10 == 0 {
                let snapshots = (first.snapshot(), second.snapshot());
                assert_eq!(snapshots.0, snapshots.1, "seed {seed}, entry {at}");
            }
        }
    }
}

#[test]
fn a_room_that_was_restored_anywhere_goes_on_alike() {
    for seed in 100..130 {
        let mut whole = Room::new();
        let mut restored = Room::new();
        for (at, entry) in entries(seed, 300).iter().enumerate() {
            if at % 7 == 0 {
                restored = Room::restore(&restored.snapshot()).unwrap();
            }
            let results = (whole.apply(entry), restored.apply(entry));
            assert_eq!(results.0, results.1, "seed {seed}, entry {at}");
            assert_eq!(whole, restored, "seed {seed}, entry {at}");
        }
    }
}

#[test]
fn who_begins_where_a_closed_room_was_forgotten_judges_alike_all_that_follows() {
    let mut begun = 0;
    for seed in 300..370 {
        let mut whole = Room::new();
        let mut begins = None;
        for (at, entry) in entries(seed, 400).into_iter().enumerate() {
            let result = whole.apply(&entry);
            if let Some(late) = &mut begins {
                assert_eq!(result, Room::apply(late, &entry), "seed {seed}, entry {at}");
                assert_eq!(whole, *late, "seed {seed}, entry {at}");
            }
            if entry.body == Body::Forgotten && result.outcome.is_ok() {
                begun += 1;
                begins = Some(Room::new());
            }
        }
    }
    assert!(begun > 100, "{begun} beginnings prove little");
}

#[test]
fn whatever_comes_the_room_stays_whole_and_an_illegal_entry_brings_only_the_time() {
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 200..260 {
        let mut room = Room::new();
        for (at, entry) in entries(seed, 400).iter().enumerate() {
            let before = room.clone();
            let applied = room.apply(entry);
            check(&room);
            let outcome = format!("{:?}", applied.outcome);
            *outcomes.entry(outcome).or_default() += 1;
            if applied.outcome.is_err() && applied.events.is_empty() {
                let members = before.members().eq(room.members());
                let properties = before.properties() == room.properties();
                let objects = before.objects().eq(room.objects());
                let rest = before.owner() == room.owner()
                    && before.settings() == room.settings()
                    && before.message_last() == room.message_last();
                assert!(
                    members && properties && objects && rest,
                    "seed {seed}, entry {at}: {entry:?} changed something silently"
                );
            }
        }
    }
    // The logs are worth applying: each outcome but the rarest comes up.
    for outcome in [
        "Ok(())",
        "Err(Repeated)",
        "Err(Open)",
        "Err(Closed)",
        "Err(Settings)",
        "Err(Full)",
        "Err(Locked)",
        "Err(Password)",
        "Err(Banned)",
        "Err(Member)",
        "Err(NotMember)",
        "Err(NodeLost)",
        "Err(NotOwner)",
        "Err(NoSuch)",
        "Err(Conflict)",
        "Err(NotInteger)",
    ] {
        let count = outcomes.get(outcome).copied().unwrap_or(0);
        assert!(count > 10, "{outcome} came {count} times: {outcomes:?}");
    }
}
