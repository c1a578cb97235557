//! One association: records to frames, frames to records.

use std::{future::pending, rc::Rc};

use dimpl::{Dtls, Output};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tombolo_turn::server::FiveTuple;
use tracing::debug;

use super::{DtlsFront, Place};
use crate::{
    link::{Batch, Connection, ConnectionQueue, Enrolled, FromStream, ShardLink},
    stream::Seat,
};

/// An association whose client has shown that its address is its own.
pub(super) struct Association {
    pub(super) front: Rc<DtlsFront>,
    pub(super) tuple: FiveTuple,
    pub(super) shard: ShardLink,
    pub(super) dtls: Dtls,
    pub(super) datagrams: mpsc::Receiver<Vec<u8>>,
    pub(super) place: Place,
    /// Given to the shard once the handshake is over.
    pub(super) connection: Option<Connection>,
    /// What the shard has done with it.
    pub(super) enrolled: Option<Enrolled>,
    pub(super) queue: ConnectionQueue,
    /// Room for whatever the library puts out.
    pub(super) buffer: Vec<u8>,
    /// Given back once the handshake is over.
    pub(super) handshake: Option<Seat>,
    pub(super) seat: Seat,
}

/// Why an association ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By the client, or by a successor from the same address.
    Closed,
    /// By the shard.
    LetGo,
    /// The handshake failed, or records could not be made any more.
    Failed,
    /// No handshake in time, or no allocation.
    Silent,
    /// Its handshake was given up for somebody else's.
    HandshakeDisplaced,
    /// Its seat was.
    Displaced,
}

/// What happens next.
enum Next {
    Datagram(Option<Vec<u8>>),
    Shard(Batch),
    Timer,
    Deadline,
    HandshakeDisplaced,
    Displaced,
}

impl Association {
    /// Serves the client until either side has enough of it.
    pub(super) async fn run(mut self) {
        let end = self.serve().await;
        let counters = &self.front.front.config.counters;
        match end {
            End::Closed | End::LetGo => {}
            End::Failed => counters.dtls_failed.add(1),
            End::Silent => counters.timed_out.add(1),
            End::HandshakeDisplaced => counters.handshakes_displaced.add(1),
            End::Displaced => counters.displaced.add(1),
        }
        if self.dtls.close().is_ok() {
            // What comes besides the farewell has nobody to go to.
            let _ = self.drain().await;
        }
        debug!(client = ?self.tuple, reason = ?end, "association ended");
    }

    async fn serve(&mut self) -> End {
        let config = &self.front.front.config;
        let (first_frame_timeout, patience) =
            (config.first_frame_timeout, config.allocation_timeout);
        let mut deadline = Instant::now() + first_frame_timeout;
        let mut frame = Vec::new();
        loop {
            let was_established = self.place.is_established.get();
            let timer = match self.drain().await {
                Ok(timer) => timer,
                Err(end) => return end,
            };
            if self.place.is_established.get() && !was_established {
                deadline = Instant::now() + patience;
            }
            let next = tokio::select! {
                datagram = self.datagrams.recv() => Next::Datagram(datagram),
                batch = self.queue.next(&mut frame, 0) => Next::Shard(batch),
                () = sleep_until(timer) => Next::Timer,
                () = sleep_until(deadline) => Next::Deadline,
                () = displaced(self.handshake.as_ref()) => Next::HandshakeDisplaced,
                () = self.seat.displaced() => Next::Displaced,
            };
            // The library's clock is set before it sees anything.
            if self.dtls.handle_timeout(std::time::Instant::now()).is_err() {
                return End::Failed;
            }
            let result = match next {
                Next::Datagram(None) => return End::Closed,
                // Only connections of streams are joined with others.
                Next::Shard(Batch::Over | Batch::Join(_)) => return End::LetGo,
                Next::Datagram(Some(datagram)) => self.dtls.handle_packet(&datagram),
                Next::Shard(Batch::Frames { .. }) => self.send(&frame),
                Next::Timer => Ok(()),
                Next::Deadline if self.queue.state().is_allocated() => {
                    deadline = Instant::now() + patience;
                    Ok(())
                }
                Next::Deadline => return End::Silent,
                Next::HandshakeDisplaced => return End::HandshakeDisplaced,
                Next::Displaced => return End::Displaced,
            };
            if result.is_err() {
                return End::Failed;
            }
        }
    }

    /// Makes a record of a frame. What a peer sent may be longer than a record may be: it is lost then,
    /// as datagrams are, and the association goes on.
    fn send(&mut self, frame: &[u8]) -> Result<(), dimpl::Error> {
        if frame.len() > RECORD_BYTES_MAX {
            self.front.front.config.counters.dtls_dropped.add(1);
            return Ok(());
        }
        self.dtls.send_application_data(frame).map(drop)
    }

    /// Does what the library asks for, and returns when it wants to be called again.
    async fn drain(&mut self) -> Result<Instant, End> {
        loop {
            let news = match self.dtls.poll_output(&mut self.buffer) {
                Output::Packet(packet) => {
                    self.front.send(self.tuple, packet);
                    continue;
                }
                Output::Connected => match self.connection.take() {
                    Some(connection) => {
                        self.place.is_established.set(true);
                        self.handshake = None;
                        self.enrolled = self.shard.enrol(self.tuple, connection).await;
                        match self.enrolled {
                            Some(_) => continue,
                            None => return Err(End::LetGo),
                        }
                    }
                    None => continue,
                },
                Output::ApplicationData(data) => FromStream::Frame(self.tuple, data.to_vec()),
                Output::CloseNotify => return Err(End::Closed),
                Output::Timeout(at) => return Ok(at.into()),
                Output::BufferTooSmall { .. } => return Err(End::Failed),
                // Certificates of clients and keys for SRTP are of no interest here.
                Output::PeerCert(_) | Output::KeyingMaterial(..) | _ => continue,
            };
            if !self.shard.frame(news).await {
                return Err(End::LetGo);
            }
        }
    }
}

/// Waits until a handshake has lost its seat; for ever if it is over.
async fn displaced(handshake: Option<&Seat>) {
    match handshake {
        Some(seat) => seat.displaced().await,
        None => pending().await,
    }
}

/// What one record holds. See RFC 6347 §4.1 and RFC 5246 §6.2.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
