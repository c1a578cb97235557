//! Finds and binds the sockets that clients talk to.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::{BindError, RelayAddrs, RelayConfig, error::Protocol, socket::UdpSocket};

/// All listening sockets of a relay; the UDP ones once for each shard.
pub(crate) struct Listeners {
    /// Indexed by shard. Each shard has the same addresses in the same order.
    pub(crate) udp: Vec<Vec<UdpSocket>>,
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) tls: Vec<TcpListener>,
    pub(crate) addrs: RelayAddrs,
}

impl Listeners {
    pub(crate) fn bind(config: &RelayConfig, shards: usize) -> Result<Self, BindError> {
        let ips = &config.listen;
        let (turn, tcp) = retry_if_free(config.turn_port, |port| {
            let udp = bind_udp(ips, port)?;
            let port = udp.first().map_or(Ok(port), port_of)?;
            Ok((udp, bind_tcp(ips, port)?))
        })?;
        let alternate_port = match config.turn_port {
            0 => 0,
            port => port.checked_add(1).unwrap_or(0),
        };
        let alternate = retry_if_free(alternate_port, |port| bind_udp(ips, port))?;
        let tls = match config.turns_port {
            Some(port) => retry_if_free(port, |port| bind_tcp(ips, port))?,
            None => Vec::new(),
        };
        let addrs = RelayAddrs {
            turn: addresses(&turn)?,
            alternate: addresses(&alternate)?,
            turns: tls
                .iter()
                .map(TcpListener::local_addr)
                .collect::<Result<_, _>>()?,
        };
        let first: Vec<UdpSocket> = turn.into_iter().chain(alternate).collect();
        let mut udp = Vec::with_capacity(shards);
        for _ in 1..shards {
            let siblings = first.iter().map(UdpSocket::bind_sibling);
            udp.push(siblings.collect::<Result<_, _>>()?);
        }
        udp.push(first);
        Ok(Self {
            udp,
            tcp,
            tls,
            addrs,
        })
    }
}

/// Binds; where any port will do, tries several, as one may be free on one IP only.
fn retry_if_free<T>(port: u16, bind: impl Fn(u16) -> Result<T, BindError>) -> Result<T, BindError> {
    for _ in 1..FREE_PORT_TRIES {
        match bind(port) {
            Err(BindError::InUse { .. }) if port == 0 => {}
            result => return result,
        }
    }
    bind(port)
}

/// Binds the same port on all IPs; the first decides which if `port` is 0.
fn bind_udp(ips: &[IpAddr], mut port: u16) -> Result<Vec<UdpSocket>, BindError> {
    let mut sockets = Vec::with_capacity(ips.len());
    for ip in ips {
        let address = SocketAddr::new(*ip, port);
        let socket = UdpSocket::bind_server(address)
            .map_err(|error| BindError::listen(Protocol::Udp, address, error))?;
        port = port_of(&socket)?;
        sockets.push(socket);
    }
    Ok(sockets)
}

fn bind_tcp(ips: &[IpAddr], mut port: u16) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners = Vec::with_capacity(ips.len());
    for ip in ips {
        let address = SocketAddr::new(*ip, port);
        let listener = listen_tcp(address)
            .map_err(|error| BindError::listen(Protocol::Tcp, address, error))?;
        port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(listeners)
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the connections of the last run; another listener is still refused.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections inherit these.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn port_of(socket: &UdpSocket) -> Result<u16, BindError> {
    Ok(socket.local_addr()?.port())
}

fn addresses(sockets: &[UdpSocket]) -> Result<Vec<SocketAddr>, BindError> {
    Ok(sockets
        .iter()
        .map(UdpSocket::local_addr)
        .collect::<Result<_, _>>()?)
}

/// How many free ports are tried before the search for one is given up.
const FREE_PORT_TRIES: usize = 16;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Silence after which the kernel asks whether a client is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// Pause between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
