//! UDP sockets as the relay configures them.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
};

use socket2::{Domain, Protocol, Socket, Type};

/// What is asked of the kernel for a server socket's buffers; it grants up to `net.core.rmem_max`
/// and `wmem_max`.
const SERVER_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// One non-blocking UDP socket.
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

    /// Binds a relay socket: nobody else has its address.
    pub(crate) fn bind_exclusive(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address)?;
        socket.bind(&address.into())?;
        Ok(Self {
            socket,
            is_wildcard: false,
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
}

impl UdpSocket {
    fn open_server(address: SocketAddr) -> io::Result<Self> {
        let socket = open(address)?;
        // Best effort: the defaults work too, they just overflow earlier in a burst.
        let _ = socket.set_recv_buffer_size(SERVER_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SERVER_BUFFER_BYTES);
        let is_wildcard = address.ip().is_unspecified();
        if is_wildcard {
            report_local_address(&socket, address)?;
        }
        Ok(Self {
            socket,
            is_wildcard,
        })
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
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
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn report_local_address(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
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
