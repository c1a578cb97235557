//! TURN over TCP and TLS: one thread accepts connections, cuts their bytes into frames for the shards
//! and writes what the shards have for them.

mod connection;
mod peer;
mod splice;

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::{self, LocalSet},
    time::{sleep, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tombolo_turn::server::{FiveTuple, Transport};
use tracing::{error, warn};

pub(crate) use self::peer::{PeerTask, connect, listen};
use crate::{link::ShardLink, stats::StreamCounters};

/// The thread that serves all stream connections.
pub(crate) struct Streams {
    thread: Option<thread::JoinHandle<()>>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
}

/// What the thread is started with.
pub(crate) struct StreamsConfig {
    pub(crate) tcp: Vec<std::net::TcpListener>,
    pub(crate) tls: Vec<std::net::TcpListener>,
    pub(crate) certificate: Option<Arc<ServerConfig>>,
    pub(crate) shards: Vec<ShardLink>,
    /// Connections in all. More are closed at once, and counted.
    pub(crate) connections_max: usize,
    /// Connections from one IPv4 address or IPv6 /64 network.
    pub(crate) connections_per_source_max: usize,
    /// Time for the TLS handshake and the first frame together.
    pub(crate) first_frame_timeout: Duration,
    /// Time that a connection may be without an allocation.
    pub(crate) allocation_timeout: Duration,
    /// Time for one write.
    pub(crate) write_timeout: Duration,
    pub(crate) counters: Arc<StreamCounters>,
}

impl Streams {
    /// What the thread runs on, and what shards have work done on by it.
    pub(crate) fn runtime() -> io::Result<Runtime> {
        Builder::new_current_thread().enable_all().build()
    }

    /// Starts to accept connections.
    pub(crate) fn start(runtime: Runtime, config: StreamsConfig) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("relay-streams".to_owned())
            .spawn(move || serve(&runtime, config, stopped))?;
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
        })
    }
}

/// Closes all connections and waits for the thread.
impl Drop for Streams {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread of the stream connections panicked");
        }
    }
}

/// What all connections share. They live on one thread, so without locks.
struct Front {
    config: StreamsConfig,
    sources: RefCell<Sources>,
}

/// How many connections there are, and from where.
#[derive(Default)]
struct Sources {
    total: usize,
    count_by_network: HashMap<IpAddr, usize>,
}

/// A connection's place among the allowed ones; given back on drop.
struct Place {
    front: Rc<Front>,
    network: IpAddr,
}

impl Place {
    /// `None` where there are as many connections as there may be.
    fn take(front: &Rc<Front>, client: IpAddr) -> Option<Self> {
        let network = network_of(client);
        let mut sources = front.sources.borrow_mut();
        if sources.total >= front.config.connections_max {
            return None;
        }
        let count = sources.count_by_network.entry(network).or_insert(0);
        if *count >= front.config.connections_per_source_max {
            return None;
        }
        *count += 1;
        sources.total += 1;
        front.config.counters.open.set(sources.total as u64);
        Some(Self {
            front: Rc::clone(front),
            network,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.front.sources.borrow_mut();
        sources.total -= 1;
        self.front.config.counters.open.set(sources.total as u64);
        if let Some(count) = sources.count_by_network.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                sources.count_by_network.remove(&self.network);
            }
        }
    }
}

fn serve(runtime: &Runtime, mut config: StreamsConfig, stopped: oneshot::Receiver<()>) {
    let tcp = std::mem::take(&mut config.tcp);
    let tls = std::mem::take(&mut config.tls);
    let acceptor = config.certificate.clone().map(TlsAcceptor::from);
    let front = Rc::new(Front {
        config,
        sources: RefCell::default(),
    });
    LocalSet::new().block_on(runtime, async move {
        let tcp = tcp.into_iter().map(|listener| (listener, None));
        let tls = tls.into_iter().map(|listener| (listener, acceptor.clone()));
        for (listener, acceptor) in tcp.chain(tls) {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    task::spawn_local(accept(Rc::clone(&front), listener, acceptor));
                }
                Err(error) => error!(%error, "cannot accept connections"),
            }
        }
        // The sender's drop is the signal. What still runs ends with the local set.
        let _ = stopped.await;
    });
}

async fn accept(front: Rc<Front>, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                front.config.counters.accepted.add(1);
                match Place::take(&front, client.ip()) {
                    Some(place) => {
                        task::spawn_local(serve_one(place, stream, client, acceptor.clone()));
                    }
                    None => front.config.counters.refused.add(1),
                }
            }
            Err(error) => {
                // Out of descriptors, most likely: give the others time to end.
                warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(
    place: Place,
    stream: TcpStream,
    client: SocketAddr,
    acceptor: Option<TlsAcceptor>,
) {
    let Ok(server) = stream.local_addr() else {
        return;
    };
    let transport = if acceptor.is_some() {
        Transport::Tls
    } else {
        Transport::Tcp
    };
    let tuple = FiveTuple {
        transport,
        client,
        server,
    };
    let config = &place.front.config;
    let accepted = tokio::time::Instant::now();
    let first_frame_by = accepted + config.first_frame_timeout;
    match acceptor {
        None => connection::run(config, tuple, stream, accepted).await,
        Some(acceptor) => match timeout_at(first_frame_by, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => connection::run(config, tuple, stream, accepted).await,
            Ok(Err(_)) => config.counters.tls_failed.add(1),
            Err(_) => config.counters.timed_out.add(1),
        },
    }
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose from.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
