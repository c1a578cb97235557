use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

/// How a client reaches the server. Between server and peer it is always UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A TCP connection, framed as RFC 8656 §12.5 says.
    Tcp,
    /// A TLS connection over TCP, framed alike.
    Tls,
    /// The datagrams of a DTLS association over UDP.
    Dtls,
}

impl Transport {
    /// Tells whether frames follow each other in a byte stream, where ChannelData is padded.
    pub fn is_stream(self) -> bool {
        match self {
            Self::Udp | Self::Dtls => false,
            Self::Tcp | Self::Tls => true,
        }
    }

    /// Tells whether the transport alone shows that the client is where it seems to be.
    pub fn is_proven(self) -> bool {
        match self {
            Self::Udp => false,
            Self::Tcp | Self::Tls | Self::Dtls => true,
        }
    }
}

/// What tells one client of the server from another. See "5-tuple" in RFC 8656 §2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FiveTuple {
    /// How the client reaches the server.
    pub transport: Transport,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
    /// The server's own address that the client uses.
    pub server: SocketAddr,
}

/// In few words, since every packet is looked up by it, and no two tuples in the same ones.
impl Hash for FiveTuple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u64::from(self.client.port()) << 16 | u64::from(self.server.port());
        let transport = self.transport as u64;
        match (self.client.ip(), self.server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                state.write_u64(u64::from(client.to_bits()) << 32 | ports);
                state.write_u64(u64::from(server.to_bits()) << 32 | transport);
            }
            (client, server) => {
                hash_ip(client, state);
                hash_ip(server, state);
                state.write_u64(transport << 32 | ports);
            }
        }
    }
}

impl fmt::Debug for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} → {}", self.transport, self.client, self.server)
    }
}

/// Address that the server holds for a client; its IP is one the server can bind.
/// See "relayed transport address" in RFC 8656 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayAddr(pub SocketAddr);

/// In few words, like [`FiveTuple`]'s.
impl Hash for RelayAddr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let port = u64::from(self.0.port());
        match self.0.ip() {
            IpAddr::V4(ip) => state.write_u64(u64::from(ip.to_bits()) << 16 | port),
            ip @ IpAddr::V6(_) => {
                hash_ip(ip, state);
                state.write_u64(port);
            }
        }
    }
}

/// Address of a host that a client talks to through the server. See "peer" in RFC 8656 §2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddr(pub SocketAddr);

fn hash_ip<H: Hasher>(ip: IpAddr, state: &mut H) {
    let bits = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    state.write_u64((bits >> 64) as u64);
    state.write_u64(bits as u64);
}

/// Returns the address in its one form: an IPv4-mapped IPv6 address becomes the IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The same addresses as the server and as the world know them, behind a one-to-one NAT.
#[derive(Debug, Clone, Default)]
pub(super) struct Aliases {
    /// Local address, public address. One entry per address family at most in practice.
    pairs: Vec<(IpAddr, IpAddr)>,
}

impl Aliases {
    pub(super) fn new(pairs: &[(IpAddr, IpAddr)]) -> Self {
        Self {
            pairs: pairs.to_vec(),
        }
    }

    pub(super) fn to_public(&self, address: SocketAddr) -> SocketAddr {
        let pair = self.pairs.iter().find(|(local, _)| *local == address.ip());
        pair.map_or(address, |(_, public)| {
            SocketAddr::new(*public, address.port())
        })
    }

    pub(super) fn to_local(&self, address: SocketAddr) -> SocketAddr {
        let pair = self
            .pairs
            .iter()
            .find(|(_, public)| *public == address.ip());
        pair.map_or(address, |(local, _)| {
            SocketAddr::new(*local, address.port())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use siphasher::sip::SipHasher13;

    use super::*;

    #[test]
    fn tuples_that_differ_in_any_part_differ_in_what_is_hashed() {
        let v4: [SocketAddr; 3] = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1"]
            .map(|text| text.parse().expect("a literal"));
        let v6: [SocketAddr; 3] = ["[2001:db8::1]:1", "[2001:db8::1]:2", "[2001:db8:1::1]:1"]
            .map(|text| text.parse().expect("a literal"));
        let mut hashes = BTreeSet::new();
        for addresses in [v4, v6] {
            for transport in TRANSPORTS {
                for client in addresses {
                    for server in addresses {
                        let tuple = FiveTuple {
                            transport,
                            client,
                            server,
                        };
                        hashes.insert(hash_of(&tuple));
                    }
                }
            }
            for address in addresses {
                hashes.insert(hash_of(&RelayAddr(address)));
            }
        }
        assert_eq!(hashes.len(), 2 * (TRANSPORTS.len() * 3 * 3 + 3));
    }

    const TRANSPORTS: [Transport; 4] = [
        Transport::Udp,
        Transport::Tcp,
        Transport::Tls,
        Transport::Dtls,
    ];

    fn hash_of(value: &impl Hash) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(1, 2);
        value.hash(&mut hasher);
        hasher.finish()
    }
}
