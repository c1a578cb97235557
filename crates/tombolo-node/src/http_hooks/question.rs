//! What the game's server is asked, in JSON.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tombolo_room::{OwnerPolicy, Settings, Writers};
use tombolo_services::{
    DeviceCommand, JoinQuestion, MatchName, MatchPlayer, MatchTicket, MatchValue,
};

#[derive(Serialize)]
pub(super) struct Question<'a> {
    pub(super) question: &'static str,
    /// With `life` and `number` it names the question: no other has all three.
    pub(super) node: &'a str,
    pub(super) life: u64,
    pub(super) number: u64,
    /// When, since 1970, in seconds.
    pub(super) time: f64,
    pub(super) user: &'a str,
    #[serde(flatten)]
    pub(super) about: About<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum About<'a> {
    Join {
        room: &'a str,
        opening: bool,
        settings: SettingsBody,
    },
    Ticket {
        pool: &'a str,
        ticket: TicketBody<'a>,
    },
    Field {
        field: &'a str,
        class: u8,
        marks: u64,
    },
    Command {
        session: String,
        command: &'a str,
        base64: String,
    },
}

/// In the words of the HTTP API.
#[derive(Serialize)]
pub(super) struct SettingsBody {
    members_max: u32,
    password: bool,
    locked: bool,
    hidden: bool,
    seat_kept_s: u64,
    empty_kept_s: u64,
    owner_policy: &'static str,
    writers: &'static str,
    history_max: u32,
}

#[derive(Serialize)]
pub(super) struct TicketBody<'a> {
    id: String,
    priority: i8,
    tags: Vec<&'a str>,
    query: &'a str,
    grace_s: f64,
    players: Vec<PlayerBody<'a>>,
}

#[derive(Serialize)]
struct PlayerBody<'a> {
    user: &'a str,
    attributes: BTreeMap<&'a str, ValueBody<'a>>,
    roles: Vec<&'a str>,
    blocks: Vec<&'a str>,
    reach: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ValueBody<'a> {
    Text(&'a str),
    Number(f64),
    List(&'a BTreeSet<String>),
    Map(BTreeMap<&'a str, f64>),
}

impl<'a> About<'a> {
    pub(super) fn join(question: &'a JoinQuestion) -> Self {
        Self::Join {
            room: question.room.as_str(),
            opening: question.is_opening,
            settings: SettingsBody::from(&question.settings),
        }
    }

    pub(super) fn ticket(pool: &'a MatchName, ticket: &'a MatchTicket) -> Self {
        let ticket = TicketBody {
            id: format!("{:032x}", u128::from_be_bytes(ticket.id.0)),
            priority: ticket.priority,
            tags: ticket.tags.iter().map(MatchName::as_str).collect(),
            query: ticket.query.as_str(),
            grace_s: ticket.grace.as_secs_f64(),
            players: ticket.players.iter().map(PlayerBody::from).collect(),
        };
        Self::Ticket {
            pool: pool.as_str(),
            ticket,
        }
    }

    pub(super) fn command(command: &'a DeviceCommand) -> Self {
        Self::Command {
            session: format!("{:032x}", u128::from_be_bytes(command.session)),
            command: command.name.as_str(),
            base64: STANDARD.encode(&command.payload),
        }
    }
}

impl From<&Settings> for SettingsBody {
    fn from(settings: &Settings) -> Self {
        Self {
            members_max: settings.members_max,
            password: settings.password.is_some(),
            locked: settings.is_locked,
            hidden: settings.is_hidden,
            seat_kept_s: settings.seat_kept.as_secs(),
            empty_kept_s: settings.empty_kept.as_secs(),
            owner_policy: match settings.owner_policy {
                OwnerPolicy::Automatic => "automatic",
                OwnerPolicy::Manual => "manual",
                OwnerPolicy::None => "none",
            },
            writers: match settings.writers {
                Writers::Everybody => "everybody",
                Writers::Owner => "owner",
                Writers::Server => "server",
            },
            history_max: settings.history_max,
        }
    }
}

impl<'a> From<&'a MatchPlayer> for PlayerBody<'a> {
    fn from(player: &'a MatchPlayer) -> Self {
        let attributes = player.attributes.iter();
        let attributes = attributes.map(|(name, value)| (name.as_str(), ValueBody::from(value)));
        Self {
            user: player.user.as_str(),
            attributes: attributes.collect(),
            roles: player.roles.iter().map(MatchName::as_str).collect(),
            blocks: player.blocks.iter().map(|user| user.as_str()).collect(),
            reach: player.reach.as_str(),
        }
    }
}

impl<'a> From<&'a MatchValue> for ValueBody<'a> {
    fn from(value: &'a MatchValue) -> Self {
        match value {
            MatchValue::Text(text) => Self::Text(text),
            MatchValue::Number(number) => Self::Number(*number),
            MatchValue::List(list) => Self::List(list),
            MatchValue::Map(map) => {
                let numbers = map.iter().map(|(name, number)| (name.as_str(), *number));
                Self::Map(numbers.collect())
            }
        }
    }
}
