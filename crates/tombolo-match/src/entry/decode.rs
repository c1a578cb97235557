//! Bytes to entries: every bound that does not depend on the pool is checked here, once.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::{NodeId, UserId, v1};

use super::{
    Answer, Backfill, Body, CLAIMS_MAX, ENTRY_BYTES_MAX, Entry, EntryError, VERSION, Venue,
};
use crate::formed::{Formed, Party, Side};
use crate::generated as wire;
use crate::query::Query;
use crate::rules::{PLAYERS_MAX, TEAMS_MAX};
use crate::ticket::{Device, PARTY_MAX, Player, TAGS_MAX, Ticket};
use crate::word::{BackfillId, MatchId, Name, OperationId, SessionId, TicketId, Time};

type Parsed<T> = Result<T, EntryError>;

impl Entry {
    /// Reads appended bytes.
    ///
    /// # Errors
    /// When they are no entry; every node of this version says the same.
    pub fn decode(bytes: &[u8]) -> Parsed<(OperationId, Self)> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::TooLong);
        }
        let entry = wire::Entry::decode(bytes).map_err(|_| EntryError::Malformed)?;
        if entry.version != VERSION {
            let version = entry.version;
            return Err(EntryError::Version { version });
        }
        let parsed = Self {
            time: Time::from_millis(entry.time_ms),
            body: parse_body(entry.body.ok_or(EntryError::Malformed)?)?,
        };
        Ok((OperationId(array(&entry.operation)?), parsed))
    }
}

fn parse_body(body: wire::entry::Body) -> Parsed<Body> {
    use wire::entry::Body as On;

    Ok(match body {
        On::Submitted(ticket) => Body::Submitted(parse_ticket(ticket)?),
        On::Changed(changed) => Body::Changed {
            ticket: TicketId(array(&changed.ticket)?),
            players: parse_players(changed.players)?,
        },
        On::Cancelled(ticket) => Body::Cancelled(TicketId(array(&ticket)?)),
        On::Dropped(dropped) => Body::Dropped {
            ticket: TicketId(array(&dropped.ticket)?),
            user: parse_user(&dropped.user)?,
        },
        On::Returned(returned) => Body::Returned {
            ticket: TicketId(array(&returned.ticket)?),
            user: parse_user(&returned.user)?,
            device: returned.device.as_ref().map(parse_device).transpose()?,
        },
        On::Reached(reached) => Body::Reached {
            ticket: TicketId(array(&reached.ticket)?),
            user: parse_user(&reached.user)?,
            reach: reached.reach().into(),
        },
        On::NodeLost(lost) => Body::NodeLost {
            node: parse_node(&lost.node)?,
            incarnation: lost.incarnation,
        },
        On::Claimed(claims) => {
            bounded(claims.matches.len(), CLAIMS_MAX)?;
            let matches = claims.matches.into_iter().map(parse_formed);
            Body::Claimed(matches.collect::<Parsed<_>>()?)
        }
        On::Answered(answered) => Body::Answered {
            id: MatchId(answered.number),
            user: parse_user(&answered.user)?,
            answer: if answered.accept {
                Answer::Accept
            } else {
                Answer::Decline
            },
        },
        On::Backfill(backfill) => Body::Backfill(Backfill {
            id: BackfillId(array(&backfill.id)?),
            after: backfill.after,
            sides: parse_running_sides(backfill.sides)?,
            lease: Duration::from_millis(backfill.lease_ms),
            venue: backfill.venue.as_ref().map(parse_venue).transpose()?,
        }),
        On::Renewed(renewed) => Body::Renewed {
            id: BackfillId(array(&renewed.id)?),
            lease: Duration::from_millis(renewed.lease_ms),
        },
        On::Closed(running) => Body::Closed(BackfillId(array(&running)?)),
        On::Seated(seated) => {
            bounded(seated.numbers.len(), CLAIMS_MAX)?;
            Body::Seated(seated.numbers.into_iter().map(MatchId).collect())
        }
        On::Unseated(number) => Body::Unseated(MatchId(number)),
        On::Ticked(wire::Ticked {}) => Body::Ticked,
    })
}

/// Reads a ticket that keeps the limits of all pools.
pub(crate) fn parse_ticket(ticket: wire::Ticket) -> Parsed<Ticket> {
    bounded(ticket.tags.len(), TAGS_MAX)?;
    let tags = ticket.tags.iter().map(|tag| parse_name(tag));
    let parsed = Ticket {
        id: TicketId(array(&ticket.id)?),
        players: parse_players(ticket.players)?,
        tags: tags.collect::<Parsed<_>>()?,
        query: Query::parse_kept(&ticket.query).map_err(|_| EntryError::Malformed)?,
        priority: i8::try_from(ticket.priority).map_err(|_| EntryError::Malformed)?,
        grace: Duration::from_millis(ticket.grace_ms),
    };
    parsed.check().map_err(|_| EntryError::Malformed)?;
    Ok(parsed)
}

fn parse_players(players: Vec<wire::Player>) -> Parsed<Vec<Player>> {
    bounded(players.len(), PARTY_MAX)?;
    let players = players.into_iter().map(|player| {
        let about = player.about.ok_or(EntryError::Malformed)?;
        Ok(Player {
            device: player.device.as_ref().map(parse_device).transpose()?,
            ..Player::parse(about).map_err(|_| EntryError::Malformed)?
        })
    });
    players.collect()
}

fn parse_device(device: &wire::Device) -> Parsed<Device> {
    Ok(Device {
        session: SessionId(array(&device.session)?),
        node: parse_node(&device.node)?,
        incarnation: device.incarnation,
    })
}

pub(crate) fn parse_formed(formed: wire::Formed) -> Parsed<Formed> {
    bounded(formed.sides.len(), TEAMS_MAX)?;
    let joins = formed.joins.map(|joins| {
        let id = BackfillId(array(&joins.id)?);
        Ok((id, joins.generation))
    });
    let sides = formed.sides.into_iter().map(parse_side);
    Ok(Formed {
        id: MatchId(formed.number),
        backfill: joins.transpose()?,
        sides: sides.collect::<Parsed<_>>()?,
        region: parse_text(&formed.region)?,
        host: parse_text(&formed.host)?,
        quality: u16::try_from(formed.quality).map_err(|_| EntryError::Malformed)?,
        awaits_seats: formed.awaits_seats,
    })
}

pub(crate) fn parse_venue(venue: &v1::MatchVenue) -> Parsed<Venue> {
    Ok(Venue {
        region: parse_text(&venue.region)?,
        host: parse_text(&venue.host)?,
    })
}

fn parse_side(side: wire::Side) -> Parsed<Side> {
    bounded(side.parties.len(), PLAYERS_MAX as usize)?;
    let parties = side.parties.into_iter().map(|party| {
        bounded(party.members.len(), PARTY_MAX)?;
        let users = party.members.iter().map(|member| {
            let user = parse_user(&member.user)?;
            Ok((user, parse_text(&member.role)?))
        });
        Ok(Party {
            ticket: TicketId(array(&party.ticket)?),
            revision: party.revision,
            users: users.collect::<Parsed<_>>()?,
        })
    });
    Ok(Side {
        team: parse_name(&side.team)?,
        parties: parties.collect::<Parsed<_>>()?,
    })
}

fn parse_running_sides(sides: Vec<wire::RunningSide>) -> Parsed<Vec<(Name, Vec<Ticket>)>> {
    bounded(sides.len(), TEAMS_MAX)?;
    let sides = sides.into_iter().map(|side| {
        bounded(side.tickets.len(), PLAYERS_MAX as usize)?;
        let tickets = side.tickets.into_iter().map(parse_ticket);
        Ok((parse_name(&side.team)?, tickets.collect::<Parsed<_>>()?))
    });
    sides.collect()
}

pub(crate) fn parse_user(user: &str) -> Parsed<UserId> {
    UserId::parse(user).map_err(|_| EntryError::Malformed)
}

pub(crate) fn parse_node(node: &str) -> Parsed<NodeId> {
    NodeId::parse(node).map_err(|_| EntryError::Malformed)
}

fn parse_name(name: &str) -> Parsed<Name> {
    Name::parse(name).map_err(|_| EntryError::Malformed)
}

/// Nothing is empty.
fn parse_text<T: FromStr>(text: &str) -> Parsed<Option<T>> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| EntryError::Malformed),
    }
}

pub(crate) fn array<const N: usize>(bytes: &Bytes) -> Parsed<[u8; N]> {
    bytes.as_ref().try_into().map_err(|_| EntryError::Malformed)
}

fn bounded(count: usize, max: usize) -> Parsed<()> {
    if count > max {
        return Err(EntryError::Malformed);
    }
    Ok(())
}
