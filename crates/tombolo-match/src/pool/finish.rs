//! What is decided when a group is complete: teams, roles, region, host, quality.

use tombolo_wire::UserId;

use super::balance;
use super::group::{Group, View};
use super::seat::Key;
use super::sides::Sides;
use crate::entry::Venue;
use crate::formed::{Formed, Party, Side};
use crate::rules::{Check, Team, Topology};
use crate::ticket::{Player, Reach};
use crate::word::{BackfillId, MatchId, Name};

/// How many steps it takes at the most, about, to see how well those are liked who come into question.
pub(super) const LIKING_STEPS_MAX: u64 = 1 << 20;

/// What is decided of a complete group.
pub(super) struct Verdict {
    sides: Sides,
    venue: Venue,
    /// From 0 to 1000.
    pub(super) quality: u16,
}

/// Decides what is left to decide; `None` when some rule does not hold of the whole. A match that runs already is where
/// it is. What it costs counts as looks.
pub(super) fn judge(
    view: View<'_>,
    min_of: &dyn Fn(&Team) -> u32,
    group: &Group,
    venue: Option<&Venue>,
    looks: &mut u64,
) -> Option<Verdict> {
    let sides = balance::balanced(view, min_of, group, looks)?;
    let region = region(view, group);
    let devices = devices(view, &group.members);
    let near = region.as_ref().map(|(rule, region, _)| (*rule, *region));
    let named = venue.and_then(|venue| venue.host.as_ref());
    let host = match named {
        Some(_) => host(view, &devices, near, |player| Some(&player.user) == named),
        None => host(view, &devices, near, |_| true),
    };
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
            && !is_broken(view, group, near, named)
        {
            return None;
        }
    }
    let quality = quality(view, group, &sides, (reached, others), &devices);
    *looks += view.symbols.take_looks();
    let found = || Venue {
        region: region.map(|(_, _, name)| name),
        // Nobody hosts whom all others can reach by a relay only.
        host: host
            .filter(|_| reached > 0 || others == 0)
            .map(|(host, _)| devices[host].1.user.clone()),
    };
    Some(Verdict {
        venue: venue.cloned().unwrap_or_else(found),
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
            region: self.venue.region,
            host: self.venue.host,
            quality: self.quality,
            awaits_seats: true,
        }
    }
}

/// The teams with their parties, and the role of each user.
fn named(view: View<'_>, sides: &Sides, is_new: impl Fn(Key) -> bool) -> Vec<Side> {
    let teams = view.rules.shape.teams.iter().zip(sides.iter()).enumerate();
    let named = teams.map(|(at, (team, side))| {
        let parts = sides.parts(team, view.roles, view.seats, at);
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

/// Whether a group would be a match by its size and by its teams, and only the rules of the whole were left to keep.
pub(super) fn is_match(view: View<'_>, group: &mut Group) -> bool {
    let shape = &view.rules.shape;
    let waits = group.members.iter().map(|key| view.waited(*key));
    let waited = waits.max().unwrap_or_default();
    let min_of = |team: &Team| team.min_at(waited);
    let is_enough = group.size >= shape.players_min(waited).max(2);
    let sides = &mut group.sides;
    is_enough
        && shape.is_multiple(group.size, waited)
        && (sides.is_enough(shape, view.roles, view.seats, min_of)
            || sides.pack_for(shape, view.roles, view.seats, min_of))
}

/// Whether somebody reaches all others of a group.
pub(super) fn has_host(view: View<'_>, group: &Group) -> bool {
    let devices = devices(view, &group.members);
    let host = host(view, &devices, None, |_| true);
    host.is_some_and(|(_, reached)| reached + 1 >= devices.len())
}

/// Whether those who play already have nobody who reaches them all, or not the one who hosts them.
fn is_broken(
    view: View<'_>,
    group: &Group,
    region: Option<(usize, usize)>,
    named: Option<&UserId>,
) -> bool {
    let playing = devices(view, group.playing());
    let may_host = |player: &Player| named.is_none_or(|named| player.user == *named);
    let host = host(view, &playing, region, may_host);
    host.is_some_and(|(_, reached)| reached + 1 < playing.len())
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

fn devices<'p>(view: View<'p>, members: &[Key]) -> Vec<(Key, &'p Player)> {
    let players = |key: &Key| {
        let (key, seats) = (*key, view.seats);
        seats[key]
            .ticket
            .players
            .iter()
            .map(move |player| (key, player))
    };
    members.iter().flat_map(players).collect()
}

/// Who reaches most others directly, and how many: those of its own party are no question. Among equals whose network
/// is best, then who is nearest to the region, then who came first.
fn host(
    view: View<'_>,
    devices: &[(Key, &Player)],
    region: Option<(usize, usize)>,
    may_host: impl Fn(&Player) -> bool,
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
    let all = devices.iter().enumerate();
    let host = all.filter(|(_, (_, player))| may_host(player)).min_by(by);
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
            Check::Balance { measure, .. } => Some(balance::unevenness(view, sides, at, measure)),
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

/// How much the members have of what the others' queries would like; of as many of them as [`LIKING_STEPS_MAX`] suffices
/// for.
fn liking(view: View<'_>, group: &Group) -> Option<f64> {
    let steps_end = view.symbols.counted() + LIKING_STEPS_MAX;
    let mut sum = 0.0;
    let mut count = 0.0;
    for key in &group.members {
        let demands = &view.seats[*key].candidate.demands;
        if !demands.is_fond {
            continue;
        }
        for other in group.members.iter().filter(|other| *other != key) {
            if view.symbols.counted() >= steps_end {
                break;
            }
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
