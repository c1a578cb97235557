//! Several devices of one user.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;
use tombolo_engine::{Bus as _, Engine, Key, Local, LocalConfig};
use tombolo_services::{Duplicates, Outgoing};
use tombolo_wire::NodeId;
use tombolo_wire::v1::{self, ErrorCode, client_frame};

use crate::cluster::{cluster as several, epoch_of, start_with};
use crate::lab::{Device, Lab, UNIX_NOW};
use crate::wire::Wire;

fn lab(duplicates: Duplicates) -> Lab {
    Lab::with(|config| {
        config.sessions_per_user_max = 2;
        config.duplicates = duplicates;
    })
}

#[tokio::test(start_paused = true)]
async fn a_user_has_as_many_devices_as_it_may() {
    for duplicates in [
        Duplicates::ReplaceDisconnected,
        Duplicates::ReplaceOldest,
        Duplicates::RefuseNewcomer,
    ] {
        let lab = lab(duplicates);
        let [mut first, mut second] = [lab.device("alice").await, lab.device("alice").await];
        let _other = lab.device("bob").await;
        first.is_quiet().await;
        second.is_quiet().await;
        assert_eq!(lab.services.stats().sessions, 3, "{duplicates:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_on_another_node_is_refused_within_half_a_second() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| {
        start_with(&local, number, |config| {
            config.sessions_per_user_max = 1;
            config.duplicates = Duplicates::RefuseNewcomer;
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let _first = nodes[0].lab.device("alice").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let begun = Instant::now();
    let mut second = nodes[1].lab.device("alice").await;
    assert_eq!(second.next_close().await, Some(ErrorCode::Limit));
    assert!(begun.elapsed() <= Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_gives_way_and_is_told() {
    let lab = lab(Duplicates::ReplaceOldest);
    let [mut first, mut second] = [lab.device("alice").await, lab.device("alice").await];
    let mut third = lab.device("alice").await;
    assert_eq!(first.next_close().await, Some(ErrorCode::Replaced));
    second.is_quiet().await;
    third.is_quiet().await;
    // It cannot come back to what is over, but as a newcomer.
    first.connection = None;
    assert!(!first.connect(&lab).await.unwrap().resumed);
    assert_eq!(second.next_close().await, Some(ErrorCode::Replaced));
    assert_eq!(lab.services.stats().sessions, 2);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_refused_even_if_a_device_has_no_connection() {
    let lab = lab(Duplicates::RefuseNewcomer);
    let [mut first, mut second] = [lab.device("alice").await, lab.device("alice").await];
    second.connection = None;
    let refused = Device::new("alice").connect(&lab).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Limit);
    assert!(second.connect(&lab).await.unwrap().resumed);
    first
        .send(client_frame::Body::Goodbye(v1::Goodbye {}))
        .unwrap();
    assert!(Device::new("alice").connect(&lab).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn over_several_nodes_a_user_has_as_many_devices_as_it_may() {
    for (duplicates, gone) in [
        (Duplicates::ReplaceOldest, 0),
        (Duplicates::ReplaceDisconnected, 2),
        (Duplicates::RefuseNewcomer, 2),
    ] {
        let nodes = cluster(duplicates).await;
        let mut devices = Vec::new();
        for node in &nodes {
            devices.push(node.device("alice").await);
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let _other = nodes[1].device("bob").await;
        let sessions: usize = nodes
            .iter()
            .map(|node| node.services.stats().sessions)
            .sum();
        assert_eq!(sessions, 3, "{duplicates:?}");
        let code = match duplicates {
            Duplicates::ReplaceOldest => ErrorCode::Replaced,
            _ => ErrorCode::Limit,
        };
        for (number, device) in devices.iter_mut().enumerate() {
            if number == gone {
                assert_eq!(device.next_close().await, Some(code), "{duplicates:?}");
            } else {
                device.is_quiet().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn over_several_nodes_a_place_that_is_free_again_is_not_refused() {
    for duplicates in [Duplicates::ReplaceDisconnected, Duplicates::RefuseNewcomer] {
        let nodes = cluster(duplicates).await;
        let mut first = nodes[1].device("alice").await;
        let mut second = nodes[2].device("alice").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut refused = nodes[0].device("alice").await;
        assert_eq!(refused.next_close().await, Some(ErrorCode::Limit));
        first
            .send(client_frame::Body::Goodbye(v1::Goodbye {}))
            .unwrap();
        let mut third = nodes[0].device("alice").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        second.is_quiet().await;
        third.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn over_several_nodes_a_device_takes_the_place_of_one_that_is_gone() {
    let nodes = cluster(Duplicates::ReplaceDisconnected).await;
    let mut first = nodes[0].device("alice").await;
    let mut second = nodes[1].device("alice").await;
    second.connection = None;
    let mut third = nodes[2].device("alice").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    first.is_quiet().await;
    third.is_quiet().await;
    assert!(!second.connect(&nodes[1]).await.unwrap().resumed);
}

#[tokio::test(start_paused = true)]
async fn of_devices_that_come_at_once_over_several_nodes_as_many_stay_as_may() {
    for duplicates in [
        Duplicates::ReplaceOldest,
        Duplicates::ReplaceDisconnected,
        Duplicates::RefuseNewcomer,
    ] {
        let nodes = cluster(duplicates).await;
        let mut devices = Vec::new();
        for number in 0..6 {
            devices.push(nodes[number % 3].device("alice").await);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut left = 0;
        for device in &mut devices {
            match device.next_frame().await {
                None => left += 1,
                Some(Outgoing::Close(_)) => {}
                other => panic!("a device hears {other:?}"),
            }
        }
        assert_eq!(left, 2, "{duplicates:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_that_has_come_back_is_not_ended_for_having_been_gone() {
    let (nodes, local) = several::<2>().await;
    let mut alice = Device::new("alice");
    let welcome = alice.connect(&nodes[0].lab).await.unwrap();
    let order = UserSessions {
        version: 1,
        from: "node-1".to_owned(),
        epoch: epoch_of(&local, "node-1").await,
        user: "alice".to_owned(),
        ended: vec![welcome.session_id],
        code: u32::try_from(i32::from(ErrorCode::NotResumable)).unwrap(),
    };
    let subject = Key::new(["user-sessions", "node-1"]).unwrap();
    for is_gone in [false, true] {
        if is_gone {
            alice.connection = None;
        }
        let payload = order.encode_to_vec().into();
        local.publish(&subject, payload).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sessions = nodes[0].lab.services.stats().sessions;
        assert_eq!(sessions, usize::from(!is_gone));
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_that_a_user_begins_have_a_pace_and_those_that_go_on_have_none() {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| {
        start_with(&local, number, |config| {
            (config.hellos.per_second, config.hellos.burst) = (1, 3);
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = nodes[0].lab.device("alice").await;
    for number in 0..10 {
        let welcome = alice.connect(&nodes[number % 2].lab).await.unwrap();
        assert!(welcome.resumed);
    }
    alice.connect(&nodes[0].lab).await.unwrap();
    let _others = [
        nodes[0].lab.device("alice").await,
        nodes[0].lab.device("alice").await,
    ];
    let refused = Device::new("alice").connect(&nodes[0].lab).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Limit);
    let _bob = nodes[0].lab.device("bob").await;

    let mut made_up = Device::new("alice");
    made_up.resume_token = Some([&[7; 32], &b"node-1"[..]].concat().into());
    let answers_left = &nodes[0].wire.answers_left;
    answers_left.store(100, Ordering::Relaxed);
    let refused = made_up.connect(&nodes[0].lab).await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Limit);
    assert_eq!(answers_left.load(Ordering::Relaxed), 100, "nobody is asked");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!made_up.connect(&nodes[0].lab).await.unwrap().resumed);
    assert_eq!(answers_left.load(Ordering::Relaxed), 99);
}

/// What a node says of a user.
#[derive(Clone, PartialEq, prost::Message)]
struct UserSessions {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    from: String,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(string, tag = "4")]
    user: String,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    ended: Vec<Bytes>,
    #[prost(uint32, tag = "8")]
    code: u32,
}

/// Three nodes on which a user may have two sessions.
async fn cluster(duplicates: Duplicates) -> [Lab; 3] {
    START.set(Some(Instant::now()));
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1, 2].map(|number| {
        let engine: Arc<dyn Engine> = Wire::new(&local) as Arc<dyn Engine>;
        Lab::on(engine, |config| {
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
            config.sessions_per_user_max = 2;
            config.duplicates = duplicates;
            config.unix_now = virtual_now;
        })
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    nodes
}

thread_local! {
    /// When the story on this thread began.
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn virtual_now() -> Duration {
    UNIX_NOW + START.get().map(|start| start.elapsed()).unwrap_or_default()
}
