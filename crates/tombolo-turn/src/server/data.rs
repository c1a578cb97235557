use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Instant;

use rand::Rng;
use tombolo_stun::{
    AttributeType, CHANNEL_HEADER_BYTES, ChannelData, MAGIC_COOKIE, Message, XorPeerAddress,
};

use super::Server;
use super::address::{FiveTuple, PeerAddr, RelayAddr, canonical};
use super::allocation::Meter;
use super::forward::{Forward, Fragment, Header};
use super::request::KNOWN_ATTRIBUTES;
use super::stats::Refusal;

impl Server {
    /// Sends the payload of a channel on to its peer. See RFC 8656 §12.6.
    pub(super) fn forward_channel_data(
        &mut self,
        now: Instant,
        from: FiveTuple,
        data: &[u8],
    ) -> Result<Forward, Refusal> {
        let decoded = ChannelData::decode(data).map_err(|_| Refusal::Malformed)?;
        let meter = self.meter(now);
        let allocation = self
            .allocations
            .by_client_mut(&from)
            .ok_or(Refusal::AllocationMissing)?;
        let bytes = decoded.data.len();
        let (at, peer) = allocation
            .on_channel(now, decoded.number)
            .and_then(|way| allocation.spend_to_peer(meter, bytes).map(|()| way))
            .inspect_err(|_| allocation.traffic.dropped += 1)?;
        if allocation.next_client() == Some(from) {
            self.on_arrived(from);
        }
        let range = CHANNEL_HEADER_BYTES..CHANNEL_HEADER_BYTES + bytes;
        Ok(self.send_on(at, peer, range, Fragment::Allowed))
    }

    /// Sends the payload of a Send indication on to its peer. See RFC 8656 §11.2.
    pub(super) fn forward_send(
        &mut self,
        now: Instant,
        from: FiveTuple,
        message: &Message<'_>,
    ) -> Result<Forward, Refusal> {
        if message.unknown_required(&KNOWN_ATTRIBUTES).next().is_some() {
            return Err(Refusal::AttributeUnknown);
        }
        let XorPeerAddress(peer) = message.required().map_err(|_| Refusal::RequestBad)?;
        let range = message
            .value_range(AttributeType::DATA)
            .ok_or(Refusal::RequestBad)?;
        let fragment = match message.has(AttributeType::DONT_FRAGMENT) {
            true => Fragment::forbidden_if_it_counts(from, peer),
            false => Fragment::Allowed,
        };
        let meter = self.meter(now);
        let allocation = self
            .allocations
            .by_client_mut(&from)
            .ok_or(Refusal::AllocationMissing)?;
        let policy = &self.policy;
        let at = allocation
            .on_send(now, peer)
            .and_then(|at| match policy.check(peer) {
                Ok(()) => Ok(at),
                Err(_) => Err(Refusal::PeerForbidden),
            })
            .and_then(|at| allocation.spend_to_peer(meter, range.len()).map(|()| at))
            .inspect_err(|_| allocation.traffic.dropped += 1)?;
        if allocation.next_client() == Some(from) {
            self.on_arrived(from);
        }
        Ok(self.send_on(at, peer, range, fragment))
    }

    /// Sends a packet from a peer on to the client. See RFC 8656 §11.3 and §12.7.
    pub(super) fn forward_from_peer(
        &mut self,
        now: Instant,
        at: RelayAddr,
        from: PeerAddr,
        data: &[u8],
    ) -> Result<Forward, Refusal> {
        let peer = self.aliases.to_public(canonical(from.0));
        let meter = self.meter(now);
        let allocation = self
            .allocations
            .by_relay_mut(&at)
            .ok_or(Refusal::RelayIdle)?;
        if !allocation.is_permitted(now, peer.ip()) {
            allocation.traffic.dropped += 1;
            return Err(Refusal::PeerNotPermitted);
        }
        if allocation.is_detached() {
            allocation.traffic.dropped += 1;
            return Err(Refusal::ClientAway);
        }
        allocation
            .spend_to_client(meter, data.len())
            .inspect_err(|_| allocation.traffic.dropped += 1)?;
        let to = allocation.client;
        let number = allocation.number_of(now, peer);
        let mut header = Header::new();
        let pads = match number {
            Some(number) => {
                header.push(&number.header(data.len()).ok_or(Refusal::PayloadTooLong)?);
                to.transport.is_stream()
            }
            None => {
                self.push_data_header(&mut header, peer, data.len())?;
                true
            }
        };
        let padding = if pads {
            data.len().next_multiple_of(4) - data.len()
        } else {
            0
        };
        self.stats.to_client_packets += 1;
        self.stats.to_client_bytes += data.len() as u64;
        Ok(Forward::ToClient {
            to,
            header,
            range: 0..data.len(),
            padding,
        })
    }

    /// Says what payloads are measured by.
    fn meter(&self, now: Instant) -> Meter {
        let start = self.clock.start;
        Meter { start, now }
    }

    fn send_on(
        &mut self,
        at: RelayAddr,
        peer: SocketAddr,
        range: Range<usize>,
        fragment: Fragment,
    ) -> Forward {
        self.stats.to_peer_packets += 1;
        self.stats.to_peer_bytes += range.len() as u64;
        Forward::ToPeer {
            at,
            to: PeerAddr(self.aliases.to_local(peer)),
            range,
            fragment,
        }
    }

    /// Writes a Data indication up to where its payload begins. See RFC 8656 §11.
    fn push_data_header(
        &mut self,
        header: &mut Header,
        peer: SocketAddr,
        payload: usize,
    ) -> Result<(), Refusal> {
        let address_bytes: u16 = if peer.is_ipv4() { 8 } else { 20 };
        let too_long = |_| Refusal::PayloadTooLong;
        let attributes = 4 + usize::from(address_bytes) + 4 + payload.next_multiple_of(4);
        let attributes = u16::try_from(attributes).map_err(too_long)?;
        let payload = u16::try_from(payload).map_err(too_long)?;
        // The mask of XOR-PEER-ADDRESS: the cookie, then the transaction.
        let mut mask = [0; 16];
        mask[..4].copy_from_slice(&MAGIC_COOKIE);
        self.rng.fill_bytes(&mut mask[4..]);

        header.push(&DATA_INDICATION);
        header.push(&attributes.to_be_bytes());
        header.push(&mask);
        header.push(&AttributeType::XOR_PEER_ADDRESS.0.to_be_bytes());
        header.push(&address_bytes.to_be_bytes());
        let [p, q] = peer.port().to_be_bytes();
        let port = [p ^ mask[0], q ^ mask[1]];
        match peer.ip() {
            IpAddr::V4(ip) => {
                header.push(&[0, 1, port[0], port[1]]);
                header.push(&xor(ip.octets(), mask));
            }
            IpAddr::V6(ip) => {
                header.push(&[0, 2, port[0], port[1]]);
                header.push(&xor(ip.octets(), mask));
            }
        }
        header.push(&AttributeType::DATA.0.to_be_bytes());
        header.push(&payload.to_be_bytes());
        Ok(())
    }
}

fn xor<const N: usize>(mut octets: [u8; N], mask: [u8; 16]) -> [u8; N] {
    octets
        .iter_mut()
        .zip(mask)
        .for_each(|(octet, mask)| *octet ^= mask);
    octets
}

/// The first two bytes of a Data indication.
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];
