//! One observer's tick.

use super::choose::Choice;
use super::grid::square;
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
    /// What there is to tell.
    news: Vec<News>,
    choice: Choice,
}

/// What there is to tell of an entity.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    /// From the observer.
    offset: [f32; 3],
    slot: u32,
    /// Of the record; 0 when there is nothing to tell.
    bytes: u16,
    class: u8,
    /// It is not to be known any more.
    is_gone: bool,
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
        scratch.news.clear();
        let leave_max = observer.watch.range * (1.0 + self.settings.hysteresis);
        let me = Me {
            slot,
            number,
            subject: *self.grid.subject(slot),
            position: self.grid.glimpse(slot).position,
            enter_max: observer.watch.range * observer.watch.range,
            leave_max: leave_max * leave_max,
        };
        self.pass_known(scratch, sight, &me, observer);
        self.pass_entering(scratch, sight, &me, observer);
        self.add_new(scratch, sight, &me, observer);
        if observer.settle() {
            scratch.news.clear();
            let anew = observer.entering.iter();
            let anew = anew.map(|entering| self.news_of_entering(&me, entering));
            scratch.news.extend(anew);
        }
        self.stats.deferred += self.write(scratch, &me, observer) as u64;
        observer.on_sent();
    }

    /// Lets those go of the known that are out of range, gone, or not to be seen any more; takes note of
    /// what there is to tell of the others.
    fn pass_known<S: Sight + ?Sized>(
        &self,
        scratch: &mut Scratch,
        sight: &S,
        me: &Me,
        observer: &mut Observer,
    ) {
        let news = &mut scratch.news;
        news.resize(observer.known.len(), News::default());
        let mut gone = 0;
        // Nearly all stay, so that this one loop is where a tick spends its time.
        for (known, news) in observer.known.iter().zip(news.iter_mut()) {
            *news = self.news_of(me, known.slot, known.told);
            let stays = self.stays(sight, me, known.slot);
            news.is_gone = !stays;
            gone += u32::from(!stays);
        }
        for at in (0..news.len()).rev() {
            if gone == 0 {
                break;
            }
            if news[at].is_gone {
                gone -= 1;
                let gone = news.swap_remove(at);
                observer.on_known_gone(at, self.grid.subject(gone.slot).id);
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
            if self.stays(sight, me, slot) {
                scratch.news.push(self.news_of_entering(me, entering));
                at += 1;
            } else {
                observer.on_entering_gone(at, self.grid.subject(slot).id);
            }
        }
    }

    /// Whether what an observer knows is still to be known.
    #[inline]
    fn stays<S: Sight + ?Sized>(&self, sight: &S, me: &Me, slot: u32) -> bool {
        let other = self.grid.glimpse(slot);
        let square = square(other.position, me.position);
        // One branch for both.
        (square <= self.grid.leave_square(other.class)) & (square <= me.leave_max)
            && sight.may_see(&me.subject, self.grid.subject(slot))
    }

    /// What there is to tell of one that was told of last then.
    #[inline]
    fn news_of(&self, me: &Me, slot: u32, told: u32) -> News {
        let other = self.grid.glimpse(slot);
        let offset = |at: usize| (other.position[at] - me.position[at]) as f32;
        News {
            offset: [offset(0), offset(1), offset(2)],
            slot,
            bytes: if told < other.changed {
                other.bytes.into()
            } else {
                0
            },
            class: other.class,
            is_gone: false,
        }
    }

    fn news_of_entering(&self, me: &Me, entering: &Entering) -> News {
        let news = self.news_of(me, entering.slot, 0);
        let changed = self.grid.glimpse(entering.slot).changed;
        let has_news = entering.has_news(changed, self.tick);
        News {
            // The class is told as well.
            bytes: if has_news { news.bytes + 1 } else { 0 },
            ..news
        }
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
            scratch.news.push(self.news_of_entering(me, &entering));
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
        let bytes = scratch.news.iter().map(|news| usize::from(news.bytes));
        let total: usize = bytes.sum();
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
            self.write_all(scratch, observer);
            return 0;
        }
        self.write_some(scratch, observer, left)
    }

    /// Writes all that there is to tell.
    fn write_all(&self, scratch: &mut Scratch, observer: &mut Observer) {
        let (of_known, of_entering) = scratch.news.split_at(observer.known.len());
        for (known, news) in observer.known.iter_mut().zip(of_known) {
            if news.bytes > 0 {
                let stencil = self.grid.stencil(news.slot);
                stencil.write(news.offset, &mut scratch.datagram);
                known.told = self.tick;
            }
        }
        for (entering, news) in observer.entering.iter_mut().zip(of_entering) {
            if news.bytes > 0 {
                let stencil = self.grid.stencil(news.slot);
                stencil.write_entered(news.offset, &mut scratch.datagram);
                entering.on_told(self.tick);
            }
        }
    }

    /// Writes the most urgent of what there is to tell; returns how much had to wait.
    fn write_some(&self, scratch: &mut Scratch, observer: &mut Observer, left: usize) -> usize {
        let news = &scratch.news;
        let knowns = observer.known.len();
        let urgency = |(news, told): (&News, u32)| {
            let age = self.tick.saturating_sub(told).max(1);
            let [x, y, z] = news.offset;
            let score = self.grid.urgency(news.class, x * x + y * y + z * z, age);
            (score, news.bytes)
        };
        let choice = &mut scratch.choice;
        choice.clear();
        let told = observer.known.iter().map(|known| known.told);
        choice.extend(news.iter().zip(told).map(urgency));
        let told = observer.entering.iter().map(|entering| entering.told);
        choice.extend(news[knowns..].iter().zip(told).map(urgency));
        let chosen = choice.choose(left);
        for at in chosen {
            let at = *at as usize;
            let news = &news[at];
            let stencil = self.grid.stencil(news.slot);
            if let Some(known) = observer.known.get_mut(at) {
                stencil.write(news.offset, &mut scratch.datagram);
                known.told = self.tick;
            } else {
                stencil.write_entered(news.offset, &mut scratch.datagram);
                observer.entering[at - knowns].on_told(self.tick);
            }
        }
        let waiting = news.iter().filter(|news| news.bytes > 0).count();
        waiting - chosen.len()
    }
}
