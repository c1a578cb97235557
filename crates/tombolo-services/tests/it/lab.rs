//! A node's services and devices that talk to them without sockets.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use tokio::time::{Instant, timeout};
use tombolo_engine::{Engine, Local, LocalConfig};
use tombolo_services::{
    Config, Connection, ConnectionInfo, Outgoing, Reject, RelayHook, Services, TransportKind,
};
use tombolo_wire::resend::{Inbox, Limits, Outbox, Receipt};
use tombolo_wire::token::{Claims, KeySet, SigningKey, VerifyingKey};
use tombolo_wire::v1::{
    self, ClientFrame, ErrorCode, IceServer, IceServers, JoinMode, Response, ServerFrame,
    client_frame, property_value, request, response, room_act, room_event, server_frame,
};
use tombolo_wire::{UserId, VERSION};

pub(crate) const UNIX_NOW: Duration = Duration::from_secs(1_800_000_000);

const SECRET: [u8; 32] = [7; 32];

#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) services: Services,
    pub(crate) relay: Arc<Relay>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::on(Arc::new(Local::new(LocalConfig::default())), change)
    }

    pub(crate) fn on(engine: Arc<dyn Engine>, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.unix_now = || UNIX_NOW;
        change(&mut config);
        let mut keys = KeySet::new();
        keys.insert("test", VerifyingKey::hs256(&SECRET).unwrap());
        let relay = Arc::new(Relay::default());
        let hook: Arc<dyn RelayHook> = Arc::clone(&relay) as Arc<dyn RelayHook>;
        Self {
            services: Services::new(engine, hook, keys, config),
            relay,
        }
    }

    pub(crate) async fn attach(&self, hello: ClientFrame) -> Result<Connection, Reject> {
        let info = ConnectionInfo {
            remote: "192.0.2.1:1000".parse().unwrap(),
            transport: TransportKind::Quic,
        };
        self.services.attach(hello, info).await
    }

    pub(crate) async fn device(&self, user: &str) -> Device {
        let mut device = Device::new(user);
        device.connect(self).await.unwrap();
        device
    }

    /// Devices that are in a room, in the order in which they joined, with nothing left to hear.
    pub(crate) async fn members<const N: usize>(
        &self,
        room: &str,
        users: [&str; N],
    ) -> [Device; N] {
        let mut devices = Vec::new();
        for user in users {
            let mut device = self.device(user).await;
            device.join(room, JoinMode::JoinOrCreate).await.unwrap();
            devices.push(device);
        }
        for device in &mut devices {
            device.drain().await;
        }
        devices.try_into().ok().unwrap()
    }

    pub(crate) fn refused(&self, code: ErrorCode) -> u64 {
        self.services
            .stats()
            .refused
            .get(&code)
            .copied()
            .unwrap_or_default()
    }
}

/// A relay that writes down what it is told.
#[derive(Default)]
pub(crate) struct Relay {
    pub(crate) permits: Mutex<Vec<(String, Vec<IpAddr>)>>,
    pub(crate) urls: Mutex<Vec<String>>,
    /// The relay's own; none stands for the usual one.
    pub(crate) ips: Mutex<Vec<IpAddr>>,
    /// It panics when it is to let somebody reach this user.
    pub(crate) trap: Mutex<Option<&'static str>>,
}

impl RelayHook for Relay {
    fn permit(&self, user: &UserId, peers: &[IpAddr]) {
        let trap = *self.trap.lock().unwrap();
        assert_ne!(trap, Some(user.as_str()), "a trap was laid");
        self.permits
            .lock()
            .unwrap()
            .push((user.to_string(), peers.to_vec()));
    }

    fn ice_servers(&self, user: &UserId, lifetime_max: Duration) -> IceServers {
        let server = IceServer {
            urls: self.urls.lock().unwrap().clone(),
            username: format!("1:{user}"),
            ..IceServer::default()
        };
        IceServers {
            servers: vec![server],
            ttl_s: u32::try_from(lifetime_max.as_secs()).unwrap(),
            ..IceServers::default()
        }
    }

    fn relay_ips(&self) -> Vec<IpAddr> {
        let ips = self.ips.lock().unwrap().clone();
        if ips.is_empty() {
            vec!["203.0.113.1".parse().unwrap()]
        } else {
            ips
        }
    }
}

/// A device as the contract wants it.
pub(crate) struct Device {
    pub(crate) user: String,
    pub(crate) keys: v1::DeviceKeys,
    pub(crate) connection: Option<Connection>,
    pub(crate) outbox: Outbox<ClientFrame>,
    pub(crate) inbox: Inbox,
    pub(crate) resume_token: Option<Bytes>,
    pub(crate) token_expires: Duration,
    pub(crate) tags: Vec<String>,
    next_request: u64,
    /// Whether more is heard than who comes and goes in rooms.
    pub(crate) hears_all: bool,
    /// Whether it says that another node has sent it.
    pub(crate) is_sent: bool,
    /// Whether it says that it comes since this node is nearer.
    pub(crate) comes_nearer: bool,
}

impl Device {
    pub(crate) fn new(user: &str) -> Self {
        let identity: Vec<u8> = user.bytes().cycle().take(32).collect();
        Self {
            user: user.to_owned(),
            keys: v1::DeviceKeys {
                seal: identity.iter().map(|byte| !byte).collect(),
                identity: identity.into(),
            },
            connection: None,
            outbox: Outbox::new(Limits::default()),
            inbox: Inbox::new(),
            resume_token: None,
            token_expires: UNIX_NOW + Duration::from_secs(60),
            tags: Vec::new(),
            next_request: 1,
            hears_all: false,
            is_sent: false,
            comes_nearer: false,
        }
    }

    pub(crate) fn hello(&mut self) -> ClientFrame {
        let hello = v1::Hello {
            version: VERSION,
            token: token_until(&self.user, self.token_expires, &self.tags),
            keys: Some(self.keys.clone()),
            resume: self.resume_token.clone().map(|token| v1::Resume { token }),
            agent: "test".into(),
            life: 0,
            sent_here: self.is_sent,
            comes_nearer: self.comes_nearer,
        };
        let ack = self.inbox.take_ack();
        ClientFrame {
            seq: 0,
            ack,
            body: Some(client_frame::Body::Hello(hello)),
        }
    }

    /// Connects, resuming when possible, and takes in the welcome.
    pub(crate) async fn connect(&mut self, lab: &Lab) -> Result<v1::Welcome, Reject> {
        let hello = self.hello();
        let connection = lab.attach(hello).await?;
        let frame = match connection.next_outgoing().await {
            Outgoing::Reliable(frame) => frame,
            // The session was resumed, and ended before its device heard anything.
            Outgoing::Close(Some(reject)) => return Err(reject),
            other => panic!("the welcome comes first, not {other:?}"),
        };
        let Some(server_frame::Body::Welcome(welcome)) = frame.body else {
            panic!("the welcome comes first");
        };
        if !welcome.resumed {
            self.outbox = Outbox::new(Limits::default());
            self.inbox = Inbox::new();
        }
        self.outbox.handle_ack(frame.ack).unwrap();
        self.outbox.rewind();
        self.resume_token = Some(welcome.resume_token.clone());
        self.connection = Some(connection);
        self.transmit().unwrap();
        Ok(welcome)
    }

    pub(crate) fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("the device is connected")
    }

    /// Sends what waits.
    pub(crate) fn transmit(&mut self) -> Result<(), Reject> {
        let connection = self.connection.as_ref().expect("the device is connected");
        while let Some(mut frame) = self.outbox.poll_frame() {
            frame.ack = self.inbox.take_ack();
            connection.receive(frame, true)?;
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, body: client_frame::Body) -> Result<(), Reject> {
        self.outbox
            .push(ClientFrame {
                body: Some(body),
                ..Default::default()
            })
            .unwrap();
        self.transmit()
    }

    pub(crate) fn send_unreliably(&mut self, body: client_frame::Body) -> Result<(), Reject> {
        let frame = ClientFrame {
            seq: 0,
            ack: self.inbox.received(),
            body: Some(body),
        };
        self.connection().receive(frame, false)
    }

    /// What comes next, acknowledgements aside; `None` when nothing comes for a second.
    pub(crate) async fn next_frame(&mut self) -> Option<Outgoing> {
        let end = Instant::now() + Duration::from_secs(1);
        loop {
            let connection = self.connection.as_ref()?;
            let left = end.saturating_duration_since(Instant::now());
            let outgoing = timeout(left, connection.next_outgoing()).await.ok()?;
            let Outgoing::Reliable(frame) = &outgoing else {
                return Some(outgoing);
            };
            self.outbox.handle_ack(frame.ack).unwrap();
            let receipt = self
                .inbox
                .handle_frame(Instant::now().into_std(), frame.seq)
                .unwrap();
            let is_ack = matches!(frame.body, Some(server_frame::Body::Acknowledge(_)));
            let is_news = matches!(frame.body, Some(server_frame::Body::OtherNodes(_)));
            let is_heard = self.hears_all || !is_news && !is_about_state(frame.body.as_ref());
            if receipt == Receipt::Fresh && !is_ack && is_heard {
                return Some(outgoing);
            }
        }
    }

    /// The next reliable frame's body.
    pub(crate) async fn next(&mut self) -> server_frame::Body {
        match self.next_frame().await {
            Some(Outgoing::Reliable(ServerFrame {
                body: Some(body), ..
            })) => body,
            other => panic!("{} waits for a reliable frame, not {other:?}", self.user),
        }
    }

    /// The next unreliable frame's body.
    pub(crate) async fn next_unreliable(&mut self) -> server_frame::Body {
        match self.next_frame().await {
            Some(Outgoing::Unreliable(ServerFrame {
                body: Some(body), ..
            })) => body,
            other => panic!("{} waits for an unreliable frame, not {other:?}", self.user),
        }
    }

    pub(crate) async fn next_close(&mut self) -> Option<ErrorCode> {
        match self.next_frame().await {
            Some(Outgoing::Close(reject)) => reject.map(|reject| reject.code),
            other => panic!("{} waits for the end, not {other:?}", self.user),
        }
    }

    pub(crate) async fn is_quiet(&mut self) {
        let heard = self.next_frame().await;
        assert!(heard.is_none(), "{} hears {heard:?}", self.user);
    }

    pub(crate) async fn drain(&mut self) {
        while self.next_frame().await.is_some() {}
    }

    pub(crate) async fn next_refused(&mut self) -> (u64, ErrorCode) {
        match self.next().await {
            server_frame::Body::Refused(refused) => (refused.seq, refused.code()),
            other => panic!("{} waits for a refusal, not {other:?}", self.user),
        }
    }

    pub(crate) async fn next_delivery(&mut self) -> (String, Bytes) {
        match self.next().await {
            server_frame::Body::Delivery(delivery) => (delivery.from, delivery.payload),
            other => panic!("{} waits for a message, not {other:?}", self.user),
        }
    }

    /// `"+user"` or `"-user reason"`.
    pub(crate) async fn next_event(&mut self) -> String {
        match self.next().await {
            server_frame::Body::RoomEvent(event) => told(&event),
            other => panic!("{} waits for an event, not {other:?}", self.user),
        }
    }

    /// All that is told up to `synced`.
    pub(crate) async fn events_until_synced(&mut self) -> Vec<String> {
        let mut events = Vec::new();
        loop {
            let event = self.next_event().await;
            if event.starts_with("synced") {
                return events;
            }
            events.push(event);
        }
    }

    pub(crate) async fn act(
        &mut self,
        room: &str,
        act: room_act::Kind,
    ) -> Result<v1::Acted, ErrorCode> {
        self.act_as(act_in(room, act)).await
    }

    pub(crate) async fn act_as(&mut self, act: v1::RoomRequest) -> Result<v1::Acted, ErrorCode> {
        let id = self.request(Some(request::Kind::Room(act)));
        match self.response_among_events(id).await? {
            response::Result::Acted(acted) => Ok(acted),
            other => panic!("an act is not answered by {other:?}"),
        }
    }

    /// The answer to a request, whatever is told of rooms before it.
    pub(crate) async fn response_among_events(
        &mut self,
        id: u64,
    ) -> Result<response::Result, ErrorCode> {
        loop {
            match self.next().await {
                server_frame::Body::RoomEvent(_) => {}
                body => return answer(id, body),
            }
        }
    }

    pub(crate) fn ask_act(&mut self, room: &str, act: room_act::Kind) -> u64 {
        self.request(Some(request::Kind::Room(act_in(room, act))))
    }

    pub(crate) fn request(&mut self, kind: Option<request::Kind>) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.send(client_frame::Body::Request(v1::Request { id, kind }))
            .unwrap();
        id
    }

    pub(crate) fn ask_join(&mut self, room: &str, mode: JoinMode, members_max: u32) -> u64 {
        let join = v1::Join {
            room: room.into(),
            mode: mode.into(),
            members_max,
            ..v1::Join::default()
        };
        self.request(Some(request::Kind::Join(join)))
    }

    pub(crate) async fn next_response(&mut self, id: u64) -> Result<response::Result, ErrorCode> {
        if self.hears_all {
            return self.response_among_events(id).await;
        }
        answer(id, self.next().await)
    }

    pub(crate) async fn join_up_to(
        &mut self,
        room: &str,
        mode: JoinMode,
        members_max: u32,
    ) -> Result<v1::Joined, ErrorCode> {
        let id = self.ask_join(room, mode, members_max);
        match self.next_response(id).await? {
            response::Result::Joined(joined) => Ok(joined),
            other => panic!("a join is not answered by {other:?}"),
        }
    }

    pub(crate) async fn join(
        &mut self,
        room: &str,
        mode: JoinMode,
    ) -> Result<v1::Joined, ErrorCode> {
        self.join_up_to(room, mode, 0).await
    }

    pub(crate) async fn leave(&mut self, room: &str) -> Result<(), ErrorCode> {
        let leave = v1::Leave { room: room.into() };
        let id = self.request(Some(request::Kind::Leave(leave)));
        match self.next_response(id).await? {
            response::Result::Left(left) => {
                assert_eq!(left.room, room);
                Ok(())
            }
            other => panic!("a leave is not answered by {other:?}"),
        }
    }

    /// Takes up to so many of the frames that the node sends, and returns the reliable ones that are new;
    /// with this chance each gets lost on the way, and the connection with it.
    pub(crate) async fn take_some(
        &mut self,
        frames_max: usize,
        lost: f64,
        random: &mut ChaCha8Rng,
    ) -> Vec<Outgoing> {
        let mut taken = Vec::new();
        for _ in 0..random.random_range(1..=frames_max) {
            let Some(connection) = &self.connection else {
                break;
            };
            let wait = Duration::from_millis(1);
            let Ok(outgoing) = timeout(wait, connection.next_outgoing()).await else {
                break;
            };
            if random.random_bool(lost) {
                self.connection = None;
                break;
            }
            let Outgoing::Reliable(frame) = &outgoing else {
                continue;
            };
            self.outbox.handle_ack(frame.ack).unwrap();
            let now = Instant::now().into_std();
            if self.inbox.handle_frame(now, frame.seq).unwrap() == Receipt::Fresh {
                taken.push(outgoing);
            }
        }
        taken
    }
}

fn answer(id: u64, body: server_frame::Body) -> Result<response::Result, ErrorCode> {
    let server_frame::Body::Response(Response { id: found, result }) = body else {
        panic!("a response is waited for, not {body:?}");
    };
    assert_eq!(found, id, "responses name their requests");
    match result.unwrap() {
        response::Result::Failure(failure) => Err(failure.code()),
        result => Ok(result),
    }
}

/// An event in one word or some.
pub(crate) fn told(event: &v1::RoomEvent) -> String {
    use room_event::Kind;

    let what = match event.kind.as_ref().unwrap() {
        Kind::Joined(member) => return format!("+{}", member.user),
        Kind::Left(left) => return format!("-{} {}", left.user, left.reason),
        Kind::Dropped(dropped) => return format!("?{}", dropped.user),
        Kind::Returned(member) => return format!("!{}", member.user),
        Kind::Reset(v1::RoomReset {}) => "reset".to_owned(),
        Kind::Lost(lost) => format!("lost from {}", lost.users.join(" ")),
        Kind::Synced(synced) => format!("synced{}", if synced.lost { " lost" } else { "" }),
        Kind::Settings(settings) => format!("settings {}", settings.members_max),
        Kind::Owner(owner) => format!("owner {}{}", owner.user, text(&owner.state)),
        Kind::Properties(changed) => {
            let set = changed.set.iter().map(property).collect::<String>();
            let deleted: String = changed
                .deleted
                .iter()
                .map(|key| format!(" -{key}"))
                .collect();
            let whose = match (changed.member.as_str(), changed.object) {
                ("", 0) => "room".to_owned(),
                ("", object) => object.to_string(),
                (member, _) => member.to_owned(),
            };
            format!("{whose}{set}{deleted}")
        }
        Kind::Object(object) => {
            let properties: String = object.properties.iter().map(property).collect();
            format!("object {} of {}{properties}", object.id, object.owner)
        }
        Kind::ObjectDeleted(deleted) => format!("no object {}", deleted.object),
        Kind::Said(said) => format!("{} said{}", said.number, text(&said.payload)),
    };
    match event.by.as_str() {
        "" => what,
        by => format!("{by}: {what}"),
    }
}

fn property(property: &v1::Property) -> String {
    let value = property
        .value
        .as_ref()
        .and_then(|value| value.kind.as_ref());
    match value.unwrap() {
        property_value::Kind::Integer(value) => format!(" {}={value}", property.key),
        other => format!(" {}={other:?}", property.key),
    }
}

fn text(bytes: &Bytes) -> String {
    match bytes.len() {
        0 => String::new(),
        _ => format!(" {}", String::from_utf8_lossy(bytes)),
    }
}

fn is_about_state(body: Option<&server_frame::Body>) -> bool {
    use room_event::Kind;

    let Some(server_frame::Body::RoomEvent(event)) = body else {
        return false;
    };
    !matches!(
        event.kind,
        Some(Kind::Joined(_) | Kind::Left(_) | Kind::Dropped(_) | Kind::Returned(_))
    )
}

pub(crate) fn token(user: &str) -> String {
    token_until(user, UNIX_NOW + Duration::from_secs(60), &[])
}

pub(crate) fn token_until(user: &str, expires: Duration, tags: &[String]) -> String {
    let mut claims = Claims::new(UserId::parse(user).unwrap(), expires);
    claims.tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
    SigningKey::hs256("test", &SECRET)
        .unwrap()
        .mint(&claims)
        .unwrap()
}

pub(crate) fn message(room: &str, to: &[&str], payload: &[u8]) -> client_frame::Body {
    client_frame::Body::Send(v1::Send {
        room: room.into(),
        to: to.iter().map(|&user| user.to_owned()).collect(),
        payload: Bytes::copy_from_slice(payload),
        ..v1::Send::default()
    })
}

pub(crate) fn members(joined: &v1::Joined) -> Vec<&str> {
    joined
        .members
        .iter()
        .map(|member| member.user.as_str())
        .collect()
}

fn act_in(room: &str, act: room_act::Kind) -> v1::RoomRequest {
    v1::RoomRequest {
        room: room.to_owned(),
        act: Some(v1::RoomAct { kind: Some(act) }),
        ..v1::RoomRequest::default()
    }
}
