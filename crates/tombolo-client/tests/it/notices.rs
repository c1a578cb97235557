//! Notices, as the SDK shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use tombolo_client::{Notification, Notifications, TagName};
use tombolo_node::Node;

use crate::lab::{device, node, soon};

#[tokio::test]
async fn a_notice_is_told_once_to_a_device_that_comes_back() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let mut notices = alice.notifications(BTreeMap::new()).await.unwrap();
    let twice = alice.notifications(BTreeMap::new()).await.unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    notify(&node, "one").await;
    assert_eq!(next(&mut notices).await, "all 1 one");
    let places = notices.places().clone();
    drop(notices);
    alice.close().await;

    notify(&node, "two").await;
    let alice = device(&node, "alice").await;
    let mut notices = alice.notifications(places).await.unwrap();
    assert_eq!(next(&mut notices).await, "all 2 two");
    notify(&node, "three").await;
    assert_eq!(next(&mut notices).await, "all 3 three");
    alice.close().await;
    assert_eq!(soon(notices.next()).await.unwrap(), None);
    node.shutdown().await;
}

async fn notify(node: &Node, text: &str) {
    let all = TagName::parse("all").unwrap();
    let lasts = Duration::from_secs(60);
    let payload = text.to_owned().into();
    node.services()
        .notify(&all, None, payload, lasts)
        .await
        .unwrap();
}

async fn next(notices: &mut Notifications) -> String {
    let told = soon(notices.next()).await.unwrap();
    let Some(Notification::Notice(notice)) = told else {
        panic!("a notice is waited for, not {told:?}");
    };
    let text = String::from_utf8_lossy(&notice.payload);
    format!("{} {} {text}", notice.board, notice.number)
}
