//! The end of a log, when its room has closed.
//!
//! Who begins to read a retired log has nothing, so that must be all that the others have, too: else they would judge
//! differently what comes when the room is opened anew. Therefore the log's last entry says that the room is forgotten.
//!
//! While the engine is away such logs wait, so many at most and a few of them at work. Until its log is retired the room
//! stays listed as hosted here: there this node finds those for which there was no place, and its heir or its next life
//! what this one does not come to do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tombolo_engine::{AppendError, Expect, Offset, Purpose, RetireError, Revision};
use tombolo_room::{Body, Entry, Event, OperationId};
use tombolo_wire::RoomId;

use super::{Host, State};
use crate::cluster;
use crate::lock::lock;
use crate::node::Node;

/// The logs of closed rooms that this node is to retire.
#[derive(Default)]
pub(crate) struct Retirements(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// Each of `by_room` once.
    rooms: VecDeque<RoomId>,
    by_room: BTreeMap<RoomId, Retirement>,
    /// Others had no place: they are to be looked for in the list.
    has_left: bool,
    /// The tasks that are at it.
    workers: usize,
}

/// What a worker does next.
enum Task {
    Retire(Retirement),
    /// Look for those that had no place.
    Look,
}

/// One log that is to be retired.
struct Retirement {
    host: Arc<Host>,
    /// By which write the room is listed, by this host or by one before it.
    listed: Option<Revision>,
    last: Last,
    /// By which the entry is known that says that the room is forgotten.
    operation: OperationId,
}

/// What became of a log that was to wait.
#[derive(Debug, PartialEq, Eq)]
enum Added {
    /// It does.
    Waits,
    /// It does, and there is one worker less than there may be.
    WaitsForWorker,
    /// Too many others do.
    NoPlace,
}

/// The last entry of the log of a closed room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// It says that the room is forgotten: somebody came no further than that.
    Forgotten(Offset),
    /// It is another one.
    Other(Offset),
}

impl State {
    /// The last entry, if the log has been read and is to be retired.
    pub(super) fn last_of_closed(&self) -> Option<Last> {
        let is_read = self.ahead.is_none();
        if !is_read || self.is_retired || self.room.is_open() {
            return None;
        }
        self.cursor.map(|at| match self.room.is_new() {
            true => Last::Forgotten(at),
            false => Last::Other(at),
        })
    }

    /// Whether an act that is not known, and was wanted first so long ago, may have been done before the room was forgotten.
    pub(crate) fn may_have_forgotten(&self, node: &Node, wanted_for: Duration) -> bool {
        if wanted_for.is_zero() {
            return false;
        }
        match self.room.opened() {
            Some(opened) => self.time(node).before(wanted_for) < opened,
            None => self.cursor.is_some() && self.room.is_new(),
        }
    }
}

impl Retirements {
    /// Has a log wait; one whose room was opened and closed again since takes the place of the former.
    fn add(&self, new: Retirement) -> Added {
        let mut waiting = lock(&self.0);
        let room = new.host.room.clone();
        if let Some(former) = waiting.by_room.get_mut(&room) {
            let listed = new.listed.or(former.listed);
            if former.last == new.last {
                // Its entry may be written already, by its own name.
                former.host = new.host;
            } else {
                *former = new;
            }
            former.listed = listed;
            return Added::Waits;
        }
        if waiting.by_room.len() >= WAITING_MAX {
            waiting.has_left = true;
            return Added::NoPlace;
        }
        waiting.by_room.insert(room.clone(), new);
        waiting.rooms.push_back(room);
        if waiting.workers >= WORKERS_MAX {
            return Added::Waits;
        }
        waiting.workers += 1;
        Added::WaitsForWorker
    }

    /// Has a log wait again, behind the others, unless its room was closed anew since.
    fn put_back(&self, retirement: Retirement) {
        let mut waiting = lock(&self.0);
        let room = retirement.host.room.clone();
        if let Some(newer) = waiting.by_room.get_mut(&room) {
            newer.listed = newer.listed.or(retirement.listed);
        } else {
            waiting.by_room.insert(room.clone(), retirement);
            waiting.rooms.push_back(room);
        }
    }

    /// Those that had no place are still to be looked for.
    fn look_again(&self) {
        lock(&self.0).has_left = true;
    }

    /// Whether another one would have no place, or one had none since they were looked for.
    pub(crate) fn is_full(&self) -> bool {
        lock(&self.0).has_left
    }

    /// What a worker does next; it is none any more when that is nothing.
    fn next(&self) -> Option<Task> {
        let mut waiting = lock(&self.0);
        let room = waiting.rooms.pop_front();
        if let Some(retirement) = room.and_then(|room| waiting.by_room.remove(&room)) {
            return Some(Task::Retire(retirement));
        }
        if std::mem::take(&mut waiting.has_left) {
            return Some(Task::Look);
        }
        waiting.workers -= 1;
        None
    }
}

impl Node {
    /// Lets the engine forget the log of a closed room, however long that takes. Whoever appends something before does it
    /// after that.
    pub(super) fn retire(self: &Arc<Self>, host: &Arc<Host>, last: Last) {
        let Ok(operation) = self.config.entropy.operation_id() else {
            return;
        };
        let added = self.retirements.add(Retirement {
            host: Arc::clone(host),
            listed: host.listed(),
            last,
            operation,
        });
        match added {
            Added::Waits => {}
            Added::WaitsForWorker => {
                self.runtime.spawn(work(Arc::clone(self)));
            }
            Added::NoPlace => self.counters.logs_left.add(1),
        }
    }
}

/// Retires what waits. What cannot be done now is tried again after the others.
async fn work(node: Arc<Node>) {
    let mut delay = DELAY_MIN;
    while let Some(task) = node.retirements.next() {
        if is_done(&node, task).await {
            delay = DELAY_MIN;
        } else {
            tokio::time::sleep(delay).await;
            delay = (2 * delay).min(DELAY_MAX);
        }
    }
}

/// Tries to do it; whether it is done. What cannot be done now is to be done later.
async fn is_done(node: &Arc<Node>, task: Task) -> bool {
    match task {
        Task::Retire(mut retirement) => {
            let is_done = retirement.is_done(node).await;
            if !is_done {
                node.retirements.put_back(retirement);
            } else if let Some(listed) = retirement.listed {
                cluster::unlist(node, &retirement.host.room, listed).await;
            }
            is_done
        }
        Task::Look => {
            let found = cluster::take_up_left(node).await;
            if found.is_err() {
                node.retirements.look_again();
            }
            found.is_ok()
        }
    }
}

impl Retirement {
    /// Tries to do it; whether nothing is left to do, since somebody else may be at it, or have opened the room anew.
    async fn is_done(&mut self, node: &Node) -> bool {
        let key = &self.host.key;
        let at = match self.last {
            Last::Forgotten(at) => at,
            Last::Other(at) => {
                let entry = Entry {
                    operation: self.operation,
                    time: self.host.lock().time(node),
                    node: Some(node.name().clone()),
                    incarnation: node.incarnation(),
                    body: Body::Forgotten,
                };
                let (expect, id) = (Expect::Last(at), self.operation.0);
                let id = tombolo_engine::OperationId(id);
                let (entry, end) = (entry.encode(), Purpose::End);
                let append = node.engine.append(key, entry, end, expect, id);
                match append.await {
                    Ok(at) => at,
                    Err(AppendError::Conflict) => return true,
                    Err(_) => return false,
                }
            }
        };
        self.last = Last::Forgotten(at);
        let retired = node.engine.retire(key, at).await;
        matches!(retired, Ok(()) | Err(RetireError::Conflict))
    }
}

impl Host {
    /// Whether something is left to do here by whoever hosts the room: it is open, or its log is to be retired.
    pub(crate) fn is_unfinished(&self) -> bool {
        let state = self.lock();
        state.room.is_open() || state.last_of_closed().is_some()
    }

    /// What a node wrote before it was lost may come when the room has forgotten the loss, and was opened anew: then
    /// it is told again.
    pub(super) fn drop_ghosts(self: &Arc<Self>, node: &Arc<Node>, events: &[Event]) {
        for event in events {
            if let Event::Joined { membership, .. } | Event::Returned { membership, .. } = event
                && let (lost, life) = (membership.node.clone(), membership.incarnation)
                && node.cluster.is_over(&lost, life)
            {
                let (host, node) = (Arc::clone(self), Arc::clone(node));
                node.runtime
                    .clone()
                    .spawn(async move { host.drop_members_of(&node, &lost, life).await });
            }
        }
    }
}

/// Logs that wait to be retired.
const WAITING_MAX: usize = 4096;

/// Logs that are retired at the same time.
const WORKERS_MAX: usize = 8;

/// How long one that is retired waits after a failure, at first.
const DELAY_MIN: Duration = Duration::from_millis(50);

/// How long it waits at last.
const DELAY_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tombolo_engine::{Epoch, Key};

    use super::*;

    #[tokio::test]
    async fn so_many_logs_wait_each_once_and_a_few_are_worked_at() {
        let waiting = Retirements::default();
        let added: Vec<_> = (0..=WAITING_MAX)
            .map(|number| waiting.add(retirement(number, 1)))
            .collect();
        let workers = added
            .iter()
            .filter(|added| **added == Added::WaitsForWorker);
        assert_eq!(workers.count(), WORKERS_MAX);
        assert_eq!(added.last(), Some(&Added::NoPlace));
        assert_eq!(waiting.add(retirement(7, 2)), Added::Waits);
        let mut next = Vec::new();
        while let Some(Task::Retire(retirement)) = waiting.next() {
            next.push(retirement.last);
        }
        assert_eq!(next.len(), WAITING_MAX);
        assert_eq!(next[7], Last::Other(offset(2)));
        assert!(waiting.next().is_none(), "the others were looked for");
    }

    #[tokio::test]
    async fn a_log_that_is_put_back_waits_once_and_what_was_listed_is_unlisted_with_it() {
        let waiting = Retirements::default();
        let next = || match waiting.next() {
            Some(Task::Retire(retirement)) => retirement,
            Some(Task::Look) | None => panic!("none waits"),
        };
        waiting.add(listed(1, Some(1)));
        let first = next();
        // Somebody looked at the room, and had it opened and closed anew, while it was at work.
        waiting.add(listed(2, None));
        waiting.put_back(first);
        let newer = next();
        assert_eq!(newer.last, Last::Other(offset(2)));
        assert_eq!(newer.listed, Some(revision(1)));
        // Somebody joined it and listed it anew.
        waiting.add(listed(3, Some(3)));
        waiting.put_back(newer);
        let newest = next();
        assert_eq!(newest.last, Last::Other(offset(3)));
        assert_eq!(newest.listed, Some(revision(3)));
        waiting.put_back(newest);
        assert_eq!(next().listed, Some(revision(3)));
        assert!(waiting.next().is_none());
    }

    fn listed(at: u64, number: Option<u64>) -> Retirement {
        Retirement {
            listed: number.map(revision),
            ..retirement(0, at)
        }
    }

    fn revision(number: u64) -> Revision {
        let epoch = Epoch(1);
        Revision { epoch, number }
    }

    fn retirement(number: usize, at: u64) -> Retirement {
        let room = RoomId::parse(&format!("room-{number}")).unwrap();
        let key = Key::new(["room", room.as_str()]).unwrap();
        Retirement {
            host: Arc::new(Host::new(room, key)),
            listed: None,
            last: Last::Other(offset(at)),
            operation: OperationId([0; 16]),
        }
    }

    fn offset(seq: u64) -> Offset {
        let epoch = Epoch(1);
        Offset { epoch, seq }
    }
}
