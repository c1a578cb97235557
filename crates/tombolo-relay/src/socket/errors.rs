//! ICMP errors, as the kernel tells a UDP socket of them (`IP_RECVERR`), and raw sockets to read them
//! where no UDP socket is bound.

use std::{
    io::{self, Read as _},
    mem,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    ptr,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};
use tombolo_turn::server::PeerError;

use super::{
    UdpSocket,
    address::{Control, RawAddress, messages},
    udp::set_option,
};

/// What waits in the queue of a socket's errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    /// An ICMP error about a datagram that was sent to this address.
    Icmp(SocketAddr, PeerError),
    /// Something else, as what the kernel found wrong by itself.
    Other,
}

impl UdpSocket {
    /// Has the kernel keep ICMP errors for [`Self::take_error`]. From then on one that comes also makes
    /// the next call to send or to receive fail, and that call has then done nothing.
    pub(crate) fn report_errors(&self, ip: IpAddr) -> io::Result<()> {
        let (level, option) = match ip {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        };
        set_option(self, level, option, 1)
    }

    /// Takes the error that has waited longest; `None` if none waits.
    pub(crate) fn take_error(&self) -> Option<Reported> {
        let mut name = RawAddress::zeroed();
        let mut control = Control::zeroed();
        // SAFETY: all-zero bytes are a valid msghdr: nullable pointers and integers.
        let mut header = unsafe { mem::zeroed::<libc::msghdr>() };
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = RawAddress::SIZE;
        header.msg_control = control.as_mut_ptr();
        header.msg_controllen = Control::SIZE as _;
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the header points to a name and a control of the lengths that it says, which live
        // for the call, and has no vectors for the datagram itself.
        let received = unsafe { libc::recvmsg(self.as_raw_fd(), &raw mut header, flags) };
        if received < 0 {
            return None;
        }
        let to = name.get(header.msg_namelen);
        let error = messages(&header).find_map(|(level, kind, data)| match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                // SAFETY: the kernel puts a sock_extended_err behind these levels and types.
                Some(unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() })
            }
            _ => None,
        });
        Some(to.zip(error).map_or(Reported::Other, reported))
    }
}

fn reported((to, error): (SocketAddr, libc::sock_extended_err)) -> Reported {
    match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => Reported::Icmp(
            to,
            PeerError {
                kind: error.ee_type,
                code: error.ee_code,
                data: error.ee_info.to_be_bytes(),
            },
        ),
        _ => Reported::Other,
    }
}

/// Receives the ICMP errors that come to an IP. The kernel looks at the type, of IPv4 where it is below 32;
/// others come too, and are nothing.
pub(crate) struct IcmpSocket(Socket);

impl IcmpSocket {
    /// # Errors
    /// The kernel's: without `CAP_NET_RAW` it is not permitted.
    pub(crate) fn open(ip: IpAddr) -> io::Result<Self> {
        let socket = match ip {
            IpAddr::V4(_) => {
                let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
                let dropped = !V4_ERRORS.iter().fold(0u32, |mask, kind| mask | 1 << kind);
                set_filter(&socket, libc::SOL_RAW, &dropped)?;
                socket
            }
            IpAddr::V6(_) => {
                let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
                let mut dropped = [u32::MAX; 8];
                for kind in V6_ERRORS {
                    dropped[0] &= !(1 << kind);
                }
                set_filter(&socket, libc::IPPROTO_ICMPV6, &dropped)?;
                socket
            }
        };
        socket.set_nonblocking(true)?;
        // Best effort: a flood shall not take memory.
        let _ = socket.set_recv_buffer_size(ICMP_BUFFER_BYTES);
        socket.bind(&SocketAddr::new(ip, 0).into())?;
        Ok(Self(socket))
    }

    /// Lets a task of the runtime that this is called in wait for packets.
    ///
    /// # Errors
    /// The kernel's: no further descriptor can be watched.
    pub(crate) fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the socket has the same descriptor until it is dropped, and nobody takes it out.
        let watched = unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) };
        Ok(watched?)
    }

    /// Receives one packet: with its IP header for IPv4, without it for IPv6. Never waits.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl AsRawFd for IcmpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Sets which types of ICMP are dropped: a bit for each.
fn set_filter<T>(socket: &Socket, level: i32, dropped: &T) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as `dropped` has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            ICMP_FILTER,
            ptr::from_ref(dropped).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Destination unreachable, time exceeded. See RFC 792.
const V4_ERRORS: [u8; 2] = [3, 11];
/// Destination unreachable, packet too big, time exceeded. See RFC 4443 §3.
const V6_ERRORS: [u8; 3] = [1, 2, 3];
/// The option's number, which is the same for `ICMP6_FILTER`.
const ICMP_FILTER: libc::c_int = 1;
const ICMP_BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as StdSocket;

    use super::*;
    use crate::socket::{Outgoing, SLOTS, Sender, Slots, Trains};

    #[test]
    fn an_error_is_told_with_its_peer_and_takes_no_datagram_to_another_peer_with_it() {
        for ip in ["127.0.0.1", "::1"] {
            let socket = UdpSocket::bind_relay(address(ip)).expect("loopback is there");
            let living = StdSocket::bind((ip, 0)).expect("loopback is there");
            let living_at = living.local_addr().expect("it is bound");
            let closed = StdSocket::bind((ip, 0)).expect("loopback is there");
            let closed_at = closed.local_addr().expect("it is bound");
            drop(closed);
            let mut sender = Sender::new(Trains::Joined);
            // Loopback answers before the next one is sent.
            let packets = [closed_at, living_at, closed_at, living_at, living_at];
            let packets = packets.map(|to| Outgoing {
                to,
                source: None,
                header: b"",
                payload: b"hello",
                padding: 0,
            });
            let sent = sender.send(&socket, packets.into_iter());
            assert_eq!((sent.sent, sent.refused), (5, 0), "{ip}");
            living.set_nonblocking(true).expect("it is a socket");
            for _ in 0..3 {
                let mut buffer = [0; 16];
                assert_eq!(living.recv(&mut buffer).expect("it came"), 5, "{ip}");
            }
            let (kind, code) = if ip == "::1" { (1, 4) } else { (3, 3) };
            for _ in 0..2 {
                let Some(Reported::Icmp(to, error)) = socket.take_error() else {
                    panic!("{ip}: no error is told");
                };
                assert_eq!((to, error.kind, error.code), (closed_at, kind, code));
            }
            assert_eq!(socket.take_error(), None, "{ip}");
            // Taken errors do not make receiving fail.
            living
                .send_to(b"back", socket.local_addr().expect("it is bound"))
                .expect("loopback takes it");
            let received = Slots::new().receive(&socket, 0..SLOTS);
            assert_eq!(received.expect("nothing is pending"), 1, "{ip}");
        }
    }

    #[test]
    fn an_error_that_is_pending_makes_receiving_fail_once_and_loses_nothing() {
        let socket = UdpSocket::bind_relay(address("127.0.0.1")).expect("loopback is there");
        let at = socket.local_addr().expect("it is bound");
        let peer = StdSocket::bind("127.0.0.1:0").expect("loopback is there");
        let peer_at = peer.local_addr().expect("it is bound");
        peer.send_to(b"farewell", at).expect("loopback takes it");
        drop(peer);
        let packet = Outgoing {
            to: peer_at,
            source: None,
            header: b"",
            payload: b"hello",
            padding: 0,
        };
        Sender::new(Trains::Single).send(&socket, std::iter::once(packet));
        let mut slots = Slots::new();
        assert!(slots.receive(&socket, 0..SLOTS).is_err());
        assert_eq!(slots.receive(&socket, 0..SLOTS).expect("it is told"), 1);
        assert_eq!(slots.bytes(0), b"farewell");
        assert!(socket.take_error().is_some(), "it still says about whom");
    }

    fn address(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().expect("a literal"), 0)
    }
}
