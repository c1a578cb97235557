//! Entries to bytes.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_wire::v1;

use super::{Answer, Body, Entry, VERSION, Venue};
use crate::formed::{Formed, Party, Side};
use crate::generated as wire;
use crate::ticket::{Device, Player, Ticket};
use crate::word::{MatchId, Name, OperationId};

impl Entry {
    /// The bytes to append, as an attempt of that name.
    #[must_use]
    pub fn encode(&self, operation: OperationId) -> Bytes {
        let entry = wire::Entry {
            version: VERSION,
            operation: id(&operation.0),
            time_ms: self.time.as_millis(),
            body: Some(body(&self.body)),
        };
        entry.encode_to_vec().into()
    }
}

fn body(body: &Body) -> wire::entry::Body {
    use wire::entry::Body as On;

    match body {
        Body::Submitted(submitted) => On::Submitted(ticket(submitted)),
        Body::Changed {
            ticket,
            players: all,
        } => On::Changed(wire::Changed {
            ticket: id(&ticket.0),
            players: players(all),
        }),
        Body::Cancelled(ticket) => On::Cancelled(id(&ticket.0)),
        Body::Dropped { ticket, user } => On::Dropped(wire::Away {
            ticket: id(&ticket.0),
            user: user.to_string(),
            device: None,
        }),
        Body::Returned {
            ticket,
            user,
            device: at,
        } => On::Returned(wire::Away {
            ticket: id(&ticket.0),
            user: user.to_string(),
            device: at.as_ref().map(device),
        }),
        Body::Reached {
            ticket,
            user,
            reach,
        } => On::Reached(wire::Reached {
            ticket: id(&ticket.0),
            user: user.to_string(),
            reach: v1::MatchReach::from(*reach).into(),
        }),
        Body::NodeLost { node, incarnation } => {
            On::NodeLost(node_lost(node.as_str(), *incarnation))
        }
        Body::Claimed(matches) => On::Claimed(wire::Claims {
            matches: matches.iter().map(formed).collect(),
        }),
        Body::Answered {
            id: match_id,
            user,
            answer,
        } => On::Answered(wire::Answered {
            number: match_id.0,
            user: user.to_string(),
            accept: *answer == Answer::Accept,
        }),
        Body::Backfill(backfill) => On::Backfill(wire::Backfill {
            id: id(&backfill.id.0),
            after: backfill.after,
            sides: running_sides(&backfill.sides),
            lease_ms: millis(backfill.lease),
            venue: backfill.venue.as_ref().map(venue),
        }),
        Body::Renewed { id: running, lease } => On::Renewed(wire::Renewed {
            id: id(&running.0),
            lease_ms: millis(*lease),
        }),
        Body::Closed(running) => On::Closed(id(&running.0)),
        Body::Seated(seated) => On::Seated(wire::Numbers {
            numbers: seated.iter().map(|MatchId(number)| *number).collect(),
        }),
        Body::Unseated(MatchId(number)) => On::Unseated(*number),
        Body::Ticked => On::Ticked(wire::Ticked {}),
    }
}

pub(crate) fn ticket(ticket: &Ticket) -> wire::Ticket {
    wire::Ticket {
        id: id(&ticket.id.0),
        players: players(&ticket.players),
        tags: ticket.tags.iter().map(Name::to_string).collect(),
        query: ticket.query.to_string(),
        priority: ticket.priority.into(),
        grace_ms: millis(ticket.grace),
    }
}

fn players(players: &[Player]) -> Vec<wire::Player> {
    let players = players.iter().map(|player| wire::Player {
        about: Some(v1::MatchPlayer::from(player)),
        device: player.device.as_ref().map(device),
    });
    players.collect()
}

fn device(device: &Device) -> wire::Device {
    wire::Device {
        session: id(&device.session.0),
        node: device.node.to_string(),
        incarnation: device.incarnation,
    }
}

pub(crate) fn node_lost(node: &str, incarnation: u64) -> wire::NodeLost {
    wire::NodeLost {
        node: node.to_owned(),
        incarnation,
    }
}

pub(crate) fn formed(formed: &Formed) -> wire::Formed {
    wire::Formed {
        number: formed.id.0,
        joins: formed.backfill.map(|(running, generation)| wire::Joins {
            id: id(&running.0),
            generation,
        }),
        sides: formed.sides.iter().map(side).collect(),
        region: text(formed.region.as_ref()),
        host: text(formed.host.as_ref()),
        quality: formed.quality.into(),
        awaits_seats: formed.awaits_seats,
    }
}

pub(crate) fn venue(venue: &Venue) -> v1::MatchVenue {
    v1::MatchVenue {
        region: text(venue.region.as_ref()),
        host: text(venue.host.as_ref()),
    }
}

fn side(side: &Side) -> wire::Side {
    wire::Side {
        team: side.team.to_string(),
        parties: side.parties.iter().map(party).collect(),
    }
}

fn party(party: &Party) -> wire::Party {
    let members = party.users.iter().map(|(user, role)| v1::MatchMember {
        user: user.to_string(),
        role: text(role.as_ref()),
    });
    wire::Party {
        ticket: id(&party.ticket.0),
        revision: party.revision,
        members: members.collect(),
    }
}

fn running_sides(sides: &[(Name, Vec<Ticket>)]) -> Vec<wire::RunningSide> {
    let sides = sides.iter().map(|(team, tickets)| wire::RunningSide {
        team: team.to_string(),
        tickets: tickets.iter().map(ticket).collect(),
    });
    sides.collect()
}

fn id(id: &[u8; 16]) -> Bytes {
    Bytes::copy_from_slice(id)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Nothing is empty.
fn text(name: Option<&impl ToString>) -> String {
    name.map_or_else(String::new, ToString::to_string)
}
