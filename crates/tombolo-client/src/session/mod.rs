//! The device's session with the cluster: survives its connections.
//!
//! ```text
//! connect → Hello → Welcome → frames both ways → broken → connect → Hello(resume) → …
//! ```
//! Reliable frames are kept until acknowledged and sent again after a resume: none is lost, none
//! arrives twice.

mod connection;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tombolo_wire::resend::{Inbox, Limits, Outbox, Receipt};
use tombolo_wire::v1::{
    Ack, ClientFrame, DeviceKeys, ErrorCode, Failure, Goodbye, Hello, Introduce, Reject, Request,
    Resume, Send, ServerFrame, Welcome, client_frame, request, response, server_frame,
};
use tombolo_wire::{ServerUrl, VERSION};

pub(crate) use connection::Connection;
pub use connection::Transport;

use crate::error::Error;
use crate::http::development_token;

const COMMANDS_MAX: usize = 256;
/// Introductions that are remembered in case they are refused.
const INTRODUCTIONS_MAX: usize = 256;
const EVENTS_MAX: usize = 1024;
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause before another connection; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// After so long without a connection the session is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What proves who the user is.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// A device token (JWT), made by the application's own server.
    Token(String),
    /// A user name for which a node in development mode hands out a token.
    Development(String),
}

/// What the application's side asks of the session.
pub(crate) enum Command {
    Request {
        kind: request::Kind,
        reply: oneshot::Sender<Result<response::Result, Error>>,
    },
    SendReliable {
        message: Send,
        done: oneshot::Sender<Result<(), Error>>,
    },
    SendUnreliable(Send),
    Introduce(Introduce),
    /// Leaves the cluster; answered once the goodbye is on its way.
    Close(oneshot::Sender<()>),
}

/// What the session tells the device.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection is up; when `resumed` is false, the rooms are lost.
    Connected {
        welcome: Welcome,
        transport: Transport,
    },
    Frame(server_frame::Body),
    /// The node did not hand an introduction on.
    IntroductionRefused {
        to: Introduced,
        error: Error,
    },
    /// The session is over; nothing follows.
    Closed(Error),
}

/// Whom an introduction was for: names of a room and of a user, and our attempt.
#[derive(Clone, Debug)]
pub(crate) struct Introduced {
    pub(crate) room: String,
    pub(crate) user: String,
    pub(crate) attempt: u64,
}

/// How to reach the driver of a session.
#[derive(Clone, Debug)]
pub(crate) struct Handle(mpsc::Sender<Command>);

impl Handle {
    pub(crate) async fn request(&self, kind: request::Kind) -> Result<response::Result, Error> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Request { kind, reply }).await?;
        answer.await.map_err(|_| closed())?
    }

    pub(crate) async fn send_reliable(&self, message: Send) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.command(Command::SendReliable { message, done })
            .await?;
        answer.await.map_err(|_| closed())?
    }

    /// Sends what may be lost; drops it rather than wait.
    pub(crate) fn send_unreliable(&self, message: Send) {
        _ = self.0.try_send(Command::SendUnreliable(message));
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), Error> {
        self.0.send(command).await.map_err(|_| closed())
    }
}

/// What a session needs to start.
pub(crate) struct Config {
    pub(crate) url: ServerUrl,
    pub(crate) credential: Credential,
    pub(crate) keys: DeviceKeys,
    pub(crate) agent: String,
}

/// Opens a session; the first connection must succeed.
pub(crate) async fn open(
    endpoint: noq::Endpoint,
    config: Config,
) -> Result<(Handle, mpsc::Receiver<Event>), Error> {
    let (commands_tx, commands) = mpsc::channel(COMMANDS_MAX);
    let (events, events_rx) = mpsc::channel(EVENTS_MAX);
    let mut driver = Driver {
        endpoint,
        config,
        state: State::default(),
        resume_token: None,
        commands,
        events,
    };
    let connection = driver.connect().await?;
    tokio::spawn(driver.run(connection));
    Ok((Handle(commands_tx), events_rx))
}

/// What goes on over connections.
struct State {
    outbox: Outbox<ClientFrame>,
    inbox: Inbox,
    requests: HashMap<u64, oneshot::Sender<Result<response::Result, Error>>>,
    /// By their frame's number: introductions that the node may still refuse, the oldest first.
    introductions: BTreeMap<u64, Introduced>,
    next_request: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            outbox: Outbox::new(Limits::default()),
            inbox: Inbox::new(),
            requests: HashMap::new(),
            introductions: BTreeMap::new(),
            next_request: 1,
        }
    }
}

struct Driver {
    endpoint: noq::Endpoint,
    config: Config,
    state: State,
    resume_token: Option<Bytes>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
}

/// Why a connection is not used any more.
enum End {
    Broken,
    /// The application closed the session, or dropped it.
    Closed,
    Refused(Error),
}

impl Driver {
    async fn run(mut self, mut connection: Connection) {
        loop {
            match self.serve(&mut connection).await {
                End::Closed => {
                    connection.finish().await;
                    return;
                }
                End::Refused(error) => return self.close(error).await,
                End::Broken => drop(connection),
            }
            connection = match self.reconnect().await {
                Ok(connection) => connection,
                Err(error) => return self.close(error).await,
            };
        }
    }

    async fn close(self, error: Error) {
        tracing::warn!(%error, "session closed");
        _ = self.events.send(Event::Closed(error)).await;
    }

    async fn reconnect(&mut self) -> Result<Connection, Error> {
        let started = Instant::now();
        let mut pause = RETRY_MIN;
        loop {
            match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) if error.code() == Some(ErrorCode::NotResumable) => {
                    tracing::info!("the session cannot be resumed: starting another");
                    self.resume_token = None;
                    continue;
                }
                Err(error) if error.is_unreachable() && started.elapsed() < GIVE_UP_AFTER => {
                    tracing::info!(%error, retry_in = ?pause, "the connection to the node is broken");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Opens a connection and the session on it, resuming where there is one.
    async fn connect(&mut self) -> Result<Connection, Error> {
        let token = match &self.config.credential {
            Credential::Token(token) => token.clone(),
            Credential::Development(user) => development_token(&self.config.url, user).await?,
        };
        let mut connection = Connection::open(&self.endpoint, &self.config.url).await?;
        let hello = Hello {
            version: VERSION,
            token,
            keys: Some(self.config.keys.clone()),
            resume: self.resume_token.clone().map(|token| Resume { token }),
            agent: self.config.agent.clone(),
        };
        let hello = ClientFrame {
            ack: self.state.inbox.received(),
            body: Some(client_frame::Body::Hello(hello)),
            ..ClientFrame::default()
        };
        connection.send(hello).await;
        let answer = tokio::time::timeout(WELCOME_TIMEOUT, connection.receive()).await;
        let url = &self.config.url;
        let Ok(frame) = answer else {
            return Err(Error::unreachable(
                url,
                "the node did not answer the greeting",
            ));
        };
        let Some(ServerFrame {
            ack,
            body: Some(body),
            ..
        }) = frame
        else {
            return Err(Error::unreachable(url, "the node closed the connection"));
        };
        match body {
            server_frame::Body::Welcome(welcome) => {
                self.on_welcome(welcome, ack, connection.transport).await?;
                Ok(connection)
            }
            server_frame::Body::Reject(reject) => Err(rejected(&reject)),
            server_frame::Body::Pong(_)
            | server_frame::Body::Response(_)
            | server_frame::Body::RoomEvent(_)
            | server_frame::Body::Delivery(_)
            | server_frame::Body::Introduced(_)
            | server_frame::Body::Refused(_)
            | server_frame::Body::GoAway(_)
            | server_frame::Body::Acknowledge(_)
            | server_frame::Body::IceServers(_) => Err(Error::unreachable(
                url,
                "the node did not greet: is it a Tombolo node?",
            )),
        }
    }

    async fn on_welcome(
        &mut self,
        welcome: Welcome,
        ack: u64,
        transport: Transport,
    ) -> Result<(), Error> {
        self.resume_token = Some(welcome.resume_token.clone());
        if welcome.resumed {
            self.state.outbox.handle_ack(ack).map_err(Error::local)?;
            self.state.outbox.rewind();
        } else {
            // Requests of the lost session fail: their senders are dropped here.
            self.state = State::default();
        }
        tracing::info!(
            node = welcome.node,
            resumed = welcome.resumed,
            ?transport,
            "session connected"
        );
        let event = Event::Connected { welcome, transport };
        self.events.send(event).await.map_err(|_| closed())
    }

    async fn serve(&mut self, connection: &mut Connection) -> End {
        loop {
            if !self.flush(connection).await {
                return End::Broken;
            }
            let ack_at = self.state.inbox.poll_timeout();
            tokio::select! {
                frame = connection.receive() => {
                    let Some(frame) = frame else { return End::Broken };
                    if let Err(end) = self.on_frame(frame).await {
                        return end;
                    }
                }
                command = self.commands.recv() => {
                    let Some(command) = command else {
                        connection.send(goodbye()).await;
                        return End::Closed;
                    };
                    if let Some(end) = self.on_command(command, connection).await {
                        return end;
                    }
                }
                () = sleep_until(ack_at) => {
                    let ack = self.state.inbox.take_ack();
                    let body = Some(client_frame::Body::Acknowledge(Ack {}));
                    connection.send(ClientFrame { seq: 0, ack, body }).await;
                }
            }
        }
    }

    /// Sends what the outbox has for this connection.
    async fn flush(&mut self, connection: &Connection) -> bool {
        while let Some(mut frame) = self.state.outbox.poll_frame() {
            frame.ack = self.state.inbox.take_ack();
            if !connection.send(frame).await {
                return false;
            }
        }
        true
    }

    async fn on_command(&mut self, command: Command, connection: &Connection) -> Option<End> {
        match command {
            Command::Request { kind, reply } => {
                let id = self.state.next_request;
                self.state.next_request += 1;
                let body = client_frame::Body::Request(Request {
                    id,
                    kind: Some(kind),
                });
                match self.push(body) {
                    Ok(_) => drop(self.state.requests.insert(id, reply)),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::SendReliable { message, done } => {
                let pushed = self.push(client_frame::Body::Send(message)).map(drop);
                _ = done.send(pushed);
            }
            Command::SendUnreliable(message) => {
                let body = Some(client_frame::Body::Send(message));
                connection.send_unreliable(ClientFrame {
                    seq: 0,
                    ack: 0,
                    body,
                });
            }
            Command::Introduce(introduce) => self.introduce(introduce),
            Command::Close(done) => {
                self.flush(connection).await;
                connection.send(goodbye()).await;
                _ = done.send(());
                return Some(End::Closed);
            }
        }
        None
    }

    fn introduce(&mut self, introduce: Introduce) {
        let attempt = introduce
            .introduction
            .as_ref()
            .map_or(0, |introduction| introduction.attempt);
        let (room, user) = (introduce.room.clone(), introduce.to.clone());
        match self.push(client_frame::Body::Introduce(introduce)) {
            Ok(seq) => {
                let introductions = &mut self.state.introductions;
                introductions.insert(
                    seq,
                    Introduced {
                        room,
                        user,
                        attempt,
                    },
                );
                if introductions.len() > INTRODUCTIONS_MAX {
                    introductions.pop_first();
                }
            }
            Err(error) => tracing::warn!(%error, "introduction not sent"),
        }
    }

    /// Queues a reliable frame; returns its number.
    fn push(&mut self, body: client_frame::Body) -> Result<u64, Error> {
        let frame = ClientFrame {
            body: Some(body),
            ..ClientFrame::default()
        };
        self.state.outbox.push(frame).map_err(Error::local)
    }

    async fn on_frame(&mut self, frame: ServerFrame) -> Result<(), End> {
        // Frames that are never repeated carry an acknowledgement only if they have one.
        if frame.ack > 0 && self.state.outbox.handle_ack(frame.ack).is_err() {
            tracing::warn!("the node acknowledged what was never sent");
            return Err(End::Broken);
        }
        match self.state.inbox.handle_frame(Instant::now(), frame.seq) {
            Ok(Receipt::Fresh) => {}
            Ok(Receipt::Repeated) => return Ok(()),
            Err(gap) => {
                tracing::warn!(%gap, "the node left out frames");
                return Err(End::Broken);
            }
        }
        match frame.body {
            Some(server_frame::Body::Response(response)) => {
                let Some(reply) = self.state.requests.remove(&response.id) else {
                    return Ok(());
                };
                let result = match response.result {
                    Some(response::Result::Failure(Failure { code, message })) => {
                        Err(Error::refused(code, &message))
                    }
                    Some(result) => Ok(result),
                    None => Err(Error::local("the node's response is empty")),
                };
                _ = reply.send(result);
                Ok(())
            }
            Some(server_frame::Body::Refused(refused))
                if let Some(to) = self.state.introductions.remove(&refused.seq) =>
            {
                let error = Error::refused(refused.code, &refused.message);
                let event = Event::IntroductionRefused { to, error };
                self.events.send(event).await.map_err(|_| End::Closed)
            }
            Some(server_frame::Body::Reject(reject)) => Err(End::Refused(rejected(&reject))),
            // The node leaves: its next connection attempt finds another node, or the same anew.
            Some(server_frame::Body::GoAway(go_away)) => {
                tracing::info!(reason = go_away.reason, "the node is leaving");
                Err(End::Broken)
            }
            Some(server_frame::Body::Acknowledge(_) | server_frame::Body::Pong(_)) | None => Ok(()),
            Some(body) => self
                .events
                .send(Event::Frame(body))
                .await
                .map_err(|_| End::Closed),
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn goodbye() -> ClientFrame {
    let body = Some(client_frame::Body::Goodbye(Goodbye {}));
    ClientFrame {
        body,
        ..ClientFrame::default()
    }
}

fn rejected(reject: &Reject) -> Error {
    Error::refused(reject.code, &reject.message)
}

fn closed() -> Error {
    Error::closed("the session is over")
}
