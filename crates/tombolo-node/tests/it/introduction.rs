use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tombolo_node::Node;
use tombolo_turn::client::{Config, Event, Family, Patience};
use tombolo_turn::server::Transport;
use tombolo_wire::v1::client_frame::Body as Up;
use tombolo_wire::v1::server_frame::Body as Down;
use tombolo_wire::v1::{
    Address, Candidate, CandidateKind, ClientFrame, DeviceKeys, Hello, Introduce, Introduction,
    Join, JoinMode, Request, ServerFrame, request,
};
use tombolo_wire::{VERSION, WEBSOCKET_PATH, frame};

use crate::https::{PATIENCE, connect, token};
use crate::life::start;
use crate::turn::{UdpClient, addr_of};

/// The first idea of the relayed path: it works on arrival of the introduction, with no request
/// to the relay in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_introduction_the_relay_carries_packets_unasked() {
    let node = start().await;
    let mut alice = Device::join(&node, "alice").await;
    let mut bob = Device::join(&node, "bob").await;

    alice.introduce_to("bob").await;
    let from_alice = bob.introduction().await;
    bob.introduce_to("alice").await;
    let from_bob = alice.introduction().await;
    assert_eq!((from_alice, from_bob), (alice.relayed, bob.relayed));

    alice.turn.send_unasked(from_bob, b"hello bob").await;
    let (from, payload) = timeout(PATIENCE, bob.turn.packet())
        .await
        .expect("it arrives");
    assert_eq!(
        (from, payload.as_slice()),
        (alice.relayed, &b"hello bob"[..])
    );
    bob.turn.send_unasked(from_alice, b"hello alice").await;
    let (from, payload) = timeout(PATIENCE, alice.turn.packet())
        .await
        .expect("it arrives");
    assert_eq!(
        (from, payload.as_slice()),
        (bob.relayed, &b"hello alice"[..])
    );

    let stats = node.stats();
    assert_eq!((stats.gateway.attached, stats.services.introduced), (2, 2));
    assert!(!stats.relay.shards.is_empty());
    node.shutdown().await;
}

/// A bare device in the room, with an allocation.
pub(crate) struct Device {
    socket: Socket,
    sent: u64,
    turn: UdpClient,
    relayed: SocketAddr,
}

impl Device {
    pub(crate) async fn join(node: &Node, user: &str) -> Self {
        let mut socket = dial(node).await;
        let hello = Hello {
            version: VERSION,
            token: token(node, user).await,
            keys: Some(keys(user)),
            ..Hello::default()
        };
        send(&mut socket, 0, Up::Hello(hello)).await;
        let servers = receive_until(&mut socket, |body| {
            if let Down::Welcome(welcome) = body {
                welcome.ice_servers
            } else {
                None
            }
        })
        .await;
        let server = servers
            .servers
            .iter()
            .find(|server| !server.username.is_empty());
        let server = server.expect("a server with credentials");
        let mut turn = UdpClient::new(Config {
            server: addr_of(&server.urls[0]),
            transport: Transport::Udp,
            username: server.username.clone(),
            password: server.credential.clone(),
            family: Family::V4,
            lifetime: Duration::from_secs(600),
            patience: Patience::default(),
        })
        .await;
        let event = timeout(PATIENCE, turn.event())
            .await
            .expect("an answer in time");
        let Event::Allocated { relayed, .. } = event else {
            panic!("no allocation but {event:?}");
        };
        let join = Join {
            room: ROOM.to_owned(),
            mode: JoinMode::JoinOrCreate.into(),
            ..Join::default()
        };
        let request = Request {
            id: 1,
            kind: Some(request::Kind::Join(join)),
        };
        let mut device = Self {
            socket,
            sent: 0,
            turn,
            relayed,
        };
        device.send(Up::Request(request)).await;
        receive_until(&mut device.socket, |body| {
            if let Down::Response(response) = body {
                response.result
            } else {
                None
            }
        })
        .await;
        device
    }

    async fn introduce_to(&mut self, user: &str) {
        let SocketAddr::V4(relayed) = self.relayed else {
            panic!("asked for IPv4");
        };
        let candidate = Candidate {
            kind: CandidateKind::Relayed.into(),
            address: Some(Address {
                ip: Bytes::copy_from_slice(&relayed.ip().octets()),
                port: relayed.port().into(),
            }),
            priority: 1,
        };
        let introduction = Introduction {
            attempt: 1,
            ufrag: "ufrag".to_owned(),
            password: "a password of enough length".to_owned(),
            candidates: vec![candidate],
            ..Introduction::default()
        };
        let introduce = Introduce {
            room: ROOM.to_owned(),
            to: user.to_owned(),
            introduction: Some(introduction),
            ..Introduce::default()
        };
        self.send(Up::Introduce(introduce)).await;
    }

    /// The relayed candidate of the next introduction that comes.
    async fn introduction(&mut self) -> SocketAddr {
        let candidates = receive_until(&mut self.socket, |body| {
            let Down::Introduced(introduced) = body else {
                return None;
            };
            Some(introduced.introduction?.candidates)
        })
        .await;
        let address = candidates[0]
            .address
            .clone()
            .expect("candidates have an address");
        let ip: [u8; 4] = address.ip.as_ref().try_into().expect("IPv4");
        SocketAddr::new(ip.into(), u16::try_from(address.port).expect("a port"))
    }

    async fn send(&mut self, body: Up) {
        self.sent += 1;
        send(&mut self.socket, self.sent, body).await;
    }
}

/// What a device says to a node, and hears.
pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A connection to the node over which nothing has been said.
pub(crate) async fn dial(node: &Node) -> Socket {
    let url = &node.ready().url;
    let addr = SocketAddr::new(url.ip().expect("an IP"), url.port);
    let tls = connect(url, addr).await;
    let url = format!("wss://{}{WEBSOCKET_PATH}", url.authority());
    let upgraded = tokio_tungstenite::client_async(url, tls).await;
    upgraded.expect("an upgrade").0
}

pub(crate) async fn send(socket: &mut Socket, seq: u64, body: Up) {
    let frame = ClientFrame {
        seq,
        ack: 0,
        body: Some(body),
    };
    let bytes = frame::encode(&frame).expect("a frame within bounds");
    socket
        .send(Message::Binary(bytes))
        .await
        .expect("the node reads");
}

pub(crate) async fn receive_until<T>(socket: &mut Socket, pick: impl Fn(Down) -> Option<T>) -> T {
    let search = async {
        loop {
            let message = socket
                .next()
                .await
                .expect("the session goes on")
                .expect("WebSocket");
            let Message::Binary(bytes) = message else {
                continue;
            };
            let frame: ServerFrame = frame::decode(bytes).expect("nodes send frames");
            if let Some(picked) = frame.body.and_then(&pick) {
                return picked;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("it comes in time")
}

pub(crate) fn keys(user: &str) -> DeviceKeys {
    DeviceKeys {
        identity: user.bytes().cycle().take(32).collect(),
        seal: Bytes::from_static(&[2; 32]),
    }
}

const ROOM: &str = "lobby";
