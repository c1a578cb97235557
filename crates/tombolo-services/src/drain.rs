//! Empties a node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_wire::v1::{GoAway, server_frame};

use crate::cluster::{Input, has_given_all};
use crate::lock::lock;
use crate::node::{Node, Parting};
use crate::session::Session;

/// How a node was emptied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Sessions that went on over other nodes in time.
    pub moved: usize,
    /// Sessions that were still there when the time was up; they were ended, and their rooms keep their seats.
    pub left: usize,
}

pub(crate) async fn drain(node: &Arc<Node>, time: Duration) -> Drained {
    let end = Instant::now() + time;
    node.is_going_away.store(true, Ordering::Relaxed);
    node.cluster.tell(Input::Drain).await;
    let given = || node.counters.cluster.sessions_given.value();
    let (before, given_before) = (sessions(node).len(), given());
    let (mut told, mut begun_anew) = (BTreeSet::new(), 0);
    // All have been told when half of the time is over.
    let waves = (time / 2).as_millis() / WAVE_INTERVAL.as_millis();
    let wave = before.div_ceil(usize::try_from(waves.max(1)).unwrap_or(usize::MAX));
    // Some may arrive yet.
    let wave = wave.max(1);
    loop {
        // In this order: one that arrives is not missed.
        let is_coming = has_arrivals(node);
        let remaining = sessions(node);
        if remaining.is_empty() && !is_coming || Instant::now() >= end {
            break;
        }
        let mut quota = wave;
        for session in &remaining {
            if told.contains(&session.id) {
                begun_anew += usize::from(end_if_begun_anew(node, session));
            } else if quota > 0 {
                quota -= 1;
                // Whoever has no place to hear it is told later; whoever is not connected cannot be.
                let is_connected = session.lock().is_connected;
                if !is_connected || tell(node, session, LEAVING) {
                    told.insert(session.id);
                }
            }
        }
        tokio::time::sleep(WAVE_INTERVAL).await;
    }
    // What is on its way to those who have gone comes first.
    while !has_settled(node) && Instant::now() < end {
        tokio::time::sleep(WAVE_INTERVAL).await;
    }
    let left = sessions(node);
    for session in &left {
        let reject = node.elsewhere(LEAVING);
        node.end(session, Parting::Drops, Some(reject));
    }
    node.cluster.leave(node.config.engine_timeout).await;
    let moved = usize::try_from(given() - given_before).unwrap_or(usize::MAX);
    Drained {
        moved: moved.saturating_add(begun_anew),
        left: left.len(),
    }
}

/// Asks some devices to go on over other nodes, if there are any.
pub(crate) fn rebalance(node: &Arc<Node>, count: usize) -> usize {
    if node.cluster.urls().is_empty() {
        return 0;
    }
    let mut connected = sessions(node);
    connected.retain(|session| session.lock().is_connected);
    // Those that were asked and have stayed are asked again when all others have been.
    connected.sort_by_cached_key(|session| session.lock().asked_to_go);
    let asked = connected.into_iter().take(count);
    asked
        .filter(|session| {
            session.lock().asked_to_go = Some(Instant::now());
            tell(node, session, "this node shares its load")
        })
        .count()
}

fn sessions(node: &Node) -> Vec<Arc<Session>> {
    lock(&node.sessions).by_id.values().cloned().collect()
}

/// Asks a device to go; false when it is not connected, or does not listen.
fn tell(node: &Node, session: &Session, reason: &str) -> bool {
    let go_away = GoAway {
        reason: reason.to_owned(),
        nodes: node.cluster.urls(),
    };
    let mut state = session.lock();
    state.is_connected && state.push_urgent(server_frame::Body::GoAway(go_away))
}

/// Whether sessions are on their way here: their devices came just before the node went.
fn has_arrivals(node: &Node) -> bool {
    !lock(&node.arrivals).is_empty()
}

/// Whether nothing for sessions that have gone on over other nodes is on its way any more.
fn has_settled(node: &Node) -> bool {
    let hosts: Vec<_> = lock(&node.host_by_room).values().cloned().collect();
    // In this order: what goes on from one to the next is not missed.
    !has_arrivals(node)
        && has_given_all(node)
        && hosts.iter().all(|host| host.has_settled())
        && node.cluster.is_quiet()
}

/// A session whose device takes part by another one has nothing to wait for. Says whether it is one.
fn end_if_begun_anew(node: &Arc<Node>, session: &Arc<Session>) -> bool {
    let state = session.lock();
    let is_over = !state.is_connected && state.has_begun_anew && state.host_by_room.is_empty();
    drop(state);
    if is_over {
        let reject = node.elsewhere(LEAVING);
        node.end(session, Parting::Drops, Some(reject));
    }
    is_over
}

const LEAVING: &str = "this node is leaving";

/// Between two waves.
const WAVE_INTERVAL: Duration = Duration::from_millis(100);
