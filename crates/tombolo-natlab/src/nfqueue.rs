//! The part of the kernel's packet queue protocol (nfnetlink_queue) that a delayer needs:
//! bind a queue, hear of packets, let them go or drop them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt,
};

/// A bound queue of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Queue {
    socket: File,
    number: u16,
    received: Vec<u8>,
    sent: Vec<u8>,
}

/// The kernel's number for a packet that waits for its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PacketId(u32);

/// A packet that waits in the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) id: PacketId,
    /// Source and destination; `None` for what is neither IPv4 nor IPv6.
    pub(crate) endpoints: Option<(IpAddr, IpAddr)>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Accept,
}

impl Queue {
    /// Binds queue `number` of the calling thread's network namespace.
    pub(crate) fn bind(number: u16) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &NetlinkAddr::new(0, 0),
        )?;
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)?;
        let mut queue = Self {
            socket: File::from(socket),
            number,
            received: vec![0; 64 * 1024],
            sent: Vec::with_capacity(64),
        };
        queue.configure(&[attribute(CFG_CMD, &[CMD_BIND, 0, 0, 0])])?;
        let mut copy = COPIED_BYTES.to_be_bytes().to_vec();
        copy.push(COPY_PACKET);
        queue.configure(&[attribute(CFG_PARAMS, &copy)])?;
        queue.configure(&[attribute(
            CFG_QUEUE_MAXLEN,
            &QUEUE_PACKETS_MAX.to_be_bytes(),
        )])?;
        set_nonblocking(&queue.socket)?;
        Ok(queue)
    }

    /// Hands the packets that have arrived to `each`. Returns when none is left.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(Packet)) -> io::Result<()> {
        loop {
            match (&self.socket).read(&mut self.received) {
                Ok(length) => {
                    for message in messages(self.received.get(..length).unwrap_or_default()) {
                        if let Some(packet) = packet(message) {
                            each(packet);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel had more packets than the socket holds and has dropped some.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells the kernel what becomes of a packet.
    pub(crate) fn decide(&mut self, packet: PacketId, verdict: Verdict) -> io::Result<()> {
        let code: u32 = match verdict {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
        };
        let mut value = [0; 8];
        value[..4].copy_from_slice(&code.to_be_bytes());
        value[4..].copy_from_slice(&packet.0.to_be_bytes());
        self.send(
            MESSAGE_VERDICT,
            REQUEST,
            &[attribute(VERDICT_HEADER, &value)],
        )
    }

    fn configure(&mut self, attributes: &[Vec<u8>]) -> io::Result<()> {
        self.send(MESSAGE_CONFIG, REQUEST | ACKNOWLEDGE, attributes)?;
        loop {
            let length = (&self.socket).read(&mut self.received)?;
            for message in messages(self.received.get(..length).unwrap_or_default()) {
                if message.kind == MESSAGE_ERROR {
                    let errno = message
                        .body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return match errno {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, attributes: &[Vec<u8>]) -> io::Result<()> {
        let length: usize = HEADER_BYTES + attributes.iter().map(Vec::len).sum::<usize>();
        let length = u32::try_from(length).map_err(io::Error::other)?;
        self.sent.clear();
        self.sent.extend(length.to_ne_bytes());
        self.sent
            .extend(((SUBSYSTEM_QUEUE << 8) | kind).to_ne_bytes());
        self.sent.extend(flags.to_ne_bytes());
        self.sent.extend([0; 8]);
        self.sent.extend([0, 0]);
        self.sent.extend(self.number.to_be_bytes());
        for attribute in attributes {
            self.sent.extend(attribute);
        }
        (&self.socket).write_all(&self.sent)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

/// Splits what was received into netlink messages.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..6)?.first_chunk()?);
        let body = bytes.get(NETLINK_HEADER_BYTES..length)?;
        bytes = bytes.get(padded(length)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// Reads a message that announces a packet.
fn packet(message: Message<'_>) -> Option<Packet> {
    if message.kind != (SUBSYSTEM_QUEUE << 8) | MESSAGE_PACKET {
        return None;
    }
    let mut id = None;
    let mut endpoints = None;
    for (kind, value) in attributes(message.body.get(FAMILY_HEADER_BYTES..)?) {
        match kind {
            PACKET_HEADER => {
                id = value
                    .first_chunk()
                    .map(|id| PacketId(u32::from_be_bytes(*id)))
            }
            PAYLOAD => endpoints = endpoints_of(value),
            _ => {}
        }
    }
    Some(Packet { id: id?, endpoints })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..4)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Source and destination of an IP packet, RFC 791 §3.1 and RFC 8200 §3.
fn endpoints_of(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let source: [u8; 4] = *packet.get(12..)?.first_chunk()?;
            let destination: [u8; 4] = *packet.get(16..)?.first_chunk()?;
            Some((
                Ipv4Addr::from(source).into(),
                Ipv4Addr::from(destination).into(),
            ))
        }
        6 => {
            let source: [u8; 16] = *packet.get(8..)?.first_chunk()?;
            let destination: [u8; 16] = *packet.get(24..)?.first_chunk()?;
            Some((
                Ipv6Addr::from(source).into(),
                Ipv6Addr::from(destination).into(),
            ))
        }
        _ => None,
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("attributes of this module are short");
    let mut bytes = Vec::with_capacity(padded(4 + value.len()));
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(padded(bytes.len()), 0);
    bytes
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn set_nonblocking(socket: &File) -> io::Result<()> {
    socket2::SockRef::from(socket).set_nonblocking(true)
}

const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
const QUEUE_PACKETS_MAX: u32 = 16_384;
/// As much of each packet as holds the addresses of an IPv6 header.
const COPIED_BYTES: u32 = 40;

const NETLINK_HEADER_BYTES: usize = 16;
const FAMILY_HEADER_BYTES: usize = 4;
const HEADER_BYTES: usize = NETLINK_HEADER_BYTES + FAMILY_HEADER_BYTES;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const MESSAGE_ERROR: u16 = 2;
const SUBSYSTEM_QUEUE: u16 = 3;
const MESSAGE_PACKET: u16 = 0;
const MESSAGE_VERDICT: u16 = 1;
const MESSAGE_CONFIG: u16 = 2;
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const PAYLOAD: u16 = 10;
const CFG_CMD: u16 = 1;
const CFG_PARAMS: u16 = 2;
const CFG_QUEUE_MAXLEN: u16 = 3;
const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn announcement() -> Vec<u8> {
        let mut ip = vec![0x45; 20];
        ip[12..16].copy_from_slice(&[203, 0, 113, 2]);
        ip[16..20].copy_from_slice(&[192, 0, 2, 10]);
        let attributes = [
            attribute(PACKET_HEADER, &[0, 0, 0, 7, 8, 0, 2]),
            attribute(PAYLOAD, &ip),
        ]
        .concat();
        let length = u32::try_from(HEADER_BYTES + attributes.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend((SUBSYSTEM_QUEUE << 8).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([2, 0, 0, 0]);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn a_packet_is_read_with_its_number_and_addresses() {
        let bytes = announcement();
        let read: Vec<Packet> = messages(&bytes).filter_map(packet).collect();
        let source = IpAddr::from([203, 0, 113, 2]);
        let destination = IpAddr::from([192, 0, 2, 10]);
        assert_eq!(
            read,
            [Packet {
                id: PacketId(7),
                endpoints: Some((source, destination))
            }]
        );
    }

    #[test]
    fn no_truncation_of_a_message_is_read_as_a_packet() {
        let bytes = announcement();
        for length in 0..bytes.len() {
            assert_eq!(
                messages(&bytes[..length]).filter_map(packet).count(),
                0,
                "{length}"
            );
        }
    }
}
