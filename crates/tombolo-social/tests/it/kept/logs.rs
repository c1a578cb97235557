//! What is kept: logs in which everything happens that can, and much that cannot.

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_social::group::Settings;
use tombolo_social::roster::{Actor, MEMBERS_MAX, Member, Seed};
use tombolo_social::{MessageId, OperationId, Time, board, group, inbox, roster, segment};
use tombolo_wire::UserId;

use crate::inbox::user;

/// One sender reaches what a sender may have there unread; then nobody reads for a month.
pub(super) fn inbox() -> Vec<Bytes> {
    use inbox::Body;

    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut now = NOW;
    let body = |number: u64, random: &mut ChaCha8Rng| match number {
        0 => sent("bob", 0, None),
        1 => Body::Opened,
        // So many that the sender has no more place.
        2..110 => sent("bob", number, None),
        _ => match random.random_range(0..20) {
            0..9 => sent(pick(random, &["bob", "carol", "dave"]), number, None),
            9..11 => sent("bob", random.random_range(0..number), None),
            11..15 => sent("alice", number, Some(user("bob"))),
            15..17 => Body::Read(random.random_range(0..number)),
            17 => Body::Blocked(user(pick(random, &["carol", "dave"]))),
            _ => Body::Unblocked(user(pick(random, &["carol", "dave"]))),
        },
    };
    let entry = |number: u64| {
        now += match number {
            200.. => DAY * 3 / 4,
            _ => random.random_range(0..60_000),
        };
        // Clocks are a little behind, and once one is far ahead.
        let ahead = if number == 131 { 400 * DAY } else { 0 };
        let time = now + ahead - random.random_range(0..1_000);
        let entry = inbox::Entry {
            operation: operation(number),
            time: Time::from_millis(time),
            body: body(number, &mut random),
        };
        entry.encode()
    };
    (0..260).map(entry).collect()
}

fn sent(from: &str, number: u64, to: Option<UserId>) -> inbox::Body {
    inbox::Body::Sent {
        from: user(from),
        id: message(number),
        payload: vec![7; (number % 5) as usize].into(),
        to,
    }
}

pub(super) fn board() -> Vec<Bytes> {
    let entry = |number: u64| {
        let entry = board::Entry {
            operation: operation(number),
            time: Time::from_millis(NOW + number),
            expires: Time::from_millis(NOW + 1_000 * (number % 7)),
            // Every fifth comes twice.
            id: message(number - number % 5 / 4),
            payload: vec![9; (number % 5) as usize].into(),
        };
        entry.encode()
    };
    (0..20).map(entry).collect()
}

/// More than it takes.
pub(super) fn segment() -> Vec<Bytes> {
    let entry = |number: u64| {
        let senders = [None, Some(user("bob")), Some(user("carol"))];
        let entry = segment::Entry {
            operation: operation(number),
            // Some clocks are behind.
            time: Time::from_millis(NOW + number - number % 7),
            from: senders[(number % 3) as usize].clone(),
            // Some come twice.
            id: message(if number % 20 == 13 {
                number - 3
            } else {
                number
            }),
            payload: vec![5; (number % 5) as usize].into(),
        };
        entry.encode()
    };
    (0..280).map(entry).collect()
}

pub(super) fn group() -> Vec<Bytes> {
    use group::Body;

    let created = |owner: &str| Body::Created {
        owner: user(owner),
        settings: Settings::default(),
    };
    let turned = |segment, bytes| Body::Turned {
        segment,
        bytes,
        kept_bytes_max: None,
    };
    let titled = Settings {
        title: "club".to_owned(),
        is_open: true,
        ..Settings::default()
    };
    let mut fewer = titled.clone();
    fewer.roles.pop();
    let bodies = [
        Body::Closed,
        created("alice"),
        created("bob"),
        turned(2, 0),
        turned(1, 100_000),
        turned(1, 9),
        Body::Configured(titled),
        Body::Configured(fewer),
        // So many bytes that the oldest are given up.
        turned(2, u64::MAX),
    ];
    let turns = (3..22).map(|segment| turned(segment, 4_000_000));
    let end = [Body::Closed, Body::Closed, created("bob"), turned(22, 0)];
    let bodies = bodies.into_iter().chain(turns).chain(end);
    let entries = bodies.zip(1..).map(|(body, number)| {
        let entry = group::Entry {
            operation: operation(number),
            time: Time::from_millis(NOW + number),
            body,
        };
        entry.encode()
    });
    entries.collect()
}

pub(super) fn roster() -> Vec<Bytes> {
    use roster::Body;

    let mut random = ChaCha8Rng::seed_from_u64(2);
    let names = ["alice", "amy", "bob", "carol", "dave", "eve", "mallory"];
    let entry = |number: u64| {
        let random = &mut random;
        let someone = user(pick(random, &names));
        let role = random.random_range(0..4);
        let body = match (number, random.random_range(0..16)) {
            (1, _) => Body::Seeded(seed()),
            (0, _) | (_, 0..5) => Body::Joined {
                user: someone,
                role,
            },
            (_, 5..8) => Body::RoleSet {
                user: someone,
                role,
            },
            (_, 8..10) => Body::Left(someone),
            (_, 10) => Body::Removed(someone),
            (_, 11) => Body::Banned(someone),
            (_, 12..14) => Body::Unbanned(someone),
            (_, 14) => Body::Seeded(Seed::default()),
            _ => Body::Split,
        };
        let by = random.random_range(0..4);
        let by = (by < 3).then(|| Actor {
            user: user(pick(random, &names)),
            role: by,
        });
        roster_entry(number, by, body)
    };
    (0..160).map(entry).collect()
}

fn seed() -> Seed {
    let since = Time::from_millis(NOW);
    let members = [("alice", 0), ("amy", 1), ("bob", 2), ("carol", 2)];
    Seed {
        members: members
            .map(|(name, role)| (user(name), Member { role, since }))
            .into(),
        banned: [user("mallory")].into(),
    }
}

/// One that is full, by names as short as they can be.
pub(super) fn split() -> Vec<Bytes> {
    use roster::Body;

    let mut full = seed();
    let names = (0..).map(|number| user(&format!("{number:x}")));
    full.banned
        .extend(names.take(MEMBERS_MAX - full.members.len() - full.banned.len()));
    let join = |name| Body::Joined {
        user: user(name),
        role: 2,
    };
    let bodies = [
        Body::Split,
        Body::Seeded(full),
        join("eve"),
        Body::Split,
        Body::Split,
        join("eve"),
    ];
    let entries = bodies.into_iter().zip(1..);
    let entries = entries.map(|(body, number)| roster_entry(number, None, body));
    entries.collect()
}

fn roster_entry(number: u64, by: Option<Actor>, body: roster::Body) -> Bytes {
    let entry = roster::Entry {
        operation: operation(number),
        time: Time::from_millis(NOW + number),
        by,
        body,
    };
    entry.encode()
}

fn pick<'a>(random: &mut ChaCha8Rng, names: &[&'a str]) -> &'a str {
    names[random.random_range(0..names.len())]
}

fn operation(number: u64) -> OperationId {
    OperationId(u128::from(number + 1).to_be_bytes())
}

fn message(number: u64) -> MessageId {
    MessageId(u128::from(number + 1).to_be_bytes())
}

const NOW: u64 = 1_000_000_000_000;
const DAY: u64 = 24 * 60 * 60 * 1000;
