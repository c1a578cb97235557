//! What an observer is told in one tick.
//!
//! When not all fits, each of the known is told again after some ticks: as many as it takes until it is as urgent
//! as the last one that fitted, about which its pace is asked. So a tick asks for those that are due, and mostly they fit. If there is room left,
//! some of the others are told earlier; if there is not enough, the most urgent ones are chosen.

use super::Sight;
use super::choose::{Choice, Threshold, score, urgency};
use super::grid::{Glimpse, square};
use super::observer::{Entering, Known, Observer};
use super::pass::{Me, Scene, Scratch};
use crate::datagram::{Header, LEFT_BYTES, Page, Pen};

impl<S: Sight + ?Sized, const D: usize> Scene<'_, S, D> {
    /// Makes the datagram, which is empty when there is nothing to tell; returns how many had to wait.
    pub(super) fn tell(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer) -> usize {
        let header = self.begin(&mut scratch.datagram, me, observer);
        let left = observer.watch.budget - header;
        // What has left comes first, but never takes all.
        let leaves = observer.leaves_due(self.tick) * LEFT_BYTES;
        let room = left - leaves.min(left / 2);
        let was_chosen = observer.threshold.is_some();
        let waiting = self.tell_within(room, scratch, me, observer);
        if !was_chosen {
            self.plan(me, observer);
        }
        let page = &mut scratch.datagram;
        let rest = observer.watch.budget - page.filled().len();
        page.write(|pen| observer.tell_leaves(rest / LEFT_BYTES, self.tick, pen));
        if page.filled().len() == header && !observer.has_reset(self.tick) {
            page.clear();
        } else {
            observer.on_header(self.tick);
        }
        waiting
    }

    /// Tells of what is there, within so many bytes; returns how many had to wait.
    fn tell_within(
        &self,
        room: usize,
        scratch: &mut Scratch,
        me: &Me,
        observer: &mut Observer,
    ) -> usize {
        let page = &mut scratch.datagram;
        let begin = page.filled().len();
        let longest = self.grid.longest();
        let entering = observer.entering.len() * (longest + 1);
        if observer.threshold.is_none() && observer.known.len() * longest + entering <= room {
            self.tell_known(page, me, observer);
            self.tell_entering(page, me, observer);
            return 0;
        }
        let waits = self.paces.waits(observer.threshold);
        let is_due = |known: &Known| known.is_due(waits, self.tick);
        let due = scratch.choice.begin(&observer.known, is_due);
        let not_due = observer.known.len() - due;
        if scratch.choice.numbers().len() * longest + entering > room {
            self.weigh(&mut scratch.choice, observer);
            if scratch.choice.total() > room {
                return not_due + self.tell_some(room, scratch, me, observer);
            }
        }
        self.tell_due(scratch.choice.numbers(), page, me, observer);
        self.tell_entering(page, me, observer);
        if not_due == 0 {
            observer.threshold = None;
            return 0;
        }
        let told = page.filled().len() - begin;
        relax(&mut observer.threshold, told, room);
        not_due - self.fill(room - told, page, me, observer)
    }

    /// Begins a datagram; returns the bytes of its header.
    fn begin(&self, page: &mut Page, me: &Me, observer: &Observer) -> usize {
        let header = Header {
            tick: self.tick,
            reset: observer.reset_since(self.tick),
            dimensions: self.settings.dimensions.count(),
            center: me.position,
        };
        page.clear();
        page.write(|pen| header.write(pen));
        page.filled().len()
    }

    /// Tells all that there is to tell of the known.
    fn tell_known(&self, page: &mut Page, me: &Me, observer: &mut Observer) {
        page.write(|pen| {
            // When all fits, this one loop is where a tick spends its time.
            for known in &mut observer.known {
                let other = self.glimpse(known.slot());
                if known.told < other.changed {
                    other.stencil.write::<D>(offset(other, me), pen);
                    known.told = self.tick;
                }
            }
        });
    }

    /// Tells all that there is to tell of those that enter.
    fn tell_entering(&self, page: &mut Page, me: &Me, observer: &mut Observer) {
        page.write(|pen| {
            for entering in &mut observer.entering {
                let changed = self.glimpse(entering.slot).changed;
                if entering.has_news(changed, self.tick) {
                    self.tell_of_entering(entering, me, pen);
                }
            }
        });
    }

    /// Tells all that there is to tell of some of the known.
    // By itself, so that what the loop needs is in registers.
    #[inline(never)]
    fn tell_due(&self, numbers: &[u32], page: &mut Page, me: &Me, observer: &mut Observer) {
        page.write(|pen| {
            for number in numbers {
                // Those that enter, if they are among them, come after the known.
                let Some(known) = observer.known.get_mut(*number as usize) else {
                    break;
                };
                if known.told < self.glimpse(known.slot()).changed {
                    self.tell_of(known, me, pen);
                }
            }
        });
    }

    /// Tells some that are not due, the next ones first, while there is room; returns how many.
    // By itself, as above.
    #[inline(never)]
    fn fill(&self, mut room: usize, page: &mut Page, me: &Me, observer: &mut Observer) -> usize {
        let mut count = 0;
        let waits = self.paces.waits(observer.threshold);
        page.write(|pen| {
            for due in [self.tick.saturating_add(1), u32::MAX] {
                for known in &mut observer.known {
                    if known.told >= self.tick || !known.is_due(waits, due) {
                        continue;
                    }
                    let other = self.glimpse(known.slot());
                    if known.told >= other.changed {
                        continue;
                    }
                    let Some(rest) = room.checked_sub(other.stencil.bytes().into()) else {
                        return;
                    };
                    room = rest;
                    count += 1;
                    self.tell_of(known, me, pen);
                }
            }
        });
        count
    }

    /// Tells the most urgent of those that are due or enter; returns how many of them had to wait.
    fn tell_some(
        &self,
        room: usize,
        scratch: &mut Scratch,
        me: &Me,
        observer: &mut Observer,
    ) -> usize {
        let choice = &mut scratch.choice;
        choice.score(|number| {
            let (slot, told) = observer.slot_and_told(number);
            let other = self.glimpse(slot);
            let square = square::<D>(other.position, me.position) as f32;
            let age = self.tick.saturating_sub(told).max(1);
            score(self.paces.urgency(other.stencil.class(), square, age))
        });
        let count = choice.numbers().len();
        let chosen = choice.choose(room, &mut observer.threshold);
        observer.threshold = observer.threshold.map(raise);
        let knowns = observer.known.len();
        scratch.datagram.write(|pen| {
            for number in chosen {
                let at = *number as usize;
                if let Some(known) = observer.known.get_mut(at) {
                    self.tell_of(known, me, pen);
                } else {
                    let entering = &mut observer.entering[at - knowns];
                    self.tell_of_entering(entering, me, pen);
                }
            }
        });
        count - chosen.len()
    }

    /// Keeps those of the known that are due of which there is something to tell, and adds those that enter.
    fn weigh(&self, choice: &mut Choice, observer: &Observer) {
        choice.weigh(|number| {
            let known = &observer.known[number as usize];
            let other = self.glimpse(known.slot());
            (known.told < other.changed).then(|| other.stencil.bytes().into())
        });
        let first = observer.known.len() as u32;
        for (number, entering) in (first..).zip(&observer.entering) {
            let other = self.glimpse(entering.slot);
            if entering.has_news(other.changed, self.tick) {
                // The class is told as well.
                let bytes = u32::from(other.stencil.bytes()) + 1;
                choice.push(number, bytes);
            }
        }
    }

    /// Tells of one of the known.
    #[inline]
    fn tell_of(&self, known: &mut Known, me: &Me, pen: &mut Pen<'_>) {
        let other = self.glimpse(known.slot());
        other.stencil.write::<D>(offset(other, me), pen);
        known.told = self.tick;
    }

    /// The same of one that enters.
    fn tell_of_entering(&self, entering: &mut Entering, me: &Me, pen: &mut Pen<'_>) {
        let other = self.glimpse(entering.slot);
        other.stencil.write_entered::<D>(offset(other, me), pen);
        entering.on_told(self.tick, self.pace(other, me));
    }

    /// How fast an entity is told.
    fn pace(&self, other: &Glimpse, me: &Me) -> u8 {
        let square = square::<D>(other.position, me.position) as f32;
        self.paces.pace(other.stencil.class(), square)
    }

    /// Says how fast each of the known is told, when not all fit any more.
    fn plan(&self, me: &Me, observer: &mut Observer) {
        if observer.threshold.is_none() {
            return;
        }
        for known in &mut observer.known {
            let other = self.glimpse(known.slot());
            known.set_pace(self.pace(other, me));
        }
    }
}

/// From an observer to an entity.
#[inline]
fn offset(other: &Glimpse, me: &Me) -> [f32; 3] {
    let offset = |at: usize| (other.position[at] - me.position[at]) as f32;
    [offset(0), offset(1), offset(2)]
}

/// Lowers a threshold when those that were due have left much room.
fn relax(threshold: &mut Threshold, total: usize, room: usize) {
    if let Some(threshold) = threshold {
        let share = total as f32 / (room as f32 * FULL);
        *threshold = score(urgency(*threshold) * share.clamp(0.98, 1.0));
    }
}

/// Raises a threshold when not all fitted that were due.
fn raise(threshold: i32) -> i32 {
    score(urgency(threshold) * RAISE)
}

const RAISE: f32 = 1.15;

/// A datagram that is as full with those that are due is full enough.
const FULL: f32 = 0.7;
