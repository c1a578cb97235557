//! Nodes that say nothing any more, but have not hung up.

use tokio::io::AsyncReadExt;
use tombolo_client::{Lane, Room, RoomEvent};
use tombolo_wire::v1::{IceServer, IceServers, Welcome, client_frame};

use crate::lab::{message, soon};
use crate::script::{Line, Script, enter, welcome};

/// Waits for what the device says in the room.
pub(crate) async fn says(room: &Room, line: &mut Line, payload: &'static str) {
    soon(room.broadcast(Lane::Reliable, payload)).await.unwrap();
    let said = line.receive().await;
    assert!(
        matches!(&said, Some(client_frame::Body::Send(send)) if send.payload == payload),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_silent_node_is_left_for_another_one_and_heard_until_that_has_the_session() {
    let (silent, other) = (Script::new().await, Script::new().await);
    let (device, mut old) = silent.device_that_knows(&[&other]).await;
    let mut room = enter(&device, &mut old, "room", &["alice", "bob"]).await;
    let mut sessions = device.watch_session();
    sessions.mark_unchanged();
    // Nobody reads the old line any more, so nothing on it is answered.
    let mut new = other.accept().await;
    old.deliver("room", "last words").await;
    assert_eq!(soon(message(&mut room)).await.1, "last words");
    new.seq = old.seq;
    new.welcome(true).await;
    soon(sessions.changed()).await.unwrap();
    // The script acknowledges nothing: what was said over the old line is said again.
    new.request().await;
    says(&room, &mut new, "over another node").await;
    assert_eq!(old.receive().await, None, "the device hangs up");
}

#[tokio::test]
async fn a_silent_node_that_speaks_before_another_one_answers_keeps_the_session() {
    let (silent, other) = (Script::new().await, Script::new().await);
    let (device, mut line) = silent.device_that_knows(&[&other]).await;
    let mut room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let mut tried = other.accept_tls().await;
    line.deliver("room", "still here").await;
    assert_eq!(soon(message(&mut room)).await.1, "still here");
    let mut asked = Vec::new();
    let hung_up = soon(tried.read_to_end(&mut asked)).await;
    assert!(hung_up.is_err() || asked.starts_with(b"GET "), "{asked:?}");
    says(&room, &mut line, "over the same node").await;
    assert!(device.session().node == "script" && !device.session().resumed);
}

#[test]
fn nothing_waits_until_the_name_of_another_nodes_relay_is_resolved() {
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        // Names are resolved where this has its place.
        drop(tokio::task::spawn_blocking(move || is_done.recv()));
        let script = Script::new().await;
        let (device, mut line) = script.device().await;
        let room = enter(&device, &mut line, "r", &["alice"]).await;
        let seq = line.seq;
        drop(line);
        let mut line = script.accept().await;
        let servers = IceServer {
            urls: vec!["turn:relay.invalid".to_owned()],
            ..IceServer::default()
        };
        let welcome = Welcome {
            node: "another".to_owned(),
            ice_servers: Some(IceServers {
                servers: vec![servers],
                ..IceServers::default()
            }),
            ..welcome(true)
        };
        line.welcome_with(welcome).await;
        line.seq = seq;
        line.member_joined("r", "bob").await;
        let event = soon(room.next_event()).await;
        assert!(matches!(event, Some(RoomEvent::Joined(_))), "{event:?}");
        drop(done);
    });
}
