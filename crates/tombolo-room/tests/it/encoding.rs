use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tombolo_room::{ENTRY_BYTES_MAX, Entry, EntryError, Room};

use crate::sameness::{entries, random_entry};

#[test]
fn entries_come_back_and_their_truncations_are_refused() {
    for seed in 0..50 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for number in 0..20 {
            let entry = random_entry(&mut random, number);
            let bytes = entry.encode();
            assert!(bytes.len() <= ENTRY_BYTES_MAX);
            assert_eq!(Entry::decode(&bytes), Ok(entry), "seed {seed}");
            for end in 0..bytes.len() {
                assert!(
                    Entry::decode(&bytes[..end]).is_err(),
                    "seed {seed}, cut at {end}"
                );
            }
        }
    }
}

#[test]
fn entries_of_other_versions_and_long_ones_are_refused() {
    let mut bytes = random_entry(&mut ChaCha8Rng::seed_from_u64(0), 0)
        .encode()
        .to_vec();
    assert_eq!(bytes[..2], [0x08, 1], "field 1 is the version");
    bytes[1] = 2;
    assert_eq!(
        Entry::decode(&bytes),
        Err(EntryError::Version { version: 2 })
    );
    assert_eq!(
        Entry::decode(&[0; ENTRY_BYTES_MAX + 1]),
        Err(EntryError::TooLong)
    );
}

#[test]
fn garbage_is_refused_and_never_panics() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let whole = entries(7, 100).iter().fold(Room::new(), |mut room, entry| {
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
        let _ = Room::restore(&changed);
        let _ = Room::restore(&snapshot[..random.random_range(0..snapshot.len())]);
    }
}
