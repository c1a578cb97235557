//! One allocation: its TURN client, and how its server is reached.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tombolo_turn::client::Client;

/// How a TURN server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Carrier {
    Udp,
    /// TLS over TCP.
    Stream,
}

/// A stream's writing end.
pub(crate) struct Stream {
    pub(crate) frames: mpsc::Sender<Vec<u8>>,
    /// Counts the device's streams.
    pub(crate) generation: u64,
}

/// A server that was quiet for so long is asked whether it is there.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// It has so long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Turn {
    pub(super) client: Client,
    /// From where the server sees us; `None` until it has allocated.
    pub(super) mapped: Option<SocketAddr>,
    /// Whether its server was heard since another one was asked to take its place.
    pub(super) is_heard: bool,
    /// Takes the frames to send; `None` over UDP.
    stream: Option<Stream>,
    heard_at: Instant,
    /// When the server was asked whether it is there, unless it has been heard since.
    asked_at: Option<Instant>,
}

impl Turn {
    pub(super) fn new(now: Instant, client: Client, stream: Option<Stream>) -> Self {
        Self {
            client,
            mapped: None,
            is_heard: false,
            stream,
            heard_at: now,
            asked_at: None,
        }
    }

    pub(super) fn carrier(&self) -> Carrier {
        match self.stream {
            Some(_) => Carrier::Stream,
            None => Carrier::Udp,
        }
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.client.config().server
    }

    /// Whether datagrams from there are its server's.
    pub(super) fn is_from(&self, from: SocketAddr) -> bool {
        self.stream.is_none() && self.server() == from
    }

    /// Whether it is over the stream of that number.
    pub(super) fn is_over(&self, generation: u64) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(|stream| stream.generation == generation)
    }

    /// Handles what the server sent: the peer's relayed address and the payload's place.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        data: &[u8],
    ) -> Option<(SocketAddr, Range<usize>)> {
        (self.is_heard, self.heard_at, self.asked_at) = (true, now, None);
        let received = self.client.handle_datagram(now, data)?;
        Some((received.peer, received.range))
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.client.handle_timeout(now);
        if self.asked_at.is_none() && self.pulse_at().is_some_and(|at| now >= at) {
            self.asked_at = Some(now);
            self.client.refresh(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let client = self.client.poll_timeout().map(|(at, _)| at);
        client.into_iter().chain(self.pulse_at()).min()
    }

    /// Whether its server did not answer in time. No end of a stream tells of a server that is cut off,
    /// or of an address that this device no longer has; over UDP the probe of NATs finds out.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.asked_at.is_some() && self.pulse_at().is_some_and(|at| now >= at)
    }

    /// Gives its stream up, without a word to its server.
    pub(super) fn give_up(&self) {
        if let Some(stream) = &self.stream {
            // One that is full does not take what waits, and is given up for that.
            _ = stream.frames.try_send(Vec::new());
        }
    }

    /// When the server of a stream is asked, or has not answered in time.
    fn pulse_at(&self) -> Option<Instant> {
        self.stream.as_ref()?;
        Some(match self.asked_at {
            Some(asked_at) => asked_at + ANSWER_WITHIN,
            None => self.heard_at + QUIET_MAX,
        })
    }

    /// Sends to the server; false when that cannot be.
    pub(super) fn send(&self, bytes: Vec<u8>, out: &mut Vec<(SocketAddr, Vec<u8>)>) -> bool {
        match &self.stream {
            // A full stream drops, as a full network would: QUIC repeats what must arrive.
            Some(stream) => stream.frames.try_send(bytes).is_ok(),
            None => {
                out.push((self.server(), bytes));
                true
            }
        }
    }

    /// Sends what the client wants sent.
    pub(super) fn collect(&mut self, out: &mut Vec<(SocketAddr, Vec<u8>)>) {
        while let Some(bytes) = self.client.poll_transmit() {
            self.send(bytes, out);
        }
    }
}
