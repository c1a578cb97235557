//! A match in the making.

use std::collections::BTreeSet;
use std::time::Duration;

use super::balance;
use super::candidate::{Candidate, RoleTable};
use super::seat::{Key, Seat, Seats};
use super::sides::Sides;
use super::symbols::{STEPS_PER_LOOK, Symbol, Symbols};
use super::tally::{Look, Tally};
use crate::rules::{Check, Measure, Rules};
use crate::word::{Name, Time};

/// What stays the same while matches are made.
#[derive(Clone, Copy)]
pub(super) struct View<'p> {
    pub(super) rules: &'p Rules,
    pub(super) roles: &'p RoleTable,
    pub(super) seats: &'p Seats,
    pub(super) symbols: &'p Symbols,
    pub(super) now: Time,
}

impl View<'_> {
    /// How long a ticket has waited.
    pub(super) fn waited(&self, key: Key) -> Duration {
        self.now.since(self.seats[key].since)
    }
}

/// A match in the making: tickets of which every rule holds that can be told of a part.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) members: Vec<Key>,
    pub(super) size: u32,
    pub(super) sides: Sides,
    tallies: Vec<Tally>,
    /// The order of the ticket that has waited longest.
    oldest: Option<(Time, u64)>,
    /// Whether a rule asks who blocks whom.
    minds_blocks: bool,
    /// Whom anybody blocks, where that matters.
    blocked: BTreeSet<Symbol>,
    /// All users, where it matters who they are.
    users: BTreeSet<Symbol>,
    /// Somebody blocks another already, as both have waited for long enough.
    has_blocked: bool,
    /// Those whose queries ask for something.
    strict: Vec<Key>,
    /// How many of the members play already.
    playing: usize,
}

impl Group {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            members: Vec::new(),
            size: 0,
            sides: Sides::new(&rules.shape),
            tallies: rules.rules.iter().map(Tally::new).collect(),
            oldest: None,
            minds_blocks: rules.rules.iter().any(|rule| rule.check == Check::Block),
            blocked: BTreeSet::new(),
            users: BTreeSet::new(),
            has_blocked: false,
            strict: Vec::new(),
            playing: 0,
        }
    }

    pub(super) fn clear(&mut self, rules: &Rules) {
        self.members.clear();
        self.size = 0;
        self.sides.clear(&rules.shape);
        for (tally, rule) in self.tallies.iter_mut().zip(&rules.rules) {
            tally.clear(rule);
        }
        self.oldest = None;
        self.blocked.clear();
        self.users.clear();
        self.has_blocked = false;
        self.strict.clear();
        self.playing = 0;
    }

    /// Whether the group with one more would keep every rule.
    pub(super) fn fits(&self, view: View<'_>, key: Key) -> bool {
        let seat = &view.seats[key];
        if self.sides.is_fixed() && self.plays(&seat.candidate) {
            return false;
        }
        let is_oldest = self.is_oldest(seat);
        let rules = view.rules.rules.iter().enumerate();
        let mut rules = rules.zip(&self.tallies);
        rules.all(|((number, rule), tally)| {
            let (judge, look) = (view.rules.judge, look(seat, number, is_oldest));
            tally.fits(rule, judge, look)
                && (rule.check != Check::Block
                    || tally.limit_with(rule, judge, look).is_none()
                    || !self.has_blocked && !self.is_blocked(&seat.candidate))
        }) && self.queries_accept(view, &seat.candidate)
    }

    /// As how many looks at tickets it counts to see whom a ticket blocks.
    pub(super) fn looks_at_blocks(&self, candidate: &Candidate) -> u64 {
        match self.minds_blocks {
            true => candidate.blocks.len() as u64 / BLOCKS_PER_LOOK,
            false => 0,
        }
    }

    /// Adds a ticket that fits, when a team has room for it.
    pub(super) fn add(&mut self, view: View<'_>, key: Key) -> bool {
        let candidate = &view.seats[key].candidate;
        let waited = self.waited_with(view, key);
        if self.size + candidate.size > view.rules.shape.players_max()
            || !self
                .sides
                .place(&view.rules.shape, view.roles, view.seats, key, waited)
        {
            return false;
        }
        self.take(view, key);
        true
    }

    /// Adds a ticket that plays already, in its team.
    pub(super) fn fix(&mut self, view: View<'_>, side: usize, key: Key) {
        let waited = self.waited_with(view, key);
        self.sides.fix(view.seats, side, key, waited);
        self.take(view, key);
    }

    /// All who are in it play already, in that region if it is known.
    pub(super) fn begin_running(&mut self, view: View<'_>, region: Option<&Name>) {
        let region = region.and_then(|region| view.rules.region(region));
        self.playing = self.members.len();
        // Who plays with whom already keeps nobody away.
        self.has_blocked = false;
        let is_whole = self.sides.iter().all(|side| side.load > 0);
        for (number, (rule, tally)) in view.rules.rules.iter().zip(&mut self.tallies).enumerate() {
            let members = self.members.iter();
            let facts = members.map(|key| &view.seats[*key].candidate.facts[number]);
            let region = region.filter(|(of, _)| *of == number);
            tally.begin_running(rule, facts, region.map(|(_, region)| region));
            // While somebody is missing, sums say nothing.
            if let Check::Balance {
                measure: measure @ Measure::Mean,
                ..
            } = rule.check
                && is_whole
            {
                tally.set_off(balance::unevenness(view, &self.sides, number, measure));
            }
        }
    }

    /// Those who play already, if it runs.
    pub(super) fn playing(&self) -> &[Key] {
        &self.members[..self.playing]
    }

    /// Rules of equality, by their number among those, whose texts are different already.
    pub(super) fn mixed(&self) -> u32 {
        let rules = self.tallies.iter().filter(|tally| tally.is_of_texts());
        let mixed = rules.enumerate().filter(|(_, tally)| tally.is_mixed());
        mixed.fold(0, |all, (at, _)| all | 1 << at)
    }

    fn take(&mut self, view: View<'_>, key: Key) {
        let seat = &view.seats[key];
        let candidate = &seat.candidate;
        let is_oldest = self.is_oldest(seat);
        for (number, (rule, tally)) in view.rules.rules.iter().zip(&mut self.tallies).enumerate() {
            tally.add(rule, view.rules.judge, look(seat, number, is_oldest));
        }
        if is_oldest {
            self.oldest = Some((seat.since, seat.order));
        }
        if self.minds_blocks {
            self.has_blocked = self.has_blocked || self.is_blocked(candidate);
            view.symbols.count(STEPS_PER_BLOCK * candidate.blocks.len());
            self.blocked.extend(&candidate.blocks);
        }
        if self.minds_blocks || self.sides.is_fixed() {
            self.users.extend(&candidate.users);
        }
        self.members.push(key);
        self.size += candidate.size;
        if candidate.demands.is_strict {
            self.strict.push(key);
        }
    }

    /// Since when the ticket has waited that has waited longest.
    pub(super) fn oldest_since(&self) -> Option<Time> {
        self.oldest.map(|(since, _)| since)
    }

    pub(super) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// How long the ticket has waited that has waited longest, with one more.
    fn waited_with(&self, view: View<'_>, key: Key) -> Duration {
        let own = view.seats[key].since;
        let since = self.oldest_since().map_or(own, |since| since.min(own));
        view.now.since(since)
    }

    fn is_oldest(&self, seat: &Seat) -> bool {
        self.oldest
            .is_none_or(|oldest| (seat.since, seat.order) < oldest)
    }

    /// Whether a user plays already, who in a pool is in no two tickets otherwise.
    fn plays(&self, candidate: &Candidate) -> bool {
        let mut users = candidate.users.iter();
        users.any(|user| self.users.contains(user))
    }

    fn is_blocked(&self, candidate: &Candidate) -> bool {
        let is_met = candidate
            .blocks
            .iter()
            .any(|user| self.users.contains(user));
        is_met
            || candidate
                .users
                .iter()
                .any(|user| self.blocked.contains(user))
    }

    /// Who takes more to compare than [`ACCEPT_STEPS_MAX`] is not accepted, before it takes more still.
    fn queries_accept(&self, view: View<'_>, candidate: &Candidate) -> bool {
        let steps_end = view.symbols.counted() + ACCEPT_STEPS_MAX;
        let accepts = |asking: &Candidate, asked: &Candidate| {
            view.symbols.counted() < steps_end && asking.demands.accept(asked, view.symbols)
        };
        let mut strict = self.strict.iter().map(|key| &view.seats[*key].candidate);
        if !strict.all(|member| accepts(member, candidate)) {
            return false;
        }
        let mut members = self.members.iter().map(|key| &view.seats[*key].candidate);
        !candidate.demands.is_strict || members.all(|member| accepts(candidate, member))
    }
}

fn look(seat: &Seat, rule: usize, is_oldest: bool) -> Look<'_> {
    Look {
        fact: &seat.candidate.facts[rule],
        worst_rank: seat.candidate.worst_rank,
        gate: seat.gates[rule],
        is_oldest,
    }
}

/// So many users whom a ticket blocks count as one look at it.
const BLOCKS_PER_LOOK: u64 = 32;

/// As how many steps it counts to remember one of them.
const STEPS_PER_BLOCK: usize = (STEPS_PER_LOOK / BLOCKS_PER_LOOK) as usize;

/// How many steps the queries of all members and of one who comes take at the most, about: a thousand of each take less
/// as long as they don't go through long lists.
const ACCEPT_STEPS_MAX: u64 = 1 << 20;
