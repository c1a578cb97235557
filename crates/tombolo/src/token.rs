//! `tombolo token`: a token for a device.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tombolo_client::{ServerUrl, development_token};
use tombolo_wire::UserId;
use tombolo_wire::token::{Claims, SigningKey};

use crate::cli::{TokenArgs, TokenFrom};
use crate::output;
use crate::serve::token_keys::{TokenKeys, is_pem};

/// Prints a token that a development node made, or makes one.
pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let TokenArgs { from, user, ttl } = args;
    let token = match from {
        TokenFrom {
            key: Some((name, path)),
            ..
        } => {
            let mint = Mint::read(&name, &path).context("--key")?;
            let ttl = Duration::from_secs(ttl);
            mint.token(&user, ttl).context("--user")?
        }
        TokenFrom {
            server: Some(server),
            ..
        } => {
            let url: ServerUrl = server.parse()?;
            development_token(&url, &user).await?
        }
        TokenFrom { .. } => anyhow::bail!("give --server or --key"),
    };
    output::line_of_text(&token)?;
    Ok(())
}

/// Makes tokens here.
pub(crate) struct Mint(SigningKey);

impl Mint {
    /// Reads a secret, as `tombolo serve --token-key` takes it.
    pub(crate) fn read(name: &str, path: &Path) -> anyhow::Result<Self> {
        let is_pem = std::fs::read(path).is_ok_and(|bytes| is_pem(&bytes));
        anyhow::ensure!(
            !is_pem,
            "{}: it is PEM, and tokens are made with a secret",
            path.display()
        );
        let mut keys = TokenKeys::default();
        keys.read(name, path)?;
        let secret = keys.secret();
        let (name, secret) =
            secret.with_context(|| format!("{}: a public key cannot sign", path.display()))?;
        Ok(Self(SigningKey::hs256(name, secret)?))
    }

    /// A token that proves that user for so long.
    pub(crate) fn token(&self, user: &str, ttl: Duration) -> anyhow::Result<String> {
        let user = UserId::parse(user)?;
        let claims = Claims::new(user, output::unix_now() + ttl);
        Ok(self.0.mint(&claims)?)
    }
}
