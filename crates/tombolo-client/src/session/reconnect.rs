//! Opening connections: greeting a node, and trying again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tombolo_wire::VERSION;
use tombolo_wire::v1::{
    ClientFrame, ErrorCode, Hello, Resume, ServerFrame, Welcome, client_frame, server_frame,
};

use super::{
    Command, Config, Connection, Credential, Driver, End, Event, Transport, closed, rejected,
};
use crate::error::Error;
use crate::http::development_token;

const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause before another connection; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
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
    /// Opens a connection and the session on it.
    pub(super) async fn connect(&mut self) -> Result<Connection, Error> {
        let (connection, welcomed) = self.attempt().run().await?;
        self.on_welcome(welcomed, connection.transport).await?;
        Ok(connection)
    }

    /// Opens another connection, trying for a while; the first try waits unless it `is_hurried`.
    pub(super) async fn reconnect(
        &mut self,
        backoff: &mut Backoff,
        is_hurried: bool,
    ) -> Result<Connection, End> {
        let started = Instant::now();
        let mut pause = if is_hurried {
            Duration::ZERO
        } else {
            backoff.pause()
        };
        loop {
            let attempt = self.attempt();
            let greeting = async {
                tokio::time::sleep(pause).await;
                attempt.run().await
            };
            match self.attend(greeting).await? {
                Ok((connection, welcomed)) => {
                    let is_told = self.on_welcome(welcomed, connection.transport).await;
                    is_told.map_err(End::Refused)?;
                    return Ok(connection);
                }
                Err(error)
                    if error.code() == Some(ErrorCode::NotResumable)
                        && self.resume_token.take().is_some() =>
                {
                    tracing::info!("the session cannot be resumed: starting another");
                    pause = Duration::ZERO;
                }
                Err(error) if is_passing(&error) && started.elapsed() < GIVE_UP_AFTER => {
                    pause = backoff.pause();
                    tracing::warn!(%error, retry_in = ?pause, "the connection to the node is broken");
                }
                Err(error) => return Err(End::Refused(error)),
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
            if let Some(end) = self.on_command(command, None) {
                return Err(end);
            }
        }
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            endpoint: self.endpoint.clone(),
            config: self.config.clone(),
            resume_token: self.resume_token.clone(),
            ack: self.state.inbox.received(),
        }
    }

    async fn on_welcome(
        &mut self,
        Welcomed { welcome, ack }: Welcomed,
        transport: Transport,
    ) -> Result<(), Error> {
        self.resume_token = Some(welcome.resume_token.clone());
        if welcome.resumed {
            self.state.outbox.handle_ack(ack).map_err(Error::local)?;
            self.state.outbox.rewind();
        } else {
            let lost = std::mem::take(&mut self.state);
            for (_, reply) in lost.requests {
                _ = reply.send(Err(Error::forgotten()));
            }
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
}

/// One try to open a connection and the session on it, resuming where there is one.
struct Attempt {
    endpoint: noq::Endpoint,
    config: Arc<Config>,
    resume_token: Option<Bytes>,
    /// The last reliable frame that the device has received.
    ack: u64,
}

/// A node's welcome, and the last reliable frame that it has received.
struct Welcomed {
    welcome: Welcome,
    ack: u64,
}

impl Attempt {
    async fn run(self) -> Result<(Connection, Welcomed), Error> {
        let url = &self.config.url;
        let token = match &self.config.credential {
            Credential::Token(token) => token.clone(),
            Credential::Development(user) => development_token(url, user).await?,
        };
        let mut connection = Connection::open(&self.endpoint, url).await?;
        connection.send(self.hello(token)).await;
        let answer = tokio::time::timeout(WELCOME_TIMEOUT, connection.receive()).await;
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
            server_frame::Body::Welcome(welcome) => Ok((connection, Welcomed { welcome, ack })),
            server_frame::Body::Reject(reject) => Err(rejected(&reject)),
            server_frame::Body::GoAway(_) => Err(Error::unreachable(url, "the node is leaving")),
            server_frame::Body::Pong(_)
            | server_frame::Body::Response(_)
            | server_frame::Body::RoomEvent(_)
            | server_frame::Body::Delivery(_)
            | server_frame::Body::Introduced(_)
            | server_frame::Body::Refused(_)
            | server_frame::Body::Acknowledge(_)
            | server_frame::Body::IceServers(_)
            | server_frame::Body::Social(_) => Err(Error::unreachable(
                url,
                "the node did not greet: is it a Tombolo node?",
            )),
        }
    }

    fn hello(&self, token: String) -> ClientFrame {
        let hello = Hello {
            version: VERSION,
            token,
            keys: Some(self.config.keys.clone()),
            resume: self.resume_token.clone().map(|token| Resume { token }),
            agent: self.config.agent.clone(),
        };
        ClientFrame {
            ack: self.ack,
            body: Some(client_frame::Body::Hello(hello)),
            ..ClientFrame::default()
        }
    }
}

/// Whether trying again later may help somebody who was let in before.
pub(super) fn is_passing(error: &Error) -> bool {
    match error.code() {
        Some(code) => matches!(
            code,
            ErrorCode::Unavailable | ErrorCode::Limit | ErrorCode::Elsewhere
        ),
        // A node that is about to start or end may fail to hand out tokens.
        None => error.is_unreachable() || error.is_token(),
    }
}
