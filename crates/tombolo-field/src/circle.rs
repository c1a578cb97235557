//! With whom an observer is to be linked: the nearest of those who are near.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::field::EntityId;
use crate::mirror::{Mirror, Seen};

/// With whom an observer is to be linked.
///
/// A circle goes by what the observer has been told, so that nobody is in it whom the observer may not
/// see. After datagrams and moves, and now and then, have it [`look`](Self::look); then begin and end the
/// links that it names, and tell it what became of them by [`note_linked`](Self::note_linked) and
/// [`note_failed`](Self::note_failed).
#[derive(Debug)]
pub struct Circle {
    reach: Reach,
    members_max: usize,
    members: BTreeMap<EntityId, Member>,
    /// Those with whom a link has failed, while they are in sight.
    failures: BTreeMap<EntityId, Failures>,
}

/// How near somebody must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Reach {
    /// Within the same distance, whatever its class is.
    Same(f64),
    /// Within the distance of its class, by number; those of other classes never.
    ByClass(Vec<f64>),
}

/// A change of a circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircleChange {
    /// A link is to begin.
    Near(EntityId),
    /// A link is to end.
    Far(EntityId),
}

/// Somebody in the circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// The link is to begin then, unless the other one has begun it.
    Awaited(Duration),
    Linked,
    /// It has begun the link before it was seen here; until then it may come into sight.
    Guest(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// Nothing is tried before then.
    until: Duration,
}

impl Circle {
    /// Nobody is in it.
    #[must_use]
    pub fn new(reach: Reach, members_max: usize) -> Self {
        Self {
            reach,
            members_max,
            members: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Looks at who is where, from the place of an observer; says which links are to begin and to end. `now`
    /// must not go backwards.
    pub fn look(
        &mut self,
        now: Duration,
        me: EntityId,
        position: [f64; 3],
        mirror: &Mirror,
    ) -> Vec<CircleChange> {
        let reach = &self.reach;
        let parted = self.members.extract_if(.., |id, member| {
            let share = share_of(reach, position, mirror, *id);
            let is_far = share.is_none_or(|share| share > 1.0 + HYSTERESIS);
            match member {
                Member::Guest(until) if is_far => *until <= now,
                Member::Guest(_) => {
                    *member = Member::Linked;
                    false
                }
                Member::Awaited(_) | Member::Linked => is_far,
            }
        });
        let parted = parted.filter(|(_, member)| !matches!(member, Member::Awaited(_)));
        let mut changes: Vec<_> = parted.map(|(id, _)| CircleChange::Far(id)).collect();
        self.failures.retain(|id, _| mirror.find(*id).is_some());
        self.add(now, me, position, mirror);
        for (id, member) in &mut self.members {
            if matches!(member, Member::Awaited(due) if *due <= now) {
                *member = Member::Linked;
                changes.push(CircleChange::Near(*id));
            }
        }
        changes
    }

    /// Somebody else has begun a link. False when it does not belong to the circle: the other one is far, or
    /// too many have begun links.
    pub fn note_linked(
        &mut self,
        now: Duration,
        id: EntityId,
        position: [f64; 3],
        mirror: &Mirror,
    ) -> bool {
        let member = match share_of(&self.reach, position, mirror, id) {
            Some(share) if share > 1.0 + HYSTERESIS => return false,
            Some(_) => Member::Linked,
            None => Member::Guest(now + GUEST_WAITS),
        };
        // As many again as this one begins by itself.
        let is_full = self.members.len() >= self.members_max.saturating_mul(2);
        if is_full && !self.members.contains_key(&id) {
            return false;
        }
        self.members.insert(id, member);
        true
    }

    /// A link could not be made, or is over, though nobody has gone: it is tried again later, and later each
    /// time. Others may come in meanwhile.
    pub fn note_failed(&mut self, now: Duration, id: EntityId) {
        if self.members.remove(&id).is_none() {
            return;
        }
        let failures = self.failures.entry(id).or_insert(Failures {
            count: 0,
            until: now,
        });
        let pause = RETRY_FIRST.saturating_mul(1 << failures.count.min(RETRIES_GROW));
        failures.count += 1;
        failures.until = now + pause;
    }

    /// Takes the nearest in, while there is room.
    fn add(&mut self, now: Duration, me: EntityId, position: [f64; 3], mirror: &Mirror) {
        let room = self.members_max.saturating_sub(self.members.len());
        if room == 0 {
            return;
        }
        let is_free = |id: &EntityId| {
            let failures = self.failures.get(id);
            !self.members.contains_key(id) && failures.is_none_or(|failed| failed.until <= now)
        };
        let mut near: Vec<_> = mirror
            .seen()
            .map(|(id, seen)| (self.reach.share(position, seen), id))
            .filter(|(share, id)| *share <= 1.0 && is_free(id))
            .collect();
        near.sort_unstable_by(|(a, a_id), (b, b_id)| a.total_cmp(b).then(a_id.cmp(b_id)));
        for (_, id) in near.into_iter().take(room) {
            // One of the two begins; the other one waits, in case it is not in that one's circle.
            let pause = if me < id {
                Duration::ZERO
            } else {
                GREATER_WAITS
            };
            self.members.insert(id, Member::Awaited(now + pause));
        }
    }
}

/// How far somebody is, as a share of how far it may be; `None` when it is not in sight.
fn share_of(reach: &Reach, position: [f64; 3], mirror: &Mirror, id: EntityId) -> Option<f64> {
    Some(reach.share(position, mirror.find(id)?))
}

impl Reach {
    /// How far somebody is, as a share of how far it may be.
    fn share(&self, position: [f64; 3], seen: &Seen) -> f64 {
        let within = match self {
            Self::Same(within) => *within,
            Self::ByClass(by_class) => by_class
                .get(usize::from(seen.class))
                .copied()
                .unwrap_or(0.0),
        };
        let both = position.iter().zip(seen.position);
        let square: f64 = both.map(|(mine, other)| (mine - other).powi(2)).sum();
        // What is within nothing is in no circle, even at the same place.
        if within > 0.0 {
            square.sqrt() / within
        } else {
            f64::INFINITY
        }
    }
}

/// How much further somebody must be to leave the circle, as a share, so that links don't come and go at its
/// border.
const HYSTERESIS: f64 = 0.2;

/// So long the one of the greater number waits for the other one to begin.
const GREATER_WAITS: Duration = Duration::from_secs(1);

/// So long one who has begun a link may take to come into sight.
const GUEST_WAITS: Duration = Duration::from_secs(2);

/// How long it is until a link that failed is tried again, and how often that time doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRIES_GROW: u32 = 5;
