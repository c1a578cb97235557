//! What operators, and those who pretend to be some, ask of nodes.

use std::sync::Arc;
use std::time::Duration;

use tombolo_engine::{Bus as _, Key, Local, LocalConfig, RequestError};
use tombolo_node::{OperateError, SealKey, StartError};
use tombolo_turn::client::{AllocateError, Event};
use tombolo_wire::NodeId;

use crate::{life, turn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_of_a_node_that_does_not_exist_says_so() {
    let node = life::start().await;
    let name = NodeId::parse("nobody").unwrap();
    let drained = node.operator().drain(&name, Duration::ZERO).await;
    assert!(
        matches!(&drained, Err(OperateError::NoSuchNode(of)) if *of == name),
        "{drained:?}"
    );
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_has_the_key_drains_a_node_over_the_bus() {
    let bus = Local::new(LocalConfig::default());
    let name = NodeId::parse("node-1").unwrap();
    let node = life::builder()
        .name(name.clone())
        .engine(Arc::new(bus.clone()))
        .seal_keys([SealKey::new(&[1; 32]).unwrap()])
        .start()
        .await
        .unwrap();
    let subject = Key::new(["operate", "node-1"]).unwrap();
    let ask = || bus.request(&subject, DRAIN.into(), PATIENCE);
    let mut asked = ask().await;
    // It serves a moment after it has started.
    while node.stats().seal.unsealed == 0 {
        assert_eq!(asked, Err(RequestError::NoResponder));
        asked = ask().await;
    }
    assert_eq!(asked, Err(RequestError::Refused));
    let draining = async || {
        let status = node.operator().node(&name).await.unwrap();
        status.now.is_some_and(|now| now.drain.is_some())
    };
    assert!(!draining().await, "a stranger has drained it");
    node.operator().drain(&name, PATIENCE).await.unwrap();
    assert!(draining().await, "an operator may");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_seal_the_cluster_does_not_understand_does_not_start() {
    let engine = Local::new(LocalConfig::default());
    let start = |name: &str, keys: &[u8]| {
        life::builder()
            .name(NodeId::parse(name).unwrap())
            .engine(Arc::new(engine.clone()))
            .seal_keys(keys.iter().map(|key| SealKey::new(&[*key; 32]).unwrap()))
            .start()
    };
    let first = start("node-1", &[1]).await.unwrap();
    for (keys, why) in [(&[][..], "has no key"), (&[2], "with another key")] {
        let refused = start("node-2", keys).await.unwrap_err();
        let said = refused.to_string();
        assert!(matches!(refused, StartError::SealDiffers { .. }), "{said}");
        assert!(said.contains("node-1") && said.contains(why), "{said}");
    }
    let changing = start("node-2", &[1, 2]).await.unwrap();
    first.shutdown().await;
    changing.shutdown().await;
    let open = start("node-3", &[]).await.unwrap();
    let refused = start("node-1", &[1]).await.unwrap_err().to_string();
    assert!(refused.contains("does not seal"), "{refused}");
    open.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_node_sends_turn_clients_to_the_others() {
    let (first, second) = life::two().await;
    let operator = first.operator();
    let is_known = async || {
        operator
            .nodes()
            .await
            .unwrap()
            .iter()
            .all(|node| node.now.is_some())
    };
    while !is_known().await {
        // A node answers a moment after it has started.
    }
    operator
        .drain(&NodeId::parse("node-1").unwrap(), PATIENCE)
        .await
        .unwrap();
    let sent_to = loop {
        let event = turn::allocate_as(&first, "alice").await;
        if let Event::Failed(AllocateError::TryAlternate { server, .. }) = event {
            break server;
        }
        // It does not drain yet, or has not heard where the others are.
        let is_early = matches!(
            event,
            Event::Allocated { .. } | Event::Failed(AllocateError::InsufficientCapacity)
        );
        assert!(is_early, "{event:?}");
    };
    assert_eq!(sent_to, turn::addr_of(&second.ready().turn[0]));
    // It asks there as whom the first one knows it.
    let event = turn::allocate_elsewhere(&first, &second, "alice").await;
    assert!(matches!(event, Event::Allocated { .. }), "{event:?}");
    first.shutdown().await;
    second.shutdown().await;
}

const DRAIN: &str = r#"{"ask":"drain","timeout_ms":1000}"#;
const PATIENCE: Duration = Duration::from_secs(30);
