//! The relay side of a shard: how relayed addresses are opened, received at and sent from.
//!
//! There are two ways, and this is where a further one would join them: an XDP program that forwards
//! established channels would be told of them where [`RelaySide::open`] is told of addresses, and
//! what it leaves to user space would come and go by either of the ways below.
//!
//! - `sockets`: a bound socket for each address, in [`RelayPorts`]. The poller tells which are ready.
//! - `steered`: [`Steered`], one socket for all that comes and a raw one for all that goes. Bursts,
//!   and datagrams that have to be cut up, leave through bound sockets as well: [`RelayPorts`] then
//!   holds a few that only send.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc};

use tombolo_turn::server::{Fragment, RelayAddr, ShardIndex};

use super::{
    ports::RelayPorts,
    raw_header::RawHeader,
    token::{SocketId, Source},
};
use crate::{
    owners::PortOwners,
    socket::{Poller, Sender, Trains, UdpSocket},
    steering::{SteeredSocket, SteeredSockets},
};

/// The relayed addresses of a shard.
pub(super) struct RelaySide {
    shard: ShardIndex,
    owners: Arc<PortOwners>,
    /// Bound sockets: all addresses' in the one way, those that only send in the other.
    pub(super) ports: RelayPorts,
    pub(super) steered: Option<Steered>,
    open: u64,
}

/// What the steered way has instead of a socket for each address.
pub(super) struct Steered {
    /// IPv4 and IPv6.
    sockets: [Option<SteeredEnd>; 2],
    pub(super) sender: Sender,
    /// Addresses with a socket that only sends, the oldest in front.
    senders: VecDeque<RelayAddr>,
    /// Whether another address wanted one too.
    wants_room: bool,
    /// Counts the batches of packets.
    batch: u32,
    /// Whether one of them has been chosen in this batch.
    are_chosen: bool,
}

pub(super) struct SteeredEnd {
    pub(super) socket: SteeredSocket,
    pub(super) is_ready: bool,
    /// How many slots to offer it the next time.
    pub(super) share: usize,
}

/// How a packet leaves a relayed address.
pub(super) struct Way {
    pub(super) via: SocketId,
    /// Where the socket is told to send.
    pub(super) to: SocketAddr,
    /// Whether it may be cut up. A raw socket finds that in the header, where IPv4 has it.
    pub(super) fragment: Fragment,
    /// What goes in front of the payload, if the kernel doesn't make it.
    pub(super) header: Option<RawHeader>,
}

/// A packet on its way to a peer.
#[derive(Clone, Copy)]
pub(super) struct ToPeer<'a> {
    pub(super) at: RelayAddr,
    pub(super) to: SocketAddr,
    pub(super) fragment: Fragment,
    pub(super) payload: &'a [u8],
    /// Whether it is one of several that came together.
    pub(super) is_of_burst: bool,
}

impl RelaySide {
    /// # Errors
    /// The kernel's: no further descriptor can be watched.
    pub(super) fn new(
        shard: ShardIndex,
        owners: Arc<PortOwners>,
        steered: Option<SteeredSockets>,
        poller: &Poller,
    ) -> io::Result<Self> {
        let steered = steered.map(|sockets| Steered::new(sockets, poller));
        Ok(Self {
            shard,
            owners,
            ports: RelayPorts::default(),
            steered: steered.transpose()?,
            open: 0,
        })
    }

    /// Takes a relayed address for this shard; `false` if it is not to be had.
    pub(super) fn claim(&self, address: RelayAddr) -> bool {
        self.owners.claim(address, self.shard)
    }

    /// Makes a relayed address ready that was claimed, or gives it back.
    ///
    /// # Errors
    /// The kernel's: "in use" if another program has it, and others.
    pub(super) fn open(&mut self, address: RelayAddr, poller: &Poller) -> io::Result<()> {
        if self.steered.is_none()
            && let Err(error) = self.bind(address, poller)
        {
            self.ports.release(address);
            self.owners.release(address);
            return Err(error);
        }
        self.open += 1;
        Ok(())
    }

    /// Lets go of a relayed address.
    pub(super) fn close(&mut self, address: RelayAddr) {
        if self.owner(address.0) != Some(self.shard) {
            return;
        }
        self.owners.release(address);
        self.open -= 1;
        if let Some(steered) = &mut self.steered
            && self.ports.index_of(address).is_some()
        {
            steered.senders.retain(|sender| *sender != address);
        }
        self.ports.release(address);
    }

    /// Returns the shard that has a relayed address.
    pub(super) fn owner(&self, address: SocketAddr) -> Option<ShardIndex> {
        self.owners.owner(address)
    }

    /// Whose addresses are whose.
    pub(super) fn owners(&self) -> &PortOwners {
        &self.owners
    }

    /// The shard whose side this is.
    pub(super) fn shard(&self) -> ShardIndex {
        self.shard
    }

    /// How many addresses are open.
    pub(super) fn count(&self) -> u64 {
        self.open
    }

    /// Says how a packet leaves; `None` if its address is not open.
    pub(super) fn way(&mut self, packet: ToPeer<'_>) -> Option<Way> {
        let ToPeer {
            at, to, fragment, ..
        } = packet;
        let bound = |index| Way {
            via: SocketId::Relay(index),
            to,
            fragment,
            header: None,
        };
        if self.steered.is_none() {
            return self.ports.index_of(at).map(bound);
        }
        if (packet.is_of_burst || self.stays_bound(packet))
            && let Ok(index) = self.bound_sender(at)
        {
            self.choose(index);
            return Some(bound(index));
        }
        let header = RawHeader::new(at.0, to, fragment, packet.payload)?;
        Some(Way {
            via: SocketId::steered(at.0),
            to: SocketAddr::new(to.ip(), 0),
            fragment,
            header: Some(header),
        })
    }

    /// Whether a packet leaves by the bound socket that its address has. The raw socket sends all of a
    /// batch first: there it would overtake an earlier packet that leaves by the bound one; and what is as
    /// long as one that was refused there would be sent again behind all others.
    fn stays_bound(&self, packet: ToPeer<'_>) -> bool {
        let has_senders = |steered: &&Steered| !steered.senders.is_empty();
        let Some(steered) = self.steered.as_ref().filter(has_senders) else {
            return false;
        };
        let index = self.ports.index_of(packet.at);
        let port = index.and_then(|index| self.ports.get(index));
        port.is_some_and(|port| {
            let is_divided = packet.payload.len() >= port.divided_bytes_min;
            port.last_batch == steered.batch || is_divided && packet.fragment == Fragment::Allowed
        })
    }

    /// What has sent through a socket: `bound`, or what sends through raw ones.
    pub(super) fn sender_of<'a>(&'a self, bound: &'a Sender, via: SocketId) -> &'a Sender {
        match (via, &self.steered) {
            (SocketId::Steered(_), Some(steered)) => &steered.sender,
            (SocketId::Steered(_) | SocketId::Relay(_) | SocketId::Server(_), _) => bound,
        }
    }

    /// Notes that a packet of this batch leaves by a bound socket.
    fn choose(&mut self, index: u32) {
        if let (Some(steered), Some(port)) = (&mut self.steered, self.ports.get_mut(index)) {
            steered.are_chosen = true;
            port.last_batch = steered.batch;
        }
    }

    /// Notes that a payload of so many bytes had to be cut up by a bound socket. It is known of that
    /// address alone, whose peers may be those with a narrow way, and as long as it has the socket.
    pub(super) fn note_divided(&mut self, index: u32, bytes: usize) {
        if let Some(port) = self.ports.get_mut(index) {
            port.divided_bytes_min = port.divided_bytes_min.min(bytes);
        }
    }

    /// Returns the index of a bound socket of a steered address, which only sends; binds it first if
    /// it has none. There are a few of these.
    ///
    /// # Errors
    /// All are taken: [`Self::end_batch`] frees one. And the kernel's: somebody else has the port, or
    /// there are no descriptors left.
    pub(super) fn bound_sender(&mut self, address: RelayAddr) -> io::Result<u32> {
        if let Some(index) = self.ports.index_of(address) {
            return Ok(index);
        }
        let steered = self.steered.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        if steered.senders.len() >= SENDERS_MAX {
            steered.wants_room = true;
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let socket = UdpSocket::bind_send_only(address.0)?;
        let index = self.ports.insert(address, socket)?;
        steered.senders.push_back(address);
        Ok(index)
    }

    /// Begins with the next batch, and takes the oldest bound socket of a steered address away if there was
    /// one too few. No packet may wait that names a socket by its index: it would leave by that of another
    /// address.
    pub(super) fn end_batch(&mut self) {
        let Some(steered) = &mut self.steered else {
            return;
        };
        if std::mem::take(&mut steered.are_chosen) {
            steered.batch = steered.batch.wrapping_add(1);
        }
        if std::mem::take(&mut steered.wants_room)
            && let Some(oldest) = steered.senders.pop_front()
        {
            self.ports.release(oldest);
        }
    }

    fn bind(&mut self, address: RelayAddr, poller: &Poller) -> io::Result<()> {
        let socket = UdpSocket::bind_relay(address.0)?;
        let index = self.ports.insert(address, socket)?;
        let port = self.ports.get(index).ok_or(io::ErrorKind::NotFound)?;
        let source = Source::Socket(SocketId::Relay(index));
        poller.add(&port.socket, source.to_token())
    }
}

impl Steered {
    fn new(sockets: SteeredSockets, poller: &Poller) -> io::Result<Self> {
        let mut ends = [None, None];
        for ((index, socket), end) in (0..).zip(sockets.0).zip(&mut ends) {
            let Some(socket) = socket else { continue };
            let source = Source::Socket(SocketId::Steered(index));
            poller.add(&socket.receive, source.to_token())?;
            *end = Some(SteeredEnd {
                socket,
                is_ready: false,
                share: 1,
            });
        }
        Ok(Self {
            sockets: ends,
            // The kernel cuts nothing apart that a raw socket sends.
            sender: Sender::new(Trains::Single),
            senders: VecDeque::new(),
            wants_room: false,
            batch: 1,
            are_chosen: false,
        })
    }

    pub(super) fn end_mut(&mut self, index: u32) -> Option<&mut SteeredEnd> {
        self.sockets.get_mut(index as usize)?.as_mut()
    }

    /// Splits into what sends and what it sends through.
    pub(super) fn sender_for(&mut self, index: u32) -> Option<(&mut Sender, &SteeredEnd)> {
        let end = self.sockets.get(index as usize)?.as_ref()?;
        Some((&mut self.sender, end))
    }
}

/// Bound sockets that only send; each takes a descriptor and a few KiB of the kernel's memory.
const SENDERS_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::socket::raise_open_files_limit;

    #[test]
    fn a_bound_socket_of_a_steered_address_stays_its_own_until_no_packet_waits() {
        raise_open_files_limit();
        let mut relays = steered();
        // Some of the ports may be taken.
        let mut addresses = (20_000..30_000).map(address);
        let bound: Vec<(RelayAddr, u32)> = addresses
            .by_ref()
            .filter_map(|at| Some((at, relays.bound_sender(at).ok()?)))
            .take(SENDERS_MAX)
            .collect();
        let (oldest, index) = bound[0];
        let newcomer = addresses.next().expect("there are ports left");
        assert_eq!(way(&mut relays, oldest, true), SocketId::Relay(index));

        assert_eq!(way(&mut relays, newcomer, true), SocketId::Steered(0));
        assert_eq!(relays.ports.index_of(oldest), Some(index), "it is named");
        relays.end_batch();
        assert_eq!(relays.ports.index_of(oldest), None);
        let via = way(&mut relays, newcomer, true);
        assert_eq!(via, SocketId::Relay(index), "it is free again");
        relays.end_batch();
        assert_eq!(relays.ports.index_of(newcomer), Some(index));
    }

    /// Before it are those of the raw socket.
    #[test]
    fn what_comes_behind_a_burst_of_its_address_leaves_by_the_same_socket() {
        let [at, other] = free_addresses();
        let mut relays = steered();
        let raw = SocketId::Steered(0);
        for _ in 0..2 {
            assert_eq!(way(&mut relays, at, false), raw, "in front of it");
            let bound = way(&mut relays, at, true);
            assert!(matches!(bound, SocketId::Relay(_)), "{bound:?}");
            assert!(raw.rank() < bound.rank(), "it leaves earlier");
            assert_eq!(way(&mut relays, at, false), bound, "behind it");
            assert_eq!(way(&mut relays, other, false), raw, "another address");
            relays.end_batch();
        }
        assert_eq!(way(&mut relays, at, false), raw, "in the next batch");
    }

    #[test]
    fn what_had_to_be_cut_up_for_one_address_leaves_others_as_they_are() {
        let [narrow, other] = free_addresses();
        let mut relays = steered();
        let [index, _] = [narrow, other].map(|at| {
            let index = relays.bound_sender(at);
            index.expect("nobody else has the address")
        });
        relays.note_divided(index, PAYLOAD.len());
        relays.end_batch();
        let raw = SocketId::Steered(0);
        let bound = way(&mut relays, narrow, false);
        assert_eq!(bound, SocketId::Relay(index), "not by the raw one first");
        assert_eq!(way(&mut relays, other, false), raw);
    }

    fn way(relays: &mut RelaySide, at: RelayAddr, is_of_burst: bool) -> SocketId {
        let packet = ToPeer {
            at,
            to: SocketAddr::from(([127, 0, 0, 2], 9)),
            fragment: Fragment::Allowed,
            payload: PAYLOAD,
            is_of_burst,
        };
        relays.way(packet).expect("it is short").via
    }

    const PAYLOAD: &[u8] = b"one of several";

    /// Addresses that are steered, without what steers them.
    fn steered() -> RelaySide {
        let owners = PortOwners::new(&[address(0).0.ip()]);
        let sockets = SteeredSockets([None, None]);
        let poller = Poller::new().expect("there are descriptors");
        RelaySide::new(ShardIndex(0), Arc::new(owners), Some(sockets), &poller)
            .expect("there is nothing to wait for")
    }

    fn address(port: u16) -> RelayAddr {
        RelayAddr(SocketAddr::from(([127, 0, 0, 77], port)))
    }

    /// Addresses that nobody has, of an IP where nothing but this binds.
    fn free_addresses<const N: usize>() -> [RelayAddr; N] {
        let ip = IpAddr::from([127, 0, 0, 78]);
        let sockets = [(); N].map(|()| std::net::UdpSocket::bind((ip, 0)));
        sockets.map(|socket| {
            let address = socket.and_then(|socket| socket.local_addr());
            RelayAddr(address.expect("there are ports left"))
        })
    }
}
