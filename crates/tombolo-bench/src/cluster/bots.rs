//! Devices that talk in rooms, and note what they send and get.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tombolo_client::{Audience, Device, Lane, Room, RoomEvent, RoomOptions, UserId};

use super::Arguments;
use super::processes::{Address, token};
use super::record::{Kind, Note, Shared, lock};

/// What devices do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// They send.
    Talk,
    /// They take in what is still under way.
    Listen,
}

/// A device in a room.
pub(crate) struct Bot {
    pub(crate) index: usize,
    /// The number of its room.
    pub(crate) room_index: usize,
    /// On which node it began: mostly the one that it was told, unless that was too slow to answer.
    pub(crate) node: usize,
    pub(crate) user: UserId,
    pub(crate) device: Device,
    pub(crate) room: Room,
    pub(crate) record: Shared,
}

/// Where a device is, and which seat it has in its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: String,
    pub(crate) seat: Option<u32>,
}

/// The name of a room.
pub(crate) fn room_name(index: usize) -> String {
    format!("room-{index}")
}

/// Brings devices into their rooms; neighbours in a room are on different nodes.
pub(crate) async fn enter(
    arguments: &Arguments,
    devices: Range<usize>,
    nodes: &[Address],
) -> anyhow::Result<Vec<Arc<Bot>>> {
    let nodes: Arc<[Address]> = nodes.into();
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut entering = JoinSet::new();
    let mut bots = Vec::with_capacity(devices.len());
    for index in devices {
        let room_index = index % arguments.rooms;
        let told = (index / arguments.rooms + room_index) % nodes.len();
        let patience = Duration::from_millis(arguments.patience_ms);
        let (gate, nodes) = (Arc::clone(&gate), Arc::clone(&nodes));
        entering.spawn(async move {
            let _place = gate.acquire().await?;
            enter_one(index, room_index, &nodes, told, patience)
                .await
                .with_context(|| format!("device {index}"))
        });
    }
    while let Some(entered) = entering.join_next().await {
        bots.push(Arc::new(entered.context("a device's task")??));
        if bots.len().is_multiple_of(500) {
            eprintln!("{} devices are in their rooms", bots.len());
        }
    }
    bots.sort_by_key(|bot| bot.index);
    Ok(bots)
}

async fn enter_one(
    index: usize,
    room_index: usize,
    nodes: &[Address],
    told: usize,
    patience: Duration,
) -> anyhow::Result<Bot> {
    let device = Device::builder(&nodes[told].url)
        .token(token(&format!("bot-{index}"))?)
        .patience(patience)
        .connect()
        .await?;
    let options = RoomOptions::default();
    let room = device
        .rooms()
        .join_or_create(&room_name(room_index), options)
        .await?;
    let session = device.session();
    let is_there = |node: &Address| node.name == session.node;
    Ok(Bot {
        index,
        room_index,
        node: nodes.iter().position(is_there).unwrap_or(told),
        user: session.user,
        device,
        room,
        record: Shared::default(),
    })
}

impl Bot {
    /// Begins to talk and to listen.
    pub(crate) fn start(self: &Arc<Self>, arguments: &Arguments, stage: &watch::Receiver<Stage>) {
        tokio::spawn(Arc::clone(self).listen());
        tokio::spawn(Arc::clone(self).watch_session());
        let plain = Duration::from_millis(arguments.plain_ms);
        tokio::spawn(Arc::clone(self).talk(Kind::Plain, plain, stage.clone()));
        let durable = Duration::from_millis(arguments.durable_ms);
        tokio::spawn(Arc::clone(self).talk(Kind::Durable, durable, stage.clone()));
        if self.is_watched(arguments) {
            tokio::spawn(Arc::clone(self).talk(Kind::Fast, FAST_EVERY, stage.clone()));
        }
    }

    /// The device of a watched room that sends often, and is on a node that the fault does not concern.
    fn is_watched(&self, arguments: &Arguments) -> bool {
        let is_sender = arguments.nodes == 1 || self.node == 1;
        let is_first = self.index / arguments.rooms < arguments.nodes;
        self.room_index < arguments.watched && is_sender && is_first
    }

    /// Notes which seat the device has.
    /// Where the device is.
    pub(crate) fn place(&self) -> Place {
        Place {
            node: self.device.session().node,
            seat: self.note_seat(),
        }
    }

    pub(crate) fn note_seat(&self) -> Option<u32> {
        let seat = |room: &tombolo_client::RoomView| {
            let member = room.members.get(&self.user)?;
            (!member.is_dropped).then_some(member.seat)
        };
        self.room.read(seat)
    }

    async fn talk(self: Arc<Self>, kind: Kind, every: Duration, mut stage: watch::Receiver<Stage>) {
        // Devices do not speak all at once.
        let phase = every.mul_f64((self.index % 97) as f64 / 97.0);
        tokio::time::sleep(phase).await;
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stage.wait_for(|stage| *stage == Stage::Listen) => return,
            }
            self.say(kind).await;
        }
    }

    async fn say(&self, kind: Kind) {
        let number = lock(&self.record).sends(kind);
        let bot = u32::try_from(self.index).unwrap_or(u32::MAX);
        let payload = Note { kind, bot, number }.encode();
        let begun = Instant::now();
        let done = match kind {
            Kind::Plain => self.room.broadcast(Lane::Reliable, payload).await,
            Kind::Fast => self.room.broadcast(Lane::Unreliable, payload).await,
            Kind::Durable => match self.room.say(Audience::Others, payload).await {
                Ok(kept) => {
                    let mut record = lock(&self.record);
                    record.kept.push((number, kept));
                    record.waits.push((begun, begun.elapsed()));
                    return;
                }
                Err(error) => Err(error),
            },
        };
        if let Err(error) = done {
            let mut record = lock(&self.record);
            record.failed.entry(kind).or_default().insert(number);
            if kind == Kind::Durable && error.is_unsure() {
                record.unsure.insert(number);
            } else if kind == Kind::Durable {
                record.not_kept.insert(number);
                record.refusal_waits.push((begun, begun.elapsed()));
            }
            *record.refused.entry(error.to_string()).or_default() += 1;
        }
    }

    async fn listen(self: Arc<Self>) {
        while let Some(event) = self.room.next_event().await {
            let now = Instant::now();
            let mut record = lock(&self.record);
            match event {
                RoomEvent::Message { payload, .. } => {
                    if let Some(note) = Note::decode(&payload) {
                        record.takes(note, now);
                    }
                }
                RoomEvent::Said(said) => {
                    if let Some(note) = Note::decode(&said.payload) {
                        record.takes(note, now);
                    }
                    if said.number <= record.last_kept {
                        record.kept_reordered += 1;
                    }
                    record.last_kept = record.last_kept.max(said.number);
                }
                RoomEvent::Synced { lost } => {
                    record.synced.push(now);
                    if lost {
                        record
                            .disconnects
                            .push("durable messages are lost".to_owned());
                    }
                }
                RoomEvent::Left { user, reason } if user == self.user => {
                    record.disconnects.push(format!("left the room: {reason}"));
                }
                RoomEvent::Refused(reason) => *record.refused.entry(reason).or_default() += 1,
                RoomEvent::Lagged { missed } => {
                    record
                        .disconnects
                        .push(format!("{missed} events were missed"));
                }
                RoomEvent::Joined(_)
                | RoomEvent::Left { .. }
                | RoomEvent::Dropped(_)
                | RoomEvent::Returned(_)
                | RoomEvent::Configured { .. }
                | RoomEvent::Properties { .. }
                | RoomEvent::Object { .. }
                | RoomEvent::ObjectDeleted { .. }
                | RoomEvent::Owner(_)
                | RoomEvent::Peer(_)
                | _ => {}
            }
        }
        lock(&self.record)
            .disconnects
            .push("the room ended".to_owned());
    }

    async fn watch_session(self: Arc<Self>) {
        let mut session = self.device.watch_session();
        while session.changed().await.is_ok() {
            let info = session.borrow_and_update().clone();
            if let Some(info) = info {
                let connected = (Instant::now(), info.node, info.resumed);
                lock(&self.record).connected.push(connected);
            }
        }
    }
}

/// Devices that connect at the same time.
const AT_ONCE: usize = 32;
const FAST_EVERY: Duration = Duration::from_millis(20);
