use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use tombolo_stun::{
    AddressFamily, ChannelNumber, Lifetime, Message, MobilityTicket, RequestedAddressFamily,
    XorPeerAddress,
};

use super::address::{RelayAddr, canonical};
use super::allocate::{bad, bad_family, requested_lifetime, seconds};
use super::allocation::Carrier;
use super::auth::{Identity, User};
use super::reply::{Ask, Rejection};
use super::stats::Refusal;
use super::table::AllocationId;
use super::{CloseReason, Command, Event, Server};

impl Server {
    /// Extends or ends an allocation. See RFC 8656 §8.2.
    pub(super) fn on_refresh(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
        id: AllocationId,
    ) -> Result<(), Rejection> {
        let requested = requested_lifetime(message)?;
        let family = message
            .attribute::<RequestedAddressFamily>()
            .map_err(bad_family)?;
        let family = family.map(|RequestedAddressFamily(family)| family);
        let allocation = self.allocations.require_mut(id)?;
        if family.is_some_and(|family| allocation.relays.of(family).is_none()) {
            return Err(Refusal::FamilyMismatch.into());
        }
        let lifetime = match requested {
            Some(requested) if requested.is_zero() => {
                self.end_relays(now, id, family);
                requested
            }
            requested => {
                let lifetime = self.granted_lifetime(now, identity, requested);
                self.allocations.set_expiry(id, now + lifetime);
                if let Some(allocation) = self.allocations.get_mut(id) {
                    allocation.session.clone_from(&identity.session);
                }
                lifetime
            }
        };
        let ticket = self.renew_ticket(now, id);
        self.accept(ask, identity, |writer| {
            writer.attribute(&Lifetime(seconds(lifetime)));
            if let Some(ticket) = &ticket {
                writer.attribute(&MobilityTicket(ticket));
            }
        });
        Ok(())
    }

    /// Installs or refreshes permissions, all or none. See RFC 8656 §10.2.
    pub(super) fn on_create_permission(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
        id: AllocationId,
    ) -> Result<(), Rejection> {
        self.clear_expired(now, id);
        let allocation = self.allocations.require_mut(id)?;
        let mut peers = Vec::new();
        for peer in message.all::<XorPeerAddress>() {
            let XorPeerAddress(peer) = peer.map_err(bad)?;
            allocation.relays.toward(peer.ip())?;
            self.policy.check_ip(peer.ip())?;
            peers.push(peer.ip());
        }
        if peers.is_empty() {
            return Err(Refusal::RequestBad.into());
        }
        peers.sort_unstable();
        peers.dedup();
        let more = allocation.lacks_permissions(&peers);
        self.check_more(id, more)?;
        self.permit_all(now, id, &peers);
        self.accept(ask, identity, |_| {});
        Ok(())
    }

    /// Binds or refreshes a channel. See RFC 8656 §12.2.
    pub(super) fn on_channel_bind(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
        id: AllocationId,
    ) -> Result<(), Rejection> {
        let number = message.required::<ChannelNumber>().map_err(bad)?;
        let XorPeerAddress(peer) = message.required().map_err(bad)?;
        self.check_tunnel(ask.from)?;
        self.clear_expired(now, id);
        let allocation = self.allocations.require_mut(id)?;
        if allocation.carrier != Carrier::Udp {
            return Err(Refusal::CarrierWrong.into());
        }
        allocation.relays.toward(peer.ip())?;
        self.policy.check(peer)?;
        let more = allocation.lacks_channel(number, peer)?;
        self.check_more(id, more)?;
        if let Some(allocation) = self.allocations.get_mut(id) {
            allocation.bind(now, number, peer);
        }
        self.settle(id);
        self.accept(ask, identity, |_| {});
        Ok(())
    }

    /// Installs a permission on every allocation of a time-limited user, as if the client had asked.
    pub(super) fn on_permit(&mut self, now: Instant, user: &str, peer: IpAddr) {
        let peer = canonical(SocketAddr::new(peer, 0)).ip();
        if self.policy.check_ip(peer).is_err() {
            self.stats.refuse(Refusal::PermitRefused);
            return;
        }
        let user = User::time_limited(self.authority.default_realm(), user);
        let ids: Vec<AllocationId> = self.allocations.ids_of(&user).collect();
        for id in ids {
            self.clear_expired(now, id);
            let allocation = self.allocations.get(id);
            let Some(allocation) = allocation.filter(|one| one.relays.toward(peer).is_ok()) else {
                continue;
            };
            let more = allocation.lacks_permissions(&[peer]);
            match self.check_more(id, more) {
                Ok(()) => self.permit_all(now, id, &[peer]),
                Err(_) => self.stats.refuse(Refusal::PermitRefused),
            }
        }
    }

    /// Installs or refreshes permissions, for which there is room.
    fn permit_all(&mut self, now: Instant, id: AllocationId, peers: &[IpAddr]) {
        if let Some(allocation) = self.allocations.get_mut(id) {
            peers.iter().for_each(|peer| allocation.permit(now, *peer));
        }
        self.settle(id);
    }

    /// Clears away what is over of an allocation's permissions and channels.
    pub(super) fn clear_expired(&mut self, now: Instant, id: AllocationId) {
        if let Some(allocation) = self.allocations.get_mut(id) {
            allocation.clear_expired(now);
        }
        self.settle(id);
    }

    /// Books what an allocation has now, and notes when some of it will be over.
    pub(super) fn settle(&mut self, id: AllocationId) {
        if let Some(allocation) = self.allocations.get_mut(id) {
            self.ledger.settle(allocation);
        }
        self.allocations.plan_clearing(id);
    }

    /// Ends an allocation, or where it has two addresses only the one of a family, with what belongs
    /// to that.
    fn end_relays(&mut self, now: Instant, id: AllocationId, family: Option<AddressFamily>) {
        let Some(allocation) = self.allocations.get_mut(id) else {
            return;
        };
        let is_one_of_two = family.is_some() && allocation.relays.iter().count() == 2;
        match family.filter(|_| is_one_of_two) {
            Some(family) => {
                if let Some(relay) = allocation.relays.remove(family) {
                    allocation.retain_peers(now, |peer| AddressFamily::of(peer) != family);
                    self.allocations.forget_relay(relay);
                    self.close_connections_of_family(now, id, family);
                    self.release(now, relay);
                    self.settle(id);
                }
            }
            None => self.close(now, id, CloseReason::Refreshed),
        }
    }

    /// Removes an allocation with all that belongs to it.
    pub(super) fn close(&mut self, now: Instant, id: AllocationId, reason: CloseReason) {
        self.close_connections(id);
        self.set_next(id, None);
        let Some(allocation) = self.allocations.remove(id) else {
            return;
        };
        for relay in allocation.relays.iter() {
            self.release(now, relay);
        }
        self.ledger
            .give_back(allocation.holder(), allocation.booked);
        self.stats.allocations = self.allocations.len() as u64;
        if reason == CloseReason::Expired {
            self.stats.allocations_expired += 1;
        }
        self.tell(Event::Closed {
            client: allocation.client,
            user: allocation.user.into_name(),
            reason,
        });
        self.tell_if_drained();
    }

    /// Gives a relayed address back to the driver.
    pub(super) fn release(&mut self, now: Instant, relay: RelayAddr) {
        self.ports.rest(now, relay);
        self.commands.push_back(Command::ReleasePort(relay));
    }
}
