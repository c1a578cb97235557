//! Tickets come, change and go.

use std::cmp::Reverse;

use tombolo_wire::{NodeId, UserId};

use super::candidate::Candidate;
use super::joining::Place;
use super::search::Progress;
use super::seat::{Key, Seat};
use super::{NODES_LOST_MAX, Pool, Rank, Timer};
use crate::event::{EndReason, Event, Illegal};
use crate::rules::Rules;
use crate::ticket::{Device, Player, Reach, Ticket, check_party};
use crate::word::{TicketId, Time};

impl Pool {
    pub(super) fn on_submitted(
        &mut self,
        ticket: &Ticket,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        ticket.check()?;
        let has_ended = self.ended.contains(self.clock, &ticket.id);
        if has_ended || self.key_by_id.contains_key(&ticket.id) {
            return Err(Illegal::Repeated);
        }
        if self.key_by_id.len() >= self.rules.tickets_max {
            return Err(Illegal::Full);
        }
        self.check_weight(0, ticket.weight())?;
        self.check_users(&ticket.players, None)?;
        self.check_devices(ticket.devices())?;
        let candidate = Candidate::new(&self.rules, &self.roles, ticket, &mut self.symbols)?;
        let place = Place {
            revision: 0,
            since: self.clock,
            order: self.next_order,
        };
        self.next_order += 1;
        self.insert(ticket.clone(), candidate, place);
        let estimate = self.estimate(&ticket.id);
        let ticket = ticket.id;
        events.push(Event::Queued { ticket, estimate });
        Ok(())
    }

    /// Puts a ticket into the pool that has nothing against it.
    pub(super) fn insert(&mut self, ticket: Ticket, candidate: Candidate, place: Place) {
        let (id, weight) = (ticket.id, ticket.weight());
        let seat = Seat::new(&self.rules, ticket, candidate, place);
        let key = self.seats.insert(seat);
        self.weight += weight;
        self.key_by_id.insert(id, key);
        self.add_users(key);
        self.enter(key, self.clock);
    }

    pub(super) fn on_changed(
        &mut self,
        id: &TicketId,
        players: &[Player],
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let key = self.key(id)?;
        if self.seats[key].held.is_some() {
            return Err(Illegal::Held);
        }
        check_party(players)?;
        self.check_users(players, Some(key))?;
        self.check_devices(players.iter().filter_map(|player| player.device.as_ref()))?;
        let ticket = Ticket {
            players: players.to_vec(),
            ..self.seats[key].ticket.clone()
        };
        self.check_weight(self.seats[key].ticket.weight(), ticket.weight())?;
        let candidate = Candidate::new(&self.rules, &self.roles, &ticket, &mut self.symbols)?;
        self.leave(key);
        self.remove_users(key);
        let seat = &mut self.seats[key];
        self.weight -= seat.ticket.weight();
        self.weight += ticket.weight();
        seat.ticket = ticket;
        seat.revision += 1;
        let revision = seat.revision;
        // Who is not in the party any more is not waited for.
        let gone = seat.away.extract_if(.., |user, _| {
            !players.iter().any(|player| player.user == *user)
        });
        for (_, until) in gone.collect::<Vec<_>>() {
            self.timers.remove(&(until, Timer::Grace(key)));
        }
        for until in self.seats[key].away.values() {
            self.timers.insert((*until, Timer::Grace(key)));
        }
        let before = std::mem::replace(&mut self.seats[key].candidate, candidate);
        before.release(&mut self.symbols);
        self.add_users(key);
        self.enter(key, self.clock);
        let ticket = *id;
        events.push(Event::Changed { ticket, revision });
        Ok(())
    }

    pub(super) fn on_cancelled(
        &mut self,
        id: &TicketId,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let key = self.key(id)?;
        if self.seats[key].held.is_some() {
            return Err(Illegal::Held);
        }
        self.end(key, EndReason::Cancelled, events);
        Ok(())
    }

    pub(super) fn on_dropped(
        &mut self,
        id: &TicketId,
        user: &UserId,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let key = self.key(id)?;
        let seat = &self.seats[key];
        let is_there = seat
            .ticket
            .players
            .iter()
            .any(|player| player.user == *user);
        if !is_there || seat.away.contains_key(user) {
            return Err(Illegal::Unknown);
        }
        // While its match asks whether it is ready, its answer is waited for, and nothing else.
        if seat.held.is_none() && seat.ticket.grace.is_zero() {
            self.end(key, EndReason::Gone, events);
            return Ok(());
        }
        let until = self.clock.after(seat.ticket.grace);
        self.leave(key);
        self.seats[key].away.insert(user.clone(), until);
        self.timers.insert((until, Timer::Grace(key)));
        events.push(Event::Dropped {
            ticket: *id,
            user: user.clone(),
            until,
        });
        Ok(())
    }

    pub(super) fn on_returned(
        &mut self,
        id: &TicketId,
        user: &UserId,
        device: Option<&Device>,
        events: &mut Vec<Event>,
    ) -> Result<(), Illegal> {
        let key = self.key(id)?;
        self.check_devices(device.into_iter())?;
        let seat = &mut self.seats[key];
        let mut players = seat.ticket.players.iter_mut();
        let player = players.find(|player| player.user == *user);
        let player = player.ok_or(Illegal::Unknown)?;
        if let Some(device) = device {
            let before = player.weight();
            player.device = Some(device.clone());
            self.weight = self.weight - before + player.weight();
        }
        let Some(until) = seat.away.remove(user) else {
            return device.map(|_| ()).ok_or(Illegal::Unknown);
        };
        self.timers.remove(&(until, Timer::Grace(key)));
        // Others of the party may have the same time.
        for until in self.seats[key].away.values() {
            self.timers.insert((*until, Timer::Grace(key)));
        }
        self.enter(key, self.clock);
        events.push(Event::Returned {
            ticket: *id,
            user: user.clone(),
        });
        Ok(())
    }

    /// Whoever knew the ticket before may claim it as before: it is no other party, so its revision stays.
    pub(super) fn on_reached(
        &mut self,
        id: &TicketId,
        user: &UserId,
        reach: Reach,
    ) -> Result<(), Illegal> {
        let key = self.key(id)?;
        let mut ticket = self.seats[key].ticket.clone();
        let mut players = ticket.players.iter_mut();
        let player = players.find(|player| player.user == *user);
        let player = player.ok_or(Illegal::Unknown)?;
        if player.reach == reach {
            return Ok(());
        }
        player.reach = reach;
        let candidate = Candidate::new(&self.rules, &self.roles, &ticket, &mut self.symbols)?;
        self.leave(key);
        let seat = &mut self.seats[key];
        seat.ticket = ticket;
        let before = std::mem::replace(&mut seat.candidate, candidate);
        before.release(&mut self.symbols);
        self.enter(key, self.clock);
        Ok(())
    }

    pub(super) fn on_node_lost(&mut self, node: &NodeId, lost: u64, events: &mut Vec<Event>) {
        if self
            .lost_by_node
            .get(node)
            .is_some_and(|last| *last >= lost)
        {
            return;
        }
        self.lost_by_node.shift_remove(node);
        if self.lost_by_node.len() >= NODES_LOST_MAX {
            self.lost_by_node.shift_remove_index(0);
        }
        self.lost_by_node.insert(node.clone(), lost);
        let is_lost = |device: &Device| device.node == *node && device.incarnation <= lost;
        let all = self.seats.iter();
        let dropped: Vec<_> = all
            .flat_map(|(_, seat)| seat.ticket.players.iter().map(move |player| (seat, player)))
            .filter(|(_, player)| player.device.as_ref().is_some_and(is_lost))
            .map(|(seat, player)| (seat.ticket.id, player.user.clone()))
            .collect();
        for (ticket, user) in dropped {
            // Those that are away already stay so; parties of running matches have no place here.
            let _ = self.on_dropped(&ticket, &user, events);
        }
    }

    pub(super) fn on_grace_over(&mut self, key: Key, events: &mut Vec<Event>) {
        // Whoever is still asked whether it is ready has until then; see `on_ready_over`.
        if self.seats[key].held.is_none() {
            self.end(key, EndReason::Gone, events);
        }
    }

    pub(super) fn key(&self, id: &TicketId) -> Result<Key, Illegal> {
        self.key_by_id.get(id).copied().ok_or(Illegal::Unknown)
    }

    /// Ends a ticket that found nobody.
    pub(super) fn end(&mut self, key: Key, reason: EndReason, events: &mut Vec<Event>) {
        let ticket = self.forget(key).id;
        events.push(Event::Ended { ticket, reason });
    }

    /// Takes a ticket out of the pool.
    pub(super) fn forget(&mut self, key: Key) -> Ticket {
        self.leave(key);
        self.remove_users(key);
        self.matcher.proposed.remove(&key);
        let seat = self.seats.remove(key);
        for until in seat.away.values() {
            self.timers.remove(&(*until, Timer::Grace(key)));
        }
        self.key_by_id.remove(&seat.ticket.id);
        self.weight -= seat.ticket.weight();
        self.ended
            .insert(self.clock, seat.ticket.id, seat.ticket.grace);
        seat.candidate.release(&mut self.symbols);
        seat.ticket
    }

    /// Lets the matcher know of a ticket, if it can be matched now.
    pub(super) fn enter(&mut self, key: Key, now: Time) {
        let seat = &mut self.seats[key];
        if seat.held.is_some() || !seat.away.is_empty() || seat.class.is_some() {
            return;
        }
        let rank = rank(seat, key);
        set_gates(&self.rules, seat, now);
        if let Some(next) = seat.next_change {
            self.matcher.changes.insert((next, key));
        }
        seat.is_lonely = false;
        seat.rests_until = Time::ZERO;
        seat.progress = Progress::default();
        let asks = seat.candidate.demands.needs().next().is_some();
        let seats = &self.seats;
        if asks && !self.matcher.index.is_asked() {
            let here = seats.iter().filter(|(_, seat)| seat.class.is_some());
            self.matcher.index.begin_to_be_asked(here);
        }
        let class = self.matcher.index.insert(&self.rules, key, &seats[key]);
        self.matcher.kinds.insert(&seats[key].candidate);
        self.seats[key].class = Some(class);
        self.matcher.waiting.insert(rank);
        self.matcher.fresh.insert(rank);
        self.matcher.has_news = true;
    }

    /// Takes a ticket away from the matcher.
    pub(super) fn leave(&mut self, key: Key) {
        let seat = &mut self.seats[key];
        let rank = rank(seat, key);
        self.matcher.waiting.remove(&rank);
        self.matcher.fresh.remove(&rank);
        if let Some(next) = seat.next_change.take() {
            self.matcher.changes.remove(&(next, key));
        }
        if let Some(class) = seat.class.take() {
            let seat = &self.seats[key];
            self.matcher.index.remove(&self.rules, key, seat, class);
            self.matcher.kinds.remove(&seat.candidate);
        }
    }

    pub(super) fn check_users(&self, players: &[Player], but: Option<Key>) -> Result<(), Illegal> {
        for player in players {
            let user = self.symbols.find(player.user.as_str());
            let key = user.and_then(|user| self.key_by_user.get(&user));
            if key.is_some_and(|key| Some(*key) != but) {
                let user = player.user.clone();
                return Err(Illegal::Busy { user });
            }
        }
        Ok(())
    }

    /// Whether no device is connected to a life of a node that is over.
    fn check_devices<'d>(
        &self,
        mut devices: impl Iterator<Item = &'d Device>,
    ) -> Result<(), Illegal> {
        if devices.any(|device| self.is_lost(device)) {
            return Err(Illegal::Lost);
        }
        Ok(())
    }

    /// Whether a device is connected to a life of a node that is over.
    pub(super) fn is_lost(&self, device: &Device) -> bool {
        let lost = self.lost_by_node.get(&device.node);
        lost.is_some_and(|lost| device.incarnation <= *lost)
    }

    pub(super) fn add_users(&mut self, key: Key) {
        for user in &self.seats[key].candidate.users {
            self.key_by_user.insert(*user, key);
        }
    }

    fn remove_users(&mut self, key: Key) {
        for user in &self.seats[key].candidate.users {
            self.key_by_user.remove(user);
        }
    }
}

/// Where a ticket stands among those that wait.
pub(super) fn rank(seat: &Seat, key: Key) -> Rank {
    (Reverse(seat.ticket.priority), seat.order, key)
}

/// Sets what a ticket asks of the others now.
pub(super) fn set_gates(rules: &Rules, seat: &mut Seat, now: Time) {
    let waited = now.since(seat.since);
    let Seat {
        candidate, gates, ..
    } = seat;
    candidate.set_gates(rules, waited, gates);
    let changes = rules
        .rules
        .iter()
        .filter_map(|rule| rule.relax.next_change(rule.base, waited));
    seat.next_change = changes.min().map(|after| seat.since.after(after));
}
