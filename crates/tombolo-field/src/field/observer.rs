//! What an observer has been told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{EntityId, Watch};
use crate::ticks::Ticks;

/// After how many ticks without an acknowledgement something is told again.
const RETRY_TICKS: u32 = 4;

/// The most departures that are to be told; with more, the observer is to forget all.
const LEAVES_MAX: usize = 4096;

/// Somebody who is told what is in its range.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) watch: Watch,
    pub(super) known: Vec<Known>,
    /// Slots of what was in range, or a little beyond, when it looked around last, and is not known.
    pub(super) nearby: Vec<u32>,
    /// The drift when it looked around last.
    pub(super) looked: f64,
    /// What it says to know and was not here when it began, and until when that is looked for.
    pub(super) awaited: Vec<(EntityId, u32)>,
    pub(super) awaited_until: Option<Duration>,
    /// What has left, and when it was told last; 0 when it was not.
    pub(super) leaves: BTreeMap<EntityId, u32>,
    /// A tick has been made since it began: what it was said to know has been looked at.
    pub(super) is_checked: bool,
    /// All that was told before is void, which the observer does not know yet.
    reset: Option<Reset>,
    /// How many of the known have not been acknowledged.
    unconfirmed: usize,
}

/// All that was told before is void.
#[derive(Clone, Copy, Debug, Default)]
struct Reset {
    /// Before when: the tick in which that was told first; 0 until it was.
    since: u32,
    /// When it was told last; 0 until it was.
    told: u32,
}

/// An entity that an observer knows, or is to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) slot: u32,
    /// Which of its reports the observer has; 0 before the first.
    pub(super) sequence: u32,
    /// When it was told last; before that, since when it is to be.
    pub(super) told: u32,
    /// When it was told as new first, until that is acknowledged.
    entered: u32,
    /// In which of the ticks from then on it was told as new, a bit each.
    entries: u32,
    pub(super) state: Told,
    pub(super) id: EntityId,
}

/// How much an observer has been told of an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// It may not have arrived.
    Entered,
    Confirmed,
}

impl Observer {
    pub(super) fn new(watch: Watch, is_reset: bool) -> Self {
        Self {
            watch,
            known: Vec::new(),
            nearby: Vec::new(),
            looked: f64::NEG_INFINITY,
            awaited: Vec::new(),
            awaited_until: None,
            leaves: BTreeMap::new(),
            is_checked: false,
            reset: is_reset.then(Reset::default),
            unconfirmed: 0,
        }
    }

    /// Something that the observer may know is not in range any more.
    pub(super) fn leave(&mut self, id: EntityId) {
        self.leaves.insert(id, 0);
    }

    /// Forgets all departures when they are too many to be told; says whether the observer starts anew.
    pub(super) fn settle(&mut self) -> bool {
        let is_too_much = self.leaves.len() > LEAVES_MAX;
        if is_too_much {
            self.leaves.clear();
            self.reset = Some(Reset::default());
            for known in &mut self.known {
                known.state = Told::Nothing;
                known.sequence = 0;
            }
            self.unconfirmed = 0;
        }
        is_too_much
    }

    /// Keeps one of those that were said to be known twice.
    pub(super) fn forget_doubles(&mut self) {
        self.awaited.sort_unstable();
        self.awaited.dedup_by_key(|(id, _)| *id);
        self.known.sort_by_key(|known| (known.id, known.sequence));
        self.known.dedup_by_key(|known| known.id);
    }

    /// Whether something that was told at that time is to be told again by now.
    pub(super) fn is_due(told: u32, now: u32) -> bool {
        now.saturating_sub(told) >= RETRY_TICKS
    }

    /// Before when all is void, as the datagram of this tick says.
    pub(super) fn on_header(&mut self, tick: u32) -> Option<u32> {
        let reset = self.reset.as_mut()?;
        if reset.since == 0 {
            reset.since = tick;
        }
        reset.told = tick;
        let since = reset.since;
        if self.watch.is_reliable {
            self.reset = None;
        }
        Some(since)
    }

    /// Whether it is to be told, or told again, that all before is void.
    pub(super) fn has_reset(&self, now: u32) -> bool {
        self.reset
            .is_some_and(|reset| reset.told == 0 || Self::is_due(reset.told, now))
    }

    pub(super) fn on_entered(&mut self, at: usize, tick: u32) {
        let known = &mut self.known[at];
        if self.watch.is_reliable {
            known.state = Told::Confirmed;
            return;
        }
        if known.state == Told::Nothing {
            self.unconfirmed += 1;
            known.state = Told::Entered;
            known.entered = tick;
            known.entries = 0;
        }
        match 1_u32.checked_shl(tick.saturating_sub(known.entered)) {
            Some(entry) => known.entries |= entry,
            None => (known.entered, known.entries) = (tick, 1),
        }
    }

    /// One of the known goes; the observer is told, if it may know of it.
    pub(super) fn on_gone(&mut self, at: usize) {
        let known = self.known.swap_remove(at);
        // It may come back.
        self.nearby.push(known.slot);
        match known.state {
            Told::Nothing => return,
            Told::Entered => self.unconfirmed -= 1,
            Told::Confirmed => {}
        }
        self.leave(known.id);
    }

    pub(super) fn acknowledge(&mut self, ticks: Ticks) {
        // All datagrams since then have said so.
        let is_known = |reset: &mut Reset| reset.since != 0 && ticks.last >= reset.since;
        self.reset.take_if(is_known);
        if !self.leaves.is_empty() {
            self.leaves.retain(|_, told| !ticks.contains(*told));
        }
        if self.unconfirmed == 0 {
            return;
        }
        for known in &mut self.known {
            if known.state == Told::Entered && ticks.meet(known.entered, known.entries) {
                known.state = Told::Confirmed;
                self.unconfirmed -= 1;
            }
        }
    }
}

impl Known {
    /// An entity that is to be told.
    pub(super) fn new(slot: u32, id: EntityId, tick: u32) -> Self {
        Self {
            slot,
            sequence: 0,
            told: tick.saturating_sub(1),
            entered: 0,
            entries: 0,
            state: Told::Nothing,
            id,
        }
    }

    /// An entity that the observer has been told of by somebody else.
    pub(super) fn told(slot: u32, id: EntityId, sequence: u32, tick: u32) -> Self {
        Self {
            slot,
            sequence,
            told: tick,
            entered: 0,
            entries: 0,
            state: Told::Confirmed,
            id,
        }
    }
}
