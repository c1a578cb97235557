use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use tombolo_stun::{Class, Icmp, MessageWriter, Method, TransactionId, XorPeerAddress};

use super::Server;
use super::address::{FiveTuple, PeerAddr, RelayAddr, canonical};
use super::stats::Refusal;

/// An ICMP or ICMPv6 error about a datagram that was sent from a relayed address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerError {
    /// ICMP type, or ICMPv6 type where the peer is IPv6.
    pub kind: u8,
    /// ICMP or ICMPv6 code.
    pub code: u8,
    /// The message's second word: for "packet too big" the next hop's MTU, in network order.
    pub data: [u8; 4],
}

/// Which clients were told of ICMP errors in the current second. Whoever guesses an address and its
/// peer can make up such errors, so their number is bounded: for each address, and in all.
#[derive(Debug, Default)]
pub(super) struct IcmpTold {
    /// `None` until one was told.
    second_began: Option<Instant>,
    total: u32,
    count_by_relay: BTreeMap<RelayAddr, u32>,
}

impl IcmpTold {
    /// Counts one more; `false` if that would be too many.
    fn take(&mut self, now: Instant, at: RelayAddr) -> bool {
        let is_over = |began: Instant| now.saturating_duration_since(began) >= SECOND;
        if self.second_began.is_none_or(is_over) {
            self.second_began = Some(now);
            self.total = 0;
            self.count_by_relay.clear();
        }
        if self.total >= TOLD_PER_SECOND_MAX {
            return false;
        }
        let count = self.count_by_relay.entry(at).or_insert(0);
        if *count >= TOLD_PER_SECOND_AND_RELAY_MAX {
            return false;
        }
        *count += 1;
        self.total += 1;
        true
    }
}

impl Server {
    /// Tells the client of an ICMP error, if it has a permission for the peer; where the error came
    /// from does not matter. See RFC 8656 §11.5 and §11.6.
    pub(super) fn on_peer_error(
        &mut self,
        now: Instant,
        at: RelayAddr,
        peer: PeerAddr,
        error: PeerError,
    ) -> Result<(), Refusal> {
        let peer = self.aliases.to_public(canonical(peer.0));
        let icmp = error.to_attribute(peer).ok_or(Refusal::IcmpIrrelevant)?;
        let allocation = self.allocations.by_relay(&at).ok_or(Refusal::RelayIdle)?;
        if !allocation.is_permitted(now, peer.ip()) {
            return Err(Refusal::PeerNotPermitted);
        }
        if allocation.is_detached() {
            return Err(Refusal::ClientAway);
        }
        if !self.icmp_told.take(now, at) {
            return Err(Refusal::IcmpTooMany);
        }
        let to = allocation.client;
        self.indicate_icmp(to, peer, icmp);
        Ok(())
    }

    fn indicate_icmp(&mut self, to: FiveTuple, peer: SocketAddr, icmp: Icmp) {
        let mut transaction = [0; 12];
        self.rng.fill_bytes(&mut transaction);
        let mut bytes = Vec::with_capacity(INDICATION_BYTES);
        let transaction = TransactionId(transaction);
        MessageWriter::new(&mut bytes, Class::Indication, Method::DATA, transaction)
            .attribute(&XorPeerAddress(peer))
            .attribute(&icmp);
        self.stats.icmp_errors += 1;
        self.transmit(to, bytes);
    }
}

impl PeerError {
    /// A datagram to `peer` is longer than the way in one piece. 0 stands for an MTU that is not known.
    #[must_use]
    pub fn too_big(peer: SocketAddr, mtu: u32) -> Self {
        let (kind, code) = match peer {
            SocketAddr::V4(_) => V4_TOO_BIG,
            SocketAddr::V6(_) => (V6_TOO_BIG, 0),
        };
        let data = mtu.to_be_bytes();
        Self { kind, code, data }
    }

    /// `None` for a type that is not passed on. See RFC 8656 §11.5.
    fn to_attribute(self, peer: SocketAddr) -> Option<Icmp> {
        let (is_relevant, is_too_big) = if peer.is_ipv4() {
            let is_relevant = matches!(self.kind, V4_UNREACHABLE | V4_TIME_EXCEEDED);
            (is_relevant, (self.kind, self.code) == V4_TOO_BIG)
        } else {
            let is_relevant = matches!(self.kind, V6_UNREACHABLE..=V6_TIME_EXCEEDED);
            (is_relevant, self.kind == V6_TOO_BIG)
        };
        is_relevant.then(|| Icmp {
            icmp_type: self.kind,
            icmp_code: u16::from(self.code),
            // The MTU, and zero for all else. See RFC 8656 §18.13.
            error_data: if is_too_big { self.data } else { [0; 4] },
        })
    }
}

const V4_UNREACHABLE: u8 = 3;
const V4_TIME_EXCEEDED: u8 = 11;
/// Destination unreachable: fragmentation needed and DF set.
const V4_TOO_BIG: (u8, u8) = (3, 4);
const V6_UNREACHABLE: u8 = 1;
const V6_TOO_BIG: u8 = 2;
const V6_TIME_EXCEEDED: u8 = 3;
/// Header, XOR-PEER-ADDRESS of IPv6, ICMP.
const INDICATION_BYTES: usize = 20 + 24 + 12;
/// ICMP errors that one relayed address's client is told of in a second.
const TOLD_PER_SECOND_AND_RELAY_MAX: u32 = 16;
/// ICMP errors that all clients of a shard are told of in a second.
const TOLD_PER_SECOND_MAX: u32 = 1024;
const SECOND: Duration = Duration::from_secs(1);
