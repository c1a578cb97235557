//! A device of the demo: connects, sends a hundred messages a second, counts what comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{Barrier, mpsc, watch};
use tombolo_client::{
    Candidate, Device, Lane, LinkState, LinkStatus, NatReport, Peer, RoomEvent, RoomOptions, Via,
};

const ROOM: &str = "demo";
const SEND_EVERY: Duration = Duration::from_millis(10);
/// After the last message is sent, so long do others still arrive.
const LAST_WORDS: Duration = Duration::from_millis(700);
/// An actor that has not ended so long after the last cue is stopped.
const CURTAIN: Duration = Duration::from_secs(8);

/// Where the director wants the story to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cue {
    Talk,
    /// The direct path is down; only stages without a network of their own do it here.
    Cut,
    Stop,
    /// At once: nobody watches any more.
    Leave,
}

/// Something that an actor tells the narrator.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) at: Instant,
    pub(super) who: &'static str,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Session {
        transport: &'static str,
        candidates: Vec<Candidate>,
    },
    Nat(Box<NatReport>),
    /// `connect()` was called.
    Connecting,
    Status(LinkStatus),
    Received {
        seq: u64,
        via: Via,
    },
    /// All is sent; the number of messages.
    Done {
        sent: u64,
    },
    Failed(String),
}

pub(super) struct Actor {
    pub(super) who: &'static str,
    /// Whether this one begins the link, or waits for the other.
    pub(super) begins: bool,
    pub(super) url: String,
    pub(super) notes: mpsc::UnboundedSender<Note>,
    pub(super) cues: watch::Receiver<Cue>,
    /// Both have looked at their NATs.
    pub(super) ready: Arc<Barrier>,
    /// Whether this actor must block its direct path itself.
    pub(super) blocks: bool,
}

impl Actor {
    /// Plays until told to stop; failures become notes.
    pub(super) async fn play(self) {
        let mut cues = self.cues.clone();
        let stopped = async {
            _ = cues.wait_for(|cue| *cue == Cue::Stop).await;
            tokio::time::sleep(CURTAIN).await;
        };
        let mut leave = self.cues.clone();
        let left = leave.wait_for(|cue| *cue == Cue::Leave);
        tokio::select! {
            played = self.try_play() => if let Err(error) = played {
                self.note(What::Failed(format!("{error:#}")));
            },
            // The other one failed, and this one waits for it.
            _ = left => {}
            () = stopped => self.note(What::Failed("did not end in time".to_owned())),
        }
    }

    async fn try_play(&self) -> anyhow::Result<()> {
        let device = Device::builder(&self.url)
            .development_user(self.who)
            .connect()
            .await?;
        let transport = device.session().transport.as_str();
        self.note(What::Session {
            transport,
            candidates: device.candidates(),
        });
        let nat = device.measure_nat().await?;
        self.note(What::Nat(Box::new(nat)));
        self.ready.wait().await;
        let room = device
            .rooms()
            .join_or_create(ROOM, RoomOptions::default())
            .await?;
        let mut sent = 0;
        let peer = loop {
            let others = room.members();
            let other = others.iter().find(|user| user.as_str() != self.who);
            if let Some(other) = other.filter(|_| self.begins) {
                self.note(What::Connecting);
                sent += 1;
                break room
                    .peer(other)
                    .first_message(Lane::Reliable, message(sent))
                    .open()?;
            }
            match room.next_event().await {
                Some(RoomEvent::Peer(peer)) => break peer,
                Some(_) => {}
                None => anyhow::bail!("the session is over"),
            }
        };
        let sent = self.talk(&device, &peer, sent).await?;
        self.note(What::Done { sent });
        device.close().await;
        Ok(())
    }

    async fn talk(&self, device: &Device, peer: &Peer, mut sent: u64) -> anyhow::Result<u64> {
        let mut cues = self.cues.clone();
        let mut changes = peer.changes();
        let mut tick = tokio::time::interval(SEND_EVERY);
        let stopped = tokio::time::sleep(Duration::MAX);
        tokio::pin!(stopped);
        let mut is_talking = true;
        loop {
            tokio::select! {
                Ok(()) = cues.changed() => {
                    let cue = *cues.borrow_and_update();
                    if self.blocks {
                        device.block_direct(cue == Cue::Cut);
                    }
                    if cue == Cue::Stop {
                        is_talking = false;
                        stopped.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
                    }
                }
                Ok(status) = changes.recv() => {
                    anyhow::ensure!(status.state != LinkState::Lost, "the link is lost: {:?}", status.reason);
                    self.note(What::Status(status));
                }
                received = peer.recv() => {
                    let Some(received) = received else { anyhow::bail!("the link ended") };
                    let seq = received.payload.get(..8).and_then(|seq| seq.try_into().ok());
                    let seq = u64::from_be_bytes(seq.unwrap_or_default());
                    self.note(What::Received { seq, via: received.via });
                }
                _ = tick.tick(), if is_talking => {
                    sent += 1;
                    peer.send(Lane::Reliable, message(sent))?;
                }
                () = &mut stopped => return Ok(sent),
            }
        }
    }

    fn note(&self, what: What) {
        // Without a narrator the play is over.
        _ = self.notes.send(Note {
            at: Instant::now(),
            who: self.who,
            what,
        });
    }
}

fn message(seq: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(64);
    bytes.put_u64(seq);
    bytes.resize(64, 0);
    bytes.freeze()
}
