//! UDP sockets as the relay configures them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
};

use socket2::{Domain, Protocol, Socket, Type};
use tombolo_turn::server::Fragment;

use super::sender::Trains;

/// What is asked of the kernel for a server socket's buffers; it grants up to `net.core.rmem_max`
/// and `wmem_max`.
const SERVER_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// One UDP socket. Nothing ever blocks on it, since each call says so.
pub(crate) struct UdpSocket {
    socket: Socket,
    is_wildcard: bool,
}

impl UdpSocket {
    /// Binds the first server socket of an address. Fails if anybody has it, also another relay of
    /// the same user; only afterwards is the address open to [siblings](Self::bind_sibling).
    pub(crate) fn bind_server(address: SocketAddr) -> io::Result<Self> {
        let socket = Self::open_server(address)?;
        socket.socket.bind(&address.into())?;
        socket.socket.set_reuse_port(true)?;
        Ok(socket)
    }

    /// Binds one more server socket to the same address, for another shard: the kernel spreads
    /// clients over them by their addresses.
    pub(crate) fn bind_sibling(&self) -> io::Result<Self> {
        let address = self.local_addr()?;
        let socket = Self::open_server(address)?;
        socket.socket.set_reuse_port(true)?;
        socket.socket.bind(&address.into())?;
        Ok(socket)
    }

    /// Binds a relay socket: nobody else has its address. Routers may cut its datagrams up, see RFC
    /// 8656 §14.
    pub(crate) fn bind_relay(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address)?;
        socket.bind(&address.into())?;
        let socket = Self {
            socket,
            is_wildcard: false,
        };
        socket.join_received();
        socket.report_errors(address.ip())?;
        socket.set_fragment(Fragment::Allowed)?;
        Ok(socket)
    }

    /// Binds the socket that all relay ports of a shard and family are steered to, to any port.
    pub(crate) fn bind_steered(ip: IpAddr) -> io::Result<Self> {
        let address = SocketAddr::new(ip, 0);
        let socket = open(address)?;
        // What floods one relayed address takes its room from all of them, so there shall be much. Best
        // effort: whoever may have ports steered may have more than the usual maximum too.
        let bytes = SERVER_BUFFER_BYTES as libc::c_int;
        if set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
            let _ = socket.set_recv_buffer_size(SERVER_BUFFER_BYTES);
        }
        let (level, option) = match ip {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR),
        };
        set_option(&socket, level, option, 1)?;
        socket.bind(&address.into())?;
        let socket = Self {
            socket,
            is_wildcard: false,
        };
        socket.join_received();
        if ip.is_ipv4() {
            // All ICMP about relayed addresses is steered to it, and the kernel shall believe none of that.
            socket.set_fragment(Fragment::Allowed)?;
        }
        Ok(socket)
    }

    /// Binds a socket that only sends, since what comes to its address is steered to another one.
    pub(crate) fn bind_send_only(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address)?;
        // If ever something comes, it shall not take memory.
        let _ = socket.set_recv_buffer_size(0);
        socket.bind(&address.into())?;
        let socket = Self {
            socket,
            is_wildcard: false,
        };
        socket.set_fragment(Fragment::Allowed)?;
        Ok(socket)
    }

    /// Another handle of the same socket, for another thread to send through.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            is_wildcard: self.is_wildcard,
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        address
            .as_socket()
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Whether it is bound to the unspecified address, so that each datagram has a local IP of its own.
    pub(crate) fn is_wildcard(&self) -> bool {
        self.is_wildcard
    }

    /// How this kernel sends trains, where there is no socket to ask.
    pub(crate) fn trains_of_kernel() -> io::Result<Trains> {
        let open = |domain| Socket::new(domain, Type::DGRAM, Some(Protocol::UDP));
        let socket = open(Domain::IPV4).or_else(|_| open(Domain::IPV6))?;
        let socket = Self {
            socket,
            is_wildcard: false,
        };
        Ok(socket.trains())
    }

    /// How this kernel sends trains.
    pub(crate) fn trains(&self) -> Trains {
        // Whether it knows the option; zero leaves all as it is.
        match set_option(&self.socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0) {
            Ok(()) => Trains::Joined,
            Err(_) => Trains::Single,
        }
    }

    /// Says whether routers may cut up what is sent from now on.
    pub(crate) fn set_fragment(&self, fragment: Fragment) -> io::Result<()> {
        let is_v4 = self.socket.local_addr()?.is_ipv4();
        let (level, option) = if is_v4 {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
        };
        let value = match fragment {
            // Of IPv4, and unlike "don't", it lets the socket know which of its datagrams were too big.
            Fragment::Allowed if is_v4 => libc::IP_PMTUDISC_OMIT,
            // Of IPv6 only who sends can cut up, so the kernel has to believe whoever says how much fits the
            // way. It takes nothing below 1280 bytes for true.
            Fragment::Allowed => libc::IPV6_PMTUDISC_DONT,
            // Routers say what is too long. What the kernel has heard so far may be made up.
            Fragment::Forbidden if is_v4 => libc::IP_PMTUDISC_PROBE,
            Fragment::Forbidden => libc::IPV6_PMTUDISC_PROBE,
        };
        set_option(&self.socket, level, option, value)
    }
}

impl UdpSocket {
    fn open_server(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Best effort: the defaults work too, they just overflow earlier in a burst.
        let _ = socket.set_recv_buffer_size(SERVER_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SERVER_BUFFER_BYTES);
        let is_wildcard = address.ip().is_unspecified();
        if is_wildcard {
            let (level, option) = match address {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            };
            set_option(&socket, level, option, 1)?;
        }
        let socket = Self {
            socket,
            is_wildcard,
        };
        socket.join_received();
        if address.is_ipv4() {
            // What a peer sent may be too long for the way to its client; see RFC 8656 §14.
            socket.set_fragment(Fragment::Allowed)?;
        }
        Ok(socket)
    }

    /// Asks for datagrams of one source to be received together. Kernels that can't go on one by one.
    fn join_received(&self) {
        let _ = set_option(&self.socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The length of the longest packet that can leave towards an address in one piece, as far as the kernel
/// knows; costs some system calls.
pub(crate) fn mtu_towards(to: SocketAddr) -> io::Result<u32> {
    let socket = open(to)?;
    socket.connect(&to.into())?;
    let (level, option) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut mtu: libc::c_int = 0;
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes one int at most, and how long it is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut mtu).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(mtu).map_err(io::Error::other)
}

/// Lets this process have as many descriptors as its hard limit allows: each allocation takes one.
pub(crate) fn raise_open_files_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one rlimit. A failure leaves the limit as it was.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
}

pub(super) fn set_option(
    socket: &impl AsRawFd,
    level: i32,
    option: i32,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_for_all_relay_ports_has_a_large_buffer_where_the_process_may() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let steered = UdpSocket::bind_steered(ip).expect("loopback is there");
        let other = open(SocketAddr::new(ip, 0)).expect("there are descriptors");
        let may = set_option(&other, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 1 << 20).is_ok();
        let bytes = steered.socket.recv_buffer_size().expect("it has one");
        assert!(!may || bytes >= SERVER_BUFFER_BYTES, "{bytes}");
    }

    #[test]
    fn siblings_share_an_address_that_nobody_else_can_take() {
        let first = UdpSocket::bind_server("127.0.0.1:0".parse().expect("a literal"))
            .expect("loopback is there");
        let address = first.local_addr().expect("it is bound");
        let second = first.bind_sibling().expect("the address is shared");
        assert_eq!(second.local_addr().expect("it is bound"), address);
        let other = UdpSocket::bind_server(address).map(|_| ());
        assert_eq!(
            other.map_err(|error| error.kind()),
            Err(io::ErrorKind::AddrInUse)
        );
    }
}
