use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tombolo_room::{ENTRY_BYTES_MAX, Entry, EntryError, Room};

use crate::random::entries;

#[test]
fn entries_come_back_and_no_truncation_is_taken_for_the_whole() {
    for seed in 0..30 {
        for entry in entries(seed, 60) {
            let bytes = entry.encode();
            assert!(bytes.len() <= ENTRY_BYTES_MAX);
            assert_eq!(Entry::decode(&bytes), Ok(entry.clone()), "seed {seed}");
            for end in 0..bytes.len() {
                let cut = Entry::decode(&bytes[..end]);
                assert_ne!(cut, Ok(entry.clone()), "seed {seed}, cut at {end}");
            }
        }
    }
}

#[test]
fn entries_of_other_versions_and_long_ones_are_refused() {
    let mut bytes = entries(0, 1)[0].encode().to_vec();
    assert_eq!(bytes[..2], [0x08, 1], "field 1 is the version");
    bytes[1] = 2;
    let version = EntryError::Version { version: 2 };
    assert_eq!(Entry::decode(&bytes), Err(version));
    let long = [0; ENTRY_BYTES_MAX + 1];
    assert_eq!(Entry::decode(&long), Err(EntryError::TooLong));
}

#[test]
fn garbage_is_refused_and_never_panics() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let log = entries(7, 200);
    let whole = log.iter().fold(Room::new(), |mut room, entry| {
        let _ = room.apply(entry);
        room
    });
    let snapshot = whole.snapshot();
    for _ in 0..3_000 {
        let mut garbage = vec![0; random.random_range(0..100)];
        random.fill_bytes(&mut garbage);
        assert!(Entry::decode(&garbage).is_err());

        let mut changed = snapshot.to_vec();
        let at = random.random_range(0..changed.len());
        changed[at] ^= 1 << random.random_range(0..8);
        if let Ok(mut room) = Room::restore(&changed) {
            for entry in &log[..20] {
                let _ = room.apply(entry);
            }
        }
        let _ = Room::restore(&snapshot[..random.random_range(0..snapshot.len())]);
    }
}
