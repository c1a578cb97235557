//! Tokens that expire while their devices have sessions.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tombolo_client::{Device, DeviceBuilder, ErrorCode, Lane, Policy, TokenState};
use tombolo_node::Node;
use tombolo_wire::token::{Claims, SigningKey};
use tombolo_wire::v1::{IceServers, Welcome, request, response};

use crate::lab::{message, soon, user};
use crate::moves::{arrives, join, nodes_with};
use crate::script::{Line, Script, enter, welcome};
use crate::silence::says;

/// How a node may refuse a token, for each of which another may be good.
const REFUSALS: [ErrorCode; 2] = [ErrorCode::TokenExpired, ErrorCode::TokenInvalid];

/// Waits for what the device tells of its token.
async fn is_told(device: &Device, state: TokenState) {
    let mut token = device.watch_token();
    soon(token.wait_for(|is| *is == state)).await.unwrap();
}

/// The token in the device's next question for credentials.
async fn asked_with(line: &mut Line) -> String {
    let asked = line.request().await;
    let Some(request::Kind::IceServers(refresh)) = &asked.kind else {
        panic!("credentials should have been asked for, not {asked:?}");
    };
    let lent = IceServers {
        ttl_s: 3600,
        token_ttl_s: 3600,
        ..IceServers::default()
    };
    let token = refresh.token.clone();
    line.answer(&asked, response::Result::IceServers(lent))
        .await;
    token
}

/// A device whose application makes `token-1`, `token-2`…
fn with_source(script: &Script) -> DeviceBuilder {
    let made = AtomicU32::new(1);
    Device::builder(&script.url).token_source(move || {
        let number = made.fetch_add(1, Ordering::Relaxed);
        async move { Ok::<_, Infallible>(format!("token-{number}")) }
    })
}

#[tokio::test]
async fn a_session_whose_token_is_refused_goes_on_with_another_one() {
    for code in REFUSALS {
        let script = Script::new().await;
        let (device, mut line) = script.device().await;
        let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
        let seq = line.seq;
        drop(line);
        let mut refused = script.accept().await;
        refused.reject(code).await;
        is_told(&device, TokenState::Refused).await;

        device.set_token("newer");
        assert_eq!(*device.watch_token().borrow(), TokenState::Good);
        let mut line = script.accept_with("newer").await;
        line.seq = seq;
        line.welcome(true).await;
        // The script acknowledges nothing: the device asks again to join.
        line.request().await;
        assert_eq!(asked_with(&mut line).await, "newer");
        says(&room, &mut line, "with another token").await;
    }
}

#[tokio::test]
async fn a_session_goes_on_over_another_node_when_one_does_not_know_its_token_s_key() {
    let (script, other) = (Script::new().await, Script::new().await);
    let (device, mut line) = script.device_that_knows(&[&other]).await;
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    let seq = line.seq;
    drop(line);
    script.accept().await.reject(ErrorCode::TokenInvalid).await;
    is_told(&device, TokenState::Refused).await;
    let mut line = other.accept().await;
    line.seq = seq;
    line.welcome(true).await;
    is_told(&device, TokenState::Good).await;
    line.request().await;
    says(&room, &mut line, "over another node").await;
    assert_eq!(device.ended(), None);
}

#[tokio::test]
async fn a_device_is_not_let_in_for_the_first_time_with_a_token_that_is_refused() {
    for code in REFUSALS {
        let script = Script::new().await;
        let device = script.connect();
        script.accept().await.reject(code).await;
        let error = soon(device).await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(code));
    }
}

#[tokio::test]
async fn the_application_is_asked_for_a_token_when_one_is_needed_and_when_it_was_refused() {
    for code in REFUSALS {
        let script = Script::new().await;
        let builder = with_source(&script).token("kept for long");
        let device = tokio::spawn(builder.connect());
        let mut line = script.accept().await;
        assert_eq!(line.token, "kept for long");
        line.reject(code).await;
        let mut line = script.accept().await;
        assert_eq!(line.token, "token-1");
        line.welcome(false).await;
        let device = soon(device).await.unwrap().unwrap();

        // One that was not refused is good for another connection.
        drop(line);
        let mut line = script.accept().await;
        assert_eq!(line.token, "token-1");
        line.reject(code).await;
        let mut line = script.accept().await;
        assert_eq!(line.token, "token-2");
        line.welcome(true).await;
        is_told(&device, TokenState::Good).await;
    }
}

#[tokio::test]
async fn an_application_whose_source_panics_is_asked_again() {
    let script = Script::new().await;
    let asked = AtomicU32::new(0);
    let builder = Device::builder(&script.url).token_source(move || {
        let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
        assert_ne!(number, 2, "the application's server is away");
        async move { Ok::<_, Infallible>(format!("token-{number}")) }
    });
    let device = tokio::spawn(builder.connect());
    script.accept().await.welcome(false).await;
    let device = soon(device).await.unwrap().unwrap();
    script.accept().await.reject(ErrorCode::TokenExpired).await;
    drop(script.accept_socket().await);
    let mut line = script.accept().await;
    assert_eq!(line.token, "token-3");
    line.welcome(true).await;
    is_told(&device, TokenState::Good).await;
    assert_eq!(device.ended(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_application_whose_source_blocks_holds_nothing_else_up() {
    let script = Script::new().await;
    let (asked_tx, mut asked) = mpsc::unbounded_channel();
    let (_until_the_end, end) = std::sync::mpsc::channel::<()>();
    let end = std::sync::Mutex::new(end);
    let builder = Device::builder(&script.url).token("first");
    let builder = builder.token_source(move || {
        asked_tx.send(()).unwrap();
        _ = end.lock().unwrap().recv();
        async { Err::<String, _>("too late") }
    });
    let device = tokio::spawn(builder.connect());
    let mut line = script.accept().await;
    line.welcome(false).await;
    let device = soon(device).await.unwrap().unwrap();
    let room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
    drop(line);
    script.accept().await.reject(ErrorCode::TokenExpired).await;
    let _socket = script.accept_socket().await;
    soon(asked.recv()).await;
    let said = room.broadcast(Lane::Reliable, "for when there is a token");
    soon(said).await.unwrap();
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_the_node_is_told_of_it() {
    let script = Script::new().await;
    let device = tokio::spawn(with_source(&script).connect());
    let mut line = script.accept().await;
    let lent = IceServers {
        ttl_s: 301,
        token_ttl_s: 1,
        ..IceServers::default()
    };
    line.welcome_with(Welcome {
        ice_servers: Some(lent),
        ..welcome(false)
    })
    .await;
    let device = soon(device).await.unwrap().unwrap();
    assert_eq!(asked_with(&mut line).await, "token-2");
    device.set_token("from the application");
    assert_eq!(asked_with(&mut line).await, "from the application");
}

#[tokio::test]
async fn a_device_that_is_asked_to_go_waits_for_another_token_where_it_is() {
    for code in REFUSALS {
        let (script, other) = (Script::new().await, Script::new().await);
        let (device, mut line) = script.device_that_knows(&[&other]).await;
        let mut room = enter(&device, &mut line, "room", &["alice", "bob"]).await;
        line.go_away(&[&other]).await;
        other.accept().await.reject(code).await;
        is_told(&device, TokenState::Refused).await;
        line.deliver("room", "still here").await;
        assert_eq!(soon(message(&mut room)).await.1, "still here");

        device.set_token("newer");
        let mut new = other.accept_with("newer").await;
        new.seq = line.seq;
        new.welcome(true).await;
        new.request().await;
        assert_eq!(asked_with(&mut new).await, "newer");
        says(&room, &mut new, "over another node").await;
    }
}

#[tokio::test]
async fn a_device_with_a_short_lived_token_outlives_its_node() {
    let [first, second] = nodes_with(|builder| builder).await;
    let (alice, bob) = (
        with_short_token(&first, "alice").await,
        with_short_token(&second, "bob").await,
    );
    let alice_room = join(&alice, Policy::Any).await;
    let mut bob_room = join(&bob, Policy::Any).await;
    is_told(&alice, TokenState::Refused).await;

    let services = first.services().clone();
    let drain = tokio::spawn(async move { services.drain(Duration::from_secs(30)).await });
    alice.set_token(token("alice", Duration::from_secs(600)));
    arrives(&alice, "node-1").await;
    assert!(alice.session().resumed);
    assert_eq!(soon(drain).await.unwrap().left, 0);
    first.shutdown().await;
    let said = alice_room.broadcast(Lane::Reliable, "still here");
    said.await.unwrap();
    let (from, payload) = soon(message(&mut bob_room)).await;
    assert_eq!(
        (from, payload.as_ref()),
        (user("alice"), &b"still here"[..])
    );
    is_told(&alice, TokenState::Good).await;
    second.shutdown().await;
}

/// A device that is let in by a token of two seconds.
async fn with_short_token(node: &Node, name: &str) -> Device {
    let url = node.ready().url.to_string();
    soon(async {
        loop {
            let token = token(name, Duration::from_secs(2));
            match Device::connect(&url, token).await {
                Ok(device) => return device,
                // This machine is slow.
                Err(error) => assert!(error.is_token(), "{error}"),
            }
        }
    })
    .await
}

fn token(name: &str, lasts: Duration) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let claims = Claims::new(user(name), now.unwrap() + lasts);
    let key = SigningKey::hs256("dev", &[7; 32]).unwrap();
    key.mint(&claims).unwrap()
}
