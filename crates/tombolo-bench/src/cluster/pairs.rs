//! Links between devices: every lost packet and every silence is noted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;
use tombolo_client::{Lane, Peer, RoomEvent};

use super::bots::{Bot, Stage};
use super::record::{Kind, Note, Stream};

/// One link, from one end to the other.
pub(crate) struct Pair {
    sent: Arc<AtomicU64>,
    heard: Arc<std::sync::Mutex<Heard>>,
    /// Keeps the link.
    _ends: (Peer, Peer),
}

#[derive(Default)]
struct Heard {
    stream: Stream,
    last: Option<Instant>,
    silences: Vec<(Instant, Duration)>,
}

impl Pair {
    /// Opens a link and lets one end send until it is told to listen. Call it before the devices'
    /// events are read by anybody else.
    pub(crate) async fn start(
        from: &Bot,
        to: &Bot,
        stage: &watch::Receiver<Stage>,
    ) -> anyhow::Result<Self> {
        let peer = from.room.peer(&to.user).connect();
        let (near, far) = tokio::join!(peer, accept(to));
        let (near, far) = (near.context("open a link")?, far?);
        let pair = Self {
            sent: Arc::default(),
            heard: Arc::default(),
            _ends: (near.clone(), far.clone()),
        };
        let (sent, mut stage) = (Arc::clone(&pair.sent), stage.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stage.wait_for(|stage| *stage == Stage::Listen) => return,
                }
                let (kind, bot) = (Kind::Fast, 0);
                let number = sent.load(Ordering::Relaxed);
                let note = Note { kind, bot, number }.encode();
                if near.send(Lane::Unreliable, note).is_ok() {
                    sent.store(number + 1, Ordering::Relaxed);
                }
            }
        });
        let heard = Arc::clone(&pair.heard);
        tokio::spawn(async move {
            while let Some(message) = far.recv().await {
                let now = Instant::now();
                if let (Some(note), Ok(mut heard)) = (Note::decode(&message.payload), heard.lock())
                {
                    heard.stream.take(note.number);
                    if let Some(last) = heard.last.replace(now) {
                        heard.silences.push((now, now - last));
                    }
                }
            }
        });
        Ok(pair)
    }

    /// Messages that were sent, those that never came, and the longest silences before and after a
    /// moment.
    pub(crate) fn outcome(&self, fault: Instant) -> (u64, u64, Duration, Duration) {
        let sent = self.sent.load(Ordering::Relaxed);
        let Ok(heard) = self.heard.lock() else {
            return (sent, sent, Duration::MAX, Duration::MAX);
        };
        let longest = |is_after: bool| {
            let those = heard.silences.iter();
            let those = those.filter(|(when, _)| (*when > fault) == is_after);
            those.map(|(_, long)| *long).max().unwrap_or_default()
        };
        let lost = heard.stream.lost(sent, |_| true);
        (sent, lost, longest(false), longest(true))
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

/// Between two messages of a link.
const EVERY: Duration = Duration::from_millis(10);
