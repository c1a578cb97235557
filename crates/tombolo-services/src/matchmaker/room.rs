//! The room of a match: it is there, with a seat kept for each user, before anybody is told of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tombolo_match::{BackfillId, Body as PoolBody, Formed, TicketId};
use tombolo_room::{Act, Body, OperationId, Reserve, Settings, USERS_PER_ENTRY_MAX};
use tombolo_wire::v1::{self, ErrorCode, match_event};
use tombolo_wire::{RoomId, UserId};

use super::Devices;
use super::desk::{Desk, RETRY_DELAY};
use super::tell::{ended, event, push};
use crate::host::by_server;
use crate::node::Node;
use crate::reject::Reject;

/// Why a match's room is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// The match begins.
    Begun,
    /// Some of its devices are back. Should its room take them no more, it is over, and nobody looks on.
    Back,
}

/// Opens a match's room, or keeps seats in the one that it runs in, and tells its devices here.
pub(super) async fn gather(
    node: Arc<Node>,
    desk: Arc<Desk>,
    formed: Arc<Formed>,
    devices: BTreeMap<TicketId, Devices>,
    since: Since,
) {
    let id = match_id(&desk, &formed);
    let prepared = prepare(&node, &desk, &formed, id).await;
    if since == Since::Begun
        && let (Err(reject), Some((running, _))) = (&prepared, formed.backfill)
    {
        tracing::debug!(pool = %desk.name, %reject, "a running match has no place");
        if have_others_look_on(&node, &desk, &formed, running, reject.code).await {
            tell_left_out(&node, &desk, &devices);
            return;
        }
    }
    let kind = match &prepared {
        Ok(room) => match_event::Kind::Found(found(&formed, id, room)),
        Err(reject) => {
            tracing::warn!(pool = %desk.name, %reject, "a match has no room");
            ended("lost")
        }
    };
    for (ticket, devices) in devices {
        for (_, device) in devices {
            push(&node, &device, event(&desk.name, &ticket, kind.clone()));
        }
    }
}

/// Tells those whose tickets have not come back: a user of them has another one by now, or is gone.
fn tell_left_out(node: &Arc<Node>, desk: &Desk, devices: &BTreeMap<TicketId, Devices>) {
    let mut state = desk.lock();
    let left_out = |ticket: &TicketId| state.pool.ticket(ticket).is_none();
    let tickets: Vec<TicketId> = devices.keys().copied().filter(left_out).collect();
    tickets.iter().for_each(|ticket| state.begun.forget(ticket));
    drop(state);
    for ticket in tickets {
        for (_, device) in &devices[&ticket] {
            push(node, device, event(&desk.name, &ticket, ended("cancelled")));
        }
    }
}

/// Has nobody else join a running match whose room takes nobody in. Whether those who were to join look on, and know it.
async fn have_others_look_on(
    node: &Node,
    desk: &Desk,
    formed: &Formed,
    running: BackfillId,
    code: ErrorCode,
) -> bool {
    if code == ErrorCode::Unavailable {
        // Through another node they may have got their seats. It may have been closed already.
        desk.insist(node, PoolBody::Closed(running)).await;
        return false;
    }
    let unseated = PoolBody::Unseated(formed.id);
    desk.insist(node, unseated).await == Some(Ok(()))
}

/// Whether a room is of a match, which devices do not open.
pub(crate) fn is_of_match(room: &RoomId) -> bool {
    room.as_str().starts_with(PREFIX)
}

/// Whether a room is for parties: whoever joins it agrees to be in its owner's tickets.
pub(super) fn is_of_party(room: &RoomId) -> bool {
    room.as_str().starts_with(PARTY_PREFIX)
}

/// The room in which a match is played.
pub(super) fn room_of(id: [u8; 16]) -> Result<RoomId, Reject> {
    let name = format!("{PREFIX}{:032x}", u128::from_be_bytes(id));
    RoomId::parse(&name).map_err(|error| Reject::new(error.code(), error))
}

/// A match that runs keeps its id. That of a new one begins with its pool's mark; the rest nobody can
/// choose: in its pool no other match has the same number.
fn match_id(desk: &Desk, formed: &Formed) -> [u8; 16] {
    if let Some((running, _)) = formed.backfill {
        return running.0;
    }
    let mut hash = Sha256::new_with_prefix(desk.key.as_str());
    hash.update(formed.id.0.to_be_bytes());
    // A log that was lost gives its numbers again, while rooms of its matches are still there.
    for party in formed.parties() {
        hash.update(party.ticket.0);
    }
    let mut id = [0; 16];
    let parts = mark(desk).into_iter().chain(hash.finalize());
    for (byte, part) in id.iter_mut().zip(parts) {
        *byte = part;
    }
    id
}

/// Whether a match is one of a pool's.
pub(super) fn is_of_pool(desk: &Desk, id: [u8; 16]) -> bool {
    id.starts_with(&mark(desk))
}

/// What the ids of a pool's matches begin with.
fn mark(desk: &Desk) -> [u8; 4] {
    let digest: [u8; 32] = Sha256::digest(desk.key.as_str()).into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

async fn prepare(
    node: &Arc<Node>,
    desk: &Desk,
    formed: &Formed,
    id: [u8; 16],
) -> Result<RoomId, Reject> {
    let room = room_of(id)?;
    // As long as other nodes may have kept the seats that this one asks for.
    let end = Instant::now() + SEATS_KEPT;
    loop {
        match keep_seats(node, desk, formed, id, &room).await {
            Ok(()) => return Ok(room),
            Err(reject) if reject.code == ErrorCode::Unavailable && Instant::now() < end => {
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Err(reject) => return Err(reject),
        }
    }
}

/// Every node with devices of the match does the same, under the same names: it is done once.
async fn keep_seats(
    node: &Arc<Node>,
    desk: &Desk,
    formed: &Formed,
    id: [u8; 16],
    room: &RoomId,
) -> Result<(), Reject> {
    let entrance = node.enter(room)?;
    let host = entrance.host();
    host.ready(node).await?;
    let users: Vec<UserId> = formed.users().cloned().collect();
    let mut parts = users.chunks(USERS_PER_ENTRY_MAX).map(reserve);
    if formed.backfill.is_none() {
        let body = Body::Created {
            settings: settings(desk),
            first: None,
            properties: Vec::new(),
            reserve: parts.next(),
            code: None,
        };
        host.act_for_server(node, OperationId(id), FIRST, body)
            .await?;
    }
    for (part, seats) in (1..).zip(parts) {
        let operation = operation(id, formed.id.0, part);
        let body = by_server(Act::Reserve(seats));
        host.act_for_server(node, operation, FIRST, body).await?;
    }
    Ok(())
}

fn settings(desk: &Desk) -> Settings {
    Settings {
        members_max: desk.rules().shape.players_max(),
        is_locked: true,
        is_hidden: true,
        ..Settings::default()
    }
}

fn reserve(users: &[UserId]) -> Reserve {
    Reserve {
        users: users.to_vec(),
        lasts: SEATS_KEPT,
    }
}

/// Names what is done for a claim in its match's room, the same on every node.
fn operation(id: [u8; 16], number: u64, part: u64) -> OperationId {
    let name = u128::from_be_bytes(id) ^ (u128::from(number) << 64) ^ u128::from(part);
    OperationId(name.to_be_bytes())
}

fn found(formed: &Formed, id: [u8; 16], room: &RoomId) -> v1::MatchFound {
    let teams = formed.sides.iter().map(|side| {
        let users = side.parties.iter().flat_map(|party| &party.users);
        let members = users.map(|(user, role)| v1::MatchMember {
            user: user.to_string(),
            role: text(role.as_ref()),
        });
        v1::MatchTeam {
            name: side.team.to_string(),
            members: members.collect(),
        }
    });
    v1::MatchFound {
        id: Bytes::copy_from_slice(&id),
        room: room.to_string(),
        teams: teams.collect(),
        region: text(formed.region.as_ref()),
        host: text(formed.host.as_ref()),
        quality: formed.quality.into(),
        running: formed.backfill.is_some(),
    }
}

/// Nothing is empty.
fn text(name: Option<&impl ToString>) -> String {
    name.map_or_else(String::new, ToString::to_string)
}

/// What the names of matches' rooms begin with.
const PREFIX: &str = "tombolo-match-";

/// And those of rooms for parties.
const PARTY_PREFIX: &str = "party-";

/// How long seats are kept for the users of a match. Its room is there as long as a seat is kept or taken.
pub(super) const SEATS_KEPT: Duration = Duration::from_secs(60);

/// What each node wants at the same time, nobody has wanted before.
const FIRST: Duration = Duration::ZERO;
