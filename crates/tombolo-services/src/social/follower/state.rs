//! What was read of a log, who is told of it and who waits for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;
use tokio::time::Instant;
use tombolo_engine::Offset;
use tombolo_room::SessionId;
use tombolo_social::{EntryError, OperationId};

use super::machine::{Machine, Outcome, Told};
use crate::growth::Growth;
use crate::node::Node;

/// Of one log.
pub(in crate::social) struct State<M: Machine> {
    pub(in crate::social) machine: M,
    /// Of a log that is read anew: what was read of it. Meanwhile the machine is as it was.
    ahead: Option<M>,
    /// Of those who have tellers of their own.
    agreed: Vec<Weak<AtomicU64>>,
    /// The last entry that was read.
    pub(super) cursor: Option<Offset>,
    /// The log was retired before it was read: who puts something there does not know that it has ended.
    pub(in crate::social) is_over: bool,
    pub(super) growth: Growth,
    /// The most that the machine held since its last snapshot, about.
    pub(super) bytes_before: usize,
    /// When time was last told to what was read.
    pub(in crate::social) ticked_at: Option<Instant>,
    pub(super) waiting_by_operation: BTreeMap<OperationId, oneshot::Sender<Outcome<M>>>,
    pub(super) listener_by_session: BTreeMap<SessionId, M::Listener>,
    /// The listener that was told something last.
    told_last: Option<SessionId>,
    pub(super) users: usize,
    /// How often nobody has needed it.
    pub(super) idle: u64,
    /// When that was the case last.
    pub(super) idle_since: Instant,
    /// A task waits until nobody has needed it for a while.
    pub(super) lingers: bool,
}

/// Up to which number somebody knows what the log still says.
#[derive(Clone)]
pub(in crate::social) struct Agreed(Arc<AtomicU64>);

impl Agreed {
    /// `None` when that is all, or was taken before.
    pub(in crate::social) fn take(&self) -> Option<u64> {
        let agreed = self.0.swap(u64::MAX, Ordering::Relaxed);
        (agreed != u64::MAX).then_some(agreed)
    }

    /// Whether there is something to take.
    pub(in crate::social) fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed) != u64::MAX
    }
}

impl<M: Machine> Default for State<M> {
    fn default() -> Self {
        Self {
            machine: M::default(),
            ahead: None,
            agreed: Vec::new(),
            cursor: None,
            is_over: false,
            growth: Growth::default(),
            bytes_before: 0,
            ticked_at: None,
            waiting_by_operation: BTreeMap::new(),
            listener_by_session: BTreeMap::new(),
            told_last: None,
            users: 0,
            idle: 0,
            idle_since: Instant::now(),
            lingers: false,
        }
    }
}

impl<M: Machine> State<M> {
    /// Notes from now on what becomes void of what is known.
    pub(in crate::social) fn agreed(&mut self) -> Agreed {
        if self.agreed.len() == self.agreed.capacity() {
            self.agreed.retain(|told| told.strong_count() > 0);
        }
        let agreed = Arc::new(AtomicU64::new(u64::MAX));
        self.agreed.push(Arc::downgrade(&agreed));
        Agreed(agreed)
    }

    /// The machine that reads.
    pub(super) fn read(&mut self) -> &mut M {
        self.ahead.as_mut().unwrap_or(&mut self.machine)
    }

    /// Nothing of the log was read any more; the machine stays as it is until all of it was.
    pub(super) fn begin_anew(&mut self) {
        self.cursor = None;
        self.is_over = false;
        self.growth = Growth::default();
        self.bytes_before = 0;
        self.ahead = Some(M::default());
        self.give_up_waiting();
    }

    /// Applies an entry, unless it came too late.
    pub(super) fn apply(&mut self, entry: &[u8]) -> Result<(OperationId, Outcome<M>), EntryError> {
        if self.is_over {
            let (operation, _) = M::default().apply(entry)?;
            return Ok((operation, Outcome::Late));
        }
        let bytes = self.read().bytes();
        self.bytes_before = self.bytes_before.max(bytes);
        let (operation, result) = self.read().apply(entry)?;
        Ok((operation, Outcome::Applied(result)))
    }

    /// Whether so much has ended that a snapshot makes place.
    pub(super) fn has_shrunk(&mut self) -> bool {
        let bytes = self.read().bytes();
        self.bytes_before >= SHRUNK_BYTES_MIN && bytes <= self.bytes_before / 2
    }

    /// Takes over what was read anew, if something was. What was lost has numbers that come again.
    pub(super) fn replace(&mut self) {
        let Some(machine) = self.ahead.take() else {
            return;
        };
        let agreed = machine.agreed(&self.machine);
        self.machine = machine;
        self.agreed.retain(|told| match told.upgrade() {
            Some(told) => {
                told.fetch_min(agreed, Ordering::Relaxed);
                true
            }
            None => false,
        });
        for listener in self.listener_by_session.values_mut() {
            M::go_back(listener, agreed);
        }
    }

    /// Tells the listeners what they have not been told; returns whether some are behind. Whoever comes after the one
    /// that was told last is the first: all together may be told so much at once only.
    pub(super) fn tell(&mut self, node: &Arc<Node>) -> bool {
        let listeners = &mut self.listener_by_session;
        let before = match self.told_last {
            Some(last) => listeners.range(..=last).count(),
            None => 0,
        };
        let mut is_behind = false;
        let mut gone = Vec::new();
        let machine = &self.machine;
        let mut tell = |(session, listener): (&SessionId, &mut M::Listener)| match machine
            .tell(node, listener)
        {
            Told::Known => {}
            Told::All => self.told_last = Some(*session),
            Told::Some => {
                self.told_last = Some(*session);
                is_behind = true;
            }
            Told::Behind => is_behind = true,
            Told::Gone => gone.push(*session),
        };
        listeners.iter_mut().skip(before).for_each(&mut tell);
        listeners.iter_mut().take(before).for_each(&mut tell);
        for session in gone {
            self.listener_by_session.remove(&session);
        }
        is_behind
    }

    pub(super) fn give_up_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.waiting_by_operation).into_values() {
            let _ = waiting.send(Outcome::Unclear);
        }
    }
}

/// Of what holds less, place is not worth a snapshot.
const SHRUNK_BYTES_MIN: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tombolo_social::MessageId;
    use tombolo_social::segment::{self, Segment};

    use super::*;

    #[test]
    fn of_a_log_that_is_read_anew_twice_it_is_known_where_all_agree() {
        let mut state = State {
            machine: posts([1, 2, 3, 4, 5]),
            ..State::default()
        };
        let told = state.agreed();
        for _ in 0..1_000 {
            drop(state.agreed());
        }
        assert!(state.agreed.len() < 10, "nobody waits for most");
        for anew in [[1, 2, 6, 7, 8], [1, 2, 6, 7, 9]] {
            state.ahead = Some(posts(anew));
            state.replace();
        }
        assert_eq!((told.take(), told.take()), (Some(2), None));
    }

    fn posts(ids: [u8; 5]) -> Segment {
        let mut segment = Segment::new();
        for id in ids {
            let entry = segment::Entry {
                operation: OperationId([id; 16]),
                time: tombolo_social::Time::from_millis(1),
                from: None,
                id: MessageId([id; 16]),
                payload: Bytes::new(),
            };
            segment.apply(&entry).unwrap();
        }
        segment
    }
}
