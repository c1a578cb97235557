//! Finds and binds the sockets that clients talk to.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use socket2::{Domain, Socket, TcpKeepalive, Type};

use crate::{BindError, RelayAddrs, RelayConfig, error::Protocol, socket::UdpSocket};

/// All listening sockets of a relay; the UDP ones once for each shard.
pub(crate) struct Listeners {
    /// Indexed by shard. Each shard has the same addresses in the same order.
    pub(crate) udp: Vec<Vec<UdpSocket>>,
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) addrs: RelayAddrs,
}

impl Listeners {
    pub(crate) fn bind(config: &RelayConfig, shards: usize) -> Result<Self, BindError> {
        let has_dtls = config.has_dtls();
        let for_turn = Served {
            udp: config.plain_udp || has_dtls,
            tcp: config.plain_tcp || config.tls.is_some(),
        };
        let for_tls = Served {
            udp: has_dtls,
            tcp: true,
        };
        let turn = retry_if_free(&config.listen, || Bound::new(&config.listen, for_turn))?;
        let alternate = retry_if_free(&config.listen_udp, || bind_udp(&config.listen_udp))?;
        let turns = retry_if_free(&config.listen_tls, || {
            Bound::new(&config.listen_tls, for_tls)
        })?;
        let addrs = RelayAddrs {
            turn: turn.addresses,
            alternate: addresses(&alternate)?,
            turns: turns.addresses,
            relay: config.relay_ips(),
        };
        let first = turn.udp.into_iter().chain(alternate).chain(turns.udp);
        let first: Vec<UdpSocket> = first.collect();
        let mut udp = Vec::with_capacity(shards);
        for _ in 1..shards {
            let siblings = first.iter().map(UdpSocket::bind_sibling);
            udp.push(siblings.collect::<Result<_, _>>()?);
        }
        udp.push(first);
        Ok(Self {
            udp,
            tcp: turn.tcp.into_iter().chain(turns.tcp).collect(),
            addrs,
        })
    }
}

/// What is listened on at some addresses.
#[derive(Clone, Copy)]
struct Served {
    udp: bool,
    tcp: bool,
}

/// The sockets of some addresses.
struct Bound {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    /// With the ports that they were given, the same for UDP and TCP.
    addresses: Vec<SocketAddr>,
}

impl Bound {
    fn new(wanted: &[SocketAddr], served: Served) -> Result<Self, BindError> {
        let mut bound = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            addresses: wanted.to_vec(),
        };
        if served.udp {
            bound.udp = bind_udp(&bound.addresses)?;
            bound.addresses = addresses(&bound.udp)?;
        }
        if served.tcp {
            bound.tcp = bind_tcp(&bound.addresses)?;
            let taken = bound.tcp.iter().map(TcpListener::local_addr);
            bound.addresses = taken.collect::<Result<_, _>>()?;
        }
        Ok(bound)
    }
}

/// Binds; where any port will do, tries several, as one may be free on one IP only.
fn retry_if_free<T>(
    addresses: &[SocketAddr],
    bind: impl Fn() -> Result<T, BindError>,
) -> Result<T, BindError> {
    let is_any = addresses.iter().any(|address| address.port() == 0);
    for _ in 1..FREE_PORT_TRIES {
        match bind() {
            Err(BindError::InUse { .. }) if is_any => {}
            result => return result,
        }
    }
    bind()
}

fn bind_udp(addresses: &[SocketAddr]) -> Result<Vec<UdpSocket>, BindError> {
    let bind = |address| {
        UdpSocket::bind_server(address)
            .map_err(|error| BindError::listen(Protocol::Udp, address, error))
    };
    bind_each(addresses, bind, UdpSocket::local_addr)
}

fn bind_tcp(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let bind = |address| {
        listen_tcp(address).map_err(|error| BindError::listen(Protocol::Tcp, address, error))
    };
    bind_each(addresses, bind, TcpListener::local_addr)
}

/// Binds each address; the first one with port 0 decides the port of the others that have it, each
/// on another IP.
fn bind_each<S>(
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> Result<S, BindError>,
    local_addr: impl Fn(&S) -> io::Result<SocketAddr>,
) -> Result<Vec<S>, BindError> {
    let mut sockets = Vec::with_capacity(addresses.len());
    let mut bound = Vec::with_capacity(addresses.len());
    let mut any_port = None;
    for address in addresses {
        let same = any_port.map(|port| SocketAddr::new(address.ip(), port));
        let wanted = match same {
            Some(same) if address.port() == 0 && !bound.contains(&same) => same,
            _ => *address,
        };
        let socket = bind(wanted)?;
        let local = local_addr(&socket)?;
        if address.port() == 0 && any_port.is_none() {
            any_port = Some(local.port());
        }
        bound.push(local);
        sockets.push(socket);
    }
    Ok(sockets)
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
