//! Who may come in, from a configuration file.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{Context, SHA256};
use tombolo_relay::HookConfig;
use tombolo_turn::server::{self, HookMode, Quota, TokenKey};
use tombolo_wire::token::VerifyingKey;

use super::file::{File, Hook, OAuth, Realm};
use crate::config_text::{At as _, ensure};

/// The realms of a file, the one for everybody first.
pub(super) fn realms(file: &File, directory: &Path) -> anyhow::Result<Vec<server::Realm>> {
    let mut realms: Vec<server::Realm> = Vec::new();
    for (number, realm) in file.realms.iter().enumerate() {
        let known: Vec<_> = realms.iter().map(|realm| realm.name.as_str()).collect();
        let core = check_name(&realm.name, &known)
            .at("name")
            .and_then(|()| core_realm(realm, file.hook.as_ref(), directory));
        realms.push(core.in_table("realm", number)?);
    }
    Ok(realms)
}

fn check_name(name: &str, known: &[&str]) -> anyhow::Result<()> {
    anyhow::ensure!(
        (1..=REALM_CHARS_MAX).contains(&name.chars().count()),
        "the name of a realm, its `name`, has 1 to {REALM_CHARS_MAX} characters"
    );
    anyhow::ensure!(!known.contains(&name), "realm {name} is there twice");
    Ok(())
}

fn core_realm(
    realm: &Realm,
    hook: Option<&Hook>,
    directory: &Path,
) -> anyhow::Result<server::Realm> {
    let mut core = server::Realm::new(realm.name.clone());
    let is_name = |user: &str| (1..=USERNAME_BYTES_MAX).contains(&user.len());
    let no_name = || format!("the name of a user has 1 to {USERNAME_BYTES_MAX} bytes");
    for (user, password) in &realm.users {
        ensure(is_name(user), no_name).at("users")?;
        let empty = || format!("user {user}: the password is empty");
        ensure(!password.0.is_empty(), empty).at("users")?;
        core.users.insert(user.clone(), password.0.clone());
    }
    for (user, key) in &realm.user_keys {
        ensure(is_name(user), no_name).at("user-keys")?;
        let both = || format!("user {user}: has both a password and a key");
        ensure(!realm.users.contains_key(user), both).at("user-keys")?;
        let key = md5_key(&key.0)
            .with_context(|| format!("user {user}: the key must have 32 hex digits"))
            .at("user-keys")?;
        core.users_by_key.insert(user.clone(), key);
    }
    let secrets = realm.secrets.iter().map(|secret| secret.0.clone());
    let mut secrets: Vec<String> = secrets.collect();
    for path in &realm.secret_files {
        secrets.extend(secrets_of(&directory.join(path)).at("secret-files")?);
    }
    for secret in secrets {
        let empty = || "an empty secret would let everybody in".to_owned();
        ensure(!secret.is_empty(), empty).at("secrets")?;
        core.secrets.push(secret.into_bytes());
    }
    core.secrets_separator = separator(realm.secrets_separator).at("secrets-separator")?;
    core.hook = match (realm.hook, hook) {
        (false, _) => HookMode::Off,
        (true, Some(_)) => HookMode::Unknown,
        (true, None) => {
            Err(anyhow::anyhow!("there is no `hook` that could be asked")).at("hook")?
        }
    };
    core.origins.clone_from(&realm.origins);
    core.listen.clone_from(&realm.listen);
    core.quota = Quota {
        allocations: realm.allocations,
        permissions: realm.permissions,
        channels: realm.channels,
        connections: realm.peer_connections,
        bandwidth: realm.bandwidth,
    };
    core.per_user = Quota {
        allocations: realm.allocations_per_user,
        permissions: realm.permissions_per_user,
        channels: realm.channels_per_user,
        connections: realm.peer_connections_per_user,
        bandwidth: realm.bandwidth_per_user,
    };
    core.connections_waiting_max = realm.waiting_peer_connections;
    core.bandwidth = realm.bytes_per_second.map(super::limits::bandwidth);
    for (kid, secret) in &realm.device_keys {
        let key = VerifyingKey::hs256(secret.0.as_bytes())
            .with_context(|| format!("device key {kid}"))
            .at("device-keys")?;
        core.device_keys.insert(kid, key);
    }
    core.oauth = realm.oauth.as_ref().map(oauth).transpose().at("oauth")?;
    Ok(core)
}

fn separator(given: Option<char>) -> anyhow::Result<Option<char>> {
    let is_digit = given.is_some_and(|separator| separator.is_ascii_digit());
    anyhow::ensure!(!is_digit, "a digit cannot separate a time from a name");
    Ok(given)
}

fn oauth(oauth: &OAuth) -> anyhow::Result<server::OAuth> {
    let mut core = server::OAuth::new(&oauth.server_name);
    for (kid, key) in &oauth.keys {
        let wrong = || format!("OAuth key {kid}: not 16 or 32 bytes in base64");
        let bytes = STANDARD.decode(&key.0).ok().with_context(wrong)?;
        let key = match (<[u8; 16]>::try_from(&*bytes), <[u8; 32]>::try_from(&*bytes)) {
            (Ok(key), _) => TokenKey::Aes128Gcm(key),
            (_, Ok(key)) => TokenKey::Aes256Gcm(key),
            _ => anyhow::bail!(wrong()),
        };
        core.keys.insert(kid.clone(), key);
    }
    Ok(core)
}

/// Whom to ask about users.
pub(crate) fn hook(file: &File, directory: &Path) -> anyhow::Result<Option<HookConfig>> {
    let Some(hook) = &file.hook else {
        return Ok(None);
    };
    let key = match (&hook.key, &hook.key_file) {
        (Some(key), None) => key.0.clone(),
        (None, Some(path)) => {
            let keys = secrets_of(&directory.join(path)).at("key-file")?;
            let one = || format!("{}: one key is needed", path.display());
            ensure(keys.len() == 1, one).at("key-file")?;
            keys.concat()
        }
        _ => anyhow::bail!("give either `key` or `key-file`"),
    };
    let ca = hook.ca.as_ref().map(|path| directory.join(path));
    let tls = super::tls::client(ca.as_deref()).at("ca")?;
    let mut config = HookConfig::new(hook.url.clone(), key.into_bytes(), tls);
    if let Some(seconds) = hook.timeout {
        let timeout = Duration::try_from_secs_f64(seconds).ok();
        config.timeout = timeout
            .filter(|timeout| !timeout.is_zero() && *timeout <= HOOK_TIMEOUT_MAX)
            .with_context(|| format!("the timeout is from 0 to {HOOK_TIMEOUT_MAX:?}"))
            .at("timeout")?;
    }
    config.requests_max = hook.requests.unwrap_or(config.requests_max);
    Ok(Some(config))
}

/// The key of a user whose password is not known: MD5, in hex.
fn md5_key(hex: &str) -> Option<[u8; 16]> {
    let is_hex = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = is_hex
        .then(|| u128::from_str_radix(hex, 16).ok())
        .flatten()?;
    Some(value.to_be_bytes())
}

/// The key that nodes of one fleet share, made of whatever text they are given.
pub(super) fn fleet_key(file: &File, directory: &Path) -> anyhow::Result<Option<[u8; 32]>> {
    let (text, key) = match (&file.fleet_key, &file.fleet_key_file) {
        (None, None) => return Ok(None),
        (Some(text), None) => (text.0.clone(), "fleet-key"),
        (None, Some(path)) => {
            let key = "fleet-key-file";
            (secrets_of(&directory.join(path)).at(key)?.concat(), key)
        }
        (Some(_), Some(_)) => {
            let both = "give either `fleet-key` or `fleet-key-file`";
            return Err(anyhow::anyhow!(both)).at("fleet-key");
        }
    };
    let short = || format!("the fleet's key must have at least {FLEET_KEY_BYTES_MIN} bytes");
    ensure(text.len() >= FLEET_KEY_BYTES_MIN, short).at(key)?;
    let mut context = Context::new(&SHA256);
    context.update(b"tombolo fleet key\n");
    context.update(text.as_bytes());
    let digest = context.finish();
    Ok(digest.as_ref().try_into().ok())
}

/// Secrets in a file, one a line; empty lines are nothing.
fn secrets_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("{}: cannot read the secrets", path.display()))?;
    let secrets: Vec<_> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    anyhow::ensure!(
        !secrets.is_empty(),
        "{}: there is no secret in it",
        path.display()
    );
    Ok(secrets)
}

/// As many as a key of 128 bits.
const FLEET_KEY_BYTES_MIN: usize = 16;
/// RFC 8489 §14.9: fewer than 128.
const REALM_CHARS_MAX: usize = 127;
/// RFC 8489 §14.3: fewer than 509.
const USERNAME_BYTES_MAX: usize = 508;
/// Shorter than the time for which requests wait for an answer.
const HOOK_TIMEOUT_MAX: Duration = Duration::from_secs(5);
