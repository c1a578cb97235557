//! A match that runs asks for more users: who plays in it already, and what they are like.
//!
//! The owner of its room says who is in which team. What else it says of others counts only where the pool does not
//! remember their tickets, and the game has the last word on all.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tombolo_match::{Backfill, BackfillId, ENTRY_BYTES_MAX, Player, Ticket, Venue};
use tombolo_wire::v1::ErrorCode;

use super::desk::Desk;
use super::requests::{bad_ticket, check, not_in_party};
use super::room;
use crate::host::Host;
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

/// What is asked for, with what is known of those who play.
pub(super) async fn authorize(
    node: &Arc<Node>,
    session: &Session,
    desk: &Arc<Desk>,
    mut backfill: Backfill,
) -> Result<Backfill, Reject> {
    check_room(session, desk, &backfill)?;
    for ticket in tickets(&mut backfill) {
        desk.lock().pool.recall(ticket);
    }
    if backfill.venue.is_none() && desk.lock().pool.generation(&backfill.id).is_none() {
        backfill.venue = told(node, desk, &backfill);
    }
    ask_game(node, session, desk, tickets(&mut backfill).collect()).await?;
    let mut weight = 0;
    for ticket in tickets(&mut backfill) {
        check(ticket)?;
        weight += ticket.weight();
    }
    if weight > TICKETS_BYTES_MAX {
        let message = format!("those who play say more than {TICKETS_BYTES_MAX} bytes together");
        return Err(Reject::new(ErrorCode::TooLarge, message));
    }
    Ok(backfill)
}

/// Where a match is played, as its users were told when it began, if the pool knows that still.
fn told(node: &Node, desk: &Desk, backfill: &Backfill) -> Option<Venue> {
    let state = desk.lock();
    let tickets = backfill.sides.iter().flat_map(|(_, tickets)| tickets);
    let users = tickets.flat_map(|ticket| &ticket.players);
    let mut formed = users.filter_map(|Player { user, .. }| {
        let ticket = state.pool.played(user)?.id;
        state.begun(node, &ticket, user)
    });
    let formed = formed.find(|formed| room::match_id(desk, formed) == backfill.id.0)?;
    Some(Venue {
        region: formed.region.clone(),
        host: formed.host.clone(),
    })
}

fn tickets(backfill: &mut Backfill) -> impl Iterator<Item = &mut Ticket> {
    backfill.sides.iter_mut().flat_map(|(_, tickets)| tickets)
}

/// Has the game look at what is said of each party.
async fn ask_game(
    node: &Arc<Node>,
    session: &Session,
    desk: &Arc<Desk>,
    mut tickets: Vec<&mut Ticket>,
) -> Result<(), Reject> {
    for some in tickets.chunks_mut(ASKED_AT_ONCE) {
        let mut asked = JoinSet::new();
        for (at, ticket) in some.iter().enumerate() {
            let (node, desk) = (Arc::clone(node), Arc::clone(desk));
            let (user, ticket) = (session.user.clone(), (**ticket).clone());
            asked.spawn(async move {
                let asked = node.authorize_ticket(&user, &desk.name, ticket).await;
                (at, asked)
            });
        }
        while let Some(answered) = asked.join_next().await {
            let no_answer = |_| Reject::new(ErrorCode::Unavailable, "the game's code failed");
            let (at, ticket) = answered.map_err(no_answer)?;
            *some[at] = ticket?;
        }
    }
    Ok(())
}

/// The room of a pool's running match, of which the device is to be the owner.
pub(super) fn host_of(session: &Session, desk: &Desk, id: BackfillId) -> Result<Arc<Host>, Reject> {
    if !room::is_of_pool(desk, id.0) {
        let message = "the match is not one of this pool";
        return Err(Reject::new(ErrorCode::NotPermitted, message));
    }
    let room = room::room_of(id.0)?;
    let host = session.lock().host_by_room.get(&room).cloned();
    let is_owner = |host: &Arc<Host>| host.lock().owner() == Some(&session.user);
    host.filter(is_owner).ok_or_else(|| {
        let message = "only the owner of the match's room asks for more users";
        Reject::new(ErrorCode::NotOwner, message)
    })
}

/// Whether the teams of a running match are those who are in its room, or have a seat kept there, and all
/// who may join them find a place in it: who is matched has left the pool.
pub(super) fn check_room(
    session: &Session,
    desk: &Desk,
    backfill: &Backfill,
) -> Result<(), Reject> {
    let host = host_of(session, desk, backfill.id)?;
    let state = host.lock();
    let room = state.room();
    let tickets = backfill.sides.iter().flat_map(|(_, tickets)| tickets);
    let mut named = BTreeSet::new();
    for player in tickets.flat_map(|ticket| &ticket.players) {
        let user = &player.user;
        if room.member(user).is_none() && room.reserved_until(user).is_none() {
            return Err(not_in_party(user));
        }
        if !named.insert(user) {
            return Err(bad_ticket("a user is named twice"));
        }
    }
    if let Some((user, _)) = room.members().find(|(user, _)| !named.contains(user)) {
        let message = format!("{user} is in the room of the match, and in none of its teams");
        return Err(bad_ticket(message));
    }
    let wanted = desk.rules().shape.players_max() as usize;
    if room.free() < wanted.saturating_sub(named.len()) {
        return Err(bad_ticket("the room has no place for all who may join"));
    }
    Ok(())
}

/// What those who play may weigh, so that they fit into an entry.
const TICKETS_BYTES_MAX: usize = ENTRY_BYTES_MAX - 1024;

/// How many parties the game looks at at a time.
const ASKED_AT_ONCE: usize = 32;
