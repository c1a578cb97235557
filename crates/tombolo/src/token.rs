//! `tombolo token`: a token for a device.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tombolo_client::{ServerUrl, development_token};
use tombolo_wire::UserId;
use tombolo_wire::token::{Claims, SigningKey};

use crate::cli::{TokenArgs, TokenFrom};
use crate::output;
use crate::serve::token_keys::TokenKeys;

/// Prints a token that a development node made, or makes one.
pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let TokenArgs { from, user, ttl } = args;
    let token = match from {
        TokenFrom {
            key: Some((name, path)),
            ..
        } => mint(&name, &path, &user, Duration::from_secs(ttl))?,
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

fn mint(name: &str, path: &Path, user: &str, ttl: Duration) -> anyhow::Result<String> {
    let mut keys = TokenKeys::default();
    keys.read(name, path).context("--key")?;
    let secret = keys.secret();
    let (name, secret) =
        secret.with_context(|| format!("{}: a public key cannot sign", path.display()))?;
    let user = UserId::parse(user).context("--user")?;
    let claims = Claims::new(user, output::unix_now() + ttl);
    Ok(SigningKey::hs256(name, secret)?.mint(&claims)?)
}
