use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_room::{Body, Entry, LeftReason, Membership, OperationId, Room, SessionId};
use tombolo_wire::{PublicKeys, UserId};

#[test]
fn the_same_log_gives_the_same_room_byte_for_byte() {
    for seed in 0..50 {
        let log = entries(seed, 400);
        let mut first = Room::new();
        let mut second = Room::new();
        let mut legal = 0;
        for (at, entry) in log.iter().enumerate() {
            let appended = entry.encode();
            let results = (
                first.apply(entry),
                second.apply(&Entry::decode(&appended).unwrap()),
            );
            assert_eq!(results.0, results.1, "seed {seed}, entry {at}");
            legal += usize::from(results.0.is_ok());
            if at % 10 == 0 {
                assert_eq!(
                    first.snapshot(),
                    second.snapshot(),
                    "seed {seed}, entry {at}"
                );
            }
        }
        assert!(legal > 40, "seed {seed}: the log is worth applying");
    }
}

#[test]
fn a_room_that_was_restored_anywhere_goes_on_alike() {
    for seed in 0..50 {
        let log = entries(seed, 200);
        let mut whole = Room::new();
        let mut restored = Room::new();
        for (at, entry) in log.iter().enumerate() {
            if at % 10 == 0 {
                restored = Room::restore(&restored.snapshot()).unwrap();
                assert_eq!(restored, whole, "seed {seed}, entry {at}");
            }
            assert_eq!(
                whole.apply(entry),
                restored.apply(entry),
                "seed {seed}, entry {at}"
            );
        }
    }
}

#[test]
fn an_illegal_entry_changes_no_member() {
    for seed in 0..50 {
        let mut room = Room::new();
        for entry in entries(seed, 300) {
            let before: Vec<_> = room
                .members()
                .map(|(a, b)| (a.clone(), b.clone()))
                .collect();
            if room.apply(&entry).is_err() {
                let after: Vec<_> = room
                    .members()
                    .map(|(a, b)| (a.clone(), b.clone()))
                    .collect();
                assert_eq!(before, after, "seed {seed}");
            }
            assert!(
                room.members().len() <= room.members_max() as usize,
                "seed {seed}"
            );
            assert_eq!(room.is_open(), room.members().len() > 0, "seed {seed}");
        }
    }
}

/// A log in which much is legal and much is not.
pub(crate) fn entries(seed: u64, count: u64) -> Vec<Entry> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|number| {
            let number = if random.random_bool(0.05) {
                number.saturating_sub(1)
            } else {
                number
            };
            random_entry(&mut random, number)
        })
        .collect()
}

pub(crate) fn random_entry(random: &mut ChaCha8Rng, number: u64) -> Entry {
    let number_of_user = random.random_range(0..6_u8);
    let user = user(&format!("user-{number_of_user}"));
    let membership = membership(2 * number_of_user + random.random_range(0..2));
    let body = match random.random_range(0..10) {
        0 => Body::Created {
            members_max: random.random_range(0..6),
            user,
            membership,
        },
        1..6 => Body::Joined { user, membership },
        _ => {
            let reasons = [
                LeftReason::Left,
                LeftReason::Disconnected,
                LeftReason::Replaced,
            ];
            let reason = reasons[random.random_range(0..3)];
            Body::Left {
                user,
                session: membership.session,
                reason,
            }
        }
    };
    entry(number, body)
}

pub(crate) fn entry(operation: u64, body: Body) -> Entry {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&operation.to_be_bytes());
    Entry {
        operation: OperationId(id),
        body,
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn membership(session: u8) -> Membership {
    Membership {
        session: SessionId([session; 16]),
        keys: PublicKeys {
            identity: [session; 32],
            seal: [session ^ 0xff; 32],
        },
        node: "node-1".parse().unwrap(),
    }
}
