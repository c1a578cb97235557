use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use indexmap::IndexMap;
use tombolo_stun::ChannelNumber;

/// A peer that the driver wants to exchange packets with.
pub(super) struct Peer {
    pub(super) channel: ChannelNumber,
    pub(super) want: Want,
    /// Until when the server surely knows the channel; `None` before the first success.
    pub(super) bound_until: Option<Instant>,
    /// Until when the server may know the channel, so that its number belongs to this peer alone.
    /// `None` until a ChannelBind was sent.
    pub(super) held_until: Option<Instant>,
}

/// What is to be done for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Keep a channel, which includes the permission.
    Channel,
    /// The server has no channel for it: keep a permission.
    Permission,
    /// Let go: the driver has released it.
    Nothing,
}

impl Peer {
    /// Notes that a ChannelBind is being sent.
    pub(super) fn on_bind_sent(&mut self, now: Instant) {
        self.held_until = Some(now + CHANNEL_LIFETIME + CHANNEL_QUARANTINE);
    }

    pub(super) fn on_bound(&mut self, now: Instant) {
        self.bound_until = Some(now + CHANNEL_LIFETIME);
        self.held_until = Some(now + CHANNEL_LIFETIME + CHANNEL_QUARANTINE);
    }

    pub(super) fn is_bound(&self, now: Instant) -> bool {
        self.bound_until.is_some_and(|until| now < until)
    }
}

/// The peers and their channels.
#[derive(Default)]
pub(super) struct Peers {
    by_address: IndexMap<SocketAddr, Peer>,
    /// Indexed by channel number less the lowest one.
    address_by_channel: Vec<Option<SocketAddr>>,
}

impl Peers {
    /// Adds a peer with a channel number of its own; `None` where there are too many.
    pub(super) fn insert(&mut self, address: SocketAddr) -> Option<&mut Peer> {
        if self.by_address.len() >= PEERS_MAX {
            return None;
        }
        let index = match self.address_by_channel.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.address_by_channel.push(None);
                self.address_by_channel.len() - 1
            }
        };
        let channel = ChannelNumber::new(ChannelNumber::MIN.number() + u16::try_from(index).ok()?)?;
        self.address_by_channel[index] = Some(address);
        let peer = Peer {
            channel,
            want: Want::Channel,
            bound_until: None,
            held_until: None,
        };
        Some(self.by_address.entry(address).or_insert(peer))
    }

    pub(super) fn remove(&mut self, address: SocketAddr) {
        // The last takes its place: the order stays a function of the calls made so far.
        if let Some(peer) = self.by_address.swap_remove(&address) {
            self.address_by_channel[index_of(peer.channel)] = None;
        }
    }

    pub(super) fn get(&self, address: SocketAddr) -> Option<&Peer> {
        self.by_address.get(&address)
    }

    pub(super) fn get_mut(&mut self, address: SocketAddr) -> Option<&mut Peer> {
        self.by_address.get_mut(&address)
    }

    /// The peer whose packets come on `channel`, also while its binding is not confirmed.
    pub(super) fn address_of(&self, channel: ChannelNumber) -> Option<SocketAddr> {
        *self.address_by_channel.get(index_of(channel))?
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.by_address.keys().copied().collect()
    }
}

fn index_of(channel: ChannelNumber) -> usize {
    usize::from(channel.number() - ChannelNumber::MIN.number())
}

/// Bound of the peer table, released peers whose channel is still held included.
const PEERS_MAX: usize = 256;
const _: () = assert!(PEERS_MAX <= 0x1000, "each peer has a channel number");
/// See RFC 8656 §12.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// For how long a channel number stays with its peer after the binding's end. See RFC 8656 §12.
const CHANNEL_QUARANTINE: Duration = Duration::from_secs(300);
