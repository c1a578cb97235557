//! Nodes that wait for sessions to go before they leave.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tombolo_wire::v1::{JoinMode, server_frame};

use crate::cluster::{cluster, members};

#[tokio::test(start_paused = true)]
async fn a_node_is_not_drained_before_the_next_one_says_that_it_has_the_last_piece_of_a_session() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    let services = nodes[0].lab.services.clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(20)).await });
    assert!(matches!(alice.next().await, server_frame::Body::GoAway(_)));
    alice.connection = None;
    // It hears the offer, and none of the pieces that it is given.
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    nodes[1].wire.is_deaf.store(true, Ordering::Relaxed);
    let mut asked = Box::pin(nodes[1].lab.attach(alice.hello()));
    let waited = tokio::time::timeout(Duration::from_millis(1500), asked.as_mut()).await;
    assert!(waited.is_err());
    assert_eq!(nodes[0].lab.services.stats().cluster.sessions_given, 1);
    let left = &nodes[1].wire.answers_left;
    left.store(u64::MAX, Ordering::Relaxed);
    drop(asked);
    assert!(alice.connect(&nodes[1].lab).await.unwrap().resumed);
    let drained = drain.await.unwrap();
    assert_eq!((drained.moved, drained.left), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_session_went_to_one_that_is_gone_is_drained() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    let services = nodes[0].lab.services.clone();
    let begun = tokio::time::Instant::now();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(20)).await });
    assert!(matches!(alice.next().await, server_frame::Body::GoAway(_)));
    alice.connection = None;
    nodes[1].wire.answers_left.store(1, Ordering::Relaxed);
    nodes[1].wire.is_deaf.store(true, Ordering::Relaxed);
    let asked = nodes[1].lab.attach(alice.hello());
    let waited = tokio::time::timeout(Duration::from_secs(1), asked).await;
    assert!(waited.is_err());
    nodes[1].lab.services.kill();
    drain.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_session_without_rooms_whose_device_is_away_goes_on_when_it_comes_to_another_node() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    alice.connection = None;
    let services = nodes[0].lab.services.clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(60)).await });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(alice.connect(&nodes[1].lab).await.unwrap().resumed);
    let drained = drain.await.unwrap();
    assert_eq!((drained.moved, drained.left), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_device_that_has_begun_another_session_in_its_rooms() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, _bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    let services = nodes[0].lab.services.clone();
    let begun = tokio::time::Instant::now();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(60)).await });
    alice.next().await;
    drop(alice);
    let mut again = nodes[1].lab.device("alice").await;
    again.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(drain.await.unwrap().left, 0);
    assert!(begun.elapsed() < Duration::from_secs(2));
}
