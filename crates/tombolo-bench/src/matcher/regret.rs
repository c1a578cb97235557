//! The matcher against the best that could have been done, on pools small enough to try everything.

use std::time::Duration;

use anyhow::ensure;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_match::{Body, Entry, Event, Name, Player, Pool, Rules, Ticket, TicketId, Time, Value};

/// What part of the best possible total the matcher reaches, pool by pool, for each kind of pool.
pub(super) fn shares(pools: u64) -> anyhow::Result<Vec<(&'static str, Vec<f64>)>> {
    let mut all = Vec::new();
    for (what, shape, tickets, gap) in KINDS {
        let rules = format!("name = \"small\"\nfill = 0\n{shape}\n{RULES}");
        let rules = Rules::parse(&rules)?;
        let mut shares = Vec::new();
        for seed in 0..pools {
            let tickets = small(*tickets, seed)?;
            let best = optimum(&rules, &tickets);
            let reached = online(&rules, &tickets, *gap);
            ensure!(
                reached <= best + 1e-6,
                "seed {seed}: {reached} is more than the best, {best}"
            );
            if best > 0.0 {
                shares.push(reached / best);
            }
        }
        all.push((*what, shares));
    }
    Ok(all)
}

/// What kind of pool, its shape, how many tickets, and how long after each other they come.
const KINDS: &[(&str, &str, usize, Duration)] = &[
    (
        "pairs, all there at once",
        "players = { min = 2, max = 2 }",
        12,
        Duration::ZERO,
    ),
    (
        "pairs, one ticket a second",
        "players = { min = 2, max = 2 }",
        12,
        Duration::from_secs(1),
    ),
    (
        "fours, all there at once",
        "players = { min = 4, max = 4 }",
        10,
        Duration::ZERO,
    ),
    (
        "fours, one ticket a second",
        "players = { min = 4, max = 4 }",
        10,
        Duration::from_secs(1),
    ),
];

const RULES: &str = r#"
rules = [
    { kind = "equal", attribute = "mode" },
    { kind = "distance", attribute = "skill", max = 300 },
    { kind = "latency", attribute = "ping", regions = ["eu", "us"], max = 150 },
]
"#;

/// The total quality, by users, of what the matcher does while tickets come.
fn online(rules: &Rules, tickets: &[Ticket], gap: Duration) -> f64 {
    let mut pool = Pool::new(rules.clone());
    let mut now = Time::from_millis(1_000_000);
    let mut total = 0.0;
    for ticket in tickets {
        now = now.after(gap);
        let body = Body::Submitted(ticket.clone());
        let _ = pool.apply(&Entry { time: now, body });
        if !gap.is_zero() {
            total += step(&mut pool, now);
        }
    }
    for _ in 0..4 {
        now = now.after(Duration::from_secs(1));
        total += step(&mut pool, now);
    }
    total
}

fn step(pool: &mut Pool, now: Time) -> f64 {
    let matches = pool.propose(now, u64::MAX).matches;
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
        online(rules, &members, Duration::ZERO)
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
