//! How to reach the servers, and what to keep there.

use std::path::PathBuf;
use std::time::Duration;

use super::connection::NatsError;
use super::version::Version;

/// How to reach the servers, and what to keep there. All nodes of a cluster have the same.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct NatsConfig {
    /// URLs of the servers, such as `nats://10.0.0.1:4222` or `tls://nats.example:4222`; one is
    /// enough to begin with, the others are learnt from it.
    pub servers: Vec<String>,
    /// Who this node is to the servers.
    pub auth: NatsAuth,
    /// How connections are encrypted.
    pub tls: NatsTls,
    /// First token of all subjects and names: clusters with different ones share servers without
    /// meeting.
    pub prefix: String,
    /// How many servers hold each stream: 1, 3 or 5.
    pub replicas: usize,
    /// Streams that hold logs. Cannot be changed once there are logs. More spread leaders better;
    /// each is a Raft group.
    pub log_shards: usize,
    /// Streams that hold values, each good for 100,000. Cannot be changed once there are values.
    pub value_shards: usize,
    /// How long a lease lasts that is not renewed: longer than the longest election (8.5 s seen).
    pub lease_time: Duration,
    /// Older servers are refused.
    pub version_min: Version,
    /// How long to wait for one answer.
    pub request_timeout: Duration,
    /// How long a write waits while a stream has no leader; then it is `Unavailable` or `Unknown`.
    pub hold_max: Duration,
    /// Most writes that wait so, per stream.
    pub held_max: usize,
    /// How often a connection is proven alive; it is given up after two without an answer.
    pub ping_interval: Duration,
    /// How often the tails of idle logs are checked.
    pub tail_check: Duration,
    /// How long a server that is cut off from the others may take itself for the leader of a stream: for so long it
    /// is not believed that a log ends before what was read of it. NATS's servers take 20 s.
    pub leader_stale_max: Duration,
    /// How long a retired log is remembered.
    pub retired_time: Duration,
    /// How many bytes the streams of logs and their snapshots are to hold together, in one copy; `None` for as many as
    /// the servers take. Where 95 per cent are held only entries by which something [ends](crate::Purpose) are appended.
    pub log_bytes_max: Option<u64>,
    /// Kinds of logs, as the first token of their keys says, that have no place for more where 75 per cent are held.
    pub yielding: Vec<&'static str>,
    /// Most events that wait for the reader of a log or a watch.
    pub events_max: usize,
}

/// Who this node is to the servers.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NatsAuth {
    /// Nobody, or what the URLs say.
    #[default]
    None,
    /// A token.
    Token(String),
    /// A name and a password.
    User {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// What is in a file that `nsc` has written: a JWT and a seed.
    Credentials(String),
    /// The seed of an nkey.
    Nkey(String),
}

impl std::fmt::Debug for NatsAuth {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token",
            Self::User { .. } => "User",
            Self::Credentials(_) => "Credentials",
            Self::Nkey(_) => "Nkey",
        })
    }
}

impl std::fmt::Debug for NatsConfig {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsConfig")
            .field("servers", &urls_to_tell(&self.servers))
            .field("auth", &self.auth)
            .field("prefix", &self.prefix)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

/// Servers, as they may be told to whoever reads the log.
pub(super) fn urls_to_tell(servers: &[String]) -> String {
    let servers: Vec<_> = servers.iter().map(|url| without_secrets(url)).collect();
    servers.join(", ")
}

/// A server's URL without what logs in.
pub(super) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    if scheme.is_empty() {
        place.to_owned()
    } else {
        format!("{scheme}://{place}")
    }
}

/// How connections are encrypted. The files are read whenever the node connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NatsTls {
    /// Refuse servers that don't encrypt. With `tls://` URLs that is so anyway.
    pub required: bool,
    /// Encrypt before the server says a word, as servers with `handshake_first` want it.
    pub first: bool,
    /// PEM file of the authorities that are trusted beside the system's.
    pub roots: Option<PathBuf>,
    /// PEM files of this node's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl NatsConfig {
    /// For a cluster of three servers, or `replicas: 1` for one.
    #[must_use]
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            replicas: if servers.len() > 1 { 3 } else { 1 },
            servers,
            auth: NatsAuth::None,
            tls: NatsTls::default(),
            prefix: "tombolo".to_owned(),
            log_shards: 8,
            value_shards: 4,
            lease_time: Duration::from_secs(15),
            version_min: Version::TESTED_MIN,
            request_timeout: Duration::from_secs(2),
            hold_max: Duration::from_secs(10),
            held_max: 4096,
            ping_interval: Duration::from_secs(3),
            tail_check: Duration::from_secs(2),
            leader_stale_max: Duration::from_secs(25),
            retired_time: Duration::from_hours(24),
            log_bytes_max: None,
            yielding: Vec::new(),
            events_max: 1024,
        }
    }

    /// A subject that nobody serves, which the server says at once to whoever asks.
    pub(super) fn nobody(&self) -> String {
        format!("{}.nobody", self.prefix)
    }

    pub(super) fn check(&self) -> Result<(), NatsError> {
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if self.servers.is_empty() {
            return Err(NatsError::Config("there is no server"));
        }
        if !is_name(&self.prefix) {
            return Err(NatsError::Config(
                "the prefix has other characters than letters, digits and _",
            ));
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return Err(NatsError::Config("replicas are 1, 3 or 5"));
        }
        let shards = 1..=SHARDS_MAX;
        if !shards.contains(&self.log_shards) || !shards.contains(&self.value_shards) {
            return Err(NatsError::Config("shards are 1 to 64"));
        }
        if self.lease_time < LEASE_TIME_MIN {
            return Err(NatsError::Config("leases last a second at least"));
        }
        if self.hold_max >= DEDUPLICATION {
            return Err(NatsError::Config("writes are held below 30 s"));
        }
        Ok(())
    }
}

/// Each shard is a Raft group, of which servers bear a thousand in all.
const SHARDS_MAX: usize = 64;

/// The servers count in seconds.
const LEASE_TIME_MIN: Duration = Duration::from_secs(1);

/// How long the servers recognise a repeated write: longer than writes are held, and than the longest
/// election; each id costs them about 400 bytes.
pub(super) const DEDUPLICATION: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_told() {
        for (url, told) in [
            ("nats://10.0.0.1:4222", "nats://10.0.0.1:4222"),
            ("nats://alice:p@ss@10.0.0.1:4222", "nats://10.0.0.1:4222"),
            ("tls://token@nats.example", "tls://nats.example"),
            ("alice:secret@10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(without_secrets(url), told);
        }
        let config = NatsConfig::new(vec!["nats://alice:secret@10.0.0.1".to_owned()]);
        assert!(!format!("{config:?}").contains("secret"));
    }
}
