//! One observer's tick.

use super::choose::{Choice, score};
use super::grid::{Glimpse, square};
use super::observer::{Entering, Observer};
use super::{Field, KNOWN_MAX, Sight, Subject};
use crate::datagram::{Header, LEFT_BYTES, Page, write_left};

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
    choice: Choice,
}

/// An observer, as it is in one tick.
struct Me {
    slot: u32,
    /// In the order of the grid.
    number: usize,
    subject: Subject,
    position: [f64; 3],
    /// The squares of how far it wants to see, and of where what it sees leaves.
    enter_max: f64,
    leave_max: f64,
}

impl Field {
    /// Makes one observer's datagram; empty when there is nothing to tell.
    pub(super) fn pass<S: Sight + ?Sized>(
        &mut self,
        scratch: &mut Scratch,
        sight: &S,
        slot: u32,
        number: usize,
        observer: &mut Observer,
    ) {
        scratch.datagram.clear();
        let leave_max = observer.watch.range * (1.0 + self.settings.hysteresis);
        let me = Me {
            slot,
            number,
            subject: *self.grid.subject(slot),
            position: self.grid.glimpse(slot).position,
            enter_max: observer.watch.range * observer.watch.range,
            leave_max: leave_max * leave_max,
        };
        if observer.threshold.is_some() {
            self.pass_known::<S, true>(scratch, sight, &me, observer);
        } else {
            self.pass_known::<S, false>(scratch, sight, &me, observer);
        }
        self.pass_entering(scratch, sight, &me, observer);
        self.add_new(scratch, sight, &me, observer);
        if observer.settle() {
            observer.threshold = None;
            scratch.choice.begin(0);
            for entering in &observer.entering {
                scratch.choice.push(self.bytes_of_entering(entering));
            }
        }
        self.stats.deferred += self.write(scratch, &me, observer) as u64;
        observer.on_sent();
    }

    /// Lets those go of the known that are out of range, gone, or not to be seen any more; takes note of
    /// what there is to tell of the others, and of how urgent that is if it is likely to be asked.
    fn pass_known<S: Sight + ?Sized, const IS_SCORED: bool>(
        &self,
        scratch: &mut Scratch,
        sight: &S,
        me: &Me,
        observer: &mut Observer,
    ) {
        let (scores, sizes) = scratch.choice.begin(observer.known.len());
        let mut gone = 0;
        // Nearly all stay, so that this one loop is where a tick spends its time.
        for ((known, score), size) in observer.known.iter().zip(scores).zip(sizes) {
            let other = self.grid.glimpse(known.slot);
            let square = square(other.position, me.position);
            let has_news = known.told < other.changed;
            *size = if has_news { other.bytes.into() } else { 0 };
            *score = 0;
            if IS_SCORED && has_news {
                *score = self.score(other.class, square, known.told);
            }
            if !self.stays(sight, me, known.slot, other, square) {
                *size = GONE;
                gone += 1;
            }
        }
        for at in (0..observer.known.len()).rev() {
            if gone == 0 {
                break;
            }
            if scratch.choice.bytes()[at] == GONE {
                gone -= 1;
                scratch.choice.swap_remove(at);
                let slot = observer.known[at].slot;
                observer.on_known_gone(at, self.grid.subject(slot).id);
            }
        }
    }

    /// The same of those that enter; what there is to tell of them comes after that.
    fn pass_entering<S: Sight + ?Sized>(
        &self,
        scratch: &mut Scratch,
        sight: &S,
        me: &Me,
        observer: &mut Observer,
    ) {
        let mut at = 0;
        while let Some(entering) = observer.entering.get(at) {
            let slot = entering.slot;
            let other = self.grid.glimpse(slot);
            let square = square(other.position, me.position);
            if self.stays(sight, me, slot, other, square) {
                scratch.choice.push(self.bytes_of_entering(entering));
                at += 1;
            } else {
                observer.on_entering_gone(at, self.grid.subject(slot).id);
            }
        }
    }

    /// Whether what an observer knows is still to be known.
    #[inline]
    fn stays<S: Sight + ?Sized>(
        &self,
        sight: &S,
        me: &Me,
        slot: u32,
        other: &Glimpse,
        square: f64,
    ) -> bool {
        // One branch for both.
        (square <= self.grid.leave_square(other.class)) & (square <= me.leave_max)
            && sight.may_see(&me.subject, self.grid.subject(slot))
    }

    /// How urgent it is to tell of one of that class, at the square of that distance, that was told of last then.
    #[inline]
    fn score(&self, class: u8, square: f64, told: u32) -> i32 {
        let age = self.tick.saturating_sub(told).max(1);
        score(self.grid.urgency(class, square as f32, age))
    }

    /// Bytes of what there is to tell of one that enters; 0 when there is nothing.
    fn bytes_of_entering(&self, entering: &Entering) -> u32 {
        let other = self.grid.glimpse(entering.slot);
        if entering.has_news(other.changed, self.tick) {
            // The class is told as well.
            u32::from(other.bytes) + 1
        } else {
            0
        }
    }

    /// From an observer to an entity.
    #[inline]
    fn offset(&self, me: &Me, slot: u32) -> [f32; 3] {
        let other = self.grid.glimpse(slot);
        let offset = |at: usize| (other.position[at] - me.position[at]) as f32;
        [offset(0), offset(1), offset(2)]
    }

    /// Takes those in that have come into range.
    fn add_new<S: Sight + ?Sized>(
        &self,
        scratch: &mut Scratch,
        sight: &S,
        me: &Me,
        observer: &mut Observer,
    ) {
        if self.look(scratch, me, observer) {
            self.distinguish(scratch, me, observer);
        }
        let mut at = 0;
        while let Some(slot) = observer.nearby.get(at) {
            let slot = *slot;
            let other = self.grid.glimpse(slot);
            let square = square(other.position, me.position);
            let is_new = square <= self.grid.enter_square(other.class)
                && square <= me.enter_max
                && observer.known_count() < KNOWN_MAX
                && sight.may_see(&me.subject, self.grid.subject(slot));
            if !is_new {
                at += 1;
                continue;
            }
            observer.nearby.swap_remove(at);
            // It is told that it is there again, if it is not told before that it has left.
            observer.leaves.remove(&self.grid.subject(slot).id);
            let entering = Entering::new(slot, self.tick.saturating_sub(1));
            scratch.choice.push(self.bytes_of_entering(&entering));
            observer.entering.push(entering);
        }
        if observer.nearby.len() > KNOWN_MAX {
            // It looks around every time.
            observer.nearby = Vec::new();
            observer.looked = f64::NEG_INFINITY;
        }
    }

    /// Takes note of all that may have come into range; says whether there may be some among them that the
    /// observer knows.
    fn look(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer) -> bool {
        let jumpers = self.moves.jumpers();
        if self.moves.is_stale(me.slot, observer.looked) {
            self.grid.around(me.number, &mut scratch.noted);
            std::mem::swap(&mut scratch.noted, &mut observer.nearby);
            observer.looked = self.moves.drift();
            return true;
        }
        observer.nearby.extend_from_slice(jumpers);
        !jumpers.is_empty()
    }

    /// Keeps each of those nearby once, and none that is known.
    fn distinguish(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer) {
        scratch.stamp += 1;
        let (stamps, stamp) = (&mut scratch.stamps, scratch.stamp);
        if stamps.len() < self.entities.len() {
            stamps.resize(self.entities.len(), 0);
        }
        stamps[me.slot as usize] = stamp;
        for slot in observer.slots() {
            stamps[slot as usize] = stamp;
        }
        observer.nearby.retain(|slot| {
            let before = std::mem::replace(&mut stamps[*slot as usize], stamp);
            before != stamp
        });
    }

    /// Writes the datagram; returns how much had to wait.
    fn write(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer) -> usize {
        let is_due = |told: u32| told == 0 || Observer::is_due(told, self.tick);
        let has_leaves = observer.leaves.values().any(|told| is_due(*told));
        let total = scratch.choice.total();
        if total == 0 && !has_leaves && !observer.has_reset(self.tick) {
            return 0;
        }
        let header = Header {
            tick: self.tick,
            reset: observer.on_header(self.tick),
            dimensions: self.settings.dimensions.count(),
            center: me.position,
        };
        header.write(&mut scratch.datagram);
        let mut left = observer.watch.budget - header.bytes();
        if has_leaves {
            // What has left comes first, but never takes all.
            let mut room = if total == 0 { left } else { left / 2 } / LEFT_BYTES;
            let is_reliable = observer.watch.is_reliable;
            let (tick, datagram) = (self.tick, &mut scratch.datagram);
            observer.leaves.retain(|id, told| {
                if room == 0 || !is_due(*told) {
                    return true;
                }
                room -= 1;
                left -= LEFT_BYTES;
                write_left(*id, datagram);
                *told = tick;
                !is_reliable
            });
        }
        if total <= left {
            observer.threshold = None;
            self.write_all(scratch, me, observer);
            return 0;
        }
        self.write_some(scratch, me, observer, left)
    }

    /// Writes all that there is to tell.
    fn write_all(&self, scratch: &mut Scratch, me: &Me, observer: &mut Observer) {
        let (of_known, of_entering) = scratch.choice.bytes().split_at(observer.known.len());
        for (known, bytes) in observer.known.iter_mut().zip(of_known) {
            if *bytes > 0 {
                let offset = self.offset(me, known.slot);
                let stencil = self.grid.stencil(known.slot);
                stencil.write(offset, &mut scratch.datagram);
                known.told = self.tick;
            }
        }
        for (entering, bytes) in observer.entering.iter_mut().zip(of_entering) {
            if *bytes > 0 {
                let offset = self.offset(me, entering.slot);
                let stencil = self.grid.stencil(entering.slot);
                stencil.write_entered(offset, &mut scratch.datagram);
                entering.on_told(self.tick);
            }
        }
    }

    /// Writes the most urgent of what there is to tell; returns how much had to wait.
    fn write_some(
        &self,
        scratch: &mut Scratch,
        me: &Me,
        observer: &mut Observer,
        left: usize,
    ) -> usize {
        let knowns = observer.known.len();
        self.score_rest(scratch, me, observer);
        let choice = &mut scratch.choice;
        let waiting = choice.bytes().iter().filter(|bytes| **bytes > 0).count();
        let chosen = choice.choose(left, &mut observer.threshold);
        for at in chosen {
            let at = *at as usize;
            if let Some(known) = observer.known.get_mut(at) {
                let offset = self.offset(me, known.slot);
                let stencil = self.grid.stencil(known.slot);
                stencil.write(offset, &mut scratch.datagram);
                known.told = self.tick;
            } else {
                let entering = &mut observer.entering[at - knowns];
                let offset = self.offset(me, entering.slot);
                let stencil = self.grid.stencil(entering.slot);
                stencil.write_entered(offset, &mut scratch.datagram);
                entering.on_told(self.tick);
            }
        }
        waiting - chosen.len()
    }

    /// Scores those that are not scored yet: those that enter, and the known when all fitted before.
    fn score_rest(&self, scratch: &mut Scratch, me: &Me, observer: &Observer) {
        let knowns = observer.known.len();
        let score = |slot: u32, told: u32, bytes: u32| {
            let other = self.grid.glimpse(slot);
            if bytes > 0 {
                self.score(other.class, square(other.position, me.position), told)
            } else {
                0
            }
        };
        if observer.threshold.is_none() {
            let (scores, bytes) = scratch.choice.scores_from(0);
            let both = scores.iter_mut().zip(bytes);
            for (known, (it, bytes)) in observer.known.iter().zip(both) {
                *it = score(known.slot, known.told, *bytes);
            }
        }
        let (scores, bytes) = scratch.choice.scores_from(knowns);
        let both = scores.iter_mut().zip(bytes);
        for (entering, (it, bytes)) in observer.entering.iter().zip(both) {
            *it = score(entering.slot, entering.told, *bytes);
        }
    }
}

/// Bytes of what is not to be known any more.
const GONE: u32 = u32::MAX;
