//! What devices ask of the matchmaker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tombolo_engine::SNAPSHOT_BYTES_MAX;
use tombolo_match::{
    Answer, BEGUN_WEIGHT_MAX, Backfill, BackfillId, Body, ENDED_MAX, Illegal, MatchId, Name,
    PLAYED_WEIGHT_MAX, Player, PlayerError, Query, Reach, Ticket, TicketError, TicketId, Venue,
    WEIGHT_MAX,
};
use tombolo_room::{Member, Value};
use tombolo_wire::v1::{self, ErrorCode, match_request, match_response};
use tombolo_wire::{RoomId, UserId};

use super::desk::{Asker, Desk, unavailable};
use super::seats::Beginning;
use super::{presence, room, running, tell, why};
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;

/// A request that was found to be in order.
pub(crate) struct MatchmakerRequest {
    desk: Arc<Desk>,
    wanted: Wanted,
}

enum Wanted {
    Submit {
        ticket: Ticket,
        party: Option<RoomId>,
    },
    ComeBack(TicketId),
    Change {
        ticket: TicketId,
        players: Vec<Player>,
        party: Option<RoomId>,
    },
    SayReach(TicketId, Reach),
    Cancel(TicketId),
    Answer(MatchId, Answer),
    Why(TicketId),
    Backfill(Backfill),
    Renew(BackfillId, Duration),
    Close(BackfillId),
}

impl Wanted {
    /// The ticket that the device waits for from now on.
    fn awaited(&self) -> Option<TicketId> {
        if let Self::Submit {
            ticket: Ticket { id, .. },
            ..
        }
        | Self::ComeBack(id) = self
        {
            Some(*id)
        } else {
            None
        }
    }

    /// Whether it ends what its user has asked for before.
    fn gives_up(&self) -> bool {
        matches!(self, Self::Cancel(_) | Self::Close(_))
    }
}

/// Reads a request.
pub(crate) fn parse(
    node: &Node,
    session: &Session,
    request: v1::MatchRequest,
    now: Instant,
) -> Result<MatchmakerRequest, Reject> {
    let desk = node.matchmaker.desk_by_pool.get(request.pool.as_str());
    let no_such_pool = || Reject::new(ErrorCode::NoSuchPool, "this node has no such pool");
    let desk = desk.cloned().ok_or_else(no_such_pool)?;
    let kind = request.kind;
    let kind = kind.ok_or_else(|| bad_frame("the request asks for nothing known"))?;
    let wanted = parse_kind(kind)?;
    // What is written to the log, or takes a look at many tickets, is paid for by its user.
    let mut account = session.account();
    let pace = match wanted.gives_up() {
        true => &mut account.ticket_ends,
        false => &mut account.tickets,
    };
    if !pace.take(now, 1) {
        let message = "too much at once: try again later";
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    Ok(MatchmakerRequest { desk, wanted })
}

fn parse_kind(kind: match_request::Kind) -> Result<Wanted, Reject> {
    use match_request::Kind as On;

    Ok(match kind {
        On::Submit(submit) if submit.players.is_empty() => {
            Wanted::ComeBack(TicketId(array(&submit.id)?))
        }
        On::Submit(submit) => Wanted::Submit {
            party: parse_party(&submit.party)?,
            ticket: parse_ticket(submit)?,
        },
        On::Change(change) => Wanted::Change {
            ticket: TicketId(array(&change.id)?),
            players: parse_players(change.players)?,
            party: parse_party(&change.party)?,
        },
        On::Reach(said) => {
            let reach = said.reach().into();
            Wanted::SayReach(TicketId(array(&said.id)?), reach)
        }
        On::Cancel(cancel) => Wanted::Cancel(TicketId(array(&cancel.id)?)),
        On::Answer(answer) => {
            let said = match answer.accept {
                true => Answer::Accept,
                false => Answer::Decline,
            };
            Wanted::Answer(MatchId(answer.number), said)
        }
        On::Why(why) => Wanted::Why(TicketId(array(&why.id)?)),
        On::Backfill(backfill) => Wanted::Backfill(parse_backfill(backfill)?),
        On::Renew(renew) => {
            let lease = Duration::from_millis(renew.lease_ms.into());
            Wanted::Renew(BackfillId(array(&renew.id)?), lease)
        }
        On::Close(close) => Wanted::Close(BackfillId(array(&close.id)?)),
    })
}

fn parse_ticket(submit: v1::SubmitTicket) -> Result<Ticket, Reject> {
    let tags = submit.tags.iter().take(tombolo_match::TAGS_MAX + 1);
    let tags = tags.map(|tag| Name::parse(tag));
    Ok(Ticket {
        tags: tags.collect::<Result<_, _>>().map_err(bad_ticket)?,
        query: Query::parse(&submit.query).map_err(bad_ticket)?,
        grace: Duration::from_millis(submit.grace_ms.into()),
        priority: i8::try_from(submit.priority).map_err(bad_ticket)?,
        ..Ticket::new(TicketId(array(&submit.id)?), parse_players(submit.players)?)
    })
}

pub(super) fn check(ticket: &Ticket) -> Result<(), Reject> {
    ticket.check().map_err(bad_ticket)?;
    for player in &ticket.players {
        player.check().map_err(bad_ticket)?;
    }
    if ticket.weight() > TICKET_BYTES_MAX {
        let message = format!("a ticket says at most {TICKET_BYTES_MAX} bytes");
        return Err(Reject::new(ErrorCode::TooLarge, message));
    }
    Ok(())
}

fn parse_players(players: Vec<v1::MatchPlayer>) -> Result<Vec<Player>, Reject> {
    if players.len() > tombolo_match::PARTY_MAX {
        let max = tombolo_match::PARTY_MAX;
        return Err(bad_ticket(TicketError::Party { max }));
    }
    let players = players.into_iter().map(Player::parse);
    players
        .collect::<Result<_, PlayerError>>()
        .map_err(bad_ticket)
}

fn parse_party(room: &str) -> Result<Option<RoomId>, Reject> {
    let room = (!room.is_empty()).then(|| RoomId::parse(room));
    room.transpose()
        .map_err(|error| Reject::new(error.code(), error))
}

fn parse_backfill(backfill: v1::OpenBackfill) -> Result<Backfill, Reject> {
    if backfill.teams.len() > tombolo_match::TEAMS_MAX {
        return Err(bad_frame("there are too many teams"));
    }
    let mut players = 0;
    let sides = backfill.teams.into_iter().map(|team| {
        players += team.parties.len();
        if players > tombolo_match::PLAYERS_MAX as usize {
            return Err(bad_frame("there are too many parties"));
        }
        let parties = team.parties.into_iter().map(|party| {
            // Nobody finds these by their ids.
            let ticket = Ticket::new(TicketId([0; 16]), parse_players(party.players)?);
            check(&ticket)?;
            Ok(ticket)
        });
        let name = Name::parse(&team.name).map_err(bad_ticket)?;
        Ok((name, parties.collect::<Result<_, Reject>>()?))
    });
    let venue = backfill.venue.as_ref().map(parse_venue);
    Ok(Backfill {
        venue: venue.transpose()?,
        sides: sides.collect::<Result<_, Reject>>()?,
        id: BackfillId(array(&backfill.id)?),
        after: backfill.after,
        lease: Duration::from_millis(backfill.lease_ms.into()),
    })
}

fn parse_venue(venue: &v1::MatchVenue) -> Result<Venue, Reject> {
    let region = (!venue.region.is_empty()).then(|| Name::parse(&venue.region));
    let host = (!venue.host.is_empty()).then(|| UserId::parse(&venue.host));
    Ok(Venue {
        region: region.transpose().map_err(bad_ticket)?,
        host: host.transpose().map_err(bad_ticket)?,
    })
}

/// Carries a request out and answers it, unless it fails.
pub(crate) async fn carry_out(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    request: MatchmakerRequest,
) -> Result<(), Reject> {
    let MatchmakerRequest { desk, wanted } = request;
    desk.synced(node).await?;
    node.joined().await?;
    let asker = Asker {
        session: Arc::clone(session),
        request: id,
    };
    let wanted = authorize(node, session, &desk, wanted).await?;
    if !wanted.gives_up() && session.lock().ended().is_some() {
        // It said goodbye while this waited: nobody would be there for what it wanted.
        return Ok(());
    }
    let awaited = wanted.awaited();
    let comes_back = matches!(wanted, Wanted::ComeBack(_));
    let Some(body) = plan(node, session, id, &desk, wanted)? else {
        return Ok(());
    };
    let mut outcome = desk.propose(node, body, Some(asker.clone())).await?;
    // It was written twice, and the device waits for an answer.
    if outcome == Err(Illegal::Repeated)
        && let Some(ticket) = awaited.filter(|id| desk.has(id, &session.user))
    {
        let body = presence::come_back(node, ticket, session.user.clone(), session.id);
        outcome = desk.propose(node, body, Some(asker)).await?;
    }
    match (outcome, awaited) {
        (Ok(()), _) => Ok(()),
        // It was there, and has found its match meanwhile, or has ended.
        (Err(Illegal::Repeated | Illegal::Unknown), Some(ticket)) => {
            match tell_begun(node, session, id, &desk, &ticket) {
                true => Ok(()),
                false if comes_back => Err(reject(&Illegal::Unknown)),
                false => Err(reject(&Illegal::Repeated)),
            }
        }
        (Err(illegal), _) => Err(reject(&illegal)),
    }
}

/// Has the game look at what is said of a party for the first time, once it is known that all of it may be in the ticket.
async fn authorize(
    node: &Arc<Node>,
    session: &Session,
    desk: &Arc<Desk>,
    wanted: Wanted,
) -> Result<Wanted, Reject> {
    Ok(match wanted {
        Wanted::Submit { mut ticket, party } if !desk.knows(node, &ticket.id, &session.user) => {
            check(&ticket)?;
            let most = desk.rules().priority_max;
            if ticket.priority > most {
                let message = format!("this pool takes no priority above {most} from a device");
                return Err(bad_ticket(message));
            }
            settle(node, session, party.as_ref(), &mut ticket.players)?;
            say_reach(session, party.as_ref(), &mut ticket.players);
            desk.admit(node, &ticket)?;
            let asked = node.authorize_ticket(&session.user, &desk.name, ticket);
            let ticket = asked.await?;
            Wanted::Submit { ticket, party }
        }
        Wanted::Change {
            ticket: id,
            players,
            party,
        } => {
            let mut changed = desk.changed(&id, session, players)?;
            settle(node, session, party.as_ref(), &mut changed.players)?;
            say_reach(session, party.as_ref(), &mut changed.players);
            desk.admit_users(node, &changed)?;
            let asked = node.authorize_ticket(&session.user, &desk.name, changed);
            Wanted::Change {
                ticket: id,
                players: asked.await?.players,
                party,
            }
        }
        Wanted::SayReach(id, reach) => {
            let changed = desk.reached(&id, session, reach)?;
            let asked = node.authorize_ticket(&session.user, &desk.name, changed);
            Wanted::SayReach(id, asked.await?.reach_of(&session.user))
        }
        Wanted::Backfill(backfill) => {
            Wanted::Backfill(running::authorize(node, session, desk, backfill).await?)
        }
        wanted @ (Wanted::Submit { .. }
        | Wanted::ComeBack(_)
        | Wanted::Cancel(_)
        | Wanted::Answer(..)
        | Wanted::Why(_)
        | Wanted::Renew(..)
        | Wanted::Close(_)) => wanted,
    })
}

/// What is to be appended; `None` when the device has its answer.
fn plan(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    desk: &Arc<Desk>,
    wanted: Wanted,
) -> Result<Option<Body>, Reject> {
    Ok(Some(match wanted {
        Wanted::Submit { mut ticket, party } => {
            if desk.has(&ticket.id, &session.user) {
                presence::come_back(node, ticket.id, session.user.clone(), session.id)
            } else if tell_begun(node, session, id, desk, &ticket.id) {
                return Ok(None);
            } else {
                // While the game was asked, some may have left, or have got other tickets.
                check(&ticket)?;
                settle(node, session, party.as_ref(), &mut ticket.players)?;
                desk.admit(node, &ticket)?;
                node.counters.tickets.add(1);
                Body::Submitted(ticket)
            }
        }
        Wanted::ComeBack(ticket) => return Ok(return_to(node, session, id, desk, ticket)),
        Wanted::Change {
            ticket,
            players,
            party,
        } => {
            let mut changed = desk.changed(&ticket, session, players)?;
            settle(node, session, party.as_ref(), &mut changed.players)?;
            desk.admit_users(node, &changed)?;
            let players = changed.players;
            Body::Changed { ticket, players }
        }
        Wanted::SayReach(ticket, reach) => {
            desk.check_own(&ticket, &session.user)?;
            let user = session.user.clone();
            Body::Reached {
                ticket,
                user,
                reach,
            }
        }
        Wanted::Cancel(ticket) => {
            desk.check_own(&ticket, &session.user)?;
            Body::Cancelled(ticket)
        }
        Wanted::Answer(id, answer) => Body::Answered {
            id,
            user: session.user.clone(),
            answer,
        },
        Wanted::Why(ticket) => {
            why::answer(node, session, id, desk, &ticket)?;
            return Ok(None);
        }
        Wanted::Backfill(backfill) => {
            running::check_room(session, desk, &backfill)?;
            Body::Backfill(backfill)
        }
        Wanted::Renew(id, lease) => {
            running::host_of(session, desk, id)?;
            Body::Renewed { id, lease }
        }
        Wanted::Close(id) => {
            running::host_of(session, desk, id)?;
            Body::Closed(id)
        }
    }))
}

/// What is to be appended for a device that comes back to a ticket, unless that has found its match. This node may not have
/// read of the ticket yet: the log knows.
fn return_to(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    desk: &Arc<Desk>,
    ticket: TicketId,
) -> Option<Body> {
    let is_told = tell_begun(node, session, id, desk, &ticket);
    (!is_told).then(|| presence::come_back(node, ticket, session.user.clone(), session.id))
}

/// Tells a device that comes back of the match that its user's ticket has found meanwhile, if it has.
fn tell_begun(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    desk: &Arc<Desk>,
    ticket: &TicketId,
) -> bool {
    let mut state = desk.lock();
    let Some(formed) = state.begun(node, ticket, &session.user) else {
        return false;
    };
    let beginning = state.beginning.entry(formed.id);
    let beginning = beginning.or_insert_with(|| Beginning {
        formed: Arc::clone(&formed),
        devices: BTreeMap::new(),
    });
    let devices = beginning.devices.entry(*ticket).or_default();
    devices.insert((session.user.clone(), session.id));
    let status = tell::status(&state.pool, ticket);
    drop(state);
    let result = match_response::Result::Status(status);
    node.push(session, tell::answer(id, result));
    let work = room::gather(Arc::clone(node), Arc::clone(desk), formed);
    node.runtime.spawn(work);
    true
}

/// Says of each user of a party where its device is. The others must have agreed to be in it, which they do by being in a
/// room for parties: this device's user owns it.
fn settle(
    node: &Node,
    session: &Session,
    party: Option<&RoomId>,
    players: &mut [Player],
) -> Result<(), Reject> {
    if players.iter().all(|player| player.user != session.user) {
        let message = "the device's own user is not in the party";
        return Err(Reject::new(ErrorCode::NotPermitted, message));
    }
    let host = party.and_then(|room| session.lock().host_by_room.get(room).cloned());
    if players.len() > 1
        && let Some(host) = &host
        && !(room::is_of_party(host.name()) && host.lock().owner() == Some(&session.user))
    {
        let message =
            "only the owner of a room whose name begins with party- has others in its tickets";
        return Err(Reject::new(ErrorCode::NotPermitted, message));
    }
    for player in players {
        let state = host.as_ref().map(|host| host.lock());
        if player.user == session.user {
            player.device = Some(presence::here(node, session.id));
            continue;
        }
        let membership = state
            .as_ref()
            .and_then(|state| state.membership(&player.user));
        let membership = membership.ok_or_else(|| not_in_party(&player.user))?;
        player.device = Some(tombolo_match::Device {
            session: tombolo_match::SessionId(membership.session.0),
            node: membership.node.clone(),
            incarnation: membership.incarnation,
        });
    }
    Ok(())
}

/// Says of each user of a party how it is reached, if the ticket does not: as its device says itself. The game has the last
/// word.
fn say_reach(session: &Session, party: Option<&RoomId>, players: &mut [Player]) {
    let host = party.and_then(|room| session.lock().host_by_room.get(room).cloned());
    let Some(host) = host else {
        return;
    };
    let state = host.lock();
    for player in players {
        if player.reach == Reach::Unknown {
            let member = state.room().member(&player.user);
            player.reach = member.map_or(Reach::Unknown, reach);
        }
    }
}

/// How a member's device is reached, as it has said itself.
fn reach(member: &Member) -> Reach {
    let said = member.properties().property(Reach::PROPERTY);
    match said.map(|property| &property.value) {
        Some(Value::Text(name)) => Reach::from_name(name),
        _ => Reach::Unknown,
    }
}

pub(super) fn not_in_party(user: &UserId) -> Reject {
    let message = format!("{user} is in no room with this device that was named as the party's");
    Reject::new(ErrorCode::NotPermitted, message)
}

impl Desk {
    /// Whether a ticket of a user is here, or has begun its match lately.
    fn knows(&self, node: &Node, ticket: &TicketId, user: &UserId) -> bool {
        self.has(ticket, user) || self.lock().begun(node, ticket, user).is_some()
    }

    /// Whether a user is in a ticket's party.
    fn has(&self, ticket: &TicketId, user: &UserId) -> bool {
        let state = self.lock();
        let found = state.pool.ticket_of(user);
        found.is_some_and(|found| found.id == *ticket)
    }

    pub(super) fn check_own(&self, ticket: &TicketId, user: &UserId) -> Result<(), Reject> {
        match self.has(ticket, user) {
            true => Ok(()),
            false if self.is_read() => Err(reject(&Illegal::Unknown)),
            false => Err(unavailable("the pool is read anew")),
        }
    }

    /// The ticket of a session's user as it will be with another party.
    fn changed(
        &self,
        ticket: &TicketId,
        session: &Session,
        players: Vec<Player>,
    ) -> Result<Ticket, Reject> {
        self.check_own(ticket, &session.user)?;
        let known = self.lock().pool.ticket(ticket).cloned();
        let known = known.ok_or_else(|| reject(&Illegal::Unknown))?;
        // Others would have all of its place by leaving that one out.
        if known.players.first().map(|first| &first.user) != Some(&session.user) {
            let message =
                "a party is changed by the first of its users; others may cancel its ticket";
            return Err(Reject::new(ErrorCode::NotPermitted, message));
        }
        let changed = Ticket { players, ..known };
        check(&changed)?;
        Ok(changed)
    }

    /// The ticket of a session's user as it will be when that is reached otherwise.
    fn reached(
        &self,
        ticket: &TicketId,
        session: &Session,
        reach: Reach,
    ) -> Result<Ticket, Reject> {
        self.check_own(ticket, &session.user)?;
        let known = self.lock().pool.ticket(ticket).cloned();
        let mut reached = known.ok_or_else(|| reject(&Illegal::Unknown))?;
        let mut players = reached.players.iter_mut();
        if let Some(player) = players.find(|player| player.user == session.user) {
            player.reach = reach;
        }
        Ok(reached)
    }

    /// Whether all of a party may have the ticket, those that have it aside.
    fn admit_users(&self, node: &Node, ticket: &Ticket) -> Result<(), Reject> {
        for Player { user, .. } in &ticket.players {
            let has_too_many = node.matchmaker.tickets_of(user) >= node.config.tickets_per_user_max;
            if has_too_many && !self.has(&ticket.id, user) {
                let message = format!("{user} has as many tickets as it may");
                return Err(Reject::new(ErrorCode::Limit, message));
            }
        }
        Ok(())
    }

    /// Whether one more ticket is taken, as far as the pool is known here: who is told no need not be in
    /// the log for it.
    fn admit(&self, node: &Node, ticket: &Ticket) -> Result<(), Reject> {
        self.admit_users(node, ticket)?;
        let state = self.lock();
        let is_heavy = state.pool.weight() + ticket.weight() > WEIGHT_MAX;
        if is_heavy || state.pool.ticket_count() >= self.rules().tickets_max {
            return Err(reject(&Illegal::Full));
        }
        Ok(())
    }
}

pub(super) fn reject(illegal: &Illegal) -> Reject {
    let code = match illegal {
        Illegal::Ticket(_) | Illegal::Teams | Illegal::Lease => ErrorCode::BadTicket,
        Illegal::Busy { .. } => ErrorCode::WaitsAlready,
        Illegal::Full => ErrorCode::PoolFull,
        Illegal::Unknown => ErrorCode::NoSuchThing,
        Illegal::Repeated | Illegal::Held | Illegal::Stale { .. } => ErrorCode::Conflict,
        Illegal::Lost => return unavailable("this node is not part of its cluster"),
        _ => ErrorCode::Unspecified,
    };
    Reject::new(code, illegal)
}

fn array<const N: usize>(bytes: &Bytes) -> Result<[u8; N], Reject> {
    let array = bytes.as_ref().try_into();
    array.map_err(|_| bad_frame("an id has 16 bytes"))
}

pub(super) fn bad_ticket(error: impl ToString) -> Reject {
    Reject::new(ErrorCode::BadTicket, error)
}

fn bad_frame(message: &str) -> Reject {
    Reject::new(ErrorCode::BadFrame, message)
}

/// What one ticket may weigh.
const TICKET_BYTES_MAX: usize = 16 * 1024;

// A pool's tickets, and those of who plays, fit into a snapshot of the engine, with all that is remembered beside them.
const _: () = assert!(
    WEIGHT_MAX + PLAYED_WEIGHT_MAX + BEGUN_WEIGHT_MAX + size_of::<TicketId>() * ENDED_MAX
        <= SNAPSHOT_BYTES_MAX / 8 * 7
);
