//! Opening connections: greeting a node, and trying again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tombolo_wire::v1::{
    ClientFrame, ErrorCode, Hello, Resume, ServerFrame, Welcome, client_frame, server_frame,
};
use tombolo_wire::{ServerUrl, UserId, VERSION};

use super::distance::random;
use super::nodes::open_nearest;
use super::tokens::Pauses;
use super::{Command, Config, Connection, Driver, End, Event, Transport, closed, rejected};
use crate::error::Error;

const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long that may take while the node that has the session serves: nothing is sent meanwhile.
const WELCOME_ELSEWHERE_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause before another connection; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Devices that are asked to go at the same time go one after the other, within this time.
const MOVE_JITTER: Duration = Duration::from_millis(200);
/// Devices of a node that has become silent go within this time.
const ESCAPE_JITTER: Duration = Duration::from_millis(100);
/// So many nodes are asked one after the other for a first session, as each sends us to the next.
const ENTER_TRIES_MAX: u32 = 4;
/// So often another node is tried, until the one that wants us to go ends the connection.
const MOVE_FAILURES_MAX: u32 = 8;
/// After so long without a connection the session is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Pauses between connections, each twice as long as the one before.
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(RETRY_MIN)
    }
}

impl Backoff {
    /// The next pause: somewhat random, as a node's devices must not all come back at once.
    fn pause(&mut self) -> Duration {
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        let pause = self
            .0
            .mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX));
        self.0 = (self.0 * 2).min(RETRY_MAX);
        pause
    }
}

impl Driver {
    /// Opens a connection and the session on it, on another node if the first one says so.
    pub(super) async fn connect(&mut self) -> Result<Connection, Error> {
        let mut tries = 1;
        loop {
            let was_sent = self.nodes.was_sent();
            let attempt = self.attempt(self.nodes.candidates());
            match attempt.run().await {
                Ok((connection, welcomed)) => {
                    self.on_welcome(welcomed, connection.transport).await?;
                    return Ok(connection);
                }
                Err(failed) => {
                    self.on_failed(&failed);
                    let is_sent = !failed.nodes.is_empty() || was_sent;
                    let is_worth = match is_token_refused(&failed.error) {
                        // What the application has kept may be old, and what it would make now good.
                        true => self.config.tokens.has_issuer() && (tries == 1 || is_sent),
                        false => is_sent && is_passing(&failed.error),
                    };
                    if !is_worth || tries == ENTER_TRIES_MAX {
                        return Err(failed.error);
                    }
                    tries += 1;
                }
            }
        }
    }

    /// Opens another connection, trying for a while; the first try waits unless it `is_hurried`.
    pub(super) async fn reconnect(
        &mut self,
        backoff: &mut Backoff,
        is_hurried: bool,
    ) -> Result<Connection, End> {
        let started = Instant::now();
        let mut pauses = self.config.tokens.pauses();
        let mut pause = if is_hurried {
            Duration::ZERO
        } else {
            backoff.pause()
        };
        loop {
            let attempt = self.attempt(self.nodes.candidates());
            let pausing = pauses.next(pause);
            let greeting = async {
                pausing.await;
                attempt.run().await
            };
            match self.attend(greeting).await? {
                Ok((connection, welcomed)) => {
                    let is_told = self.on_welcome(welcomed, connection.transport).await;
                    is_told.map_err(End::Refused)?;
                    return Ok(connection);
                }
                Err(Failed { error, .. })
                    if error.code() == Some(ErrorCode::NotResumable)
                        && self.resume_token.take().is_some() =>
                {
                    tracing::info!("the session cannot be resumed: starting another");
                    pause = Duration::ZERO;
                }
                Err(failed) if is_passing(&failed.error) && started.elapsed() < GIVE_UP_AFTER => {
                    self.on_failed(&failed);
                    pause = backoff.pause();
                    let error = failed.error;
                    tracing::warn!(%error, retry_in = ?pause, "the connection to the node is broken");
                }
                Err(failed) => return Err(End::Refused(failed.error)),
            }
        }
    }

    /// Waits for something without a connection, carrying out commands meanwhile.
    async fn attend<T>(&mut self, future: impl Future<Output = T>) -> Result<T, End> {
        tokio::pin!(future);
        loop {
            let command: Option<Command> = tokio::select! {
                output = &mut future => return Ok(output),
                command = self.commands.recv() => command,
            };
            let Some(command) = command else {
                return Err(End::Closed(None));
            };
            if let Some(end) = self.on_command(command, None).await {
                return Err(end);
            }
        }
    }

    /// Begins to look for another node, while the connection goes on.
    pub(super) fn begin_move(&mut self, moving: &mut Move) {
        let was = std::mem::replace(&mut moving.reason, Reason::Asked);
        if !moving.is_under_way() || was != Reason::Asked && !moving.is_greeting() {
            self.try_move(moving, jitter(MOVE_JITTER));
        }
    }

    /// The same because the node is silent, unless there is no other.
    pub(super) fn begin_escape(&mut self, moving: &mut Move) {
        let is_free =
            !moving.is_under_way() || moving.reason == Reason::Nearer && !moving.is_greeting();
        if is_free && !self.nodes.elsewhere().is_empty() {
            moving.reason = Reason::Suspicion;
            self.try_move(moving, jitter(ESCAPE_JITTER));
        }
    }

    /// Goes to a node that is nearer, once: where it does not work out the device stays.
    pub(super) fn begin_approach(&mut self, moving: &mut Move, url: ServerUrl) {
        moving.reason = Reason::Nearer;
        let attempt = Attempt {
            comes_nearer: true,
            ..self.attempt(vec![(url, Duration::ZERO)])
        };
        self.try_attempt(moving, attempt, Duration::ZERO);
    }

    fn try_move(&mut self, moving: &mut Move, pause: Duration) {
        let attempt = self.attempt(self.nodes.elsewhere());
        self.try_attempt(moving, attempt, pause);
    }

    fn try_attempt(&self, moving: &mut Move, attempt: Attempt, pause: Duration) {
        let attempt = attempt.because(moving.reason);
        let tokens = &self.config.tokens;
        let pausing = moving
            .pauses
            .get_or_insert_with(|| tokens.pauses())
            .next(pause);
        let is_greeting = Arc::clone(&moving.is_greeting);
        is_greeting.store(false, Ordering::Relaxed);
        moving.attempt = Some(Box::pin(async move {
            pausing.await;
            attempt.run_noting(&is_greeting).await
        }));
    }

    /// Another node has the session, or it did not work out; true when there is a new connection.
    pub(super) async fn on_moved(
        &mut self,
        moved: Result<(Connection, Welcomed), Failed>,
        connection: &mut Connection,
        moving: &mut Move,
    ) -> Result<bool, End> {
        match moved {
            Ok((new, welcomed)) => {
                let transport = new.transport;
                if moving.reason == Reason::Suspicion && welcomed.welcome.resumed {
                    self.pulse.handle_false_alarm(Instant::now());
                }
                // The old one has nothing more to say: the session is no longer its node's.
                *connection = new;
                *moving = Move::default();
                let is_told = self.on_welcome(welcomed, transport).await;
                is_told.map_err(End::Refused)?;
                Ok(true)
            }
            Err(failed) if moving.reason == Reason::Nearer => {
                let error = failed.error;
                tracing::info!(%error, "not let into the node that is nearer");
                *moving = Move::default();
                // It may have fallen silent meanwhile, which is said once.
                if self.pulse.is_suspected() {
                    self.begin_escape(moving);
                }
                Ok(false)
            }
            Err(failed) => {
                self.on_failed(&failed);
                let error = failed.error;
                moving.is_greeting.store(false, Ordering::Relaxed);
                // Of several nodes one may know a key that another does not.
                let may_differ = error.code() == Some(ErrorCode::TokenInvalid)
                    && moving.failures + 1 < MOVE_FAILURES_MAX;
                let has_issuer = self.config.tokens.has_issuer();
                if is_token_refused(&error) && !may_differ && !has_issuer {
                    tracing::warn!(%error, "no node but this one takes the session");
                    self.try_move(moving, RETRY_MAX);
                    return Ok(false);
                }
                moving.failures += 1;
                tracing::info!(%error, failures = moving.failures, "could not go to another node yet");
                if moving.failures < MOVE_FAILURES_MAX {
                    let pause = RETRY_MIN * 2u32.pow(moving.failures.min(5));
                    self.try_move(moving, pause);
                }
                Ok(false)
            }
        }
    }

    /// Learns from a failure where to try next.
    fn on_failed(&mut self, failed: &Failed) {
        self.nodes.learn(&failed.nodes);
        if let Some(url) = &failed.url {
            self.nodes.put_last(url);
        }
        let is_current = failed.url.as_ref() == Some(self.nodes.current());
        match failed.error.code() {
            Some(ErrorCode::Elsewhere) if is_current => self.nodes.leave_current(),
            // It has said where else.
            Some(ErrorCode::Elsewhere) => {}
            // The others cannot be reached, or take nobody in: the one that sent us away may do so after all.
            Some(_) | None => self.nodes.come_back(),
        }
    }

    fn attempt(&mut self, candidates: Vec<(ServerUrl, Duration)>) -> Attempt {
        self.life += 1;
        Attempt {
            endpoint: self.endpoint.clone(),
            config: self.config.clone(),
            candidates,
            resume_token: self.resume_token.clone(),
            ack: self.state.inbox.received(),
            life: self.life,
            was_sent: self.nodes.was_sent(),
            comes_nearer: false,
            patience: WELCOME_TIMEOUT,
        }
    }

    async fn on_welcome(
        &mut self,
        Welcomed {
            welcome,
            user,
            ack,
            url,
        }: Welcomed,
        transport: Transport,
    ) -> Result<(), Error> {
        if self.nodes.arrive(&url) {
            self.nearer.handle_move(Instant::now(), random());
        }
        self.nodes.hear(&welcome.nodes);
        self.measure_nodes();
        self.resume_token = Some(welcome.resume_token.clone());
        if welcome.resumed {
            self.state.outbox.handle_ack(ack).map_err(Error::local)?;
            self.state.outbox.rewind();
        } else {
            let lost = std::mem::take(&mut self.state);
            let (sends, unsent) = lost.sends.handle_lost(&lost.outbox, lost.left);
            self.state.sends = sends;
            for unsent in unsent {
                let unsent = self.events.send(Event::Unsent(unsent)).await;
                unsent.map_err(|_| closed())?;
            }
            for (_, reply) in lost.requests {
                _ = reply.send(Err(Error::forgotten()));
            }
            // Whether they were handed on nobody knows: they are told again.
            for (_, to) in lost.introductions {
                let error = Error::forgotten();
                let refused = Event::IntroductionRefused { to, error };
                self.events.send(refused).await.map_err(|_| closed())?;
            }
        }
        tracing::info!(
            node = welcome.node,
            resumed = welcome.resumed,
            ?transport,
            "session connected"
        );
        let event = Event::Connected {
            welcome,
            user,
            transport,
            url,
        };
        let is_told = self.events.send(event).await;
        self.pulse.handle_connection(Instant::now());
        is_told.map_err(|_| closed())
    }
}

/// One try to open a connection and the session on it, resuming where there is one.
struct Attempt {
    endpoint: noq::Endpoint,
    config: Arc<Config>,
    /// Which nodes to try, and when.
    candidates: Vec<(ServerUrl, Duration)>,
    resume_token: Option<Bytes>,
    /// The last reliable frame that the device has received.
    ack: u64,
    /// Greater than in any attempt before.
    life: u64,
    /// Another node has sent us.
    was_sent: bool,
    /// Nobody has sent us, but this node is nearer.
    comes_nearer: bool,
    /// How long an answer to the greeting may take.
    patience: Duration,
}

/// A node's welcome, and the last reliable frame that it has received.
pub(super) struct Welcomed {
    welcome: Welcome,
    user: UserId,
    ack: u64,
    url: ServerUrl,
}

/// A try that did not work out.
pub(super) struct Failed {
    error: Error,
    /// The node that refused; `None` when none was reached.
    url: Option<ServerUrl>,
    /// Where it says that one may go instead.
    nodes: Vec<String>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            url: None,
            nodes: Vec::new(),
        }
    }
}

/// How far a session is on its way to another node, while its connection goes on.
#[derive(Default)]
pub(super) struct Move {
    attempt: Option<Greeting>,
    /// The other node has been asked for the session: meanwhile the one that has it is told nothing
    /// more, so that it can give it away.
    is_greeting: Arc<AtomicBool>,
    failures: u32,
    reason: Reason,
    /// Between its attempts.
    pauses: Option<Pauses>,
}

/// Why a session goes to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reason {
    /// Its node wants it to.
    #[default]
    Asked,
    /// Its node is silent, but may live.
    Suspicion,
    /// Another node is nearer.
    Nearer,
}

type Greeting = Pin<Box<dyn Future<Output = Result<(Connection, Welcomed), Failed>> + Send>>;

impl Move {
    pub(super) fn is_under_way(&self) -> bool {
        self.attempt.is_some()
    }

    /// The node that was suspected is heard: it is not left for suspicion any more, unless another one was
    /// asked for the session already.
    pub(super) fn call_off(&mut self) {
        if self.reason == Reason::Suspicion && !self.is_greeting() {
            *self = Self::default();
        }
    }

    pub(super) fn is_greeting(&self) -> bool {
        self.is_under_way() && self.is_greeting.load(Ordering::Relaxed)
    }

    /// Waits for what becomes of it. Safe to cancel.
    pub(super) async fn poll(&mut self) -> Result<(Connection, Welcomed), Failed> {
        let moved = match &mut self.attempt {
            Some(attempt) => attempt.await,
            None => std::future::pending().await,
        };
        self.attempt = None;
        moved
    }

    /// Waits for what becomes of it if the other node was asked; else there is nothing to wait for.
    pub(super) async fn finish(&mut self) -> Option<Result<(Connection, Welcomed), Failed>> {
        if !self.is_greeting() {
            return None;
        }
        Some(self.poll().await)
    }
}

impl Attempt {
    async fn run(self) -> Result<(Connection, Welcomed), Failed> {
        self.run_noting(&AtomicBool::new(false)).await
    }

    /// The same; notes when a node is greeted.
    async fn run_noting(
        mut self,
        is_greeting: &AtomicBool,
    ) -> Result<(Connection, Welcomed), Failed> {
        let candidates = std::mem::take(&mut self.candidates);
        let (connection, url) =
            open_nearest(&self.endpoint, candidates, self.config.patience).await?;
        let greeted = self.greet(connection, &url, is_greeting).await;
        greeted.map_err(|failed| Failed {
            url: Some(url),
            ..failed
        })
    }

    /// The same, for this reason.
    fn because(self, reason: Reason) -> Self {
        let patience = match reason {
            Reason::Asked | Reason::Nearer => WELCOME_ELSEWHERE_TIMEOUT,
            Reason::Suspicion => WELCOME_TIMEOUT,
        };
        Self { patience, ..self }
    }

    async fn greet(
        &self,
        mut connection: Connection,
        url: &ServerUrl,
        is_greeting: &AtomicBool,
    ) -> Result<(Connection, Welcomed), Failed> {
        let tokens = &self.config.tokens;
        let token = tokens.token_for(url).await?;
        is_greeting.store(true, Ordering::Relaxed);
        connection.send(self.hello(token.clone())).await;
        let answer = tokio::time::timeout(self.patience, answer(&mut connection)).await;
        let Ok(frame) = answer else {
            return Err(Error::unreachable(url, "the node did not answer the greeting").into());
        };
        let Some(ServerFrame {
            ack,
            body: Some(body),
            ..
        }) = frame
        else {
            return Err(Error::unreachable(url, "the node closed the connection").into());
        };
        match body {
            server_frame::Body::Welcome(welcome) => {
                let Ok(user) = UserId::parse(&welcome.user) else {
                    let why = "the node does not say who this device's user is";
                    return Err(Error::unreachable(url, why).into());
                };
                tokens.handle_acceptance(&token);
                let url = url.clone();
                let welcomed = Welcomed {
                    welcome,
                    user,
                    ack,
                    url,
                };
                Ok((connection, welcomed))
            }
            server_frame::Body::Reject(reject) => {
                let error = rejected(&reject);
                if is_token_refused(&error) {
                    tokens.handle_refusal(&token);
                }
                Err(Failed {
                    error,
                    url: None,
                    nodes: reject.nodes,
                })
            }
            server_frame::Body::GoAway(_) => {
                Err(Error::unreachable(url, "the node is leaving").into())
            }
            server_frame::Body::Pong(_)
            | server_frame::Body::Response(_)
            | server_frame::Body::RoomEvent(_)
            | server_frame::Body::Delivery(_)
            | server_frame::Body::Introduced(_)
            | server_frame::Body::Refused(_)
            | server_frame::Body::Acknowledge(_)
            | server_frame::Body::IceServers(_)
            | server_frame::Body::OtherNodes(_)
            | server_frame::Body::Social(_)
            | server_frame::Body::FieldBatch(_)
            | server_frame::Body::Matchmaker(_) => {
                Err(Error::unreachable(url, "the node did not greet: is it a Tombolo node?").into())
            }
        }
    }

    fn hello(&self, token: String) -> ClientFrame {
        let hello = Hello {
            version: VERSION,
            token,
            keys: Some(self.config.keys.clone()),
            resume: self.resume_token.clone().map(|token| Resume { token }),
            agent: self.config.agent.clone(),
            life: self.life,
            sent_here: self.was_sent,
            comes_nearer: self.comes_nearer,
        };
        ClientFrame {
            ack: self.ack,
            body: Some(client_frame::Body::Hello(hello)),
            ..ClientFrame::default()
        }
    }
}

/// What a node says to a greeting. What may get lost may overtake it, and does get lost then.
async fn answer(connection: &mut Connection) -> Option<ServerFrame> {
    loop {
        let frame = connection.receive().await?;
        let may_get_lost = matches!(
            frame.body,
            Some(server_frame::Body::Delivery(_) | server_frame::Body::FieldBatch(_))
        );
        if frame.seq != 0 || !may_get_lost {
            return Some(frame);
        }
    }
}

fn jitter(max: Duration) -> Duration {
    max.mul_f64(random())
}

/// Whether trying again later may help somebody who was let in before.
pub(super) fn is_passing(error: &Error) -> bool {
    match error.code() {
        Some(code) => matches!(
            code,
            ErrorCode::Unavailable
                | ErrorCode::Limit
                | ErrorCode::Elsewhere
                // The application is told, and gives another token if it has one; a key may be known to other nodes.
                | ErrorCode::TokenExpired
                | ErrorCode::TokenInvalid
        ),
        // A node that is about to start or end may fail to hand out tokens.
        None => error.is_unreachable() || error.is_token(),
    }
}

/// Whether a node wants another token.
fn is_token_refused(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::TokenExpired | ErrorCode::TokenInvalid)
    )
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::tests::driver;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_device_whose_node_serves_waits_a_shorter_time_for_another_nodes_welcome() {
        let (mut driver, _handle, _events) = driver();
        let url = driver.nodes.current().clone();
        let mut waited = Vec::new();
        for reason in [Reason::Asked, Reason::Nearer, Reason::Suspicion] {
            let attempt = driver.attempt(Vec::new()).because(reason);
            let (outgoing, _sent) = mpsc::channel(1);
            let (_silent, incoming) = mpsc::channel(1);
            let connection = Connection::pretend(outgoing, incoming);
            let is_greeting = AtomicBool::new(false);
            let began = tokio::time::Instant::now();
            let greeted = attempt.greet(connection, &url, &is_greeting).await;
            assert!(greeted.is_err());
            assert!(is_greeting.into_inner(), "it has a token");
            waited.push(began.elapsed().as_secs());
        }
        assert_eq!(waited, [3, 3, 10]);
    }
}
