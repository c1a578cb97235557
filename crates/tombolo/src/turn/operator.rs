//! A running server, as its operators see it.

use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use tombolo_relay::{Certificates, Relay, ReloadError};
use tracing::{info, warn};

use super::admin::api::Left;
use super::args::ServerArgs;
use super::import::Machine;
use super::settings::{AtStart, Settings};
use crate::metrics::Source;

/// The server and what is needed to configure it anew.
pub(crate) struct Operator {
    pub(crate) relay: Relay,
    args: ServerArgs,
    at_start: AtStart,
    /// As it was at the start: what listens at addresses that no file names goes on there.
    machine: Machine,
    certificates: Option<Certificates>,
    /// Those of the start, as what listens there is that of the start.
    own_ports: Vec<u16>,
    /// Held while a configuration is taken over, one at a time.
    reloading: Mutex<()>,
}

impl Operator {
    /// Starts the server.
    pub(crate) fn start(
        settings: Settings,
        args: ServerArgs,
        machine: Machine,
    ) -> anyhow::Result<Self> {
        let certificates = settings.relay.tls.clone();
        let own_ports = settings.relay.own_ports.clone();
        Ok(Self {
            own_ports,
            relay: Relay::bind(settings.relay)?,
            args,
            at_start: settings.at_start,
            machine,
            certificates,
            reloading: Mutex::new(()),
        })
    }

    /// Reads the configuration again, all of it, and takes it over if all of it is right. Blocks.
    ///
    /// # Errors
    /// Says why it keeps the configuration that it has.
    pub(crate) fn reload(&self) -> anyhow::Result<()> {
        let _one_at_a_time = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let result = self.try_reload();
        match &result {
            Ok(unchanged) if !unchanged.is_empty() => warn!(
                "the configuration was read again, but only a restart changes {}",
                unchanged.join(", ")
            ),
            Ok(_) => info!("the configuration was read again"),
            Err(error) => warn!(error = format!("{error:#}"), "kept the configuration"),
        }
        result.map(drop)
    }

    /// Names what has changed and is not taken over.
    fn try_reload(&self) -> anyhow::Result<Vec<&'static str>> {
        let settings = Settings::load(&self.args, &self.machine)?;
        let unchanged = self.at_start.differs(&settings.at_start);
        let mut config = settings.relay;
        config.own_ports.clone_from(&self.own_ports);
        let reloaded = self.relay.reload(&config);
        let needs_restart = matches!(reloaded, Err(ReloadError::NeedsRestart(_)));
        // One that runs out does not wait for a restart.
        if (reloaded.is_ok() || needs_restart)
            && let (Some(certificates), Some(new)) = (&self.certificates, &config.tls)
        {
            certificates.replace(new);
            reloaded.context("took the certificate over and nothing else")?;
        } else {
            reloaded?;
        }
        Ok(unchanged)
    }

    /// How many allocations there are, and whether there will be others. Blocks.
    pub(crate) fn left(&self) -> Left {
        let stats = self.relay.stats();
        let shards = stats.shards.iter();
        Left {
            draining: shards.clone().any(|shard| shard.turn.draining > 0),
            allocations: shards.map(|shard| shard.turn.allocations).sum(),
            silent_shards: stats.silent_shards,
        }
    }
}

impl Source for Operator {
    fn metrics(&self) -> String {
        self.relay.stats().to_open_metrics()
    }

    fn readiness(&self) -> Result<(), String> {
        self.relay.check().map_err(|broken| broken.to_string())?;
        match self.left() {
            Left { draining: true, .. } => Err("it is being drained".to_owned()),
            Left {
                silent_shards: 0, ..
            } => Ok(()),
            Left { silent_shards, .. } => Err(format!("{silent_shards} shards do not answer")),
        }
    }
}
