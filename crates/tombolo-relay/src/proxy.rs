//! The header that a proxy puts in front of a connection to say whose it is: versions 1 and 2 of the
//! [PROXY protocol](https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).

use std::{io, net::SocketAddr};

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader as Parsed};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a PROXY header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The proxy speaks for itself, as when it looks whether the server is there.
    Local,
    /// The proxy speaks for somebody.
    Proxied {
        /// Who connected to the proxy.
        client: SocketAddr,
        /// Where it did.
        server: SocketAddr,
    },
}

/// Why bytes are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// They do not begin like one, or break its rules.
    #[error("not a PROXY header")]
    Malformed,
    /// It is longer than any proxy's.
    #[error("the PROXY header is too long")]
    TooLong,
    /// It speaks of something else than TCP, or of no client that there could be.
    #[error("the PROXY header names no client over TCP")]
    NoClient,
}

impl ProxyHeader {
    /// Parses the header that `bytes` begin with, and tells how long it is. `None` if they may be the
    /// beginning of one.
    ///
    /// # Errors
    /// They are not.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProxyError> {
        let is_v2 = match bytes.first() {
            None => return Ok(None),
            Some(b'P') => false,
            Some(_) => true,
        };
        let signature: &[u8] = if is_v2 { V2_SIGNATURE } else { V1_SIGNATURE };
        let common = bytes.len().min(signature.len());
        if bytes[..common] != signature[..common] {
            return Err(ProxyError::Malformed);
        }
        if is_v2 {
            let declared = bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES);
            if declared.is_some_and(|declared| be(declared) > V2_BYTES_MAX - V2_FIXED_BYTES) {
                return Err(ProxyError::TooLong);
            }
        }
        let bytes = if is_v2 { bytes } else { line_of(bytes)? };
        let config = ParseConfig {
            include_tlvs: false,
            ..ParseConfig::default()
        };
        match Parsed::parse(bytes, config) {
            Ok((parsed, len)) => Ok(Some((Self::of(&parsed)?, len))),
            Err(Error::BufferTooShort) if may_go_on(bytes) => Ok(None),
            Err(_) => Err(ProxyError::Malformed),
        }
    }

    fn of(parsed: &Parsed<'_>) -> Result<Self, ProxyError> {
        let Some(address) = parsed.proxied_address() else {
            return Ok(Self::Local);
        };
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let client = canonical(address.source);
        let is_somebody = !client.ip().is_unspecified()
            && !client.ip().is_multicast()
            && client.port() != 0
            && address.protocol == Protocol::Stream;
        if !is_somebody {
            return Err(ProxyError::NoClient);
        }
        Ok(Self::Proxied {
            client,
            server: canonical(address.destination),
        })
    }

    /// Reads a header, and not a byte of what follows.
    ///
    /// # Errors
    /// `InvalidData` if there is none, else the stream's.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut header = Vec::with_capacity(V1_BYTES_MAX);
        loop {
            let missing = missing(&header) as u64;
            let read = stream.take(missing).read_buf(&mut header).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let parsed = Self::parse(&header);
            let parsed = parsed.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if let Some((parsed, _)) = parsed {
                return Ok(parsed);
            }
        }
    }
}

/// The line that a header of version 1 is, with its end, or as much of it as has come: a longer one is
/// none, wherever it ends.
fn line_of(bytes: &[u8]) -> Result<&[u8], ProxyError> {
    let bytes = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    let Some(end) = end else {
        return Ok(bytes);
    };
    match &bytes[end..] {
        [b'\r'] => Ok(bytes),
        [b'\r', b'\n', ..] => Ok(&bytes[..end + 2]),
        // Either of them alone ends nothing, and is no part of a line.
        _ => Err(ProxyError::Malformed),
    }
}

/// Whether the end of a header has not come yet.
fn may_go_on(bytes: &[u8]) -> bool {
    missing(bytes) > 0 && !(bytes.starts_with(V1_SIGNATURE) && bytes.contains(&b'\n'))
}

/// How many bytes more belong to a header whose beginning is `bytes`, at least.
fn missing(bytes: &[u8]) -> usize {
    let len = bytes.len();
    match bytes.first() {
        None => V1_BYTES_MIN,
        Some(b'P') => V1_BYTES_MIN.saturating_sub(len).max(1),
        Some(_) => match bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES) {
            None => V2_FIXED_BYTES - len,
            Some(declared) => (V2_FIXED_BYTES + be(declared)).saturating_sub(len),
        },
    }
}

fn be(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | usize::from(*byte))
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The shortest line, `PROXY UNKNOWN`, with its end.
const V1_BYTES_MIN: usize = 15;
/// The longest line that the protocol allows.
const V1_BYTES_MAX: usize = 107;
/// What stands before the addresses.
const V2_FIXED_BYTES: usize = 16;
/// Addresses take up to 216 bytes, and the rest is for what proxies like to add. The protocol asks
/// senders to stay below 536 bytes.
const V2_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(client: &str, server: &str) -> ProxyHeader {
        ProxyHeader::Proxied {
            client: client.parse().expect("a literal"),
            server: server.parse().expect("a literal"),
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("it is short");
        [V2_SIGNATURE, &[command, family], &len.to_be_bytes(), rest].concat()
    }

    /// Headers as the specification has them, and what they say.
    fn headers() -> Vec<(Vec<u8>, ProxyHeader)> {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x30, 0x39, 0x0d, 0x96];
        let mut v6 = Vec::new();
        for ip in ["2001:db8::1", "2001:db8::2"] {
            let ip: std::net::Ipv6Addr = ip.parse().expect("a literal");
            v6.extend(ip.octets());
        }
        v6.extend([0x30, 0x39, 0x0d, 0x96]);
        let with_tlv = [&v4[..], &[0x04, 0, 3, 0, 0, 0]].concat();
        let said_v4 = proxied("192.0.2.1:12345", "198.51.100.1:3478");
        let said_v6 = proxied("[2001:db8::1]:12345", "[2001:db8::2]:3478");
        let line = |text: &str| text.as_bytes().to_vec();
        vec![
            (
                line("PROXY TCP4 192.0.2.1 198.51.100.1 12345 3478\r\n"),
                said_v4,
            ),
            (
                line("PROXY TCP6 2001:db8::1 2001:db8::2 12345 3478\r\n"),
                said_v6,
            ),
            (line("PROXY UNKNOWN\r\n"), ProxyHeader::Local),
            (
                line("PROXY UNKNOWN ffff:: ffff:: 1 2\r\n"),
                ProxyHeader::Local,
            ),
            (v2(0x21, 0x11, &v4), said_v4),
            (v2(0x21, 0x11, &with_tlv), said_v4),
            (v2(0x21, 0x21, &v6), said_v6),
            (v2(0x20, 0x00, &[]), ProxyHeader::Local),
            (v2(0x20, 0x11, &v4), ProxyHeader::Local),
            (v2(0x21, 0x00, &[]), ProxyHeader::Local),
        ]
    }

    #[test]
    fn headers_of_both_versions_say_whose_the_connection_is() {
        for (bytes, said) in headers() {
            let with_more = [&bytes[..], b"\0\x01\0\0"].concat();
            let parsed = ProxyHeader::parse(&with_more);
            assert_eq!(parsed, Ok(Some((said, bytes.len()))), "{bytes:?}");
        }
    }

    #[test]
    fn the_beginning_of_a_header_is_neither_right_nor_wrong() {
        for (bytes, _) in headers() {
            for len in 0..bytes.len() {
                assert_eq!(
                    ProxyHeader::parse(&bytes[..len]),
                    Ok(None),
                    "{bytes:?} {len}"
                );
                let rest = missing(&bytes[..len]);
                assert!((1..=bytes.len() - len).contains(&rest), "{bytes:?} {len}");
            }
        }
    }

    #[test]
    fn a_line_that_another_character_breaks_is_refused_whole_and_in_part() {
        for line in [
            &b"PROXY UNKNOWN a\nb\r\n"[..],
            b"PROXY UNKNOWN a\rb\r\n",
            b"PROXY UNKNOWN\n\r\n",
            b"PROXY UNKNOWN\r\r\n",
            b"PROXY \nUNKNOWN\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n\r\n",
        ] {
            let breaks = line.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let breaks = breaks.expect("there is one");
            for len in 0..=line.len() {
                let parsed = ProxyHeader::parse(&line[..len]);
                // A CR alone may be the first half of the end.
                let is_open = len <= breaks + usize::from(line[breaks] == b'\r');
                let expected = if is_open {
                    Ok(None)
                } else {
                    Err(ProxyError::Malformed)
                };
                assert_eq!(parsed, expected, "{:?}", &line[..len]);
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_as_soon_as_it_shows() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0x30, 0x39, 0x0d, 0x96];
        let nobody = [0, 0, 0, 0, 198, 51, 100, 1, 0x30, 0x39, 0x0d, 0x96];
        for (bytes, error) in [
            (b"GET / HTTP/1.1".to_vec(), ProxyError::Malformed),
            (b"\0\x01\0\0".to_vec(), ProxyError::Malformed),
            (b"\x16\x03\x01".to_vec(), ProxyError::Malformed),
            (b"PROXYTCP4 1".to_vec(), ProxyError::Malformed),
            (
                b"PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2\r\n".to_vec(),
                ProxyError::Malformed,
            ),
            (b"PROXY TCP4 1\r\n".to_vec(), ProxyError::Malformed),
            (
                b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 2\r\n".to_vec(),
                ProxyError::Malformed,
            ),
            (
                b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX".to_vec(),
                ProxyError::Malformed,
            ),
            (
                b"PROXY TCP4 0.0.0.0 1.2.3.4 1 2\r\n".to_vec(),
                ProxyError::NoClient,
            ),
            (
                b"PROXY TCP4 1.2.3.4 1.2.3.4 0 2\r\n".to_vec(),
                ProxyError::NoClient,
            ),
            (
                [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
                ProxyError::Malformed,
            ),
            (
                [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n"].concat(),
                ProxyError::Malformed,
            ),
            (v2(0x31, 0x11, &v4), ProxyError::Malformed),
            (v2(0x22, 0x11, &v4), ProxyError::Malformed),
            (v2(0x21, 0x11, &v4[..11]), ProxyError::Malformed),
            (v2(0x21, 0x12, &v4), ProxyError::NoClient),
            (v2(0x21, 0x11, &nobody), ProxyError::NoClient),
            (
                v2(0x21, 0x11, &[0; 2000])[..16].to_vec(),
                ProxyError::TooLong,
            ),
        ] {
            assert_eq!(ProxyHeader::parse(&bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn an_address_of_ipv4_in_ipv6_is_one_of_ipv4() {
        let header = b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n";
        let (said, _) = ProxyHeader::parse(header)
            .expect("it is right")
            .expect("it is whole");
        assert_eq!(said, proxied("192.0.2.1:1", "[2001:db8::2]:2"));
    }

    #[tokio::test]
    async fn no_byte_behind_a_header_is_read() {
        for (bytes, said) in headers() {
            let all = [&bytes[..], b"behind"].concat();
            let mut rest = &all[..];
            let read = ProxyHeader::read(&mut rest).await;
            assert_eq!(read.expect("it is right"), said);
            assert_eq!(rest, b"behind");
        }
        let end = ProxyHeader::read(&mut &b"PROXY "[..]).await;
        assert_eq!(end.map_err(|e| e.kind()), Err(io::ErrorKind::UnexpectedEof));
    }
}
