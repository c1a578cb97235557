//! The matcher against the best that could have been done, on pools small enough to try everything.

use std::time::Duration;

use anyhow::ensure;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_match::{Body, Entry, Event, Name, Player, Pool, Rules, Ticket, TicketId, Time, Value};

/// How far the matcher came on pools of one kind.
pub(super) struct Regret {
    pub(super) what: &'static str,
    /// What part of the best possible total it reached, pool by pool.
    pub(super) shares: Vec<f64>,
    /// How long a ticket waited on the mean that found a match.
    pub(super) waited: Duration,
}

/// What part of the best possible total the matcher reaches for each kind of pool.
pub(super) fn regrets(pools: u64) -> anyhow::Result<Vec<Regret>> {
    KINDS.iter().map(|kind| regret(kind, pools)).collect()
}

fn regret(kind: &Small, pools: u64) -> anyhow::Result<Regret> {
    let size = kind.size;
    let plain =
        format!("name = \"small\"\nfill = 0\nplayers = {{ min = {size}, max = {size} }}\n{RULES}");
    let rules = Rules::parse(&format!("{}\n{plain}", kind.settle))?;
    let plain = Rules::parse(&plain)?;
    let mut shares = Vec::new();
    let mut waits = Waits::default();
    for seed in 0..pools {
        let tickets = small(kind.tickets, seed)?;
        let best = optimum(&plain, &tickets);
        let reached = online(&rules, &tickets, kind.gap, &mut waits);
        ensure!(
            reached <= best + 1e-6,
            "seed {seed}: {reached} is more than the best, {best}"
        );
        if best > 0.0 {
            shares.push(reached / best);
        }
    }
    Ok(Regret {
        what: kind.what,
        shares,
        waited: waits.sum / waits.count.max(1),
    })
}

/// What kind of pool.
struct Small {
    what: &'static str,
    /// How many users a match has.
    size: u32,
    tickets: usize,
    /// How long after each other they come.
    gap: Duration,
    /// What is said of how long a match waits for a better one.
    settle: &'static str,
}

const KINDS: &[Small] = &[
    Small {
        what: "pairs, all there at once",
        size: 2,
        tickets: 12,
        gap: Duration::ZERO,
        settle: "",
    },
    Small {
        what: "pairs, one ticket a second",
        size: 2,
        tickets: 12,
        gap: Duration::from_secs(1),
        settle: "",
    },
    Small {
        what: "pairs, one ticket a second, settle = \"10s\"",
        size: 2,
        tickets: 12,
        gap: Duration::from_secs(1),
        settle: "settle = \"10s\"",
    },
    Small {
        what: "fours, all there at once",
        size: 4,
        tickets: 10,
        gap: Duration::ZERO,
        settle: "",
    },
    Small {
        what: "fours, one ticket a second",
        size: 4,
        tickets: 10,
        gap: Duration::from_secs(1),
        settle: "",
    },
    Small {
        what: "fours, one ticket a second, settle = \"10s\"",
        size: 4,
        tickets: 10,
        gap: Duration::from_secs(1),
        settle: "settle = \"10s\"",
    },
];

/// How long those waited who found a match.
#[derive(Default)]
struct Waits {
    sum: Duration,
    count: u32,
}

const RULES: &str = r#"
rules = [
    { kind = "equal", attribute = "mode" },
    { kind = "distance", attribute = "skill", max = 300 },
    { kind = "latency", attribute = "ping", regions = ["eu", "us"], max = 150 },
]
"#;

/// The total quality, by users, of what the matcher does while tickets come.
fn online(rules: &Rules, tickets: &[Ticket], gap: Duration, waits: &mut Waits) -> f64 {
    let mut pool = Pool::new(rules.clone());
    let mut now = Time::from_millis(1_000_000);
    let mut total = 0.0;
    for ticket in tickets {
        now = now.after(gap);
        let body = Body::Submitted(ticket.clone());
        let _ = pool.apply(&Entry { time: now, body });
        if !gap.is_zero() {
            total += step(&mut pool, now, waits);
        }
    }
    let last = now.after(rules.settle + 4 * rules.tick);
    while now < last {
        now = now.after(rules.tick);
        total += step(&mut pool, now, waits);
    }
    total
}

fn step(pool: &mut Pool, now: Time, waits: &mut Waits) -> f64 {
    let matches = pool.propose(now, u64::MAX).matches;
    for party in matches.iter().flat_map(|formed| formed.parties()) {
        if let Some(standing) = pool.standing(&party.ticket) {
            waits.sum += now.since(standing.since);
            waits.count += 1;
        }
    }
    let body = Body::Claimed(matches);
    let applied = pool.apply(&Entry { time: now, body });
    let worth = applied.events.iter().map(|event| {
        if let Event::Matched(formed) = event {
            return f64::from(formed.quality) * formed.users().count() as f64;
        }
        0.0
    });
    worth.sum()
}

/// The largest total of any way to part the tickets into matches.
fn optimum(rules: &Rules, tickets: &[Ticket]) -> f64 {
    let size = rules.shape.players_max();
    let sets = 1_usize << tickets.len();
    // What a set is worth as one match.
    let worth = |set: usize| {
        let of: Vec<_> = (0..tickets.len()).filter(|at| set & 1 << at != 0).collect();
        let members: Vec<_> = of.iter().map(|at| tickets[*at].clone()).collect();
        online(rules, &members, Duration::ZERO, &mut Waits::default())
    };
    let matches: Vec<_> = (0..sets)
        .filter(|set| set.count_ones() == size)
        .map(|set| (set, worth(set)))
        .filter(|(_, worth)| *worth > 0.0)
        .collect();
    let mut best = vec![0.0_f64; sets];
    for set in 1..sets {
        // The first ticket of the set stays alone, or is in one of the matches.
        let first = 1 << set.trailing_zeros();
        best[set] = best[set & !first];
        for (other, worth) in &matches {
            if other & first != 0 && other & !set == 0 {
                best[set] = best[set].max(worth + best[set & !other]);
            }
        }
    }
    best[sets - 1]
}

fn small(count: usize, seed: u64) -> anyhow::Result<Vec<Ticket>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|number| {
            let mode = ["a", "b"][random.random_range(0..2)];
            let ping = |random: &mut ChaCha8Rng| random.random_range(10.0..200.0);
            let pings = [
                (Name::parse("eu")?, ping(&mut random)),
                (Name::parse("us")?, ping(&mut random)),
            ];
            let player = Player::new(format!("user-{number}").parse()?)
                .with(Name::parse("mode")?, Value::Text(mode.to_owned()))
                .with(
                    Name::parse("skill")?,
                    Value::Number(random.random_range(0.0..1000.0)),
                )
                .with(Name::parse("ping")?, Value::Map(pings.into()));
            let mut id = [0; 16];
            id[0] = number as u8;
            Ok(Ticket::new(TicketId(id), vec![player]))
        })
        .collect()
}
