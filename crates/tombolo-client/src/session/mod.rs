//! The device's session with the cluster: survives its connections.
//!
//! ```text
//! connect → Hello → Welcome → frames both ways → broken → connect → Hello(resume) → …
//! ```
//! Reliable frames are kept until acknowledged and sent again after a resume: none is lost, none
//! arrives twice.
//!
//! A session goes on over any node. When its node asks it to go, the device opens a connection to
//! another one first, and hears the old one until the new one has the session; the application does
//! not notice. It does the same when its node is silent for suspiciously long; see [`pulse`]; and once when another
//! node turns out to be clearly nearer; see [`nearer`].

mod connection;
mod distance;
mod handle;
mod nearer;
mod nodes;
mod pulse;
mod reconnect;
mod sends;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tombolo_wire::resend::{Inbox, Limits, Outbox, Overflow, Receipt};
use tombolo_wire::v1::{
    Ack, ClientFrame, DeviceKeys, ErrorCode, Failure, Goodbye, Introduce, Joined, Reject, Request,
    Response, Send, ServerFrame, Welcome, client_frame, request, response, server_frame,
};
use tombolo_wire::{ServerUrl, UserId};

pub use connection::Transport;
pub(crate) use connection::{Connection, Patience};
use distance::{Distance, random};
pub(crate) use handle::{Answer, Command, Handle, Reply};
use nearer::Nearer;
use nodes::Nodes;
use pulse::{Finding, Pulse};
use reconnect::{Backoff, Move, is_passing};
use sends::Sends;
pub(crate) use sends::Unsent;
pub use tokens::TokenState;
pub(crate) use tokens::{Credential, Issuer, Tokens};

use crate::error::Error;

const COMMANDS_MAX: usize = 256;
/// Introductions that are remembered in case they are refused.
const INTRODUCTIONS_MAX: usize = 256;
const EVENTS_MAX: usize = 1024;
/// What waits for the node's acknowledgement. Messages have half of it, lest they crowd requests out.
const OUTBOX: Limits = Limits {
    frames_max: 8192,
    bytes_max: 8 * 1024 * 1024,
};
/// A connection that ends sooner is not replaced at once, lest connections chase each other.
const LASTING: Duration = Duration::from_secs(1);
/// How long the last messages and the goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the session tells the device.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection is up; when `resumed` is false, the rooms are lost.
    Connected {
        welcome: Welcome,
        user: UserId,
        transport: Transport,
        /// The node's.
        url: ServerUrl,
    },
    Frame(server_frame::Body),
    /// The node answered a request: in order with the frames, so that a room's members are known
    /// before its events come. Whoever handles it passes the result on.
    Response {
        result: Result<response::Result, Error>,
        reply: Reply,
    },
    /// The node did not hand an introduction on.
    IntroductionRefused {
        to: Introduced,
        error: Error,
    },
    /// Messages did not arrive, as far as is known.
    Unsent(Unsent),
    /// The session is over; nothing follows.
    Closed(Error),
}

/// Whom an introduction was for: names of a room and of a user, and our attempt.
#[derive(Clone, Debug)]
pub(crate) struct Introduced {
    pub(crate) room: String,
    pub(crate) user: String,
    pub(crate) attempt: u64,
    /// Whether it told again of a device that had been introduced.
    pub(crate) is_update: bool,
}

/// What a session needs to start.
pub(crate) struct Config {
    pub(crate) url: ServerUrl,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) keys: DeviceKeys,
    pub(crate) agent: String,
    pub(crate) patience: Patience,
    /// About how long it takes to go to a node that is nearer; `None` for never.
    pub(crate) nearer_within: Option<Duration>,
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
        nodes: Nodes::new(config.url.clone()),
        measuring: JoinSet::new(),
        looking: JoinSet::new(),
        nearer: Nearer::new(config.nearer_within, Instant::now()),
        pulse: Pulse::new(config.patience, Instant::now()),
        config: Arc::new(config),
        state: State::default(),
        resume_token: None,
        life: 0,
        commands,
        events,
    };
    let connection = driver.connect().await?;
    let events = driver.events.clone();
    // It is large, and would be moved several times.
    let run = Box::pin(driver.run(connection));
    tokio::spawn(told_to_the_end(run, events));
    Ok((Handle(commands_tx), events_rx))
}

/// Runs a session, whose end the device is told of also when that is a panic.
async fn told_to_the_end(run: impl Future<Output = ()>, events: mpsc::Sender<Event>) {
    if AssertUnwindSafe(run).catch_unwind().await.is_err() {
        let error = Error::local("the session's task panicked");
        _ = events.send(Event::Closed(error)).await;
    }
}

/// What goes on over connections.
struct State {
    outbox: Outbox<ClientFrame>,
    /// The last frame that was given to a connection: those after it have not left the device.
    left: u64,
    sends: Sends,
    inbox: Inbox,
    requests: HashMap<u64, Reply>,
    /// By their frame's number: introductions that the node may still refuse, the oldest first.
    introductions: BTreeMap<u64, Introduced>,
    next_request: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            outbox: Outbox::new(OUTBOX),
            left: 0,
            sends: Sends::default(),
            inbox: Inbox::new(),
            requests: HashMap::new(),
            introductions: BTreeMap::new(),
            next_request: 1,
        }
    }
}

struct Driver {
    endpoint: noq::Endpoint,
    config: Arc<Config>,
    nodes: Nodes,
    /// How far other nodes are.
    measuring: JoinSet<Vec<Distance>>,
    /// Whether another one is nearer than this.
    looking: JoinSet<Vec<Distance>>,
    nearer: Nearer,
    pulse: Pulse,
    state: State,
    resume_token: Option<Bytes>,
    /// How often it was tried to open a session, or to go on with one.
    life: u64,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
}

/// Why a connection is not used any more.
enum End {
    Broken,
    /// The node leaves, or has no place at the moment: another connection is worth a pause.
    SentAway,
    /// The node wants the session to go on over another one; the connection is good until then.
    AskedToGo,
    /// The application closed the session, and waits for the answer, or dropped it.
    Closed(Option<oneshot::Sender<()>>),
    Refused(Error),
}

impl Driver {
    async fn run(mut self, mut connection: Connection) {
        let mut backoff = Backoff::default();
        loop {
            let connected = Instant::now();
            let end = self.serve(&mut connection).await;
            let has_lasted = connected.elapsed() >= LASTING;
            if has_lasted {
                backoff = Backoff::default();
            }
            let is_broken = matches!(end, End::Broken);
            let is_hurried = match end {
                End::Closed(done) => return self.leave(connection, done).await,
                End::Refused(error) => return self.close(error).await,
                End::Broken => has_lasted,
                End::SentAway | End::AskedToGo => false,
            };
            drop(connection);
            connection = match self.reconnect(&mut backoff, is_hurried).await {
                Ok(connection) => connection,
                Err(End::Refused(error)) => return self.close(error).await,
                // Without a connection there is nobody to say goodbye to.
                Err(End::Closed(done)) => return self.end(done),
                Err(End::Broken | End::SentAway | End::AskedToGo) => return,
            };
            if is_broken {
                // It may be that the device is in another network by now.
                self.nodes.forget_distances();
                self.measuring = JoinSet::new();
                self.measure_nodes();
            }
        }
    }

    /// Sends what waits and the goodbye; a node that does not read them must not hold us up.
    async fn leave(mut self, connection: Connection, done: Option<oneshot::Sender<()>>) {
        let goodbye = frame_of(client_frame::Body::Goodbye(Goodbye {}));
        let farewell = async {
            while self.flush(&connection) && self.state.outbox.is_pending() {
                room(&connection.outgoing).await;
            }
            connection.send(goodbye).await;
            connection.finish().await;
        };
        if tokio::time::timeout(GOODBYE_TIMEOUT, farewell)
            .await
            .is_err()
        {
            tracing::info!("the node did not take the goodbye in time");
        }
        self.end(done);
    }

    /// Ends what the application wants to end: the endpoint, too, has served its time.
    fn end(self, done: Option<oneshot::Sender<()>>) {
        self.endpoint.close(0u8.into(), b"device closed");
        _ = done.map(|done| done.send(()));
    }

    async fn close(self, error: Error) {
        tracing::warn!(%error, "session closed");
        let State {
            sends,
            outbox,
            left,
            ..
        } = self.state;
        for unsent in sends.handle_over(&outbox, left) {
            _ = self.events.send(Event::Unsent(unsent)).await;
        }
        _ = self.events.send(Event::Closed(error)).await;
    }

    async fn serve(&mut self, connection: &mut Connection) -> End {
        let mut moving = Move::default();
        // How the connection ended, while another node has been asked for the session: if that one has it,
        // it goes on, whatever the old one says.
        let mut over = None;
        loop {
            let may_send = !moving.is_greeting() && over.is_none();
            if may_send && !self.flush(connection) {
                return End::Broken;
            }
            if let Some(end) = over.take_if(|_| !moving.is_under_way()) {
                return end;
            }
            let look_at = over.is_none().then(|| self.pulse.poll_timeout());
            let nearer_at = self.nearer.poll_timeout();
            // While the connection takes nothing more the application waits, and nothing else does.
            let is_full = connection.is_full();
            let is_held_up = may_send && (is_full || self.state.outbox.is_pending());
            let ack_at = self.state.inbox.poll_timeout();
            let ack_at = ack_at.filter(|_| over.is_none() && !is_full);
            tokio::select! {
                moved = moving.poll() => match self.on_moved(moved, connection, &mut moving).await {
                    Ok(true) => over = None,
                    Ok(false) if over.is_some() => moving = Move::default(),
                    Ok(false) => {}
                    Err(end) => return end,
                },
                () = room(&connection.outgoing), if is_held_up => {}
                frame = connection.incoming.recv(), if over.is_none() => {
                    let ended = match frame {
                        Some(frame) => self.on_frame(frame).await,
                        None => Err(End::Broken),
                    };
                    match ended {
                        Ok(()) if self.pulse.is_suspected() => self.look(connection, &mut moving),
                        Ok(()) => {}
                        Err(End::AskedToGo) => self.begin_move(&mut moving),
                        Err(end @ (End::Broken | End::SentAway | End::Refused(_)))
                            if moving.is_greeting() =>
                        {
                            over = Some(end);
                        }
                        // All nodes are tried then, and the old one first: it may be reached, after all.
                        Err(end) => return end,
                    }
                }
                command = self.commands.recv(), if !is_held_up => {
                    let Some(command) = command else { return End::Closed(None) };
                    if let Some(end) = self.on_command(command, Some(connection)).await {
                        if let Some(moved) = moving.finish().await {
                            _ = self.on_moved(moved, connection, &mut moving).await;
                        }
                        return end;
                    }
                }
                Some(measured) = self.measuring.join_next() => {
                    self.nodes.measured(measured.unwrap_or_default());
                    self.measure_nodes();
                }
                Some(looked) = self.looking.join_next() => {
                    self.on_looked(&looked.unwrap_or_default(), &mut moving);
                }
                () = sleep_until(nearer_at) => self.look_for_nearer(),
                () = sleep_until(look_at) => self.look(connection, &mut moving),
                () = sleep_until(ack_at) => {
                    let ack = self.state.inbox.take_ack();
                    let body = Some(client_frame::Body::Acknowledge(Ack {}));
                    connection.send(ClientFrame { seq: 0, ack, body }).await;
                }
            }
        }
    }

    /// Looks whether the node is silent, and for another one if it is.
    fn look(&mut self, connection: &Connection, moving: &mut Move) {
        match self
            .pulse
            .handle_look(Instant::now(), connection.received())
        {
            Some(Finding::Silent) => {
                tracing::info!(node = %self.nodes.current(), "the node is silent: trying another one");
                self.begin_escape(moving);
            }
            Some(Finding::Alive) => moving.call_off(),
            None => {}
        }
    }

    /// Measures how far nodes are of which that is not known, some time soon.
    fn measure_nodes(&mut self) {
        let urls = self.nodes.unmeasured();
        if !urls.is_empty() {
            self.nearer.handle_news(Instant::now(), random());
        }
        if self.measuring.is_empty() && !urls.is_empty() {
            self.measuring.spawn(distance::measure(urls));
        }
    }

    /// Measures whether another node is nearer than this one.
    fn look_for_nearer(&mut self) {
        let now = Instant::now();
        if !self.nearer.handle_timeout(now) || !self.looking.is_empty() {
            return;
        }
        let urls = self.nodes.to_compare();
        if urls.is_empty() {
            self.nearer.handle_alone(now, random());
        } else {
            self.looking.spawn(distance::measure_now(urls));
        }
    }

    /// Goes to a node that is clearly nearer, unless the session is on its way already.
    fn on_looked(&mut self, looked: &[Distance], moving: &mut Move) {
        let here = self.nodes.current().clone();
        let nearest = self
            .nearer
            .handle_looked(Instant::now(), random(), &here, looked);
        if let Some(url) = nearest.filter(|_| !moving.is_under_way()) {
            tracing::info!(node = %url, "another node is nearer: going there");
            self.begin_approach(moving, url);
        }
    }

    /// Gives this connection what the outbox has, as far as it has room; false when it is broken.
    fn flush(&mut self, connection: &Connection) -> bool {
        while self.state.outbox.is_pending() {
            let permit = match connection.outgoing.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return true,
                Err(TrySendError::Closed(())) => return false,
            };
            if let Some(mut frame) = self.state.outbox.poll_frame() {
                self.state.left = self.state.left.max(frame.seq);
                frame.ack = self.state.inbox.take_ack();
                permit.send(frame);
            }
        }
        true
    }

    /// Carries a command out; without a connection, what is reliable waits for the next one.
    async fn on_command(
        &mut self,
        command: Command,
        connection: Option<&Connection>,
    ) -> Option<End> {
        match command {
            Command::Request { kind, reply } => {
                if let request::Kind::Leave(leave) = &kind {
                    self.state.sends.handle_left(&leave.room);
                }
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
            Command::SendReliable {
                message,
                number,
                done,
            } => drop(done.send(self.send_reliable(number, message))),
            Command::SendUnreliable(body) => {
                if let Some(connection) = connection {
                    connection.send_unreliable(frame_of(body));
                }
            }
            Command::Introduce(introduce) => return self.introduce(introduce).await.err(),
            Command::Forget { room, done } => {
                let waited = self.state.sends.handle_left(room.as_str());
                // Whoever does not wait for it has told the application itself.
                _ = done.send(waited);
            }
            Command::Break => return connection.map(|_| End::Broken),
            Command::Close(done) => return Some(End::Closed(Some(done))),
        }
        None
    }

    /// Queues a message, which leaves half of the outbox to others, or has it wait for its room.
    fn send_reliable(&mut self, number: u64, message: Send) -> Result<(), Error> {
        if self.state.sends.must_wait(&message.room) {
            return self.state.sends.wait(number, message);
        }
        let room = message.room.clone();
        let frame = frame_of(client_frame::Body::Send(message));
        let pushed = self.state.outbox.push_sparing(frame);
        let seq = pushed.map_err(overflow)?;
        self.state.sends.handle_pushed(seq, number, room);
        Ok(())
    }

    /// Sends what has waited for a room, now that the device is in it.
    async fn on_joined(&mut self, joined: &Joined) -> Result<(), End> {
        let waiting = match self.state.sends.handle_joined(joined) {
            Ok(waiting) => waiting,
            Err(unsent) => return self.tell(Event::Unsent(unsent)).await,
        };
        for (number, message) in waiting {
            let room = message.room.clone();
            match self.push(client_frame::Body::Send(message)) {
                Ok(seq) => self.state.sends.handle_pushed(seq, number, room),
                Err(error) => {
                    let unsent = Unsent {
                        room,
                        numbers: vec![number],
                        code: Some(ErrorCode::Limit),
                        reason: error.to_string(),
                    };
                    self.tell(Event::Unsent(unsent)).await?;
                }
            }
        }
        Ok(())
    }

    async fn introduce(&mut self, introduce: Introduce) -> Result<(), End> {
        let introduction = introduce.introduction.as_ref();
        let to = Introduced {
            room: introduce.room.clone(),
            user: introduce.to.clone(),
            attempt: introduction.map_or(0, |introduction| introduction.attempt),
            is_update: introduction.is_some_and(|introduction| introduction.update),
        };
        match self.push(client_frame::Body::Introduce(introduce)) {
            Ok(seq) => {
                let introductions = &mut self.state.introductions;
                introductions.insert(seq, to);
                if introductions.len() > INTRODUCTIONS_MAX {
                    introductions.pop_first();
                }
                Ok(())
            }
            Err(error) => self.tell(Event::IntroductionRefused { to, error }).await,
        }
    }

    /// Queues a reliable frame; returns its number.
    fn push(&mut self, body: client_frame::Body) -> Result<u64, Error> {
        self.state.outbox.push(frame_of(body)).map_err(overflow)
    }

    async fn on_frame(&mut self, frame: ServerFrame) -> Result<(), End> {
        // Frames that are never repeated carry an acknowledgement only if they have one.
        if frame.ack > 0 && self.state.outbox.handle_ack(frame.ack).is_err() {
            tracing::warn!("the node acknowledged what was never sent");
            return Err(End::Broken);
        }
        let inbox = &mut self.state.inbox;
        inbox.handle_size(&frame);
        match inbox.handle_frame(Instant::now(), frame.seq) {
            Ok(Receipt::Fresh) => {}
            Ok(Receipt::Repeated) => return Ok(()),
            Err(gap) => {
                tracing::warn!(%gap, "the node left out frames");
                return Err(End::Broken);
            }
        }
        match frame.body {
            Some(server_frame::Body::Response(response)) => self.on_response(response).await,
            Some(server_frame::Body::Refused(refused))
                if let Some(to) = self.state.introductions.remove(&refused.seq) =>
            {
                let error = Error::refused(refused.code, &refused.message);
                self.tell(Event::IntroductionRefused { to, error }).await
            }
            Some(server_frame::Body::Refused(refused))
                if let Some(unsent) = self.state.sends.handle_refused(&refused) =>
            {
                self.tell(Event::Unsent(unsent)).await
            }
            Some(server_frame::Body::Reject(reject)) => {
                let error = rejected(&reject);
                self.nodes.learn(&reject.nodes);
                if error.code() == Some(ErrorCode::Elsewhere) {
                    self.nodes.leave_current();
                }
                Err(if is_passing(&error) {
                    tracing::info!(%error, "the node ended the connection");
                    End::SentAway
                } else {
                    End::Refused(error)
                })
            }
            Some(server_frame::Body::GoAway(go_away)) => {
                tracing::info!(reason = go_away.reason, "the node wants us to go");
                if go_away.nodes.is_empty() {
                    // The next attempt finds the same node anew.
                    return Err(End::SentAway);
                }
                self.nodes.learn(&go_away.nodes);
                Err(End::AskedToGo)
            }
            Some(server_frame::Body::OtherNodes(others)) => {
                self.nodes.hear(&others.urls);
                self.measure_nodes();
                Ok(())
            }
            Some(server_frame::Body::Acknowledge(_) | server_frame::Body::Pong(_)) | None => Ok(()),
            Some(body) => self.tell(Event::Frame(body)).await,
        }
    }

    async fn on_response(&mut self, response: Response) -> Result<(), End> {
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
        if let Ok(response::Result::Joined(joined)) = &result {
            self.on_joined(joined).await?;
        }
        self.tell(Event::Response { result, reply }).await
    }

    /// Tells the device; without one the session is of no use.
    async fn tell(&self, event: Event) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Closed(None))
    }
}

/// Waits until a connection takes another frame, or is broken.
async fn room(outgoing: &mpsc::Sender<ClientFrame>) {
    _ = outgoing.reserve().await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn frame_of(body: client_frame::Body) -> ClientFrame {
    ClientFrame {
        body: Some(body),
        ..ClientFrame::default()
    }
}

fn overflow(overflow: Overflow) -> Error {
    match overflow {
        Overflow::Frame { .. } => Error::local(overflow),
        Overflow::Frames { .. } | Overflow::Bytes { .. } => Error::full(overflow),
    }
}

fn rejected(reject: &Reject) -> Error {
    Error::refused(reject.code, &reject.message)
}

fn closed() -> Error {
    Error::closed("the session is over")
}
