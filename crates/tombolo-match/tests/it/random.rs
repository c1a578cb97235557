//! Random pools against the independent checker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_match::{
    Backfill, BackfillId, Body, Event, Player, Reach, Ticket, TicketId, Value, Venue,
};

use crate::checker::{Known, QUERIES};
use crate::plan::{Balance, Direct, Plan, REGIONS};
use crate::world::{World, asking, id, list, map, name, player, text};

/// A pool with random rules to which random tickets come.
pub(crate) struct Dice(ChaCha8Rng);

/// A match that runs, and who plays in it.
struct Runs {
    sides: Vec<Vec<Known>>,
    venue: Option<Venue>,
}

#[test]
fn no_match_breaks_a_rule_and_no_ticket_is_in_two() {
    let mut formed = 0;
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let plan = dice.plan();
        formed += run(seed, &plan, &mut dice);
    }
    assert!(
        formed > 1000,
        "{formed} matches are too few to say anything"
    );
}

/// Lets tickets come for a while; returns how many matches there were.
fn run(seed: u64, plan: &Plan, dice: &mut Dice) -> usize {
    let mut world = World::new(&plan.document());
    let start = world.now;
    let mut known: BTreeMap<TicketId, Known> = BTreeMap::new();
    let mut running: Option<Runs> = None;
    let mut formed = 0;
    let mut next = 0;
    for second in 0..12 {
        world.wait(1);
        assert_eq!(world.now.since(start).as_secs(), second + 1);
        let now = second + 1;
        for _ in 0..dice.below(8) {
            next += 1;
            let ticket = dice.ticket(plan, next);
            let events = world.submit(ticket.clone());
            if events.is_ok() {
                known.insert(ticket.id, Known { ticket, since: now });
            }
        }
        if dice.below(4) == 0
            && let Some(id) = known.keys().next().copied()
        {
            world.apply(Body::Cancelled(id)).unwrap();
            known.remove(&id);
        }
        // Which roles those play who are in a running match is not known.
        if running.is_none() && plan.healers.is_none() && dice.below(4) == 0 {
            running = begin_running(&mut world, plan, dice, next, now);
        }
        for event in world.events() {
            let is_over = matches!(event, Event::BackfillEnded { .. });
            if is_over || matches!(event, Event::BackfillOpened { .. }) {
                running = running.filter(|_| !is_over);
                continue;
            }
            let Event::Matched(matched) = event else {
                panic!("seed {seed}: {event:?}");
            };
            let joins = running.as_mut().filter(|_| matched.backfill.is_some());
            let before = joins.as_ref().map_or(&[][..], |running| &running.sides);
            let venue = joins.as_ref().and_then(|running| running.venue.as_ref());
            let wrong = plan.wrong(&known, before, venue, &matched, now);
            assert!(
                wrong.is_empty(),
                "seed {seed}: {wrong:?}\n{plan:?}\n{matched:?}"
            );
            let joined: Vec<Vec<Known>> = matched
                .sides
                .iter()
                .map(|side| {
                    let parties = side.parties.iter();
                    let left = parties.filter_map(|party| known.remove(&party.ticket));
                    // In the running match they wait for others anew.
                    left.map(|left| Known { since: now, ..left }).collect()
                })
                .collect();
            if let Some(running) = joins {
                for (side, joined) in running.sides.iter_mut().zip(joined) {
                    side.extend(joined);
                }
            }
            formed += 1;
        }
        assert_eq!(world.pool.ticket_count(), known.len(), "seed {seed}");
        nobody_is_left(seed, plan, &known, now);
    }
    formed
}

/// A match of one user that runs, and asks for more; `None` when the rules have no place for the user.
fn begin_running(
    world: &mut World,
    plan: &Plan,
    dice: &mut Dice,
    number: u128,
    now: u64,
) -> Option<Runs> {
    let mut ticket = dice.ticket(plan, 10_000 + number);
    ticket.players.truncate(1);
    let venue = dice.venue(plan, &ticket.players);
    let teams = &world.pool.rules().shape.teams;
    let (name, count) = (teams[0].name.clone(), teams.len());
    let ask = Body::Backfill(Backfill {
        id: BackfillId([9; 16]),
        after: 0,
        sides: vec![(name, vec![ticket.clone()])],
        venue: venue.clone(),
        lease: Duration::from_secs(60),
    });
    world.apply(ask).ok()?;
    let mut sides = vec![Vec::new(); count];
    sides[0].push(Known { ticket, since: now });
    Some(Runs { sides, venue })
}

/// No tickets have been left of which all would have taken all, however many they are, and which were here a second
/// before as well.
fn nobody_is_left(seed: u64, plan: &Plan, known: &BTreeMap<TicketId, Known>, now: u64) {
    // Which parties go into which team with which roles, and how even that is, is not tried out here.
    if plan.settle.is_some()
        || plan.healers.is_some()
        || plan.balance.is_some()
        || plan.direct.is_some_and(|direct| direct.is_by_host)
    {
        return;
    }
    let then = now - 1;
    let all = known.values().filter(|known| known.since <= then);
    let all: Vec<_> = all.take(ALL_MAX).collect();
    for chosen in 1_u32..1 << all.len() {
        let group = all.iter().enumerate();
        let group = group.filter(|(at, _)| chosen & 1 << at != 0);
        let group: Vec<&Known> = group.map(|(_, known)| *known).collect();
        if plan.could_begin(&group, then) && plan.discord(&group, then).is_empty() {
            let ids: Vec<_> = group.iter().map(|known| known.ticket.id).collect();
            panic!("seed {seed}: {ids:?} wait at {now}\n{plan:?}\n{group:?}");
        }
    }
}

/// Of how many tickets all groups are tried.
const ALL_MAX: usize = 8;

#[test]
fn the_same_log_gives_the_same_matches() {
    for seed in 0..40 {
        let run = || {
            let mut dice = Dice::new(seed);
            let plan = dice.plan();
            let mut world = World::new(&plan.document());
            let mut all = Vec::new();
            for next in 1..120 {
                if dice.below(10) == 0 {
                    world.wait(1);
                }
                let _ = world.submit(dice.ticket(&plan, next));
                let step = world.pool.propose(world.now, 1 + dice.below(40));
                all.extend(world.apply(Body::Claimed(step.matches)).unwrap());
            }
            all
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn a_small_budget_comes_to_the_same_end() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut plan = dice.plan();
        plan.fill = 0;
        let mut world = World::new(&plan.document());
        for next in 1..60 {
            let _ = world.submit(dice.ticket(&plan, next));
        }
        let mut steps = 0;
        loop {
            let step = world.pool.propose(world.now, 1);
            steps += 1;
            assert!(steps < 10_000, "seed {seed}: it does not end");
            let is_complete = step.is_complete;
            world.apply(Body::Claimed(step.matches)).unwrap();
            if is_complete {
                break;
            }
        }
        world.wait(1);
        let before: BTreeSet<_> = world.waiting().into_iter().collect();
        world.step();
        let after: BTreeSet<_> = world.waiting().into_iter().collect();
        if plan.teams == [(2, 2)]
            && plan.distance.is_none()
            && plan.equal.is_none_or(|off| off.is_none())
            && plan.relaxes_nothing_else()
        {
            assert_eq!(before, after, "seed {seed}: a large budget finds no more");
        }
    }
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(crate) fn plan(&mut self) -> Plan {
        let shapes: [&[(u32, u32)]; 6] = [
            &[(2, 2)],
            &[(1, 1), (1, 1)],
            &[(2, 4)],
            &[(2, 2), (2, 2)],
            &[(1, 3), (2, 4)],
            &[(4, 10)],
        ];
        let teams = shapes[self.below(6) as usize].to_vec();
        let least = teams.iter().map(|(min, _)| *min).min().unwrap_or(1);
        let mut plan = Plan {
            teams,
            equal: self.maybe(|dice| dice.maybe(|dice| 1 + dice.below(6))),
            fewer: Vec::new(),
            larger: None,
            multiple: None,
            overlap: self.rarely(|dice| {
                let least = 1 + dice.below(2) as usize;
                (least, dice.maybe(|dice| 1 + dice.below(6)))
            }),
            range: self.rarely(|dice| {
                let low = dice.below(40) as f64;
                (low, low + 40.0, dice.below(2) as f64 * 4.0)
            }),
            distance: self.maybe(|dice| (dice.below(40) as f64, dice.below(2) as f64 * 5.0, 60.0)),
            latency: self.rarely(|dice| (80.0, dice.maybe(|dice| (1 + dice.below(6), 120.0)))),
            block: (self.below(3) == 0).then(|| self.maybe(|dice| 1 + dice.below(6))),
            balance: self.rarely(|dice| Balance {
                max: 5.0 + dice.below(30) as f64,
                is_sum: dice.below(2) == 0,
                off: dice.maybe(|dice| 1 + dice.below(8)),
            }),
            direct: self.rarely(|dice| Direct {
                is_by_host: dice.below(2) == 0,
                off: dice.maybe(|dice| 1 + dice.below(8)),
            }),
            party: [None, None, Some("min"), Some("max")][self.below(4) as usize],
            has_any_map: self.below(3) == 0,
            healers: self
                .rarely(|dice| 1 + dice.below(2) as u32)
                .map(|healers| (healers.min(least), self.maybe(|dice| 1 + dice.below(6)))),
            is_oldest: self.below(4) == 0,
            fill: self.below(3),
            settle: self.rarely(|dice| (1 + dice.below(5), 1 + dice.below(1000) as u16)),
        };
        let (min, max) = plan.teams[0];
        let least = plan.healers.map_or(1, |(healers, _)| healers);
        if min > least && self.below(3) == 0 {
            plan.fewer = vec![(1 + self.below(6), min - 1)];
        }
        if plan.teams.iter().map(|(_, max)| max).sum::<u32>() >= 4 && self.below(5) == 0 {
            plan.multiple = Some((2, self.maybe(|dice| 1 + dice.below(6))));
        }
        if self.below(5) == 0 {
            plan.larger = Some((1 + self.below(6), max + 1 + self.below(2) as u32));
        }
        plan
    }

    pub(crate) fn ticket(&mut self, plan: &Plan, number: u128) -> Ticket {
        let largest = plan.teams.iter().map(|(_, max)| *max).max().unwrap_or(1);
        let largest = plan.larger.map_or(largest, |(_, most)| most.max(largest));
        let size = if self.below(3) == 0 {
            1 + self.below(largest.into())
        } else {
            1
        };
        let players = (0..size).map(|at| {
            let mut player = player(&format!("u{number}.{at}"))
                .with(name("mode"), text(["a", "b", "c"][self.below(3) as usize]))
                .with(name("maps"), {
                    let maps: Vec<_> = ["x", "y", "z"]
                        .into_iter()
                        .filter(|_| self.below(3) > 0)
                        .collect();
                    list(&maps)
                })
                .with(name("ping"), {
                    let pings: Vec<_> = REGIONS
                        .into_iter()
                        .filter_map(|region| self.often(|dice| (region, dice.below(160) as f64)))
                        .collect();
                    map(&pings)
                });
            // Who says nothing has the default.
            if self.below(8) > 0 {
                let skill = Value::Number(self.below(100) as f64);
                player.attributes.insert(name("skill"), skill);
            }
            player.reach = Reach::ALL[self.below(6) as usize];
            if self.below(4) == 0 && number > 1 {
                let blocked = 1 + u128::from(self.below(number as u64 - 1));
                player
                    .blocks
                    .push(crate::world::user(&format!("u{blocked}.0")));
            }
            if plan.healers.is_some() {
                let roles = [&["healer"][..], &["fighter"], &["fighter", "healer"], &[]];
                let roles = roles[self.below(4) as usize];
                player.roles = roles.iter().map(|role| name(role)).collect();
            }
            player
        });
        let players = players.collect();
        let mut ticket = Ticket::new(id(number), players);
        ticket.priority = self.below(2) as i8;
        match self.below(16) {
            query @ 0..6 => asking(ticket, QUERIES[query as usize]),
            _ => ticket,
        }
    }

    /// Where a match of those is played, if that is known.
    pub(crate) fn venue(&mut self, plan: &Plan, players: &[Player]) -> Option<Venue> {
        self.maybe(|dice| Venue {
            region: plan
                .latency
                .and_then(|_| dice.often(|dice| name(REGIONS[dice.below(3) as usize]))),
            host: players.first().map(|player| player.user.clone()),
        })
    }

    fn maybe<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| some(self))
    }

    fn rarely<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(5) == 0).then(|| some(self))
    }

    fn often<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(5) > 0).then(|| some(self))
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.random_range(0..end)
    }
}
