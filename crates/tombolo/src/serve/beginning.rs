//! How a node was started: where each setting comes from, and which of them no reload changes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tombolo_node::{NodeBuilder, StartError};

use super::settings::Settings;
use super::source::Source;
use crate::cli::ServeArgs;

/// How a node was started.
pub(super) struct Beginning {
    pub(super) args: ServeArgs,
    source: Source,
    pub(super) admin: Option<PathBuf>,
    pub(super) metrics: Option<SocketAddr>,
    pub(super) drain_timeout: Duration,
}

impl Beginning {
    /// And what is to be started.
    pub(super) fn of(settings: Settings, args: ServeArgs) -> (Self, NodeBuilder) {
        let beginning = Self {
            args,
            source: settings.source,
            admin: settings.admin,
            metrics: settings.metrics,
            drain_timeout: settings.drain_timeout,
        };
        (beginning, settings.node)
    }

    /// The keys that say something else now, and that only a restart changes.
    pub(super) fn differs(&self, settings: &Settings) -> Vec<&'static str> {
        let parts = [
            ("admin", self.admin == settings.admin),
            ("metrics", self.metrics == settings.metrics),
            (
                "drain-timeout",
                self.drain_timeout == settings.drain_timeout,
            ),
        ];
        let differs = parts.into_iter().filter(|(_, is_same)| !is_same);
        differs.map(|(name, _)| name).collect()
    }

    pub(super) fn place_of_admin(&self) -> String {
        let is_given = self.args.admin.is_some();
        self.source.origin("admin", "--admin", is_given)
    }

    pub(super) fn place_of_metrics(&self) -> String {
        let is_given = self.args.metrics.is_some();
        self.source.origin("metrics", "--metrics", is_given)
    }

    /// Says which flag, or line of the file, it is about that a node does not start.
    pub(super) fn placed(&self, error: StartError) -> anyhow::Error {
        let args = &self.args;
        let (key, flag, is_given) = if matches!(error, StartError::Nats(_)) {
            ("nats", "--nats", !args.nats.nats.is_empty())
        } else if matches!(error, StartError::Data { .. }) {
            ("data", "--data", args.data.is_some())
        } else if matches!(error, StartError::Public { .. }) {
            ("public", "--public", args.public.is_some())
        } else {
            return error.into();
        };
        anyhow::Error::new(error).context(self.source.origin(key, flag, is_given))
    }
}
