//! Sessions that lose their connections.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tombolo_client::{Audience, Device, Lane, RoomEvent, RoomOptions, Transport};
use tombolo_wire::ServerUrl;

use crate::lab::{device, message, met, node, soon};

/// Carries TCP to a node and cuts every connection when told; UDP does not pass.
struct Cutter {
    address: SocketAddr,
    cut: Arc<watch::Sender<u32>>,
}

impl Cutter {
    async fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Arc::new(watch::Sender::new(0));
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cuts = cuts.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(to).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, cut }
    }

    fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }
}

#[tokio::test]
async fn a_device_whose_connection_is_broken_goes_on_with_its_session() {
    let node = node().await;
    let ([alice, _bob], [alice_room, bob_room]) = met(&node).await;
    let mut sessions = alice.watch_session();
    for _ in 0..2 {
        sessions.mark_unchanged();
        alice.break_connection();
        soon(sessions.changed()).await.unwrap();
        assert!(alice.session().resumed);
    }
    soon(alice_room.say(Audience::Others, "here"))
        .await
        .unwrap();
    let said = async {
        loop {
            if let Some(RoomEvent::Said(said)) = bob_room.next_event().await {
                return said.payload;
            }
        }
    };
    assert_eq!(soon(said).await, "here");
}

#[tokio::test]
async fn a_broken_connection_loses_and_repeats_nothing() {
    const MESSAGES: u32 = 300;
    let node = node().await;
    let url: ServerUrl = node.ready().url.to_string().parse().unwrap();
    let cutter = Cutter::new((url.ip().unwrap(), url.port).into()).await;
    let through = ServerUrl::from_ip(cutter.address.ip(), cutter.address.port(), url.pin);
    let shaky = Device::builder(&through.to_string()).development_user("shaky");
    let shaky = soon(shaky.connect()).await.unwrap();
    assert_eq!(
        shaky.session().transport,
        Transport::WebSocket,
        "only TCP passes"
    );
    let steady = device(&node, "steady").await;
    let mut shaky_room = shaky
        .rooms()
        .create("room", RoomOptions::default())
        .await
        .unwrap();
    let mut steady_room = steady
        .rooms()
        .join("room", RoomOptions::default())
        .await
        .unwrap();

    let mut sessions = shaky.watch_session();
    for number in 0..MESSAGES {
        let payload = number.to_be_bytes().to_vec();
        shaky_room
            .broadcast(Lane::Reliable, payload.clone())
            .await
            .unwrap();
        steady_room
            .broadcast(Lane::Reliable, payload)
            .await
            .unwrap();
        if number % 100 == 50 {
            sessions.mark_unchanged();
            cutter.cut();
            soon(sessions.changed()).await.unwrap();
            assert!(sessions.borrow().as_ref().unwrap().resumed);
        }
    }
    for room in [&mut shaky_room, &mut steady_room] {
        for number in 0..MESSAGES {
            assert_eq!(soon(message(room)).await.1, number.to_be_bytes().as_slice());
        }
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_with_another_certificate_is_not_trusted() {
    let node = node().await;
    let url: ServerUrl = node.ready().url.to_string().parse().unwrap();
    let mut pin = url.pin.unwrap();
    pin.0[0] ^= 1;
    let wrong = ServerUrl::from_ip(url.ip().unwrap(), url.port, Some(pin));
    let error = soon(Device::connect(&wrong.to_string(), "token"))
        .await
        .unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    node.shutdown().await;
}

#[test]
fn a_token_is_not_shown_where_a_device_is() {
    let builder = Device::builder("tombolo://127.0.0.1:8443").token("my.secret.token");
    let shown = format!("{builder:?}");
    assert!(
        shown.contains("Token") && !shown.contains("secret"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_forged_token_is_refused_at_once() {
    let node = node().await;
    let url = node.ready().url.to_string();
    let error = soon(Device::connect(&url, "not.a.token"))
        .await
        .unwrap_err();
    assert!(error.is_token(), "{error}");
    node.shutdown().await;
}
