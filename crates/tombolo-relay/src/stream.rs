//! TURN over TCP and TLS: one thread accepts connections, cuts their bytes into frames for the shards
//! and writes what the shards have for them. DTLS is served on the same thread.

mod admission;
mod allowance;
mod connection;
mod idle;
mod meter;
mod outlet;
mod peer;
mod seats;
mod splice;

use std::{
    cell::{RefCell, RefMut},
    hash::RandomState,
    io,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    task::{self, JoinSet, LocalSet},
    time::{Instant, sleep, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tombolo_turn::server::{Cidr, FiveTuple, Transport};
use tracing::{error, warn};

use self::{
    admission::Admitted,
    allowance::Allowances,
    seats::{Bounds, Seats},
};
pub(crate) use self::{
    meter::Meters,
    peer::{PeerTask, connect, listen},
    seats::Seat,
};
use crate::{
    Certificates, RelayConfig,
    dtls::{DtlsFront, DtlsOutlet, Out},
    link::ShardLink,
    repeated::Repeated,
    sentinel::Sentinels,
    stats::StreamCounters,
    validity,
};

/// The thread that serves all stream connections.
pub(crate) struct Streams {
    thread: Option<thread::JoinHandle<()>>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    bounds: StreamBounds,
}

/// What the thread is started with.
pub(crate) struct StreamsConfig {
    pub(crate) tcp: Vec<std::net::TcpListener>,
    /// For TLS and DTLS. Without one, there is neither.
    pub(crate) certificates: Option<Certificates>,
    /// Where shards put the datagrams of DTLS, and the sockets to answer through.
    pub(crate) dtls: Option<(DtlsOutlet, Out)>,
    pub(crate) shards: Vec<ShardLink>,
    pub(crate) bounds: StreamBounds,
    /// Whether a client may do without TLS.
    pub(crate) plain_tcp: bool,
    /// Whose connections begin with a PROXY header.
    pub(crate) proxies: Vec<Cidr>,
    /// Time for the TLS handshake and the first frame together.
    pub(crate) first_frame_timeout: Duration,
    /// Time that a connection may be without an allocation.
    pub(crate) allocation_timeout: Duration,
    /// Time for one write.
    pub(crate) write_timeout: Duration,
    pub(crate) counters: Arc<StreamCounters>,
    /// Spreads clients over the shards.
    pub(crate) spread: RandomState,
}

/// How many connections and handshakes there may be, in all and from one IPv4 address or IPv6 /64
/// network. Clones share what they hold, so that a new configuration reaches the thread.
#[derive(Clone)]
pub(crate) struct StreamBounds {
    connections: Arc<Bounds>,
    /// Of TLS and DTLS.
    handshakes: Arc<Bounds>,
    handshakes_per_second: Arc<AtomicU32>,
}

impl StreamBounds {
    fn of(config: &RelayConfig) -> Self {
        Self {
            connections: Bounds::new(Self::for_connections(config)),
            handshakes: Bounds::new(Self::for_handshakes(config)),
            handshakes_per_second: Arc::new(config.handshakes_per_second_max.into()),
        }
    }

    /// Takes those of another configuration.
    fn set(&self, config: &RelayConfig) {
        self.connections.set(Self::for_connections(config));
        self.handshakes.set(Self::for_handshakes(config));
        self.handshakes_per_second
            .store(config.handshakes_per_second_max, Ordering::Relaxed);
    }

    fn for_connections(config: &RelayConfig) -> (usize, usize) {
        (config.connections_max, config.connections_per_source_max)
    }

    fn for_handshakes(config: &RelayConfig) -> (usize, usize) {
        (config.handshakes_max, config.handshakes_per_source_max)
    }
}

impl StreamsConfig {
    /// Takes its part of the relay's configuration, and the listening sockets for plain TCP and TLS.
    pub(crate) fn new(
        config: RelayConfig,
        tcp: Vec<std::net::TcpListener>,
        shards: Vec<ShardLink>,
        counters: Arc<StreamCounters>,
    ) -> Self {
        let bounds = StreamBounds::of(&config);
        Self {
            tcp,
            certificates: config.tls,
            dtls: None,
            shards,
            bounds,
            plain_tcp: config.plain_tcp,
            proxies: config.proxy_protocol,
            first_frame_timeout: config.first_frame_timeout,
            allocation_timeout: config.allocation_timeout,
            write_timeout: config.write_timeout,
            counters,
            spread: RandomState::new(),
        }
    }
}

impl Streams {
    /// What the thread runs on, and what shards have work done on by it.
    pub(crate) fn runtime() -> io::Result<StreamsRuntime> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(StreamsRuntime {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Starts to accept connections.
    pub(crate) fn start(
        mut runtime: StreamsRuntime,
        config: StreamsConfig,
        sentinels: &Sentinels,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let bounds = config.bounds.clone();
        let sentinel = sentinels.of(THREAD);
        let thread = thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(move || {
                if let Some(runtime) = runtime.runtime.take()
                    && serve(&runtime, config, stopped) == End::Asked
                {
                    sentinel.dismiss();
                }
            })?;
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
            bounds,
        })
    }

    /// Takes the bounds of another configuration.
    pub(crate) fn set_bounds(&self, config: &RelayConfig) {
        self.bounds.set(config);
    }
}

/// Closes all connections and waits for the thread.
impl Drop for Streams {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its sentinel has told of a panic.
            let _ = thread.join();
        }
    }
}

/// The runtime until its thread has it. A relay that cannot start may be dropped within another runtime,
/// where one that waits for its blocking work as it ends would panic: this one does not wait.
pub(crate) struct StreamsRuntime {
    handle: Handle,
    /// Gone once the thread has it.
    runtime: Option<Runtime>,
}

impl StreamsRuntime {
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for StreamsRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What all connections share. They live on one thread, so without locks.
pub(crate) struct Front {
    pub(crate) config: StreamsConfig,
    pub(crate) connections: Rc<Seats>,
    handshakes: Rc<Seats>,
    allowances: RefCell<Allowances>,
}

impl Front {
    fn new(config: StreamsConfig) -> Rc<Self> {
        let connections = Seats::new(&config.bounds.connections, &config.counters, |counters| {
            &counters.open
        });
        let handshakes = Seats::new(&config.bounds.handshakes, &config.counters, |counters| {
            &counters.handshakes
        });
        Rc::new(Self {
            config,
            connections,
            handshakes,
            allowances: RefCell::new(Allowances::new(std::time::Instant::now())),
        })
    }

    /// What is left of what may be done for strangers in a second.
    pub(crate) fn allowances(&self) -> RefMut<'_, Allowances> {
        self.allowances.borrow_mut()
    }

    /// A seat for a handshake with a client whose address is its own; counts it where there is none.
    /// Whoever has all that one source may have takes nothing of what all have together, and whoever has
    /// none left in this second displaces nobody.
    pub(crate) fn begin_handshake(&self, client: IpAddr) -> Option<Seat> {
        let now = std::time::Instant::now();
        let max = self
            .config
            .bounds
            .handshakes_per_second
            .load(Ordering::Relaxed);
        let has = self.allowances().has_handshake(now, client, max);
        let seat = has.then(|| self.handshakes.take(client)).flatten();
        let seat = seat.filter(|_| self.allowances().take_handshake(now, client, max));
        if seat.is_none() {
            self.config.counters.handshakes_refused.add(1);
        }
        seat
    }
}

/// Why the thread ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Asked,
    /// What takes newcomers has ended, by a panic most likely.
    Broken,
}

fn serve(runtime: &Runtime, mut config: StreamsConfig, stopped: oneshot::Receiver<()>) -> End {
    let tcp = std::mem::take(&mut config.tcp);
    let dtls = config.dtls.take();
    let front = Front::new(config);
    LocalSet::new().block_on(runtime, async move {
        let mut fronts = JoinSet::new();
        if let Some((outlet, out)) = dtls
            && let Some(certificates) = front.config.certificates.clone()
        {
            match DtlsFront::new(Rc::clone(&front), certificates, out) {
                Ok(dtls) => {
                    fronts.spawn_local(Rc::new(dtls).serve(outlet));
                }
                Err(error) => error!(%error, "cannot serve DTLS"),
            }
        }
        for listener in tcp {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    fronts.spawn_local(accept(Rc::clone(&front), listener));
                }
                Err(error) => error!(%error, "cannot accept connections"),
            }
        }
        if let Some(certificates) = front.config.certificates.clone() {
            fronts.spawn_local(validity::watch(certificates, validity::warn_of));
        }
        // What still runs ends with the local set.
        tokio::select! {
            // The sender's drop is the signal.
            _ = stopped => End::Asked,
            Some(_) = fronts.join_next() => End::Broken,
        }
    })
}

async fn accept(front: Rc<Front>, listener: TcpListener) {
    let mut failures = Repeated::default();
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                front.config.counters.accepted.add(1);
                match Admitted::new(&front, stream, from) {
                    Some(admitted) => {
                        let front = Rc::clone(&front);
                        task::spawn_local(serve_one(front, admitted));
                    }
                    None => front.config.counters.refused.add(1),
                }
                // Whoever has lost a seat closes its connection before there is another one.
                task::yield_now().await;
            }
            Err(error) => {
                // Out of descriptors, most likely: give the others time to end.
                front.config.counters.accept_failed.add(1);
                if let Some(count) = failures.count(std::time::Instant::now()) {
                    warn!(%error, count, "cannot accept a connection");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one(front: Rc<Front>, admitted: Admitted) {
    let displaced = admitted.seat.displaced();
    tokio::select! {
        () = serve_admitted(&front, admitted) => {}
        () = displaced => front.config.counters.displaced.add(1),
    }
}

async fn serve_admitted(front: &Front, mut admitted: Admitted) {
    let config = &front.config;
    let accepted = Instant::now();
    let first_frame_by = accepted + config.first_frame_timeout;
    let ends = match timeout_at(first_frame_by, admitted.ends(front)).await {
        Ok(Ok(ends)) => ends,
        Ok(Err(None)) => return,
        Ok(Err(Some(counter))) => return counter.add(1),
        Err(_) => return config.counters.timed_out.add(1),
    };
    let certificates = config.certificates.as_ref();
    let certificates = certificates.filter(|_| ends.first_byte == TLS_HANDSHAKE);
    if certificates.is_none() && !config.plain_tcp {
        return config.counters.plain_tcp_refused.add(1);
    }
    let tuple = FiveTuple {
        transport: match certificates {
            Some(_) => Transport::Tls,
            None => Transport::Tcp,
        },
        client: ends.client,
        server: ends.server,
    };
    // The seat is kept until the end.
    let Admitted { stream, seat, .. } = admitted;
    let Some(certificates) = certificates else {
        return connection::run(config, tuple, stream, (accepted, &seat)).await;
    };
    let Some(handshake_seat) = front.begin_handshake(ends.client.ip()) else {
        return;
    };
    let handshake = TlsAcceptor::from(certificates.tls()).accept(stream);
    let handshake = tokio::select! {
        handshake = timeout_at(first_frame_by, handshake) => handshake,
        () = handshake_seat.displaced() => return config.counters.handshakes_displaced.add(1),
    };
    drop(handshake_seat);
    match handshake {
        Ok(Ok(stream)) => connection::run(config, tuple, stream, (accepted, &seat)).await,
        Ok(Err(_)) => config.counters.tls_failed.add(1),
        Err(_) => config.counters.timed_out.add(1),
    }
}

/// The first byte of a TLS connection. STUN begins with two bits of zero and a method below 4 here,
/// ChannelData with 0x40 at least. See RFC 8446 §5.1 and RFC 7983 §7.
const TLS_HANDSHAKE: u8 = 22;
const THREAD: &str = "relay-streams";
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
    use tracing::{
        Event, Level, Metadata, Subscriber,
        span::{Attributes, Id, Record},
    };

    use super::*;
    use crate::{dtls, socket::UdpSocket};

    #[tokio::test(start_paused = true)]
    async fn connections_that_cannot_be_accepted_are_counted_and_warned_of_now_and_then() {
        let counters = Arc::new(StreamCounters::default());
        let config = RelayConfig::default();
        let config = StreamsConfig::new(config, Vec::new(), Vec::new(), Arc::clone(&counters));
        // It does not listen, so nothing is ever accepted.
        let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let deaf = deaf.expect("there are descriptors");
        deaf.set_nonblocking(true).expect("it is a socket");
        let listener = TcpListener::from_std(deaf.into()).expect("it is a socket");
        let warnings = Arc::new(AtomicUsize::new(0));
        let _kept = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
        let tries = tokio::time::timeout(ACCEPT_PAUSE * 50, accept(Front::new(config), listener));
        tries.await.expect_err("it goes on");
        assert!(counters.stats().accept_failed > 10);
        assert_eq!(warnings.load(Ordering::Relaxed), 1);
    }

    /// Counts them.
    struct Warnings(Arc<AtomicUsize>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn the_end_of_what_takes_newcomers_is_told_as_that_of_the_thread() {
        let made = rcgen::generate_simple_self_signed(["relay".to_owned()]).expect("it is valid");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let chain = vec![CertificateDer::from(made.cert)];
        let config = RelayConfig {
            tls: Some(Certificates::new(chain, key).expect("the key fits")),
            ..RelayConfig::default()
        };
        let counters = Arc::default();
        // Nobody is left to bring datagrams.
        let (_, outlet) = dtls::queue(&counters);
        let address = "127.0.0.1:0".parse().expect("a literal");
        let socket = UdpSocket::bind_server(address).expect("loopback is there");
        let out = Out::new(vec![socket], &counters).expect("there is a socket");
        let config = StreamsConfig {
            dtls: Some((outlet, out)),
            ..StreamsConfig::new(config, Vec::new(), Vec::new(), counters)
        };
        let runtime = Streams::runtime().expect("there are descriptors");
        let handle = runtime.handle().clone();
        let sentinels = Sentinels::new();
        let streams = Streams::start(runtime, config, &sentinels).expect("there are threads");
        let broken = handle.block_on(sentinels.broken());
        assert_eq!(sentinels.check(), Err(broken));
        drop(streams);
    }
}
