use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::SinkExt as _;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tombolo_wire::frame::FRAME_BYTES_MAX;
use tombolo_wire::token::SigningKey;
use tombolo_wire::v1::client_frame::Body as Up;
use tombolo_wire::v1::server_frame::Body as Down;
use tombolo_wire::v1::{ErrorCode, Ping, ServerFrame};

use crate::device::{Device, PATIENCE, TRANSPORTS, Transport, hello};
use crate::fixture::{Fixture, KID, SECRET, token, unix_now};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tokens_are_refused_with_their_code_and_counted() {
    let fixture = Fixture::start();
    let mut invalid = 0;
    let mut expired = 0;
    for (name, token, expected) in bad_tokens() {
        for transport in TRANSPORTS {
            let mut device = fixture.connect(transport).await;
            device.send_frame(&hello(&token)).await;
            let (code, message) = device.rejected().await;
            assert_eq!(code, expected, "{name} over {transport:?}");
            assert!(
                !message.is_empty(),
                "{name} over {transport:?} has no message"
            );
            if expected == ErrorCode::TokenExpired {
                expired += 1;
            } else {
                invalid += 1;
            }
        }
    }
    let rejected = fixture.gateway.stats().rejected;
    assert_eq!(rejected.get(&ErrorCode::TokenInvalid), Some(&invalid));
    assert_eq!(rejected.get(&ErrorCode::TokenExpired), Some(&expired));
    assert_eq!(fixture.gateway.stats().attached, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_version_is_refused_with_its_code() {
    let fixture = Fixture::start();
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        let mut frame = hello(&token("alice"));
        if let Some(Up::Hello(hello)) = &mut frame.body {
            hello.version = 99;
        }
        device.send_frame(&frame).await;
        assert_eq!(device.rejected().await.0, ErrorCode::Version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_comes_first_or_the_device_is_refused() {
    let fixture = Fixture::start();
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.send(Up::Ping(Ping { nonce: 1 }), 0).await;
        assert_eq!(device.rejected().await.0, ErrorCode::BadFrame);
    }
    assert_eq!(
        fixture.gateway.stats().rejected.get(&ErrorCode::BadFrame),
        Some(&2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_comes_in_time_or_the_device_is_refused() {
    let fixture = Fixture::start_with(|config| {
        config.limits.hello_timeout = Duration::from_secs(2);
    });
    let websocket = async {
        let mut device = fixture.connect(Transport::WebSocket).await;
        assert_eq!(device.rejected().await.0, ErrorCode::BadFrame);
    };
    // A QUIC device that has opened its stream, with half a frame on it, is told there.
    let quic = async {
        let mut device = fixture.connect(Transport::Quic).await;
        if let Device::Quic(device) = &mut device {
            device
                .send
                .write_all(&[0, 0])
                .await
                .expect("the connection is there");
        }
        assert_eq!(device.rejected().await.0, ErrorCode::BadFrame);
    };
    // One that has not gets the same code with the close.
    let silent_quic = async {
        let Device::Quic(device) = fixture.connect(Transport::Quic).await else {
            panic!("asked for QUIC");
        };
        let noq::ConnectionError::ApplicationClosed(close) = device.connection.closed().await
        else {
            panic!(
                "not closed by the gateway: {:?}",
                device.connection.close_reason()
            );
        };
        assert_eq!(
            close.error_code,
            noq::VarInt::from_u32(ErrorCode::BadFrame as u32)
        );
    };
    tokio::join!(websocket, quic, silent_quic);
    assert_eq!(fixture.gateway.stats().hellos_late, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversize_frames_are_refused_before_and_after_hello() {
    let fixture = Fixture::start();
    let oversize = vec![0; FRAME_BYTES_MAX + 1];
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.send_bytes(&oversize).await;
        assert_eq!(device.rejected().await.0, ErrorCode::TooLarge);

        let mut device = fixture.connect(transport).await;
        device.hello(&token("alice")).await;
        device.send_bytes(&oversize).await;
        assert_eq!(device.rejected().await.0, ErrorCode::TooLarge);
    }
    assert_eq!(
        fixture.gateway.stats().rejected.get(&ErrorCode::TooLarge),
        Some(&4)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_beyond_all_bounds_is_refused_for_its_size() {
    let fixture = Fixture::start();
    let mut device = fixture.connect(Transport::WebSocket).await;
    device.send_bytes(&vec![0; 4 * FRAME_BYTES_MAX]).await;
    fixture
        .stats_when(|stats| stats.rejected.get(&ErrorCode::TooLarge) == Some(&1))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_before_and_after_hello() {
    let fixture = Fixture::start();
    let garbage = [0xff; 64];
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        device.send_bytes(&garbage).await;
        assert_eq!(device.rejected().await.0, ErrorCode::BadFrame);

        let mut device = fixture.connect(transport).await;
        device.hello(&token("alice")).await;
        device.send_bytes(&garbage).await;
        assert_eq!(device.rejected().await.0, ErrorCode::BadFrame);
    }
    assert_eq!(
        fixture.gateway.stats().rejected.get(&ErrorCode::BadFrame),
        Some(&4)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_a_datagram_is_refused() {
    let fixture = Fixture::start();
    let mut device = fixture.connect(Transport::Quic).await;
    device.hello(&token("alice")).await;
    if let Device::Quic(quic) = &device {
        quic.connection
            .send_datagram(vec![0xff; 64].into())
            .expect("the node takes datagrams");
    }
    assert_eq!(device.rejected().await.0, ErrorCode::BadFrame);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_over_websocket_is_refused() {
    let fixture = Fixture::start();
    let mut device = fixture.connect(Transport::WebSocket).await;
    if let Device::WebSocket(websocket) = &mut device {
        websocket
            .socket
            .send(Message::text("hello"))
            .await
            .expect("the connection is there");
    }
    assert_eq!(device.rejected().await.0, ErrorCode::BadFrame);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_application_protocol_fails_the_handshake() {
    let fixture = Fixture::start();
    let result = fixture.server.connect_quic(b"h3").await;
    let Err(noq::ConnectionError::ConnectionClosed(close)) = result else {
        panic!("connected with another protocol");
    };
    // TLS alert 120, no_application_protocol (RFC 9001 §8.1).
    assert_eq!(u64::from(close.error_code), 0x100 + 120);
    fixture
        .stats_when(|stats| stats.handshakes_failed == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_gateway_refuses_and_recovers() {
    let fixture = Fixture::start_with(|config| config.limits.connections_max = 1);
    let mut device = fixture.connect(Transport::Quic).await;
    device.hello(&token("alice")).await;

    let result = fixture.server.connect_quic(b"tombolo/1").await;
    assert!(result.is_err(), "QUIC is refused in the handshake");
    let mut tcp = TcpStream::connect(fixture.server.addr)
        .await
        .expect("the kernel accepts");
    let read = tcp.read(&mut [0; 1]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "TCP is closed at once");
    assert_eq!(fixture.gateway.stats().refused_full, 2);

    device.close().await;
    fixture.stats_when(|stats| stats.sessions_quic == 0).await;
    let mut device = loop {
        // The place is given back a moment after the gauge has fallen.
        if let Ok(device) = fixture.server.connect_quic(b"tombolo/1").await {
            break device;
        }
    };
    device.hello(&token("alice")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_source_cannot_take_all_places() {
    let fixture = Fixture::start_with(|config| config.limits.connections_per_prefix_max = 1);
    let mut device = fixture.connect(Transport::Quic).await;
    device.hello(&token("alice")).await;
    assert!(fixture.server.connect_quic(b"tombolo/1").await.is_err());
    assert_eq!(fixture.gateway.stats().refused_prefix_full, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_say_no_hello_leave_the_places_of_sessions_alone() {
    let fixture = Fixture::start_with(|config| config.limits.opening_per_prefix_max = 1);
    for transport in TRANSPORTS {
        let mut device = fixture.connect(transport).await;
        assert!(fixture.server.connect_quic(b"tombolo/1").await.is_err());
        let mut tcp = TcpStream::connect(fixture.server.addr)
            .await
            .expect("the system takes it");
        let read = tcp.read(&mut [0; 1]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "TCP is closed at once");
        // With a session it is no stranger any more.
        device.hello(&token("alice")).await;
        let mut next = fixture.connect(transport).await;
        next.hello(&token("bob")).await;
    }
    assert_eq!(fixture.gateway.stats().refused_prefix_full, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_have_a_pace_and_those_who_are_there_stay() {
    let fixture = Fixture::start_with(|config| {
        config.limits.handshakes_per_second_per_prefix_max = 1;
    });
    let mut device = fixture.connect(Transport::Quic).await;
    device.hello(&token("alice")).await;
    let refused = async {
        while fixture.gateway.stats().refused_prefix_pace == 0 {
            let _ = TcpStream::connect(fixture.server.addr).await;
        }
    };
    let refused = tokio::time::timeout(PATIENCE, refused).await;
    refused.expect("nobody may begin so many");
    device.send(Up::Ping(Ping { nonce: 1 }), 0).await;
    let pong = |frame: ServerFrame| matches!(frame.body, Some(Down::Pong(_))).then_some(());
    device.receive_until(pong).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_that_says_no_hello_gives_its_place_to_a_newcomer_from_elsewhere() {
    for transport in TRANSPORTS {
        let fixture = Fixture::start_with(|config| {
            config.limits.opening_max = 2;
            config.limits.hello_timeout = Duration::from_secs(60);
        });
        let mut first = fixture.connect(transport).await;
        let mut second = fixture.connect(transport).await;
        let newcomer = TcpSocket::new_v4().expect("a socket");
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], 0));
        newcomer.bind(elsewhere).expect("loopback has it");
        let newcomer = newcomer.connect(fixture.server.addr).await;
        let _newcomer = newcomer.expect("the system takes it");
        assert_eq!(first.receive().await, None, "{transport:?}");
        let stats = fixture.stats_when(|stats| stats.displaced == 1).await;
        assert_eq!(stats.refused_full, 0);
        second.hello(&token("alice")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_a_device_proves_its_address_first() {
    let fixture = Fixture::start_with(|config| config.limits.unvalidated_max = 0);
    let mut device = fixture.connect(Transport::Quic).await;
    device.hello(&token("alice")).await;
    assert_eq!(fixture.gateway.stats().retries, 1);
}

fn bad_tokens() -> Vec<(&'static str, String, ErrorCode)> {
    let now = unix_now().as_secs();
    let header = json!({"alg": "HS256", "kid": KID});
    let good = json!({"sub": "alice", "aud": "tombolo", "exp": now + 600});
    let with = |name: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let wrong_key = SigningKey::hs256(KID, &[8; 32]).expect("long enough");
    let claims = tombolo_wire::token::Claims::new(
        "alice".parse().expect("a user"),
        unix_now() + Duration::from_secs(600),
    );
    let none = json!({"alg": "none", "kid": KID});
    vec![
        (
            "expired",
            signed(&header, &with("exp", json!(now - 1))),
            ErrorCode::TokenExpired,
        ),
        (
            "wrong key",
            wrong_key.mint(&claims).expect("the key signs"),
            ErrorCode::TokenInvalid,
        ),
        (
            "unknown key",
            signed(&json!({"alg": "HS256", "kid": "other"}), &good),
            ErrorCode::TokenInvalid,
        ),
        (
            "wrong audience",
            signed(&header, &with("aud", json!("else"))),
            ErrorCode::TokenInvalid,
        ),
        (
            "alg none",
            format!("{}.{}.", encode(&none), encode(&good)),
            ErrorCode::TokenInvalid,
        ),
        (
            "alg none, signed",
            signed(&none, &good),
            ErrorCode::TokenInvalid,
        ),
        (
            "no user",
            signed(&header, &with("sub", json!(""))),
            ErrorCode::TokenInvalid,
        ),
        ("empty", String::new(), ErrorCode::TokenInvalid),
        ("no token", "tombolo".to_owned(), ErrorCode::TokenInvalid),
        ("too long", "x".repeat(8 * 1024), ErrorCode::TokenInvalid),
    ]
}

/// A token with any header and claims, and the signature of the fixture's key.
fn signed(header: &serde_json::Value, claims: &serde_json::Value) -> String {
    use hmac::{KeyInit as _, Mac as _};

    let message = format!("{}.{}", encode(header), encode(claims));
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&SECRET).expect("any length");
    mac.update(message.as_bytes());
    format!(
        "{message}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

fn encode(value: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}
