//! Allocations that keep going while their client moves to another address. See RFC 8016.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo_stun::{AttributeType, Lifetime, Message, MobilityTicket, TransactionId};

use super::Server;
use super::address::{FiveTuple, RelayAddr, canonical};
use super::allocate::{bad, requested_lifetime, seconds};
use super::auth::{Identity, User};
use super::operate::alternates_for;
use super::output::{CloseReason, Event};
use super::policy::Denial;
use super::reply::{Ask, Rejection};
use super::stats::Refusal;
use super::table::AllocationId;
use super::ticket::{Quarters, Ticket, trace_of};

/// What makes an allocation mobile.
pub(super) struct Mobility {
    /// Names it in tickets.
    pub(super) serial: u32,
    /// Generation of the newest ticket.
    generation: u16,
    /// Generation of the oldest ticket that still counts: the one of the address in use.
    oldest: u16,
    /// Whether the connection of its client is closed, which may come back by another one.
    pub(super) is_detached: bool,
    /// Where the client is going, as long as it has not sent data from there.
    pub(super) next: Option<FiveTuple>,
    /// The last Refresh that announced a move, or took one back, for retransmissions.
    announced: Option<Announced>,
}

/// A Refresh that announced a move, or took one back, and what was answered.
struct Announced {
    /// When the client was heard from there last, without having arrived.
    heard: Instant,
    from: FiveTuple,
    transaction: TransactionId,
    lifetime: Duration,
    ticket: Box<[u8]>,
}

impl Mobility {
    fn new(serial: u32) -> Self {
        Self {
            serial,
            generation: 0,
            oldest: 0,
            is_detached: false,
            next: None,
            announced: None,
        }
    }

    fn accepts(&self, ticket: &Ticket) -> bool {
        let since = |generation: u16| generation.wrapping_sub(self.oldest);
        since(ticket.generation) <= since(self.generation)
    }
}

impl Server {
    /// Decides whether an allocation that is asked for becomes mobile. See RFC 8016 §3.1.2.
    pub(super) fn requested_mobility(&self, message: &Message<'_>) -> Result<bool, Refusal> {
        let ticket = message.attribute::<MobilityTicket<'_>>().map_err(bad)?;
        match ticket {
            None => Ok(false),
            Some(MobilityTicket([])) if self.has_mobility => Ok(true),
            Some(MobilityTicket([])) => Err(Refusal::MobilityForbidden),
            Some(MobilityTicket(_)) => Err(Refusal::RequestBad),
        }
    }

    /// Makes a new allocation mobile, and its first ticket.
    pub(super) fn new_mobility(&mut self, now: Instant, user: &User) -> (Box<Mobility>, Vec<u8>) {
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let ticket = self.ticket(now, serial, 0, user);
        (Box::new(Mobility::new(serial)), ticket)
    }

    /// Makes a fresh ticket for a Refresh from where the client is; `None` if it is not mobile.
    pub(super) fn renew_ticket(&self, now: Instant, id: AllocationId) -> Option<Vec<u8>> {
        let allocation = self.allocations.get(id)?;
        let mobility = allocation.mobility.as_ref()?;
        let (serial, generation) = (mobility.serial, mobility.generation);
        Some(self.ticket(now, serial, generation, &allocation.user))
    }

    /// Refreshes an allocation from an address that is not its own. See RFC 8016 §3.2.2.
    pub(super) fn on_move(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
    ) -> Result<(), Rejection> {
        if !self.has_mobility {
            return Err(Refusal::MobilityForbidden.into());
        }
        let MobilityTicket(bytes) = message.required().map_err(bad)?;
        let ticket = self.tickets.open(bytes, self.clock.unix(now));
        let ticket = ticket.ok_or(Refusal::TicketInvalid)?;
        if ticket.node != self.node {
            return Err(self.ticket_elsewhere(ask, identity, &ticket));
        }
        if ticket.shard != self.shard {
            // The other shard cannot see what the client has here.
            self.check_new_address(None, ask.from)?;
            let shard = ticket.shard;
            return Ok(self.redirect(now, ask, identity, shard, message.as_bytes())?);
        }
        let found = self.allocations.by_serial(ticket.serial);
        let (id, allocation) = found.ok_or(Refusal::AllocationMissing)?;
        if !allocation.is_held_by(identity) {
            return Err(Refusal::UserWrong.into());
        }
        let mobility = allocation.mobility.as_ref();
        let mobility = mobility.ok_or(Refusal::AllocationMissing)?;
        if let Some(last) = &mobility.announced
            && last.from == ask.from
            && last.transaction == ask.transaction
        {
            let (lifetime, ticket) = (last.lifetime, last.ticket.to_vec());
            self.accept_move(ask, identity, lifetime, &ticket);
            self.on_heard(now, id, ask.from);
            return Ok(());
        }
        if !mobility.accepts(&ticket) {
            return Err(Refusal::TicketUsed.into());
        }
        let is_back = allocation.is_left_from(ask.from);
        if !is_back {
            self.check_new_address(Some(id), ask.from)?;
        }
        let requested = requested_lifetime(message)?;
        if requested.is_some_and(|lifetime| lifetime.is_zero()) {
            self.close(now, id, CloseReason::Refreshed);
            self.accept(ask, identity, |writer| {
                writer.attribute(&Lifetime(0));
            });
            return Ok(());
        }
        // Nothing that can fail comes after this.
        if !is_back {
            self.move_network(id, ask.from.client)?;
        }
        let lifetime = self.granted_lifetime(now, identity, requested);
        self.begin_move(now, ask, identity, lifetime, id)
    }

    /// Refuses a ticket that another node has made, and tells where that is to whom it made it for.
    fn ticket_elsewhere(&self, ask: Ask, identity: &Identity, ticket: &Ticket) -> Rejection {
        let servers = self.servers_by_node.get(&ticket.node);
        let servers = servers.filter(|_| ticket.user == trace_of(&identity.user));
        // Nodes may share an address, by which the client would come here once more.
        let here = self.aliases.to_public(canonical(ask.from.server));
        let others = servers.into_iter().flatten().filter(|one| **one != here);
        let others: Vec<SocketAddr> = others.copied().collect();
        Rejection::ticket_elsewhere(alternates_for(ask.from, &others, 0))
    }

    /// Checks that a client can come from this address to an allocation, which may be on another
    /// shard: it has not, and nobody else has.
    fn check_new_address(
        &self,
        id: Option<AllocationId>,
        from: FiveTuple,
    ) -> Result<(), Rejection> {
        if let Some((other, allocation)) = self.allocations.by_client(&from) {
            if Some(other) != id {
                return Err(Refusal::AllocationExists.into());
            }
            if allocation.client == from {
                // Nothing has changed. See RFC 8016 §3.2.1.
                return Err(Refusal::RequestBad.into());
            }
        }
        self.check_tunnel(from)?;
        // An allocation in the making will be there soon.
        if self.pending_of(from).is_some() {
            return Err(Refusal::AllocationExists.into());
        }
        // No client reaches the server by a relayed address of its own node.
        let local = self.aliases.to_local(canonical(from.client));
        if self.allocations.by_relay(&RelayAddr(local)).is_some() {
            return Err(Denial::OwnAddress.into());
        }
        Ok(())
    }

    fn begin_move(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        lifetime: Duration,
        id: AllocationId,
    ) -> Result<(), Rejection> {
        self.allocations.set_expiry(id, now + lifetime);
        let policy = &self.policy;
        let allocation = self.allocations.require_mut(id)?;
        // Peers are judged anew by the policy of today.
        allocation.retain_peers(now, |peer| policy.check_ip(peer).is_ok());
        self.ledger.settle(allocation);
        let (client, user) = (allocation.client, allocation.user.clone());
        let is_back = allocation.is_left_from(ask.from);
        let Some(mobility) = &mut allocation.mobility else {
            return Err(Refusal::AllocationMissing.into());
        };
        let is_detached = mobility.is_detached;
        mobility.generation = mobility.generation.wrapping_add(1);
        let (serial, generation) = (mobility.serial, mobility.generation);
        let ticket = self.ticket(now, serial, generation, &user);
        self.accept_move(ask, identity, lifetime, &ticket);
        match is_back {
            true => self.give_up_move(id),
            false => self.set_next(id, Some(ask.from)),
        }
        let allocation = self.allocations.get_mut(id);
        if let Some(mobility) = allocation.and_then(|one| one.mobility.as_mut()) {
            mobility.announced = Some(Announced {
                heard: now,
                from: ask.from,
                transaction: ask.transaction,
                lifetime,
                ticket: ticket.into(),
            });
        }
        if is_back {
            return Ok(());
        }
        self.tell(Event::Moving {
            client,
            to: ask.from,
            user: user.into_name(),
        });
        // Nothing is to be waited for where the old address is dead.
        if is_detached {
            self.complete_move(id);
        }
        Ok(())
    }

    fn accept_move(&mut self, ask: Ask, identity: &Identity, lifetime: Duration, ticket: &[u8]) {
        self.accept(ask, identity, |writer| {
            writer.attribute(&Lifetime(seconds(lifetime)));
            writer.attribute(&MobilityTicket(ticket));
        });
    }

    /// Notes that a client is in use from an address: if it was going there, it has arrived.
    pub(super) fn on_arrived(&mut self, client: FiveTuple) {
        if let Some((id, allocation)) = self.allocations.by_client(&client)
            && allocation.next_client() == Some(client)
        {
            self.complete_move(id);
        }
    }

    /// Notes that a client asks for something. If it does so from where it was, and was last heard from where
    /// it goes so long ago that this cannot have been on its way since before, it goes on from here.
    pub(super) fn on_heard(&mut self, now: Instant, id: AllocationId, from: FiveTuple) {
        let Some(allocation) = self.allocations.get_mut(id) else {
            return;
        };
        let is_left = allocation.is_left_from(from);
        let mobility = allocation.mobility.as_mut();
        let announced = mobility.and_then(|mobility| mobility.announced.as_mut());
        let Some(announced) = announced else {
            return;
        };
        if announced.from == from {
            announced.heard = now;
        } else if is_left && announced.heard + REQUEST_LIFETIME <= now {
            self.give_up_move(id);
        }
    }

    /// Leaves an allocation where it is, as its client does not go on to where it announced.
    fn give_up_move(&mut self, id: AllocationId) {
        self.set_next(id, None);
        if let Some(allocation) = self.allocations.get_mut(id) {
            if let Some(mobility) = &mut allocation.mobility {
                mobility.announced = None;
            }
            let client = allocation.client.client;
            self.move_network_back(id, client);
        }
    }

    /// Notes where a client is going now, in place of where it was.
    pub(super) fn set_next(&mut self, id: AllocationId, next: Option<FiveTuple>) {
        let Some(given_up) = self.allocations.set_next(id, next) else {
            return;
        };
        let user = self.allocations.get(id).map(|one| one.user.clone());
        self.tell(Event::MoveGivenUp {
            to: given_up,
            user: user.map(User::into_name).unwrap_or_default(),
        });
    }

    /// Makes the new address the allocation's own: the client has sent data from there, or closed
    /// the connection from the old one. See RFC 8016 §3.2.2.
    fn complete_move(&mut self, id: AllocationId) {
        let Some((from, to)) = self.allocations.complete_move(id) else {
            return;
        };
        let user = self.allocations.get_mut(id).map(|allocation| {
            if let Some(mobility) = &mut allocation.mobility {
                mobility.oldest = mobility.generation;
                mobility.is_detached = false;
            }
            allocation.user.clone().into_name()
        });
        self.stats.allocations_moved += 1;
        self.tell(Event::Moved {
            client: from,
            to,
            user: user.unwrap_or_default(),
        });
    }

    /// Ends the allocation of a client whose connection is closed. A mobile one goes on: with the
    /// other connection, where there are two, else until the client comes back or it expires.
    pub(super) fn on_client_gone(&mut self, now: Instant, from: FiveTuple) {
        let Some((id, allocation)) = self.allocations.by_client(&from) else {
            return;
        };
        let is_moving = allocation.next_client().is_some();
        match (is_moving, allocation.client == from) {
            (true, true) => self.complete_move(id),
            (true, false) => self.give_up_move(id),
            (false, _) if allocation.mobility.is_some() => self.allocations.detach(id),
            (false, _) => self.close(now, id, CloseReason::ClientGone),
        }
    }

    fn ticket(&self, now: Instant, serial: u32, generation: u16, user: &User) -> Vec<u8> {
        self.tickets.seal(Ticket {
            node: self.node,
            shard: self.shard,
            serial,
            generation,
            expiry: Quarters::after(self.clock.unix(now)),
            user: trace_of(user),
        })
    }
}

/// Tells whether a Refresh is about an allocation of another address.
pub(super) fn is_move(message: &Message<'_>) -> bool {
    message.has(AttributeType::MOBILITY_TICKET)
}

/// For how long a request is sent again and may be on its way: 39.5 s. See RFC 8489 §6.2.1.
const REQUEST_LIFETIME: Duration = Duration::from_secs(40);
