//! Devices that come back to their rooms by a new session, after their node has died.

use std::time::Duration;

use bytes::Bytes;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, request, response, room_act};

use crate::cluster::{Member, cluster};
use crate::lab::Device;

/// Bob's room, in which alice was on a node that is dead by now, and which opening she was in.
async fn room() -> ([Member; 2], Device, Bytes) {
    let (nodes, _) = cluster::<2>().await;
    let mut bob = nodes[1].lab.device("bob").await;
    bob.join("r", JoinMode::Create).await.unwrap();
    let mut alice = nodes[0].lab.device("alice").await;
    let joined = alice.join("r", JoinMode::Join).await.unwrap();
    nodes[0].lab.services.kill();
    drop(alice);
    tokio::time::sleep(Duration::from_secs(2)).await;
    (nodes, bob, joined.last.unwrap().opening)
}

/// Alice's device has another session, and wants to come back.
async fn come_back(
    node: &Member,
    returns_to: &Bytes,
    mode: JoinMode,
) -> Result<v1::Joined, ErrorCode> {
    let mut alice = node.lab.device("alice").await;
    let join = v1::Join {
        room: "r".into(),
        mode: mode.into(),
        returns_to: returns_to.clone(),
        ..v1::Join::default()
    };
    let id = alice.request(Some(request::Kind::Join(join)));
    match alice.next_response(id).await? {
        response::Result::Joined(joined) => Ok(joined),
        other => panic!("a join is not answered by {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_node_died_comes_back_to_its_seat() {
    let (nodes, _bob, opening) = room().await;
    let joined = come_back(&nodes[1], &opening, JoinMode::Join).await;
    let members = joined.unwrap().members;
    let alice = members.iter().find(|member| member.user == "alice");
    assert_eq!(
        alice.map(|alice| (alice.seat, alice.dropped)),
        Some((1, false))
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_sent_away_while_it_was_dropped_is_told_so() {
    let kick = room_act::Kind::Kick(v1::Kick {
        user: "alice".into(),
    });
    let ban = room_act::Kind::Ban(v1::Ban {
        user: "alice".into(),
        ..v1::Ban::default()
    });
    for (act, code) in [(kick, ErrorCode::Kicked), (ban, ErrorCode::Banned)] {
        let (nodes, mut bob, opening) = room().await;
        bob.hears_all = true;
        bob.act("r", act).await.unwrap();
        let refused = come_back(&nodes[1], &opening, JoinMode::Join).await;
        assert_eq!(refused.err(), Some(code));
        let anew = come_back(&nodes[1], &Bytes::new(), JoinMode::Join).await;
        assert_eq!(anew.is_ok(), code == ErrorCode::Kicked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_makes_no_room_anew_that_has_closed_nor_comes_into_another_of_its_name() {
    let (nodes, mut bob, opening) = room().await;
    bob.hears_all = true;
    bob.act("r", room_act::Kind::Close(v1::CloseRoom {}))
        .await
        .unwrap();
    for mode in [JoinMode::Join, JoinMode::JoinOrCreate, JoinMode::Create] {
        let refused = come_back(&nodes[1], &opening, mode).await;
        assert_eq!(refused.err(), Some(ErrorCode::NoSuchRoom));
    }
    bob.join("r", JoinMode::Create).await.unwrap();
    let refused = come_back(&nodes[1], &opening, JoinMode::Join).await;
    assert_eq!(refused.err(), Some(ErrorCode::NoSuchRoom));
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_user_came_with_another_one_is_told_that_it_was_replaced() {
    let (nodes, _bob, opening) = room().await;
    let mut other = Device::new("alice");
    let identity = Bytes::from_static(&[9; 32]);
    other.keys = v1::DeviceKeys {
        seal: identity.clone(),
        identity,
    };
    other.connect(&nodes[1].lab).await.unwrap();
    other.join("r", JoinMode::Join).await.unwrap();
    let refused = come_back(&nodes[1], &opening, JoinMode::Join).await;
    assert_eq!(refused.err(), Some(ErrorCode::Replaced));
}
