//! Several nodes on one engine.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{Bus as _, Engine, Key, Local, LocalConfig};
use tombolo_services::Config;
use tombolo_wire::NodeId;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, client_frame, server_frame};

use crate::lab::{Device, Lab, message};
use crate::wire::Wire;

/// A node of a cluster.
pub(crate) struct Member {
    pub(crate) lab: Lab,
    pub(crate) wire: Arc<Wire>,
}

/// Nodes `node-0`, `node-1`, … on one engine, all of them up.
pub(crate) async fn cluster<const N: usize>() -> ([Member; N], Local) {
    let local = Local::new(LocalConfig::default());
    let mut nodes = Vec::new();
    for number in 0..N {
        nodes.push(start(&local, number));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    (nodes.try_into().ok().unwrap(), local)
}

pub(crate) fn start(local: &Local, number: usize) -> Member {
    start_with(local, number, |_| {})
}

pub(crate) fn start_with(local: &Local, number: usize, change: impl FnOnce(&mut Config)) -> Member {
    let wire = Wire::new(local);
    let engine: Arc<dyn Engine> = Arc::clone(&wire) as Arc<dyn Engine>;
    let lab = Lab::on(engine, |config| {
        config.node = NodeId::parse(&format!("node-{number}")).unwrap();
        change(config);
    });
    let ip = IpAddr::from([203, 0, 113, u8::try_from(number + 1).unwrap()]);
    *lab.relay.ips.lock().unwrap() = vec![ip];
    Member { lab, wire }
}

/// A device of each user, in the room, each on the node of its number, with nothing left to hear.
pub(crate) async fn members<const N: usize>(
    nodes: &[Member],
    room: &str,
    users: [(&str, usize); N],
) -> [Device; N] {
    let mut devices = Vec::new();
    for (user, node) in users {
        let mut device = nodes[node].lab.device(user).await;
        device.join(room, JoinMode::JoinOrCreate).await.unwrap();
        devices.push(device);
    }
    for device in &mut devices {
        device.drain().await;
    }
    devices.try_into().ok().unwrap()
}

#[tokio::test(start_paused = true)]
async fn members_on_other_nodes_get_broadcasts_and_what_names_them() {
    let (nodes, _) = cluster::<3>().await;
    let users = [
        ("alice", 0),
        ("bob", 1),
        ("carol", 1),
        ("dave", 2),
        ("eve", 0),
    ];
    let [mut alice, mut bob, mut carol, mut dave, mut eve] = members(&nodes, "r", users).await;

    alice.send(message("r", &[], b"all")).unwrap();
    for device in [&mut bob, &mut carol, &mut dave, &mut eve] {
        assert_eq!(device.next_delivery().await, ("alice".into(), "all".into()));
    }
    bob.send(message("r", &["alice", "dave"], b"two")).unwrap();
    for device in [&mut alice, &mut dave] {
        assert_eq!(device.next_delivery().await, ("bob".into(), "two".into()));
    }
    dave.send_unreliably(message("r", &["carol"], b"fast"))
        .unwrap();
    assert!(matches!(
        carol.next_unreliable().await,
        server_frame::Body::Delivery(_)
    ));
    for device in [&mut alice, &mut bob, &mut carol, &mut dave, &mut eve] {
        device.is_quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_for_members_here_alone_never_leaves_the_node() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 1)];
    let [mut alice, mut bob, _carol] = members(&nodes, "r", users).await;
    alice.send(message("r", &["bob"], b"near")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "near");
    let users = [("alice2", 0), ("bob2", 0)];
    let [mut alice, mut bob] = members(&nodes, "other", users).await;
    alice.send(message("other", &[], b"near")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "near");
    for node in &nodes {
        assert_eq!(node.lab.services.stats().cluster.frames_sent, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn many_messages_to_a_node_share_frames_on_the_bus_and_stay_in_order() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    for number in 0..500_u32 {
        alice
            .send(message("r", &[], &number.to_be_bytes()))
            .unwrap();
    }
    for number in 0..500_u32 {
        let expected = Bytes::copy_from_slice(&number.to_be_bytes());
        assert_eq!(bob.next_delivery().await.1, expected);
    }
    let sent = nodes[0].lab.services.stats().cluster.frames_sent;
    assert!(sent < 50, "{sent} frames for 500 messages");
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_loses_is_sent_again_once_and_in_order() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    for node in &nodes {
        node.wire.lose_percent.store(30, Ordering::Relaxed);
    }
    for number in 0..60_u32 {
        alice
            .send(message("r", &[], &number.to_be_bytes()))
            .unwrap();
        bob.send(message("r", &["alice"], &number.to_be_bytes()))
            .unwrap();
        // So that there are many frames to lose.
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    for device in [&mut alice, &mut bob] {
        for number in 0..60_u32 {
            let expected = Bytes::copy_from_slice(&number.to_be_bytes());
            assert_eq!(device.next_delivery().await.1, expected);
        }
        device.is_quiet().await;
    }
    assert!(nodes[1].lab.services.stats().cluster.repairs > 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_always_has_something_to_say_still_listens() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("anna", 0), ("bob", 1)];
    let [mut alice, mut anna, mut bob] = members(&nodes, "r", users).await;
    bob.send(message("r", &["anna"], b"before")).unwrap();
    assert_eq!(anna.next_delivery().await.1, "before");
    alice.send(message("r", &["bob"], b"before")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "before");

    // While one frame is on its way to the bus there is something new to say.
    nodes[0].wire.publish_ms.store(50, Ordering::Relaxed);
    let chatter = async {
        loop {
            let _ = alice.send_unreliably(message("r", &["bob"], b"chatter"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let talk = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        bob.send(message("r", &["anna"], b"during")).unwrap();
        assert_eq!(anna.next_delivery().await.1, "during");
    };
    tokio::select! {
        () = talk => {}
        () = chatter => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_was_away_has_lost_nothing_reliable_when_it_is_back() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    for node in &nodes {
        node.wire.cut(true);
    }
    for number in 0..10_u32 {
        alice
            .send(message("r", &[], &number.to_be_bytes()))
            .unwrap();
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    bob.is_quiet().await;
    for node in &nodes {
        node.wire.cut(false);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    for number in 0..10_u32 {
        let expected = Bytes::copy_from_slice(&number.to_be_bytes());
        assert_eq!(bob.next_delivery().await.1, expected);
    }
    bob.is_quiet().await;
    alice.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_finds_its_way_back_to_the_senders_node() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    // Alice's node does not see that bob leaves.
    nodes[0].wire.is_slow.store(true, Ordering::Relaxed);
    bob.leave("r").await.unwrap();
    alice.send(message("r", &["bob"], b"late")).unwrap();
    let seq = alice.outbox.last();
    assert_eq!(alice.next_refused().await, (seq, ErrorCode::NoSuchMember));
    bob.is_quiet().await;
    assert_eq!(nodes[1].lab.refused(ErrorCode::NoSuchMember), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sender_learns_that_a_receiver_on_another_node_is_behind() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    let full = vec![0; tombolo_wire::RELIABLE_BYTES_MAX];
    let mut refused = None;
    for _ in 0..64 {
        alice.send(message("r", &["bob"], &full)).unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        while let Some(outgoing) = alice.next_frame().await {
            refused = Some(outgoing);
        }
        if refused.is_some() {
            break;
        }
    }
    let Some(tombolo_services::Outgoing::Reliable(frame)) = refused else {
        panic!("alice is told nothing");
    };
    let Some(server_frame::Body::Refused(refusal)) = frame.body else {
        panic!("alice is refused, not {frame:?}");
    };
    assert_eq!(refusal.code(), ErrorCode::Limit);
    drop(bob);
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_until_the_receivers_node_knows_its_sender() {
    let (nodes, _) = cluster::<2>().await;
    let [mut bob] = members(&nodes, "r", [("bob", 1)]).await;
    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    let mut alice = nodes[0].lab.device("alice").await;
    alice.join("r", JoinMode::Join).await.unwrap();
    alice.send(message("r", &[], b"first")).unwrap();
    alice.send(message("r", &["bob"], b"second")).unwrap();
    bob.is_quiet().await;
    nodes[1].wire.is_slow.store(false, Ordering::Relaxed);
    assert_eq!(bob.next_event().await, "+alice");
    assert_eq!(bob.next_delivery().await.1, "first");
    assert_eq!(bob.next_delivery().await.1, "second");
}

#[tokio::test(start_paused = true)]
async fn what_a_member_said_before_it_left_arrives_although_the_leave_was_read_first() {
    let (nodes, _) = cluster::<2>().await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    nodes[0].wire.lose_percent.store(100, Ordering::Relaxed);
    alice.send(message("r", &[], b"farewell")).unwrap();
    alice.leave("r").await.unwrap();
    assert_eq!(bob.next_event().await, "-alice left");
    nodes[0].wire.lose_percent.store(0, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bob.next_delivery().await.1, "farewell");
}

#[tokio::test(start_paused = true)]
async fn an_introduction_to_another_node_carries_true_keys_and_opens_both_relays() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 1), ("carol", 1)];
    let [mut alice, mut bob, carol] = members(&nodes, "r", users).await;
    let introduction = v1::Introduction {
        attempt: 7,
        keys: Some(carol.keys.clone()),
        early: "early".into(),
        ..v1::Introduction::default()
    };
    let introduce = v1::Introduce {
        room: "r".into(),
        to: "bob".into(),
        introduction: Some(introduction.clone()),
        ..v1::Introduce::default()
    };
    alice
        .send(client_frame::Body::Introduce(introduce))
        .unwrap();
    let server_frame::Body::Introduced(introduced) = bob.next().await else {
        panic!("bob gets the introduction");
    };
    let genuine = v1::Introduction {
        keys: Some(alice.keys.clone()),
        ..introduction
    };
    assert_eq!(introduced.from, "alice");
    assert_eq!(introduced.introduction, Some(genuine));
    let permits = |node: &Member| node.lab.relay.permits.lock().unwrap().clone();
    let ip = |number| IpAddr::from([203, 0, 113, number]);
    assert!(permits(&nodes[1]).contains(&("bob".into(), vec![ip(2), ip(1)])));
    let of_alice = permits(&nodes[0]).remove(0);
    assert_eq!(of_alice.0, "alice");
    assert!(of_alice.1.contains(&ip(1)));
}

/// What lies on the bus, as somebody writes it who has read the contract.
#[derive(Clone, PartialEq, prost::Message)]
struct ForgedFrame {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    from: String,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(uint64, tag = "4")]
    to_epoch: u64,
    #[prost(uint64, tag = "7")]
    first: u64,
    #[prost(message, repeated, tag = "8")]
    items: Vec<ForgedItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgedItem {
    #[prost(message, tag = "1")]
    message: Option<ForgedMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgedMessage {
    #[prost(message, tag = "1")]
    sender: Option<ForgedSender>,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgedSender {
    #[prost(string, tag = "1")]
    room: String,
    #[prost(message, tag = "2")]
    at: Option<ForgedPosition>,
    #[prost(string, tag = "3")]
    user: String,
    #[prost(bytes = "vec", tag = "4")]
    session: Vec<u8>,
    #[prost(uint64, tag = "5")]
    seq: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgedPosition {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(uint64, tag = "2")]
    seq: u64,
}

#[tokio::test(start_paused = true)]
async fn forged_frames_are_refused_with_a_reason_and_counted() {
    let (nodes, local) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 1), ("carol", 1)];
    let [_alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    let inbox = Key::new(["node", "node-1", "inbox"]).unwrap();
    let to_epoch = epoch_of(&local, "node-1").await;
    let good = ForgedFrame {
        version: 1,
        from: "mallory".into(),
        epoch: 1,
        to_epoch,
        first: 1,
        items: Vec::new(),
    };
    let as_alice = ForgedItem {
        message: Some(ForgedMessage {
            sender: Some(ForgedSender {
                room: "r".into(),
                at: Some(ForgedPosition::default()),
                user: "alice".into(),
                session: vec![1; 16],
                seq: 1,
            }),
            payload: b"forged".to_vec(),
        }),
    };
    let publish = async |payload: Vec<u8>| {
        local.publish(&inbox, payload.into()).await.unwrap();
    };
    publish(vec![0xff; 100]).await;
    publish(
        ForgedFrame {
            version: 2,
            ..good.clone()
        }
        .encode_to_vec(),
    )
    .await;
    publish(
        ForgedFrame {
            from: "a b".into(),
            ..good.clone()
        }
        .encode_to_vec(),
    )
    .await;
    publish(
        ForgedFrame {
            epoch: 0,
            ..good.clone()
        }
        .encode_to_vec(),
    )
    .await;
    publish(
        ForgedFrame {
            to_epoch: 1,
            ..good.clone()
        }
        .encode_to_vec(),
    )
    .await;
    publish(
        ForgedFrame {
            from: "node-1".into(),
            ..good.clone()
        }
        .encode_to_vec(),
    )
    .await;
    let items = vec![as_alice, ForgedItem::default()];
    publish(ForgedFrame { items, ..good }.encode_to_vec()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;

    bob.is_quiet().await;
    carol.is_quiet().await;
    let stats = nodes[1].lab.services.stats().cluster;
    let refused: Vec<_> = stats.frames_refused.into_iter().collect();
    let expected = [
        ("frame is from a node too many", 1),
        ("frame is malformed", 3),
        ("frame is of another version", 1),
        ("frame was meant for another life of this node", 1),
    ];
    assert_eq!(
        refused,
        expected.map(|(reason, count)| (reason.to_owned(), count))
    );
    assert_eq!(stats.items_refused, 2);
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_a_life_that_is_over_opens_no_link_to_it() {
    let (nodes, local) = cluster::<2>().await;
    let [_alice, bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    let late = ForgedFrame {
        version: 1,
        from: "node-1".into(),
        epoch: epoch_of(&local, "node-1").await,
        to_epoch: epoch_of(&local, "node-0").await,
        ..ForgedFrame::default()
    };
    nodes[1].lab.services.kill();
    drop(bob);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let inbox = Key::new(["node", "node-0", "inbox"]).unwrap();
    let payload = late.encode_to_vec().into();
    local.publish(&inbox, payload).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = nodes[0].lab.services.stats().cluster.frames_refused;
    let expected = ("frame is of a life that is over".to_owned(), 1);
    assert_eq!(Vec::from_iter(refused), [expected]);
}

/// From the node's record in the directory.
pub(crate) async fn epoch_of(local: &Local, node: &str) -> u64 {
    use tombolo_engine::Kv as _;
    let key = Key::new(["nodes", node]).unwrap();
    let entry = local.get(&key).await.unwrap().unwrap();
    Record::decode(entry.value).unwrap().epoch
}

#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(uint64, tag = "2")]
    epoch: u64,
}
