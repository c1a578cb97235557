//! Running matches that ask for more users.

use std::collections::BTreeSet;
use std::time::Duration;

use tombolo_wire::UserId;

use super::candidate::Candidate;
use super::joining::Place;
use super::search::Progress;
use super::seat::{Key, Seat};
use super::{Pool, Timer};
use crate::entry::{Backfill, LEASE_MAX, Venue};
use crate::event::{BackfillEnd, EndReason, Event, Illegal};
use crate::formed::Formed;
use crate::ticket::Ticket;
use crate::word::{BackfillId, MatchId, Name, Time};

/// The most running matches that ask for more users, of one pool.
pub const BACKFILLS_MAX: usize = 1024;

/// A running match that asks for more users.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) generation: u32,
    /// When it is taken for dead.
    pub(super) until: Time,
    /// Its parties, by team in the order of the rules.
    pub(super) sides: Vec<Vec<Key>>,
    /// Where it is played, as those who play were told; `None` when nobody has said so.
    pub(super) venue: Option<Venue>,
    /// The claim whose users are asked whether they are ready.
    pub(super) pending: Option<MatchId>,
    /// It is to be looked at: it has changed, or others have.
    pub(super) is_fresh: bool,
    /// Where its next search goes on.
    pub(super) progress: Progress,
}

impl Pool {
    pub(super) fn on_backfill(
        &mut self,
        backfill: &Backfill,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        check_lease(backfill.lease)?;
        let before = self
            .running
            .get(&backfill.id)
            .map_or(0, |running| running.generation);
        if backfill.after != before {
            return Err(Illegal::Stale { generation: before });
        }
        if before == 0 && self.running.len() >= BACKFILLS_MAX {
            return Err(Illegal::Full);
        }
        let tickets = backfill.sides.iter().flat_map(|(_, tickets)| tickets);
        let weight = tickets.map(Ticket::weight).sum();
        self.check_weight(self.weight_of(&backfill.id), weight)?;
        let venue = self.venue_of(backfill);
        let sides = self.running_sides(backfill)?;
        self.remove_running(&backfill.id, events);
        let generation = before.saturating_add(1);
        let until = self.clock.after(backfill.lease);
        let running = Running {
            generation,
            until,
            sides,
            venue,
            pending: None,
            is_fresh: true,
            progress: Progress::default(),
        };
        self.running.insert(backfill.id, running);
        self.timers.insert((until, Timer::Lease(backfill.id)));
        let id = backfill.id;
        events.push(Event::BackfillOpened { id, generation });
        Ok(())
    }

    pub(super) fn on_renewed(&mut self, id: BackfillId, lease: Duration) -> Result<(), Illegal> {
        check_lease(lease)?;
        let running = self.running.get_mut(&id).ok_or(Illegal::Unknown)?;
        let until = self.clock.after(lease);
        self.timers.remove(&(running.until, Timer::Lease(id)));
        self.timers.insert((until, Timer::Lease(id)));
        running.until = until;
        Ok(())
    }

    pub(super) fn end_backfill(
        &mut self,
        id: BackfillId,
        reason: BackfillEnd,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        if !self.remove_running(&id, events) {
            return Err(Illegal::Unknown);
        }
        events.push(Event::BackfillEnded { id, reason });
        Ok(())
    }

    /// Whether a claim is for a running match as it is now, if it is for one.
    pub(super) fn is_current(&self, formed: &Formed) -> bool {
        formed.backfill.is_none_or(|(id, generation)| {
            self.running.get(&id).is_some_and(|running| {
                running.generation == generation && running.pending.is_none()
            })
        })
    }

    /// The users of a claim have become users of its running match.
    pub(super) fn adopt(&mut self, formed: &Formed, tickets: &[Ticket], events: &mut Vec<Event>) {
        let Some((id, _)) = formed.backfill else {
            return;
        };
        let Some(mut running) = self.running.remove(&id) else {
            return;
        };
        let mut tickets = tickets.iter();
        for (side, formed) in running.sides.iter_mut().zip(&formed.sides) {
            for ticket in tickets.by_ref().take(formed.parties.len()) {
                // It was a ticket of this pool until now, so that nothing is wrong with it.
                side.extend(self.running_seat(ticket));
            }
        }
        running.generation = running.generation.saturating_add(1);
        running.pending = None;
        running.is_fresh = true;
        running.progress = Progress::default();
        let generation = running.generation;
        let size_of = |key: &Key| self.seats[*key].candidate.size;
        let sizes = running.sides.iter();
        let sizes = sizes.map(|side| side.iter().map(size_of).sum());
        let is_full = self.rules.shape.is_full(sizes);
        self.running.insert(id, running);
        if !is_full {
            events.push(Event::BackfillOpened { id, generation });
            return;
        }
        self.remove_running(&id, events);
        let reason = BackfillEnd::Filled;
        events.push(Event::BackfillEnded { id, reason });
    }

    /// A running match's claim has come to nothing.
    pub(super) fn release_running(&mut self, formed: &Formed) {
        let id = formed.backfill.map(|(id, _)| id);
        if let Some(running) = id.and_then(|id| self.running.get_mut(&id)) {
            running.pending = None;
            running.is_fresh = true;
        }
    }

    /// Takes a running match away; those who were to join it look on.
    fn remove_running(&mut self, id: &BackfillId, events: &mut Vec<Event>) -> bool {
        let Some(running) = self.running.remove(id) else {
            return false;
        };
        self.timers.remove(&(running.until, Timer::Lease(*id)));
        if let Some(pending) = running.pending {
            self.fail(pending, EndReason::Unanswered, &BTreeSet::new(), events);
        }
        self.remove_seats(running.sides.into_iter().flatten());
        true
    }

    /// Where a running match is played, as far as that makes sense: a host may have left, and the rules know no other
    /// regions than theirs.
    fn venue_of(&self, backfill: &Backfill) -> Option<Venue> {
        let before = self.running.get(&backfill.id);
        let before = before.and_then(|before| before.venue.as_ref());
        let venue = backfill.venue.as_ref().or(before)?.clone();
        let is_known = |region: &Name| self.rules.region(region).is_some();
        let plays = |host: &UserId| {
            let mut tickets = backfill.sides.iter().flat_map(|(_, tickets)| tickets);
            tickets.any(|ticket| ticket.has(host))
        };
        Some(Venue {
            region: venue.region.filter(is_known),
            host: venue.host.filter(plays),
        })
    }

    /// What the tickets of a running match weigh.
    fn weight_of(&self, id: &BackfillId) -> usize {
        let running = self.running.get(id);
        let keys = running.iter().flat_map(|running| &running.sides).flatten();
        keys.map(|key| self.seats[*key].ticket.weight()).sum()
    }

    fn running_sides(&mut self, backfill: &Backfill) -> Result<Vec<Vec<Key>>, Illegal> {
        let teams = self.rules.shape.teams.len();
        let mut sides: Vec<Vec<Key>> = vec![Vec::new(); teams];
        let mut fault = None;
        for (name, tickets) in &backfill.sides {
            let team = self
                .rules
                .shape
                .teams
                .iter()
                .position(|team| team.name == *name);
            let size: usize = tickets.iter().map(|ticket| ticket.players.len()).sum();
            let room = team.map_or(0, |team| self.rules.shape.teams[team].max_ever() as usize);
            let Some(team) = team.filter(|team| sides[*team].is_empty() && size <= room) else {
                fault = Some(Illegal::Teams);
                break;
            };
            for ticket in tickets {
                match ticket
                    .check()
                    .map_err(Illegal::from)
                    .and_then(|()| self.running_seat(ticket))
                {
                    Ok(key) => sides[team].push(key),
                    Err(error) => fault = Some(error),
                }
            }
        }
        if sides.iter().all(Vec::is_empty) {
            fault.get_or_insert(Illegal::Teams);
        }
        match fault {
            Some(fault) => {
                self.remove_seats(sides.into_iter().flatten());
                Err(fault)
            }
            None => Ok(sides),
        }
    }

    /// A seat that nobody finds: of a party that plays already.
    fn running_seat(&mut self, ticket: &Ticket) -> Result<Key, Illegal> {
        let candidate = Candidate::new(&self.rules, &self.roles, ticket, &mut self.symbols)?;
        let place = Place {
            revision: 0,
            since: self.clock,
            order: self.next_order,
        };
        let seat = Seat::new(&self.rules, ticket.clone(), candidate, place);
        self.next_order += 1;
        self.weight += ticket.weight();
        Ok(self.seats.insert(seat))
    }

    fn remove_seats(&mut self, keys: impl Iterator<Item = Key>) {
        for key in keys {
            let seat = self.seats.remove(key);
            self.weight -= seat.ticket.weight();
            seat.candidate.release(&mut self.symbols);
        }
    }
}

fn check_lease(lease: Duration) -> Result<(), Illegal> {
    if lease.is_zero() || lease > LEASE_MAX {
        return Err(Illegal::Lease);
    }
    Ok(())
}
