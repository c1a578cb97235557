use std::fmt;
use std::net::SocketAddr;
use std::ops::{Deref, Range};

use super::address::{FiveTuple, PeerAddr, RelayAddr};
use super::stray::ShardIndex;

/// Where the payload of a packet goes: what the driver does next. Nothing was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forward {
    /// Send `data[range]` from the relayed address to the peer.
    ToPeer {
        /// The relayed address to send from.
        at: RelayAddr,
        /// The peer to send to.
        to: PeerAddr,
        /// The payload inside the packet that was handled.
        range: Range<usize>,
        /// Whether routers may cut the datagram up.
        fragment: Fragment,
    },
    /// Send `header`, `data[range]` and `padding` zero bytes to the client.
    ToClient {
        /// The client, and the server's socket to send from.
        to: FiveTuple,
        /// The bytes in front of the payload.
        header: Header,
        /// The payload inside the packet that was handled.
        range: Range<usize>,
        /// How many zero bytes follow the payload, 0 to 3.
        padding: usize,
    },
    /// Give the whole datagram to another shard's [`Server::handle_client`](super::Server::handle_client);
    /// or, when no shard is left that it may not have come through, to its
    /// [`Server::handle_passed_on`](super::Server::handle_passed_on).
    ToShard {
        /// Which one.
        shard: ShardIndex,
        /// Who sent it.
        client: FiveTuple,
    },
}

/// Whether routers on the way to the peer may cut a datagram up. See RFC 8656 §14.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// They may: the DF bit is clear.
    Allowed,
    /// They must not: the DF bit is set, as a Send indication with DONT-FRAGMENT asks. One that is
    /// too long then comes back as an ICMP error.
    Forbidden,
}

impl Fragment {
    /// What DONT-FRAGMENT means: nothing where datagrams are translated to or from IPv6 (RFC 8656
    /// §13), and for a byte stream over IPv6 all that the server can go by (§15).
    pub(super) fn forbidden_if_it_counts(from: FiveTuple, peer: SocketAddr) -> Self {
        let client = from.client.ip().to_canonical();
        if (client.is_ipv4() && peer.is_ipv4()) || (client.is_ipv6() && from.transport.is_stream())
        {
            Self::Forbidden
        } else {
            Self::Allowed
        }
    }
}

/// The bytes in front of a payload, held inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; Self::BYTES_MAX],
    length: u8,
}

impl Header {
    /// Longest header in bytes.
    pub const BYTES_MAX: usize = 64;

    pub(super) fn new() -> Self {
        Self {
            bytes: [0; Self::BYTES_MAX],
            length: 0,
        }
    }

    /// Appends bytes, of which there is always room for those of the two known headers.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.length);
        let Some(room) = self.bytes.get_mut(start..start + bytes.len()) else {
            debug_assert!(false, "a data indication's header fits");
            return;
        };
        room.copy_from_slice(bytes);
        self.length = u8::try_from(start + bytes.len()).unwrap_or(Self::BYTES_MAX as u8);
    }
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or(&[])
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({} bytes)", self.length)
    }
}

const _: () = assert!(Header::BYTES_MAX <= u8::MAX as usize);
