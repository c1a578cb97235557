//! What an observer has been told.

use std::collections::BTreeMap;
use std::time::Duration;

use super::choose::Threshold;
use super::moves::Look;
use super::pace::Waits;
use super::renumber::NOWHERE;
use super::{EntityId, Watch};
use crate::datagram::{Pen, write_left};
use crate::settings::ENTITIES_MAX;
use crate::ticks::Ticks;

/// Of a slot, so that a byte fits above it.
const SLOT_BITS: u32 = 24;

const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;

// Those that have come and gone within a tick have slots too.
const _: () = assert!(2 * ENTITIES_MAX < SLOT_MASK as usize);

/// After how many ticks without an acknowledgement something is told again.
const RETRY_TICKS: u32 = 4;

/// The same when nothing has come back for long.
const RETRY_TICKS_MAX: u32 = 32;

/// Bytes of a line of a processor's cache.
const LINE: usize = 64;

/// The most departures that are to be told; with more, the observer is to forget all.
const LEAVES_MAX: usize = 4096;

/// Somebody who is told what is in its range.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) watch: Watch,
    /// What it has been told of for sure. The first ones cannot leave before it looks around again, unless they
    /// jump or may not be seen any more.
    pub(super) known: Vec<Known>,
    /// How many the first ones are.
    pub(super) core: usize,
    /// What it is to be told of, or may have been.
    pub(super) entering: Vec<Entering>,
    /// Slots of what was in range, or a little beyond, when it looked around last, and is not known.
    pub(super) nearby: Vec<u32>,
    /// When it looked around last.
    pub(super) look: Look,
    /// What it says to know and has not been seen here since it began, and until when that is looked for.
    pub(super) awaited: Vec<(EntityId, u32)>,
    pub(super) awaited_until: Option<Duration>,
    /// What has left, and when that was told.
    pub(super) leaves: BTreeMap<EntityId, Told>,
    /// A tick has been made since it began: what it was said to know has been looked at.
    pub(super) is_checked: bool,
    /// How urgent what was told last was at least; `None` when there was room for all.
    pub(super) threshold: Threshold,
    /// All that was told before is void, which the observer does not know yet.
    reset: Option<Reset>,
}

/// All that was told before is void.
#[derive(Clone, Copy, Debug, Default)]
struct Reset {
    /// Before when: the tick in which that was told first; 0 until it was.
    since: u32,
    /// When it was told last; 0 until it was.
    told: u32,
}

/// An entity that an observer knows for sure: as little as can be, since there are many, and fetching them from
/// memory is what takes most of the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The slot, and above that its pace, when not all fits.
    slot_and_pace: u32,
    /// When it was told last: it has what changed up to then.
    pub(super) told: u32,
}

/// An entity that an observer may not know yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entering {
    pub(super) slot: u32,
    /// When it was told last; before that, since when it is to be.
    pub(super) told: u32,
    /// Its pace, once it was told.
    pace: u8,
    /// The observer may know it from before: it was not told for sure that it had left.
    may_be_known: bool,
    /// When it was told that it is there.
    entry: Told,
}

/// When something was told that is told again until it is acknowledged. An acknowledgement may take longer than it
/// is until that is told again, so that it is not enough to know when it was told last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// When it was told first; 0 until it was.
    first: u32,
    ticks: Ticks,
}

impl Observer {
    pub(super) fn new(watch: Watch, is_reset: bool) -> Self {
        Self {
            watch,
            known: Vec::new(),
            core: 0,
            entering: Vec::new(),
            nearby: Vec::new(),
            look: Look::NEVER,
            awaited: Vec::new(),
            awaited_until: None,
            leaves: BTreeMap::new(),
            is_checked: false,
            threshold: None,
            reset: is_reset.then(Reset::default),
        }
    }

    /// The same, when it must look around.
    pub(super) fn looking_anew(self) -> Self {
        Self {
            look: Look::NEVER,
            ..self
        }
    }

    /// Something that the observer may know is not in range any more.
    pub(super) fn leave(&mut self, id: EntityId) {
        self.leaves.insert(id, Told::default());
    }

    /// The same, when slots are elsewhere. What it knows is somewhere.
    pub(super) fn renumbered(&self, map: &[u32]) -> Self {
        let now = |slot: u32| {
            let now = map[slot as usize];
            debug_assert!(
                now != NOWHERE,
                "what has gone is forgotten in the tick in which it has"
            );
            now
        };
        let known = self.known.iter();
        let known = known.map(|known| Known::new(now(known.slot()), known.told, known.pace()));
        let entering = self.entering.iter().map(|entering| Entering {
            slot: now(entering.slot),
            ..*entering
        });
        let nearby = self.nearby.iter().map(|slot| map[*slot as usize]);
        Self {
            known: with_room(known),
            nearby: with_room(nearby.filter(|slot| *slot != NOWHERE)),
            entering: entering.collect(),
            awaited: self.awaited.clone(),
            leaves: self.leaves.clone(),
            ..*self
        }
    }

    /// Reads some of it, so that it is at hand later.
    pub(super) fn touch(&self) {
        std::hint::black_box((self.known.len(), self.nearby.len(), self.is_checked));
        std::hint::black_box((self.entering.len(), self.awaited.len(), self.look));
    }

    /// The same of its lists.
    pub(super) fn touch_lists(&self) {
        let known = self.known.iter().step_by(LINE / size_of::<Known>());
        let nearby = self.nearby.iter().step_by(LINE / size_of::<u32>());
        std::hint::black_box(known.fold(0, |all, known| all ^ known.told));
        std::hint::black_box(nearby.fold(0, |all, slot| all ^ slot));
        std::hint::black_box(self.entering.first().map(|entering| entering.slot));
    }

    /// How many it knows, or is to know.
    pub(super) fn known_count(&self) -> usize {
        self.known.len() + self.entering.len()
    }

    /// The slots of all that it knows, or is to know.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> {
        let known = self.known.iter().map(|known| known.slot());
        known.chain(self.entering.iter().map(|entering| entering.slot))
    }

    /// Whether there are more departures than can be told.
    pub(super) fn has_too_many_leaves(&self) -> bool {
        self.leaves.len() > LEAVES_MAX
    }

    /// It is to forget all departures, and all that it knows with them.
    pub(super) fn start_anew(&mut self) {
        self.leaves.clear();
        self.reset = Some(Reset::default());
        let known = self.known.iter().map(|known| (known.slot(), known.told));
        let entering = self.entering.iter();
        let entering = entering.map(|entering| (entering.slot, entering.told));
        let anew = known.chain(entering);
        self.entering = anew.map(|(slot, told)| Entering::new(slot, told)).collect();
        self.known.clear();
        self.core = 0;
        self.threshold = None;
    }

    /// The slot of one of those that it knows or is to know, by number, and when it was told of it last.
    pub(super) fn slot_and_told(&self, number: u32) -> (u32, u32) {
        let at = number as usize;
        match self.known.get(at) {
            Some(known) => (known.slot(), known.told),
            None => {
                let entering = &self.entering[at - self.known.len()];
                (entering.slot, entering.told)
            }
        }
    }

    /// Takes in what somebody else has told it of, each once: what has not changed since, and what has, which is to be
    /// told with its class.
    pub(super) fn know(&mut self, known: Vec<Known>, outdated: Vec<Entering>) {
        self.known.extend(known);
        self.known.sort_unstable_by_key(|known| known.slot());
        self.entering.extend(outdated);
        self.core = 0;
        // What it knows may be among what was nearby.
        self.look = Look::NEVER;
    }

    /// Whether something that was told at that time is to be told again by now.
    fn is_due(told: u32, now: u32) -> bool {
        now.saturating_sub(told) >= RETRY_TICKS
    }

    /// Before when all is void, as the datagram of this tick says.
    pub(super) fn reset_since(&self, tick: u32) -> Option<u32> {
        let reset = self.reset?;
        Some(if reset.since == 0 { tick } else { reset.since })
    }

    /// That has been said.
    pub(super) fn on_header(&mut self, tick: u32) {
        if self.watch.is_reliable {
            self.reset = None;
        }
        if let Some(reset) = &mut self.reset {
            reset.told = tick;
            if reset.since == 0 {
                reset.since = tick;
            }
        }
    }

    /// How many departures are to be told, or told again.
    pub(super) fn leaves_due(&self, now: u32) -> usize {
        let leaves = self.leaves.values();
        leaves.filter(|told| told.is_due(now)).count()
    }

    /// Tells so many of them, those first that have not been told yet.
    pub(super) fn tell_leaves(&mut self, count: usize, now: u32, pen: &mut Pen<'_>) {
        if self.leaves.is_empty() {
            return;
        }
        let mut room = count;
        for is_new in [true, false] {
            for (id, told) in &mut self.leaves {
                if room > 0 && told.is_new() == is_new && told.is_due(now) {
                    room -= 1;
                    write_left(*id, pen);
                    told.note(now);
                }
            }
        }
        if self.watch.is_reliable {
            self.leaves.retain(|_, told| told.is_new());
        }
    }

    /// Whether it is to be told, or told again, that all before is void.
    pub(super) fn has_reset(&self, now: u32) -> bool {
        self.reset
            .is_some_and(|reset| reset.told == 0 || Self::is_due(reset.told, now))
    }

    /// Something has come into range: it is to be told, as one that was told of last then.
    pub(super) fn enter(&mut self, slot: u32, id: EntityId, told: u32) {
        // It is told that it is there again, if it is not told before that it has left.
        let may_be_known = self.leaves.remove(&id).is_some();
        self.entering.push(Entering {
            may_be_known,
            ..Entering::new(slot, told)
        });
    }

    /// One of the known is gone.
    pub(super) fn on_known_gone(&mut self, at: usize, id: EntityId) {
        let known = self.known.swap_remove(at);
        // It may come back.
        self.nearby.push(known.slot());
        self.leave(id);
    }

    /// One of those that enter is gone; the observer is told, if it may know of it.
    pub(super) fn on_entering_gone(&mut self, at: usize, id: EntityId) {
        let entering = self.entering.swap_remove(at);
        self.nearby.push(entering.slot);
        if !entering.entry.is_new() || entering.may_be_known {
            self.leave(id);
        }
    }

    /// What has been sent arrives, if that is so here: those that have been told are known.
    pub(super) fn on_sent(&mut self) {
        if self.watch.is_reliable {
            let is_told = |entering: &mut Entering| !entering.entry.is_new();
            let told = self.entering.extract_if(.., is_told);
            self.known.extend(told.map(Known::from));
        }
    }

    pub(super) fn acknowledge(&mut self, ticks: Ticks) {
        // All datagrams since then have said so.
        let is_known = |reset: &mut Reset| reset.since != 0 && ticks.last >= reset.since;
        self.reset.take_if(is_known);
        if !self.leaves.is_empty() {
            self.leaves.retain(|_, told| !ticks.meet(told.ticks));
        }
        let is_known = |entering: &mut Entering| ticks.meet(entering.entry.ticks);
        let known = self.entering.extract_if(.., is_known);
        self.known.extend(known.map(Known::from));
    }
}

/// A list that may grow a little where it is.
fn with_room<T>(of: impl Iterator<Item = T>) -> Vec<T> {
    let most = of.size_hint().1.unwrap_or_default();
    let mut list = Vec::with_capacity(most + most / 4 + 8);
    list.extend(of);
    list
}

impl Known {
    pub(super) fn new(slot: u32, told: u32, pace: u8) -> Self {
        let slot_and_pace = slot & SLOT_MASK | u32::from(pace) << SLOT_BITS;
        Self {
            slot_and_pace,
            told,
        }
    }

    #[inline]
    pub(super) fn slot(&self) -> u32 {
        self.slot_and_pace & SLOT_MASK
    }

    fn pace(&self) -> u8 {
        (self.slot_and_pace >> SLOT_BITS) as u8
    }

    #[inline]
    pub(super) fn set_pace(&mut self, pace: u8) {
        *self = Self::new(self.slot(), self.told, pace);
    }

    /// Whether it is to be told again in that tick, if not all fits.
    #[inline]
    pub(super) fn is_due(&self, waits: &Waits, tick: u32) -> bool {
        // Ticks do not go on for ever.
        let wait = u32::from(waits[usize::from(self.pace())]);
        self.told.wrapping_add(wait) <= tick
    }
}

impl From<Entering> for Known {
    fn from(entering: Entering) -> Self {
        Self::new(entering.slot, entering.told, entering.pace)
    }
}

impl Entering {
    /// An entity that is to be told, as one that was told of last then.
    pub(super) fn new(slot: u32, told: u32) -> Self {
        Self {
            slot,
            told,
            pace: 0,
            may_be_known: false,
            entry: Told::default(),
        }
    }

    /// One that the observer knows, but not as it is now.
    pub(super) fn outdated(slot: u32, told: u32) -> Self {
        Self {
            may_be_known: true,
            ..Self::new(slot, told)
        }
    }

    /// Whether there is something to tell of it, if it has changed last then.
    pub(super) fn has_news(&self, changed: u32, now: u32) -> bool {
        self.told < changed || self.entry.is_due(now)
    }

    pub(super) fn on_told(&mut self, tick: u32, pace: u8) {
        self.entry.note(tick);
        self.told = tick;
        self.pace = pace;
    }
}

impl Told {
    fn is_new(&self) -> bool {
        self.first == 0
    }

    /// Whether it is to be told, or told again. The longer nothing comes back, the longer that waits, so that it is
    /// still known when it was told once the acknowledgement comes.
    fn is_due(&self, now: u32) -> bool {
        let pause = (self.ticks.last - self.first) / 2;
        let pause = pause.clamp(RETRY_TICKS, RETRY_TICKS_MAX);
        self.is_new() || now.saturating_sub(self.ticks.last) >= pause
    }

    fn note(&mut self, tick: u32) {
        if self.is_new() {
            self.first = tick;
        }
        self.ticks.note(tick);
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "what has gone is forgotten")]
    fn what_is_known_has_a_place_when_slots_are_elsewhere() {
        let mut observer = Observer::new(Watch::default(), false);
        observer.know(vec![Known::new(0, 1, 0)], Vec::new());
        observer.renumbered(&[NOWHERE]);
    }
}
