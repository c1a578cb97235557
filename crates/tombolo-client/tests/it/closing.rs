//! Links that are closed before all is sent, or before they are up.

use bytes::Bytes;
use tombolo_client::{Lane, Peer, Room, RoomOptions};
use tombolo_wire::v1::{
    DeviceKeys, ErrorCode, Introduce, Introduced, Introduction, client_frame, server_frame,
};

use crate::lab::{Pair, incoming, met, node, recv, soon, user};
use crate::script::{Line, Script, enter};

const MESSAGES: u8 = 50;
/// So much of them takes a while.
const LONG_BYTES: usize = 100_000;
/// And so much is soon there.
const SHORT_BYTES: usize = 2000;

async fn send_all(peer: &Peer, bytes: usize) {
    for number in 0..MESSAGES {
        let payload = vec![number; bytes];
        let sent = peer.send_when_ready(Lane::Reliable, payload);
        sent.await.unwrap();
    }
}

/// Takes what [`send_all`] sends from the next link that another member starts, and that link's end.
async fn recv_all(room: &mut Room) {
    let peer = soon(incoming(room)).await;
    for number in 0..MESSAGES {
        assert_eq!(recv(&peer).await.payload[0], number);
    }
    assert_eq!(soon(peer.recv()).await, None);
}

#[tokio::test]
async fn links_that_are_closed_while_they_are_set_up_deliver_one_after_the_other() {
    let node = node().await;
    let (_devices, [alice_room, mut bob_room]) = met(&node).await;
    let mut closed = Vec::new();
    for _ in 0..3 {
        let to_bob = alice_room.peer(&user("bob")).open().unwrap();
        send_all(&to_bob, LONG_BYTES).await;
        to_bob.close();
        closed.push(to_bob);
    }
    for to_bob in closed {
        recv_all(&mut bob_room).await;
        soon(to_bob.closed()).await;
        assert_eq!(to_bob.status().reason.as_deref(), Some("closed"));
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_link_delivers_though_the_one_that_waits_for_it_is_let_go_and_another_is_opened() {
    let node = node().await;
    let mut pair = Pair::new(&node, RoomOptions::default()).await;
    send_all(&pair.to_bob, LONG_BYTES).await;
    pair.to_bob.close();
    drop(pair.alice_room.peer(&user("bob")).open().unwrap());
    let again = pair.alice_room.peer(&user("bob"));
    let again = again.first_message(Lane::Reliable, "again");
    let _again = again.open().unwrap();
    for number in 0..MESSAGES {
        assert_eq!(recv(&pair.to_alice).await.payload[0], number);
    }
    assert_eq!(soon(pair.to_alice.recv()).await, None);
    let to_alice = soon(incoming(&mut pair.bob_room)).await;
    assert_eq!(recv(&to_alice).await.payload, "again");
    node.shutdown().await;
}

#[tokio::test]
async fn a_device_that_is_closed_lets_links_deliver_that_are_set_up() {
    let node = node().await;
    let ([alice, _bob], [alice_room, mut bob_room]) = met(&node).await;
    let to_bob = alice_room.peer(&user("bob")).open().unwrap();
    send_all(&to_bob, SHORT_BYTES).await;
    let ((), ()) = tokio::join!(recv_all(&mut bob_room), soon(alice.close()));
    node.shutdown().await;
}

#[tokio::test]
async fn a_device_that_is_closed_lets_links_deliver_that_were_let_go() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    send_all(&pair.to_bob, SHORT_BYTES).await;
    drop(pair.to_bob);
    let delivered = async {
        for number in 0..MESSAGES {
            assert_eq!(recv(&pair.to_alice).await.payload[0], number);
        }
    };
    let ((), ()) = tokio::join!(delivered, soon(pair.alice.close()));
    node.shutdown().await;
}

#[tokio::test]
async fn a_device_with_nothing_to_deliver_closes_without_waiting_for_links_that_are_set_up() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let to_bob = room.peer(&user("bob")).open().unwrap();
    introduced(&mut line).await;
    let closing = device.close();
    let ended = async {
        soon(to_bob.closed()).await;
        to_bob.status().reason
    };
    let (reason, ()) = soon(async { tokio::join!(ended, closing) }).await;
    assert_eq!(reason.as_deref(), Some("the device is closed"));
}

/// The device's next introduction, and the number of its frame.
async fn introduced(line: &mut Line) -> (Introduction, u64) {
    let frame = line.receive_frame().await.expect("the session goes on");
    let Some(client_frame::Body::Introduce(Introduce { introduction, .. })) = frame.body else {
        panic!("an introduction should have come, not {frame:?}");
    };
    (introduction.unwrap(), frame.seq)
}

#[tokio::test]
async fn an_introduction_that_was_lost_with_its_session_is_told_again_once_the_room_is_back() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let to_bob = room.peer(&user("bob")).open().unwrap();
    to_bob.send(Lane::Reliable, "to be delivered").unwrap();
    to_bob.close();
    let (first, _) = introduced(&mut line).await;

    let mut line = script.forget(line).await;
    let join = line.request().await;
    let (early, seq) = introduced(&mut line).await;
    line.refuse_frame(seq, ErrorCode::NotAMember).await;
    line.joined(&join, &["alice", "bob"]).await;
    let (again, _) = introduced(&mut line).await;
    for told in [early, again] {
        assert_eq!((told.attempt, told.update), (first.attempt, false));
    }
}

#[tokio::test]
async fn a_peer_that_repeats_its_introduction_is_answered_again() {
    const ATTEMPT: u64 = 7;
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let _room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let introduction = Introduction {
            attempt: ATTEMPT,
            keys: Some(DeviceKeys {
                // The lowest of all: it would be that device's to begin the handshake.
                identity: Bytes::from_static(&[0; 32]),
                seal: Bytes::from_static(&[1; 32]),
            }),
            ufrag: "ufrag".into(),
            password: "passwordpasswordpassword".into(),
            ..Introduction::default()
        };
        let told = Introduced {
            room: "room".into(),
            from: "bob".into(),
            introduction: Some(introduction),
            ..Introduced::default()
        };
        line.tell(server_frame::Body::Introduced(told)).await;
        answers.push(introduced(&mut line).await.0);
    }
    assert_eq!(answers[0].attempt, answers[1].attempt);
    for answer in &answers {
        assert_eq!(answer.answers, ATTEMPT);
    }
    assert!(answers[1].update);
}
