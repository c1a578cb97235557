//! What an ICMP error says: about which datagram, and what is wrong.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tombolo_turn::server::PeerError;

/// An ICMP or ICMPv6 error about a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Where the datagram came from.
    pub from: SocketAddr,
    /// Where it went.
    pub to: SocketAddr,
    /// What is wrong.
    pub error: PeerError,
}

/// Why a packet tells of no datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IcmpUnusable {
    /// It ends too early, or its lengths or versions are wrong.
    #[error("malformed")]
    Malformed,
    /// Its checksum is wrong.
    #[error("wrong checksum")]
    ChecksumWrong,
    /// It is no error, or of a kind that no client is told of. See RFC 8656 §11.5.
    #[error("no error for clients")]
    Irrelevant,
    /// What it quotes is not the beginning of a UDP datagram.
    #[error("not about UDP")]
    NotUdp,
    /// The datagram came from no relayed address.
    #[error("not about a relayed address")]
    NotOurs,
}

impl IcmpError {
    /// Parses a whole IPv4 packet. See RFC 792.
    ///
    /// # Errors
    /// Says why it tells of no datagram.
    pub fn parse_v4(packet: &[u8]) -> Result<Self, IcmpUnusable> {
        let (outer, message) = v4_header(packet)?;
        if outer.protocol != ICMP {
            return Err(IcmpUnusable::Irrelevant);
        }
        let ([kind, code, _, _, _, _, high, low], quoted) = icmp_header(message)?;
        if !matches!(kind, V4_UNREACHABLE | V4_TIME_EXCEEDED) {
            return Err(IcmpUnusable::Irrelevant);
        }
        // For ICMPv6 the kernel has looked at it.
        if !is_checksum_right(message) {
            return Err(IcmpUnusable::ChecksumWrong);
        }
        let (header, udp) = v4_header(quoted)?;
        if header.protocol != UDP || header.offset != 0 {
            return Err(IcmpUnusable::NotUdp);
        }
        let (from, to) = ports(udp)?;
        // The first half of the word is for RFC 4884.
        let data = [0, 0, high, low];
        Ok(Self {
            from: (header.from, from).into(),
            to: (header.to, to).into(),
            error: PeerError { kind, code, data },
        })
    }

    /// Parses an ICMPv6 message, whose checksum must be known to be right. What it quotes must have no
    /// extension headers, as nothing that leaves a relayed address does but fragments. See RFC 4443.
    ///
    /// # Errors
    /// Says why it tells of no datagram.
    pub fn parse_v6(message: &[u8]) -> Result<Self, IcmpUnusable> {
        let ([kind, code, _, _, data @ ..], quoted) = icmp_header(message)?;
        if !matches!(kind, V6_UNREACHABLE..=V6_TIME_EXCEEDED) {
            return Err(IcmpUnusable::Irrelevant);
        }
        let header: [u8; V6_BYTES] = array_at(quoted, 0)?;
        if header[0] >> 4 != 6 {
            return Err(IcmpUnusable::Malformed);
        }
        let (from, to) = ports(quoted.get(V6_BYTES..).unwrap_or_default())?;
        if header[6] != UDP {
            return Err(IcmpUnusable::NotUdp);
        }
        let ip = |at| Ok(Ipv6Addr::from(array_at::<16>(&header, at)?));
        Ok(Self {
            from: (ip(8)?, from).into(),
            to: (ip(24)?, to).into(),
            error: PeerError { kind, code, data },
        })
    }
}

/// What matters of an IPv4 header. See RFC 791 §3.1.
struct V4Header {
    protocol: u8,
    /// Of a fragment, in units of eight bytes.
    offset: u16,
    from: Ipv4Addr,
    to: Ipv4Addr,
}

/// The header of an IPv4 packet, or of the beginning of one, and what follows it.
fn v4_header(packet: &[u8]) -> Result<(V4Header, &[u8]), IcmpUnusable> {
    let fixed: [u8; V4_BYTES_MIN] = array_at(packet, 0)?;
    let len = usize::from(fixed[0] & 0x0f) * 4;
    if fixed[0] >> 4 != 4 || len < V4_BYTES_MIN {
        return Err(IcmpUnusable::Malformed);
    }
    let rest = packet.get(len..).ok_or(IcmpUnusable::Malformed)?;
    let header = V4Header {
        protocol: fixed[9],
        offset: u16::from_be_bytes(array_at(&fixed, 6)?) & V4_OFFSET_MASK,
        from: array_at::<4>(&fixed, 12)?.into(),
        to: array_at::<4>(&fixed, 16)?.into(),
    };
    Ok((header, rest))
}

/// Type, code, checksum and second word of an ICMP message, and what it quotes.
fn icmp_header(message: &[u8]) -> Result<([u8; ICMP_BYTES], &[u8]), IcmpUnusable> {
    let (header, quoted) = message.split_first_chunk().ok_or(IcmpUnusable::Malformed)?;
    Ok((*header, quoted))
}

/// The ports of a UDP datagram whose header is whole, as every ICMP error quotes it.
fn ports(udp: &[u8]) -> Result<(u16, u16), IcmpUnusable> {
    let [a, b, c, d, ..]: [u8; UDP_BYTES] = array_at(udp, 0)?;
    Ok((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// See RFC 1071.
fn is_checksum_right(message: &[u8]) -> bool {
    let (words, rest) = message.as_chunks();
    let last = rest.first().map_or(0, |last| u64::from(*last) << 8);
    let words = words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)));
    let mut sum = words.sum::<u64>() + last;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], IcmpUnusable> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or(IcmpUnusable::Malformed)
}

const V4_BYTES_MIN: usize = 20;
const V6_BYTES: usize = 40;
const ICMP_BYTES: usize = 8;
const UDP_BYTES: usize = 8;
/// The protocols' numbers.
const ICMP: u8 = 1;
const UDP: u8 = 17;
/// What of an IPv4 header's flags and offset is the offset.
const V4_OFFSET_MASK: u16 = 0x1fff;
const V4_UNREACHABLE: u8 = 3;
const V4_TIME_EXCEEDED: u8 = 11;
const V6_UNREACHABLE: u8 = 1;
const V6_TIME_EXCEEDED: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_over_ipv4_says_about_which_datagram_it_is() {
        for options in [0, 4, 40] {
            let packet = v4(3, 4, [0xff, 0xff, 5, 120], &quoted_v4(options, UDP, 0));
            let expected = IcmpError {
                from: address("192.0.2.1:49152"),
                to: address("198.51.100.7:9"),
                error: PeerError {
                    kind: 3,
                    code: 4,
                    data: [0, 0, 5, 120],
                },
            };
            assert_eq!(IcmpError::parse_v4(&packet), Ok(expected));
        }
    }

    #[test]
    fn an_error_over_ipv6_says_about_which_datagram_it_is() {
        let message = v6(2, 0, 1400, &quoted_v6(UDP));
        let expected = IcmpError {
            from: address("[2001:db8::1]:49152"),
            to: address("[2001:db8::7]:9"),
            error: PeerError {
                kind: 2,
                code: 0,
                data: 1400u32.to_be_bytes(),
            },
        };
        assert_eq!(IcmpError::parse_v6(&message), Ok(expected));
    }

    #[test]
    fn no_truncation_of_an_error_says_anything() {
        let mut whole = v4(11, 0, [0; 4], &quoted_v4(8, UDP, 0));
        for len in 0..whole.len() {
            let result = IcmpError::parse_v4(&whole[..len]);
            assert!(result.is_err(), "{len} bytes");
        }
        whole.extend([7; 9]);
        let result = IcmpError::parse_v4(&whole);
        assert_eq!(result, Err(IcmpUnusable::ChecksumWrong));
        // Behind the header of UDP may come whatever there is.
        let message = v6(1, 4, 0, &quoted_v6(UDP));
        for len in 0..message.len() {
            let result = IcmpError::parse_v6(&message[..len]);
            assert_eq!(result, Err(IcmpUnusable::Malformed), "{len} bytes");
        }
        let longer = [&message[..], b"and more"].concat();
        assert!(IcmpError::parse_v6(&longer).is_ok());
    }

    #[test]
    fn no_truncation_of_what_an_error_quotes_says_anything() {
        for options in [0, 8] {
            let quoted = quoted_v4(options, UDP, 0);
            for len in 0..quoted.len() {
                let result = IcmpError::parse_v4(&v4(3, 3, [0; 4], &quoted[..len]));
                assert_eq!(result, Err(IcmpUnusable::Malformed), "{len} bytes");
            }
            let longer = [&quoted[..], b"odd"].concat();
            assert!(IcmpError::parse_v4(&v4(3, 3, [0; 4], &longer)).is_ok());
        }
    }

    #[test]
    fn what_is_no_error_about_udp_says_nothing() {
        let udp = quoted_v4(0, UDP, 0);
        for kind in [0, 4, 5, 8, 12, 13] {
            let result = IcmpError::parse_v4(&v4(kind, 0, [0; 4], &udp));
            assert_eq!(result, Err(IcmpUnusable::Irrelevant), "type {kind}");
        }
        for kind in [0, 4, 128, 129, 135] {
            let result = IcmpError::parse_v6(&v6(kind, 0, 0, &quoted_v6(UDP)));
            assert_eq!(result, Err(IcmpUnusable::Irrelevant), "type {kind}");
        }
        for quoted in [quoted_v4(0, 6, 0), quoted_v4(0, UDP, 0x2001)] {
            let result = IcmpError::parse_v4(&v4(3, 3, [0; 4], &quoted));
            assert_eq!(result, Err(IcmpUnusable::NotUdp));
        }
        for next in [0, 6, 43, 44, 60] {
            let result = IcmpError::parse_v6(&v6(1, 4, 0, &quoted_v6(next)));
            assert_eq!(result, Err(IcmpUnusable::NotUdp), "next header {next}");
        }
        let mut wrong = v4(3, 3, [0; 4], &udp);
        wrong[22] ^= 1;
        let result = IcmpError::parse_v4(&wrong);
        assert_eq!(result, Err(IcmpUnusable::ChecksumWrong));
    }

    #[test]
    fn a_header_that_lies_about_its_length_is_not_followed() {
        for first in 0..=255 {
            let mut quoted = quoted_v4(0, UDP, 0);
            quoted[0] = first;
            let result = IcmpError::parse_v4(&v4(3, 3, [0; 4], &quoted));
            assert_eq!(result.is_ok(), first == 0x45, "{first:#x}");
            let mut packet = v4(3, 3, [0; 4], &quoted_v4(0, UDP, 0));
            packet[0] = first;
            let result = IcmpError::parse_v4(&packet);
            assert_eq!(result.is_ok(), first == 0x45, "{first:#x}");
            let mut message = v6(1, 4, 0, &quoted_v6(UDP));
            message[ICMP_BYTES] = first;
            let result = IcmpError::parse_v6(&message);
            assert_eq!(result.is_ok(), first >> 4 == 6, "{first:#x}");
        }
    }

    /// A packet with an error that quotes something.
    fn v4(kind: u8, code: u8, word: [u8; 4], quoted: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend(word);
        message.extend(quoted);
        let words = message.chunks(2);
        let words =
            words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| (*low).into()));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        let mut packet = vec![0; V4_BYTES_MIN];
        packet[0] = 0x45;
        packet[9] = ICMP;
        packet.extend(message);
        packet
    }

    fn v6(kind: u8, code: u8, word: u32, quoted: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend(word.to_be_bytes());
        message.extend(quoted);
        message
    }

    fn quoted_v4(options: u8, protocol: u8, flags_and_offset: u16) -> Vec<u8> {
        let mut quoted = vec![0; V4_BYTES_MIN];
        quoted[0] = 0x45 + options / 4;
        quoted[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
        quoted[9] = protocol;
        quoted[12..16].copy_from_slice(&[192, 0, 2, 1]);
        quoted[16..20].copy_from_slice(&[198, 51, 100, 7]);
        quoted.extend(vec![1; usize::from(options)]);
        quoted.extend(UDP_HEADER);
        quoted
    }

    fn quoted_v6(next: u8) -> Vec<u8> {
        let mut quoted = vec![0; V6_BYTES];
        quoted[0] = 0x60;
        quoted[6] = next;
        for (at, last) in [(8, 1), (24, 7)] {
            quoted[at..at + 4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            quoted[at + 15] = last;
        }
        quoted.extend(UDP_HEADER);
        quoted
    }

    /// From port 49152 to port 9.
    const UDP_HEADER: [u8; UDP_BYTES] = [0xc0, 0, 0, 9, 0, 8, 0, 0];

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a literal")
    }
}
