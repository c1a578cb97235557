//! The tickets that have ended: none comes twice while a device of it may come back.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::begun::BEGUN_KEPT;
use super::snapshot::SnapshotError;
use crate::generated as wire;
use crate::ticket::GRACE_MAX;
use crate::word::{TicketId, Time};

/// How many tickets that have ended are remembered for as long as their devices may come back, the grace of each and at
/// least [`BEGUN_KEPT`]: for a minute those of 10,000 a second and more. Each has 16 bytes in a snapshot, and about 60 in
/// memory.
pub const ENDED_MAX: usize = 640 * 1024;

/// How many are remembered however long ago they have ended.
pub const ENDED_LAST_MAX: usize = 64 * 1024;

const _: () = assert!(ENDED_MAX as u64 >= 10_000 * BEGUN_KEPT.as_secs());

/// The tickets that have ended lately.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// The last ones, the first first.
    last: VecDeque<TicketId>,
    all_last: HashSet<TicketId>,
    /// By the second from which on nobody comes back to them.
    by_second: BTreeMap<u64, VecDeque<TicketId>>,
    all_due: HashSet<TicketId>,
}

impl Ended {
    /// A ticket has ended to which devices may come back within its grace.
    pub(super) fn insert(&mut self, now: Time, id: TicketId, grace: Duration) {
        self.insert_last(id);
        self.forget_due(now);
        let until = now.after(grace.max(BEGUN_KEPT));
        self.insert_due(until.as_millis().div_ceil(1000), id);
        while self.all_due.len() > ENDED_MAX {
            self.forget_first();
        }
    }

    pub(super) fn contains(&mut self, now: Time, id: &TicketId) -> bool {
        self.forget_due(now);
        self.all_last.contains(id) || self.all_due.contains(id)
    }

    fn insert_last(&mut self, id: TicketId) {
        if self.all_last.insert(id) {
            self.last.push_back(id);
        }
        if self.last.len() > ENDED_LAST_MAX
            && let Some(first) = self.last.pop_front()
        {
            self.all_last.remove(&first);
        }
    }

    fn insert_due(&mut self, second: u64, id: TicketId) -> bool {
        let is_new = self.all_due.insert(id);
        if is_new {
            self.by_second.entry(second).or_default().push_back(id);
        }
        is_new
    }

    fn forget_due(&mut self, now: Time) {
        while let Some((second, _)) = self.by_second.first_key_value()
            && second.saturating_mul(1000) <= now.as_millis()
        {
            for id in self
                .by_second
                .pop_first()
                .into_iter()
                .flat_map(|(_, ids)| ids)
            {
                self.all_due.remove(&id);
            }
        }
    }

    fn forget_first(&mut self) {
        let Some(mut first) = self.by_second.first_entry() else {
            return;
        };
        if let Some(id) = first.get_mut().pop_front() {
            self.all_due.remove(&id);
        }
        if first.get().is_empty() {
            first.remove();
        }
    }

    /// What a snapshot has of the last ones.
    pub(super) fn last_on_wire(&self) -> Bytes {
        bytes(&self.last)
    }

    /// What a snapshot has of those to which devices may come back.
    pub(super) fn due_on_wire(&self) -> Vec<wire::Ended> {
        let all = self.by_second.iter();
        all.map(|(second, ids)| wire::Ended {
            until_s: *second,
            tickets: bytes(ids),
        })
        .collect()
    }

    /// Takes what [`Self::last_on_wire`] and [`Self::due_on_wire`] gave out of a snapshot.
    pub(super) fn restore(last: &[u8], due: &[wire::Ended]) -> Result<Self, SnapshotError> {
        let mut ended = Self::default();
        let last = ids(last)?;
        if last.len() > ENDED_LAST_MAX || due.len() > SECONDS_MAX {
            return Err(SnapshotError);
        }
        for id in last {
            ended.insert_last(TicketId(*id));
        }
        for due in due {
            for id in ids(&due.tickets)? {
                let is_new = ended.insert_due(due.until_s, TicketId(*id));
                if !is_new || ended.all_due.len() > ENDED_MAX {
                    return Err(SnapshotError);
                }
            }
        }
        Ok(ended)
    }
}

fn bytes(ids: &VecDeque<TicketId>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(ids.len() * 16);
    for id in ids {
        bytes.put_slice(&id.0);
    }
    bytes.freeze()
}

fn ids(bytes: &[u8]) -> Result<&[[u8; 16]], SnapshotError> {
    let (ids, rest) = bytes.as_chunks();
    if rest.is_empty() {
        return Ok(ids);
    }
    Err(SnapshotError)
}

/// The seconds until which some may be remembered, with those that are over and nobody has looked at since.
const SECONDS_MAX: usize = 2 * GRACE_MAX.as_secs() as usize + 2;
