//! Drives the links: brings what waits to the bus and what comes from it to the rooms.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;
use tombolo_engine::{BusEvent, Pattern, Subscription};
use tombolo_wire::NodeId;
use tombolo_wire::v1::ErrorCode;

use super::arrival::{self, Concern, Parsed, Refusal};
use super::generated::{Frame, Item};
use super::link::FrameError;
use super::{decode, handover, inbox_of};
use crate::lock::lock;
use crate::node::Node;
use crate::reject::Reject;

/// Speaks with the other nodes for as long as it runs.
pub(crate) async fn run(node: Arc<Node>) {
    let Ok(inbox) = inbox_of(node.name()) else {
        tracing::error!(node = %node.name(), "the node's name is no subject: it stays alone");
        return;
    };
    let pattern = Pattern::Exactly(inbox);
    loop {
        if let Ok(subscription) = node.engine.subscribe(&pattern, INBOX_MESSAGES_MAX).await {
            listen(&node, subscription).await;
        }
        tokio::time::sleep(SUBSCRIBE_DELAY).await;
    }
}

async fn listen(node: &Arc<Node>, mut inbox: Subscription) {
    loop {
        let wait = node.cluster.poll_timeout();
        tokio::select! {
            biased;
            () = sleep_until(wait) => node.cluster.handle_timeout(Instant::now()),
            event = inbox.next() => match event {
                Some(BusEvent::Message(message)) => handle_payload(node, &message.payload),
                // The links notice which, and have it sent again.
                Some(BusEvent::Lost(count)) => node.counters.cluster.bus_lost.add(count),
                None => return,
            },
            () = node.cluster.wake.notified() => {
                // Whoever is about to say something too shares the frame.
                tokio::task::yield_now().await;
            }
        }
        flush(node).await;
    }
}

async fn sleep_until(wait: Option<Instant>) {
    match wait {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl super::Cluster {
    fn poll_timeout(&self) -> Option<Instant> {
        let links = self.lock();
        let timeouts = links.link_by_node.values();
        timeouts
            .filter_map(|link| link.poll_timeout())
            .min()
            .map(Instant::from_std)
    }

    fn handle_timeout(&self, now: Instant) {
        for link in self.lock().link_by_node.values_mut() {
            link.handle_timeout(now.into_std());
        }
    }

    /// The next frame for each other node.
    fn poll_frames(&self) -> Vec<(NodeId, Frame)> {
        let now = Instant::now().into_std();
        let mut links = self.lock();
        let links = links.link_by_node.iter_mut();
        links
            .filter_map(|(to, link)| Some((to.clone(), link.poll_frame(now)?)))
            .collect()
    }
}

/// Brings to the bus what waits, one frame for each node: whoever always has something to say must not
/// keep this node from the others, nor from what they say.
async fn flush(node: &Arc<Node>) {
    for item in node.cluster.take_undelivered() {
        node.take_in("what could not be delivered", || return_item(node, &item));
    }
    let cluster = &node.counters.cluster;
    for (to, mut frame) in node.cluster.poll_frames() {
        // There may be more.
        node.cluster.wake.notify_one();
        let Ok(subject) = inbox_of(&to) else {
            continue;
        };
        frame.from = node.name().to_string();
        let publish = node.engine.publish(&subject, frame.encode_to_vec().into());
        // What could not be published is sent again like what got lost.
        match tokio::time::timeout(PUBLISH_TIMEOUT, publish).await {
            Ok(Ok(())) => cluster.frames_sent.add(1),
            Ok(Err(_)) | Err(_) => cluster.frames_failed.add(1),
        }
    }
}

fn handle_payload(node: &Arc<Node>, payload: &[u8]) {
    let handle = || handle_frame(node, payload);
    if let Some(Err(error)) = node.take_in("a frame of another node", handle) {
        node.counters.cluster.count_refused(error);
        tracing::debug!(%error, "node frame refused");
    }
}

fn handle_frame(node: &Arc<Node>, payload: &[u8]) -> Result<(), FrameError> {
    let (from, frame) = decode(payload)?;
    let now = Instant::now().into_std();
    let mut links = node.cluster.lock();
    if from == *node.name() {
        return Err(FrameError::TooManyNodes);
    }
    let link = links.link_from(&from, frame.epoch, &lock(&node.cluster.others))?;
    let received = link.handle_frame(now, frame)?;
    drop(links);
    let cluster = &node.counters.cluster;
    cluster.frames_received.add(1);
    cluster.repairs.add(u64::from(received.repaired));
    for item in received.undelivered {
        node.take_in("what could not be delivered", || return_item(node, &item));
    }
    for item in received.items {
        let concern = arrival::concern_of(&item);
        let handle = || handle_item(node, &from, item);
        if node.take_in("what another node says", handle).is_none() {
            give_up(node, &from, concern);
        }
    }
    Ok(())
}

fn handle_item(node: &Arc<Node>, from: &NodeId, item: Item) {
    match arrival::parse(item) {
        Ok(Parsed::Arrival(arrival)) => node.arrive(from, arrival),
        Ok(Parsed::Refusal(refusal)) => handle_refusal(node, refusal),
        Ok(Parsed::Forward {
            session,
            body,
            is_reliable,
            sender,
        }) => {
            let sender = sender.as_ref();
            handover::handle_forward(node, from, session, *body, is_reliable, sender);
        }
        Ok(Parsed::Passed(session, room)) => {
            let host = lock(&node.host_by_room).get(&room).cloned();
            if let Some(host) = host {
                host.on_passed(node, from, session);
            }
        }
        Ok(Parsed::Settled(session, room)) => {
            handover::handle_settled(node, from, session, &room);
        }
        Err(arrival::BadItem) => node.counters.cluster.items_refused.add(1),
    }
}

/// What another node has said is not done: nobody who trusts that it is must go on so.
fn give_up(node: &Arc<Node>, from: &NodeId, concern: Concern) {
    let why = "what another node said has failed";
    match concern {
        Concern::Sender(sender) => {
            let reject = Reject::new(ErrorCode::Unavailable, why);
            node.refuse_there(from, &sender, reject);
        }
        Concern::Session(session) => {
            let session = lock(&node.sessions).wherever(&session);
            if let Some(session) = session {
                node.begin_anew(&session, why);
            }
        }
        Concern::Nobody => {}
    }
}

/// A member is told that what it sent did not reach its receiver's node.
pub(super) fn return_item(node: &Arc<Node>, item: &Item) {
    if let Concern::Sender(sender) = arrival::concern_of(item) {
        let reject = Reject::new(ErrorCode::Unavailable, "the member's node has gone");
        node.refuse_wherever(&sender, reject);
    }
}

fn handle_refusal(node: &Arc<Node>, refusal: Refusal) {
    let session = lock(&node.sessions).wherever(&refusal.session);
    if let Some(session) = session {
        node.refuse(&session, refusal.seq, refusal.reject);
    }
}

/// Frames that wait for this node to take them in.
const INBOX_MESSAGES_MAX: usize = 16_384;

/// Between two attempts to be reachable.
const SUBSCRIBE_DELAY: Duration = Duration::from_millis(250);

/// How long the bus may take to take a frame in.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);
