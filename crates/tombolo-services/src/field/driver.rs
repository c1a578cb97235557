//! The task of a field.

mod news;
mod orphans;
mod own;
mod things;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tombolo_engine::Key;
use tombolo_field::{
    CellId, Dimensions, EntityId, Everything, Field, Refused, Report, Settings, Sight as _, Ticks,
};
use tombolo_wire::v1::{FieldBatch, server_frame};
use tombolo_wire::{FieldId, NodeId, UserId};

use super::cells::{self, Ears, Heard};
use super::generated as wire;
use super::parse::{Enter, OwnReport};
use super::refusal::Refusal;
use super::seat::{Place, Seat};
use super::sight::Filter;
use super::things::Put;
use super::{refuse_update, refused, subject};
use crate::node::Node;
use news::{Lookout, News};
use things::Thing;

/// What a field's task is told.
pub(super) enum Input {
    Enter {
        seat: Arc<Seat>,
        enter: Box<Enter>,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    Update {
        seat: Arc<Seat>,
        report: Option<OwnReport>,
        ticks: Ticks,
    },
    /// Something that a device has put there is to go.
    Remove(Arc<Seat>, u32),
    /// Where a device is that another one sees.
    Locate {
        seat: Arc<Seat>,
        entity: EntityId,
        reply: oneshot::Sender<Option<Place>>,
    },
    /// The device here that an entity is.
    Find {
        entity: EntityId,
        reply: oneshot::Sender<Option<Arc<Seat>>>,
    },
    /// Answered with whether the user is here.
    Mark {
        user: UserId,
        marks: u64,
        reply: oneshot::Sender<bool>,
    },
    /// A server puts something there.
    Put {
        put: Box<Put>,
        reply: oneshot::Sender<Result<things::Placed, Refusal>>,
    },
    /// A server takes away what it has put there.
    Take {
        entity: EntityId,
        /// `None` for good; otherwise it is on another node now, as this report.
        put_again: Option<u32>,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// This node has begun to hear of a cell.
    Listening(CellId),
    Heard(Heard),
    /// A node's lives up to this one are over.
    NodeGone(NodeId, u64),
}

/// A field, with what it needs to tell devices and other nodes.
pub(super) struct Driver {
    node: Arc<Node>,
    id: FieldId,
    dimensions: Dimensions,
    field: Field,
    filter: Filter,
    begun: Instant,
    /// Entities of devices here.
    locals: BTreeMap<EntityId, Local>,
    /// Those that servers have put there through this node.
    things: BTreeMap<EntityId, Thing>,
    /// Those of others, and which node told of them last, in which of its lives.
    node_by_entity: BTreeMap<EntityId, (NodeId, u64)>,
    /// Those whose node is gone, or which go on over another one, and until when their devices may come there.
    orphans: BTreeMap<EntityId, Instant>,
    ears: Ears,
    news: News,
    mouth: mpsc::Sender<(Key, Bytes)>,
    /// `None` when it is time.
    swept: Option<Instant>,
    lookout: Lookout,
    /// When the last device went.
    empty_since: Option<Instant>,
}

/// An entity of a device here.
struct Local {
    seat: Arc<Seat>,
    marks: u64,
    /// What else the device has put there; nothing for what is no device.
    own: BTreeSet<u32>,
    published: Instant,
}

impl Driver {
    pub(super) fn new(
        node: Arc<Node>,
        id: FieldId,
        dimensions: Dimensions,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, Refusal> {
        let settings = Settings {
            dimensions,
            ..node.config.fields.settings.clone()
        };
        let field = Field::new(settings).map_err(|error| {
            tracing::error!(%error, "fields cannot be as they are configured");
            Refusal::TooManyFields
        })?;
        let (mouth, waiting) = mpsc::channel(MESSAGES_MAX);
        node.runtime
            .spawn(cells::publish(Arc::clone(&node), waiting));
        let ears = Ears::new(
            Arc::clone(&node),
            id.clone(),
            dimensions,
            inputs.downgrade(),
        );
        let now = Instant::now();
        Ok(Self {
            filter: Filter::new(&node, &id),
            node,
            id,
            dimensions,
            field,
            begun: now,
            locals: BTreeMap::new(),
            things: BTreeMap::new(),
            node_by_entity: BTreeMap::new(),
            orphans: BTreeMap::new(),
            ears,
            news: News::default(),
            mouth,
            swept: None,
            lookout: Lookout::default(),
            empty_since: Some(now),
        })
    }

    /// Runs the field until nobody is in it.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let tick = self.node.config.fields.tick.max(TICK_MIN);
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut some = Vec::new();
        loop {
            let (due, look_due) = (self.news.due, self.lookout.due);
            tokio::select! {
                _ = ticks.tick() => {
                    self.on_tick();
                    if self.is_idle() && self.node.fields.close(&self.id, self.dimensions, &inputs) {
                        return;
                    }
                }
                _ = inputs.recv_many(&mut some, INPUTS_AT_ONCE) => {
                    for input in some.drain(..) {
                        self.handle(input);
                    }
                }
                () = sleep_until(due) => self.tell_nodes(),
                () = sleep_until(look_due) => self.listen_for_astray(),
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Enter { seat, enter, reply } => {
                let entered = self.enter(&seat, &enter);
                // Whoever asked may have gone; then the seat is over.
                let _ = reply.send(entered);
            }
            Input::Update {
                seat,
                report,
                ticks,
            } => self.on_update(&seat, report.as_ref(), ticks),
            Input::Remove(seat, own) => {
                let entity = seat.own_entity(own);
                if self.has(&seat, entity) {
                    self.remove(entity);
                    if let Some(device) = self.locals.get_mut(&seat.entity) {
                        device.own.remove(&own);
                    }
                }
            }
            Input::Locate {
                seat,
                entity,
                reply,
            } => {
                let _ = reply.send(self.locate(&seat, entity));
            }
            Input::Find { entity, reply } => {
                let _ = reply.send(self.device(entity));
            }
            // Whoever asked may have gone; what it asked for is done.
            Input::Mark { user, marks, reply } => drop(reply.send(self.mark(&user, marks))),
            Input::Put { put, reply } => drop(reply.send(self.put(&put))),
            Input::Take {
                entity,
                put_again,
                reply,
            } => drop(reply.send(self.take(entity, put_again))),
            // Whoever began a moment before has asked in vain for what is here.
            Input::Listening(cell) => self.news.ask(self.field.covering(cell)),
            Input::Heard(heard) => self.on_heard(heard),
            Input::NodeGone(gone, life) => self.orphan_all_of(&gone, life),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn enter(&mut self, seat: &Arc<Seat>, enter: &Enter) -> Result<(), Refusal> {
        match self.report(seat, &enter.report, seat.marks) {
            Ok(()) => {}
            // It was here a moment ago, under another seat, and perhaps with other marks.
            Err(Refusal::Late) => self.stays(seat),
            Err(refusal) => return Err(refusal),
        }
        self.field.resume(seat.entity, enter.watch, &enter.known)?;
        let device = Local {
            seat: Arc::clone(seat),
            marks: seat.marks,
            own: BTreeSet::new(),
            published: Instant::now(),
        };
        self.locals.insert(seat.entity, device);
        self.node_by_entity.remove(&seat.entity);
        self.empty_since = None;
        let cell = self.field.cell(enter.report.position);
        self.lookout.note(seat.entity, cell);
        Ok(())
    }

    /// A device is where it was, and has the marks of a new seat.
    fn stays(&mut self, seat: &Seat) {
        let now = self.now();
        self.field.confirm(now, seat.entity);
        self.field.mark(seat.entity, seat.marks);
        self.orphans.remove(&seat.entity);
        if let Some(position) = self.field.position(seat.entity) {
            self.news.tell(seat.entity, self.field.cell(position), None);
        }
    }

    fn on_update(&mut self, seat: &Arc<Seat>, report: Option<&OwnReport>, ticks: Ticks) {
        if !self.has(seat, seat.entity) {
            return self.refuse(seat, Refusal::NotInField);
        }
        if ticks.last != 0 {
            self.field.acknowledge(seat.entity, ticks);
        }
        let Some(report) = report else {
            return;
        };
        match self.take_in(seat, report) {
            Ok(()) => self.node.counters.fields.reports.add(1),
            Err(refusal) => self.refuse(seat, refusal),
        }
    }

    fn refuse(&self, seat: &Seat, refusal: Refusal) {
        match seat.session.upgrade() {
            Some(session) => refuse_update(&self.node, &session, refusal),
            None => drop(refused(&self.node, refusal)),
        }
    }

    fn take_in(&mut self, seat: &Arc<Seat>, report: &OwnReport) -> Result<(), Refusal> {
        let device = self.locals.get(&seat.entity);
        let marks = device.ok_or(Refusal::NotInField)?.marks;
        if report.own != 0 {
            return self.take_in_own(seat, report, marks);
        }
        self.report(seat, report, marks)?;
        if !self.field.observes(seat.entity) {
            // It had said nothing for so long that it was taken away.
            self.field.observe(seat.entity, seat.watch)?;
            let cell = self.field.cell(report.position);
            self.lookout.note(seat.entity, cell);
        }
        Ok(())
    }

    /// Has the core take a report in; other nodes are told.
    fn report(&mut self, seat: &Seat, report: &OwnReport, marks: u64) -> Result<(), Refusal> {
        let id = seat.own_entity(report.own);
        let before = self.field.position(id);
        let taken = Report {
            sequence: report.sequence,
            class: report.class,
            position: report.position,
            payload: &report.payload,
            marks,
        };
        self.field.report(self.now(), id, &taken)?;
        self.node_by_entity.remove(&id);
        self.orphans.remove(&id);
        let cell = self.field.cell(report.position);
        let before = before.map(|before| self.field.cell(before));
        if before != Some(cell) && self.field.observes(id) {
            self.lookout.note(id, cell);
        }
        self.news.tell(id, cell, before);
        Ok(())
    }

    /// Whether an entity belongs to a seat.
    fn has(&self, seat: &Arc<Seat>, entity: EntityId) -> bool {
        let local = self.locals.get(&entity);
        local.is_some_and(|local| Arc::ptr_eq(&local.seat, seat))
    }

    fn remove(&mut self, entity: EntityId) {
        self.locals.remove(&entity);
        self.things.remove(&entity);
        if let Some(position) = self.field.position(entity) {
            self.news.leave(entity, self.field.cell(position));
            self.field.remove(entity);
        }
    }

    /// The device here that an entity is.
    fn device(&self, entity: EntityId) -> Option<Arc<Seat>> {
        let seat = &self.locals.get(&entity)?.seat;
        (seat.entity == entity && !seat.is_over()).then(|| Arc::clone(seat))
    }

    fn locate(&self, seat: &Arc<Seat>, entity: EntityId) -> Option<Place> {
        if entity == seat.entity || !self.has(seat, seat.entity) {
            return None;
        }
        if !self.field.knows(seat.entity, entity) {
            return seat.caller(entity);
        }
        if self.locals.contains_key(&entity) {
            return self.device(entity).map(Place::Here);
        }
        let (node, _) = self.node_by_entity.get(&entity)?;
        Some(Place::There(node.clone()))
    }

    /// Marks what is a user's; whether any of it is here.
    fn mark(&mut self, user: &UserId, marks: u64) -> bool {
        let mut is_here = false;
        for (id, local) in &mut self.locals {
            if local.seat.user != *user || local.seat.is_over() {
                continue;
            }
            is_here = true;
            if local.marks != marks {
                local.marks = marks;
                self.field.mark(*id, marks);
                if let Some(position) = self.field.position(*id) {
                    self.news.tell(*id, self.field.cell(position), None);
                }
            }
        }
        is_here
    }

    /// Takes in what another node tells.
    fn on_heard(&mut self, heard: Heard) {
        let now = self.now();
        if let Some(cell) = heard.asks {
            self.news.ask(self.field.covering(cell));
        }
        // What has left and is told of has come back since.
        for entity in &heard.left {
            let known = self.node_by_entity.get(entity);
            if known.is_some_and(|(node, _)| *node == heard.from) {
                self.node_by_entity.remove(entity);
                self.orphans.remove(entity);
                self.field.remove(*entity);
            }
        }
        let node = Arc::clone(&self.node);
        let counters = &node.counters.fields;
        for entity in &heard.entities {
            // It is here: what another node tells is of before it came.
            if self.knows_better(entity) {
                continue;
            }
            match self.field.report(now, entity.id, &entity.report()) {
                Ok(()) => {
                    counters.heard.add(1);
                    let from = (heard.from.clone(), heard.life);
                    self.node_by_entity.insert(entity.id, from);
                    self.orphans.remove(&entity.id);
                }
                Err(Refused::Late) => {
                    if self.is_of(&heard.from, heard.life, entity) {
                        self.field.confirm(now, entity.id);
                        self.field.mark(entity.id, entity.marks);
                    }
                }
                Err(_) => counters.heard_refused.add(1),
            }
        }
    }

    fn on_tick(&mut self) {
        self.let_go();
        let now = self.now();
        let (locals, node) = (&self.locals, &self.node);
        let mut deliver = |entity: EntityId, datagram: &[u8]| {
            let Some(local) = locals.get(&entity) else {
                return;
            };
            let Some(session) = local.seat.session.upgrade() else {
                return;
            };
            let batch = FieldBatch {
                seat: local.seat.number,
                batch: Bytes::copy_from_slice(datagram),
            };
            node.counters.fields.batches.add(1);
            node.push_unreliable(&session, server_frame::Body::FieldBatch(batch));
        };
        let deferred = self.field.stats().deferred;
        let silent = if self.filter.shows_everything() {
            self.field.tick(now, &Everything, &mut deliver)
        } else {
            self.field.tick(now, &self.filter, &mut deliver)
        };
        for (entity, position) in silent {
            // Others are taken away where they are.
            if self.locals.contains_key(&entity) {
                self.news.leave(entity, self.field.cell(position));
            }
        }
        let deferred = self.field.stats().deferred - deferred;
        self.node.counters.fields.deferred.add(deferred);
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            self.sweep();
        }
    }

    /// Listens where devices look; returns what is kept of others, `None` for all.
    fn listen(&mut self) -> Option<BTreeSet<CellId>> {
        let cells = self.field.cells_occupied();
        let observed = self.field.cells_seen_from(&cells);
        let heard = observed.as_ref().map(|observed| {
            let here = observed | &self.cells_of_things();
            if here.len() <= cells::CELLS_MAX {
                here
            } else {
                observed.clone()
            }
        });
        self.ears.listen(heard.as_ref());
        self.lookout.look(cells);
        // What is heard of anywhere is kept while there is room, so that whoever comes there is told at once.
        let room = self.node.config.fields.settings.entities_max / 2;
        let keeps_all = self.ears.hears_all() && self.node_by_entity.len() <= room;
        observed.filter(|_| !keeps_all)
    }

    /// Listens at once where devices look that have come from elsewhere: what is there must be told soon.
    fn listen_for_astray(&mut self) {
        self.lookout.due = None;
        self.lookout.last = Some(Instant::now());
        let mut cells = BTreeSet::new();
        for entity in std::mem::take(&mut self.lookout.astray) {
            if let Some(position) = self.field.position(entity) {
                cells.insert(self.field.cell(position));
            }
        }
        cells.retain(|cell| !self.lookout.cells.contains(cell));
        match self.field.cells_seen_from(&cells) {
            Some(observed) => {
                self.ears.listen_also(&observed);
                self.lookout.cells.append(&mut cells);
            }
            None => drop(self.listen()),
        }
    }

    /// Listens where devices look, forgets what is elsewhere, and repeats what has not been said for long.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.swept = Some(now);
        self.remove_orphans();
        let observed = self.listen();
        let (field, orphans) = (&mut self.field, &mut self.orphans);
        self.node_by_entity.retain(|entity, _| {
            let position = field.position(*entity);
            let is_heard = position.is_some_and(|position| {
                let observed = observed.as_ref();
                observed.is_none_or(|observed| observed.contains(&field.cell(position)))
            });
            if !is_heard {
                field.remove(*entity);
                orphans.remove(entity);
            }
            is_heard
        });
        self.keep_things();
        for (entity, local) in &self.locals {
            if now.duration_since(local.published) >= REPEAT
                && let Some(position) = self.field.position(*entity)
            {
                self.news.tell(*entity, self.field.cell(position), None);
            }
        }
    }

    fn is_nobody_here(&self) -> bool {
        self.locals.is_empty() && self.things.is_empty() && self.orphans.is_empty()
    }

    fn is_idle(&self) -> bool {
        let since = self.empty_since.filter(|_| self.is_nobody_here());
        // Where there are many, those in which nobody is make way.
        since.is_some_and(|since| {
            let fields = self.node.fields.len();
            since.elapsed() >= LINGER || fields > self.node.config.fields.fields_max / 2
        })
    }

    /// Tells other nodes what is new, cell by cell.
    fn tell_nodes(&mut self) {
        let now = Instant::now();
        self.add_asked();
        let news = std::mem::take(&mut self.news);
        self.news.told = Some(now);
        let is_alone = self.node.cluster.is_alone() && news.asked.is_empty();
        let mut entities_by_cell: BTreeMap<CellId, Vec<wire::Entity>> = BTreeMap::new();
        for (entity, cells) in news.moved {
            if !self.note_published(entity, now) || is_alone {
                continue;
            }
            let Some(report) = self.field.reported(entity) else {
                continue;
            };
            let told = cells::entity_on_wire(entity, &report, self.dimensions);
            for cell in cells {
                let entities = entities_by_cell.entry(cell).or_default();
                entities.push(told.clone());
            }
        }
        let mut left_by_cell: BTreeMap<CellId, Vec<EntityId>> = BTreeMap::new();
        for (entity, cells) in news.left {
            for cell in cells {
                left_by_cell.entry(cell).or_default().push(entity);
                entities_by_cell.entry(cell).or_default();
            }
        }
        if is_alone {
            return;
        }
        for (cell, entities) in entities_by_cell {
            let left = left_by_cell.remove(&cell).unwrap_or_default();
            let Ok(subject) = subject::of_cell(&self.id, self.dimensions, cell) else {
                continue;
            };
            let (name, life) = (self.node.name(), self.node.incarnation());
            for message in cells::encode(name, life, entities, left) {
                let sent = self.mouth.try_send((subject.clone(), message.into()));
                let lost = u64::from(sent.is_err());
                self.node.counters.fields.unpublished.add(lost);
            }
        }
    }

    /// Adds all that is in the cells that somebody asks for.
    fn add_asked(&mut self) {
        if self.news.asked.is_empty() {
            return;
        }
        for entity in self.locals.keys().chain(self.things.keys()) {
            let Some(position) = self.field.position(*entity) else {
                continue;
            };
            let cell = self.field.cell(position);
            let mut wholes = (0..=cell.level).map(|level| cell.lifted(level));
            if wholes.any(|whole| self.news.asked.contains(&whole)) {
                self.news.tell(*entity, cell, None);
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Between two ticks, whatever the configuration says.
const TICK_MIN: Duration = Duration::from_millis(5);

/// What is taken in before the next tick has its turn.
const INPUTS_AT_ONCE: usize = 1024;

/// How often it is looked where devices look.
const SWEEP: Duration = Duration::from_millis(100);

/// An entity of which there is nothing new is told again after so long.
pub(super) const REPEAT: Duration = Duration::from_secs(3);

/// How long a field outlives the last device in it.
const LINGER: Duration = Duration::from_secs(10);

/// Messages that wait for the bus.
const MESSAGES_MAX: usize = 4096;
