//! One observer's tick.

use std::cmp::Reverse;

use super::grid::{Glimpse, square};
use super::observer::{Known, Observer, Told};
use super::{Entity, Field, KNOWN_MAX, Sight};
use crate::datagram::{Header, LEFT_BYTES, there_bytes, write_left};

/// What is needed for a moment, kept for the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) datagram: Vec<u8>,
    /// Indexed by slot: the number of the observer that knows it, so that no set is needed.
    stamps: Vec<u64>,
    stamp: u64,
    /// Those that may have come into range.
    noted: Vec<u32>,
    /// What there is to tell.
    news: Vec<News>,
}

/// An entity of which there is something to tell.
#[derive(Clone, Copy, Debug)]
struct News {
    /// The more, the sooner: the bits of a positive float, which order as it does.
    score: u32,
    /// Among the known.
    at: u32,
    bytes: u32,
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
        scratch.stamp += 1;
        if scratch.stamps.len() < self.entities.len() {
            scratch.stamps.resize(self.entities.len(), 0);
        }
        let Some(me) = &self.entities[slot as usize] else {
            return;
        };
        let mut total = self.drop_gone(scratch, sight, me, observer);
        total += self.add_new(scratch, sight, me, (slot, number), observer);
        if observer.settle() {
            total = self.weigh_all(scratch, me, observer);
        }
        self.stats.deferred += self.write(scratch, me, observer, total) as u64;
        if self.settings.introduced_within.is_some() {
            self.introduce(sight, slot, observer);
        }
    }

    /// Lets those go that are out of range, gone, or not to be seen any more; weighs what there is to
    /// tell of the others. Returns the bytes of all of that.
    fn drop_gone<S: Sight + ?Sized>(
        &self,
        scratch: &mut Scratch,
        sight: &S,
        me: &Entity,
        observer: &mut Observer,
    ) -> usize {
        let subject = me.subject();
        let leave_max = observer.watch.range * (1.0 + self.settings.hysteresis);
        let leave_max = leave_max * leave_max;
        let mut total = 0;
        let mut at = 0;
        while let Some(known) = observer.known.get(at) {
            let other = self.grid.glimpse(known.slot);
            let square = square(other.position, me.position);
            let leave = self.grid.leave_square(other.class).min(leave_max);
            let is_there = other.id == known.id
                && square <= leave
                && sight.may_see(&subject, &other.subject());
            if is_there {
                scratch.stamps[known.slot as usize] = scratch.stamp;
                total += self.weigh(&mut scratch.news, at, known, other, square);
                at += 1;
            } else {
                observer.on_gone(at);
            }
        }
        total
    }

    /// Takes those in that have come into range; returns the bytes of what there is to tell of them.
    fn add_new<S: Sight + ?Sized>(
        &self,
        scratch: &mut Scratch,
        sight: &S,
        me: &Entity,
        (slot, number): (u32, usize),
        observer: &mut Observer,
    ) -> usize {
        scratch.stamps[slot as usize] = scratch.stamp;
        scratch.noted.clear();
        if self.moves.is_stale(slot, observer.looked) {
            self.grid.around(number, &mut scratch.noted);
            observer.looked = self.moves.drift();
        } else {
            scratch.noted.extend_from_slice(&observer.nearby);
            scratch.noted.extend_from_slice(self.moves.jumpers());
        }
        observer.nearby.clear();
        let subject = me.subject();
        let range_max = observer.watch.range * observer.watch.range;
        let mut total = 0;
        for slot in &scratch.noted {
            let stamp = &mut scratch.stamps[*slot as usize];
            if *stamp == scratch.stamp {
                continue;
            }
            *stamp = scratch.stamp;
            let other = self.grid.glimpse(*slot);
            let square = square(other.position, me.position);
            let is_new = square <= self.grid.enter_square(other.class).min(range_max)
                && observer.known.len() < KNOWN_MAX
                && sight.may_see(&subject, &other.subject());
            if !is_new {
                observer.nearby.push(*slot);
                continue;
            }
            // It is told that it is there again, if it is not told before that it has left.
            let known = Known::new(*slot, other.id, self.tick);
            observer.leaves.remove(&other.id);
            let at = observer.known.len();
            total += self.weigh(&mut scratch.news, at, &known, other, square);
            observer.known.push(known);
        }
        if observer.nearby.len() > KNOWN_MAX {
            // It looks around every time.
            observer.nearby = Vec::new();
            observer.looked = f64::NEG_INFINITY;
        }
        total
    }

    /// How urgent it is to tell of one of the known, if there is anything to tell; returns its bytes.
    fn weigh(
        &self,
        news: &mut Vec<News>,
        at: usize,
        known: &Known,
        other: &Glimpse,
        square: f64,
    ) -> usize {
        let is_again = known.state == Told::Entered && Observer::is_due(known.told, self.tick);
        if known.sequence == other.sequence && known.state != Told::Nothing && !is_again {
            return 0;
        }
        let age = self.tick.saturating_sub(known.told).max(1);
        let is_new = known.state != Told::Confirmed;
        let dimensions = self.settings.dimensions.count();
        let bytes = there_bytes(dimensions, is_new, other.payload_bytes.into());
        news.push(News {
            score: self.grid.urgency(other.class, square, age).to_bits(),
            // Bounded by what an observer knows, and by a payload.
            at: at as u32,
            bytes: bytes as u32,
        });
        bytes
    }

    /// Weighs all of the known anew.
    fn weigh_all(&self, scratch: &mut Scratch, me: &Entity, observer: &Observer) -> usize {
        scratch.news.clear();
        let known = observer.known.iter().enumerate();
        let bytes = known.map(|(at, known)| {
            let other = self.grid.glimpse(known.slot);
            let square = square(other.position, me.position);
            self.weigh(&mut scratch.news, at, known, other, square)
        });
        bytes.sum()
    }

    /// Writes the datagram; returns how much had to wait.
    fn write(
        &self,
        scratch: &mut Scratch,
        me: &Entity,
        observer: &mut Observer,
        total: usize,
    ) -> usize {
        let dimensions = self.settings.dimensions.count();
        let is_due = |told: u32| told == 0 || Observer::is_due(told, self.tick);
        let has_leaves = observer.leaves.values().any(|told| is_due(*told));
        if scratch.news.is_empty() && !has_leaves && !observer.has_reset(self.tick) {
            return 0;
        }
        let header = Header {
            tick: self.tick,
            reset: observer.on_header(self.tick),
            dimensions,
            center: me.position,
        };
        header.write(&mut scratch.datagram);
        let mut left = observer.watch.budget - header.bytes();
        if has_leaves {
            // What has left comes first, but never takes all.
            let mut room = if scratch.news.is_empty() {
                left
            } else {
                left / 2
            } / LEFT_BYTES;
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
        let count = scratch.news.len();
        if total > left && count > 1 {
            // About as many as there is room for, those with the highest scores; the first of all first,
            // so that it is told whatever its size.
            let most = (left * count / total).clamp(1, count - 1);
            scratch
                .news
                .select_nth_unstable_by_key(most - 1, |news| Reverse(news.score));
            scratch.news.swap(0, most - 1);
            let first = (0..most)
                .max_by_key(|at| scratch.news[*at].score)
                .unwrap_or(0);
            scratch.news.swap(0, first);
        }
        let mut told = 0;
        for news in &scratch.news {
            let bytes = news.bytes as usize;
            if bytes > left {
                continue;
            }
            left -= bytes;
            told += 1;
            self.write_one(&mut scratch.datagram, me, observer, news.at as usize);
            if left < LEFT_BYTES {
                break;
            }
        }
        count - told
    }

    fn write_one(&self, datagram: &mut Vec<u8>, me: &Entity, observer: &mut Observer, at: usize) {
        let known = &mut observer.known[at];
        let other = self.grid.glimpse(known.slot);
        let is_new = known.state != Told::Confirmed;
        let mut offset = [0.0; 3];
        for (at, offset) in offset.iter_mut().enumerate() {
            *offset = (other.position[at] - me.position[at]) as f32;
        }
        let dimensions = self.settings.dimensions.count();
        let stencil = self.grid.stencil(known.slot);
        stencil.write(offset, dimensions, is_new, datagram);
        known.sequence = other.sequence;
        known.told = self.tick;
        if is_new {
            observer.on_entered(at, self.tick);
        }
    }

    /// Finds those who are near enough to be linked; each pair from the side of the lesser one.
    fn introduce<S: Sight + ?Sized>(&mut self, sight: &S, slot: u32, observer: &Observer) {
        let (Some(within), Some(me)) = (
            self.settings.introduced_within,
            &self.entities[slot as usize],
        ) else {
            return;
        };
        for known in &observer.known {
            let Some(other) = &self.entities[known.slot as usize] else {
                continue;
            };
            if other.id <= me.id || other.observer.is_none() {
                continue;
            }
            let is_near = self.introductions.are_near(me.id, other.id);
            let within = if is_near {
                within * (1.0 + self.settings.hysteresis)
            } else {
                within
            };
            if square(other.position, me.position) <= within * within
                && sight.may_see(&other.subject(), &me.subject())
            {
                let is_taken = self.introductions.find(me.id, other.id);
                self.stats.unpaired += u64::from(!is_taken);
            }
        }
    }
}
