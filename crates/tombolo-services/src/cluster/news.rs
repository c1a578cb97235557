//! Devices are told of other nodes when there are others than before: one that knows none has nowhere to go
//! when its node dies.

use std::sync::Arc;
use std::time::Duration;

use tombolo_wire::v1::{OtherNodes, server_frame};

use crate::lock::lock;
use crate::node::Node;

/// Tells them for as long as it runs.
pub(super) async fn tell(node: Arc<Node>) {
    let mut hosts = node.cluster.watch_hosts();
    while hosts.changed().await.is_ok() {
        // Nodes often come and go several at a time.
        tokio::time::sleep(DELAY).await;
        hosts.borrow_and_update();
        let sessions: Vec<_> = lock(&node.sessions).by_id.values().cloned().collect();
        for some in sessions.chunks(AT_ONCE) {
            for session in some {
                let urls = node.cluster.urls();
                let mut state = session.lock();
                if state.is_connected {
                    state.push_urgent(server_frame::Body::OtherNodes(OtherNodes { urls }));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

const DELAY: Duration = Duration::from_millis(250);

/// So many are told, then there is a pause: devices have other things to hear.
const AT_ONCE: usize = 500;
const PAUSE: Duration = Duration::from_millis(50);
