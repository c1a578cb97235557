//! One observer's tick.

use super::choose::Choice;
use super::grid::{Glimpse, Grid, square};
use super::moves::{Look, Moves};
use super::observer::Observer;
use super::pace::Paces;
use super::pick::pick;
use super::{KNOWN_MAX, Sight, Subject};
use crate::datagram::Page;
use crate::settings::Settings;

/// What all observers have before them in one tick, in `D` dimensions.
pub(super) struct Scene<'f, S: ?Sized, const D: usize> {
    pub(super) settings: &'f Settings,
    pub(super) tick: u32,
    pub(super) grid: &'f Grid,
    /// Indexed by slot.
    pub(super) glimpses: &'f [Glimpse],
    pub(super) moves: &'f Moves,
    pub(super) paces: &'f Paces,
    pub(super) sight: &'f S,
}

/// What is needed for a moment, kept for the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) datagram: Page,
    /// Indexed by slot: the number of the observer that knows it, so that no set is needed.
    stamps: Vec<u64>,
    stamp: u64,
    /// Those that may have come into range.
    noted: Vec<u32>,
    /// What there is to tell, by number: of the known, and then of those that enter.
    pub(super) choice: Choice,
}

/// An observer, as it is in one tick.
pub(super) struct Me {
    slot: u32,
    /// In the order of the grid.
    number: usize,
    subject: Subject,
    pub(super) position: [f64; 3],
    /// The squares of how far it wants to see, of where what it sees leaves, and of where it is far from that.
    enter_max: f64,
    leave_max: f64,
    core_max: f64,
}

impl<S: Sight + ?Sized, const D: usize> Scene<'_, S, D> {
    /// Makes one observer's datagram; empty when there is nothing to tell. Returns how many had to wait.
    pub(super) fn pass(
        &self,
        scratch: &mut Scratch,
        slot: u32,
        number: usize,
        observer: &mut Observer,
    ) -> usize {
        let me = self.me(slot, number, observer);
        let looks_around = self.moves.is_stale(slot, me.position, &observer.look);
        if looks_around || self.has_turned(&me, observer) {
            self.look_over(&me, observer);
            // It may come back from where it has gone since it looked around, and go as far again.
            if !looks_around && observer.look.from() != me.position {
                observer.core = 0;
            }
        }
        self.let_go(&me, observer);
        self.add_new(scratch, &me, observer, looks_around);
        if observer.has_too_many_leaves() {
            observer.start_anew();
        }
        let waiting = self.tell(scratch, &me, observer);
        observer.on_sent();
        observer.is_checked = true;
        waiting
    }

    #[inline]
    pub(super) fn glimpse(&self, slot: u32) -> &Glimpse {
        &self.glimpses[slot as usize]
    }

    fn me(&self, slot: u32, number: usize, observer: &Observer) -> Me {
        let square = |distance: f64| distance * distance;
        let range = observer.watch.range;
        let leave = range * (1.0 + self.settings.hysteresis);
        Me {
            slot,
            number,
            subject: *self.grid.subject(slot),
            position: self.glimpse(slot).position,
            enter_max: square(range),
            leave_max: square(leave),
            core_max: Grid::core_limit(leave, self.settings),
        }
    }

    /// Whether some of the first ones of the known may have to go, or others may be far from where they were, though the
    /// observer does not look around.
    fn has_turned(&self, me: &Me, observer: &Observer) -> bool {
        let core = &observer.known[..observer.core];
        let may_see = |slot: u32| self.sight.may_see(&me.subject, self.grid.subject(slot));
        let leave = self.settings.range_max() * (1.0 + self.settings.hysteresis);
        self.moves.is_deserted(me.position, leave)
            || !(self.sight.shows_everything() || core.iter().all(|known| may_see(known.slot())))
    }

    /// Puts those first of the known that cannot leave before an observer who looks around now does so again, and says
    /// anew how fast each is told, since those that were near may be far.
    fn look_over(&self, me: &Me, observer: &mut Observer) {
        let has_paces = observer.threshold.is_some();
        let (mut at, mut end) = (0, observer.known.len());
        while at < end {
            let known = &mut observer.known[at];
            let other = self.glimpse(known.slot());
            let square = square::<D>(other.position, me.position);
            let class = other.stencil.class();
            if has_paces {
                known.set_pace(self.paces.pace(class, square as f32));
            }
            let core_square = self.grid.core_square(class);
            if (square <= core_square) & (square <= me.core_max)
                && self
                    .sight
                    .may_see(&me.subject, self.grid.subject(known.slot()))
            {
                at += 1;
            } else {
                end -= 1;
                observer.known.swap(at, end);
            }
        }
        observer.core = end;
    }

    /// Lets those go that are out of range, gone, or not to be seen any more.
    fn let_go(&self, me: &Me, observer: &mut Observer) {
        let mut at = observer.core;
        while let Some(known) = observer.known.get(at) {
            let slot = known.slot();
            if self.stays(me, slot) {
                at += 1;
            } else {
                observer.on_known_gone(at, self.grid.subject(slot).id);
            }
        }
        let mut at = 0;
        while let Some(entering) = observer.entering.get(at) {
            let slot = entering.slot;
            if self.stays(me, slot) {
                at += 1;
            } else {
                observer.on_entering_gone(at, self.grid.subject(slot).id);
            }
        }
    }

    /// Whether what an observer knows is still to be known.
    #[inline]
    fn stays(&self, me: &Me, slot: u32) -> bool {
        let other = self.glimpse(slot);
        let square = square::<D>(other.position, me.position);
        let leave_square = self.grid.leave_square(other.stencil.class());
        // One branch for both.
        (square <= leave_square) & (square <= me.leave_max)
            && self.sight.may_see(&me.subject, self.grid.subject(slot))
    }

    /// Takes those in that have come into range.
    fn add_new(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer, looks_around: bool) {
        if self.look(scratch, me, observer, looks_around) {
            self.distinguish(scratch, me, observer);
        }
        let mut at = 0;
        while let Some(slot) = observer.nearby.get(at) {
            let slot = *slot;
            let other = self.glimpse(slot);
            let square = square::<D>(other.position, me.position);
            let is_new = square <= self.grid.enter_square(other.stencil.class())
                && square <= me.enter_max
                && observer.known_count() < KNOWN_MAX
                && self.sight.may_see(&me.subject, self.grid.subject(slot));
            if !is_new {
                at += 1;
                continue;
            }
            observer.nearby.swap_remove(at);
            let id = self.grid.subject(slot).id;
            observer.enter(slot, id, self.tick.saturating_sub(1));
        }
        if observer.nearby.len() > KNOWN_MAX {
            // It looks around every time.
            observer.nearby = Vec::new();
            observer.look = Look::NEVER;
        }
    }

    /// Takes note of all that may have come into range; says whether there may be some among them that the
    /// observer knows.
    fn look(
        &self,
        scratch: &mut Scratch,
        me: &Me,
        observer: &mut Observer,
        looks_around: bool,
    ) -> bool {
        let jumpers = self.moves.jumpers();
        if looks_around {
            self.grid.around::<D>(me.number, &mut scratch.noted);
            observer.nearby.clear();
            observer.look = self.moves.look(me.slot, me.position, &observer.look);
            return true;
        }
        scratch.noted.clear();
        scratch.noted.extend_from_slice(jumpers);
        !jumpers.is_empty()
    }

    /// Adds to those nearby what was noted, but none that is among them or known.
    fn distinguish(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer) {
        scratch.stamp += 1;
        let stamp = scratch.stamp;
        if scratch.stamps.len() < self.glimpses.len() {
            scratch.stamps.resize(self.glimpses.len(), 0);
        }
        let stamps = scratch.stamps.as_mut_slice();
        stamps[me.slot as usize] = stamp;
        let slots = observer.slots().chain(observer.nearby.iter().copied());
        slots.for_each(|slot| stamps[slot as usize] = stamp);
        pick(&scratch.noted, &mut observer.nearby, |slot| {
            let before = std::mem::replace(&mut stamps[*slot as usize], stamp);
            (*slot, before != stamp)
        });
    }
}
