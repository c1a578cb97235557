//! A session's place in a field.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tombolo_field::{Dimensions, EntityId, Watch};
use tombolo_wire::{FieldId, NodeId, PublicKeys, UserId};

use super::driver::Input;
use super::parse::Enter;
use crate::lock::lock;
use crate::session::Session;

/// A session's place in a field.
pub(crate) struct Seat {
    /// By which the session's frames name it.
    pub(super) number: u32,
    pub(super) field: FieldId,
    pub(super) dimensions: Dimensions,
    pub(super) class: u8,
    pub(super) watch: Watch,
    pub(super) user: UserId,
    pub(super) keys: PublicKeys,
    /// The device's.
    pub(super) entity: EntityId,
    /// What the game has marked the device with as it came.
    pub(super) marks: u64,
    /// Of which classes the device may put things there.
    puts: BTreeSet<u8>,
    pub(super) session: Weak<Session>,
    pub(super) inputs: mpsc::Sender<Input>,
    /// The session is in the field no more.
    is_over: AtomicBool,
    /// It goes on over another node, where its device enters the field.
    has_moved: AtomicBool,
    /// Who has introduced itself lately, and from where: it may be answered, seen or not.
    callers: Mutex<VecDeque<(EntityId, Place)>>,
}

/// Where an entity's device is.
#[derive(Clone)]
pub(super) enum Place {
    Here(Arc<Seat>),
    There(NodeId),
}

impl Seat {
    pub(super) fn new(
        number: u32,
        field: FieldId,
        enter: &Enter,
        marks: u64,
        puts: BTreeSet<u8>,
        session: &Arc<Session>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        Self {
            number,
            field,
            dimensions: enter.dimensions,
            class: enter.class,
            watch: enter.watch,
            user: session.user.clone(),
            keys: session.keys,
            entity: entity(session, 0),
            marks,
            puts,
            session: Arc::downgrade(session),
            inputs,
            is_over: AtomicBool::new(false),
            has_moved: AtomicBool::new(false),
            callers: Mutex::default(),
        }
    }

    /// Something that the device has put there.
    pub(super) fn own_entity(&self, own: u32) -> EntityId {
        match own {
            0 => self.entity,
            own => entity_of(&self.user, &self.keys, own),
        }
    }

    /// Whether the device may put things of a class there.
    pub(super) fn puts(&self, class: u8) -> bool {
        self.puts.contains(&class)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Whether it is over since its session goes on over another node.
    pub(super) fn has_moved(&self) -> bool {
        self.has_moved.load(Ordering::Relaxed)
    }

    /// Notes that an entity has introduced itself.
    pub(super) fn note_caller(&self, entity: EntityId, place: Place) {
        let mut callers = lock(&self.callers);
        callers.retain(|(known, _)| *known != entity);
        if callers.len() >= CALLERS_MAX {
            callers.pop_front();
        }
        callers.push_back((entity, place));
    }

    /// Where an entity is that has introduced itself.
    pub(super) fn caller(&self, entity: EntityId) -> Option<Place> {
        let callers = lock(&self.callers);
        let (_, place) = callers.iter().find(|(known, _)| *known == entity)?;
        let is_gone = matches!(place, Place::Here(seat) if seat.is_over());
        (!is_gone).then(|| place.clone())
    }
}

/// The number of what a device puts into a field: the same over every node, and nobody else's.
fn entity(session: &Session, own: u32) -> EntityId {
    entity_of(&session.user, &session.keys, own)
}

fn entity_of(user: &UserId, keys: &PublicKeys, own: u32) -> EntityId {
    let hash = Sha256::new()
        .chain_update(keys.identity)
        .chain_update(own.to_be_bytes())
        .chain_update(user.as_str())
        .finalize();
    let (number, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    EntityId(u64::from_be_bytes(*number))
}

/// The fields that a session is in. Dropping them leaves the fields.
#[derive(Default)]
pub(crate) struct Seats {
    seats: Vec<Held>,
    last: u32,
}

/// A seat that is taken for as long as this is there.
struct Held(Arc<Seat>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
    }
}

impl Seats {
    /// The number of the next seat.
    pub(super) fn next_number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    /// Takes a seat, instead of the one that the session has in the same field.
    pub(super) fn take(&mut self, seat: Arc<Seat>) {
        self.leave(&seat.field);
        self.seats.push(Held(seat));
    }

    /// Leaves a field; false when the session is not in it.
    pub(super) fn leave(&mut self, field: &FieldId) -> bool {
        let before = self.seats.len();
        self.seats.retain(|held| held.0.field != *field);
        self.seats.len() < before
    }

    pub(super) fn find(&self, number: u32) -> Option<Arc<Seat>> {
        let held = self.seats.iter().find(|held| held.0.number == number);
        held.map(|held| Arc::clone(&held.0))
    }

    pub(super) fn of(&self, field: &FieldId) -> Option<Arc<Seat>> {
        let held = self.seats.iter().find(|held| held.0.field == *field);
        held.map(|held| Arc::clone(&held.0))
    }

    /// Whether the session is in the field of a task.
    pub(super) fn are_of(&self, task: &mpsc::Sender<Input>) -> bool {
        let mut seats = self.seats.iter();
        seats.any(|held| held.0.inputs.same_channel(task))
    }

    /// How many fields other than that one the session is in.
    pub(super) fn others(&self, field: &FieldId) -> usize {
        let others = self.seats.iter().filter(|held| held.0.field != *field);
        others.count()
    }

    /// Leaves all fields over this node, since the session goes on over another one.
    pub(crate) fn move_all(&mut self) {
        for held in std::mem::take(&mut self.seats) {
            held.0.has_moved.store(true, Ordering::Relaxed);
        }
    }

    /// Leaves all fields.
    pub(crate) fn leave_all(&mut self) {
        self.seats = Vec::new();
    }
}

/// Those who may be answered at a time.
const CALLERS_MAX: usize = 64;
