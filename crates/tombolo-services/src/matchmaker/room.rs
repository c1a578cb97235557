//! The room of a match: it is there, with a seat kept for each user, before anybody is told of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tombolo_engine::Key;
use tombolo_match::{BEGUN_KEPT, Formed, Seating};
use tombolo_room::{Act, Body, OperationId, Reserve, Settings, USERS_PER_ENTRY_MAX};
use tombolo_wire::v1::{self, ErrorCode, match_event};
use tombolo_wire::{RoomId, UserId};

use super::desk::{Desk, RETRY_DELAY};
use super::seats::Beginning;
use super::tell::{ended, event, push};
use crate::host::by_server;
use crate::node::Node;
use crate::reject::Reject;

/// Opens a match's room, or keeps seats in the one that it runs in, and has the pool's log say whether its users have them.
pub(super) async fn gather(node: Arc<Node>, desk: Arc<Desk>, formed: Arc<Formed>) {
    match prepare(&node, &desk, &formed).await {
        Ok(()) => desk.say_seated(&node, formed.id).await,
        Err(reject) => {
            tracing::debug!(pool = %desk.name, %reject, "a match has no place");
            desk.say_unseated(&node, formed.id).await;
        }
    }
}

/// Tells devices of their match.
pub(super) fn tell_found(node: &Arc<Node>, desk: &Desk, beginning: Beginning) {
    let Beginning { formed, devices } = beginning;
    let id = match_id(desk, &formed);
    let kind = match room_of(id) {
        Ok(room) => match_event::Kind::Found(found(&formed, id, &room)),
        Err(_) => ended("lost"),
    };
    for (ticket, devices) in devices {
        for (_, device) in devices {
            push(node, &device, event(&desk.name, &ticket, kind.clone()));
        }
    }
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
pub(super) fn match_id(desk: &Desk, formed: &Formed) -> [u8; 16] {
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
    let parts = desk.mark.into_iter().chain(hash.finalize());
    for (byte, part) in id.iter_mut().zip(parts) {
        *byte = part;
    }
    id
}

/// Whether a match is one of a pool's.
pub(super) fn is_of_pool(desk: &Desk, id: [u8; 16]) -> bool {
    id.starts_with(&desk.mark)
}

/// What the ids of a pool's matches begin with.
pub(super) fn mark_of(pool: &Key) -> [u8; 4] {
    let digest: [u8; 32] = Sha256::digest(pool.as_str()).into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

async fn prepare(node: &Arc<Node>, desk: &Desk, formed: &Formed) -> Result<(), Reject> {
    let id = match_id(desk, formed);
    // As long as other nodes may have kept the seats that this one asks for.
    let end = Instant::now() + SEATS_KEPT;
    loop {
        match keep_seats(node, desk, formed, id).await {
            Err(reject)
                if is_passing(&reject)
                    && Instant::now() < end
                    && desk.seating(formed.id) != Seating::Unseated =>
            {
                tokio::time::sleep(RETRY_DELAY).await;
            }
            result => return result,
        }
    }
}

fn is_passing(reject: &Reject) -> bool {
    reject.code == ErrorCode::Unavailable
}

/// Every node with devices of the match does the same, under the same names: it is done once.
async fn keep_seats(
    node: &Arc<Node>,
    desk: &Desk,
    formed: &Formed,
    id: [u8; 16],
) -> Result<(), Reject> {
    let room = room_of(id)?;
    let entrance = node.enter(&room)?;
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

/// How long seats are kept for the users of a match, which the pool remembers as long. Its room is there as long as a
/// seat is kept or taken.
const SEATS_KEPT: Duration = BEGUN_KEPT;

/// What each node wants at the same time, nobody has wanted before.
const FIRST: Duration = Duration::ZERO;
