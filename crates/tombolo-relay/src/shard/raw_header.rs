//! IP and UDP headers of packets that leave through a raw socket.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
};

use tombolo_turn::server::Fragment;

/// An IP header and a UDP header, with the checksum of the latter. The kernel adds length, identification
/// and checksum of an IPv4 header.
#[derive(Clone, Copy)]
pub(super) struct RawHeader {
    bytes: [u8; Self::BYTES_MAX],
    length: u8,
}

impl RawHeader {
    const BYTES_MAX: usize = V6_BYTES + UDP_BYTES;

    /// `None` if the addresses are of different families or the payload fits into no datagram.
    pub(super) fn new(
        from: SocketAddr,
        to: SocketAddr,
        fragment: Fragment,
        payload: &[u8],
    ) -> Option<Self> {
        let udp_length = u16::try_from(UDP_BYTES + payload.len()).ok()?;
        let mut bytes = [0; Self::BYTES_MAX];
        let (ip_length, addresses) = match (from, to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let header = bytes.first_chunk_mut()?;
                let total = udp_length.checked_add(V4_BYTES as u16)?;
                *header = v4(*from.ip(), *to.ip(), fragment, total);
                (V4_BYTES, sum(&header[12..]))
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                let header = bytes.first_chunk_mut()?;
                *header = v6(*from.ip(), *to.ip(), udp_length);
                (V6_BYTES, sum(&header[8..]))
            }
            (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {
                return None;
            }
        };
        let udp = bytes[ip_length..].first_chunk_mut::<UDP_BYTES>()?;
        udp[0..2].copy_from_slice(&from.port().to_be_bytes());
        udp[2..4].copy_from_slice(&to.port().to_be_bytes());
        udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
        let pseudo = [0, UDP, udp[4], udp[5]];
        let checksum = fold(addresses + sum(&pseudo) + sum(&udp[..6]) + sum(payload));
        udp[6..8].copy_from_slice(&checksum.to_ne_bytes());
        Some(Self {
            bytes,
            length: (ip_length + UDP_BYTES) as u8,
        })
    }
}

/// Where a packet with such a header comes from and goes to.
pub(super) fn ends(header: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(*header.get(at..)?.first_chunk()?));
    if header.len() == V4_BYTES + UDP_BYTES {
        let ip = |at: usize| Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?));
        let from = (ip(12)?, port(V4_BYTES)?);
        Some((from.into(), (ip(16)?, port(V4_BYTES + 2)?).into()))
    } else {
        let ip = |at: usize| Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?));
        let from = (ip(8)?, port(V6_BYTES)?);
        Some((from.into(), (ip(24)?, port(V6_BYTES + 2)?).into()))
    }
}

impl Deref for RawHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// See RFC 791 §3.1.
fn v4(from: Ipv4Addr, to: Ipv4Addr, fragment: Fragment, length: u16) -> [u8; V4_BYTES] {
    let mut header = [0; V4_BYTES];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    if fragment == Fragment::Forbidden {
        header[6..8].copy_from_slice(&DONT_FRAGMENT);
    }
    header[8] = HOPS;
    header[9] = UDP;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    header
}

/// See RFC 8200 §3.
fn v6(from: Ipv6Addr, to: Ipv6Addr, length: u16) -> [u8; V6_BYTES] {
    let mut header = [0; V6_BYTES];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = UDP;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    header
}

/// The sum that RFC 1071 describes, not yet folded. It does not depend on the order of bytes, as long
/// as the result is written in the order that the words were read in.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let words = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)));
    words.sum::<u64>() + u64::from(u32::from_ne_bytes(last))
}

/// The checksum that belongs to a sum; never zero, which would mean that there is none.
fn fold(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => u16::MAX,
        checksum => checksum,
    }
}

const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
/// The protocol's number.
const UDP: u8 = 17;
/// Flags and offset of an IPv4 header that forbid to cut it up.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
/// How many routers a packet may pass; what the kernel says by default.
const HOPS: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_make_all_words_of_a_packet_add_up_to_nothing() {
        let pairs = [
            ("192.0.2.1:49152", "198.51.100.7:9"),
            ("[2001:db8::1]:49152", "[2001:db8::2]:9"),
        ];
        for (from, to) in pairs {
            let (from, to) = (address(from), address(to));
            for len in [0, 1, 2, 3, 5, 171, 172, 1200] {
                let payload: Vec<u8> = (0..len).map(|i: u16| i as u8).collect();
                let header =
                    RawHeader::new(from, to, Fragment::Allowed, &payload).expect("it fits");
                assert_eq!(verify(&header, &payload), 0xffff, "{from}, {len} bytes");
                assert_eq!(ends(&header), Some((from, to)));
            }
        }
    }

    #[test]
    fn a_payload_whose_sum_is_zero_still_has_a_checksum() {
        let (from, to) = (address("192.0.2.1:49152"), address("198.51.100.7:9"));
        let header = RawHeader::new(from, to, Fragment::Allowed, &[0, 0]).expect("it fits");
        // Filling the word with the checksum makes the sum what has a checksum of zero.
        let payload = [header[26], header[27]];
        let header = RawHeader::new(from, to, Fragment::Allowed, &payload).expect("it fits");
        assert_eq!(header[26..28], [0xff, 0xff]);
        assert_eq!(verify(&header, &payload), 0xffff);
    }

    #[test]
    fn what_must_not_be_cut_up_says_so() {
        let (from, to) = (address("192.0.2.1:49152"), address("198.51.100.7:9"));
        let header = RawHeader::new(from, to, Fragment::Forbidden, b"x").expect("it fits");
        assert_eq!(header[6..8], DONT_FRAGMENT);
    }

    #[test]
    fn families_do_not_mix_and_nothing_is_longer_than_a_datagram() {
        let (v4, v6) = (address("192.0.2.1:49152"), address("[2001:db8::1]:49152"));
        assert!(RawHeader::new(v4, v6, Fragment::Allowed, b"").is_none());
        assert!(RawHeader::new(v4, v4, Fragment::Allowed, &[0; 65_507]).is_some());
        assert!(RawHeader::new(v4, v4, Fragment::Allowed, &[0; 65_508]).is_none());
    }

    /// Adds all up as RFC 768 and RFC 8200 §8.1 say, word by word.
    fn verify(header: &[u8], payload: &[u8]) -> u32 {
        let ip = header.len() - 8;
        let addresses = if ip == 20 { 12 } else { 8 };
        let mut bytes = header[addresses..].to_vec();
        bytes.extend_from_slice(payload);
        if bytes.len() % 2 == 1 {
            bytes.push(0);
        }
        let words = bytes
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let mut sum = words.sum::<u32>() + 17 + (8 + payload.len() as u32);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a literal")
    }
}
