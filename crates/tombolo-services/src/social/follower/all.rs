//! The logs that a node reads, and which of them nobody needs.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tombolo_engine::Key;

use super::{Follower, Machine};
use crate::lock::lock;

/// The logs of one kind that a node reads.
pub(in crate::social) struct Followers<M: Machine> {
    pub(super) by_key: Mutex<BTreeMap<Key, Arc<Follower<M>>>>,
    /// Those that nobody needed when they came here, the oldest first.
    idle: Mutex<VecDeque<Idle<M>>>,
}

/// A log that nobody needed.
pub(super) struct Idle<M: Machine> {
    pub(super) follower: Arc<Follower<M>>,
    /// How often nobody had.
    pub(super) count: u64,
    /// About how much it held.
    pub(super) bytes: usize,
}

impl<M: Machine> Default for Followers<M> {
    fn default() -> Self {
        Self {
            by_key: Mutex::default(),
            idle: Mutex::default(),
        }
    }
}

impl<M: Machine> Followers<M> {
    /// How many logs are read.
    pub(in crate::social) fn len(&self) -> usize {
        lock(&self.by_key).len()
    }

    /// Nobody needs a log any more; returns those that are to be read no longer, when there are too many such.
    pub(super) fn note_idle(&self, idle: Idle<M>) -> Vec<Idle<M>> {
        let mut all = lock(&self.idle);
        // One that is needed now and then does not push out others.
        all.retain(|known| !Arc::ptr_eq(&known.follower, &idle.follower));
        all.push_back(idle);
        let mut bytes: usize = all.iter().map(|idle| idle.bytes).sum();
        let mut over = Vec::new();
        while (all.len() > IDLE_MAX || bytes > IDLE_BYTES_MAX)
            && let Some(oldest) = all.pop_front()
        {
            bytes -= oldest.bytes;
            over.push(oldest);
        }
        over
    }

    /// A log was not needed for long, or was since.
    pub(super) fn forget_idle(&self, follower: &Arc<Follower<M>>, count: u64) {
        let is_it = |idle: &Idle<M>| idle.count == count && Arc::ptr_eq(&idle.follower, follower);
        lock(&self.idle).retain(|idle| !is_it(idle));
    }
}

/// Logs of one kind that a node goes on to read although nobody needs them.
pub(super) const IDLE_MAX: usize = 256;

/// About how much those hold.
const IDLE_BYTES_MAX: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use tombolo_social::segment::Segment;

    use super::*;

    #[test]
    fn a_log_that_is_needed_now_and_then_does_not_push_out_others() {
        let followers = Followers::<Segment>::default();
        let [often, once] = ["often", "once"].map(|name| {
            let key = Key::new([name]).unwrap();
            Arc::new(Follower::new(key))
        });
        let note = |follower: &Arc<Follower<Segment>>, count| {
            let over = followers.note_idle(Idle {
                follower: Arc::clone(follower),
                count,
                bytes: IDLE_BYTES_MAX / 4,
            });
            assert!(over.is_empty(), "after {count}");
        };
        note(&once, 1);
        for count in 1..=2 * IDLE_MAX as u64 {
            note(&often, count);
        }
    }
}
