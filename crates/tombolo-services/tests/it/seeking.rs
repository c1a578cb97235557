//! Sessions that are looked for where their tokens do not say.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tombolo_engine::{Local, LocalConfig};

use crate::cluster::{Member, cluster, members, start_with};
use crate::handover::refusals;
use crate::lab::Device;

const UNSOUGHT: &str = "too many sessions are looked for";

#[tokio::test(start_paused = true)]
async fn few_sessions_are_looked_for_at_the_same_time_and_the_others_begin_anew_at_once() {
    let (nodes, _) = cluster::<3>().await;
    nodes[0].lab.services.leave().await;
    // The node that is asked is stuck.
    nodes[1].wire.answers_left.store(0, Ordering::Relaxed);
    let users: Vec<_> = (0..70).map(|number| format!("user{number}")).collect();
    let at_once = come(&nodes[1], "node-0", &users).await;
    assert_eq!((at_once, refusals(&nodes[1], UNSOUGHT)), (6, 6));

    // They are looked for no more.
    nodes[1]
        .wire
        .answers_left
        .store(u64::MAX, Ordering::Relaxed);
    assert_eq!(come(&nodes[1], "node-0", &users[..64]).await, 64);
    assert_eq!(refusals(&nodes[1], UNSOUGHT), 6);
}

#[tokio::test(start_paused = true)]
async fn a_user_that_makes_tokens_up_does_not_keep_others_sessions_from_being_found() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1, 2].map(|number| {
        start_with(&local, number, |config| {
            (config.hellos.burst, config.moves.burst) = (1_000, 1_000);
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let [mut alice] = members(&nodes, "r", [("alice", 0)]).await;
    let services = nodes[0].lab.services.clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(30)).await });
    alice.next().await;
    // It goes to another node, and does not hear that it is welcome.
    drop(nodes[1].lab.attach(alice.hello()).await.unwrap());
    alice.connection = None;
    assert_eq!(drain.await.unwrap().left, 0);

    nodes[2].wire.answers_left.store(0, Ordering::Relaxed);
    let mallory = vec!["mallory".to_owned(); 100];
    let flood = come(&nodes[2], "node-0", &mallory);
    let back = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let left = &nodes[2].wire.answers_left;
        left.store(u64::MAX, Ordering::Relaxed);
        alice.connect(&nodes[2].lab).await.unwrap()
    };
    let (_, welcome) = tokio::join!(flood, back);
    assert!(welcome.resumed);
    assert_eq!(refusals(&nodes[2], UNSOUGHT), 100 - 16);
}

#[tokio::test(start_paused = true)]
async fn no_other_node_is_asked_for_a_session_that_its_own_node_knows_is_over() {
    let (nodes, _) = cluster::<3>().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let mallory = ["mallory".to_owned()];
    for (node, questions) in [("node-9", 0), ("node-1", 0), ("node-0", 1)] {
        nodes[1].wire.answers_left.store(1000, Ordering::Relaxed);
        come(&nodes[1], node, &mallory).await;
        let asked = 1000 - nodes[1].wire.answers_left.load(Ordering::Relaxed);
        assert_eq!(asked, questions, "{node}");
    }
    assert_eq!(refusals(&nodes[1], "session is not known"), 2);
}

/// Devices come with tokens that are made up; returns how many were let in at once.
async fn come(node: &Member, gave: &str, users: &[String]) -> usize {
    let begun = tokio::time::Instant::now();
    let mut coming = JoinSet::new();
    for (number, user) in users.iter().enumerate() {
        let mut device = Device::new(user);
        let secret = [&[u8::try_from(number).unwrap()], &[7; 31][..]].concat();
        device.resume_token = Some([&secret, gave.as_bytes()].concat().into());
        let lab = node.lab.clone();
        coming.spawn(async move {
            assert!(!device.connect(&lab).await.unwrap().resumed);
            begun.elapsed() < Duration::from_millis(100)
        });
    }
    let at_once = coming.join_all().await;
    at_once.into_iter().filter(|at_once| *at_once).count()
}
