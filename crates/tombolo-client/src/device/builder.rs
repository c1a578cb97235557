//! How a device connects.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tombolo_wire::ServerUrl;

use super::Device;
use crate::error::Error;
use crate::session::{Credential, Issuer, Patience};

/// How a device connects; see [`Device::builder`].
#[derive(Debug)]
pub struct DeviceBuilder {
    url: String,
    credential: Credential,
    patience: Patience,
    nearer_within: Option<Duration>,
}

/// How long a silent connection is borne with, unless the application says otherwise.
const PATIENCE: Duration = Duration::from_secs(6);
const PATIENCE_MIN: Duration = Duration::from_millis(300);
const PATIENCE_MAX: Duration = Duration::from_secs(60);
/// About how long a device takes to go to a nearer node, unless the application says otherwise.
const NEARER_WITHIN: Duration = Duration::from_secs(60);
const NEARER_WITHIN_MIN: Duration = Duration::from_secs(1);
const NEARER_WITHIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl DeviceBuilder {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            credential: Credential::default(),
            patience: Patience(PATIENCE),
            nearer_within: Some(NEARER_WITHIN),
        }
    }

    /// Proves the user by a token that the application's server signed. It expires: see
    /// [`Self::token_source`], and [`Device::set_token`].
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credential.token = Some(token.into());
        if matches!(self.credential.issuer, Issuer::Development(_)) {
            self.credential.issuer = Issuer::Nobody;
        }
        self
    }

    /// Where the device gets its next token: asked before the one that it has expires, or when a node has
    /// refused that, and at first unless there is a [`token`](Self::token). The application asks its
    /// server, and has 10 s for it, in a task of its own; when it fails it is asked again later. It should not block:
    /// that keeps a thread of the runtime, and all of a runtime that has no other.
    ///
    /// ```no_run
    /// # async fn example(url: &str) -> Result<(), tombolo_client::Error> {
    /// # async fn ask_our_server() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let device = tombolo_client::Device::builder(url).token_source(ask_our_server).connect().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn token_source<F, R, E>(mut self, source: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: std::fmt::Display,
    {
        let source = move || -> Pin<Box<dyn Future<Output = _> + Send>> {
            let asked = source();
            Box::pin(async move { asked.await.map_err(|error| error.to_string()) })
        };
        self.credential.issuer = Issuer::Source(Arc::new(source));
        self
    }

    /// Lets a node in development mode make the tokens.
    #[must_use]
    pub fn development_user(mut self, user: impl Into<String>) -> Self {
        self.credential.issuer = Issuer::Development(user.into());
        self
    }

    /// After how long a silence the connection to the node is given up; 6 s unless said otherwise,
    /// 300 ms to 60 s. After a sixth of it, but no less than 300 ms, another node is tried beside the
    /// silent one, and the session goes on over whichever answers first. A device that hears nothing
    /// sends a packet ten times in that time: more saves battery, less finds a dead node sooner.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Patience(patience.clamp(PATIENCE_MIN, PATIENCE_MAX));
        self
    }

    /// About how long the device takes to go to another node of the cluster that is clearly nearer: three measurements
    /// in a row must find that a round trip there takes 20 ms and 30 % less, and the node must take newcomers. The
    /// session goes over with all that it has, and nobody notices. Then the device stays for ten times as long. 60 s
    /// unless said otherwise, 1 s at least and a day at most; `None`: it stays until its node sends it away.
    #[must_use]
    pub fn nearer_within(mut self, within: Option<Duration>) -> Self {
        self.nearer_within =
            within.map(|within| within.clamp(NEARER_WITHIN_MIN, NEARER_WITHIN_MAX));
        self
    }

    /// Opens the session and finds out what peers will need: public addresses and a relayed one.
    ///
    /// # Errors
    /// When the URL is wrong, the node cannot be reached over UDP or TCP, or refuses the token.
    pub async fn connect(self) -> Result<Device, Error> {
        let url: ServerUrl = self.url.parse().map_err(Error::local)?;
        if self.credential.token.is_none() && matches!(self.credential.issuer, Issuer::Nobody) {
            return Err(Error::token("give the builder a token or a user"));
        }
        Device::open(url, self.credential, self.patience, self.nearer_within).await
    }
}
