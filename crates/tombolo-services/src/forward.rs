//! What members say to each other through the node: to members here it is handed over within the
//! call that brought it, to members on other nodes within the next frame to those.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tombolo_room::{GroupId, PropertyKey};
use tombolo_wire::v1::{self, DeviceKeys, ErrorCode, Introduction, server_frame};
use tombolo_wire::{
    CANDIDATES_MAX, EARLY_BYTES_MAX, NodeId, RECIPIENTS_MAX, RELIABLE_BYTES_MAX, RoomId,
    UNRELIABLE_BYTES_MAX, UserId,
};

use crate::cluster::{self, Sender};
use crate::hooks::MemberMessage;
use crate::host::{Host, State};
use crate::node::Node;
use crate::queue::Topic;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

/// Hands a message to members. Those that are not there are named in a refusal; the others get it.
pub(crate) fn handle_send(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    send: &v1::Send,
    now: Instant,
) {
    if let Err(reject) = forward_message(node, session, seq, send, now) {
        node.refuse(session, seq, reject);
    }
}

/// Hands an introduction to a member, under the sender's true keys, once the relay lets both reach
/// each other.
pub(crate) fn handle_introduce(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    introduce: v1::Introduce,
    now: Instant,
) {
    if let Err(reject) = forward_introduction(node, session, seq, introduce, now) {
        node.refuse(session, seq, reject);
    }
}

fn forward_message(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    send: &v1::Send,
    now: Instant,
) -> Result<(), Reject> {
    let bytes_max = if seq == 0 {
        UNRELIABLE_BYTES_MAX
    } else {
        RELIABLE_BYTES_MAX
    };
    if send.payload.len() > bytes_max {
        return Err(too_large("payload", bytes_max));
    }
    let manner = Manner::parse(seq, &send.room, &session.user, send.unordered, &send.latest)?;
    check_rate(session, send.payload.len(), now)?;
    let host = host_of(session, &send.room)?;
    let payload = payload_by_game(node, session, &host, send, bytes_max)?;
    let state = member_state(&host, session)?;

    let Recipients {
        here,
        elsewhere,
        absent,
    } = recipients(node, &state, session, send)?;
    let count = here.len() + elsewhere.values().map(|there| there.members).sum::<usize>();
    let bytes = count * payload.len();
    if !session.account().deliveries.take(now, count, bytes) {
        return Err(Reject::new(ErrorCode::Limit, "too much to too many"));
    }
    let delivery = server_frame::Body::Delivery(v1::Delivery {
        room: send.room.clone(),
        from: session.user.to_string(),
        payload: payload.clone(),
        latest: send.latest.clone(),
        more: Vec::new(),
    });
    // What may get lost is not worth an answer each time.
    let mut refused = absent.filter(|reject| seq != 0 || reject.code != ErrorCode::Unavailable);
    let sender = sender(&state, session, &host, seq)?;
    for recipient in here {
        if let Err(behind) = node.deliver(recipient, &sender, &delivery, &manner) {
            refused.get_or_insert(behind);
        }
    }
    for (to, There { users, group, .. }) in elsewhere {
        let item = cluster::message_item(&sender, &users, group, &manner, &payload);
        let sent = match &manner {
            Manner::Unreliable => {
                node.cluster.send_loose(&node.counters, &to, item);
                Ok(false)
            }
            Manner::Ordered | Manner::Unordered => node.cluster.send(&to, item).map(|()| false),
            Manner::Latest(topic) => {
                let topic = (topic.clone(), users, group);
                node.cluster.send_latest(&to, topic, item)
            }
        };
        match sent {
            Ok(replaced) => node.counters.coalesced.add(u64::from(replaced)),
            Err(behind) => drop(refused.get_or_insert(behind)),
        }
    }
    refused.map_or(Ok(()), Err)
}

/// How a message is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// At most once.
    Unreliable,
    /// Once, in order with the sender's others of this kind.
    Ordered,
    /// Once, in any order.
    Unordered,
    /// As long as there is none that is newer; the last one once.
    Latest(Topic),
}

impl Manner {
    /// Reads how a message is to be handed over; the room's name is one.
    pub(crate) fn parse(
        seq: u64,
        room: &str,
        from: &UserId,
        unordered: bool,
        latest: &str,
    ) -> Result<Self, Reject> {
        let bad_frame = |message: &str| Reject::new(ErrorCode::BadFrame, message);
        if seq == 0 {
            return match (unordered, latest) {
                (false, "") => Ok(Self::Unreliable),
                (_, _) => Err(bad_frame("what may get lost has no further kind")),
            };
        }
        match (unordered, latest) {
            (false, "") => Ok(Self::Ordered),
            (true, "") => Ok(Self::Unordered),
            (_, latest) => Ok(Self::Latest(Topic {
                room: RoomId::parse(room).map_err(|error| Reject::new(error.code(), error))?,
                from: from.clone(),
                key: PropertyKey::parse(latest)
                    .map_err(|error| Reject::new(ErrorCode::BadName, error))?,
            })),
        }
    }
}

/// What goes on in place of what a member said, as the game's own code has it. It is not called under the
/// room's lock, so that nobody else waits for it.
fn payload_by_game(
    node: &Node,
    session: &Session,
    host: &Host,
    send: &v1::Send,
    bytes_max: usize,
) -> Result<Bytes, Reject> {
    if !node.config.hooks.is_there() {
        return Ok(send.payload.clone());
    }
    drop(member_state(host, session)?);
    let audience = send.audience.as_ref();
    let message = MemberMessage {
        room: host.room(),
        from: &session.user,
        to: audience.map_or(&send.to, |audience| &audience.users),
        group: audience.and_then(|audience| NonZeroU32::new(audience.group)),
        payload: &send.payload,
        is_durable: false,
    };
    let changed = node.check_message(&message, bytes_max)?;
    Ok(changed.unwrap_or_else(|| send.payload.clone()))
}

/// Who is to get a message.
struct Recipients<'a> {
    here: Vec<&'a Arc<Session>>,
    elsewhere: BTreeMap<NodeId, There>,
    /// Why somebody who is meant is not there.
    absent: Option<Reject>,
}

/// The recipients on another node.
#[derive(Default)]
struct There {
    /// How many.
    members: usize,
    /// Their names; none when all members there are meant, or those of a group.
    users: Vec<UserId>,
    group: Option<GroupId>,
}

fn recipients<'a>(
    node: &Node,
    state: &'a State,
    sender: &Session,
    send: &v1::Send,
) -> Result<Recipients<'a>, Reject> {
    let (to, with_sender) = match &send.audience {
        None => (&send.to, false),
        Some(_) if !send.to.is_empty() => {
            let message = "a message is to some or has an audience";
            return Err(Reject::new(ErrorCode::BadFrame, message));
        }
        Some(audience) => match (audience.others, audience.group) {
            (false, 0) => (&audience.users, audience.users.is_empty()),
            (true, 0) if audience.users.is_empty() => (&audience.users, false),
            (false, group) if audience.users.is_empty() => {
                return Ok(group_recipients(node, state, group));
            }
            (_, _) => {
                let message = "an audience is one of several";
                return Err(Reject::new(ErrorCode::BadFrame, message));
            }
        },
    };
    if to.len() > RECIPIENTS_MAX {
        let message = format!("a message has at most {RECIPIENTS_MAX} recipients");
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    let mut recipients = Recipients {
        here: Vec::new(),
        elsewhere: BTreeMap::new(),
        absent: None,
    };
    if to.is_empty() {
        let others = state
            .sessions()
            .filter(|(_, session)| with_sender || session.id != sender.id);
        recipients.here.extend(others.map(|(_, session)| session));
        for (node, members) in state.elsewhere() {
            let there = There {
                members,
                ..There::default()
            };
            recipients.elsewhere.insert(node.clone(), there);
        }
        recipients.absent = state.has_absent().then(requests::nothing_kept);
        return Ok(recipients);
    }
    for name in BTreeSet::from_iter(to) {
        let user = UserId::parse(name).map_err(|error| Reject::new(error.code(), error))?;
        if let Some(session) = state.session(&user) {
            recipients.here.push(session);
        } else if let Some(there) = node_of(node, state, &user) {
            let there = recipients.elsewhere.entry(there.clone()).or_default();
            there.members += 1;
            there.users.push(user);
        } else {
            recipients
                .absent
                .get_or_insert_with(|| state.why_not_to(&user));
        }
    }
    Ok(recipients)
}

/// The members of an interest group, the sender if it is one.
fn group_recipients<'a>(node: &Node, state: &'a State, group: u32) -> Recipients<'a> {
    let mut recipients = Recipients {
        here: Vec::new(),
        elsewhere: BTreeMap::new(),
        absent: None,
    };
    let Some(group) = NonZeroU32::new(group).map(GroupId) else {
        return recipients;
    };
    for (user, membership) in state.members_in(group) {
        if membership.node != *node.name() {
            let there = recipients.elsewhere.entry(membership.node.clone());
            let there = there.or_default();
            there.members += 1;
            there.group = Some(group);
        } else if let Some(session) = state.session(user) {
            recipients.here.push(session);
        } else {
            recipients.absent.get_or_insert_with(requests::nothing_kept);
        }
    }
    recipients
}

/// The other node that a member is on.
fn node_of<'a>(node: &Node, state: &'a State, user: &UserId) -> Option<&'a NodeId> {
    let there = &state.membership(user)?.node;
    (there != node.name()).then_some(there)
}

/// How other nodes know a member here.
fn sender(state: &State, session: &Session, host: &Host, seq: u64) -> Result<Sender, Reject> {
    Ok(Sender {
        room: host.room().clone(),
        at: state.cursor().ok_or_else(requests::not_a_member)?,
        user: session.user.clone(),
        session: session.id,
        seq,
    })
}

fn forward_introduction(
    node: &Arc<Node>,
    session: &Arc<Session>,
    seq: u64,
    introduce: v1::Introduce,
    now: Instant,
) -> Result<(), Reject> {
    let bad_frame = |message: &str| Reject::new(ErrorCode::BadFrame, message);
    let mut introduction = introduce
        .introduction
        .ok_or_else(|| bad_frame("there is nothing to hand over"))?;
    check_introduction(&introduction)?;
    check_introduction_rate(session, &introduction, now)?;
    let to = UserId::parse(&introduce.to).map_err(|error| Reject::new(error.code(), error))?;

    let host = host_of(session, &introduce.room)?;
    let state = member_state(&host, session)?;
    let relay_ips = node.relay.relay_ips();
    let sender = sender(&state, session, &host, seq)?;
    let Some(recipient) = state.session(&to).cloned() else {
        let there = node_of(node, &state, &to).ok_or_else(|| state.why_not_to(&to))?;
        // The other node permits its own member; both sides' packets come from a relay of either.
        let ips = [relay_ips.clone(), node.cluster.relay_ips(there)].concat();
        node.relay.permit(&session.user, &ips);
        let item = cluster::introduction_item(&sender, &to, &introduction, &relay_ips);
        return node.cluster.send(there, item);
    };
    drop(state);
    if recipient.id == session.id {
        return Err(requests::no_such_member(&to));
    }

    // What the relay must let through before either side can send: the packets come from a relay of
    // the node's, whichever of the two allocations they leave by. The introduction itself has no say
    // in this: who is let in to whom must not be for others to choose.
    node.relay.permit(&recipient.user, &relay_ips);
    node.relay.permit(&session.user, &relay_ips);

    introduction.keys = Some(DeviceKeys::from(&session.keys));
    let introduced = v1::Introduced {
        room: introduce.room,
        from: session.user.to_string(),
        introduction: Some(introduction),
        ..v1::Introduced::default()
    };
    let introduced = server_frame::Body::Introduced(introduced);
    node.push_from_member(&recipient, &sender, introduced)?;
    node.counters.introduced.add(1);
    Ok(())
}

/// What an introduction costs its sender.
pub(crate) fn check_introduction_rate(
    session: &Session,
    introduction: &Introduction,
    now: Instant,
) -> Result<(), Reject> {
    check_rate(session, introduction.early.len(), now)?;
    if session.account().introductions.take(now, 1) {
        Ok(())
    } else {
        Err(Reject::new(ErrorCode::Limit, "too many introductions"))
    }
}

pub(crate) fn check_introduction(introduction: &Introduction) -> Result<(), Reject> {
    if introduction.attempt == 0 {
        return Err(Reject::new(ErrorCode::BadFrame, "an attempt is not zero"));
    }
    if introduction.early.len() > EARLY_BYTES_MAX {
        return Err(too_large("early message", EARLY_BYTES_MAX));
    }
    if introduction.candidates.len() > CANDIDATES_MAX {
        let message = format!("an introduction has at most {CANDIDATES_MAX} candidates");
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    // RFC 8839 §5.4 bounds both.
    if introduction.ufrag.len() > CREDENTIAL_BYTES_MAX
        || introduction.password.len() > CREDENTIAL_BYTES_MAX
    {
        return Err(too_large("credential", CREDENTIAL_BYTES_MAX));
    }
    for candidate in &introduction.candidates {
        candidate
            .socket_addr()
            .map_err(|error| Reject::new(error.code(), error))?;
    }
    Ok(())
}

fn host_of(session: &Session, room: &str) -> Result<Arc<Host>, Reject> {
    let room = RoomId::parse(room).map_err(|error| Reject::new(error.code(), error))?;
    session
        .lock()
        .host_by_room
        .get(&room)
        .cloned()
        .ok_or_else(requests::not_a_member)
}

/// The room as it is while its sender is a member.
fn member_state<'a>(
    host: &'a Host,
    session: &Session,
) -> Result<std::sync::MutexGuard<'a, State>, Reject> {
    let state = host.lock();
    if state.is_member(session) {
        Ok(state)
    } else {
        Err(requests::not_a_member())
    }
}

fn check_rate(session: &Session, bytes: usize, now: Instant) -> Result<(), Reject> {
    if session.account().rate.take(now, 1, bytes) {
        Ok(())
    } else {
        Err(Reject::new(ErrorCode::Limit, "too much at once"))
    }
}

fn too_large(what: &str, bytes_max: usize) -> Reject {
    Reject::new(
        ErrorCode::TooLarge,
        format!("{what} is above the limit of {bytes_max} bytes"),
    )
}

/// RFC 8839 §5.4.
const CREDENTIAL_BYTES_MAX: usize = 256;
