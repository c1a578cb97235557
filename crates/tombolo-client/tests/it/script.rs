//! A node whose every word is up to the test, over WebSocket.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tombolo_client::{Device, Room, RoomOptions};
use tombolo_wire::v1::{
    ClientFrame, Delivery, DeviceKeys, ErrorCode, Joined, Member, MemberLeft, Reject, Request,
    Response, RoomEvent, ServerFrame, Welcome, client_frame, request, response, room_event,
    server_frame,
};
use tombolo_wire::{CertificatePin, ServerUrl, frame};

use crate::lab::soon;

pub(crate) struct Script {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pub(crate) url: String,
}

impl Script {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let certificate = certified.cert.der().clone();
        let pin = CertificatePin::of(&certificate);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            url: ServerUrl::from_ip(address.ip(), address.port(), Some(pin)).to_string(),
        }
    }

    /// Takes the next connection, as far as the device's greeting.
    pub(crate) async fn accept(&self) -> Line {
        soon(async {
            let tls = self.accept_tls().await;
            let socket = tokio_tungstenite::accept_async(tls).await.unwrap();
            let mut line = Line {
                socket,
                seq: 0,
                life: 0,
            };
            let Some(client_frame::Body::Hello(hello)) = line.receive().await else {
                panic!("a device greets first");
            };
            line.life = hello.life;
            line
        })
        .await
    }

    /// Takes the next connection, and says nothing on it.
    pub(crate) async fn accept_tls(&self) -> TlsStream<TcpStream> {
        let (tcp, _) = soon(self.listener.accept()).await.unwrap();
        soon(self.acceptor.accept(tcp)).await.unwrap()
    }

    /// A device of alice's, and its first connection.
    pub(crate) async fn device(&self) -> (Device, Line) {
        self.device_that_knows(&[]).await
    }

    /// The same; the device is told of other nodes.
    pub(crate) async fn device_that_knows(&self, nodes: &[&Self]) -> (Device, Line) {
        let (url, token) = (self.url.clone(), "token");
        let device = tokio::spawn(async move { Device::connect(&url, token).await });
        let mut line = self.accept().await;
        let nodes = nodes.iter().map(|node| node.url.clone()).collect();
        line.welcome_naming(nodes, false).await;
        (soon(device).await.unwrap().unwrap(), line)
    }
}

/// One connection of a device, seen from the node.
pub(crate) struct Line {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// Of the last reliable frame; the test carries it over to a resumed connection.
    pub(crate) seq: u64,
    /// As the device's greeting said.
    pub(crate) life: u64,
}

impl Line {
    pub(crate) async fn welcome(&mut self, resumed: bool) {
        self.welcome_naming(Vec::new(), resumed).await;
    }

    async fn welcome_naming(&mut self, nodes: Vec<String>, resumed: bool) {
        let welcome = Welcome {
            session_id: Bytes::from_static(b"session"),
            resume_token: Bytes::from_static(b"resume"),
            resumed,
            node: "script".into(),
            user: "alice".into(),
            nodes,
            ..Welcome::default()
        };
        self.send(0, server_frame::Body::Welcome(welcome)).await;
    }

    pub(crate) async fn reject(&mut self, code: ErrorCode) {
        let reject = Reject {
            code: code.into(),
            message: "the script says so".into(),
            ..Reject::default()
        };
        self.send(0, server_frame::Body::Reject(reject)).await;
    }

    pub(crate) async fn go_away(&mut self) {
        self.send(0, server_frame::Body::GoAway(Default::default()))
            .await;
    }

    /// Answers a join.
    pub(crate) async fn joined(&mut self, request: &Request, members: &[&str]) {
        let Some(request::Kind::Join(join)) = &request.kind else {
            panic!("not a join: {request:?}");
        };
        let joined = Joined {
            room: join.room.clone(),
            members: members.iter().map(|user| member(user)).collect(),
            ..Joined::default()
        };
        let response = Response {
            id: request.id,
            result: Some(response::Result::Joined(joined)),
        };
        self.tell(server_frame::Body::Response(response)).await;
    }

    pub(crate) async fn member_joined(&mut self, room: &str, user: &str) {
        self.room_event(room, room_event::Kind::Joined(member(user)))
            .await;
    }

    pub(crate) async fn member_left(&mut self, room: &str, user: &str) {
        let left = MemberLeft {
            user: user.into(),
            reason: "left".into(),
        };
        self.room_event(room, room_event::Kind::Left(left)).await;
    }

    pub(crate) async fn deliver(&mut self, room: &str, payload: &'static str) {
        let delivery = Delivery {
            room: room.into(),
            from: "bob".into(),
            payload: payload.into(),
            ..Delivery::default()
        };
        self.tell(server_frame::Body::Delivery(delivery)).await;
    }

    async fn room_event(&mut self, room: &str, kind: room_event::Kind) {
        let event = RoomEvent {
            room: room.into(),
            kind: Some(kind),
            by: String::new(),
        };
        self.tell(server_frame::Body::RoomEvent(event)).await;
    }

    /// Sends a reliable frame.
    async fn tell(&mut self, body: server_frame::Body) {
        self.seq += 1;
        self.send(self.seq, body).await;
    }

    async fn send(&mut self, seq: u64, body: server_frame::Body) {
        let frame = ServerFrame {
            seq,
            ack: 0,
            body: Some(body),
        };
        let bytes = frame::encode(&frame).unwrap();
        self.socket.send(Message::Binary(bytes)).await.unwrap();
    }

    /// What the device says next, acknowledgements aside; `None` when it hangs up.
    pub(crate) async fn receive(&mut self) -> Option<client_frame::Body> {
        loop {
            let Some(Ok(message)) = soon(self.socket.next()).await else {
                return None;
            };
            let Message::Binary(bytes) = message else {
                continue;
            };
            let frame: ClientFrame = frame::decode(bytes).unwrap();
            match frame.body {
                Some(client_frame::Body::Acknowledge(_)) | None => {}
                body => return body,
            }
        }
    }

    /// The device's next request.
    pub(crate) async fn request(&mut self) -> Request {
        match self.receive().await {
            Some(client_frame::Body::Request(request)) => request,
            other => panic!("a request should have come, not {other:?}"),
        }
    }

    /// Waits for the device to leave a room.
    pub(crate) async fn left(&mut self, room: &str) {
        match self.request().await.kind {
            Some(request::Kind::Leave(leave)) => assert_eq!(leave.room, room),
            other => panic!("{room} should have been left, not {other:?}"),
        }
    }
}

/// Joins a room that the script fills.
pub(crate) async fn enter(device: &Device, line: &mut Line, room: &str, members: &[&str]) -> Room {
    let rooms = device.rooms();
    let entered = rooms.join(room, RoomOptions::default());
    let let_in = async {
        let request = line.request().await;
        line.joined(&request, members).await;
    };
    let (entered, ()) = soon(async { tokio::join!(entered, let_in) }).await;
    entered.unwrap()
}

/// A member whose keys are made of its name.
fn member(user: &str) -> Member {
    let key = |salt: u8| {
        let mut key = vec![salt; 32];
        key[..user.len()].copy_from_slice(user.as_bytes());
        Bytes::from(key)
    };
    let keys = DeviceKeys {
        identity: key(1),
        seal: key(2),
    };
    Member {
        user: user.into(),
        keys: Some(keys),
        seat: 0,
        dropped: false,
    }
}
