//! How a node comes to its NATS servers, and with which secrets.

use std::path::Path;

use anyhow::Context as _;
use tombolo_node::{NatsAuth, NatsConfig, SealKey};

use super::file::Nats;
use super::source::Source;

/// `None` when nothing is said of them.
pub(super) fn config(given: &Nats, source: &Source) -> anyhow::Result<Option<NatsConfig>> {
    if *given == Nats::default() {
        return Ok(None);
    }
    anyhow::ensure!(
        !given.servers.is_empty(),
        "{}: there are no `servers`: give their URLs, or --nats URL",
        source.place(&["nats"])
    );
    let mut config = NatsConfig::new(given.servers.clone());
    if let Some(replicas) = given.replicas {
        config.replicas = replicas;
    }
    if let Some(bytes) = given.log_bytes {
        anyhow::ensure!(
            bytes >= LOG_BYTES_MIN,
            "{}: at least {LOG_BYTES_MIN}",
            source.place(&["nats", "log-bytes"])
        );
        config.log_bytes_max = Some(bytes);
    }
    if let Some(prefix) = &given.prefix {
        config.prefix.clone_from(prefix);
    }
    config.auth = match (&given.creds, &given.nkey, &given.secret) {
        (None, None, None) => NatsAuth::None,
        (Some(path), None, None) => NatsAuth::Credentials(read(path, &["nats", "creds"], source)?),
        (None, Some(path), None) => NatsAuth::Nkey(secret(path, &["nats", "nkey"], source)?),
        (None, None, Some(path)) => {
            let secret = secret(path, &["nats", "secret"], source)?;
            match secret.split_once(':') {
                Some((name, password)) => NatsAuth::User {
                    name: name.to_owned(),
                    password: password.to_owned(),
                },
                None => NatsAuth::Token(secret),
            }
        }
        _ => anyhow::bail!(
            "{}: give one of `creds`, `nkey` and `secret`",
            source.place(&["nats"])
        ),
    };
    if let Some(path) = &given.ca {
        config.tls.roots = Some(path.clone());
        config.tls.required = true;
    }
    match (&given.certificate, &given.key) {
        (Some(certificate), Some(key)) => {
            config.tls.certificate = Some((certificate.clone(), key.clone()));
            config.tls.required = true;
        }
        (None, None) => {}
        _ => anyhow::bail!(
            "{}: a certificate needs its key, and a key its certificate",
            source.place(&["nats"])
        ),
    }
    Ok(Some(config))
}

/// With which what is kept there is sealed.
pub(super) fn seal_key(path: &Path, source: &Source) -> anyhow::Result<SealKey> {
    let key = ["nats", "seal"];
    let secret = secret(path, &key, source)?;
    let place = || format!("{}: {}", source.place(&key), path.display());
    SealKey::new(secret.as_bytes()).with_context(place)
}

/// What a file says, without the line's end. Secrets are no arguments: everybody sees those.
fn secret(path: &Path, key: &[&str], source: &Source) -> anyhow::Result<String> {
    Ok(read(path, key, source)?.trim().to_owned())
}

/// What a file says, which is something.
fn read(path: &Path, key: &[&str], source: &Source) -> anyhow::Result<String> {
    let place = || format!("{}: {}", source.place(key), path.display());
    let text =
        std::fs::read_to_string(path).with_context(|| format!("{}: cannot read it", place()))?;
    anyhow::ensure!(!text.trim().is_empty(), "{}: it is empty", place());
    Ok(text)
}

/// Less than that some rooms fill.
const LOG_BYTES_MIN: u64 = 64 * 1024 * 1024;
