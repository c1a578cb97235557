//! TCP between relayed addresses and peers. See RFC 6062.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    time::Duration,
};

use socket2::{Domain, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Handle,
    task::AbortHandle,
    time::sleep,
};
use tombolo_turn::server::{ConnectError, ConnectionId, PeerAddr, RelayAddr};
use tracing::debug;

use crate::link::{FromStream, ShardLink};

/// Works for one relayed address or one connection on the thread of the streams, until it is done
/// or dropped.
pub(crate) struct PeerTask(AbortHandle);

impl Drop for PeerTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens at a relayed address; each connection that comes is told to the shard.
///
/// # Errors
/// The kernel's: somebody else has the port, or there are no descriptors left.
pub(crate) fn listen(streams: &Handle, shard: ShardLink, at: RelayAddr) -> io::Result<PeerTask> {
    let socket = open(at)?;
    socket.bind(&at.0.into())?;
    // Not before, so that the address is nobody else's; from now on connections can be made from it.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    let listener = socket.into();
    let task = streams.spawn(accept(listener, shard, at));
    Ok(PeerTask(task.abort_handle()))
}

/// Connects from a relayed address that listens to a peer, and tells the shard what became of it.
pub(crate) fn connect(
    streams: &Handle,
    shard: ShardLink,
    connection: ConnectionId,
    at: RelayAddr,
    to: PeerAddr,
) -> PeerTask {
    let task = streams.spawn(async move {
        let result = try_connect(at, to).await.map_err(|error| {
            debug!(?at, ?to, %error, "cannot connect to a peer");
            reason_of(&error)
        });
        shard.frame(FromStream::Connected(connection, result)).await;
    });
    PeerTask(task.abort_handle())
}

async fn accept(listener: StdListener, shard: ShardLink, at: RelayAddr) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let accepted = FromStream::Accepted(at, PeerAddr(from), stream);
                if !shard.frame(accepted).await {
                    return;
                }
            }
            // Out of descriptors, most likely: give the others time to end.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn try_connect(at: RelayAddr, to: PeerAddr) -> io::Result<TcpStream> {
    // TCP would connect the socket with itself.
    if at.0 == to.0 {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let socket = open(at)?;
    socket.set_reuse_port(true)?;
    socket.bind(&at.0.into())?;
    TcpSocket::from_std_stream(socket.into())
        .connect(to.0)
        .await
}

fn open(at: RelayAddr) -> io::Result<Socket> {
    let RelayAddr(address) = at;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // Connections of the last client that had this port may still wait for late packets.
    socket.set_reuse_address(true)?;
    if matches!(address, SocketAddr::V6(_)) {
        socket.set_only_v6(true)?;
    }
    // Accepted connections inherit these.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_TIME)
        .with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)?;
    Ok(socket)
}

fn reason_of(error: &io::Error) -> ConnectError {
    let refusals = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::NetworkUnreachable,
    ];
    let kind = error.kind();
    if refusals.contains(&kind) {
        ConnectError::PeerRefused
    } else if kind == io::ErrorKind::TimedOut {
        ConnectError::PeerSilent
    } else {
        ConnectError::LocalUnavailable
    }
}

/// Connections that the kernel holds for one relayed address until they are accepted.
const BACKLOG: i32 = 64;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which the kernel asks whether a peer is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// Pause between such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
