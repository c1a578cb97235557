//! The connection to the servers: one at a time, made anew when it is lost, and checked each time.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_nats::{Client, ClientError, ConnectOptions, Event, ServerAddr, Subscriber};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answers::{Answer, Answers};
use super::choice::Choice;
use super::config::{NatsAuth, NatsConfig, urls_to_tell, without_secrets};
use super::version::{Refusal, Version};
use super::{NatsStats, api, others, pulse};
use crate::Unavailable;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// A server's URL is none.
    #[error("{0:?} is no URL of a NATS server")]
    Url(String),
    /// The credentials cannot be read.
    #[error("credentials cannot be read")]
    Credentials(#[source] std::io::Error),
    /// No server lets this node in.
    #[error("cannot connect to NATS at {servers}: {error}{}", hint(error))]
    Connect {
        /// Their URLs.
        servers: String,
        /// What went wrong last. It tells its own source.
        error: async_nats::ConnectError,
    },
    /// The server must not be used.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A stream can neither be found nor made.
    #[error("stream {name} cannot be opened: {reason}")]
    Stream {
        /// Its name.
        name: String,
        /// What the server said.
        reason: String,
    },
    /// A stream is there, but other than the configuration asks for.
    #[error("stream {name} is not as this node needs it: {difference}")]
    Different {
        /// Its name.
        name: String,
        /// How it differs.
        difference: &'static str,
    },
    /// The servers don't answer.
    #[error("NATS does not answer")]
    Silent,
}

impl From<Unavailable> for NatsError {
    fn from(Unavailable: Unavailable) -> Self {
        Self::Silent
    }
}

/// What the words of the TLS library mean here.
fn hint(error: &async_nats::ConnectError) -> &'static str {
    if error.to_string().contains("InvalidContentType") {
        "; it is to be TLS, which the server does not speak"
    } else {
        ""
    }
}

/// Whether there is a server to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// None that may be used since then, as far as is known.
    Down(Instant),
    /// The connection of this number.
    Up(u64),
}

/// The connection to the servers.
pub(super) struct Connection {
    client: Client,
    answers: Answers,
    link: watch::Sender<Link>,
    counters: Arc<Counters>,
    pub(super) request_timeout: Duration,
    replicas: usize,
    /// How long a server may take itself for a stream's leader that is none any more; `None` where there is but one.
    pub(super) leader_stale_max: Option<Duration>,
    version_min: Version,
    /// In all names of operations, so that those of two processes are not the same.
    writer: u64,
    last_operation: AtomicU64,
    begun: Instant,
    /// Since when no stream takes writes, in milliseconds since `begun`; 0 while one does.
    in_trouble_since: AtomicU64,
    /// The connection that is being left, by its number.
    left: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    connects: AtomicU64,
    disconnects: AtomicU64,
    refused: AtomicU64,
    moves: AtomicU64,
    slow: AtomicU64,
    server_errors: AtomicU64,
    /// What has been told of why there is no connection, [`TOLD_MAX`] kinds of errors at most.
    told: Mutex<BTreeSet<String>>,
    pub(super) live: AtomicU64,
    pub(super) refetches: AtomicU64,
    pub(super) tails_found: AtomicU64,
    pub(super) rolled_back: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) no_leader: AtomicU64,
    pub(super) resolved: AtomicU64,
    pub(super) watch_resets: AtomicU64,
    pub(super) unpurged: AtomicU64,
    pub(super) unreadable: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Connection {
    pub(super) async fn open(config: &NatsConfig) -> Result<Arc<Self>, NatsError> {
        let mut servers = Vec::new();
        for url in &config.servers {
            let parsed = url.parse::<ServerAddr>();
            servers.push(parsed.map_err(|_| NatsError::Url(without_secrets(url)))?);
        }
        let counters = Arc::new(Counters::default());
        // Grows with each connection made or lost; the checker below follows it.
        let (changed, changes) = watch::channel(0_u64);
        let told = Arc::clone(&counters);
        let choice = Choice::default();
        let (chooser, chosen) = (choice.clone(), choice.clone());
        let options = options(config)?;
        let options = options.reconnect_to_server_callback(move |servers, _| {
            std::future::ready(chooser.next(&servers))
        });
        let options = options.event_callback(move |event| {
            told.on(&event);
            if event == Event::Connected {
                chosen.handle_connected();
            }
            if matches!(
                event,
                Event::Connected | Event::Disconnected | Event::Closed
            ) {
                changed.send_modify(|number| *number += 1);
            }
            std::future::ready(())
        });
        let client = options.connect(servers.clone()).await;
        let client = client.map_err(|error| NatsError::Connect {
            servers: urls_to_tell(&config.servers),
            error,
        })?;
        let answers = Answers::open(&client).await;
        let connection = Arc::new(Self {
            answers: answers.map_err(|_| NatsError::Silent)?,
            client,
            link: watch::Sender::new(Link::Down(Instant::now())),
            counters,
            request_timeout: config.request_timeout,
            replicas: config.replicas,
            leader_stale_max: (config.replicas > 1).then_some(config.leader_stale_max),
            version_min: config.version_min,
            writer: random(),
            last_operation: AtomicU64::new(0),
            begun: Instant::now(),
            in_trouble_since: AtomicU64::new(0),
            left: AtomicU64::new(u64::MAX),
        });
        connection.admit()?;
        // A server that is to be spoken to encrypted from the first byte on says nothing before.
        if config.replicas > 1 && !config.tls.first {
            let told = connection.client.server_info().connect_urls;
            others::admit(&servers, &told, config.replicas, config.request_timeout).await?;
        }
        connection.link.send_replace(Link::Up(0));
        tokio::spawn(follow(Arc::downgrade(&connection), changes));
        if config.replicas > 1 {
            let nobody = config.nobody();
            tokio::spawn(pulse::watch(Arc::downgrade(&connection), nobody));
        }
        Ok(connection)
    }

    /// The version of the server that is connected now.
    pub(super) fn version(&self) -> Result<Version, Refusal> {
        let info = self.client.server_info();
        info.version.parse().map_err(|_| Refusal::Unreadable)
    }

    pub(super) fn has_batches(&self) -> bool {
        self.version()
            .is_ok_and(|version| version >= Version::BATCHES_MIN)
    }

    /// Whether the server has JetStream itself; others of its cluster may.
    pub(super) fn has_jetstream(&self) -> bool {
        self.client.server_info().jetstream
    }

    /// Every server is checked, whenever it is connected: clusters can be of mixed versions.
    fn admit(&self) -> Result<(), Refusal> {
        let version = self.version()?;
        version.admit(self.replicas, self.version_min)?;
        if !self.has_jetstream() {
            tracing::debug!(%version, "the server has no JetStream itself");
        }
        if version < Version::TESTED_MIN {
            tracing::warn!(%version, tested = %Version::TESTED_MIN, "old NATS server");
        }
        Ok(())
    }

    /// # Errors
    /// When there is no server to talk to, so that nothing is kept back to be sent late.
    pub(super) fn check(&self) -> Result<u64, Unavailable> {
        match *self.link.borrow() {
            Link::Up(number) => Ok(number),
            Link::Down(_) => Err(Unavailable),
        }
    }

    pub(super) fn away_for(&self) -> Option<Duration> {
        match *self.link.borrow() {
            Link::Up(_) => None,
            Link::Down(since) => Some(since.elapsed()),
        }
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A place for the answer of several messages to a question that is asked after this.
    pub(super) fn expect_answer(&self) -> Answer {
        self.answers.expect()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A name for an operation that nobody else names so.
    pub(super) fn operation(&self) -> String {
        let number = self.last_operation.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number:x}", self.writer)
    }

    /// A stream took a write, or knew better.
    pub(super) fn is_well(&self) {
        self.in_trouble_since.store(0, Ordering::Relaxed);
    }

    /// A stream took no write. When none has for a while it may be that the server is cut off from
    /// the others and keeps us from them: then another is tried.
    pub(super) async fn is_in_trouble(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let since = self.in_trouble_since.load(Ordering::Relaxed);
        if since == 0 {
            self.in_trouble_since.store(now.max(1), Ordering::Relaxed);
        } else if now > since + TROUBLE_MAX_MS {
            self.in_trouble_since.store(now.max(1), Ordering::Relaxed);
            self.leave("no stream takes writes over the NATS server")
                .await;
        }
    }

    /// How many messages have come from servers, of any kind.
    pub(super) fn messages_heard(&self) -> u64 {
        let statistics = self.client.statistics();
        statistics.in_messages.load(Ordering::Relaxed)
    }

    /// Leaves a server for another one, if there is any.
    pub(super) async fn leave(&self, why: &str) {
        let Ok(number) = self.check() else {
            return;
        };
        // The client may not have come to it yet; told twice it would leave the next one, too.
        let is_left = self.left.swap(number, Ordering::Relaxed) == number;
        if is_left || self.replicas == 1 {
            return;
        }
        count(&self.counters.moves);
        tracing::warn!("{why}: trying another one");
        // Without a connection there is nothing to leave.
        let _ = self.within(self.client.force_reconnect()).await;
    }

    /// Waits for an answer of the client, not for ever: it does not take commands while it connects.
    pub(super) async fn within<T, E>(
        &self,
        future: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Unavailable> {
        match tokio::time::timeout(self.request_timeout, future).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }

    pub(super) async fn subscribe(&self, subject: String) -> Result<Subscriber, Unavailable> {
        self.check()?;
        self.within(self.client.subscribe(subject)).await
    }

    /// Asks the servers about streams and consumers.
    pub(super) async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        subject: String,
        body: &impl serde::Serialize,
    ) -> Result<T, api::AskError> {
        self.check()?;
        api::ask(self, subject, body).await
    }

    pub(super) fn stats(&self) -> NatsStats {
        let counters = &self.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NatsStats {
            connects: read(&counters.connects),
            disconnects: read(&counters.disconnects),
            refused: read(&counters.refused),
            moves: read(&counters.moves),
            slow: read(&counters.slow),
            server_errors: read(&counters.server_errors),
            live: read(&counters.live),
            refetches: read(&counters.refetches),
            tails_found: read(&counters.tails_found),
            rolled_back: read(&counters.rolled_back),
            unknown: read(&counters.unknown),
            no_leader: read(&counters.no_leader),
            resolved: read(&counters.resolved),
            watch_resets: read(&counters.watch_resets),
            unpurged: read(&counters.unpurged),
            unreadable: read(&counters.unreadable),
        }
    }
}

impl Counters {
    fn on(&self, event: &Event) {
        match event {
            Event::Connected => {
                count(&self.connects);
                self.told().clear();
            }
            Event::Disconnected => count(&self.disconnects),
            Event::SlowConsumer(_) => count(&self.slow),
            Event::ServerError(error) => {
                count(&self.server_errors);
                tracing::debug!(%error, "NATS server");
            }
            Event::ClientError(error) if self.is_news(error) => {
                tracing::warn!(%error, "NATS servers cannot be reached, or refuse this node");
            }
            Event::ClientError(error) => tracing::debug!(%error, "NATS client"),
            Event::LameDuckMode | Event::Draining | Event::Closed => {
                tracing::info!(%event, "NATS");
            }
        }
    }

    /// Whether it has not been told since there was a connection: each attempt fails anew.
    fn is_news(&self, error: &ClientError) -> bool {
        let mut told = self.told();
        told.len() < TOLD_MAX && told.insert(error.to_string())
    }

    fn told(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks each connection before it is used.
async fn follow(connection: Weak<Connection>, mut changes: watch::Receiver<u64>) {
    // The first one has been checked.
    changes.mark_unchanged();
    let (mut number, mut is_up) = (0, true);
    loop {
        // While none is in use, it is looked for: the client may take long to take a server up, and what it says
        // of that may get lost.
        let look_again = async {
            if is_up {
                std::future::pending().await
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = look_again => {}
        }
        let Some(connection) = connection.upgrade() else {
            return;
        };
        is_up = false;
        connection.link.send_if_modified(|link| {
            let was_up = matches!(link, Link::Up(_));
            if was_up {
                *link = Link::Down(Instant::now());
            }
            was_up
        });
        let is_connected =
            || connection.client.connection_state() == async_nats::connection::State::Connected;
        // Answered once the client has taken the new server up.
        if !is_connected()
            || connection.within(connection.client.flush()).await.is_err()
            || !is_connected()
        {
            continue;
        }
        match connection.admit() {
            Ok(()) => {
                (number, is_up) = (number + 1, true);
                tracing::info!(number, "connected to NATS again");
                connection.link.send_replace(Link::Up(number));
            }
            Err(error) => {
                count(&connection.counters.refused);
                tracing::error!(%error, "NATS is not used");
                tokio::time::sleep(REFUSED_DELAY).await;
                // Another server may be better.
                let _ = connection.within(connection.client.force_reconnect()).await;
            }
        }
    }
}

fn options(config: &NatsConfig) -> Result<ConnectOptions, NatsError> {
    let options = ConnectOptions::new();
    let mut options = match &config.auth {
        NatsAuth::None => options,
        NatsAuth::Token(token) => options.token(token.clone()),
        NatsAuth::User { name, password } => {
            options.user_and_password(name.clone(), password.clone())
        }
        NatsAuth::Credentials(text) => options.credentials(text).map_err(NatsError::Credentials)?,
        NatsAuth::Nkey(seed) => options.nkey(seed.clone()),
    };
    if let Some(roots) = &config.tls.roots {
        options = options.add_root_certificates(roots.clone());
    }
    if let Some((certificate, key)) = &config.tls.certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if config.tls.first {
        options = options.tls_first();
    }
    Ok(options
        .require_tls(config.tls.required)
        .name("tombolo")
        .custom_inbox_prefix(format!("_INBOX.{}", config.prefix))
        .connection_timeout(config.request_timeout)
        .request_timeout(Some(config.request_timeout))
        .ping_interval(config.ping_interval)
        .subscription_capacity(SUBSCRIPTION_MAX)
        .reconnect_delay_callback(|attempts| {
            let doubled = RECONNECT_MIN
                * 2_u32.saturating_pow(u32::try_from(attempts).unwrap_or(u32::MAX).min(10));
            doubled.min(RECONNECT_MAX)
        }))
}

/// Unpredictable enough to tell processes apart.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// Between two attempts to connect, at first and at last.
const RECONNECT_MIN: Duration = Duration::from_millis(10);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// How long no stream may take a write before another server is tried: less than an election takes, but
/// a cluster that holds one has other streams.
const TROUBLE_MAX_MS: u64 = 3_000;

/// Before a server that may not be used is left for another.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const REFUSED_DELAY: Duration = Duration::from_secs(1);

/// Most kinds of errors that are told of while there is no connection.
const TOLD_MAX: usize = 16;

/// Most messages that wait for a subscriber; those who take them never wait themselves.
const SUBSCRIPTION_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_servers_refuse_a_node_is_told_once_until_there_is_a_connection() {
        let counters = Counters::default();
        let [away, refused] =
            ["IO error", "authorization violation"].map(|why| ClientError::Other(why.to_owned()));
        assert!(counters.is_news(&away));
        assert!(counters.is_news(&refused));
        assert!(!counters.is_news(&away) && !counters.is_news(&refused));
        counters.on(&Event::Connected);
        assert!(counters.is_news(&refused));
        let many = (0..2 * TOLD_MAX).map(|number| ClientError::Other(number.to_string()));
        let told = many.filter(|why| counters.is_news(why)).count();
        assert_eq!(told, TOLD_MAX - 1);
    }
}
