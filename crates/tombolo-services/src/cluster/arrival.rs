//! Items as this node acts on them: parsed once, as they come from another node.

use std::net::IpAddr;
use std::num::NonZeroU32;

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{Epoch, Offset};
use tombolo_room::{GroupId, SessionId};
use tombolo_wire::v1::{self, ErrorCode};
use tombolo_wire::{RECIPIENTS_MAX, RELIABLE_BYTES_MAX, RoomId, UserId};

use super::generated::{self as wire, Item, item};
use super::{RELAY_IPS_MAX, ip_on_wire, parse_ip};
use crate::forward::Manner;
use crate::reject::Reject;

/// What a member on another node has for members here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrival {
    pub(crate) sender: Sender,
    pub(crate) content: Content,
}

/// The member that sends something, and how its node knows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sender {
    pub(crate) room: RoomId,
    /// How far its node had read the room's log.
    pub(crate) at: Offset,
    pub(crate) user: UserId,
    pub(crate) session: SessionId,
    /// The device's number of the frame; 0 when it is unreliable.
    pub(crate) seq: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Message {
        /// Empty: all members here, or those of the group.
        to: Vec<UserId>,
        group: Option<GroupId>,
        manner: Manner,
        payload: Bytes,
    },
    Introduction {
        to: UserId,
        introduction: Box<v1::Introduction>,
        /// From where the sender's node relays.
        relay_ips: Vec<IpAddr>,
    },
    /// The member goes on over another node.
    Moved,
}

/// What a member here sent could not be handed over there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) session: SessionId,
    pub(crate) seq: u64,
    pub(crate) reject: Reject,
}

/// An item that was found to be in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed {
    Arrival(Arrival),
    Refusal(Refusal),
    /// Something for the device of a session that goes on here.
    Forward {
        session: SessionId,
        body: Box<v1::server_frame::Body>,
        is_reliable: bool,
        sender: Option<Sender>,
    },
    /// A mark has passed the sending node.
    Passed(SessionId, RoomId),
    /// A room of a session that comes from the sending node has settled.
    Settled(SessionId, RoomId),
}

/// Whom it concerns when an item does not get where it was to go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Concern {
    /// The member whose message or introduction it is.
    Sender(Sender),
    /// The session that it was for, or that goes from node to node.
    Session(SessionId),
    Nobody,
}

/// An item is malformed, or of a kind that this version does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadItem;

impl Arrival {
    /// About as much memory as it takes.
    pub(crate) fn bytes(&self) -> usize {
        let content = match &self.content {
            Content::Message { payload, .. } => payload.len(),
            Content::Introduction { introduction, .. } => introduction.encoded_len(),
            Content::Moved => 0,
        };
        size_of::<Self>() + content
    }
}

pub(super) fn concern_of(item: &Item) -> Concern {
    let by_sender =
        |sender: &Option<wire::Sender>| parse_sender(sender.clone()).map(Concern::Sender);
    let by_session = |session: &Bytes| parse_session(session).map(Concern::Session);
    let concern = match &item.body {
        Some(item::Body::Message(message)) => by_sender(&message.sender),
        Some(item::Body::Introduction(introduction)) => by_sender(&introduction.sender),
        Some(item::Body::Forward(forward)) if forward.sender.is_some() => {
            by_sender(&forward.sender)
        }
        Some(item::Body::Forward(forward)) => by_session(&forward.session),
        Some(item::Body::Refusal(refusal)) => by_session(&refusal.session),
        Some(item::Body::Passed(place) | item::Body::Settled(place)) => by_session(&place.session),
        // Its session is on another node.
        Some(item::Body::Moved(_)) | None => Ok(Concern::Nobody),
    };
    concern.unwrap_or(Concern::Nobody)
}

pub(super) fn parse(item: Item) -> Result<Parsed, BadItem> {
    match item.body.ok_or(BadItem)? {
        item::Body::Message(message) => parse_message(message).map(Parsed::Arrival),
        item::Body::Introduction(introduction) => {
            parse_introduction(introduction).map(Parsed::Arrival)
        }
        item::Body::Forward(forward) => {
            let frame = v1::ServerFrame::decode(forward.frame).map_err(|_| BadItem)?;
            Ok(Parsed::Forward {
                session: parse_session(&forward.session)?,
                body: Box::new(frame.body.ok_or(BadItem)?),
                is_reliable: forward.reliable,
                sender: match forward.sender {
                    Some(sender) => Some(parse_sender(Some(sender))?),
                    None => None,
                },
            })
        }
        item::Body::Moved(moved) => Ok(Parsed::Arrival(Arrival {
            sender: parse_sender(moved.member)?,
            content: Content::Moved,
        })),
        item::Body::Passed(place) => {
            parse_place(&place).map(|(session, room)| Parsed::Passed(session, room))
        }
        item::Body::Settled(place) => {
            parse_place(&place).map(|(session, room)| Parsed::Settled(session, room))
        }
        item::Body::Refusal(refusal) => {
            let code = i32::try_from(refusal.code).map_err(|_| BadItem)?;
            let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Unavailable);
            let message: String = refusal.message.chars().take(MESSAGE_CHARS_MAX).collect();
            Ok(Parsed::Refusal(Refusal {
                session: parse_session(&refusal.session)?,
                seq: refusal.seq,
                reject: Reject::new(code, message),
            }))
        }
    }
}

fn parse_message(message: wire::Message) -> Result<Arrival, BadItem> {
    if message.to.len() > RECIPIENTS_MAX || message.payload.len() > RELIABLE_BYTES_MAX {
        return Err(BadItem);
    }
    let to = message
        .to
        .iter()
        .map(|user| UserId::parse(user).map_err(|_| BadItem))
        .collect::<Result<_, _>>()?;
    let sender = parse_sender(message.sender)?;
    let (room, user) = (sender.room.as_str(), &sender.user);
    let manner = Manner::parse(sender.seq, room, user, message.unordered, &message.latest);
    Ok(Arrival {
        content: Content::Message {
            to,
            group: NonZeroU32::new(message.group).map(GroupId),
            manner: manner.map_err(|_| BadItem)?,
            payload: message.payload,
        },
        sender,
    })
}

fn parse_introduction(item: wire::Introduction) -> Result<Arrival, BadItem> {
    let introduction = v1::Introduction::decode(item.introduction.as_ref()).map_err(|_| BadItem)?;
    crate::forward::check_introduction(&introduction).map_err(|_| BadItem)?;
    if item.relay_ips.len() > RELAY_IPS_MAX {
        return Err(BadItem);
    }
    let relay_ips = item
        .relay_ips
        .iter()
        .map(|ip| parse_ip(ip).ok_or(BadItem))
        .collect::<Result<_, _>>()?;
    Ok(Arrival {
        sender: parse_sender(item.sender)?,
        content: Content::Introduction {
            to: UserId::parse(&item.to).map_err(|_| BadItem)?,
            introduction: Box::new(introduction),
            relay_ips,
        },
    })
}

pub(super) fn parse_sender(sender: Option<wire::Sender>) -> Result<Sender, BadItem> {
    let sender = sender.ok_or(BadItem)?;
    let at = sender.at.ok_or(BadItem)?;
    Ok(Sender {
        room: RoomId::parse(&sender.room).map_err(|_| BadItem)?,
        at: Offset {
            epoch: Epoch(at.epoch),
            seq: at.seq,
        },
        user: UserId::parse(&sender.user).map_err(|_| BadItem)?,
        session: parse_session(&sender.session)?,
        seq: sender.seq,
    })
}

fn parse_place(place: &wire::Place) -> Result<(SessionId, RoomId), BadItem> {
    let room = RoomId::parse(&place.room).map_err(|_| BadItem)?;
    Ok((parse_session(&place.session)?, room))
}

fn parse_session(bytes: &Bytes) -> Result<SessionId, BadItem> {
    bytes
        .as_ref()
        .try_into()
        .map(SessionId)
        .map_err(|_| BadItem)
}

pub(super) fn sender_on_wire(sender: &Sender) -> wire::Sender {
    wire::Sender {
        room: sender.room.to_string(),
        at: Some(wire::Position {
            epoch: sender.at.epoch.0,
            seq: sender.at.seq,
        }),
        user: sender.user.to_string(),
        session: Bytes::copy_from_slice(&sender.session.0),
        seq: sender.seq,
    }
}

/// A message to members on another node; to all of them, or those of the group, when `to` is empty.
pub(crate) fn message_item(
    sender: &Sender,
    to: &[UserId],
    group: Option<GroupId>,
    manner: &Manner,
    payload: &Bytes,
) -> Item {
    let message = wire::Message {
        sender: Some(sender_on_wire(sender)),
        to: to.iter().map(UserId::to_string).collect(),
        payload: payload.clone(),
        group: group.map_or(0, |group| group.0.get()),
        unordered: *manner == Manner::Unordered,
        latest: match manner {
            Manner::Latest(topic) => topic.key.to_string(),
            Manner::Unreliable | Manner::Ordered | Manner::Unordered => String::new(),
        },
    };
    Item {
        body: Some(item::Body::Message(message)),
    }
}

/// An introduction to a member on another node.
pub(crate) fn introduction_item(
    sender: &Sender,
    to: &UserId,
    introduction: &v1::Introduction,
    relay_ips: &[IpAddr],
) -> Item {
    let introduction = wire::Introduction {
        sender: Some(sender_on_wire(sender)),
        to: to.to_string(),
        introduction: introduction.encode_to_vec().into(),
        relay_ips: relay_ips
            .iter()
            .take(RELAY_IPS_MAX)
            .map(ip_on_wire)
            .collect(),
    };
    Item {
        body: Some(item::Body::Introduction(introduction)),
    }
}

/// What a member on another node is told about its frame.
pub(crate) fn refusal_item(session: SessionId, seq: u64, reject: &Reject) -> Item {
    let refusal = wire::Refusal {
        session: Bytes::copy_from_slice(&session.0),
        seq,
        code: u32::try_from(i32::from(reject.code)).unwrap_or_default(),
        message: reject.message.clone(),
    };
    Item {
        body: Some(item::Body::Refusal(refusal)),
    }
}

/// Follows all that a member said over this node before it went on over another.
pub(crate) fn moved_item(member: &Sender) -> Item {
    let moved = wire::Moved {
        member: Some(sender_on_wire(member)),
    };
    Item {
        body: Some(item::Body::Moved(moved)),
    }
}

/// Follows all that was sent to a member over the node that it was on before.
pub(crate) fn passed_item(session: SessionId, room: &RoomId) -> Item {
    Item {
        body: Some(item::Body::Passed(place_on_wire(session, room))),
    }
}

/// Follows all that was forwarded of a room for a session that has gone on.
pub(crate) fn settled_item(session: SessionId, room: &RoomId) -> Item {
    Item {
        body: Some(item::Body::Settled(place_on_wire(session, room))),
    }
}

fn place_on_wire(session: SessionId, room: &RoomId) -> wire::Place {
    wire::Place {
        session: Bytes::copy_from_slice(&session.0),
        room: room.to_string(),
    }
}

/// As much of a refusal's text as a device is told.
const MESSAGE_CHARS_MAX: usize = 256;
