//! Which kinds of tickets can be matched now: while a match cannot be cast of them, nobody need look for one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::candidate::{Candidate, RoleTable};
use super::search::Pass;
use crate::rules::{PLAYERS_MAX, Shape};

/// The tickets that can be matched, counted by how many users they have, and those by which roles they play.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    count_by_size: BTreeMap<u32, usize>,
    /// Users that play a role, by its number.
    users_by_role: BTreeMap<u8, usize>,
    /// Users that play any.
    users_of_any: usize,
    /// Whether a match can be cast of them that is full, and one that is not; `None` until somebody asks.
    known: Cell<Option<(bool, bool)>>,
}

impl Kinds {
    pub(super) fn insert(&mut self, candidate: &Candidate) {
        let count = self.count_by_size.entry(candidate.size).or_default();
        *count += 1;
        let mut is_new = *count == 1;
        self.each_count(candidate, |users| {
            *users += 1;
            is_new |= *users <= ENOUGH;
        });
        if is_new {
            self.known.set(None);
        }
    }

    pub(super) fn remove(&mut self, candidate: &Candidate) {
        let mut is_missing = false;
        if let Some(count) = self.count_by_size.get_mut(&candidate.size) {
            *count -= 1;
            is_missing = *count == 0;
        }
        if is_missing {
            self.count_by_size.remove(&candidate.size);
        }
        self.each_count(candidate, |users| {
            *users -= 1;
            is_missing |= *users < ENOUGH;
        });
        if is_missing {
            self.known.set(None);
        }
    }

    /// Does something with each count in which users of a ticket are.
    fn each_count(&mut self, candidate: &Candidate, mut change: impl FnMut(&mut usize)) {
        for plays in &candidate.roles {
            if plays.is_empty() {
                change(&mut self.users_of_any);
            }
            for (at, role) in plays.iter().enumerate() {
                // Logs from before that was refused have users who say a role twice.
                if !plays[..at].contains(role) {
                    change(self.users_by_role.entry(*role).or_default());
                }
            }
        }
    }

    /// Whether there may be a match of them in such a pass. When there cannot, every later one has somebody in it who is
    /// not here yet, and looks then.
    pub(super) fn may_match(&self, shape: &Shape, roles: &RoleTable, pass: Pass) -> bool {
        let (full, any) = self.known.get().unwrap_or_else(|| {
            let any = self.have_roles(shape, roles) && self.have_sizes(shape, false);
            // Where the teams cannot all be full, it is not known which are.
            let is_even = shape.players_most() == shape.players_max();
            let full = any && (!is_even || self.have_sizes(shape, true));
            self.known.set(Some((full, any)));
            (full, any)
        });
        match pass {
            Pass::Arrival => full,
            Pass::Tick => any,
        }
    }

    /// Whether there are parties that fill each team as far as it must be.
    fn have_sizes(&self, shape: &Shape, is_full: bool) -> bool {
        let most = shape.team_max() as usize;
        let mut reached = vec![false; most + 1];
        reached[0] = true;
        for at in 1..=most {
            let mut sizes = self.count_by_size.keys();
            reached[at] = sizes.any(|size| {
                let before = at.checked_sub(*size as usize);
                before.is_some_and(|before| reached[before])
            });
        }
        shape.teams.iter().all(|team| {
            let least = match is_full {
                true => team.max_ever(),
                false => team.min_at(Duration::MAX),
            };
            (least..=team.max_ever()).any(|size| reached[size as usize])
        })
    }

    /// Whether enough users have the roles that there are.
    fn have_roles(&self, shape: &Shape, table: &RoleTable) -> bool {
        let free = shape.teams.iter().filter(|team| team.roles.is_empty());
        let mut users_most: usize = free.map(|team| team.max_ever() as usize).sum();
        // By role: how many must have it, how many may, and how many can.
        let mut by_role: BTreeMap<u8, (usize, usize, usize)> = BTreeMap::new();
        for role in shape.teams.iter().flat_map(|team| &team.roles) {
            let (needed, most, _) = by_role.entry(table.number(&role.name)).or_default();
            *needed += role.min_at(Duration::MAX) as usize;
            *most += role.max as usize;
        }
        for (number, (needed, most, able)) in &mut by_role {
            *able = self.able(*number);
            if able < needed {
                return false;
            }
            users_most += *most.min(able);
        }
        users_most >= shape.players_least() as usize
    }

    /// How many users can play a role, or any.
    fn able(&self, role: u8) -> usize {
        self.users_of_any + self.users_by_role.get(&role).copied().unwrap_or(0)
    }
}

/// More users of one role are never needed.
const ENOUGH: usize = PLAYERS_MAX as usize;
