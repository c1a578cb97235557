//! The log of a pool of tickets: what is an entry is one again, and whatever entries and snapshots say,
//! the pool goes on.

use std::time::Duration;

use tombolo_match::{
    Answer, Backfill, BackfillId, Body, Device, Entry, MatchId, Name, OperationId, Player, Pool,
    Reach, Rules, SessionId, Ticket, TicketId, Time, Value, Venue,
};
use tombolo_wire::{NodeId, UserId};

/// Of the pool that the entries are for.
const RULES: &str = r#"
name = "ranked"
ready = "10s"
[[teams]]
name = "side"
quantity = 2
min = 1
max = 2
grow = [{ after = "20s", value = 3 }]
roles = [{ name = "healer" }, { name = "fighter" }]
[[rules]]
kind = "equal"
attribute = "mode"
relax = { off = "30s" }
[[rules]]
kind = "distance"
attribute = "skill"
max = 100
relax = { every = "5s", by = 50, limit = 400 }
[[rules]]
kind = "block"
relax = { off = "40s" }
"#;

/// Reads `data` as entries, each with two bytes of length before it, and as a snapshot.
pub fn run(data: &[u8]) {
    let rules = rules();
    let mut pool = Pool::new(rules.clone());
    let mut rest = data;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (entry, after) = after.split_at(length);
        rest = after;
        if let Ok((operation, entry)) = Entry::decode(entry) {
            let again = Entry::decode(&entry.encode(operation));
            assert_eq!(again, Ok((operation, entry.clone())));
            let _ = pool.apply(&entry);
        }
    }
    let kept = pool.snapshot();
    let restored = Pool::restore(rules.clone(), &kept).expect("was just kept");
    assert_eq!(restored.snapshot(), kept);
    go_on(pool);
    if let Ok(pool) = Pool::restore(rules, data) {
        go_on(pool);
    }
}

/// Entries of every kind, and what came of them.
#[must_use]
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut pool = Pool::new(rules());
    let mut whole = Vec::new();
    let mut seeds = Vec::new();
    for (at, body) in bodies().into_iter().enumerate() {
        let time = Time::from_millis(1_000 * (1 + at as u64));
        let entry = Entry { time, body };
        let _ = pool.apply(&entry);
        let bytes = entry.encode(OperationId([at as u8; 16]));
        let length = u16::try_from(bytes.len()).expect("seeds are small");
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        whole.extend_from_slice(&framed);
        seeds.push((format!("entry-{at:02}"), framed));
    }
    seeds.push(("log".to_owned(), whole));
    seeds.push(("snapshot".to_owned(), pool.snapshot().to_vec()));
    seeds
}

fn bodies() -> Vec<Body> {
    let mut party = ticket(1, &["alice", "bob"]);
    party.grace = Duration::from_secs(5);
    let (id, user) = (party.id, user("alice"));
    let device = Some(device());
    let formed = {
        let mut pool = Pool::new(rules());
        for ticket in [party.clone(), ticket(2, &["carol"])] {
            let (time, body) = (Time::from_millis(1), Body::Submitted(ticket));
            let _ = pool.apply(&Entry { time, body });
        }
        pool.propose(Time::from_millis(9_000), 1_000).matches
    };
    let side = Name::parse("side-1").expect("is a name");
    vec![
        Body::Submitted(party),
        Body::Submitted(ticket(2, &["carol"])),
        Body::Dropped {
            ticket: id,
            user: user.clone(),
        },
        Body::Returned {
            ticket: id,
            user: user.clone(),
            device,
        },
        Body::Claimed(formed),
        Body::Answered {
            id: MatchId(1),
            user,
            answer: Answer::Accept,
        },
        Body::Backfill(Backfill {
            id: BackfillId([3; 16]),
            after: 0,
            sides: vec![(side, vec![ticket(4, &["dave"])])],
            venue: Some(Venue::default()),
            lease: Duration::from_secs(30),
        }),
        Body::Renewed {
            id: BackfillId([3; 16]),
            lease: Duration::from_secs(60),
        },
        Body::Submitted(ticket(5, &["erin"])),
        Body::Changed {
            ticket: TicketId([5; 16]),
            players: ticket(5, &["erin", "frank"]).players,
        },
        Body::NodeLost {
            node: NodeId::parse("n1").expect("is a name"),
            incarnation: 1,
        },
        Body::Cancelled(TicketId([5; 16])),
        Body::Closed(BackfillId([3; 16])),
        Body::Seated(vec![MatchId(1), MatchId(2)]),
        Body::Unseated(MatchId(1)),
        Body::Reached {
            ticket: TicketId([2; 16]),
            user: self::user("carol"),
            reach: Reach::Open,
        },
        Body::Ticked,
    ]
}

fn rules() -> Rules {
    Rules::parse(RULES).expect("are rules")
}

fn go_on(mut pool: Pool) {
    let now = pool.clock().after(Duration::from_secs(60));
    let step = pool.propose(now, 1_000);
    for body in [Body::Claimed(step.matches), Body::Ticked] {
        let _ = pool.apply(&Entry { time: now, body });
    }
    let waiting: Vec<_> = pool.waiting().map(|ticket| ticket.id).collect();
    for ticket in waiting {
        let _ = pool.explain(&ticket, now);
        let body = Body::Cancelled(ticket);
        let _ = pool.apply(&Entry { time: now, body });
    }
    let _ = pool.poll_timeout();
    let _ = pool.poll_propose();
}

fn ticket(number: u8, users: &[&str]) -> Ticket {
    let players = users.iter().map(|name| {
        let mut player = Player::new(user(name))
            .with(name_of("skill"), Value::Number(f64::from(number) * 10.0))
            .with(name_of("mode"), Value::Text("duel".to_owned()));
        player.device = Some(device());
        player
    });
    Ticket::new(TicketId([number; 16]), players.collect())
}

fn device() -> Device {
    Device {
        session: SessionId([8; 16]),
        node: NodeId::parse("n1").expect("is a name"),
        incarnation: 7,
    }
}

fn name_of(name: &str) -> Name {
    Name::parse(name).expect("is a name")
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("is a name")
}
