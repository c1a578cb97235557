//! Which server is asked, and about what.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::post::{Place, PostError};

/// An HTTP server of the game that is asked before something happens on the node.
#[derive(Clone)]
#[non_exhaustive]
pub struct HttpHooksConfig {
    /// Where questions are posted; without TLS only on this machine.
    pub url: String,
    /// The key that signs them, at least 16 bytes.
    pub key: Vec<u8>,
    /// Whom to trust over TLS.
    pub tls: Arc<rustls::ClientConfig>,
    /// About what it is asked; all else passes.
    pub questions: BTreeSet<HookQuestion>,
    /// How long an answer may take, connecting included. 2 s by default; with more than
    /// [`HttpHooksConfig::TIMEOUT_MAX`] the services give up first.
    pub timeout: Duration,
    /// Questions under way at once, and as many commands beside them, each of which may take a connection; further
    /// ones are refused. 256 by default. One user has a quarter of them at most, or 32 where that is more.
    pub requests_max: usize,
}

impl HttpHooksConfig {
    /// Nobody waits longer for an answer: the services wait for hooks of all kinds together only a second more.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(4);

    /// Makes a configuration with the default bounds.
    pub fn new(
        url: impl Into<String>,
        key: Vec<u8>,
        tls: Arc<rustls::ClientConfig>,
        questions: impl IntoIterator<Item = HookQuestion>,
    ) -> Self {
        Self {
            url: url.into(),
            key,
            tls,
            questions: questions.into_iter().collect(),
            timeout: Duration::from_secs(2),
            requests_max: 256,
        }
    }

    /// Checks the URL and the key.
    ///
    /// # Errors
    /// Says what is wrong with one of them.
    pub fn check(&self) -> Result<(), PostError> {
        self.place().map(drop)
    }

    pub(super) fn place(&self) -> Result<Place, PostError> {
        Place::new(&self.url, &self.key)
    }
}

impl fmt::Debug for HttpHooksConfig {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpHooksConfig")
            .field("url", &self.url)
            .field("questions", &self.questions)
            .finish_non_exhaustive()
    }
}

/// What a server can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HookQuestion {
    /// Whether a user may come into a room, or open it.
    Join,
    /// As what a ticket goes on to its pool, if it does.
    Ticket,
    /// Whether a user may come into a field, and what it is marked with there.
    Field,
    /// What answers a device's command.
    Command,
}

impl HookQuestion {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Join, Self::Ticket, Self::Field, Self::Command];

    /// The word for it in configurations, questions and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Ticket => "ticket",
            Self::Field => "field",
            Self::Command => "command",
        }
    }

    /// Reads that word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}
