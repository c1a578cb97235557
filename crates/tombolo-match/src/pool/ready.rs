//! Claims, and whether the users of a match are ready.

use std::collections::BTreeSet;

use tombolo_wire::UserId;

use super::joining::Waited;
use super::seat::Key;
use super::{Pool, Timer};
use crate::entry::Answer;
use crate::event::{EndReason, Event, Illegal};
use crate::formed::Formed;
use crate::word::{MatchId, Time};

/// A match whose users are asked whether they are ready.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) formed: Formed,
    pub(super) until: Time,
    pub(super) ready: BTreeSet<UserId>,
}

impl Pool {
    pub(super) fn on_claimed(&mut self, matches: &[Formed], events: &mut Vec<Event>) {
        for formed in matches {
            let is_next = formed.id == MatchId(self.next_match);
            // A number whose match comes to nothing is not given again: those behind it stay good.
            self.next_match += u64::from(is_next);
            let Some(keys) = self
                .claimed(formed)
                .filter(|_| is_next && self.is_current(formed))
            else {
                events.push(Event::Refused { id: formed.id });
                continue;
            };
            match self.rules.ready {
                Some(ready) => self.ask(formed, &keys, self.clock.after(ready), events),
                None => {
                    self.begin(formed, &keys, events);
                }
            }
        }
    }

    pub(super) fn on_answered(
        &mut self,
        id: MatchId,
        user: &UserId,
        answer: Answer,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let pending = self.pending.get_mut(&id).ok_or(Illegal::Unknown)?;
        if !pending.formed.users().any(|member| member == user) {
            return Err(Illegal::Unknown);
        }
        if answer == Answer::Decline {
            self.fail(id, EndReason::Declined, &BTreeSet::from([user]), events);
            return Ok(());
        }
        if !pending.ready.insert(user.clone()) {
            return Ok(());
        }
        let is_ready = pending.ready.len() == pending.formed.users().count();
        let user = user.clone();
        events.push(Event::Accepted { id, user });
        if is_ready && let Some(pending) = self.pending.remove(&id) {
            self.timers.remove(&(pending.until, Timer::Ready(id)));
            let keys = self.keys_of(&pending.formed);
            self.begin(&pending.formed, &keys, events);
        }
        Ok(())
    }

    pub(super) fn on_ready_over(&mut self, id: MatchId, events: &mut Vec<Event>) {
        let Some(pending) = self.pending.get(&id) else {
            return;
        };
        let users: Vec<_> = pending.formed.users().cloned().collect();
        let silent = users.iter().filter(|user| !pending.ready.contains(*user));
        let silent = silent.collect();
        self.fail(id, EndReason::Unanswered, &silent, events);
    }

    /// The tickets of a claim, when all of them are as the claim says and still wait.
    fn claimed(&self, formed: &Formed) -> Option<Vec<Key>> {
        let mut keys = Vec::new();
        for party in formed.parties() {
            let key = *self.key_by_id.get(&party.ticket)?;
            let seat = &self.seats[key];
            let is_waiting = seat.held.is_none() && seat.away.is_empty();
            if !is_waiting || seat.revision != party.revision || keys.contains(&key) {
                return None;
            }
            keys.push(key);
        }
        Some(keys)
    }

    fn ask(&mut self, formed: &Formed, keys: &[Key], until: Time, events: &mut Vec<Event>) {
        for key in keys {
            self.leave(*key);
            self.matcher.proposed.remove(key);
            self.seats[*key].held = Some(formed.id);
        }
        let pending = Pending {
            formed: formed.clone(),
            until,
            ready: BTreeSet::new(),
        };
        self.pending.insert(formed.id, pending);
        self.timers.insert((until, Timer::Ready(formed.id)));
        let backfill = formed.backfill.map(|(id, _)| id);
        if let Some(running) = backfill.and_then(|id| self.running.get_mut(&id)) {
            running.pending = Some(formed.id);
        }
        let formed = Box::new(formed.clone());
        events.push(Event::Asked { formed, until });
    }

    fn begin(&mut self, formed: &Formed, keys: &[Key], events: &mut Vec<Event>) {
        let (mut tickets, mut places) = (Vec::new(), Vec::new());
        debug_assert_eq!(
            formed.parties().count(),
            keys.len(),
            "each party has its ticket"
        );
        for key in keys {
            let seat = &self.seats[*key];
            let waited = self.clock.since(seat.since);
            self.waits.count(&seat.candidate, &self.symbols, waited);
            places.push(seat.place());
            let ticket = self.forget(*key);
            self.played.note(&ticket);
            tickets.push(ticket);
        }
        self.begun.note(self.clock, formed);
        events.push(Event::Matched(Box::new(formed.clone())));
        self.adopt(formed, &tickets, events);
        let waited = tickets.into_iter().zip(places);
        let waited = waited.map(|(ticket, place)| Waited { ticket, place });
        self.remember_joining(formed, waited.collect());
    }

    /// Ends a match that does not begin: the tickets of `culprits` end, the others look on.
    pub(super) fn fail(
        &mut self,
        id: MatchId,
        reason: EndReason,
        culprits: &BTreeSet<&UserId>,
        events: &mut Vec<Event>,
    ) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        self.timers.remove(&(pending.until, Timer::Ready(id)));
        self.release_running(&pending.formed);
        let mut requeued = Vec::new();
        for party in pending.formed.parties() {
            let Some(key) = self.key_by_id.get(&party.ticket).copied() else {
                continue;
            };
            self.seats[key].held = None;
            if party.users.iter().any(|(user, _)| culprits.contains(user)) {
                self.end(key, reason, events);
                continue;
            }
            let is_gone = self.seats[key]
                .away
                .values()
                .any(|until| *until <= self.clock);
            if is_gone {
                self.end(key, EndReason::Gone, events);
                continue;
            }
            requeued.push(party.ticket);
            self.enter(key, self.clock);
        }
        events.push(Event::Failed { id, requeued });
    }

    fn keys_of(&self, formed: &Formed) -> Vec<Key> {
        let parties = formed.parties();
        parties
            .filter_map(|party| self.key_by_id.get(&party.ticket).copied())
            .collect()
    }
}
