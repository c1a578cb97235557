//! What the tests share: a node, devices, and patience.

use std::time::Duration;

use bytes::Bytes;
use tombolo_client::{
    Device, Lane, LinkState, Message, Peer, Policy, Room, RoomEvent, RoomOptions, UserId, Via,
};
use tombolo_node::{Node, NodeBuilder};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn node() -> Node {
    node_with(|node| node).await
}

pub(crate) async fn node_with(change: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Node {
    change(Node::builder())
        .dev()
        .listen([127, 0, 0, 1].into())
        .allow_peer("127.0.0.0/8".parse().unwrap())
        .port(0)
        .turn_port(0)
        .turns_port(0)
        .start()
        .await
        .unwrap()
}

pub(crate) async fn device(node: &Node, user: &str) -> Device {
    let url = node.ready().url.to_string();
    soon(Device::builder(&url).development_user(user).connect())
        .await
        .unwrap()
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

/// Waits for what must happen.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("this should have happened by now")
}

/// Alice and bob, who know of each other in a room.
pub(crate) async fn met(node: &Node) -> ([Device; 2], [Room; 2]) {
    let (alice, bob) = (device(node, "alice").await, device(node, "bob").await);
    let options = RoomOptions::default;
    let alice_room = alice.rooms().create("x", options()).await.unwrap();
    let bob_room = bob.rooms().join("x", options()).await.unwrap();
    soon(joined(&alice_room, "bob")).await;
    ([alice, bob], [alice_room, bob_room])
}

/// Two devices in a room and the link between them, alice's end first.
pub(crate) struct Pair {
    pub(crate) alice: Device,
    pub(crate) bob: Device,
    pub(crate) alice_room: Room,
    pub(crate) bob_room: Room,
    pub(crate) to_bob: Peer,
    pub(crate) to_alice: Peer,
}

impl Pair {
    pub(crate) async fn new(node: &Node, options: RoomOptions) -> Self {
        let policy = options.policy;
        let (alice, bob) = (device(node, "alice").await, device(node, "bob").await);
        let alice_room = alice
            .rooms()
            .join_or_create("pair", options.clone())
            .await
            .unwrap();
        let mut bob_room = bob.rooms().join_or_create("pair", options).await.unwrap();
        soon(joined(&alice_room, "bob")).await;
        let to_bob = alice_room.peer(&user("bob"));
        let to_bob = to_bob
            .first_message(Lane::Reliable, "first")
            .open()
            .unwrap();
        let to_alice = soon(incoming(&mut bob_room)).await;
        let first = recv(&to_alice).await;
        assert_eq!(first.payload, "first");
        if policy == Policy::Direct {
            assert_eq!(
                first.via,
                Via::Direct,
                "not even the first message is relayed"
            );
        }
        soon(to_bob.ready()).await.unwrap();
        soon(to_alice.ready()).await.unwrap();
        Self {
            alice,
            bob,
            alice_room,
            bob_room,
            to_bob,
            to_alice,
        }
    }
}

/// Waits until a member is in the room.
pub(crate) async fn joined(room: &Room, name: &str) {
    while !room.members().contains(&user(name)) {
        tokio::task::yield_now().await;
    }
}

/// The next link that another member starts.
pub(crate) async fn incoming(room: &mut Room) -> Peer {
    loop {
        if let RoomEvent::Peer(peer) = room.next_event().await.expect("the session goes on") {
            return peer;
        }
    }
}

/// The next message through the node.
pub(crate) async fn message(room: &mut Room) -> (UserId, Bytes) {
    loop {
        if let RoomEvent::Message { from, payload, .. } = room.next_event().await.unwrap() {
            return (from, payload);
        }
    }
}

pub(crate) async fn recv(peer: &Peer) -> Message {
    soon(peer.recv()).await.expect("the link goes on")
}

/// Waits until the link is in a state.
pub(crate) async fn reach(peer: &Peer, state: LinkState) {
    let mut changes = peer.changes();
    let reached = async {
        while peer.status().state != state {
            changes.recv().await.unwrap();
        }
    };
    soon(reached).await;
}
