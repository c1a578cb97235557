//! The sockets: UDP and TCP on one port number of every address.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::BindError;

/// UDP and TCP on the same address and port.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) addr: SocketAddr,
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

/// Binds both protocols on all addresses, on one port number.
///
/// # Errors
///
/// Says which address and protocol could not be had. With port 0 several numbers are tried.
pub(crate) fn bind_all(listen: &[IpAddr], port: u16) -> Result<Vec<Pair>, BindError> {
    let Some(first) = listen.first() else {
        return Err(BindError::NoAddress);
    };
    if port != 0 {
        return listen
            .iter()
            .map(|ip| bind_pair(SocketAddr::new(*ip, port)))
            .collect();
    }
    let mut attempts_left = PORT_ATTEMPTS_MAX;
    loop {
        attempts_left -= 1;
        // The kernel chooses for the first address; the others may have that number taken.
        let attempt = bind_pair(SocketAddr::new(*first, 0)).and_then(|pair| {
            let port = pair.addr.port();
            let mut pairs = vec![pair];
            for ip in &listen[1..] {
                pairs.push(bind_pair(SocketAddr::new(*ip, port))?);
            }
            Ok(pairs)
        });
        match attempt {
            Err(error) if error.is_port_taken() && attempts_left > 0 => {}
            attempt => return attempt,
        }
    }
}

fn bind_pair(addr: SocketAddr) -> Result<Pair, BindError> {
    let tcp = bind_tcp(addr).map_err(|source| BindError::Tcp { addr, source })?;
    let addr = tcp
        .local_addr()
        .map_err(|source| BindError::Tcp { addr, source })?;
    let udp = bind_udp(addr).map_err(|source| BindError::Udp { addr, source })?;
    Ok(Pair { addr, udp, tcp })
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a previous process may linger on the port.
    socket.set_reuse_address(true)?;
    prepare(&socket, addr)?;
    socket.bind(&addr.into())?;
    socket.listen(TCP_BACKLOG)?;
    Ok(socket.into())
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, addr)?;
    // As far as the system allows: one socket takes the packets of all devices.
    socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
    socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn prepare(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv6() {
        // `::` and `0.0.0.0` can then be listened on side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)
}

const PORT_ATTEMPTS_MAX: usize = 16;
const TCP_BACKLOG: i32 = 1024;
const UDP_BUFFER_BYTES: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn all_addresses_and_protocols_get_one_port() {
        let listen = [
            Ipv4Addr::LOCALHOST.into(),
            Ipv4Addr::new(127, 0, 0, 2).into(),
        ];
        let pairs = bind_all(&listen, 0).expect("loopback has free ports");
        let port = pairs[0].addr.port();
        assert_ne!(port, 0);
        for (pair, ip) in pairs.iter().zip(listen) {
            let expected = SocketAddr::new(ip, port);
            assert_eq!(pair.udp.local_addr().expect("bound"), expected);
            assert_eq!(pair.tcp.local_addr().expect("bound"), expected);
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let listen = [IpAddr::from(Ipv4Addr::LOCALHOST)];
        let taken = bind_all(&listen, 0).expect("loopback has free ports");
        let error = bind_all(&listen, taken[0].addr.port()).expect_err("it is taken");
        assert!(error.is_port_taken(), "{error}");
        assert!(
            error.to_string().contains(&taken[0].addr.to_string()),
            "{error}"
        );
    }
}
