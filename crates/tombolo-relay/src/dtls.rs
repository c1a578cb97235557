//! TURN over DTLS: shards hand the datagrams of DTLS over to the thread of the stream connections,
//! which keeps the associations and exchanges frames with the shards as stream connections do.
//!
//! An address that is not known gets no state, whatever it sends: its first hello is answered with a
//! cookie, by an association that is forgotten right away; only a second hello that brings the cookie
//! back makes one that stays. The answer is never longer than the hello.

mod association;
mod cookie;
mod hello;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use dimpl::{Config, Dtls, DtlsCertificate, Output};
use tokio::{sync::mpsc, task};
use tombolo_turn::server::{FiveTuple, Transport};

use self::{association::Association, cookie::Cookies, hello::Hello};
use crate::{
    Certificates,
    link::Connection,
    socket::{Outgoing, Sender, UdpSocket},
    stats::StreamCounters,
    stream::{Front, Seat},
};
pub(crate) use hello::is_dtls;

/// A shard's way to hand datagrams over.
#[derive(Clone)]
pub(crate) struct DtlsInlet {
    queue: mpsc::Sender<Incoming>,
    shard: usize,
    counters: Arc<StreamCounters>,
}

/// A datagram from a client.
struct Incoming {
    shard: usize,
    client: SocketAddr,
    server: SocketAddr,
    datagram: Vec<u8>,
}

/// The other end.
pub(crate) struct DtlsOutlet {
    queue: mpsc::Receiver<Incoming>,
}

/// Makes the queue that all shards share.
pub(crate) fn queue(counters: &Arc<StreamCounters>) -> (DtlsInlet, DtlsOutlet) {
    let (sender, receiver) = mpsc::channel(INCOMING_MAX);
    let inlet = DtlsInlet {
        queue: sender,
        shard: 0,
        counters: Arc::clone(counters),
    };
    (inlet, DtlsOutlet { queue: receiver })
}

impl DtlsInlet {
    pub(crate) fn of_shard(&self, shard: usize) -> Self {
        Self {
            shard,
            ..self.clone()
        }
    }

    /// Hands a datagram over; drops and counts it where too many wait.
    pub(crate) fn take(&self, client: SocketAddr, server: SocketAddr, datagram: &[u8]) {
        let incoming = Incoming {
            shard: self.shard,
            client,
            server,
            datagram: datagram.to_vec(),
        };
        if self.queue.try_send(incoming).is_err() {
            self.counters.dtls_dropped.add(1);
        }
    }
}

/// All associations of the relay.
pub(crate) struct DtlsFront {
    front: Rc<Front>,
    certificates: Certificates,
    config: Arc<Config>,
    cookies: Cookies,
    started: Instant,
    out: RefCell<Out>,
    associations: RefCell<HashMap<FiveTuple, Known>>,
    hellos: Cell<Allowance>,
}

/// What the front knows of an association that a task keeps.
struct Known {
    datagrams: mpsc::Sender<Vec<u8>>,
    /// Whether the handshake is over, so that a hello asks for another one.
    is_established: Rc<Cell<bool>>,
}

/// The server's sockets, to send through.
pub(crate) struct Out {
    sockets: Vec<UdpSocket>,
    sender: Sender,
}

impl Out {
    pub(crate) fn new(sockets: Vec<UdpSocket>) -> Option<Self> {
        let trains = sockets.first()?.trains();
        Some(Self {
            sockets,
            sender: Sender::new(trains),
        })
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let has = |socket: &&UdpSocket| {
            socket.local_addr().is_ok_and(|address| {
                address.port() == from.port()
                    && address.is_ipv4() == from.is_ipv4()
                    && (socket.is_wildcard() || address.ip() == from.ip())
            })
        };
        let Some(socket) = self.sockets.iter().find(has) else {
            return;
        };
        let packet = Outgoing {
            to,
            source: socket.is_wildcard().then(|| from.ip()),
            header: &[],
            payload,
            padding: 0,
        };
        self.sender.send(socket, std::iter::once(packet));
    }
}

/// Hellos that may still be answered, so that they never take all of the thread.
#[derive(Clone, Copy)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl DtlsFront {
    /// # Errors
    /// The library has no cryptography that works, or the system no randomness.
    pub(crate) fn new(front: Rc<Front>, certificates: Certificates, out: Out) -> io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        let now = Instant::now();
        Ok(Self {
            front,
            certificates,
            config: cookie::config().map_err(io::Error::other)?,
            cookies: Cookies::new(secret),
            started: now,
            out: RefCell::new(out),
            associations: RefCell::default(),
            hellos: Cell::new(Allowance {
                left: HELLOS_PER_SECOND,
                since: now,
            }),
        })
    }

    /// Takes datagrams until no shard is left to bring any.
    pub(crate) async fn serve(self: Rc<Self>, mut outlet: DtlsOutlet) {
        while let Some(incoming) = outlet.queue.recv().await {
            self.handle(incoming);
        }
    }

    fn handle(self: &Rc<Self>, incoming: Incoming) {
        let tuple = FiveTuple {
            transport: Transport::Dtls,
            client: incoming.client,
            server: incoming.server,
        };
        let hello = Hello::parse(&incoming.datagram);
        if let Some(known) = self.associations.borrow().get(&tuple) {
            // A client that lost its keys begins anew from the same port. See RFC 6347 §4.2.8.
            if hello.is_none() || !known.is_established.get() {
                if known.datagrams.try_send(incoming.datagram).is_err() {
                    self.front.config.counters.dtls_dropped.add(1);
                }
                return;
            }
        }
        match hello {
            Some(hello) if self.may_answer() => {
                self.on_hello(tuple, incoming.shard, &hello, &incoming.datagram)
            }
            Some(_) | None => self.front.config.counters.dtls_dropped.add(1),
        }
    }

    fn may_answer(&self) -> bool {
        let mut allowance = self.hellos.get();
        let now = Instant::now();
        if now.duration_since(allowance.since) >= Duration::from_secs(1) {
            allowance = Allowance {
                left: HELLOS_PER_SECOND,
                since: now,
            };
        }
        let is_left = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        self.hellos.set(allowance);
        is_left
    }

    fn on_hello(
        self: &Rc<Self>,
        tuple: FiveTuple,
        shard: usize,
        hello: &Hello<'_>,
        datagram: &[u8],
    ) {
        let Some(certificate) = self.certificates.dtls() else {
            self.front.config.counters.dtls_dropped.add(1);
            return;
        };
        if hello.is_first() {
            let (_, reply) = self.challenge(&certificate, tuple.client, self.period(), datagram);
            if reply.is_empty() || reply.len() > datagram.len() {
                self.front.config.counters.dtls_dropped.add(1);
                return;
            }
            self.front.config.counters.dtls_challenged.add(1);
            self.send(tuple, &reply);
            return;
        }
        let ip = tuple.client.ip();
        let Some(handshake) = self.front.handshakes.take(ip) else {
            self.front.config.counters.handshakes_refused.add(1);
            return;
        };
        let Some(dtls) = self.accept(&certificate, tuple.client, hello, datagram) else {
            self.front.config.counters.dtls_failed.add(1);
            return;
        };
        let Some(seat) = self.front.connections.take(ip) else {
            self.front.config.counters.refused.add(1);
            return;
        };
        self.front.config.counters.dtls_accepted.add(1);
        self.keep(tuple, shard, dtls, (seat, handshake));
    }

    /// Answers a first hello. Returns the association, and the one datagram that it sends.
    fn challenge(
        &self,
        certificate: &DtlsCertificate,
        client: SocketAddr,
        period: u64,
        hello: &[u8],
    ) -> (Dtls, Vec<u8>) {
        let now = Instant::now();
        let mut dtls = Dtls::new_auto(Arc::clone(&self.config), certificate.clone(), now);
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut reply = Vec::new();
        self.cookies.with(client, period, bound(hello), || {
            if dtls.handle_timeout(now).is_err() || dtls.handle_packet(hello).is_err() {
                return;
            }
            while let Output::Packet(packet) = dtls.poll_output(&mut buffer) {
                reply.extend_from_slice(packet);
            }
        });
        (dtls, reply)
    }

    /// Takes a second hello; `None` unless it brings the cookie that the first one was answered with,
    /// in this period or the one before.
    fn accept(
        &self,
        certificate: &DtlsCertificate,
        client: SocketAddr,
        hello: &Hello<'_>,
        datagram: &[u8],
    ) -> Option<Dtls> {
        let cookie = hello
            .cookie()
            .filter(|cookie| cookie.len() == COOKIE_BYTES)?;
        for first in hello.firsts() {
            for age in 0..2 {
                let period = self.period().saturating_sub(age);
                let (mut dtls, reply) = self.challenge(certificate, client, period, &first);
                // Nobody can guess one, so where it is in the reply does not matter.
                if reply.windows(COOKIE_BYTES).any(|window| window == cookie) {
                    let mut take = || dtls.handle_packet(datagram).is_ok();
                    let cookies = &self.cookies;
                    return cookies
                        .with(client, period, bound(&first), &mut take)
                        .then_some(dtls);
                }
            }
        }
        None
    }

    fn keep(
        self: &Rc<Self>,
        tuple: FiveTuple,
        shard: usize,
        dtls: Dtls,
        (seat, handshake): (Seat, Seat),
    ) {
        let (sender, receiver) = mpsc::channel(DATAGRAMS_MAX);
        let known = Known {
            datagrams: sender,
            is_established: Rc::default(),
        };
        let (connection, queue) = Connection::new();
        let association = Association {
            front: Rc::clone(self),
            tuple,
            shard: self.front.config.shards[shard].clone(),
            dtls,
            datagrams: receiver,
            is_established: Rc::clone(&known.is_established),
            connection: Some(connection),
            queue,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            handshake: Some(handshake),
            _seat: seat,
        };
        // A predecessor loses its datagrams, and ends.
        self.associations.borrow_mut().insert(tuple, known);
        task::spawn_local(association.run());
    }

    /// Forgets an association that has ended, unless it has a successor.
    fn forget(&self, tuple: FiveTuple, is_established: &Rc<Cell<bool>>) {
        let mut associations = self.associations.borrow_mut();
        let known = associations.get(&tuple);
        if known.is_some_and(|known| Rc::ptr_eq(&known.is_established, is_established)) {
            associations.remove(&tuple);
        }
    }

    fn send(&self, tuple: FiveTuple, datagram: &[u8]) {
        let mut out = self.out.borrow_mut();
        out.send(tuple.server, tuple.client, datagram);
    }

    fn period(&self) -> u64 {
        self.started.elapsed().as_secs() / COOKIE_PERIOD_SECS
    }
}

/// What of a first hello its cookie is bound to. The handshake of DTLS 1.3 covers it, so that it must be
/// made again exactly (RFC 9147 §5.1); that of DTLS 1.2 does not, and clients may change it.
fn bound(hello: &[u8]) -> &[u8] {
    match Hello::parse(hello) {
        Some(parsed) if parsed.offers_13() => hello,
        Some(_) | None => &[],
    }
}

/// Datagrams of all clients that may wait for the thread.
const INCOMING_MAX: usize = 2048;
/// Datagrams that may wait for one association.
const DATAGRAMS_MAX: usize = 64;
/// Hellos answered in a second. One costs some ten microseconds before its cookie is back, and about
/// a millisecond after it.
const HELLOS_PER_SECOND: u32 = 1000;
/// A cookie is good for this time at least, and twice as long at most.
const COOKIE_PERIOD_SECS: u64 = 30;
const COOKIE_BYTES: usize = 32;
/// Longest datagram of DTLS: a record of 2^14 bytes and what protects it.
const DATAGRAM_BYTES_MAX: usize = 17 * 1024;
