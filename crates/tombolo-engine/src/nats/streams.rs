//! The streams: made when they are not there, known by their epochs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::api::{self, AskError, Ignored, Republish, StreamConfig, StreamInfo};
use super::config::{DEDUPLICATION, NatsConfig};
use super::connection::{Connection, NatsError};
use super::hold::Hold;
use crate::{Epoch, Key, Unavailable};

/// What streams hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Logs, with a live feed.
    Log,
    /// The latest snapshot of each log.
    Snapshots,
    /// Values.
    Values,
    /// Values that end.
    Leases,
}

/// Streams that share what they hold by key. Their number is fixed.
#[derive(Debug)]
pub(super) struct Shards(Vec<Arc<Shard>>);

/// One stream.
#[derive(Debug)]
pub(super) struct Shard {
    kind: Kind,
    /// The stream's name.
    pub(super) name: String,
    /// Before the epoch in subjects.
    root: String,
    /// The same of the live feed; empty when there is none.
    live_root: String,
    epoch: watch::Sender<Epoch>,
    pub(super) hold: Hold,
    /// When the stream was last looked for, in milliseconds since `begun`.
    looked: AtomicU64,
    begun: Instant,
    /// Since when it is known to be the same, or that it was made anew; `None` while it was never found.
    found: tokio::sync::Mutex<Option<Instant>>,
    config: Arc<NatsConfig>,
}

impl Shards {
    pub(super) async fn open(
        connection: &Connection,
        config: &NatsConfig,
        kind: Kind,
        count: usize,
    ) -> Result<Self, NatsError> {
        let config = Arc::new(config.clone());
        let shards: Vec<_> = (0..count)
            .map(|index| Arc::new(Shard::new(kind, index, Arc::clone(&config))))
            .collect();
        let found = shards.iter().map(|shard| shard.find(connection));
        futures_util::future::try_join_all(found).await?;
        Ok(Self(shards))
    }

    /// The stream that holds the key.
    pub(super) fn of(&self, key: &Key) -> &Arc<Shard> {
        &self.0[self.index(key)]
    }

    /// Its place among all.
    pub(super) fn index(&self, key: &Key) -> usize {
        // FNV-1a: the same on every node, and for ever.
        let hash = key
            .as_str()
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3_u64)
            });
        usize::try_from(hash % self.0.len() as u64).unwrap_or_default()
    }

    /// The only one, or the first.
    pub(super) fn first(&self) -> &Arc<Shard> {
        &self.0[0]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.0.iter()
    }

    pub(super) async fn delete(&self, connection: &Connection) -> Result<(), Unavailable> {
        for shard in &self.0 {
            let subject = format!("$JS.API.STREAM.DELETE.{}", shard.name);
            match connection.ask::<Ignored>(subject, &()).await {
                Ok(Ignored {}) => {}
                Err(error) if error.code() == Some(api::NO_STREAM) => {}
                Err(_) => return Err(Unavailable),
            }
        }
        Ok(())
    }
}

impl Shard {
    fn new(kind: Kind, index: usize, config: Arc<NatsConfig>) -> Self {
        let prefix = &config.prefix;
        let (name, root) = match kind {
            Kind::Log => (
                format!("{prefix}_log_{index}"),
                format!("{prefix}.log.{index}"),
            ),
            Kind::Snapshots => (format!("{prefix}_snapshots"), format!("{prefix}.snapshot")),
            // As NATS's own tools expect it of key-value buckets.
            Kind::Values => (
                format!("KV_{prefix}_values_{index}"),
                format!("$KV.{prefix}_values_{index}"),
            ),
            Kind::Leases => (
                format!("KV_{prefix}_leases"),
                format!("$KV.{prefix}_leases"),
            ),
        };
        let live_root = match kind {
            Kind::Log => format!("{prefix}.live.{index}"),
            Kind::Snapshots | Kind::Values | Kind::Leases => String::new(),
        };
        Self {
            kind,
            name,
            root,
            live_root,
            epoch: watch::Sender::new(Epoch(0)),
            hold: Hold::new(config.held_max),
            looked: AtomicU64::new(0),
            begun: Instant::now(),
            found: tokio::sync::Mutex::new(None),
            config,
        }
    }

    /// Changes when the stream was lost and made anew.
    pub(super) fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epoch.subscribe()
    }

    pub(super) fn epoch(&self) -> Epoch {
        *self.epoch.borrow()
    }

    /// Where a key's messages are, in an epoch.
    pub(super) fn subject(&self, epoch: Epoch, key: &str) -> String {
        format!("{}.{}.{key}", self.root, epoch.0)
    }

    /// Where they are told when they are stored.
    pub(super) fn live_subject(&self, epoch: Epoch, key: &str) -> String {
        format!("{}.{}.{key}", self.live_root, epoch.0)
    }

    /// The key whose messages are there.
    pub(super) fn key<'a>(&self, epoch: Epoch, subject: &'a str) -> Option<&'a str> {
        let rest = subject
            .strip_prefix(self.root.as_str())?
            .strip_prefix('.')?;
        let (found, key) = rest.split_once('.')?;
        (found.parse() == Ok(epoch.0)).then_some(key)
    }

    /// Looks whether the stream is still the same, unless that was done just now. Makes it anew when
    /// it is gone.
    pub(super) async fn look(&self, connection: &Connection) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        if looked != 0 && now < looked + LOOK_PAUSE_MS {
            return;
        }
        self.looked.store(now.max(1), Ordering::Relaxed);
        if let Err(error) = self.find_once(connection).await {
            tracing::debug!(stream = %self.name, %error, "cannot be looked up");
        }
    }

    /// Looks for the stream after something of it was lost: many who read it may do so at the same time.
    pub(super) async fn look_after_loss(&self, connection: &Connection) -> Result<(), NatsError> {
        let lost = Instant::now();
        let mut found = self.found.lock().await;
        if found.is_some_and(|found| found >= lost) {
            return Ok(());
        }
        self.find_as(connection, &mut found).await
    }

    /// Finds or makes the stream, however long its servers take to get ready.
    async fn find(&self, connection: &Connection) -> Result<(), NatsError> {
        let deadline = Instant::now() + FIND_MAX;
        loop {
            let mut error = match self.find_once(connection).await {
                Ok(()) => return Ok(()),
                Err(error @ NatsError::Different { .. }) => return Err(error),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                if let NatsError::Stream { reason, .. } = &mut error
                    && !connection.has_jetstream()
                {
                    reason.push_str("; the server runs without JetStream");
                }
                return Err(error);
            }
            tokio::time::sleep(FIND_PAUSE).await;
        }
    }

    async fn find_once(&self, connection: &Connection) -> Result<(), NatsError> {
        self.find_as(connection, &mut *self.found.lock().await)
            .await
    }

    async fn find_as(
        &self,
        connection: &Connection,
        found: &mut Option<Instant>,
    ) -> Result<(), NatsError> {
        let asked = Instant::now();
        let subject = format!("$JS.API.STREAM.INFO.{}", self.name);
        let info = match connection.ask::<StreamInfo>(subject, &()).await {
            Err(error) if error.code() == Some(api::NO_STREAM) => self.make(connection).await?,
            info => info.map_err(|error| self.failed(&error))?,
        };
        let epoch = self.check(&info)?;
        self.epoch.send_if_modified(|known| {
            let is_new = *known != epoch;
            if is_new && known.0 != 0 {
                tracing::warn!(stream = %self.name, "was lost, and made anew");
            }
            *known = epoch;
            is_new
        });
        *found = Some(asked);
        Ok(())
    }

    /// Makes it; when somebody else is faster, theirs is taken.
    async fn make(&self, connection: &Connection) -> Result<StreamInfo, NatsError> {
        let config = self.stream_config(self.next_epoch(), connection.has_batches());
        let subject = format!("$JS.API.STREAM.CREATE.{}", self.name);
        match connection.ask(subject, &config).await {
            Err(error) if error.code() == Some(api::NAME_IN_USE) => {
                let subject = format!("$JS.API.STREAM.INFO.{}", self.name);
                let info = connection.ask(subject, &()).await;
                info.map_err(|error| self.failed(&error))
            }
            info => info.map_err(|error| self.failed(&error)),
        }
    }

    /// Later than any that is known, though the clock may have been set back.
    fn next_epoch(&self) -> Epoch {
        let after = Epoch(self.epoch().0.saturating_add(1));
        creation_time().max(after)
    }

    fn stream_config(&self, epoch: Epoch, has_time_to_live: bool) -> StreamConfig {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let all = |root: &str| format!("{root}.{}.>", epoch.0);
        let mut config = StreamConfig {
            name: self.name.clone(),
            subjects: vec![all(&self.root)],
            retention: "limits",
            storage: "file",
            discard: "new",
            num_replicas: self.config.replicas,
            max_msgs_per_subject: 1,
            duplicate_window: nanoseconds(DEDUPLICATION),
            deny_delete: true,
            allow_msg_ttl: has_time_to_live.then_some(true),
            ..StreamConfig::default()
        };
        match self.kind {
            Kind::Log => {
                config.description = "Tombolo: logs of rooms, groups and inboxes";
                config.max_msgs_per_subject = -1;
                config.allow_direct = true;
                config.republish = Some(Republish {
                    src: all(&self.root),
                    dest: all(&self.live_root),
                });
            }
            Kind::Snapshots => config.description = "Tombolo: latest snapshot of each log",
            Kind::Values => {
                config.description = "Tombolo: values";
                config.allow_rollup_hdrs = true;
            }
            Kind::Leases => {
                config.description = "Tombolo: leases";
                config.allow_rollup_hdrs = true;
                config.max_age = nanoseconds(self.config.lease_time);
                // Servers don't remember ids for longer than messages.
                config.duplicate_window = config.duplicate_window.min(config.max_age);
                // So that watchers are told of ends.
                config.subject_delete_marker_ttl = has_time_to_live.then_some(config.max_age);
            }
        }
        config
    }

    /// The epoch of a stream that is there.
    fn check(&self, info: &StreamInfo) -> Result<Epoch, NatsError> {
        let different = |difference| NatsError::Different {
            name: self.name.clone(),
            difference,
        };
        let [subject] = &info.config.subjects[..] else {
            return Err(different("it has other subjects"));
        };
        let epoch = subject
            .strip_prefix(self.root.as_str())
            .and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".>")?.parse().ok())
            .ok_or_else(|| different("it has other subjects"))?;
        let lease_time = Duration::from_nanos(info.config.max_age);
        if self.kind == Kind::Leases && lease_time != self.config.lease_time {
            return Err(different("its leases last differently"));
        }
        if info.config.num_replicas != self.config.replicas {
            tracing::warn!(
                stream = %self.name,
                found = info.config.num_replicas,
                configured = self.config.replicas,
                "has another number of replicas"
            );
        }
        Ok(Epoch(epoch))
    }

    fn failed(&self, error: &AskError) -> NatsError {
        NatsError::Stream {
            name: self.name.clone(),
            reason: error.to_string(),
        }
    }
}

fn creation_time() -> Epoch {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Epoch(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// How long servers that have just begun may take until streams can be made.
pub(super) const FIND_MAX: Duration = Duration::from_secs(30);
const FIND_PAUSE: Duration = Duration::from_millis(250);

/// Between two looks for a stream that does not answer.
const LOOK_PAUSE_MS: u64 = 2_000;
