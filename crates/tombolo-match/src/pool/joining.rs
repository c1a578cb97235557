//! Those whose match begins, until they have a place in its room.

use tombolo_wire::UserId;

use super::candidate::Candidate;
use super::{JOINING_KEPT, Pool, SEATS_AWAITED, Timer, WEIGHT_MAX};
use crate::event::{BackfillEnd, EndReason, Event, Illegal};
use crate::formed::Formed;
use crate::ticket::Ticket;
use crate::word::{BackfillId, MatchId, TicketId, Time};

/// Whether the users of a claim have their seats: whoever says so first in the log decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seating {
    /// Nobody has said so yet.
    Awaited,
    /// They have, or it is too late to say otherwise.
    Seated,
    /// They have not, and look on.
    Unseated,
}

/// A claim, while it may turn out that there is no place for its users.
#[derive(Debug)]
pub(super) struct Joining {
    /// The match that they join, if it runs already.
    pub(super) running: Option<BackfillId>,
    pub(super) until: Time,
    /// Nothing when they look on: another node may say so, too.
    pub(super) tickets: Vec<Waited>,
}

/// A ticket that has left the pool, and where it was.
#[derive(Debug)]
pub(super) struct Waited {
    pub(super) ticket: Ticket,
    pub(super) place: Place,
}

/// Where a ticket is among others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Counts the changes of the party.
    pub(super) revision: u32,
    /// Since when it waits.
    pub(super) since: Time,
    /// Who came earlier has less.
    pub(super) order: u64,
}

impl Pool {
    /// Whether the users of a claim that was applied have their seats.
    #[must_use]
    pub fn seating(&self, id: MatchId) -> Seating {
        match self.joining.get(&id) {
            Some(joining) if joining.tickets.is_empty() => Seating::Unseated,
            Some(_) => Seating::Awaited,
            None => Seating::Seated,
        }
    }

    /// Remembers the tickets of a claim, and rather than too many forgets the first ones, who then are in their match
    /// for good.
    pub(super) fn remember_joining(&mut self, formed: &Formed, tickets: Vec<Waited>) {
        let running = formed.backfill.map(|(running, _)| running);
        let kept = match formed.awaits_seats {
            true => SEATS_AWAITED,
            // Of a log from before, in which nobody says that they have their seats.
            false if running.is_some() => JOINING_KEPT,
            false => return,
        };
        let joining = Joining {
            running,
            until: self.clock.after(kept),
            tickets,
        };
        self.add_joining(formed.id, joining);
        while (self.joining.len() > JOINING_MAX || self.weight > WEIGHT_MAX)
            && let Some((first, _)) = self.joining.first_key_value()
        {
            self.forget_joining(*first);
        }
    }

    pub(super) fn add_joining(&mut self, id: MatchId, joining: Joining) {
        self.weight += weight_of(&joining.tickets);
        self.timers.insert((joining.until, Timer::Joining(id)));
        self.joining.insert(id, joining);
    }

    pub(super) fn forget_joining(&mut self, id: MatchId) {
        if let Some(joining) = self.joining.remove(&id) {
            self.weight -= weight_of(&joining.tickets);
            self.timers.remove(&(joining.until, Timer::Joining(id)));
        }
    }

    /// Users of claims have their seats: who was remembered for having none is not any more.
    pub(super) fn on_seated(&mut self, seated: &[MatchId]) {
        for id in seated {
            if self.seating(*id) == Seating::Awaited {
                self.forget_joining(*id);
            }
        }
    }

    /// There is no place for the users of a claim: they look on, and a running match asks for nobody any more.
    pub(super) fn on_unseated(
        &mut self,
        id: MatchId,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let joining = self.joining.get_mut(&id).ok_or(Illegal::Unknown)?;
        let tickets = std::mem::take(&mut joining.tickets);
        if tickets.is_empty() {
            return Ok(());
        }
        let running = joining.running;
        self.weight -= weight_of(&tickets);
        for waited in &tickets {
            self.begun.forget(&waited.ticket.id);
        }
        if let Some(running) = running {
            // It may have ended meanwhile.
            let _ = self.end_backfill(running, BackfillEnd::Closed, events);
        }
        let back = tickets.into_iter();
        let requeued = back
            .filter_map(|waited| self.come_back(waited, events))
            .collect();
        events.push(Event::Failed { id, requeued });
        Ok(())
    }

    /// Puts a ticket back to where it was, if its users have no other one.
    fn come_back(&mut self, waited: Waited, events: &mut Vec<Event>) -> Option<TicketId> {
        let Waited { ticket, place } = waited;
        let id = ticket.id;
        let is_free =
            !self.key_by_id.contains_key(&id) && self.check_users(&ticket.players, None).is_ok();
        let candidate = is_free
            .then(|| Candidate::new(&self.rules, &self.roles, &ticket, &mut self.symbols).ok());
        let Some(candidate) = candidate.flatten() else {
            let reason = EndReason::Cancelled;
            events.push(Event::Ended { ticket: id, reason });
            return None;
        };
        let lost: Vec<UserId> = ticket
            .players
            .iter()
            .filter(|player| player.device.as_ref().is_some_and(|at| self.is_lost(at)))
            .map(|player| player.user.clone())
            .collect();
        self.insert(ticket, candidate, place);
        for user in lost {
            // Without grace it ends with the first.
            let _ = self.on_dropped(&id, &user, events);
        }
        self.key_by_id.contains_key(&id).then_some(id)
    }
}

fn weight_of(tickets: &[Waited]) -> usize {
    let weights = tickets.iter().map(|waited| waited.ticket.weight());
    weights.sum()
}

/// The most claims that are remembered; the oldest are forgotten first.
pub(super) const JOINING_MAX: usize = 4096;
