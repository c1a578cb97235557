use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tombolo_stun::{AddressFamily, ChannelNumber, TransactionId};

use super::address::{FiveTuple, RelayAddr};
use super::auth::{Identity, TokenSession, User};
use super::bandwidth::{Bandwidth, Bucket, Millis};
use super::ledger::{Holder, Network, Usage};
use super::mobility::Mobility;
use super::sorted::Sorted;
use super::stats::Refusal;

/// What the server keeps for one client. See RFC 8656 §3.2.
///
/// Permissions and channels end by the clock: one that is over is as good as absent. They have one
/// timer together, which clears away what is over so that it counts no more.
pub(super) struct Allocation {
    pub(super) client: FiveTuple,
    pub(super) user: User,
    pub(super) relays: Relays,
    pub(super) carrier: Carrier,
    pub(super) created: Instant,
    pub(super) expires: Instant,
    pub(super) traffic: Traffic,
    /// The network that it counts for: the client's.
    pub(super) network: Network,
    /// What the ledger has of it.
    pub(super) booked: Usage,
    /// TCP connections to peers.
    pub(super) connections: u32,
    /// When to look whether permissions or channels are over.
    pub(super) clearing: Option<Instant>,
    /// `None` where as much goes through it as comes.
    throttle: Option<Box<Throttle>>,
    /// The transaction that made it, and what the answer said, for retransmissions.
    pub(super) transaction: TransactionId,
    pub(super) reply: Box<[u8]>,
    pub(super) path: Path,
    /// What is kept of the token that made it, or that refreshed it last.
    pub(super) session: Option<Box<TokenSession>>,
    /// `None` for an allocation that stays where it is.
    pub(super) mobility: Option<Box<Mobility>>,
    /// When the permission ends, by peer.
    permissions: Sorted<IpAddr, Instant>,
    channels: Sorted<ChannelNumber, Channel>,
    number_by_peer: Sorted<SocketAddr, ChannelNumber>,
}

/// What goes between an allocation's relayed address and its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// Datagrams. See RFC 8656.
    Udp,
    /// Connections. See RFC 6062.
    Tcp,
}

/// What is known about the path between the client and the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Path {
    /// How long after its challenge the request came that made the allocation: a round trip and
    /// what the client took to answer. `None` where the client used an older nonce.
    pub rtt: Option<Duration>,
    /// Requests that the client says it has sent, as far as it counts them (RFC 7982).
    pub requests_sent: u64,
    /// Those of them that came. The others were lost, or are under way.
    pub requests_received: u64,
}

/// What goes through an allocation at most, and what has gone.
struct Throttle {
    limit: Bandwidth,
    to_peer: Bucket,
    to_client: Bucket,
}

/// What a payload is measured by, where bandwidth is limited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter {
    /// Of the shard.
    pub(super) start: Instant,
    pub(super) now: Instant,
}

/// What went through an allocation since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Payloads sent on to peers.
    pub to_peer: Tally,
    /// Payloads sent on to the client.
    pub to_client: Tally,
    /// Packets of the client or of peers that were not sent on.
    pub dropped: u64,
}

/// A number of packets and the bytes of their payloads, or but the bytes of TCP connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Datagrams.
    pub packets: u64,
    /// Bytes of their payloads, or of TCP connections.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// The one or two relayed addresses of an allocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Relays {
    v4: Option<RelayAddr>,
    v6: Option<RelayAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Channel {
    peer: SocketAddr,
    expires: Instant,
}

impl Allocation {
    pub(super) fn new(
        client: FiveTuple,
        user: User,
        relays: Relays,
        carrier: Carrier,
        created: Instant,
        expires: Instant,
        transaction: TransactionId,
    ) -> Self {
        Self {
            client,
            user,
            relays,
            carrier,
            created,
            expires,
            traffic: Traffic::default(),
            network: Network::of(client.client),
            booked: Usage::default(),
            connections: 0,
            clearing: None,
            throttle: None,
            transaction,
            reply: Box::default(),
            path: Path::default(),
            session: None,
            mobility: None,
            permissions: Sorted::new(),
            channels: Sorted::new(),
            number_by_peer: Sorted::new(),
        }
    }

    /// Tells whether a request comes from whom the allocation belongs to now, wherever it was sent
    /// from: the user, and with a token the holder of the one that made or refreshed it last.
    ///
    /// A token does not say whose it is (RFC 7635 §4), and any client of the realm may have one. So
    /// where nothing but a request names the allocation (a mobility ticket, which whoever saw it
    /// on its way knows, or the number of a connection), the session's key has to show that
    /// it is the same client.
    pub(super) fn is_held_by(&self, identity: &Identity) -> bool {
        match (&self.session, &identity.session) {
            (Some(own), Some(given)) => own.is_same(given),
            (None, None) => self.user == identity.user,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Whether its client goes elsewhere from this address.
    pub(super) fn is_left_from(&self, client: FiveTuple) -> bool {
        self.client == client && self.next_client().is_some()
    }

    /// Returns the address that the client is going to.
    pub(super) fn next_client(&self) -> Option<FiveTuple> {
        self.mobility.as_ref()?.next
    }

    /// Tells whether the client's connection is closed, so that its address may be anybody's.
    pub(super) fn is_detached(&self) -> bool {
        self.mobility.as_ref().is_some_and(|one| one.is_detached)
    }

    pub(super) fn is_permitted(&self, now: Instant, peer: IpAddr) -> bool {
        self.permissions
            .get(&peer)
            .is_some_and(|expires| now < *expires)
    }

    /// Returns the peer of a channel that is bound.
    pub(super) fn peer_of(&self, now: Instant, number: ChannelNumber) -> Option<SocketAddr> {
        let channel = self
            .channels
            .get(&number)
            .filter(|channel| now < channel.expires)?;
        Some(channel.peer)
    }

    /// Returns the channel that is bound to a peer.
    pub(super) fn number_of(&self, now: Instant, peer: SocketAddr) -> Option<ChannelNumber> {
        let number = self.number_by_peer.get(&peer).copied()?;
        self.peer_of(now, number).map(|_| number)
    }

    /// Bounds what goes through it from now on, in each direction.
    pub(super) fn set_limit(&mut self, limit: Option<Bandwidth>) {
        match (&mut self.throttle, limit) {
            (Some(throttle), Some(limit)) => throttle.limit = limit,
            (throttle, limit) => {
                *throttle = limit.map(|limit| {
                    let (to_peer, to_client) = Default::default();
                    Box::new(Throttle {
                        limit,
                        to_peer,
                        to_client,
                    })
                });
            }
        }
    }

    /// Usage a payload on its way to a peer, if the allocation's bandwidth allows it.
    pub(super) fn spend_to_peer(&mut self, meter: Meter, bytes: usize) -> Result<(), Refusal> {
        if let Some(Throttle { limit, to_peer, .. }) = self.throttle.as_deref_mut()
            && !to_peer.take(meter.millis(), *limit, bytes)
        {
            return Err(Refusal::BandwidthUsed);
        }
        self.traffic.to_peer.add(bytes);
        Ok(())
    }

    /// Usage a payload on its way to the client, if the allocation's bandwidth allows it.
    pub(super) fn spend_to_client(&mut self, meter: Meter, bytes: usize) -> Result<(), Refusal> {
        if let Some(Throttle {
            limit, to_client, ..
        }) = self.throttle.as_deref_mut()
            && !to_client.take(meter.millis(), *limit, bytes)
        {
            return Err(Refusal::BandwidthUsed);
        }
        self.traffic.to_client.add(bytes);
        Ok(())
    }

    /// Says from where to where the payload of a channel goes.
    pub(super) fn on_channel(
        &self,
        now: Instant,
        number: ChannelNumber,
    ) -> Result<(RelayAddr, SocketAddr), Refusal> {
        let peer = self.peer_of(now, number).ok_or(Refusal::ChannelUnbound)?;
        Ok((self.relays.toward(peer.ip())?, peer))
    }

    /// Says from where a payload goes to a peer that has a permission.
    pub(super) fn on_send(&self, now: Instant, peer: SocketAddr) -> Result<RelayAddr, Refusal> {
        if self.carrier != Carrier::Udp {
            return Err(Refusal::CarrierWrong);
        }
        let at = self.relays.toward(peer.ip())?;
        if !self.is_permitted(now, peer.ip()) {
            return Err(Refusal::PermissionMissing);
        }
        Ok(at)
    }

    /// Usage permissions and channels that are not over.
    pub(super) fn count_live(&self, now: Instant) -> (usize, usize) {
        let permissions = self.permissions.values();
        let channels = self.channels.values().map(|channel| &channel.expires);
        (
            permissions.filter(|expires| now < **expires).count(),
            channels.filter(|expires| now < **expires).count(),
        )
    }

    /// Returns what it has that counts.
    pub(super) fn held(&self) -> Usage {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Usage {
            permissions: count(self.permissions.len()),
            channels: count(self.channels.len()),
            connections: self.connections,
            ..Usage::of_allocations(1, self.throttle.as_ref().map(|one| one.limit))
        }
    }

    /// Returns for whom it counts.
    pub(super) fn holder(&self) -> Holder<'_> {
        Holder {
            user: &self.user,
            network: Some(self.network),
        }
    }

    /// Returns when the first of its permissions and channels is over.
    pub(super) fn first_end(&self) -> Option<Instant> {
        let channels = self.channels.values().map(|channel| channel.expires);
        self.permissions.values().copied().chain(channels).min()
    }

    /// Forgets permissions and channels that are over.
    pub(super) fn clear_expired(&mut self, now: Instant) {
        self.retain_peers(now, |_| true);
    }

    /// Returns what it would have more with permissions for these peers, each of which is there once.
    pub(super) fn lacks_permissions(&self, peers: &[IpAddr]) -> Usage {
        let new = peers
            .iter()
            .filter(|peer| !self.permissions.contains_key(peer));
        Usage {
            permissions: u32::try_from(new.count()).unwrap_or(u32::MAX),
            ..Usage::default()
        }
    }

    /// Returns what it would have more with this channel, if that can be. See RFC 8656 §12.2. Ask
    /// [`Self::clear_expired`] before.
    pub(super) fn lacks_channel(
        &self,
        number: ChannelNumber,
        peer: SocketAddr,
    ) -> Result<Usage, Refusal> {
        let is_new = match (self.channels.get(&number), self.number_by_peer.get(&peer)) {
            (None, None) => true,
            (Some(channel), Some(_)) if channel.peer == peer => false,
            (_, _) => return Err(Refusal::ChannelConflict),
        };
        Ok(Usage {
            channels: u32::from(is_new),
            ..self.lacks_permissions(&[peer.ip()])
        })
    }

    /// Ends permissions and channels that are over, or to peers that `is_allowed` does not allow.
    pub(super) fn retain_peers(&mut self, now: Instant, is_allowed: impl Fn(IpAddr) -> bool) {
        self.permissions
            .retain(|peer, expires| now < *expires && is_allowed(*peer));
        self.channels
            .retain(|_, channel| now < channel.expires && is_allowed(channel.peer.ip()));
        let channels = &self.channels;
        self.number_by_peer
            .retain(|_, number| channels.contains_key(number));
    }

    /// Installs or refreshes a permission. See RFC 8656 §9. Ask [`Self::lacks_permissions`] before.
    pub(super) fn permit(&mut self, now: Instant, peer: IpAddr) {
        self.permissions.insert(peer, now + PERMISSION_LIFETIME);
    }

    /// Binds or refreshes a channel and its permission. See RFC 8656 §12.2. Ask
    /// [`Self::lacks_channel`] before.
    pub(super) fn bind(&mut self, now: Instant, number: ChannelNumber, peer: SocketAddr) {
        self.permit(now, peer.ip());
        let expires = now + CHANNEL_LIFETIME;
        self.channels.insert(number, Channel { peer, expires });
        self.number_by_peer.insert(peer, number);
    }
}

impl Meter {
    fn millis(self) -> Millis {
        Millis::between(self.start, self.now)
    }
}

impl Relays {
    pub(super) fn of(&self, family: AddressFamily) -> Option<RelayAddr> {
        match family {
            AddressFamily::V4 => self.v4,
            AddressFamily::V6 => self.v6,
        }
    }

    /// Returns the address from which a peer is reached: the one of its family.
    pub(super) fn toward(&self, peer: IpAddr) -> Result<RelayAddr, Refusal> {
        let at = self.of(AddressFamily::of(peer));
        at.ok_or(Refusal::FamilyMismatch)
    }

    pub(super) fn insert(&mut self, relay: RelayAddr) {
        match AddressFamily::of(relay.0.ip()) {
            AddressFamily::V4 => self.v4 = Some(relay),
            AddressFamily::V6 => self.v6 = Some(relay),
        }
    }

    pub(super) fn remove(&mut self, family: AddressFamily) -> Option<RelayAddr> {
        match family {
            AddressFamily::V4 => self.v4.take(),
            AddressFamily::V6 => self.v6.take(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = RelayAddr> + use<> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// See RFC 8656 §9.
pub(super) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// See RFC 8656 §12.
pub(super) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
