//! What an observer is told in one tick.
//!
//! When not all fits, each of the known is told again after some ticks: as many as it takes until it is as urgent
//! as the last one that fitted. So a tick asks for those that are due, and mostly they fit. If there is room left,
//! some of the others are told earlier; if there is not enough, the most urgent ones are chosen.

use super::Field;
use super::choose::{Choice, Threshold, score, urgency};
use super::grid::{Glimpse, square};
use super::observer::{Known, Observer};
use super::pass::{Me, Scratch};
use crate::datagram::{HEADER_BYTES_MAX, Header, LEFT_BYTES, Page, Pen, RECORD_BYTES_MAX};

impl Field {
    /// Makes the datagram, which is empty when there is nothing to tell; returns how many had to wait.
    pub(super) fn tell(
        &self,
        scratch: &mut Scratch,
        me: &Me,
        observer: &mut Observer,
        has_looked: bool,
    ) -> usize {
        let header = self.begin(&mut scratch.datagram, me, observer);
        let left = observer.watch.budget - header;
        let (told, not_due) = if observer.threshold.is_none() && fits_for_sure(observer) {
            scratch.choice.begin(0);
            (self.tell_known(&mut scratch.datagram, me, observer), 0)
        } else {
            (0, note_due(&mut scratch.choice, observer, self.tick))
        };
        self.weigh(scratch, observer);
        let total = scratch.choice.total();
        // What has left is told first, but never takes all.
        let room_for_leaves = if total + told == 0 { left } else { left / 2 };
        let leaves = observer.leaves_due(self.tick);
        let leaves = leaves.min(room_for_leaves / LEFT_BYTES);
        let room = left - told - leaves * LEFT_BYTES;
        let waiting = if total > room {
            not_due + self.tell_some(scratch, me, observer, room)
        } else if not_due > 0 {
            relax(&mut observer.threshold, total, room);
            self.tell_all(scratch, me, observer);
            not_due - self.fill(scratch, me, observer, room - total)
        } else {
            observer.threshold = None;
            self.tell_all(scratch, me, observer);
            0
        };
        // Those that were near may be far, and the other way round.
        if has_looked || not_due == 0 {
            self.plan(me, observer);
        }
        let page = &mut scratch.datagram;
        page.write(|pen| observer.tell_leaves(leaves, self.tick, pen));
        if page.filled().len() == header && !observer.has_reset(self.tick) {
            page.clear();
        } else {
            observer.on_header(self.tick);
        }
        waiting
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

    /// Tells all that there is to tell of the known; returns its bytes.
    fn tell_known(&self, page: &mut Page, me: &Me, observer: &mut Observer) -> usize {
        let before = page.filled().len();
        page.write(|pen| {
            // When all fits, this one loop is where a tick spends its time.
            for known in &mut observer.known {
                let other = self.grid.glimpse(known.slot);
                if known.told < other.changed {
                    other.stencil.write(offset(other, me), pen);
                    known.told = self.tick;
                }
            }
        });
        page.filled().len() - before
    }

    /// Keeps those of the known that are due of which there is something to tell, and adds those that enter.
    fn weigh(&self, scratch: &mut Scratch, observer: &Observer) {
        scratch.choice.weigh(|number| {
            let known = &observer.known[number as usize];
            let other = self.grid.glimpse(known.slot);
            (known.told < other.changed).then(|| other.stencil.bytes().into())
        });
        let first = observer.known.len() as u32;
        for (number, entering) in (first..).zip(&observer.entering) {
            let other = self.grid.glimpse(entering.slot);
            if entering.has_news(other.changed, self.tick) {
                // The class is told as well.
                let bytes = u32::from(other.stencil.bytes()) + 1;
                scratch.choice.push(number, bytes);
            }
        }
    }

    fn tell_all(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer) {
        self.tell_these(
            scratch.choice.numbers(),
            me,
            observer,
            &mut scratch.datagram,
        );
    }

    /// Tells the most urgent of those that are due or enter; returns how many of them had to wait.
    fn tell_some(
        &self,
        scratch: &mut Scratch,
        me: &Me,
        observer: &mut Observer,
        room: usize,
    ) -> usize {
        let choice = &mut scratch.choice;
        choice.score(|number| {
            let (slot, told) = observer.slot_and_told(number);
            let other = self.grid.glimpse(slot);
            let square = square(other.position, me.position) as f32;
            let age = self.tick.saturating_sub(told).max(1);
            score(self.grid.urgency(other.stencil.class(), square, age))
        });
        let count = choice.numbers().len();
        let chosen = choice.choose(room, &mut observer.threshold);
        let waiting = count - chosen.len();
        observer.threshold = observer.threshold.map(raise);
        self.tell_these(chosen, me, observer, &mut scratch.datagram);
        waiting
    }

    /// Tells some that are not due, the next ones first, while there is room; returns how many.
    fn fill(
        &self,
        scratch: &mut Scratch,
        me: &Me,
        observer: &mut Observer,
        mut room: usize,
    ) -> usize {
        let mut count = 0;
        let threshold = observer.threshold.map_or(0.0, urgency);
        scratch.datagram.write(|pen| {
            for due in [self.tick.saturating_add(1), u32::MAX] {
                for known in &mut observer.known {
                    if known.due > due || known.told >= self.tick {
                        continue;
                    }
                    let other = self.grid.glimpse(known.slot);
                    if known.told >= other.changed {
                        continue;
                    }
                    let Some(rest) = room.checked_sub(other.stencil.bytes().into()) else {
                        return;
                    };
                    room = rest;
                    count += 1;
                    self.tell_of(known, me, threshold, pen);
                }
            }
        });
        count
    }

    /// Tells of some, by number.
    fn tell_these(&self, numbers: &[u32], me: &Me, observer: &mut Observer, page: &mut Page) {
        let threshold = observer.threshold.map_or(0.0, urgency);
        let knowns = observer.known.len();
        page.write(|pen| {
            for number in numbers {
                let at = *number as usize;
                if let Some(known) = observer.known.get_mut(at) {
                    self.tell_of(known, me, threshold, pen);
                    continue;
                }
                let entering = &mut observer.entering[at - knowns];
                let other = self.grid.glimpse(entering.slot);
                other.stencil.write_entered(offset(other, me), pen);
                let due = self.due(other, me, self.tick, threshold);
                entering.on_told(self.tick, due);
            }
        });
    }

    /// Tells of one of the known, which is to be told of again when it is that urgent.
    #[inline]
    fn tell_of(&self, known: &mut Known, me: &Me, threshold: f32, pen: &mut Pen<'_>) {
        let other = self.grid.glimpse(known.slot);
        other.stencil.write(offset(other, me), pen);
        known.told = self.tick;
        known.due = self.due(other, me, self.tick, threshold);
    }

    /// When an entity that was told of then is as urgent as that.
    #[inline]
    fn due(&self, other: &Glimpse, me: &Me, told: u32, urgency: f32) -> u32 {
        let square = square(other.position, me.position) as f32;
        let class = other.stencil.class();
        told.saturating_add(self.grid.wait(class, square, urgency))
    }

    /// Says anew when each of the known is due.
    fn plan(&self, me: &Me, observer: &mut Observer) {
        let Some(threshold) = observer.threshold else {
            return;
        };
        for known in &mut observer.known {
            let other = self.grid.glimpse(known.slot);
            known.due = self.due(other, me, known.told, urgency(threshold));
        }
    }
}

/// Whether all that there is to tell of the known fits, whatever it is, into the half of a datagram that what has
/// left does not take.
fn fits_for_sure(observer: &Observer) -> bool {
    observer.known.len() * RECORD_BYTES_MAX <= (observer.watch.budget - HEADER_BYTES_MAX) / 2
}

/// Takes note of the known that are due, which are all when all fitted; returns how many are not.
fn note_due(choice: &mut Choice, observer: &Observer, tick: u32) -> usize {
    let now = observer.threshold.map_or(u32::MAX, |_| tick);
    let due = choice.begin(observer.known.len());
    let mut count = 0;
    // Without a branch for each: written always, kept when it counts.
    for (at, known) in observer.known.iter().enumerate() {
        due[count] = at as u32;
        count += usize::from(known.due <= now);
    }
    choice.keep(count);
    observer.known.len() - count
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
        *threshold = score(urgency(*threshold) * share.clamp(0.95, 1.0));
    }
}

/// Raises a threshold when not all fitted that were due.
fn raise(threshold: i32) -> i32 {
    score(urgency(threshold) * RAISE)
}

const RAISE: f32 = 1.15;

/// A datagram that is as full with those that are due is full enough.
const FULL: f32 = 0.8;
