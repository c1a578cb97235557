//! TURN over DTLS: shards hand the datagrams of DTLS over to the thread of the stream connections,
//! which keeps the associations and exchanges frames with the shards as stream connections do.
//!
//! An address that is not known gets no state, whatever it sends: its first hello is answered with a
//! cookie, by an association that is forgotten right away; only a second hello that brings the cookie
//! back makes one that stays. The answer is never longer than the hello.

mod association;
mod cookie;
mod exchange;
mod hello;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use dimpl::Dtls;
use tokio::{sync::mpsc, task};
use tombolo_turn::server::{FiveTuple, Transport};

use self::{
    association::Association,
    exchange::Exchange,
    hello::{Hello, is_dtls},
};
use crate::{
    Certificates,
    link::Connection,
    socket::{Outgoing, Sender, UdpSocket},
    stats::StreamCounters,
    stream::{Front, Seat},
};
#[cfg(feature = "fuzzing")]
pub(crate) use exchange::fuzzing;

/// A shard's way to hand datagrams over.
#[derive(Clone)]
pub(crate) struct DtlsInlet {
    queue: mpsc::Sender<Incoming>,
    shard: usize,
    counters: Arc<StreamCounters>,
    /// Whether nothing but DTLS is served over UDP.
    is_alone: bool,
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
        is_alone: false,
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

    /// Where nothing but DTLS is served over UDP.
    pub(crate) fn alone(self) -> Self {
        Self {
            is_alone: true,
            ..self
        }
    }

    /// Whether a datagram is not for those who serve plain STUN and TURN.
    pub(crate) fn takes(&self, datagram: &[u8]) -> bool {
        self.is_alone || is_dtls(datagram)
    }

    /// Hands a datagram over; drops and counts it where it is none of DTLS, too many wait, or where it is
    /// longer than any of DTLS, so that what waits takes little memory.
    pub(crate) fn take(&self, client: SocketAddr, server: SocketAddr, datagram: &[u8]) {
        if !is_dtls(datagram) {
            return self.counters.plain_udp_refused.add(1);
        }
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return self.counters.dtls_dropped.add(1);
        }
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
    exchange: Exchange,
    out: RefCell<Out>,
    associations: RefCell<HashMap<FiveTuple, Known>>,
}

/// What the front knows of an association that a task keeps.
struct Known {
    datagrams: mpsc::Sender<Vec<u8>>,
    /// What the client chose at random for the hello that the association began with.
    random: Vec<u8>,
    /// Whether the handshake is over, so that another hello asks for another one.
    is_established: Rc<Cell<bool>>,
}

/// An association's entry in the front. On drop it is removed, unless there is a successor's: be it by
/// a panic in the association's task, whose client would stay deaf otherwise.
struct Place {
    front: Rc<DtlsFront>,
    tuple: FiveTuple,
    is_established: Rc<Cell<bool>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut associations = self.front.associations.borrow_mut();
        let known = associations.get(&self.tuple);
        if known.is_some_and(|known| Rc::ptr_eq(&known.is_established, &self.is_established)) {
            associations.remove(&self.tuple);
        }
    }
}

/// The server's sockets, to send through.
pub(crate) struct Out {
    sockets: Vec<UdpSocket>,
    sender: Sender,
    counters: Arc<StreamCounters>,
}

impl Out {
    pub(crate) fn new(sockets: Vec<UdpSocket>, counters: &Arc<StreamCounters>) -> Option<Self> {
        let trains = sockets.first()?.trains();
        Some(Self {
            sockets,
            sender: Sender::new(trains),
            counters: Arc::clone(counters),
        })
    }

    /// Sends a datagram, or drops and counts it.
    fn send(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let has = |socket: &&UdpSocket| {
            socket.local_addr().is_ok_and(|address| {
                address.port() == from.port()
                    && address.is_ipv4() == from.is_ipv4()
                    && (socket.is_wildcard() || address.ip() == from.ip())
            })
        };
        let Some(socket) = self.sockets.iter().find(has) else {
            return self.counters.dtls_unsendable.add(1);
        };
        let packet = Outgoing {
            to,
            source: socket.is_wildcard().then(|| from.ip()),
            header: &[],
            payload,
            padding: 0,
        };
        let sent = self.sender.send(socket, std::iter::once(packet));
        self.counters.dtls_congested.add(sent.congested);
        let unsendable = sent.too_long + sent.refused;
        self.counters.dtls_unsendable.add(unsendable);
    }
}

impl DtlsFront {
    /// # Errors
    /// The library has no cryptography that works, or the system no randomness.
    pub(crate) fn new(front: Rc<Front>, certificates: Certificates, out: Out) -> io::Result<Self> {
        Ok(Self {
            front,
            certificates,
            exchange: Exchange::new()?,
            out: RefCell::new(out),
            associations: RefCell::default(),
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
            // A client that lost its keys begins anew from the same port, at random anew. The hello of
            // this association may come once more, late or by whoever saw it. See RFC 6347 §4.2.8.
            let is_new = |hello: &Hello<'_>| hello.random() != Some(&known.random);
            if !known.is_established.get() || !hello.as_ref().is_some_and(is_new) {
                if known.datagrams.try_send(incoming.datagram).is_err() {
                    self.front.config.counters.dtls_dropped.add(1);
                }
                return;
            }
        }
        match hello {
            Some(hello) if hello.is_first() => {
                self.on_first_hello(tuple, &hello, &incoming.datagram);
            }
            Some(hello) => self.on_second_hello(tuple, incoming.shard, &hello, &incoming.datagram),
            None => self.front.config.counters.dtls_dropped.add(1),
        }
    }

    /// Answers who has proven nothing, with no more bytes than it sent.
    fn on_first_hello(&self, tuple: FiveTuple, hello: &Hello<'_>, datagram: &[u8]) {
        let counters = &self.front.config.counters;
        let mut allowances = self.front.allowances();
        let may_answer = allowances.take_challenge(Instant::now(), tuple.client.ip());
        drop(allowances);
        let certificate = self.certificates.dtls().filter(|_| may_answer);
        let Some(certificate) = certificate else {
            return counters.dtls_dropped.add(1);
        };
        if hello.is_outdated() {
            counters.dtls_outdated.add(1);
            return self.send(tuple, &PROTOCOL_VERSION_ALERT);
        }
        let exchange = &self.exchange;
        let Some(reply) = exchange.challenge(&certificate, tuple.client, datagram) else {
            return counters.dtls_dropped.add(1);
        };
        counters.dtls_challenged.add(1);
        self.send(tuple, &reply);
    }

    /// Begins an association with who brings the right cookie; finding out whether it does costs little.
    fn on_second_hello(
        self: &Rc<Self>,
        tuple: FiveTuple,
        shard: usize,
        hello: &Hello<'_>,
        datagram: &[u8],
    ) {
        let counters = &self.front.config.counters;
        let Some(certificate) = self.certificates.dtls() else {
            return counters.dtls_dropped.add(1);
        };
        let ip = tuple.client.ip();
        if !self.front.allowances().take_cookie(Instant::now(), ip) {
            return counters.dtls_dropped.add(1);
        }
        let Some(answered) = self.exchange.recognise(tuple.client, hello) else {
            return counters.dtls_failed.add(1);
        };
        let Some(handshake) = self.front.begin_handshake(ip) else {
            return;
        };
        let Some(seat) = self.front.connections.take(ip) else {
            return counters.refused.add(1);
        };
        let exchange = &self.exchange;
        let Some(dtls) = exchange.accept(&certificate, tuple.client, &answered, datagram) else {
            return counters.dtls_failed.add(1);
        };
        counters.dtls_accepted.add(1);
        let random = hello.random().unwrap_or_default().to_vec();
        self.keep(tuple, shard, (dtls, random), (seat, handshake));
    }

    fn keep(
        self: &Rc<Self>,
        tuple: FiveTuple,
        shard: usize,
        (dtls, random): (Dtls, Vec<u8>),
        (seat, handshake): (Seat, Seat),
    ) {
        let (sender, receiver) = mpsc::channel(DATAGRAMS_MAX);
        let is_established = Rc::default();
        let known = Known {
            datagrams: sender,
            random,
            is_established: Rc::clone(&is_established),
        };
        let place = Place {
            front: Rc::clone(self),
            tuple,
            is_established,
        };
        let (connection, queue) = Connection::new();
        seat.is_for(queue.state());
        let association = Association {
            front: Rc::clone(self),
            tuple,
            shard: self.front.config.shards[shard].clone(),
            dtls,
            datagrams: receiver,
            place,
            connection: Some(connection),
            enrolled: None,
            queue,
            buffer: vec![0; DATAGRAM_BYTES_MAX],
            handshake: Some(handshake),
            seat,
        };
        // A predecessor loses its datagrams, and ends.
        self.associations.borrow_mut().insert(tuple, known);
        task::spawn_local(association.run());
    }

    fn send(&self, tuple: FiveTuple, datagram: &[u8]) {
        let mut out = self.out.borrow_mut();
        out.send(tuple.server, tuple.client, datagram);
    }
}

/// Datagrams of all clients that may wait for the thread.
const INCOMING_MAX: usize = 2048;
/// Datagrams that may wait for one association.
const DATAGRAMS_MAX: usize = 64;
/// Tells those who offer DTLS 1.0 alone, which RFC 8996 forbids, to stop trying: a fatal alert
/// `protocol_version` in a record of that version. See RFC 5246 §7.2.2.
const PROTOCOL_VERSION_ALERT: [u8; 15] = [21, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 70];
/// Longest datagram of DTLS: a record of 2^14 bytes and what protects it.
const DATAGRAM_BYTES_MAX: usize = 17 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_that_cannot_be_sent_is_counted() {
        let counters = Arc::new(StreamCounters::default());
        let address = "127.0.0.1:0".parse().expect("a literal");
        let socket = UdpSocket::bind_server(address).expect("loopback is there");
        let own = socket.local_addr().expect("it is bound");
        let mut out = Out::new(vec![socket], &counters).expect("there is a socket");
        out.send(own, own, b"to itself");
        assert_eq!(counters.stats().dtls_unsendable, 0);
        // No other host is reached from loopback.
        let elsewhere = "192.0.2.1:9".parse().expect("a literal");
        out.send(own, elsewhere, b"out");
        assert_eq!(counters.stats().dtls_unsendable, 1);
        out.send(elsewhere, own, b"by a socket that is not there");
        assert_eq!(counters.stats().dtls_unsendable, 2);
        assert_eq!(counters.stats().dtls_congested, 0);
    }

    #[test]
    fn a_datagram_that_is_longer_than_any_of_dtls_does_not_wait() {
        let counters = Arc::new(StreamCounters::default());
        let (inlet, mut outlet) = queue(&counters);
        let address = "192.0.2.1:1".parse().expect("a literal");
        inlet.take(address, address, &[22; DATAGRAM_BYTES_MAX + 1]);
        assert!(outlet.queue.try_recv().is_err());
        assert_eq!(counters.stats().dtls_dropped, 1);
        inlet.take(address, address, &[22; DATAGRAM_BYTES_MAX]);
        let incoming = outlet.queue.try_recv().expect("it waits");
        assert_eq!(incoming.datagram.len(), DATAGRAM_BYTES_MAX);
    }
}
