//! The tickets that have ended: none comes twice while a device of it may come back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::begun::BEGUN_KEPT;
use super::snapshot::SnapshotError;
use crate::generated as wire;
use crate::ticket::GRACE_MAX;
use crate::word::{TicketId, Time};

/// How many tickets that have ended are remembered for as long as their devices may come back, the grace of each and at
/// least [`BEGUN_KEPT`]: for a minute those of 10,000 a second and more. Each has 16 bytes in a snapshot, and about 90 in
/// memory.
pub const ENDED_MAX: usize = 640 * 1024;

/// How many are remembered however long ago they have ended.
pub const ENDED_LAST_MAX: usize = 64 * 1024;

const _: () = assert!(ENDED_MAX as u64 >= 10_000 * BEGUN_KEPT.as_secs());

/// The tickets that have ended lately.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Whichever of the two below has it.
    place_by_id: HashMap<TicketId, Place>,
    /// The last ones, by number.
    last: BTreeMap<u64, TicketId>,
    /// By the second from which on nobody comes back to them, and by number.
    due: BTreeMap<(u64, u64), TicketId>,
    next: u64,
}

/// Where a ticket is.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Who has ended later has more.
    number: u64,
    second: u64,
}

impl Ended {
    /// A ticket has ended to which devices may come back within its grace; it may have come back itself, and has ended anew.
    pub(super) fn insert(&mut self, now: Time, id: TicketId, grace: Duration) {
        if let Some(place) = self.place_by_id.remove(&id) {
            self.last.remove(&place.number);
            self.due.remove(&(place.second, place.number));
        }
        self.forget_due(now);
        let until = now.after(grace.max(BEGUN_KEPT));
        let place = Place {
            number: self.next,
            second: until.as_millis().div_ceil(1000),
        };
        self.next += 1;
        self.place_by_id.insert(id, place);
        self.last.insert(place.number, id);
        self.due.insert((place.second, place.number), id);
        while self.last.len() > ENDED_LAST_MAX
            && let Some((_, id)) = self.last.pop_first()
        {
            self.forget_unless_kept(&id);
        }
        while self.due.len() > ENDED_MAX
            && let Some((_, id)) = self.due.pop_first()
        {
            self.forget_unless_kept(&id);
        }
    }

    pub(super) fn contains(&mut self, now: Time, id: &TicketId) -> bool {
        self.forget_due(now);
        self.place_by_id.contains_key(id)
    }

    fn forget_due(&mut self, now: Time) {
        while let Some(((second, _), _)) = self.due.first_key_value()
            && second.saturating_mul(1000) <= now.as_millis()
            && let Some((_, id)) = self.due.pop_first()
        {
            self.forget_unless_kept(&id);
        }
    }

    /// One of the two lets a ticket go.
    fn forget_unless_kept(&mut self, id: &TicketId) {
        if let Some(Place { number, second }) = self.place_by_id.get(id)
            && !self.last.contains_key(number)
            && !self.due.contains_key(&(*second, *number))
        {
            self.place_by_id.remove(id);
        }
    }

    /// What a snapshot has of the last ones.
    pub(super) fn last_on_wire(&self) -> Bytes {
        bytes(self.last.values())
    }

    /// What a snapshot has of those to which devices may come back.
    pub(super) fn due_on_wire(&self) -> Vec<wire::Ended> {
        let mut by_second: BTreeMap<u64, Vec<&TicketId>> = BTreeMap::new();
        for ((second, _), id) in &self.due {
            by_second.entry(*second).or_default().push(id);
        }
        let all = by_second.into_iter();
        all.map(|(until_s, ids)| wire::Ended {
            until_s,
            tickets: bytes(ids.into_iter()),
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
        // Those that are not among the last have ended before them.
        let first = ENDED_MAX as u64;
        for (number, id) in (first..).zip(last) {
            let (id, second) = (TicketId(*id), 0);
            ended.last.insert(number, id);
            let before = ended.place_by_id.insert(id, Place { number, second });
            if before.is_some() {
                return Err(SnapshotError);
            }
        }
        ended.next = first + last.len() as u64;
        let mut older = 0..first;
        for due in due {
            for id in ids(&due.tickets)? {
                let (id, second) = (TicketId(*id), due.until_s);
                let known = ended.place_by_id.get(&id);
                let number = known.map(|place| place.number).or_else(|| older.next());
                let number = number.ok_or(SnapshotError)?;
                let is_twice = known.is_some_and(|place| place.second != 0 || number < first);
                ended.place_by_id.insert(id, Place { number, second });
                ended.due.insert((second, number), id);
                if is_twice || ended.due.len() > ENDED_MAX {
                    return Err(SnapshotError);
                }
            }
        }
        Ok(ended)
    }
}

fn bytes<'i>(ids: impl Iterator<Item = &'i TicketId>) -> Bytes {
    let mut bytes = BytesMut::new();
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
