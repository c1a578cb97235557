//! Devices are told of other nodes when there are others than before: one that knows none has nowhere to go
//! when its node dies.

use std::sync::Arc;
use std::time::Duration;

use tombolo_wire::v1::{OtherNodes, server_frame};

use crate::lock::lock;
use crate::node::Node;
use crate::session::Session;

/// Tells them for as long as it runs.
pub(super) async fn tell(node: Arc<Node>) {
    let mut hosts = node.cluster.watch_hosts();
    let mut untold = Vec::new();
    loop {
        tokio::select! {
            biased;
            changed = hosts.changed() => {
                if changed.is_err() {
                    return;
                }
                // Nodes often come and go several at a time.
                tokio::time::sleep(DELAY).await;
                hosts.borrow_and_update();
                untold = lock(&node.sessions).by_id.values().cloned().collect();
            }
            () = tokio::time::sleep(DELAY), if !untold.is_empty() => {}
        }
        untold = tell_all(&node, untold).await;
    }
}

/// Returns those that had no place to hear it.
async fn tell_all(node: &Node, sessions: Vec<Arc<Session>>) -> Vec<Arc<Session>> {
    let mut untold = Vec::new();
    for some in sessions.chunks(AT_ONCE) {
        for session in some {
            let urls = node.cluster.urls();
            let mut state = session.lock();
            // Whoever connects is told anyhow.
            if state.is_connected
                && !state.push_urgent(server_frame::Body::OtherNodes(OtherNodes { urls }))
            {
                untold.push(Arc::clone(session));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    untold
}

/// How long more news is waited for, and a device that has no place to hear any.
const DELAY: Duration = Duration::from_millis(250);

/// So many are told, then there is a pause: devices have other things to hear.
const AT_ONCE: usize = 500;
const PAUSE: Duration = Duration::from_millis(50);
