//! A running server, as its operators see it.

use std::sync::{Arc, Mutex, PoisonError};

use tombolo_relay::Relay;
use tracing::{info, warn};

use super::admin::api::Left;
use super::args::ServerArgs;
use super::settings::Settings;
use super::tls::Certificate;
use crate::metrics::Source;

/// The server and what is needed to configure it anew.
pub(crate) struct Operator {
    pub(crate) relay: Relay,
    args: ServerArgs,
    certificate: Option<Arc<Certificate>>,
    /// Held while a configuration is taken over, one at a time.
    reloading: Mutex<()>,
}

impl Operator {
    /// Starts the server.
    pub(crate) fn start(settings: Settings, args: ServerArgs) -> anyhow::Result<Self> {
        let mut config = settings.relay;
        let certificate = settings.certified.map(Certificate::new);
        if let Some(certificate) = &certificate {
            config.tls = Some(certificate.server_config()?);
        }
        Ok(Self {
            relay: Relay::bind(config)?,
            args,
            certificate,
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
            Ok(()) => info!("the configuration was read again"),
            Err(error) => warn!(error = format!("{error:#}"), "kept the configuration"),
        }
        result
    }

    fn try_reload(&self) -> anyhow::Result<()> {
        let settings = Settings::load(&self.args)?;
        let mut config = settings.relay;
        if let Some(certificate) = &self.certificate
            && settings.certified.is_some()
        {
            config.tls = Some(certificate.server_config()?);
        }
        anyhow::ensure!(
            self.certificate.is_some() == settings.certified.is_some(),
            "only a restart changes whether there is TLS"
        );
        self.relay.reload(&config)?;
        if let (Some(certificate), Some(certified)) = (&self.certificate, settings.certified) {
            certificate.replace(certified);
        }
        Ok(())
    }

    /// How many allocations there are, and whether there will be others. Blocks.
    pub(crate) fn left(&self) -> Left {
        let stats = self.relay.stats();
        let shards = stats.shards.iter();
        Left {
            draining: shards.clone().any(|shard| shard.turn.draining > 0),
            allocations: shards.map(|shard| shard.turn.allocations).sum(),
        }
    }
}

impl Source for Operator {
    fn metrics(&self) -> String {
        self.relay.stats().to_open_metrics()
    }

    fn is_ready(&self) -> bool {
        !self.left().draining
    }
}
