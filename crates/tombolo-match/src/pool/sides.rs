//! Who of a group is in which team, and in which role.

use std::time::Duration;

use super::candidate::RoleTable;
use super::seat::{Key, Seats};
use crate::rules::{Shape, Team};

/// How often all tickets of a group are put anew in vain, until nobody is put anew in it any more.
const VAIN_MAX: u32 = 16;

/// How many are remembered for whom no place was found.
const REFUSED_MAX: usize = 64;

/// The teams of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Sides {
    sides: Vec<Side>,
    /// The fewest users of each.
    mins: Vec<u32>,
    /// How long the ticket has waited that has waited longest, where less is asked of teams by that.
    waited: Duration,
    /// Whether there is such a team.
    relaxes: bool,
    /// Some play already: nobody changes the team.
    is_fixed: bool,
    /// Those for whom no place was found since somebody was put, and how long the first one would have waited then.
    refused: Vec<(Key, Duration)>,
    /// How often all were put anew in vain.
    vain: u32,
    /// See [`take_looks`](Self::take_looks).
    looks: u64,
}

/// One team.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) load: u32,
    pub(super) members: Vec<Key>,
}

impl Sides {
    pub(super) fn new(shape: &Shape) -> Self {
        let mut sides = Self {
            relaxes: shape.teams.iter().any(Team::relaxes),
            ..Self::default()
        };
        sides.clear(shape);
        sides
    }

    /// Empty teams.
    pub(super) fn clear(&mut self, shape: &Shape) {
        self.sides.resize_with(shape.teams.len(), Side::default);
        self.mins.clear();
        self.waited = Duration::ZERO;
        self.is_fixed = false;
        self.refused.clear();
        self.vain = 0;
        for (side, team) in self.sides.iter_mut().zip(&shape.teams) {
            side.load = 0;
            side.members.clear();
            self.mins.push(team.min);
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Side> {
        self.sides.iter()
    }

    pub(super) fn side(&self, at: usize) -> &Side {
        &self.sides[at]
    }

    /// Puts a ticket where it is needed most; the others move when nothing else helps. With it, the ticket that has
    /// waited longest has waited so long.
    pub(super) fn place(
        &mut self,
        shape: &Shape,
        roles: &RoleTable,
        seats: &Seats,
        key: Key,
        waited: Duration,
    ) -> bool {
        let before = self.waited;
        self.set_waited(waited);
        if self.is_refused(shape, seats, key) {
            self.waited = before;
            return false;
        }
        if self.put(shape, roles, seats, key) || self.repack(shape, roles, seats, key) {
            self.refused.clear();
            return true;
        }
        if self.refused.len() < REFUSED_MAX {
            self.refused.push((key, self.waited));
        }
        self.waited = before;
        false
    }

    fn set_waited(&mut self, waited: Duration) {
        if self.relaxes {
            self.waited = waited;
        }
    }

    /// Whether a ticket was refused that was no harder to place.
    fn is_refused(&self, shape: &Shape, seats: &Seats, key: Key) -> bool {
        let candidate = &seats[key].candidate;
        let refused = self.refused.iter();
        let refused = refused.filter(|(_, waited)| *waited >= self.waited);
        let mut refused = refused.map(|(key, _)| &seats[*key].candidate);
        if shape.teams.iter().all(|team| team.roles.is_empty()) {
            return refused.any(|other| other.size <= candidate.size);
        }
        refused.any(|other| other.roles == candidate.roles)
    }

    /// Puts all anew, with one more.
    fn repack(&mut self, shape: &Shape, roles: &RoleTable, seats: &Seats, key: Key) -> bool {
        let is_in_vain = self.sides.len() == 1
            || self.is_fixed
            || self.vain >= VAIN_MAX
            || !self.could_hold(shape, seats, seats[key].candidate.size);
        if is_in_vain {
            return false;
        }
        let all = self.in_order_of_size(seats, Some(key));
        let mut anew = self.clone();
        let is_placed = anew.put_all(shape, roles, seats, all);
        self.looks = anew.looks;
        if is_placed {
            *self = anew;
        } else {
            self.vain += 1;
        }
        is_placed
    }

    /// Whether the teams have room for a party of a size if all others that are as large or larger are the
    /// only ones in them.
    fn could_hold(&self, shape: &Shape, seats: &Seats, size: u32) -> bool {
        let teams = shape.teams.iter();
        let places = teams.map(|team| (team.max_at(self.waited) / size.max(1)) as usize);
        let members = self.sides.iter().flat_map(|side| &side.members);
        let as_large = members.filter(|key| seats[**key].candidate.size >= size);
        as_large.count() < places.sum()
    }

    /// What places have cost since this was asked last: each ticket that was put anew, and each cast that was
    /// tried, counts one.
    pub(super) fn take_looks(&mut self) -> u64 {
        std::mem::take(&mut self.looks)
    }

    /// Puts a ticket into the team in which it plays already; with it, the one that has waited longest has waited so long.
    pub(super) fn fix(&mut self, seats: &Seats, side: usize, key: Key, waited: Duration) {
        self.is_fixed = true;
        self.set_waited(waited);
        self.sides[side].members.push(key);
        self.sides[side].load += seats[key].candidate.size;
    }

    /// Whether some play already.
    pub(super) fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    /// The first of those that can be put nowhere is not put.
    fn put(&mut self, shape: &Shape, roles: &RoleTable, seats: &Seats, key: Key) -> bool {
        let size = seats[key].candidate.size;
        let mut order: Vec<_> = (0..self.sides.len())
            .filter(|side| {
                let most = shape.teams[*side].max_at(self.waited);
                self.sides[*side].load + size <= most
            })
            .collect();
        order.sort_by_key(|side| {
            let (load, min) = (self.sides[*side].load, self.mins[*side]);
            (std::cmp::Reverse(min.saturating_sub(load)), load, *side)
        });
        for at in order {
            let side = &mut self.sides[at];
            side.members.push(key);
            side.load += size;
            self.looks += u64::from(!shape.teams[at].roles.is_empty());
            if self.can_play(&shape.teams[at], roles, seats, at) {
                return true;
            }
            let side = &mut self.sides[at];
            side.members.pop();
            side.load -= size;
        }
        false
    }

    /// Whether each team has enough users, and each user a role.
    pub(super) fn is_enough(
        &self,
        shape: &Shape,
        roles: &RoleTable,
        seats: &Seats,
        min_of: impl Fn(&Team) -> u32,
    ) -> bool {
        let mut teams = shape.teams.iter().enumerate();
        teams.all(|(at, team)| self.is_whole(roles, seats, at, team, min_of(team)))
    }

    /// Puts all anew for what teams need by now, where that is less than it was; whether each has enough then.
    pub(super) fn pack_for(
        &mut self,
        shape: &Shape,
        roles: &RoleTable,
        seats: &Seats,
        min_of: impl Fn(&Team) -> u32,
    ) -> bool {
        if self.is_fixed || shape.teams.iter().all(|team| min_of(team) == team.min) {
            return false;
        }
        let mut anew = self.clone();
        for (min, team) in anew.mins.iter_mut().zip(&shape.teams) {
            *min = min_of(team);
        }
        let is_packed = anew.put_all(shape, roles, seats, self.in_order_of_size(seats, None))
            && anew.is_enough(shape, roles, seats, min_of);
        if is_packed {
            *self = anew;
        }
        is_packed
    }

    /// The largest parties first: they are the hardest to place.
    fn in_order_of_size(&self, seats: &Seats, with: Option<Key>) -> Vec<Key> {
        let members = self.sides.iter().flat_map(|side| &side.members);
        let mut all: Vec<_> = members.copied().chain(with).collect();
        all.sort_by_key(|key| (std::cmp::Reverse(seats[*key].candidate.size), *key));
        all
    }

    /// Puts tickets into teams that are empty.
    fn put_all(&mut self, shape: &Shape, roles: &RoleTable, seats: &Seats, all: Vec<Key>) -> bool {
        self.looks += all.len() as u64;
        for side in &mut self.sides {
            *side = Side::default();
        }
        all.into_iter()
            .all(|key| self.put(shape, roles, seats, key))
    }

    /// Takes a party from each of two teams, and gives it to the other.
    pub(super) fn swap(&mut self, seats: &Seats, a: (usize, usize), b: (usize, usize)) {
        let (first, second) = (self.sides[a.0].members[a.1], self.sides[b.0].members[b.1]);
        for ((side, at), goes, comes) in [(a, first, second), (b, second, first)] {
            let side = &mut self.sides[side];
            side.members[at] = comes;
            side.load = side.load - seats[goes].candidate.size + seats[comes].candidate.size;
        }
    }

    /// Whether a team has no more users than it takes, enough of them, and a role for each.
    pub(super) fn is_whole(
        &self,
        roles: &RoleTable,
        seats: &Seats,
        at: usize,
        team: &Team,
        min: u32,
    ) -> bool {
        let side = &self.sides[at];
        (min..=team.max_at(self.waited)).contains(&side.load)
            && (team.roles.is_empty() || {
                let users = self.users(seats, at);
                cast(team, roles, users, self.waited, Cast::Whole).is_some()
            })
    }

    /// Whether the users of a team could still all have a role.
    fn can_play(&self, team: &Team, roles: &RoleTable, seats: &Seats, at: usize) -> bool {
        team.roles.is_empty() || self.parts(team, roles, seats, at).is_some()
    }

    /// The role of each user of a team, in the order of its tickets, while others may come; `None` when there is no way.
    pub(super) fn parts(
        &self,
        team: &Team,
        roles: &RoleTable,
        seats: &Seats,
        at: usize,
    ) -> Option<Vec<usize>> {
        let users = self.users(seats, at);
        cast(team, roles, users, self.waited, Cast::Part)
    }

    /// The roles that each user of a team plays.
    fn users<'s>(&'s self, seats: &'s Seats, at: usize) -> impl Iterator<Item = &'s Box<[u8]>> {
        let members = self.sides[at].members.iter();
        members.flat_map(move |key| &seats[*key].candidate.roles)
    }
}

/// Whether there is a team that may have a party whose users play these roles, after whichever wait.
pub(super) fn has_team(shape: &Shape, roles: &RoleTable, users: &[Box<[u8]>], size: u32) -> bool {
    let mut teams = shape.teams.iter().filter(|team| size <= team.max_ever());
    teams.any(|team| {
        team.roles.is_empty() || cast(team, roles, users, Duration::MAX, Cast::Part).is_some()
    })
}

/// Whom a cast is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cast {
    /// All of a team.
    Whole,
    /// A part: others may still come.
    Part,
}

/// A matching by augmenting paths: first what must be played, then whoever is left.
fn cast<'u>(
    team: &Team,
    roles: &RoleTable,
    users: impl IntoIterator<Item = &'u Box<[u8]>>,
    waited: Duration,
    of: Cast,
) -> Option<Vec<usize>> {
    let numbers: Vec<_> = team
        .roles
        .iter()
        .map(|role| roles.number(&role.name))
        .collect();
    let mut wishes = Vec::new();
    for plays in users {
        let likes = plays
            .iter()
            .filter_map(|role| numbers.iter().position(|n| n == role));
        let likes: Vec<_> = likes.collect();
        wishes.push(if plays.is_empty() {
            (0..numbers.len()).collect()
        } else {
            likes
        });
    }
    let roles = team.roles.iter();
    let mins = roles.map(|role| role.min_at(waited) as usize);
    let mut casting = Casting {
        wishes,
        part_of: Vec::new(),
        holders: vec![Vec::new(); team.roles.len()],
        limits: mins.clone().collect(),
    };
    casting.part_of = vec![None; casting.wishes.len()];
    casting.fill();
    let missing: usize = mins
        .zip(&casting.holders)
        .map(|(min, holders)| min.saturating_sub(holders.len()))
        .sum();
    let free = match of {
        Cast::Whole => 0,
        Cast::Part => (team.max_at(waited) as usize).saturating_sub(casting.wishes.len()),
    };
    if missing > free {
        return None;
    }
    casting.limits = team.roles.iter().map(|role| role.max as usize).collect();
    casting.fill();
    casting.part_of.into_iter().collect()
}

struct Casting {
    /// The roles that each user may have.
    wishes: Vec<Vec<usize>>,
    part_of: Vec<Option<usize>>,
    /// The users of each role.
    holders: Vec<Vec<usize>>,
    limits: Vec<usize>,
}

impl Casting {
    fn fill(&mut self) {
        for user in 0..self.wishes.len() {
            if self.part_of[user].is_none() {
                let mut seen = vec![false; self.limits.len()];
                self.cast(user, &mut seen);
            }
        }
    }

    /// Gives a user a role; who has it takes another one, if need be.
    fn cast(&mut self, user: usize, seen: &mut [bool]) -> bool {
        for wish in 0..self.wishes[user].len() {
            let role = self.wishes[user][wish];
            if seen[role] {
                continue;
            }
            seen[role] = true;
            if self.holders[role].len() < self.limits[role] {
                self.holders[role].push(user);
                self.part_of[user] = Some(role);
                return true;
            }
            for at in 0..self.holders[role].len() {
                let other = self.holders[role][at];
                if self.cast(other, seen) {
                    self.holders[role][at] = user;
                    self.part_of[user] = Some(role);
                    return true;
                }
            }
        }
        false
    }
}
