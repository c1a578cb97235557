//! Devices that go on over another node of a cluster.

use std::sync::Arc;
use std::time::Duration;

use tombolo_client::{Device, Lane, Peer, Policy, PresenceStatus, Room, RoomEvent, RoomOptions};
use tombolo_engine::{Engine, Local, LocalConfig};
use tombolo_node::{Node, NodeBuilder};
use tombolo_wire::NodeId;

use crate::lab::{incoming, recv, soon, user};

/// Nodes `node-0`, `node-1`, … on one engine, which know of each other.
async fn nodes<const N: usize>() -> [Node; N] {
    nodes_with(|builder| builder).await
}

pub(crate) async fn nodes_with<const N: usize>(
    change: impl Fn(NodeBuilder) -> NodeBuilder,
) -> [Node; N] {
    let engine: Arc<dyn Engine> = Arc::new(Local::new(LocalConfig::default()));
    let mut nodes = Vec::new();
    for number in 0..N {
        nodes.push(start(change(Node::builder()), &engine, number).await);
    }
    for node in &nodes {
        knows(node, N - 1).await;
    }
    nodes.try_into().ok().unwrap()
}

/// Starts one of those nodes.
pub(crate) async fn start(builder: NodeBuilder, engine: &Arc<dyn Engine>, number: usize) -> Node {
    // Permissions of relays are by IP address, so each node has one of its own.
    let ip = [127, 0, 1, u8::try_from(number).unwrap() + 1];
    let builder = builder
        .dev()
        .dev_key("dev", &[7; 32])
        .name(NodeId::parse(&format!("node-{number}")).unwrap())
        .engine(engine.clone())
        .listen(ip.into())
        .allow_peer("127.0.0.0/8".parse().unwrap())
        .port(0)
        .turn_port(0)
        .turns_port(0);
    builder.start().await.unwrap()
}

/// Waits until a node knows of so many others.
pub(crate) async fn knows(node: &Node, others: usize) {
    soon(async {
        while node.services().other_nodes().len() < others {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_newcomer_goes_on_to_a_node_that_has_much_less_to_do() {
    let [busy, idle] = nodes_with(|builder| builder.spread_min(2)).await;
    let mut devices = Vec::new();
    for name in ["alice", "bob"] {
        devices.push(device(&busy, name).await);
    }
    // As soon as the node knows how much the other has to do.
    let sent = soon(async {
        loop {
            let carol = device(&busy, "carol").await;
            if carol.session().node == "node-1" {
                break carol;
            }
            carol.close().await;
        }
    })
    .await;

    // When nobody else can be reached it is taken in after all.
    drop(sent);
    idle.shutdown().await;
    let dave = device(&busy, "dave").await;
    assert_eq!(dave.session().node, "node-0");
}

async fn device(node: &Node, name: &str) -> Device {
    let url = node.ready().url.to_string();
    let builder = Device::builder(&url).development_user(name);
    soon(builder.connect()).await.unwrap()
}

pub(crate) async fn join(device: &Device, policy: Policy) -> Room {
    let options = RoomOptions {
        policy,
        ..RoomOptions::default()
    };
    device.rooms().join_or_create("r", options).await.unwrap()
}

/// A link by relays of alice, first, and bob, and the rooms in which they met.
async fn relayed_link(alice: &Device, bob: &Device) -> ([Room; 2], [Peer; 2]) {
    let alice_room = join(alice, Policy::Relay).await;
    let mut bob_room = join(bob, Policy::Relay).await;
    soon(crate::lab::joined(&alice_room, "bob")).await;
    let to_bob = alice_room.peer(&user("bob")).open().unwrap();
    to_bob.send(Lane::Reliable, "hello").unwrap();
    let to_alice = soon(incoming(&mut bob_room)).await;
    assert_eq!(recv(&to_alice).await.payload, "hello");
    ([alice_room, bob_room], [to_bob, to_alice])
}

/// Both ends of a link say something, and hear the other's.
async fn exchange([to_bob, to_alice]: [&Peer; 2], lane: Lane, payload: &[u8]) {
    for peer in [to_bob, to_alice] {
        peer.send(lane, payload.to_vec()).unwrap();
    }
    for peer in [to_alice, to_bob] {
        assert_eq!(recv(peer).await.payload, payload);
    }
}

/// Waits until the device is on a node of that name.
pub(crate) async fn arrives(device: &Device, node: &str) {
    let mut sessions = device.watch_session();
    let is_there = |info: &Option<tombolo_client::SessionInfo>| {
        info.as_ref().is_some_and(|info| info.node == node)
    };
    soon(sessions.wait_for(is_there)).await.unwrap();
}

/// The next number that another member says; nothing else is told of members.
async fn next_number(room: &mut Room) -> u32 {
    loop {
        let event = soon(room.next_event()).await;
        let event = event.expect("the session goes on");
        if let RoomEvent::Message { payload, .. } = &event {
            return u32::from_be_bytes(payload.as_ref().try_into().unwrap());
        }
        let is_noticed = matches!(
            event,
            RoomEvent::Joined(_)
                | RoomEvent::Left { .. }
                | RoomEvent::Dropped(_)
                | RoomEvent::Returned(_)
        );
        assert!(!is_noticed, "nobody is to notice, but {event:?}");
    }
}

#[tokio::test]
async fn a_device_of_a_drained_node_goes_on_over_another_one_and_nobody_notices() {
    const BEFORE: u32 = 50;
    const AFTER: u32 = 50;
    let [first, second] = nodes::<2>().await;
    let alice = device(&first, "alice").await;
    let bob = device(&second, "bob").await;
    let mut alice_room = join(&alice, Policy::Any).await;
    let mut bob_room = join(&bob, Policy::Any).await;
    while !matches!(
        soon(alice_room.next_event()).await,
        Some(RoomEvent::Joined(_))
    ) {}

    let mut drain = None;
    let mut after = 0;
    // Both say a number, and the next one when they have heard the other's.
    for number in 0_u32.. {
        for room in [&alice_room, &bob_room] {
            let payload = number.to_be_bytes().to_vec();
            room.broadcast(Lane::Reliable, payload).await.unwrap();
        }
        for room in [&mut alice_room, &mut bob_room] {
            assert_eq!(next_number(room).await, number);
        }
        if number == BEFORE {
            let services = first.services().clone();
            drain = Some(tokio::spawn(async move {
                services.drain(Duration::from_secs(30)).await
            }));
        }
        after += u32::from(alice.session().node == "node-1");
        if after == AFTER {
            break;
        }
    }
    arrives(&alice, "node-1").await;
    assert!(alice.session().resumed);
    let drained = soon(drain.unwrap()).await.unwrap();
    assert_eq!((drained.moved, drained.left), (1, 0));
    let (given, taken) = (first.stats(), second.stats());
    assert_eq!(given.services.cluster.sessions_given, 1);
    assert_eq!(taken.services.cluster.sessions_taken, 1);
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_device_that_is_asked_to_go_takes_its_relay_with_it_and_its_links_lose_nothing() {
    let [first, second] = nodes::<2>().await;
    let (alice, bob) = (device(&first, "alice").await, device(&second, "bob").await);
    let ([_alice_room, _bob_room], [to_bob, to_alice]) = relayed_link(&alice, &bob).await;

    let before = alice.relayed_address();
    let mut after = 0;
    for number in 0_u32.. {
        let payload = number.to_be_bytes();
        exchange([&to_bob, &to_alice], Lane::Reliable, &payload).await;
        if number == 20 {
            assert_eq!(first.services().rebalance(1), 1);
            arrives(&alice, "node-1").await;
        }
        after += u32::from(alice.relayed_address() != before);
        if after == 200 {
            break;
        }
    }
    // The old node's relay, too, goes; the link stays.
    first.shutdown().await;
    exchange([&to_bob, &to_alice], Lane::Reliable, b"still here").await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_device_that_moves_goes_on_to_follow_others_and_stays_away() {
    let [first, second] = nodes::<2>().await;
    let alice = device(&first, "alice").await;
    let bob = device(&second, "bob").await;
    let mut watch = alice.presence().watch().unwrap();
    watch.follow([user("bob")]).await.unwrap();
    alice.presence().set_away(true).await.unwrap();
    let services = first.services().clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(30)).await });
    arrives(&alice, "node-1").await;
    soon(drain).await.unwrap();

    let mut of_alice = bob.presence().watch().unwrap();
    of_alice.follow([user("alice")]).await.unwrap();
    while of_alice.statuses()[&user("alice")] != PresenceStatus::Away {
        soon(of_alice.next_changes()).await.unwrap();
    }
    bob.presence().set_away(true).await.unwrap();
    while watch.statuses()[&user("bob")] != PresenceStatus::Away {
        soon(watch.next_changes()).await.unwrap();
    }
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn two_devices_that_go_at_once_lose_not_even_what_is_unreliable_on_their_relayed_link() {
    let [first, second] = nodes::<2>().await;
    let (alice, bob) = (device(&first, "alice").await, device(&first, "bob").await);
    let ([_alice_room, _bob_room], [to_bob, to_alice]) = relayed_link(&alice, &bob).await;

    let before = [alice.relayed_address(), bob.relayed_address()];
    let mut after = 0;
    // Each number is awaited: one that is lost ends the test.
    for number in 0_u32.. {
        let payload = number.to_be_bytes();
        exchange([&to_bob, &to_alice], Lane::Unreliable, &payload).await;
        if number == 20 {
            assert_eq!(first.services().rebalance(2), 2);
        }
        let now = [alice.relayed_address(), bob.relayed_address()];
        after += u32::from(now[0] != before[0] && now[1] != before[1]);
        if after == 5000 {
            break;
        }
    }
    first.shutdown().await;
    exchange([&to_bob, &to_alice], Lane::Reliable, b"still here").await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_relay_that_changes_while_a_link_is_set_up_is_told_to_the_peer() {
    let [first, second] = nodes::<2>().await;
    let (alice, bob) = (device(&first, "alice").await, device(&second, "bob").await);
    let introduced = || [&first, &second].map(|node| node.services().stats().introduced);
    let alice_room = join(&alice, Policy::Any).await;
    let _bob_room = join(&bob, Policy::Direct).await;
    soon(crate::lab::joined(&alice_room, "bob")).await;
    // He takes nothing from the relay, and nothing else passes: the handshake lasts.
    bob.block_direct(true);
    let _to_bob = alice_room.peer(&user("bob")).open().unwrap();
    soon(async {
        while introduced() != [1, 1] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = alice.relayed_address();
    assert_eq!(first.services().rebalance(1), 1);
    arrives(&alice, "node-1").await;
    soon(async {
        while introduced() != [1, 2] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_ne!(alice.relayed_address(), before);
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_link_outlives_its_room_and_tells_of_another_relay_once_that_can_be_told() {
    let [first, second] = nodes::<2>().await;
    let (alice, bob) = (device(&first, "alice").await, device(&second, "bob").await);
    let ([alice_room, _bob_room], [to_bob, to_alice]) = relayed_link(&alice, &bob).await;
    let before = alice.relayed_address();

    // Nobody hands on what alice, who is in no room, has to say about her new relay.
    alice_room.leave().await.unwrap();
    assert_eq!(first.services().rebalance(1), 1);
    arrives(&alice, "node-1").await;
    soon(async {
        while alice.relayed_address() == before || second.services().stats().refused.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    to_bob.send(Lane::Reliable, "over the old relay").unwrap();
    assert_eq!(recv(&to_alice).await.payload, "over the old relay");

    let _alice_room = join(&alice, Policy::Relay).await;
    soon(async {
        while to_alice.status().remote != alice.relayed_address() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    first.shutdown().await;
    exchange([&to_bob, &to_alice], Lane::Reliable, b"still here").await;
    second.shutdown().await;
}

#[tokio::test]
async fn a_relay_is_told_by_another_room_in_which_both_are_when_they_have_left_the_one_where_they_met()
 {
    let [first, second] = nodes::<2>().await;
    let (alice, bob) = (device(&first, "alice").await, device(&second, "bob").await);
    let (rooms, [to_bob, to_alice]) = relayed_link(&alice, &bob).await;
    let other = async |device: &Device| {
        let options = RoomOptions::default();
        let joined = device.rooms().join_or_create("other", options).await;
        joined.unwrap()
    };
    let (alice_other, _bob_other) = (other(&alice).await, other(&bob).await);
    soon(crate::lab::joined(&alice_other, "bob")).await;
    for room in rooms {
        room.leave().await.unwrap();
    }
    let before = alice.relayed_address();
    assert_eq!(first.services().rebalance(1), 1);
    arrives(&alice, "node-1").await;
    soon(async {
        while alice.relayed_address() == before
            || to_alice.status().remote != alice.relayed_address()
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    first.shutdown().await;
    exchange([&to_bob, &to_alice], Lane::Reliable, b"still here").await;
    second.shutdown().await;
}
