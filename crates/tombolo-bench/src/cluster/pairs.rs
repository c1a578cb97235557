//! Links between devices: every lost packet and every silence is noted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;
use tombolo_client::{Lane, Peer, RoomEvent};

use super::bots::{Bot, Stage};
use super::record::{Kind, Note, Stream};

/// One link, from one end to the other.
pub(crate) struct Pair {
    unreliable: Arc<Mutex<Way>>,
    reliable: Arc<Mutex<Way>>,
    /// Keeps the link.
    _ends: (Peer, Peer),
}

/// What went one way on one lane.
#[derive(Debug, Default)]
pub(crate) struct Way {
    pub(crate) sent: u64,
    stream: Stream,
    last: Option<Instant>,
    silences: Vec<(Instant, Duration)>,
}

/// What a link may go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    /// Whatever the two find.
    Anything,
    /// Nothing passes between the two themselves.
    Relay,
}

impl Pair {
    /// Opens a link and lets one end send until it is told to listen. Call it before the devices'
    /// events are read by anybody else.
    pub(crate) async fn start(
        from: &Bot,
        to: &Bot,
        through: Through,
        stage: &watch::Receiver<Stage>,
    ) -> anyhow::Result<Self> {
        if through == Through::Relay {
            from.device.block_direct(true);
            to.device.block_direct(true);
        }
        let peer = from.room.peer(&to.user).connect();
        let (near, far) = tokio::join!(peer, accept(to));
        let (near, far) = (near.context("open a link")?, far?);
        let pair = Self {
            unreliable: Arc::default(),
            reliable: Arc::default(),
            _ends: (near.clone(), far.clone()),
        };
        let ways = [
            (Lane::Unreliable, UNRELIABLE_EVERY, &pair.unreliable),
            (Lane::Reliable, RELIABLE_EVERY, &pair.reliable),
        ];
        for (lane, every, way) in ways {
            let send = send(near.clone(), lane, every, Arc::clone(way), stage.clone());
            tokio::spawn(send);
        }
        let (unreliable, reliable) = (Arc::clone(&pair.unreliable), Arc::clone(&pair.reliable));
        tokio::spawn(async move {
            while let Some(message) = far.recv().await {
                let now = Instant::now();
                match Note::decode(&message.payload) {
                    Some(note) if note.kind == Kind::Fast => lock(&unreliable).take(note, now),
                    Some(note) => lock(&reliable).take(note, now),
                    None => {}
                }
            }
        });
        Ok(pair)
    }

    /// Looks at what went over one of the lanes.
    pub(crate) fn look<T>(&self, lane: Lane, look: impl FnOnce(&Way) -> T) -> T {
        let way = if lane == Lane::Unreliable {
            &self.unreliable
        } else {
            &self.reliable
        };
        look(&lock(way))
    }
}

impl Way {
    fn take(&mut self, note: Note, now: Instant) {
        self.stream.take(note.number);
        if let Some(last) = self.last.replace(now) {
            self.silences.push((now, now - last));
        }
    }

    pub(crate) fn lost(&self) -> u64 {
        self.stream.lost(self.sent, |_| true)
    }

    /// Messages that came twice or after a later one.
    pub(crate) fn disordered(&self) -> u64 {
        self.stream.repeated + self.stream.reordered
    }

    /// The longest silence before, or after, a moment.
    pub(crate) fn silence(&self, moment: Instant, is_after: bool) -> Duration {
        let those = self.silences.iter();
        let those = those.filter(|(when, _)| (*when > moment) == is_after);
        those.map(|(_, long)| *long).max().unwrap_or_default()
    }
}

/// Sends until it is told to listen.
async fn send(
    peer: Peer,
    lane: Lane,
    every: Duration,
    way: Arc<Mutex<Way>>,
    mut stage: watch::Receiver<Stage>,
) {
    let kind = if lane == Lane::Unreliable {
        Kind::Fast
    } else {
        Kind::Plain
    };
    let mut ticks = tokio::time::interval(every);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stage.wait_for(|stage| *stage == Stage::Listen) => return,
        }
        let number = lock(&way).sent;
        let note = Note {
            kind,
            bot: 0,
            number,
        };
        if peer.send(lane, note.encode()).is_ok() {
            lock(&way).sent += 1;
        }
    }
}

/// The link that the other device opens.
async fn accept(bot: &Bot) -> anyhow::Result<Peer> {
    while let Some(event) = bot.room.next_event().await {
        if let RoomEvent::Peer(peer) = event {
            return Ok(peer);
        }
    }
    anyhow::bail!("the room ended")
}

fn lock(way: &Mutex<Way>) -> std::sync::MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between two messages of a link.
const UNRELIABLE_EVERY: Duration = Duration::from_millis(10);
const RELIABLE_EVERY: Duration = Duration::from_millis(50);
