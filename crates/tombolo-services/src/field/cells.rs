//! What nodes tell each other on the subjects of cells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tombolo_engine::{BusEvent, Key, Pattern, Subscription};
use tombolo_field::{CellId, Dimensions, EntityId, LEVELS_MAX, Report};
use tombolo_wire::{FieldId, NodeId};

use super::driver::{Input, REPEAT};
use super::generated as wire;
use super::subject;
use crate::node::Node;

/// What another node tells.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Heard {
    pub(super) from: NodeId,
    /// Which of the node's lives; later ones are greater.
    pub(super) life: u64,
    pub(super) asks: Option<CellId>,
    pub(super) entities: Vec<HeardEntity>,
    pub(super) left: Vec<EntityId>,
}

/// An entity on another node.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct HeardEntity {
    pub(super) id: EntityId,
    pub(super) sequence: u32,
    pub(super) class: u8,
    pub(super) position: [f64; 3],
    pub(super) payload: Bytes,
    pub(super) marks: u64,
}

impl HeardEntity {
    pub(super) fn report(&self) -> Report<'_> {
        Report {
            sequence: self.sequence,
            class: self.class,
            position: self.position,
            payload: &self.payload,
            marks: self.marks,
        }
    }
}

/// A message is malformed, or of another version.
pub(super) struct BadMessage;

impl Heard {
    pub(super) fn decode(payload: &[u8]) -> Result<Self, BadMessage> {
        let cell = wire::Cell::decode(payload).map_err(|_| BadMessage)?;
        let is_good = cell.version == VERSION
            && cell.entities.len() <= ENTITIES_MAX
            && cell.left.len() <= ENTITIES_MAX;
        if !is_good {
            return Err(BadMessage);
        }
        let entities = cell.entities.into_iter().map(heard_entity);
        Ok(Self {
            from: NodeId::parse(&cell.from).map_err(|_| BadMessage)?,
            life: cell.life,
            asks: cell.asks.as_ref().map(cell_of).transpose()?,
            entities: entities.collect::<Result<_, _>>()?,
            left: cell.left.into_iter().map(EntityId).collect(),
        })
    }
}

/// What is said about one cell, in messages that are not too large.
pub(super) fn encode(
    node: &NodeId,
    life: u64,
    entities: Vec<wire::Entity>,
    left: Vec<EntityId>,
) -> Vec<Vec<u8>> {
    let left: Vec<_> = left.into_iter().map(|id| id.0).collect();
    let (mut entities, mut left) = (entities.as_slice(), left.as_slice());
    let mut messages = Vec::new();
    while !entities.is_empty() || !left.is_empty() {
        let (gone, others) = left.split_at(left.len().min(ENTITIES_MAX));
        // What has left may be back: it is told of no sooner.
        let count = if others.is_empty() { ENTITIES_MAX } else { 0 };
        let (some, more) = entities.split_at(entities.len().min(count));
        (entities, left) = (more, others);
        let cell = wire::Cell {
            version: VERSION,
            from: node.to_string(),
            asks: None,
            entities: some.to_vec(),
            left: gone.to_vec(),
            life,
        };
        messages.push(cell.encode_to_vec());
    }
    messages
}

pub(super) fn entity_on_wire(
    id: EntityId,
    report: &Report<'_>,
    dimensions: Dimensions,
) -> wire::Entity {
    let count = match dimensions {
        Dimensions::Two => 2,
        Dimensions::Three => 3,
    };
    wire::Entity {
        id: id.0,
        sequence: report.sequence,
        class: report.class.into(),
        position: report.position[..count].to_vec(),
        payload: Bytes::copy_from_slice(report.payload),
        marks: report.marks,
    }
}

fn heard_entity(entity: wire::Entity) -> Result<HeardEntity, BadMessage> {
    let mut position = [0.0; 3];
    let place = position.get_mut(..entity.position.len());
    place.ok_or(BadMessage)?.copy_from_slice(&entity.position);
    Ok(HeardEntity {
        id: EntityId(entity.id),
        sequence: entity.sequence,
        class: u8::try_from(entity.class).map_err(|_| BadMessage)?,
        position,
        payload: entity.payload,
        marks: entity.marks,
    })
}

fn cell_of(name: &wire::CellName) -> Result<CellId, BadMessage> {
    let level = u8::try_from(name.level).map_err(|_| BadMessage)?;
    if level > LEVELS_MAX {
        return Err(BadMessage);
    }
    let at = name.at.as_slice().try_into().map_err(|_| BadMessage)?;
    Ok(CellId { level, at })
}

/// What a field listens to.
pub(super) struct Ears {
    node: Arc<Node>,
    field: FieldId,
    dimensions: Dimensions,
    inputs: mpsc::WeakSender<Input>,
    listener_by_subject: BTreeMap<Subject, Listener>,
    /// Those that were asked for since all are heard of.
    asked_of_all: BTreeSet<CellId>,
}

/// Where one listens, so that it has an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    All,
    Under(CellId),
    At(CellId),
}

/// Listens for as long as it is there.
struct Listener {
    task: AbortHandle,
    asked: Arc<[Asked]>,
    begun: Instant,
    /// Since when it is not needed.
    idle: Option<Instant>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ears {
    pub(super) fn new(
        node: Arc<Node>,
        field: FieldId,
        dimensions: Dimensions,
        inputs: mpsc::WeakSender<Input>,
    ) -> Self {
        Self {
            node,
            field,
            dimensions,
            inputs,
            listener_by_subject: BTreeMap::new(),
            asked_of_all: BTreeSet::new(),
        }
    }

    /// Listens to these cells and soon to no others; to all when they are too many.
    pub(super) fn listen(&mut self, cells: Option<&BTreeSet<CellId>>) {
        let wanted = match cells {
            Some(cells) if cells.len() <= CELLS_MAX => subjects(cells),
            Some(_) | None => BTreeSet::from([Subject::All]),
        };
        let now = Instant::now();
        let linger = if self.listener_by_subject.len() > LISTENERS_MAX {
            Duration::ZERO
        } else {
            LINGER
        };
        // One hears of a cell that has just been split, or is whole again, until its parts, or it, are heard.
        self.listener_by_subject.retain(|subject, listener| {
            wanted.contains(subject)
                || now.duration_since(*listener.idle.get_or_insert(now)) < linger
        });
        self.begin_all(wanted, cells.unwrap_or(&BTreeSet::new()));
    }

    /// Listens to these cells as well; to all when they are too many.
    pub(super) fn listen_also(&mut self, cells: &BTreeSet<CellId>) {
        if let Some(all) = self.listener_by_subject.get(&Subject::All) {
            // Later, what is there has been told again, and kept.
            if all.begun.elapsed() < ALL_TOLD {
                let (node, asked) = (Arc::clone(&self.node), self.ask_of_all(cells));
                let ask = async move { ask(&node, &asked).await };
                self.node.runtime.spawn(ask);
            }
            return;
        }
        let is_room = self.listener_by_subject.len() + cells.len() <= CELLS_MAX;
        let wanted = if is_room {
            subjects(cells)
        } else {
            BTreeSet::from([Subject::All])
        };
        self.begin_all(wanted, cells);
    }

    /// Whether all cells are heard of.
    pub(super) fn hears_all(&self) -> bool {
        self.listener_by_subject.contains_key(&Subject::All)
    }

    /// Begins to listen there, to hear of these cells.
    fn begin_all(&mut self, subjects: BTreeSet<Subject>, cells: &BTreeSet<CellId>) {
        for subject in subjects {
            if let Some(listener) = self.listener_by_subject.get_mut(&subject) {
                if listener.idle.take().is_some() {
                    // What is there was forgotten meanwhile.
                    let (node, asked) = (Arc::clone(&self.node), Arc::clone(&listener.asked));
                    let ask = async move { ask_again(&node, &asked).await };
                    self.node.runtime.spawn(ask);
                }
            } else if let Some(listener) = self.begin(&subject, cells) {
                self.listener_by_subject.insert(subject, listener);
            }
        }
    }

    fn begin(&mut self, subject: &Subject, cells: &BTreeSet<CellId>) -> Option<Listener> {
        let (field, dimensions) = (&self.field, self.dimensions);
        let pattern = match subject {
            Subject::All => subject::under_field(field, dimensions),
            Subject::Under(cell) => subject::under_cell(field, dimensions, *cell),
            Subject::At(cell) => subject::of_cell(field, dimensions, *cell).map(Pattern::Exactly),
        };
        // What is heard of a whole is heard by those who listen to its parts, and all of it is asked for.
        let asked: Arc<[Asked]> = match subject {
            Subject::Under(cell) => self.asked(*cell).into_iter().collect(),
            Subject::At(_) => Arc::default(),
            Subject::All => {
                self.asked_of_all.clear();
                self.ask_of_all(cells)
            }
        };
        let listening = listen(
            Arc::clone(&self.node),
            pattern.ok()?,
            Arc::clone(&asked),
            self.inputs.clone(),
        );
        let task = self.node.runtime.spawn(listening);
        Some(Listener {
            task: task.abort_handle(),
            asked,
            begun: Instant::now(),
            idle: None,
        })
    }

    /// What is asked for of these cells while all are heard of, each once. Of too many one hears within seconds.
    fn ask_of_all(&mut self, cells: &BTreeSet<CellId>) -> Arc<[Asked]> {
        let room = ASKED_MAX.saturating_sub(self.asked_of_all.len());
        let new: Vec<_> = cells
            .difference(&self.asked_of_all)
            .copied()
            .take(room)
            .collect();
        self.asked_of_all.extend(&new);
        let asked = new.into_iter().filter_map(|cell| self.asked(cell));
        asked.collect()
    }

    fn asked(&self, cell: CellId) -> Option<Asked> {
        Some(Asked {
            cell,
            question: question(self.node.name(), cell),
            subject: subject::of_cell(&self.field, self.dimensions, cell).ok()?,
        })
    }
}

fn subjects(cells: &BTreeSet<CellId>) -> BTreeSet<Subject> {
    let mut subjects = BTreeSet::new();
    for cell in cells {
        subjects.insert(Subject::Under(*cell));
        subjects.extend((0..cell.level).map(|level| Subject::At(cell.lifted(level))));
    }
    subjects
}

fn question(node: &NodeId, cell: CellId) -> Bytes {
    let asks = wire::CellName {
        level: cell.level.into(),
        at: cell.at.to_vec(),
    };
    let cell = wire::Cell {
        version: VERSION,
        from: node.to_string(),
        asks: Some(asks),
        ..wire::Cell::default()
    };
    cell.encode_to_vec().into()
}

/// What is asked for when one begins to listen.
struct Asked {
    cell: CellId,
    subject: Key,
    question: Bytes,
}

/// Takes what is said there to the field, for as long as it has a task.
async fn listen(
    node: Arc<Node>,
    pattern: Pattern,
    asked: Arc<[Asked]>,
    inputs: mpsc::WeakSender<Input>,
) {
    loop {
        if let Ok(subscription) = node.engine.subscribe(&pattern, MESSAGES_MAX).await
            && hear(&node, subscription, &asked, &inputs).await.is_none()
        {
            return;
        }
        tokio::time::sleep(SUBSCRIBE_DELAY).await;
    }
}

/// `None` when the field has no task any more.
async fn hear(
    node: &Arc<Node>,
    mut subscription: Subscription,
    asked: &[Asked],
    inputs: &mpsc::WeakSender<Input>,
) -> Option<()> {
    for Asked { cell, .. } in asked {
        let begun = Input::Listening(*cell);
        inputs.upgrade()?.send(begun).await.ok()?;
    }
    ask(node, asked).await;
    let counters = &node.counters.fields;
    while let Some(event) = subscription.next().await {
        let message = match event {
            BusEvent::Message(message) => message,
            BusEvent::Lost(count) => {
                counters.bus_lost.add(count);
                ask_again(node, asked).await;
                continue;
            }
        };
        match Heard::decode(&message.payload) {
            Ok(heard) if heard.from == *node.name() => {}
            Ok(heard) => inputs.upgrade()?.send(Input::Heard(heard)).await.ok()?,
            Err(BadMessage) => counters.heard_refused.add(1),
        }
    }
    Some(())
}

/// Asks what is there.
async fn ask(node: &Arc<Node>, asked: &[Asked]) {
    for asked in asked {
        if !node.cluster.is_out() {
            // What is lost is made up for by what is told now and then anyway.
            let asking = node.engine.publish(&asked.subject, asked.question.clone());
            let _ = asking.await;
        }
    }
}

/// Asks again for what has been missed. Of all cells too much is said already: there one waits until it is told again.
async fn ask_again(node: &Arc<Node>, asked: &[Asked]) {
    if asked.len() == 1 {
        ask(node, asked).await;
    }
}

/// Takes what a field says to the bus.
pub(super) async fn publish(node: Arc<Node>, mut waiting: mpsc::Receiver<(Key, Bytes)>) {
    while let Some((subject, payload)) = waiting.recv().await {
        if node.cluster.is_out() {
            continue;
        }
        let publish = node.engine.publish(&subject, payload);
        match tokio::time::timeout(PUBLISH_TIMEOUT, publish).await {
            Ok(Ok(())) => node.counters.fields.published.add(1),
            Ok(Err(_)) | Err(_) => node.counters.fields.unpublished.add(1),
        }
    }
}

/// The version of the contract between nodes that this crate speaks.
pub(super) const VERSION: u32 = 1;

/// In one message.
const ENTITIES_MAX: usize = 256;

/// The most cells that a node listens to one by one, for one field.
pub(super) const CELLS_MAX: usize = 2048;

/// The most cells that are asked for while all are heard of.
const ASKED_MAX: usize = 2 * CELLS_MAX;

/// After so long all that is in a field has been heard of, as it is told again by then.
const ALL_TOLD: Duration = Duration::from_secs(4);

const _: () = assert!(ALL_TOLD.as_millis() > REPEAT.as_millis());

/// How long one goes on to hear of a cell to which nobody looks.
const LINGER: Duration = Duration::from_millis(500);

/// With more, one ceases at once to hear of cells to which nobody looks.
const LISTENERS_MAX: usize = 2 * CELLS_MAX;

/// Of one cell, messages that wait for this node to take them in.
const MESSAGES_MAX: usize = 4096;

/// Between two attempts to hear something.
const SUBSCRIBE_DELAY: Duration = Duration::from_millis(250);

/// How long the bus may take to take a message in.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod kept {
    //! What nodes of the release before say on the subjects of cells.

    use super::*;
    use crate::before::check;

    #[test]
    fn what_the_release_before_says_of_cells_is_read_the_same() {
        let entity = wire::Entity {
            id: 5,
            sequence: 6,
            class: 1,
            position: vec![1.5, -2.5, 3.0],
            payload: Bytes::from_static(b"kept"),
            marks: 9,
        };
        let cell = wire::Cell {
            version: VERSION,
            from: "node-1".into(),
            asks: Some(wire::CellName {
                level: 2,
                at: vec![1, -1, 0],
            }),
            entities: vec![entity],
            left: vec![7],
            life: 8,
        };
        check("field.cell", &cell, |bytes| Heard::decode(bytes).ok());
    }
}
