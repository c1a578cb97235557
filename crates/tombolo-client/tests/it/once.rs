//! What is done once, whatever becomes of the answer.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tombolo_client::{Audience, Device, RoomEvent, RoomOptions};
use tombolo_engine::{Engine, Local, LocalConfig};
use tombolo_node::Node;
use tombolo_wire::ServerUrl;

use crate::lab::{device, soon};
use crate::moves::{knows, start};

#[tokio::test]
async fn what_was_said_to_a_node_that_died_before_its_answer_came_is_said_once() {
    let engine: Arc<dyn Engine> = Arc::new(Local::new(LocalConfig::default()));
    // Whose end is the node's, all of it at once.
    let mortal = Runtime::new().unwrap();
    let shared = engine.clone();
    let first = mortal.spawn(async move { start(Node::builder(), &shared, 0).await });
    let first = first.await.unwrap();
    let second = start(Node::builder(), &engine, 1).await;
    knows(&first, 1).await;
    knows(&second, 1).await;
    let url: ServerUrl = first.ready().url.to_string().parse().unwrap();
    let way = Way::new((url.ip().unwrap(), url.port).into()).await;
    let through = ServerUrl::from_ip(way.address.ip(), way.address.port(), url.pin);
    let alice = Device::builder(&through.to_string()).development_user("alice");
    let alice = soon(alice.connect()).await.unwrap();
    let bob = device(&second, "bob").await;
    let hers = alice.rooms().create("r", RoomOptions::default()).await;
    let his = bob.rooms().join("r", RoomOptions::default()).await.unwrap();

    way.is_mute.send_replace(true);
    let saying = tokio::spawn(async move {
        let hers = hers.unwrap();
        (hers.say(Audience::All, "once").await, hers)
    });
    let number = loop {
        if let RoomEvent::Said(said) = soon(his.next_event()).await.unwrap() {
            break said.number;
        }
    };
    assert!(!saying.is_finished());
    mortal.shutdown_background();
    let (said, _hers) = soon(saying).await.unwrap();
    assert_eq!(said.unwrap(), number);
    assert_eq!(alice.session().node, "node-1");
    assert!(!alice.session().resumed);
    assert_eq!(his.history(None, 10).await.unwrap().messages.len(), 1);
    second.shutdown().await;
}

/// Carries TCP to a node, and back until it is mute; UDP does not pass.
struct Way {
    address: SocketAddr,
    is_mute: Arc<watch::Sender<bool>>,
}

impl Way {
    async fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_mute = Arc::new(watch::Sender::new(false));
        let muted = is_mute.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, to, muted.subscribe()));
            }
        });
        Self { address, is_mute }
    }
}

async fn carry(near: TcpStream, to: SocketAddr, mut is_mute: watch::Receiver<bool>) {
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let there = io::copy(&mut from_near, &mut to_far);
    let back = async {
        tokio::select! {
            _ = io::copy(&mut from_far, &mut to_near) => return,
            _ = is_mute.wait_for(|is_mute| *is_mute) => {}
        }
        _ = io::copy(&mut from_far, &mut io::sink()).await;
    };
    tokio::select! {
        _ = there => {}
        () = back => {}
    }
}
