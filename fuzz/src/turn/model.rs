//! What a server should know of its clients, in the simplest words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tombolo_stun::ChannelNumber;
use tombolo_turn::server::{ConnectionId, FiveTuple, RelayAddr};

/// An allocation.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) client: FiveTuple,
    pub(super) user: String,
    pub(super) carrier: Carrier,
    pub(super) relays: Vec<RelayAddr>,
    /// Whether its client has a ticket.
    pub(super) is_mobile: bool,
    /// Whether its client's connection is closed.
    pub(super) is_detached: bool,
    /// Where its client is going.
    pub(super) next: Option<FiveTuple>,
    /// When the permission ends, by peer.
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<ChannelNumber, (SocketAddr, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Udp,
    Tcp,
}

/// A TCP connection between a relayed address and a peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) at: RelayAddr,
    pub(super) peer: SocketAddr,
    /// The client's connection that it is joined with.
    pub(super) joined: Option<FiveTuple>,
}

/// What clients may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Whether [`DENIED`] is denied.
    pub(super) denies: bool,
}

/// All allocations and connections.
#[derive(Debug, Default)]
pub(super) struct Models {
    pub(super) all: Vec<Model>,
    pub(super) links: BTreeMap<ConnectionId, Link>,
}

impl Models {
    /// Finds the allocation of a client, at its old address or the new one.
    pub(super) fn of(&self, client: FiveTuple) -> Option<&Model> {
        let mut found = self.all.iter().filter(|model| model.is_of(client));
        let first = found.next()?;
        assert!(found.next().is_none(), "{client:?} has two allocations");
        Some(first)
    }

    pub(super) fn of_mut(&mut self, client: FiveTuple) -> Option<&mut Model> {
        self.all.iter_mut().find(|model| model.is_of(client))
    }

    pub(super) fn at(&self, relay: RelayAddr) -> Option<&Model> {
        self.all.iter().find(|model| model.relays.contains(&relay))
    }

    pub(super) fn at_mut(&mut self, relay: RelayAddr) -> Option<&mut Model> {
        let mut all = self.all.iter_mut();
        all.find(|model| model.relays.contains(&relay))
    }

    /// Checks what must hold between any two operations.
    pub(super) fn check(&self, now: Instant, policy: Policy, bound: &BTreeSet<RelayAddr>) {
        let mut count_by_user = BTreeMap::<&str, usize>::new();
        for model in &self.all {
            *count_by_user.entry(&model.user).or_default() += 1;
            assert!(model.permissions_live(now) <= PERMISSIONS_MAX);
            assert!(model.channels_live(now) <= CHANNELS_MAX);
            assert!(!model.relays.is_empty());
            assert!(model.relays.iter().all(|relay| bound.contains(relay)));
            let at = |link: &&Link| model.relays.contains(&link.at);
            assert!(self.links.values().filter(at).count() <= CONNECTIONS_MAX);
        }
        assert!(count_by_user.values().all(|count| *count <= PER_USER_MAX));
        for link in self.links.values() {
            let owner = self.at(link.at);
            assert!(owner.is_some(), "a connection outlives its allocation");
            assert!(policy.allows(link.peer), "{} is denied", link.peer);
        }
        let present = self.all.iter().filter(|model| !model.is_detached);
        let clients = present.map(|model| model.client);
        let nexts = self.all.iter().filter_map(|model| model.next);
        let all: Vec<FiveTuple> = clients.chain(nexts).collect();
        let unique: BTreeSet<&FiveTuple> = all.iter().collect();
        assert_eq!(unique.len(), all.len(), "two allocations of one client");
    }
}

impl Model {
    pub(super) fn new(
        client: FiveTuple,
        user: String,
        carrier: Carrier,
        relays: Vec<RelayAddr>,
    ) -> Self {
        Self {
            client,
            is_mobile: false,
            is_detached: false,
            user,
            carrier,
            relays,
            next: None,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
        }
    }

    fn is_of(&self, client: FiveTuple) -> bool {
        (self.client == client && !self.is_detached) || self.next == Some(client)
    }

    pub(super) fn relay_for(&self, peer: IpAddr) -> Option<RelayAddr> {
        let is_of_family = |relay: &&RelayAddr| relay.0.is_ipv4() == peer.is_ipv4();
        self.relays.iter().find(is_of_family).copied()
    }

    pub(super) fn is_permitted(&self, now: Instant, peer: IpAddr) -> bool {
        self.permissions.get(&peer).is_some_and(|end| now < *end)
    }

    pub(super) fn permit(&mut self, now: Instant, peer: IpAddr) {
        self.permissions.insert(peer, now + PERMISSION_LIFETIME);
    }

    /// Takes an introduction over if the server has to.
    pub(super) fn introduce(&mut self, now: Instant, peer: IpAddr) {
        let has_room = self.is_permitted(now, peer) || self.permissions_live(now) < PERMISSIONS_MAX;
        if has_room && self.relay_for(peer).is_some() {
            self.permit(now, peer);
        }
    }

    pub(super) fn bind(&mut self, now: Instant, number: ChannelNumber, peer: SocketAddr) {
        self.permit(now, peer.ip());
        self.channels.retain(|_, (_, end)| now < *end);
        for (other, (bound, _)) in &self.channels {
            assert_eq!(*other == number, *bound == peer, "one to one");
        }
        self.channels.insert(number, (peer, now + CHANNEL_LIFETIME));
    }

    pub(super) fn channel(&self, now: Instant, number: ChannelNumber) -> Option<SocketAddr> {
        let (peer, end) = self.channels.get(&number)?;
        (now < *end).then_some(*peer)
    }

    pub(super) fn has_channel_to(&self, now: Instant, peer: SocketAddr) -> bool {
        let mut all = self.channels.values();
        all.any(|(bound, end)| *bound == peer && now < *end)
    }

    /// Forgets one of two addresses with what belongs to it. See RFC 8656 §8.1.
    pub(super) fn give_back(&mut self, relay: RelayAddr) {
        self.relays.retain(|one| *one != relay);
        let is_left = |peer: IpAddr| peer.is_ipv4() != relay.0.is_ipv4();
        self.permissions.retain(|peer, _| is_left(*peer));
        self.channels.retain(|_, (peer, _)| is_left(peer.ip()));
    }

    /// Forgets what another policy does not allow.
    pub(super) fn judge(&mut self, policy: Policy) {
        self.permissions.retain(|peer, _| policy.allows_ip(*peer));
        self.channels
            .retain(|_, (peer, _)| policy.allows_ip(peer.ip()));
    }

    fn permissions_live(&self, now: Instant) -> usize {
        self.permissions.values().filter(|end| now < **end).count()
    }

    fn channels_live(&self, now: Instant) -> usize {
        let all = self.channels.values();
        all.filter(|(_, end)| now < *end).count()
    }
}

impl Policy {
    /// Says of the addresses that the world uses which ones a client may send to.
    pub(super) fn allows(self, peer: SocketAddr) -> bool {
        if [RELAY_IP_V4, RELAY_IP_V6].contains(&peer.ip().to_string().as_str()) {
            return RELAY_PORTS.contains(&peer.port());
        }
        peer.port() != 0 && self.allows_ip(peer.ip())
    }

    pub(super) fn allows_ip(self, peer: IpAddr) -> bool {
        if self.denies && peer.to_string() == DENIED {
            return false;
        }
        match peer {
            IpAddr::V4(ip) => {
                let is_special = ip.is_loopback() || ip.is_unspecified() || ip.is_link_local();
                let is_special = is_special || ip.is_multicast() || ip.is_broadcast();
                let is_lab = ip.octets()[0] == 10;
                let is_own = ip.to_string() == OWN_IP;
                !is_special && !is_own && (is_lab || !ip.is_private())
            }
            IpAddr::V6(ip) => {
                let [first, ..] = ip.segments();
                first & 0xe000 == 0x2000 && first != 0x2002
            }
        }
    }
}

pub(super) const RELAY_IP_V4: &str = "9.9.9.9";
pub(super) const RELAY_IP_V6: &str = "2a00::9";
/// The node's other address.
const OWN_IP: &str = "9.9.9.10";
pub(super) const RELAY_PORTS: std::ops::RangeInclusive<u16> = 50000..=50015;
/// A peer that is denied from time to time.
pub(super) const DENIED: &str = "8.8.4.5";
pub(super) const PERMISSIONS_MAX: usize = 4;
pub(super) const CHANNELS_MAX: usize = 3;
pub(super) const CONNECTIONS_MAX: usize = 2;
pub(super) const PER_USER_MAX: usize = 3;
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
