//! Devices on their way from node to node, and what nodes say to that.

use tombolo_client::Lane;
use tombolo_wire::v1::{ErrorCode, Welcome, client_frame, request};

use crate::lab::{message, soon};
use crate::script::{Script, enter, welcome};
use crate::silence::says;

#[tokio::test]
async fn the_node_that_was_left_may_say_so_before_the_new_one_welcomes() {
    let (left, other) = (Script::new().await, Script::new().await);
    let (device, mut old) = left.device().await;
    let mut room = enter(&device, &mut old, "room", &["alice", "bob"]).await;
    let mut sessions = device.watch_session();
    sessions.mark_unchanged();
    old.go_away(&[&other]).await;
    let mut new = other.accept().await;
    old.deliver("room", "last words").await;
    old.reject(ErrorCode::Replaced).await;
    assert_eq!(soon(message(&mut room)).await.1, "last words");
    new.seq = old.seq;
    new.welcome(true).await;
    soon(sessions.changed()).await.unwrap();
    // The script acknowledges nothing: what was said over the old line is said again.
    new.request().await;
    says(&room, &mut new, "over another node").await;
}

#[tokio::test]
async fn a_session_that_was_ended_is_over_when_the_new_node_does_not_have_it_either() {
    let (left, other) = (Script::new().await, Script::new().await);
    let (device, mut old) = left.device().await;
    let room = enter(&device, &mut old, "room", &["alice"]).await;
    old.go_away(&[&other]).await;
    let mut new = other.accept().await;
    old.reject(ErrorCode::Replaced).await;
    new.reject(ErrorCode::NotResumable).await;
    assert!(soon(room.next_event()).await.is_none());
}

#[tokio::test]
async fn a_device_that_gets_nowhere_else_comes_back_to_the_node_that_has_its_session() {
    let (left, other) = (Script::new().await, Script::new().await);
    let (device, mut old) = left.device().await;
    let mut sessions = device.watch_session();
    sessions.mark_unchanged();
    old.go_away(&[&other]).await;
    let mut new = other.accept().await;
    drop(old);
    // The other one says nothing at all after this.
    new.reject(ErrorCode::Unavailable).await;
    left.accept().await.welcome(true).await;
    soon(sessions.changed()).await.unwrap();
    assert!(device.session().resumed);
}

#[tokio::test]
async fn a_node_that_has_sent_a_device_on_is_asked_again_when_the_others_refuse_it() {
    let (first, full) = (Script::new().await, Script::new().await);
    let device = first.connect();
    let mut line = first.accept().await;
    line.reject_for(ErrorCode::Elsewhere, &[&full]).await;
    tokio::spawn(async move {
        loop {
            full.accept().await.reject(ErrorCode::Limit).await;
        }
    });
    let mut line = first.accept().await;
    assert!(line.is_sent_here, "it is not to be sent on once more");
    line.welcome(false).await;
    soon(device).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_overtakes_a_welcome_is_no_failure() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let mut sessions = device.watch_session();
    sessions.mark_unchanged();
    drop(line);
    let mut line = script.accept().await;
    line.deliver_unreliably("room", "too early").await;
    line.welcome(true).await;
    soon(sessions.changed()).await.unwrap();
    assert!(device.session().resumed);
    line.request().await;
    says(&room, &mut line, "over the same connection").await;
}

#[tokio::test]
async fn a_node_that_does_not_say_who_its_device_is_has_none() {
    let script = Script::new().await;
    let device = script.connect();
    let nobody = Welcome {
        user: "no user".into(),
        ..welcome(false)
    };
    script.accept().await.welcome_with(nobody).await;
    let error = soon(device).await.unwrap().unwrap_err();
    assert!(error.is_unreachable(), "{error}");
}

#[tokio::test]
async fn whoever_says_more_than_its_node_takes_in_is_told_to_wait_and_leaves_all_the_same() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let saying = async {
        // The script acknowledges nothing. In the end there is no place for the least thing.
        for length in [60_000, 0] {
            let error = loop {
                let said = room.broadcast(Lane::Reliable, vec![0; length]).await;
                if let Err(error) = said {
                    break error;
                }
            };
            assert!(error.is_temporary() && !error.is_closed(), "{error}");
        }
        drop(room);
    };
    let hearing = async {
        loop {
            let said = line.receive().await.expect("the session goes on");
            if let client_frame::Body::Request(request) = said {
                break request.kind;
            }
        }
    };
    let ((), last) = soon(async { tokio::join!(saying, hearing) }).await;
    assert!(matches!(last, Some(request::Kind::Leave(_))), "{last:?}");
}
