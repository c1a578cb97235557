//! What members on other nodes have for the members here.
//!
//! The room's log says who is a member, on which node and with which keys; what comes from another
//! node is believed only as far as the log bears it out. Nodes read the log at different times: what
//! was sent by somebody who had read more waits until this node has read as much, and what was sent
//! by somebody who has left since counts if it was sent before its node knew.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_engine::Offset;
use tombolo_room::{GroupId, Membership};
use tombolo_wire::v1::{self, DeviceKeys, ErrorCode, server_frame};
use tombolo_wire::{NodeId, PublicKeys, UserId};

use super::{Host, State};
use crate::cluster::{Arrival, Content, MARK_SEQ, Sender, passed_item, refusal_item};
use crate::forward::Manner;
use crate::lock::lock;
use crate::node::Node;
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

/// What came before this node had read enough of the log, oldest first.
#[derive(Default)]
pub(super) struct Waiting {
    arrivals: VecDeque<(Instant, NodeId, Arrival)>,
    bytes: usize,
    /// Somebody looks to it that none waits for too long.
    is_watched: bool,
}

/// A member on another node that has gone.
pub(super) struct Departed {
    user: UserId,
    membership: Membership,
    /// The entry by which it went.
    at: Offset,
}

impl Node {
    /// Takes in what a member on another node has for members here.
    pub(crate) fn arrive(self: &Arc<Self>, from: &NodeId, arrival: Arrival) {
        let host = lock(&self.host_by_room).get(&arrival.sender.room).cloned();
        match host {
            Some(host) => host.arrive(self, from, arrival),
            // Nobody here says anything to anybody in that room.
            None if arrival.content == Content::Moved => self.pass(from, &arrival.sender),
            None => {
                if let Some(user) = arrival.named().next() {
                    self.refuse_there(from, &arrival.sender, requests::no_such_member(user));
                }
            }
        }
    }

    /// Answers a mark.
    fn pass(&self, to: &NodeId, member: &Sender) {
        let item = passed_item(member.session, &member.room);
        if let Err(reject) = self.cluster.pass_on(to, item) {
            tracing::warn!(%to, %reject, "a mark is not answered");
        }
    }

    /// Tells a member, on whichever node it is now, that its frame was not carried out.
    pub(crate) fn refuse_wherever(self: &Arc<Self>, sender: &Sender, reject: Reject) {
        let session = lock(&self.sessions).wherever(&sender.session);
        if let Some(session) = session {
            return self.refuse(&session, sender.seq, reject);
        }
        let host = lock(&self.host_by_room).get(&sender.room).cloned();
        let there = host.and_then(|host| {
            let state = host.lock();
            let membership = state.membership(&sender.user)?;
            (membership.session == sender.session).then(|| membership.node.clone())
        });
        if let Some(there) = there.filter(|there| there != self.name()) {
            self.refuse_there(&there, sender, reject);
        }
    }

    /// Tells a member on another node that its frame was not carried out.
    pub(crate) fn refuse_there(&self, to: &NodeId, sender: &Sender, reject: Reject) {
        if sender.seq == MARK_SEQ {
            // Nobody has said anything; whoever sent the mark must not wait for it.
            return self.pass(to, sender);
        }
        self.counters.count_refused(reject.code);
        let item = refusal_item(sender.session, sender.seq, &reject);
        if sender.seq == 0 {
            self.cluster.send_loose(&self.counters, to, item);
        } else if let Err(reject) = self.cluster.pass_on(to, item) {
            tracing::debug!(%to, %reject, "refusal dropped");
        }
    }
}

impl Arrival {
    /// Those it is meant for by name.
    fn named(&self) -> impl Iterator<Item = &UserId> {
        match &self.content {
            Content::Message { to, .. } => to.iter(),
            Content::Introduction { to, .. } => std::slice::from_ref(to).iter(),
            Content::Moved => [].iter(),
        }
    }
}

impl Host {
    fn arrive(self: &Arc<Self>, node: &Arc<Node>, from: &NodeId, arrival: Arrival) {
        let mut state = self.lock();
        if state.waiting.arrivals.is_empty() && state.has_read(arrival.sender.at) {
            return hand_over(node, &state, from, arrival);
        }
        if arrival.sender.seq == 0 {
            return node.counters.dropped.add(1);
        }
        let waiting = &mut state.waiting;
        if waiting.arrivals.len() >= WAITING_MAX
            || waiting.bytes + arrival.bytes() > WAITING_BYTES_MAX
        {
            let reject = Reject::new(ErrorCode::Limit, "the member's node is behind");
            return node.refuse_there(from, &arrival.sender, reject);
        }
        if !std::mem::replace(&mut waiting.is_watched, true) {
            let (host, node) = (Arc::clone(self), Arc::clone(node));
            node.runtime.clone().spawn(host.expire(node));
        }
        waiting.bytes += arrival.bytes();
        waiting
            .arrivals
            .push_back((Instant::now(), from.clone(), arrival));
    }

    /// Refuses what waits for too long: its sender's node knows of entries that nobody else finds.
    async fn expire(self: Arc<Self>, node: Arc<Node>) {
        let wait = node.config.engine_timeout.max(Duration::from_millis(1));
        loop {
            let first = {
                let waiting = &mut self.lock().waiting;
                match waiting.arrivals.front() {
                    Some((since, ..)) => *since,
                    None => return waiting.is_watched = false,
                }
            };
            tokio::time::sleep_until(first + wait).await;
            let mut state = self.lock();
            while state
                .waiting
                .arrivals
                .front()
                .is_some_and(|(since, ..)| *since + wait <= Instant::now())
                && let Some((from, arrival)) = state.waiting.pop()
            {
                let reject = Reject::new(ErrorCode::Unavailable, "the engine does not answer");
                node.refuse_there(&from, &arrival.sender, reject);
            }
        }
    }

    /// Hands over what waited, as far as the log has been read.
    pub(super) fn admit_waiting(node: &Arc<Node>, state: &mut State) {
        while let Some((_, _, arrival)) = state.waiting.arrivals.front()
            && state.has_read(arrival.sender.at)
            && let Some((from, arrival)) = state.waiting.pop()
        {
            hand_over(node, state, &from, arrival);
        }
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<(NodeId, Arrival)> {
        let (_, from, arrival) = self.arrivals.pop_front()?;
        self.bytes -= arrival.bytes();
        Some((from, arrival))
    }
}

impl State {
    fn has_read(&self, at: Offset) -> bool {
        self.ahead.is_none() && self.cursor >= Some(at)
    }

    /// Remembers a member on another node that went by the entry just read.
    pub(super) fn remember_departed(&mut self, user: &UserId, membership: &Membership) {
        let Some(at) = self.cursor else {
            return;
        };
        if self.departed.len() >= DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back(Departed {
            user: user.clone(),
            membership: membership.clone(),
            at,
        });
    }

    /// The session of a member that is here, or was for a sender whose node had read so far.
    pub(super) fn session_for(&self, user: &UserId, at: Offset) -> Option<&Arc<Session>> {
        let mut moved = self.moved_since(at);
        let moved = moved.find(|moved| moved.user == *user);
        self.session(user)
            .or_else(|| moved.map(|moved| &moved.session))
    }

    /// The sender's keys, if it is (or was, when its node sent this) a member there.
    fn keys_of(&self, from: &NodeId, sender: &Sender) -> Option<PublicKeys> {
        let is_it = |membership: &&Membership| {
            membership.node == *from && membership.session == sender.session
        };
        let departed = || {
            let mut departed = self.departed.iter().rev();
            departed
                .find(|gone| gone.user == sender.user && gone.at > sender.at)
                .map(|gone| &gone.membership)
        };
        let membership = self.membership(&sender.user).filter(is_it);
        let membership = membership.or_else(|| departed().filter(is_it))?;
        Some(membership.keys)
    }
}

/// Hands something over to the members here, if the log knows its sender.
fn hand_over(node: &Arc<Node>, state: &State, from: &NodeId, arrival: Arrival) {
    let Arrival { sender, content } = arrival;
    if content == Content::Moved {
        return node.pass(from, &sender);
    }
    let Some(keys) = state.keys_of(from, &sender) else {
        node.counters.cluster.items_refused.add(1);
        return node.refuse_there(from, &sender, requests::not_a_member());
    };
    let result = match content {
        Content::Moved => Ok(()),
        Content::Message {
            to,
            group,
            manner,
            payload,
        } => {
            let latest = match &manner {
                Manner::Latest(topic) => topic.key.to_string(),
                Manner::Unreliable | Manner::Ordered | Manner::Unordered => String::new(),
            };
            let delivery = server_frame::Body::Delivery(v1::Delivery {
                room: sender.room.to_string(),
                from: sender.user.to_string(),
                payload,
                latest,
                more: Vec::new(),
            });
            let here = recipients(node, state, &sender, &to, group);
            hand_over_message(node, &sender, here, &delivery, &manner)
        }
        Content::Introduction {
            to,
            introduction,
            relay_ips,
        } => hand_over_introduction(
            node,
            state,
            &sender,
            &to,
            &relay_ips,
            v1::Introduced {
                room: sender.room.to_string(),
                from: sender.user.to_string(),
                introduction: Some(v1::Introduction {
                    keys: Some(DeviceKeys::from(&keys)),
                    ..*introduction
                }),
                ..v1::Introduced::default()
            },
        ),
    };
    if let Err(reject) = result {
        node.refuse_there(from, &sender, reject);
    }
}

/// Who of those here is meant, and why others are not.
fn recipients<'a>(
    node: &Node,
    state: &'a State,
    sender: &Sender,
    to: &[UserId],
    group: Option<GroupId>,
) -> (Vec<&'a Arc<Session>>, Option<Reject>) {
    let mut refused = None;
    let mut recipients: Vec<&Arc<Session>> = Vec::new();
    if let Some(group) = group {
        for (user, membership) in state.members_in(group) {
            recipients.extend(state.meant(user, sender.at));
            if membership.node == *node.name() && state.session_for(user, sender.at).is_none() {
                refused.get_or_insert_with(requests::nothing_kept);
            }
        }
    } else if to.is_empty() {
        recipients.extend(state.everybody(sender.at));
        refused = state.has_absent().then(requests::nothing_kept);
    }
    for user in BTreeSet::from_iter(to) {
        match state.session_for(user, sender.at) {
            Some(session) => recipients.push(session),
            None => drop(refused.get_or_insert_with(|| state.why_not_to(user))),
        }
    }
    (recipients, refused)
}

fn hand_over_message(
    node: &Arc<Node>,
    sender: &Sender,
    (recipients, absent): (Vec<&Arc<Session>>, Option<Reject>),
    delivery: &server_frame::Body,
    manner: &Manner,
) -> Result<(), Reject> {
    let mut refused = absent.filter(|reject| {
        // What may get lost is not worth an answer each time.
        *manner != Manner::Unreliable || reject.code != ErrorCode::Unavailable
    });
    for recipient in recipients {
        if let Err(behind) = node.deliver(recipient, sender, delivery, manner) {
            refused.get_or_insert(behind);
        }
    }
    refused.map_or(Ok(()), Err)
}

/// The receiver's packets come to its allocation here from the sender's relay there.
fn hand_over_introduction(
    node: &Arc<Node>,
    state: &State,
    sender: &Sender,
    to: &UserId,
    relay_ips: &[IpAddr],
    introduced: v1::Introduced,
) -> Result<(), Reject> {
    let recipient = state
        .session_for(to, sender.at)
        .ok_or_else(|| state.why_not_to(to))?;
    debug_assert_ne!(recipient.id, sender.session, "a session is on one node");
    let mut ips = node.relay.relay_ips();
    ips.extend(relay_ips);
    node.relay.permit(&recipient.user, &ips);
    let introduced = server_frame::Body::Introduced(introduced);
    node.push_from_member(recipient, sender, introduced)?;
    node.counters.introduced.add(1);
    Ok(())
}

/// Of one room, what waits for the log.
const WAITING_MAX: usize = 4096;
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Of one room, members on other nodes that have gone and may still be heard.
const DEPARTED_MAX: usize = 256;
