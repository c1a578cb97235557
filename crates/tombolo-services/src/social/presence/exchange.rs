//! Brings what nodes tell each other of who is online over the bus.
//!
//! | subject | who hears it |
//! |---|---|
//! | `presence.<shard>.<node>` | nodes where somebody follows a user of the shard |
//! | `presence-of.<node>` | that node: questions, and answers to its own |
//! | `presence-beat.<node>` | all |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tombolo_engine::{BusEvent, Key, KeyError, Pattern};
use tombolo_social::presence::{Ask, Command, Shard};
use tombolo_wire::NodeId;

use super::frame::{BadFrame, Body, Frame};
use super::tell;
use crate::lock::lock;
use crate::node::Node;

/// Tells and hears for as long as it runs.
pub(crate) async fn run(node: Arc<Node>) {
    let mut exchange = Exchange {
        epoch: 0,
        beat_at: Instant::now(),
        listener_by_shard: BTreeMap::new(),
        tasks: JoinSet::new(),
        outgoing: Vec::new(),
        node,
    };
    exchange.listen(Key::new([BEATS]).map(Pattern::Under), None);
    let own = Key::new([OF_NODE, exchange.node.name().as_str()]);
    exchange.listen(own.map(Pattern::Exactly), None);
    loop {
        let node = Arc::clone(&exchange.node);
        let is_behind = exchange.step();
        exchange.publish().await;
        let now = Instant::now();
        let mut until = exchange.beat_at;
        if is_behind {
            until = until.min(now + TELL_DELAY);
        }
        if let Some((at, _)) = node.social.presence.watch().poll_timeout() {
            until = until.min(at.into());
        }
        tokio::select! {
            biased;
            // Whatever happens within a moment is told together.
            () = node.social.presence.wake.notified() => sleep_until(now + SPACING).await,
            () = sleep_until(until) => {}
        }
    }
}

struct Exchange {
    node: Arc<Node>,
    /// The node's life, as it was last.
    epoch: u64,
    beat_at: Instant,
    listener_by_shard: BTreeMap<Shard, AbortHandle>,
    /// Ended with this.
    tasks: JoinSet<()>,
    /// What is to be published, in order.
    outgoing: Vec<(Key, Bytes)>,
}

impl Exchange {
    /// Does what is to be done now; whether some devices cannot take what they are to be told.
    fn step(&mut self) -> bool {
        let node = Arc::clone(&self.node);
        let now = Instant::now();
        if let Some(epoch) = node.cluster.epoch() {
            self.epoch = epoch;
        }
        let mut up: BTreeSet<NodeId> = node.cluster.others().into_iter().collect();
        up.insert(node.name().clone());
        let presence = &node.social.presence;
        presence.watch().handle_nodes(now.into_std(), up);
        loop {
            // Not held while the other lock is taken.
            let Some(changes) = lock(&presence.own).poll_changes() else {
                break;
            };
            let mut watch = presence.watch();
            watch.handle_changes(now.into_std(), node.name(), self.epoch, changes.clone());
            drop(watch);
            let shard = changes.shard.number().to_string();
            self.say(
                [SHARD, &shard, node.name().as_str()],
                Body::Changes(changes),
            );
        }
        let beat = lock(&presence.own).beat();
        let mut watch = presence.watch();
        watch.handle_beat(now.into_std(), node.name(), self.epoch, &beat);
        watch.handle_timeout(now.into_std());
        drop(watch);
        if now >= self.beat_at {
            self.beat_at = now + BEAT_INTERVAL;
            self.say([BEATS, node.name().as_str()], Body::Beat(beat));
        }
        loop {
            let Some(command) = presence.watch().poll_command() else {
                break;
            };
            self.on_command(now, command);
        }
        while self.tasks.try_join_next().is_some() {}
        presence.progress.send_replace(());
        tell(&node)
    }

    fn on_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Hear(shard) => {
                let key = Key::new([SHARD, &shard.number().to_string()]);
                let listener = self.listen(key.map(Pattern::Under), Some(shard));
                self.listener_by_shard.insert(shard, listener);
            }
            Command::Ignore(shard) => {
                if let Some(listener) = self.listener_by_shard.remove(&shard) {
                    listener.abort();
                }
            }
            Command::Ask(Ask { node, shard }) if node == *self.node.name() => {
                let presence = &self.node.social.presence;
                let roll = lock(&presence.own).roll(shard);
                let mut watch = presence.watch();
                watch.handle_roll(now.into_std(), &node, self.epoch, roll);
            }
            Command::Ask(Ask { node, shard }) => {
                self.say([OF_NODE, node.as_str()], Body::Ask(shard));
            }
        }
    }

    fn listen(&mut self, pattern: Result<Pattern, KeyError>, shard: Option<Shard>) -> AbortHandle {
        let node = Arc::clone(&self.node);
        let vitals = node.vitals.clone();
        self.tasks.spawn(vitals.hold(TASK, async move {
            match pattern {
                Ok(pattern) => listen(&node, &pattern, shard).await,
                Err(_) => tracing::error!("the node's name is no subject: it stays alone"),
            }
        }))
    }

    /// Has something published, if this node is in the cluster.
    fn say<'a>(&mut self, subject: impl IntoIterator<Item = &'a str>, body: Body) {
        let frame = frame(&self.node, body);
        if let (Ok(subject), Some(frame)) = (Key::new(subject), frame) {
            self.outgoing.push((subject, frame.encode()));
        }
    }

    async fn publish(&mut self) {
        for (subject, payload) in std::mem::take(&mut self.outgoing) {
            let publish = self.node.engine.publish(&subject, payload);
            if !matches!(timeout(PUBLISH_TIMEOUT, publish).await, Ok(Ok(()))) {
                // The rest would wait as long. Whoever misses it asks for it.
                self.node.counters.cluster.frames_failed.add(1);
                return;
            }
        }
    }
}

fn frame(node: &Node, body: Body) -> Option<Frame> {
    Some(Frame {
        from: node.name().clone(),
        epoch: node.cluster.epoch()?,
        body,
    })
}

/// Hears what is published for as long as it runs.
async fn listen(node: &Arc<Node>, pattern: &Pattern, shard: Option<Shard>) {
    let presence = &node.social.presence;
    let heard = |is_heard| {
        if let Some(shard) = shard {
            let now = Instant::now().into_std();
            presence.watch().handle_heard(now, shard, is_heard);
            presence.wake.notify_one();
        }
    };
    loop {
        if let Ok(mut subscription) = node.engine.subscribe(pattern, MESSAGES_MAX).await {
            heard(true);
            while let Some(event) = subscription.next().await {
                match event {
                    BusEvent::Message(message) => take_in(node, &message.payload).await,
                    // The numbers tell which.
                    BusEvent::Lost(count) => node.counters.cluster.bus_lost.add(count),
                }
            }
            heard(false);
        }
        tokio::time::sleep(SUBSCRIBE_DELAY).await;
    }
}

async fn take_in(node: &Arc<Node>, payload: &[u8]) {
    let Frame { from, epoch, body } = match Frame::decode(payload) {
        Ok(frame) => frame,
        Err(BadFrame) => return node.counters.cluster.items_refused.add(1),
    };
    if from == *node.name() {
        return;
    }
    let presence = &node.social.presence;
    let now = Instant::now().into_std();
    match body {
        Body::Changes(changes) => presence.watch().handle_changes(now, &from, epoch, changes),
        Body::Roll(roll) => presence.watch().handle_roll(now, &from, epoch, roll),
        Body::Beat(beat) => presence.watch().handle_beat(now, &from, epoch, &beat),
        Body::Ask(shard) => return give_roll(node, &from, shard).await,
    }
    presence.wake.notify_one();
}

/// Answers a node of the cluster.
async fn give_roll(node: &Arc<Node>, to: &NodeId, shard: Shard) {
    if !node.cluster.is_up(to) {
        return node.counters.cluster.items_refused.add(1);
    }
    let roll = lock(&node.social.presence.own).roll(shard);
    let frame = frame(node, Body::Roll(roll));
    if let (Ok(subject), Some(frame)) = (Key::new([OF_NODE, to.as_str()]), frame) {
        let publish = node.engine.publish(&subject, frame.encode());
        if !matches!(timeout(PUBLISH_TIMEOUT, publish).await, Ok(Ok(()))) {
            node.counters.cluster.frames_failed.add(1);
        }
    }
}

/// What it does, as whoever runs the node is told when that panics.
const TASK: &str = "who is online";

/// Of what nodes tell of each shard, on the bus.
const SHARD: &str = "presence";

/// Of what is for one node.
const OF_NODE: &str = "presence-of";

/// Of what every node says now and then.
const BEATS: &str = "presence-beat";

/// How often a node says how far it has told everything.
const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// For how long changes are gathered.
const SPACING: Duration = Duration::from_millis(50);

/// Between two attempts to tell devices that cannot take more.
const TELL_DELAY: Duration = Duration::from_millis(200);

/// Messages that wait for one listener.
const MESSAGES_MAX: usize = 4096;

const SUBSCRIBE_DELAY: Duration = Duration::from_millis(250);

/// How long the bus may take to take a message in.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(500);
