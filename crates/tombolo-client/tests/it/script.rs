//! A node whose every word is up to the test, over WebSocket.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tombolo_client::{Device, Error, Room, RoomOptions};
use tombolo_wire::v1::{
    ClientFrame, Delivery, DeviceKeys, ErrorCode, Failure, GoAway, Joined, Member, MemberLeft,
    MessagePosition, Refused, Reject, Request, Response, RoomEvent, ServerFrame, Welcome,
    client_frame, request, response, room_event, server_frame,
};
use tombolo_wire::{CertificatePin, ServerUrl, frame};

use crate::lab::soon;

/// Of each of the script's rooms.
pub(crate) const OPENING: Bytes = Bytes::from_static(&[7; 16]);

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
            let socket = self.accept_socket().await;
            let mut line = Line {
                socket,
                seq: 0,
                life: 0,
                is_sent_here: false,
                token: String::new(),
            };
            let Some(client_frame::Body::Hello(hello)) = line.receive().await else {
                panic!("a device greets first");
            };
            line.life = hello.life;
            line.is_sent_here = hello.sent_here;
            line.token = hello.token;
            line
        })
        .await
    }

    /// Takes the next connection with this token; others have expired.
    pub(crate) async fn accept_with(&self, token: &str) -> Line {
        loop {
            let mut line = self.accept().await;
            if line.token == token {
                return line;
            }
            line.reject(ErrorCode::TokenExpired).await;
        }
    }

    /// Takes the next connection, of which the device may have no greeting yet.
    pub(crate) async fn accept_socket(&self) -> WebSocketStream<TlsStream<TcpStream>> {
        // They are large, and tests wait for them in the middle of much else.
        let tls = Box::pin(self.accept_tls()).await;
        let socket = Box::pin(tokio_tungstenite::accept_async(tls));
        soon(socket).await.unwrap()
    }

    /// Takes the next connection, and says nothing on it.
    pub(crate) async fn accept_tls(&self) -> TlsStream<TcpStream> {
        let (tcp, _) = soon(self.listener.accept()).await.unwrap();
        soon(self.acceptor.accept(tcp)).await.unwrap()
    }

    /// Breaks a connection, and has no session any more when the device comes back.
    pub(crate) async fn forget(&self, line: Line) -> Line {
        drop(line);
        let mut line = self.accept().await;
        line.welcome(false).await;
        line
    }

    /// A device of alice's, and its first connection.
    pub(crate) async fn device(&self) -> (Device, Line) {
        self.device_that_knows(&[]).await
    }

    /// The same; the device is told of other nodes.
    pub(crate) async fn device_that_knows(&self, nodes: &[&Self]) -> (Device, Line) {
        let device = self.connect();
        let mut line = self.accept().await;
        let welcome = Welcome {
            nodes: urls(nodes),
            ..welcome(false)
        };
        line.welcome_with(welcome).await;
        (soon(device).await.unwrap().unwrap(), line)
    }

    /// A device of alice's that begins to connect.
    pub(crate) fn connect(&self) -> JoinHandle<Result<Device, Error>> {
        let (url, token) = (self.url.clone(), "token");
        tokio::spawn(async move { Device::connect(&url, token).await })
    }
}

fn urls(nodes: &[&Script]) -> Vec<String> {
    nodes.iter().map(|node| node.url.clone()).collect()
}

/// How alice's device is welcomed.
pub(crate) fn welcome(resumed: bool) -> Welcome {
    Welcome {
        session_id: Bytes::from_static(b"session"),
        resume_token: Bytes::from_static(b"resume"),
        resumed,
        node: "script".into(),
        user: "alice".into(),
        ..Welcome::default()
    }
}

/// One connection of a device, seen from the node.
pub(crate) struct Line {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// Of the last reliable frame; the test carries it over to a resumed connection.
    pub(crate) seq: u64,
    /// As the device's greeting said.
    pub(crate) life: u64,
    pub(crate) is_sent_here: bool,
    pub(crate) token: String,
}

impl Line {
    pub(crate) async fn welcome(&mut self, resumed: bool) {
        self.welcome_with(welcome(resumed)).await;
    }

    pub(crate) async fn welcome_with(&mut self, welcome: Welcome) {
        self.send(0, server_frame::Body::Welcome(welcome)).await;
    }

    pub(crate) async fn reject(&mut self, code: ErrorCode) {
        self.reject_for(code, &[]).await;
    }

    /// The same; other nodes would take the device.
    pub(crate) async fn reject_for(&mut self, code: ErrorCode, nodes: &[&Script]) {
        let reject = Reject {
            code: code.into(),
            message: "the script says so".into(),
            nodes: urls(nodes),
        };
        self.send(0, server_frame::Body::Reject(reject)).await;
    }

    pub(crate) async fn go_away(&mut self, nodes: &[&Script]) {
        let go_away = GoAway {
            nodes: urls(nodes),
            ..GoAway::default()
        };
        self.send(0, server_frame::Body::GoAway(go_away)).await;
    }

    /// Answers a join.
    pub(crate) async fn joined(&mut self, request: &Request, members: &[&str]) {
        let Some(request::Kind::Join(join)) = &request.kind else {
            panic!("not a join: {request:?}");
        };
        self.joined_in(request, &join.room, members).await;
    }

    /// Answers a join of a room that was not named.
    pub(crate) async fn joined_in(&mut self, request: &Request, room: &str, members: &[&str]) {
        let Some(request::Kind::Join(join)) = &request.kind else {
            panic!("not a join: {request:?}");
        };
        let joined = Joined {
            room: room.into(),
            members: members.iter().map(|user| member(user)).collect(),
            tag: join.tag,
            last: Some(MessagePosition {
                opening: OPENING,
                number: 0,
            }),
            ..Joined::default()
        };
        self.answer(request, response::Result::Joined(joined)).await;
    }

    pub(crate) async fn refuse(&mut self, request: &Request, code: ErrorCode) {
        let failure = Failure {
            code: code.into(),
            message: "the script says so".into(),
        };
        self.answer(request, response::Result::Failure(failure))
            .await;
    }

    pub(crate) async fn answer(&mut self, request: &Request, result: response::Result) {
        let response = Response {
            id: request.id,
            result: Some(result),
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
        self.tell(delivery(room, payload)).await;
    }

    /// Delivers what may get lost.
    pub(crate) async fn deliver_unreliably(&mut self, room: &str, payload: &'static str) {
        self.send(0, delivery(room, payload)).await;
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
    pub(crate) async fn tell(&mut self, body: server_frame::Body) {
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

    /// Refuses a frame.
    pub(crate) async fn refuse_frame(&mut self, seq: u64, code: ErrorCode) {
        let refused = Refused {
            seq,
            code: code.into(),
            message: "the script says so".into(),
        };
        self.tell(server_frame::Body::Refused(refused)).await;
    }

    /// What the device says next, acknowledgements aside; `None` when it hangs up.
    pub(crate) async fn receive(&mut self) -> Option<client_frame::Body> {
        self.receive_frame().await?.body
    }

    /// The same with its number.
    pub(crate) async fn receive_frame(&mut self) -> Option<ClientFrame> {
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
                Some(_) => return Some(frame),
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

fn delivery(room: &str, payload: &'static str) -> server_frame::Body {
    server_frame::Body::Delivery(Delivery {
        room: room.into(),
        from: "bob".into(),
        payload: payload.into(),
        ..Delivery::default()
    })
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

/// Begins something, and gives it up as soon as the node is asked for it.
pub(crate) async fn given_up<T>(asking: impl Future<Output = T>, line: &mut Line) -> Request {
    tokio::select! {
        _ = asking => panic!("nobody has answered"),
        request = line.request() => request,
    }
}
