//! The state machine.

mod choose;
mod grid;
mod moves;
mod observer;
mod pace;
mod pass;
mod pick;
mod renumber;
mod tell;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::cells::{CellId, Cells};
use crate::datagram::{HEADER_BYTES_MAX, RECORD_BYTES_MAX};
use crate::settings::{Dimensions, Settings, SettingsError};
use crate::ticks::Ticks;
use grid::Grid;
use moves::Moves;
use observer::{Entering, Known, Observer};
use pace::Paces;
use pass::{Scene, Scratch};
use renumber::Disorder;

/// Longest payload of a report, in bytes.
pub const PAYLOAD_MAX: usize = 48;

/// Coordinates lie between this and its negative.
pub const POSITION_MAX: f64 = 1e12;

/// The least that an observer's datagram may be, in bytes: the longest record fits into the half of it
/// that what has left does not take.
pub const BUDGET_MIN: usize = 256;

/// The most that an observer's datagram may be, in bytes.
pub const BUDGET_MAX: usize = 64 * 1024;

/// The most that one observer knows of; those that come when it is full are told when others leave.
pub const KNOWN_MAX: usize = 8000;

const _: () = assert!(2 * RECORD_BYTES_MAX + HEADER_BYTES_MAX <= BUDGET_MIN);

/// An entity of a field: a device, or anything else that is somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(pub u64);

/// Where an entity is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report<'p> {
    /// Which of its reports this is: those that are not later than the last are refused.
    pub sequence: u32,
    /// What kind it is, a number of the settings.
    pub class: u8,
    /// Where.
    pub position: [f64; 3],
    /// What it says of itself, at most [`PAYLOAD_MAX`] bytes.
    pub payload: &'p [u8],
    /// What a [`Sight`] goes by, such as its team.
    pub marks: u64,
}

/// How somebody observes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watch {
    /// The most bytes of one datagram, [`BUDGET_MIN`] to [`BUDGET_MAX`].
    pub budget: usize,
    /// How far it wants to see at most, whatever the ranges of the classes; infinite by default.
    pub range: f64,
    /// What is sent arrives: nothing is told again for want of an acknowledgement.
    pub is_reliable: bool,
}

/// An entity as a [`Sight`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which.
    pub id: EntityId,
    /// What kind.
    pub class: u8,
    /// What it is marked with.
    pub marks: u64,
}

/// Who may see whom. What somebody may not see is never sent to it.
pub trait Sight {
    /// Whether the observer may see the other.
    fn may_see(&self, observer: &Subject, other: &Subject) -> bool;

    /// Whether everybody may see everything, so that nobody needs to be asked about.
    fn shows_everything(&self) -> bool {
        false
    }
}

/// Everybody may see everything.
#[derive(Clone, Copy, Debug)]
pub struct Everything;

/// Why a field takes something not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not a number, not finite, or beyond [`POSITION_MAX`].
    #[error("a position is not finite, or beyond 1e12")]
    Position,
    /// A class that the settings don't have.
    #[error("there is no such class here")]
    Class,
    /// Longer than [`PAYLOAD_MAX`].
    #[error("a payload is at most {PAYLOAD_MAX} bytes long")]
    Payload,
    /// Not later than the last report.
    #[error("a later report has come already")]
    Late,
    /// The field has as many entities as it takes.
    #[error("the field is full")]
    Full,
    /// There is no such entity.
    #[error("there is no such entity here")]
    Unknown,
    /// Not from [`BUDGET_MIN`] to [`BUDGET_MAX`].
    #[error("a budget is {BUDGET_MIN} to {BUDGET_MAX} bytes")]
    Budget,
    /// A range that is not more than nothing.
    #[error("a range is more than 0")]
    Range,
    /// More than [`KNOWN_MAX`].
    #[error("nobody knows of so many entities")]
    Knowledge,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reports that were taken.
    pub reports: u64,
    /// Reports that were refused.
    pub refused: u64,
    /// Datagrams that were made.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What observers know, or are to know, and were not told of in a tick because not all fitted.
    pub deferred: u64,
    /// Entities that were taken away because they said nothing.
    pub silent: u64,
}

/// A field.
///
/// Feed it with [`report`](Self::report), [`remove`](Self::remove), [`observe`](Self::observe) and
/// [`acknowledge`](Self::acknowledge), and call [`tick`](Self::tick) at the field's rate.
#[derive(Debug)]
pub struct Field {
    settings: Settings,
    tick: u32,
    entities: Vec<Option<Entity>>,
    /// Indexed by slot, of those entities that observe.
    observers: Vec<Option<Observer>>,
    free: BTreeSet<u32>,
    /// Those that have become empty since the last tick, in which observers take note of that.
    emptied: Vec<u32>,
    slot_by_id: HashMap<EntityId, u32>,
    cells: Cells,
    grid: Grid,
    moves: Moves,
    paces: Paces,
    disorder: Disorder,
    scratch: Scratch,
    stats: Stats,
}

#[derive(Debug)]
struct Entity {
    id: EntityId,
    class: u8,
    position: [f64; 3],
    payload: [u8; PAYLOAD_MAX],
    payload_bytes: u8,
    sequence: u32,
    marks: u64,
    reported: Duration,
}

impl Field {
    /// An empty field.
    ///
    /// # Errors
    /// When a field cannot be so.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self {
            cells: Cells::new(&settings),
            grid: Grid::new(&settings),
            moves: Moves::new(&settings),
            paces: Paces::new(&settings),
            disorder: Disorder::default(),
            scratch: Scratch::default(),
            settings,
            tick: 0,
            entities: Vec::new(),
            observers: Vec::new(),
            free: BTreeSet::new(),
            emptied: Vec::new(),
            slot_by_id: HashMap::new(),
            stats: Stats::default(),
        })
    }

    /// An entity says where it is; an unknown one comes in.
    ///
    /// # Errors
    /// When the report is refused; then nothing has changed, but that it is counted.
    pub fn report(
        &mut self,
        now: Duration,
        id: EntityId,
        report: &Report<'_>,
    ) -> Result<(), Refused> {
        let result = self.on_report(now, id, report);
        match result {
            Ok(()) => self.stats.reports += 1,
            Err(_) => self.stats.refused += 1,
        }
        result
    }

    /// An entity is still there, though it says nothing new; false when it is not.
    pub fn confirm(&mut self, now: Duration, id: EntityId) -> bool {
        let entity = self.entity_mut(id);
        entity.is_some_and(|entity| {
            entity.reported = now;
            true
        })
    }

    /// An entity says again what it said last, as its next report, so that those hear it who have missed it; false when
    /// it is not there.
    pub fn repeat(&mut self, now: Duration, id: EntityId) -> bool {
        let Some(slot) = self.slot_by_id.get(&id) else {
            return false;
        };
        if let Some(entity) = &mut self.entities[*slot as usize] {
            entity.reported = now;
            entity.sequence = entity.sequence.saturating_add(1);
            self.grid.place(*slot, entity, self.tick.saturating_add(1));
        }
        true
    }

    /// An entity has other marks from now on; false when it is not there.
    pub fn mark(&mut self, id: EntityId, marks: u64) -> bool {
        let Some(slot) = self.slot_by_id.get(&id) else {
            return false;
        };
        if let Some(entity) = &mut self.entities[*slot as usize] {
            entity.marks = marks;
            self.grid.mark(*slot, marks);
        }
        true
    }

    /// An entity goes; false when it is not there.
    pub fn remove(&mut self, id: EntityId) -> bool {
        let Some(slot) = self.slot_by_id.remove(&id) else {
            return false;
        };
        if let Some(entity) = self.entities[slot as usize].take() {
            self.cells.remove(slot, entity.position);
        }
        self.observers[slot as usize] = None;
        self.grid.clear(slot);
        self.emptied.push(slot);
        true
    }

    /// An entity wants to be told what is in its range, from nothing on.
    ///
    /// # Errors
    /// When it is not there, or wants too much.
    pub fn observe(&mut self, id: EntityId, watch: Watch) -> Result<(), Refused> {
        self.resume(id, watch, &[])
    }

    /// An entity wants to be told what is in its range, and knows some of it already: of each entity
    /// up to one of its reports. It is told the difference only. What is not here may still be heard of: it
    /// has left only after the grace of the settings. What hides is as if it were not here, so that nobody
    /// learns where it is by claiming to know it.
    ///
    /// # Errors
    /// When it is not there, or wants too much.
    pub fn resume(
        &mut self,
        id: EntityId,
        watch: Watch,
        knowledge: &[(EntityId, u32)],
    ) -> Result<(), Refused> {
        if !(BUDGET_MIN..=BUDGET_MAX).contains(&watch.budget) {
            return Err(Refused::Budget);
        }
        // What is not a number is not more.
        if watch.range.is_nan() || watch.range <= 0.0 {
            return Err(Refused::Range);
        }
        if knowledge.len() > KNOWN_MAX {
            return Err(Refused::Knowledge);
        }
        let slot = *self.slot_by_id.get(&id).ok_or(Refused::Unknown)?;
        let mut observer = Observer::new(watch, knowledge.is_empty());
        for (other, sequence) in knowledge {
            if *other == id {
                observer.leave(id);
            } else {
                observer.awaited.push((*other, *sequence));
            }
        }
        observer.awaited.sort_unstable();
        observer.awaited.dedup_by_key(|(other, _)| *other);
        self.observers[slot as usize] = Some(observer);
        Ok(())
    }

    /// An entity no longer wants to be told; it stays where it is.
    pub fn ignore(&mut self, id: EntityId) {
        if let Some(slot) = self.slot_by_id.get(&id) {
            self.observers[*slot as usize] = None;
        }
    }

    /// An observer has the datagrams of these ticks. What was told in datagrams that nobody
    /// acknowledges is told again.
    pub fn acknowledge(&mut self, id: EntityId, ticks: Ticks) {
        let Some(slot) = self.slot_by_id.get(&id) else {
            return;
        };
        if let Some(observer) = &mut self.observers[*slot as usize] {
            observer.acknowledge(ticks);
        }
    }

    /// Whether an entity is told what is in its range.
    #[must_use]
    pub fn observes(&self, id: EntityId) -> bool {
        self.observer(id).is_some()
    }

    /// Whether an observer has been told, or is to be told, of another entity: it is in range and may
    /// be seen.
    #[must_use]
    pub fn knows(&self, id: EntityId, other: EntityId) -> bool {
        let observer = self.observer(id);
        let slot = self.slot_by_id.get(&other);
        observer.zip(slot).is_some_and(|(observer, slot)| {
            observer.is_checked && observer.slots().any(|known| known == *slot)
        })
    }

    /// Makes the datagrams of one tick; `deliver` gets each, with the observer it is for. Observers for
    /// whom nothing has changed get none. Returns what was taken away as it has said nothing for too long, and where it
    /// was.
    pub fn tick<S: Sight + ?Sized>(
        &mut self,
        now: Duration,
        sight: &S,
        mut deliver: impl FnMut(EntityId, &[u8]),
    ) -> Vec<(EntityId, [f64; 3])> {
        self.tick = self.tick.saturating_add(1);
        let silent = self.remove_silent(now);
        self.grid.arrange();
        self.moves.note(&self.entities);
        match self.settings.dimensions {
            Dimensions::Two => self.tell_all::<_, 2>(now, sight, &mut deliver),
            Dimensions::Three => self.tell_all::<_, 3>(now, sight, &mut deliver),
        }
        // Nobody knows of them any more.
        self.free.extend(self.emptied.drain(..));
        self.renumber_if_due();
        silent
    }

    /// The tick that was made last.
    #[must_use]
    pub fn ticks(&self) -> u32 {
        self.tick
    }

    /// How many entities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slot_by_id.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slot_by_id.is_empty()
    }

    /// Where an entity is.
    #[must_use]
    pub fn position(&self, id: EntityId) -> Option<[f64; 3]> {
        Some(self.entity(id)?.position)
    }

    /// What an entity reported last.
    #[must_use]
    pub fn reported(&self, id: EntityId) -> Option<Report<'_>> {
        let entity = self.entity(id)?;
        Some(Report {
            sequence: entity.sequence,
            class: entity.class,
            position: entity.position,
            payload: &entity.payload[..entity.payload_bytes.into()],
            marks: entity.marks,
        })
    }

    /// The cell as it is split here of which that one, as it is split elsewhere, is a part; that one when
    /// it is split here.
    #[must_use]
    pub fn covering(&self, cell: CellId) -> CellId {
        self.cells.covering(cell)
    }

    /// The cell of a place.
    #[must_use]
    pub fn cell(&self, position: [f64; 3]) -> CellId {
        self.cells.cell(position)
    }

    /// The cells in which there are observers, in order.
    #[must_use]
    pub fn cells_occupied(&self) -> BTreeSet<CellId> {
        let both = self.entities.iter().zip(&self.observers);
        let observers = both.filter(|(_, observer)| observer.is_some());
        let observers = observers.filter_map(|(entity, _)| entity.as_ref());
        observers
            .map(|observer| self.cells.cell(observer.position))
            .collect()
    }

    /// The cells that observers anywhere in some cells see into, in order: what their node subscribes to.
    /// `None` when they are too many to tell.
    #[must_use]
    pub fn cells_seen_from(&self, cells: &BTreeSet<CellId>) -> Option<BTreeSet<CellId>> {
        let leave = self.settings.range_max() * (1.0 + self.settings.hysteresis);
        self.cells.around(cells, leave)
    }

    /// What has happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Makes the datagrams of a field of `D` dimensions.
    fn tell_all<S: Sight + ?Sized, const D: usize>(
        &mut self,
        now: Duration,
        sight: &S,
        deliver: &mut impl FnMut(EntityId, &[u8]),
    ) {
        for number in 0..self.grid.len() {
            self.touch(number);
            let slot = self.grid.slot(number);
            self.look_for_awaited(now, sight, slot);
            let Some(observer) = &mut self.observers[slot as usize] else {
                continue;
            };
            let scene = Scene::<S, D> {
                settings: &self.settings,
                tick: self.tick,
                grid: &self.grid,
                glimpses: self.grid.glimpses(),
                moves: &self.moves,
                paces: &self.paces,
                sight,
            };
            let waiting = scene.pass(&mut self.scratch, slot, number, observer);
            self.stats.deferred += waiting as u64;
            let datagram = self.scratch.datagram.filled();
            if !datagram.is_empty() {
                self.stats.datagrams += 1;
                self.stats.bytes += datagram.len() as u64;
                deliver(self.grid.subject(slot).id, datagram);
            }
        }
    }

    fn on_report(
        &mut self,
        now: Duration,
        id: EntityId,
        report: &Report<'_>,
    ) -> Result<(), Refused> {
        // What is not a number is not within.
        let mut position = report.position;
        if self.settings.dimensions.count() == 2 {
            position[2] = 0.0;
        }
        let is_within = |coordinate: &f64| coordinate.abs() <= POSITION_MAX;
        if !position.iter().all(is_within) {
            return Err(Refused::Position);
        }
        if usize::from(report.class) >= self.settings.classes.len() {
            return Err(Refused::Class);
        }
        if report.payload.len() > PAYLOAD_MAX {
            return Err(Refused::Payload);
        }
        let mut payload = [0; PAYLOAD_MAX];
        payload[..report.payload.len()].copy_from_slice(report.payload);
        let entity = Entity {
            id,
            class: report.class,
            position,
            payload,
            payload_bytes: report.payload.len() as u8,
            sequence: report.sequence,
            marks: report.marks,
            reported: now,
        };
        match self.slot_by_id.get(&id).copied() {
            Some(slot) => self.update(slot, entity),
            None => self.insert(entity),
        }
    }

    fn update(&mut self, slot: u32, entity: Entity) -> Result<(), Refused> {
        let before = self.entities[slot as usize].as_mut();
        let before = before.ok_or(Refused::Unknown)?;
        if entity.sequence <= before.sequence {
            return Err(Refused::Late);
        }
        if entity.class != before.class {
            // Classes are told of those only that come.
            return self.insert(entity);
        }
        self.grid.place(slot, &entity, self.tick.saturating_add(1));
        self.cells.update(slot, before.position, entity.position);
        *before = entity;
        Ok(())
    }

    /// An entity comes in; if it is there already, it comes anew.
    fn insert(&mut self, entity: Entity) -> Result<(), Refused> {
        let before = self.slot_by_id.get(&entity.id).copied();
        let most = self.settings.entities_max;
        // Those that have come and gone within a tick count too.
        if before.is_none() && self.slot_by_id.len() >= most || self.emptied.len() > most {
            return Err(Refused::Full);
        }
        let slot = self.take_slot().ok_or(Refused::Full)?;
        if let Some(before) = before {
            // Where it is now may have been of somebody near.
            let observer = self.observers[before as usize].take();
            self.observers[slot as usize] = observer.map(Observer::looking_anew);
            self.remove(entity.id);
        }
        self.grid.place(slot, &entity, self.tick.saturating_add(1));
        self.cells.insert(slot, entity.position);
        self.slot_by_id.insert(entity.id, slot);
        self.entities[slot as usize] = Some(entity);
        self.disorder.note_arrival();
        Ok(())
    }

    /// An empty slot.
    fn take_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop_first() {
            return Some(slot);
        }
        let slot = u32::try_from(self.entities.len()).ok()?;
        self.entities.push(None);
        self.observers.push(None);
        Some(slot)
    }

    /// Has what the next observers need fetched from memory, while this one is busy.
    fn touch(&self, number: usize) {
        let observer = |number: usize| {
            let slot = self.grid.next_slot(number)?;
            self.observers[slot as usize].as_ref()
        };
        if let Some(observer) = observer(number + 2) {
            observer.touch();
        }
        if let Some(observer) = observer(number + 1) {
            observer.touch_lists();
        }
    }

    /// Looks for what an observer says to know and has not been seen here.
    fn look_for_awaited<S: Sight + ?Sized>(&mut self, now: Duration, sight: &S, slot: u32) {
        let observer = &mut self.observers[slot as usize];
        let Some(mut observer) = observer.take_if(|observer| !observer.awaited.is_empty()) else {
            return;
        };
        let until = now + self.settings.grace;
        let is_over = now >= *observer.awaited_until.get_or_insert(until);
        let me = self.grid.subject(slot);
        let is_seen = |slot: &&u32| sight.may_see(me, self.grid.subject(**slot));
        let (mut known, mut outdated) = (Vec::new(), Vec::new());
        for (other, sequence) in std::mem::take(&mut observer.awaited) {
            match self.slot_by_id.get(&other).filter(is_seen) {
                Some(slot) if self.is_latest(*slot, sequence) => {
                    let told = self.grid.glimpse(*slot).changed.max(self.tick);
                    known.push(Known::new(*slot, told, 0));
                }
                Some(slot) => {
                    outdated.push(Entering::outdated(*slot, self.tick.saturating_sub(1)));
                }
                None if is_over => observer.leave(other),
                None => observer.awaited.push((other, sequence)),
            }
        }
        if !known.is_empty() || !outdated.is_empty() {
            observer.know(known, outdated);
        }
        self.observers[slot as usize] = Some(observer);
    }

    /// Whether that is the last report of an entity.
    fn is_latest(&self, slot: u32, sequence: u32) -> bool {
        let entity = self.entities[slot as usize].as_ref();
        entity.is_some_and(|entity| entity.sequence == sequence)
    }

    fn remove_silent(&mut self, now: Duration) -> Vec<(EntityId, [f64; 3])> {
        let silence = self.settings.silence;
        let silent: Vec<_> = self
            .entities
            .iter()
            .flatten()
            .filter(|entity| now.saturating_sub(entity.reported) > silence)
            .map(|entity| (entity.id, entity.position))
            .collect();
        self.stats.silent += silent.len() as u64;
        for (id, _) in &silent {
            self.remove(*id);
        }
        silent
    }

    fn entity(&self, id: EntityId) -> Option<&Entity> {
        let slot = self.slot_by_id.get(&id)?;
        self.entities[*slot as usize].as_ref()
    }

    fn observer(&self, id: EntityId) -> Option<&Observer> {
        let slot = self.slot_by_id.get(&id)?;
        self.observers[*slot as usize].as_ref()
    }

    fn entity_mut(&mut self, id: EntityId) -> Option<&mut Entity> {
        let slot = *self.slot_by_id.get(&id)?;
        self.entities[slot as usize].as_mut()
    }
}

impl Report<'_> {
    /// The first report of an entity of the first class, that says nothing of itself.
    #[must_use]
    pub fn at(position: [f64; 3]) -> Self {
        Self {
            sequence: 1,
            class: 0,
            position,
            payload: &[],
            marks: 0,
        }
    }
}

impl Default for Watch {
    /// One datagram that fits through any network, and may be lost.
    fn default() -> Self {
        Self {
            budget: 1100,
            range: f64::INFINITY,
            is_reliable: false,
        }
    }
}

impl Sight for Everything {
    fn may_see(&self, _: &Subject, _: &Subject) -> bool {
        true
    }

    fn shows_everything(&self) -> bool {
        true
    }
}

impl<F: Fn(&Subject, &Subject) -> bool> Sight for F {
    fn may_see(&self, observer: &Subject, other: &Subject) -> bool {
        self(observer, other)
    }
}

impl Entity {
    fn subject(&self) -> Subject {
        Subject {
            id: self.id,
            class: self.class,
            marks: self.marks,
        }
    }
}
