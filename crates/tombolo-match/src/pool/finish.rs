//! What is decided when a group is complete: teams, roles, region, host, quality.

use tombolo_wire::UserId;

use super::group::{Group, View};
use super::seat::Key;
use super::sides::{self, Sides};
use crate::formed::{Formed, Party, Side};
use crate::rules::{Check, Measure, Team, Topology};
use crate::ticket::{Player, Reach};
use crate::word::{BackfillId, MatchId, Name};

/// How often two parties are exchanged between teams at most, in search of balance.
const EXCHANGES_MAX: usize = 256;

/// What a limit of nothing is measured by: costs must stay comparable.
const SCALE_MIN: f64 = 1e-9;

/// What is decided of a complete group.
pub(super) struct Verdict {
    sides: Sides,
    region: Option<Name>,
    host: Option<UserId>,
    /// From 0 to 1000.
    pub(super) quality: u16,
}

/// Decides what is left to decide; `None` when some rule does not hold of the whole.
pub(super) fn judge(
    view: View<'_>,
    min_of: &dyn Fn(&Team) -> u32,
    group: &Group,
) -> Option<Verdict> {
    let sides = balanced(view, min_of, group)?;
    let region = region(view, group);
    let devices = devices(view, group);
    let host = host(
        view,
        &devices,
        region.as_ref().map(|(rule, region, _)| (*rule, *region)),
    );
    let reached = host.map_or(0, |(_, reached)| reached);
    let others = devices.len().saturating_sub(1);
    for (rule, tally) in view.rules.rules.iter().zip(group.tallies()) {
        let is_required = tally.limit().is_some();
        if let Check::Connectivity {
            topology: Topology::Host,
            ..
        } = rule.check
            && is_required
            && reached < others
        {
            return None;
        }
    }
    let quality = quality(view, group, &sides, (reached, others), &devices);
    Some(Verdict {
        region: region.map(|(_, _, name)| name),
        host: host.map(|(host, _)| devices[host].1.user.clone()),
        sides,
        quality,
    })
}

impl Verdict {
    /// The match, with those parties that are new in it.
    pub(super) fn formed(
        self,
        view: View<'_>,
        backfill: Option<(BackfillId, u32)>,
        is_new: impl Fn(Key) -> bool,
    ) -> Formed {
        Formed {
            // It is numbered when the step ends.
            id: MatchId(0),
            backfill,
            sides: named(view, &self.sides, is_new),
            region: self.region,
            host: self.host,
            quality: self.quality,
            awaits_seats: true,
        }
    }
}

/// The teams with their parties, and the role of each user.
fn named(view: View<'_>, sides: &Sides, is_new: impl Fn(Key) -> bool) -> Vec<Side> {
    let teams = view.rules.shape.teams.iter().zip(sides.iter());
    let named = teams.map(|(team, side)| {
        let parts = sides::parts(team, view.roles, view.seats, &side.members, false);
        let mut parts = parts.unwrap_or_default().into_iter();
        let mut parties = Vec::new();
        for key in &side.members {
            let seat = &view.seats[*key];
            let users = seat.ticket.players.iter().map(|player| {
                let role = parts.next().map(|role| team.roles[role].name.clone());
                (player.user.clone(), role)
            });
            let party = Party {
                ticket: seat.ticket.id,
                revision: seat.revision,
                users: users.collect(),
            };
            if is_new(*key) {
                parties.push(party);
            }
        }
        Side {
            team: team.name.clone(),
            parties,
        }
    });
    named.collect()
}

/// The teams, so that they are as even as they must be; `None` when that cannot be had.
fn balanced(view: View<'_>, min_of: &dyn Fn(&Team) -> u32, group: &Group) -> Option<Sides> {
    let rules = view.rules.rules.iter().zip(group.tallies()).enumerate();
    let balances: Vec<_> = rules
        .filter_map(|(at, (rule, tally))| {
            let Check::Balance { measure, .. } = rule.check else {
                return None;
            };
            Some((at, measure, tally.limit()))
        })
        .collect();
    let mut sides = group.sides.clone();
    if balances.is_empty() || sides.iter().len() < 2 {
        return Some(sides);
    }
    // How far beyond their limits the rules are, and how uneven the teams are at all.
    let cost = |sides: &Sides| {
        let mut cost = (0.0, 0.0);
        for (at, measure, limit) in &balances {
            let gap = unevenness(view, sides, *at, *measure);
            let excess = (gap - limit.unwrap_or(f64::INFINITY)).max(0.0);
            let scale = view.rules.rules[*at].scale().max(SCALE_MIN);
            cost = (cost.0 + excess / scale, cost.1 + gap / scale);
        }
        cost
    };
    let mut best = cost(&sides);
    // Those who play already stay where they are.
    let exchanges = if sides.is_fixed() { 0 } else { EXCHANGES_MAX };
    for _ in 0..exchanges {
        let Some((better, cost)) = exchanged(view, min_of, &sides, best, &cost) else {
            break;
        };
        sides = better;
        best = cost;
    }
    (best.0 <= 0.0).then_some(sides)
}

/// The teams after the first exchange of two parties that makes them more even.
fn exchanged(
    view: View<'_>,
    min_of: &dyn Fn(&Team) -> u32,
    sides: &Sides,
    best: (f64, f64),
    cost: &impl Fn(&Sides) -> (f64, f64),
) -> Option<(Sides, (f64, f64))> {
    let all: Vec<_> = sides
        .iter()
        .enumerate()
        .flat_map(|(side, team)| (0..team.members.len()).map(move |at| (side, at)))
        .collect();
    let is_sound = |sides: &Sides| {
        let (shape, roles, seats) = (&view.rules.shape, view.roles, view.seats);
        sides.is_sound() && sides.is_enough(shape, roles, seats, min_of)
    };
    let mut found: Option<(Sides, (f64, f64))> = None;
    let mut tried = 0;
    for (number, a) in all.iter().enumerate() {
        for b in &all[number + 1..] {
            if a.0 == b.0 {
                continue;
            }
            tried += 1;
            if tried > EXCHANGES_MAX * 8 && found.is_some() {
                return found;
            }
            let swapped = sides.swapped(view.seats, *a, *b);
            let cost = cost(&swapped);
            let least = found.as_ref().map_or(best, |(_, least)| *least);
            if cost < least && is_sound(&swapped) {
                found = Some((swapped, cost));
            }
        }
    }
    found
}

/// The largest difference between two teams.
fn unevenness(view: View<'_>, sides: &Sides, rule: usize, measure: Measure) -> f64 {
    let of = |members: &[Key], load: u32| {
        let sum: f64 = members
            .iter()
            .map(|key| view.seats[*key].candidate.number(rule))
            .sum();
        match measure {
            Measure::Sum => sum,
            Measure::Mean => sum / f64::from(load.max(1)),
        }
    };
    let mut low = f64::INFINITY;
    let mut high = f64::NEG_INFINITY;
    for side in sides.iter() {
        let value = of(&side.members, side.load);
        low = low.min(value);
        high = high.max(value);
    }
    high - low
}

/// The first rule of latency, and its best region.
fn region(view: View<'_>, group: &Group) -> Option<(usize, usize, Name)> {
    let mut rules = view.rules.rules.iter().zip(group.tallies()).enumerate();
    rules.find_map(|(at, (rule, tally))| {
        let Check::Latency { regions, .. } = &rule.check else {
            return None;
        };
        let (region, _) = tally.region()?;
        Some((at, region, regions[region].clone()))
    })
}

fn devices<'p>(view: View<'p>, group: &Group) -> Vec<(Key, &'p Player)> {
    let players = |key: &Key| {
        let (key, seats) = (*key, view.seats);
        seats[key]
            .ticket
            .players
            .iter()
            .map(move |player| (key, player))
    };
    group.members.iter().flat_map(players).collect()
}

/// Who reaches most others directly, and how many: those of its own party are no question. Among equals whose network
/// is best, then who is nearest to the region, then who came first.
fn host(
    view: View<'_>,
    devices: &[(Key, &Player)],
    region: Option<(usize, usize)>,
) -> Option<(usize, usize)> {
    let mut count_by_reach = [0_usize; Reach::ALL.len()];
    for (_, player) in devices {
        count_by_reach[player.reach as usize] += 1;
    }
    let reached = |(key, player): &(Key, &Player)| -> usize {
        let is_direct = |other: Reach| player.reach.is_direct_with(other);
        let counts = Reach::ALL.iter().zip(&count_by_reach);
        let direct = counts.filter(|(other, _)| is_direct(**other));
        let all: usize = direct.map(|(_, count)| count).sum();
        let party = &view.seats[*key].ticket.players;
        let unreached = party.iter().filter(|mate| !is_direct(mate.reach)).count();
        // With its party, but without itself.
        all + unreached - 1
    };
    let reached: Vec<usize> = devices.iter().map(reached).collect();
    let latency = |key: Key| {
        region.map_or(0.0, |(rule, region)| {
            view.seats[key].candidate.latency(rule, region)
        })
    };
    let by = |a: &(usize, &(Key, &Player)), b: &(usize, &(Key, &Player))| {
        let most = reached[b.0].cmp(&reached[a.0]);
        let (a, b) = (a.1, b.1);
        most.then_with(|| a.1.reach.rank().cmp(&b.1.reach.rank()))
            .then_with(|| latency(a.0).total_cmp(&latency(b.0)))
            .then_with(|| view.seats[a.0].order.cmp(&view.seats[b.0].order))
    };
    let host = devices.iter().enumerate().min_by(by);
    host.map(|(at, _)| (at, reached[at]))
}

/// From 0 to 1000: the mean over all rules that know better and worse, by their weights.
fn quality(
    view: View<'_>,
    group: &Group,
    sides: &Sides,
    (reached, others): (usize, usize),
    devices: &[(Key, &Player)],
) -> u16 {
    let mut weights = 0.0;
    let mut sum = 0.0;
    let mut count = |weight: f64, score: f64| {
        weights += weight;
        sum += weight * score.clamp(0.0, 1.0);
    };
    for (at, (rule, tally)) in view.rules.rules.iter().zip(group.tallies()).enumerate() {
        let deviation = match rule.check {
            Check::Connectivity { topology, .. } => {
                let score = match topology {
                    Topology::Host => share(reached, others),
                    Topology::Mesh => direct_share(view, group, devices),
                };
                count(rule.weight, score);
                continue;
            }
            Check::Balance { measure, .. } => Some(unevenness(view, sides, at, measure)),
            Check::Equal { .. }
            | Check::Overlap { .. }
            | Check::Distance { .. }
            | Check::Range { .. }
            | Check::Latency { .. }
            | Check::Block => tally.deviation(rule),
        };
        if let Some(deviation) = deviation {
            let scale = rule.scale();
            let score = if scale > 0.0 {
                1.0 - deviation / scale
            } else {
                f64::from(u8::from(deviation <= 0.0))
            };
            count(rule.weight, score);
        }
    }
    if let Some(liking) = liking(view, group) {
        count(1.0, liking);
    }
    let mean = if weights > 0.0 { sum / weights } else { 1.0 };
    (mean * 1000.0).round() as u16
}

/// How much the members have of what the others' queries would like.
fn liking(view: View<'_>, group: &Group) -> Option<f64> {
    let mut sum = 0.0;
    let mut count = 0.0;
    for key in &group.members {
        let demands = &view.seats[*key].candidate.demands;
        if !demands.is_fond {
            continue;
        }
        for other in group.members.iter().filter(|other| *other != key) {
            let candidate = &view.seats[*other].candidate;
            if let Some(liking) = demands.liking(candidate, view.symbols) {
                sum += liking;
                count += 1.0;
            }
        }
    }
    (count > 0.0).then(|| sum / count)
}

/// The share of pairs of devices that are direct, of those that are not of one party.
fn direct_share(view: View<'_>, group: &Group, devices: &[(Key, &Player)]) -> f64 {
    let (mut direct, mut all) = pairs(devices.iter().map(|(_, player)| player.reach));
    for key in &group.members {
        let party = &view.seats[*key].ticket.players;
        let own = pairs(party.iter().map(|player| player.reach));
        (direct, all) = (direct - own.0, all - own.1);
    }
    share(direct, all)
}

/// How many pairs are direct, and how many there are.
fn pairs(reaches: impl Iterator<Item = Reach>) -> (usize, usize) {
    let mut count_by_reach = [0_usize; Reach::ALL.len()];
    let mut devices = 0;
    for reach in reaches {
        count_by_reach[reach as usize] += 1;
        devices += 1;
    }
    let mut direct = 0;
    for (at, (a, count)) in Reach::ALL.iter().zip(&count_by_reach).enumerate() {
        if a.is_direct_with(*a) {
            direct += count * count.saturating_sub(1) / 2;
        }
        let later = Reach::ALL.iter().zip(&count_by_reach).skip(at + 1);
        for (_, others) in later.filter(|(b, _)| a.is_direct_with(**b)) {
            direct += count * others;
        }
    }
    (direct, devices * usize::saturating_sub(devices, 1) / 2)
}

fn share(some: usize, all: usize) -> f64 {
    if all == 0 {
        1.0
    } else {
        some as f64 / all as f64
    }
}
