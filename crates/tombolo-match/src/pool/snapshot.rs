//! A whole pool as bytes, and back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message as _;

use super::backfill::Running;
use super::candidate::Candidate;
use super::ended::Ended;
use super::joining::{JOINING_MAX, Joining, Place, Waited};
use super::ready::Pending;
use super::search::Progress;
use super::seat::{Key, Seat};
use super::waits::Waits;
use super::{NODES_LOST_MAX, Pool, Timer};
use crate::entry::{
    self, EntryError, VERSION, array, parse_formed, parse_node, parse_ticket, parse_user,
    parse_venue,
};
use crate::event::Illegal;
use crate::generated as wire;
use crate::rules::{Rules, TICKETS_MAX};
use crate::ticket::TicketError;
use crate::word::{BackfillId, MatchId, Time};

/// Why bytes are no snapshot of a pool with these rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("snapshot is malformed, of an unknown version or of other rules")]
pub struct SnapshotError;

impl Pool {
    /// The whole pool as bytes: equal pools give equal bytes.
    #[must_use]
    pub fn snapshot(&self) -> Bytes {
        let lost = self.lost_by_node.iter();
        let joining = self.joining.iter().map(|(id, joining)| (*id, joining));
        let (running, beginning): (Vec<_>, Vec<_>) =
            joining.partition(|(_, joining)| joining.running.is_some());
        let snapshot = wire::Snapshot {
            version: VERSION,
            clock_ms: self.clock.as_millis(),
            next_order: self.next_order,
            next_match: self.next_match,
            seats: self
                .seats
                .iter()
                .map(|(key, seat)| keep_seat(key, seat))
                .collect(),
            pending: self.pending.values().map(keep_pending).collect(),
            running: self
                .running
                .iter()
                .map(|(id, running)| keep_running(*id, running))
                .collect(),
            joining: running.into_iter().map(keep_joining).collect(),
            beginning: beginning.into_iter().map(keep_joining).collect(),
            waits: self
                .waits
                .iter()
                .map(|(kind, waits)| wire::Waits {
                    kind: kind.to_owned(),
                    waited_ms: waits.iter().copied().map(millis).collect(),
                })
                .collect(),
            ended: self.ended.last_on_wire(),
            nodes_lost: lost
                .map(|(node, incarnation)| entry::node_lost(node.as_str(), *incarnation))
                .collect(),
            played: self.played.on_wire(),
            begun: self.begun.on_wire(),
            ended_until: self.ended.due_on_wire(),
        };
        snapshot.encode_to_vec().into()
    }

    /// Takes a pool out of a snapshot that was made by the same rules.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn restore(rules: Rules, snapshot: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot = wire::Snapshot::decode(snapshot)?;
        if snapshot.version != VERSION {
            return Err(SnapshotError);
        }
        let mut pool = Self::new(rules);
        pool.clock = Time::from_millis(snapshot.clock_ms);
        pool.restore_memory(&snapshot)?;
        let mut running = BTreeSet::new();
        let sides = snapshot.running.iter().flat_map(|running| &running.sides);
        if !sides
            .flat_map(|side| &side.keys)
            .all(|key| running.insert(*key))
        {
            return Err(SnapshotError);
        }
        for seat in snapshot.seats {
            let is_running = running.contains(&seat.key);
            pool.restore_seat(seat, is_running)?;
        }
        for pending in snapshot.pending {
            pool.restore_pending(pending)?;
        }
        for running in snapshot.running {
            pool.restore_running(&running)?;
        }
        if snapshot.joining.len() + snapshot.beginning.len() > JOINING_MAX {
            return Err(SnapshotError);
        }
        for joining in snapshot.joining {
            let running = BackfillId(array(&joining.running)?);
            pool.restore_joining(joining, Some(running))?;
        }
        for beginning in snapshot.beginning {
            pool.restore_joining(beginning, None)?;
        }
        for played in snapshot.played {
            let played = wire::Ticket::decode(played)?;
            pool.played.note(&parse_ticket(played)?);
        }
        for begun in snapshot.begun {
            pool.begun.restore(begun)?;
        }
        pool.next_order = snapshot.next_order;
        pool.next_match = snapshot.next_match;
        let waiting: Vec<_> = pool.seats.iter().map(|(key, _)| key).collect();
        for key in waiting {
            if !running.contains(&key.number()) {
                pool.enter(key, pool.clock);
            }
        }
        Ok(pool)
    }

    /// What is known of those who have gone.
    fn restore_memory(&mut self, snapshot: &wire::Snapshot) -> Result<(), SnapshotError> {
        self.ended = Ended::restore(&snapshot.ended, &snapshot.ended_until)?;
        let waits = snapshot.waits.iter().map(|kept| {
            let waits = kept.waited_ms.iter().copied().map(Duration::from_millis);
            (kept.kind.clone(), waits.collect::<VecDeque<_>>())
        });
        self.waits = Waits::restore(waits.collect()).ok_or(SnapshotError)?;
        if snapshot.nodes_lost.len() > NODES_LOST_MAX {
            return Err(SnapshotError);
        }
        let lost = snapshot.nodes_lost.iter();
        let lost = lost.map(|lost| Ok((parse_node(&lost.node)?, lost.incarnation)));
        self.lost_by_node = lost.collect::<Result<IndexMap<_, _>, EntryError>>()?;
        Ok(())
    }

    fn restore_seat(&mut self, kept: wire::Seat, is_running: bool) -> Result<(), SnapshotError> {
        let ticket = parse_ticket(kept.ticket.ok_or(SnapshotError)?)?;
        if kept.key as usize >= KEYS_MAX {
            return Err(SnapshotError);
        }
        let mut away = BTreeMap::new();
        for absence in kept.away {
            let until = Time::from_millis(absence.until_ms);
            away.insert(parse_user(&absence.user)?, until);
        }
        if !is_running {
            if self.key_by_id.contains_key(&ticket.id) {
                return Err(SnapshotError);
            }
            self.check_users(&ticket.players, None)?;
        }
        let candidate = Candidate::new(&self.rules, &self.roles, &ticket, &mut self.symbols)?;
        self.weight += ticket.weight();
        let (id, untils) = (ticket.id, away.values().copied().collect::<Vec<_>>());
        let place = Place {
            revision: kept.revision,
            since: Time::from_millis(kept.since_ms),
            order: kept.order,
        };
        let seat = Seat {
            away,
            ..Seat::new(&self.rules, ticket, candidate, place)
        };
        let key = self.seats.put(kept.key, seat).ok_or(SnapshotError)?;
        if !is_running {
            self.key_by_id.insert(id, key);
            self.add_users(key);
        }
        // What is due by now was done, except where a match asked whether its users are ready.
        let untils = untils.into_iter().filter(|until| *until > self.clock);
        self.timers
            .extend(untils.map(|until| (until, Timer::Grace(key))));
        Ok(())
    }

    fn restore_pending(&mut self, kept: wire::Pending) -> Result<(), SnapshotError> {
        let formed = parse_formed(kept.formed.ok_or(SnapshotError)?)?;
        let id = formed.id;
        for party in formed.parties() {
            let key = self.key_by_id.get(&party.ticket).ok_or(SnapshotError)?;
            if self.seats[*key].held.replace(id).is_some() {
                return Err(SnapshotError);
            }
        }
        let until = Time::from_millis(kept.until_ms);
        let ready = kept.ready.iter().map(|user| parse_user(user));
        let pending = Pending {
            formed,
            until,
            ready: ready.collect::<Result<_, _>>()?,
        };
        self.timers.insert((until, Timer::Ready(id)));
        match self.pending.insert(id, pending) {
            None => Ok(()),
            Some(_) => Err(SnapshotError),
        }
    }

    fn restore_running(&mut self, kept: &wire::Running) -> Result<(), SnapshotError> {
        if kept.sides.len() != self.rules.shape.teams.len() {
            return Err(SnapshotError);
        }
        let id = BackfillId(array(&kept.id)?);
        let sides = kept.sides.iter().map(|side| {
            let keys = side.keys.iter().map(|number| self.seats.key(*number));
            keys.collect::<Option<Vec<_>>>()
        });
        let sides = sides.collect::<Option<Vec<_>>>().ok_or(SnapshotError)?;
        let until = Time::from_millis(kept.until_ms);
        let running = Running {
            generation: kept.generation,
            until,
            sides,
            venue: kept.venue.as_ref().map(parse_venue).transpose()?,
            pending: (kept.pending != 0).then_some(MatchId(kept.pending)),
            is_fresh: true,
            progress: Progress::default(),
        };
        self.timers.insert((until, Timer::Lease(id)));
        match self.running.insert(id, running) {
            None => Ok(()),
            Some(_) => Err(SnapshotError),
        }
    }
}

impl Pool {
    fn restore_joining(
        &mut self,
        kept: wire::Joining,
        running: Option<BackfillId>,
    ) -> Result<(), SnapshotError> {
        let id = MatchId(kept.number);
        let tickets = kept.tickets.into_iter().map(|kept| {
            Ok(Waited {
                ticket: parse_ticket(kept.ticket.ok_or(SnapshotError)?)?,
                place: Place {
                    revision: kept.revision,
                    since: Time::from_millis(kept.since_ms),
                    order: kept.order,
                },
            })
        });
        let joining = Joining {
            running,
            until: Time::from_millis(kept.until_ms),
            tickets: tickets.collect::<Result<_, SnapshotError>>()?,
        };
        if self.joining.contains_key(&id) {
            return Err(SnapshotError);
        }
        self.add_joining(id, joining);
        Ok(())
    }
}

impl From<prost::DecodeError> for SnapshotError {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

impl From<EntryError> for SnapshotError {
    fn from(_: EntryError) -> Self {
        Self
    }
}

impl From<TicketError> for SnapshotError {
    fn from(_: TicketError) -> Self {
        Self
    }
}

impl From<Illegal> for SnapshotError {
    fn from(_: Illegal) -> Self {
        Self
    }
}

fn keep_seat(key: Key, seat: &Seat) -> wire::Seat {
    let away = seat.away.iter().map(|(user, until)| wire::Absence {
        user: user.to_string(),
        until_ms: until.as_millis(),
    });
    wire::Seat {
        key: key.number(),
        ticket: Some(entry::ticket(&seat.ticket)),
        revision: seat.revision,
        since_ms: seat.since.as_millis(),
        order: seat.order,
        away: away.collect(),
    }
}

fn keep_pending(pending: &Pending) -> wire::Pending {
    wire::Pending {
        formed: Some(entry::formed(&pending.formed)),
        until_ms: pending.until.as_millis(),
        ready: pending.ready.iter().map(ToString::to_string).collect(),
    }
}

fn keep_running(id: BackfillId, running: &Running) -> wire::Running {
    let sides = running.sides.iter().map(|side| wire::Keys {
        keys: side.iter().map(|key| key.number()).collect(),
    });
    wire::Running {
        id: Bytes::copy_from_slice(&id.0),
        generation: running.generation,
        until_ms: running.until.as_millis(),
        sides: sides.collect(),
        pending: running.pending.map_or(0, |MatchId(number)| number),
        venue: running.venue.as_ref().map(entry::venue),
    }
}

fn keep_joining((MatchId(number), joining): (MatchId, &Joining)) -> wire::Joining {
    let tickets = joining.tickets.iter().map(|waited| wire::Seat {
        ticket: Some(entry::ticket(&waited.ticket)),
        revision: waited.place.revision,
        since_ms: waited.place.since.as_millis(),
        order: waited.place.order,
        ..wire::Seat::default()
    });
    wire::Joining {
        number,
        running: joining
            .running
            .map_or_else(Bytes::new, |BackfillId(id)| Bytes::copy_from_slice(&id)),
        until_ms: joining.until.as_millis(),
        tickets: tickets.collect(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Numbers of tickets, those of running matches too: a snapshot must not make room for more.
const KEYS_MAX: usize = 2 * TICKETS_MAX;
