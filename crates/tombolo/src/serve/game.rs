//! The game's own server: what it is told, and what it is asked. In the words of the hook of a TURN server.

use std::time::Duration;

use tombolo_node::{HookQuestion, HttpHooksConfig, PostError, WebhookConfig};
use tombolo_relay::HookConfig;

use super::file::{File, Hooks, Webhook};
use super::source::Source;
use crate::config_text::At as _;
use crate::turn::credentials::hook;
use crate::turn::file::{File as Relay, Hook};

/// Who is told what happens.
pub(super) fn webhook(file: &File, source: &Source) -> anyhow::Result<Option<WebhookConfig>> {
    let Some(given) = &file.webhook else {
        return Ok(None);
    };
    let server = server("webhook", Hook::from(given), source)?;
    let mut config = WebhookConfig::new(server.url, server.key, server.tls);
    if given.timeout.is_some() {
        config.timeout = server.timeout;
    }
    config.messages = given.messages;
    let checked = config.check();
    checked.map_err(|error| misplaced(&error, "webhook", given.key_file.is_some(), source))?;
    Ok(Some(config))
}

/// Who is asked, and about what.
pub(super) fn hooks(file: &File, source: &Source) -> anyhow::Result<Option<HttpHooksConfig>> {
    let Some(given) = &file.hooks else {
        return Ok(None);
    };
    let server = server("hooks", Hook::from(given), source)?;
    let mut config = HttpHooksConfig::new(
        server.url,
        server.key,
        server.tls,
        questions(given, source)?,
    );
    if given.timeout.is_some() {
        config.timeout = within(server.timeout, source)?;
    }
    if let Some(requests) = given.requests {
        anyhow::ensure!(
            (1..=REQUESTS_MAX).contains(&requests),
            "{}: from 1 to {REQUESTS_MAX}",
            source.place(&["hooks", "requests"])
        );
        config.requests_max = requests;
    }
    let checked = config.check();
    checked.map_err(|error| misplaced(&error, "hooks", given.key_file.is_some(), source))?;
    Ok(Some(config))
}

fn within(timeout: Duration, source: &Source) -> anyhow::Result<Duration> {
    let most = HttpHooksConfig::TIMEOUT_MAX;
    anyhow::ensure!(
        timeout <= most,
        "{}: the timeout is from 0 to {most:?}",
        source.place(&["hooks", "timeout"])
    );
    Ok(timeout)
}

fn questions(given: &Hooks, source: &Source) -> anyhow::Result<Vec<HookQuestion>> {
    let place = || source.place(&["hooks", "ask"]);
    let all = HookQuestion::ALL.map(HookQuestion::as_str).join(", ");
    anyhow::ensure!(
        !given.ask.is_empty(),
        "{}: name what it is asked: {all}",
        place()
    );
    let words = given.ask.iter();
    let questions = words.map(|word| {
        let question = HookQuestion::parse(word);
        question.ok_or_else(|| anyhow::anyhow!("{}: there is no {word:?}, but {all}", place()))
    });
    questions.collect()
}

fn server(table: &'static str, given: Hook, source: &Source) -> anyhow::Result<HookConfig> {
    let alike = Relay {
        hook: Some(given),
        ..Relay::default()
    };
    let hook = hook(&alike, source.folder()).at(table);
    let hook = hook.map_err(|error| source.placed(error))?;
    hook.ok_or_else(|| anyhow::anyhow!("{}: it is empty", source.place(&[table])))
}

/// What is wrong, and where.
fn misplaced(error: &PostError, table: &str, has_file: bool, source: &Source) -> anyhow::Error {
    let key = match error {
        PostError::Key if has_file => "key-file",
        PostError::Key => "key",
        PostError::Url | PostError::NotPrivate | _ => "url",
    };
    anyhow::anyhow!("{}: {error}", source.place(&[table, key]))
}

impl From<&Webhook> for Hook {
    fn from(given: &Webhook) -> Self {
        Self {
            url: given.url.clone(),
            key: given.key.clone(),
            key_file: given.key_file.clone(),
            ca: given.ca.clone(),
            timeout: given.timeout,
            requests: None,
        }
    }
}

impl From<&Hooks> for Hook {
    fn from(given: &Hooks) -> Self {
        Self {
            url: given.url.clone(),
            key: given.key.clone(),
            key_file: given.key_file.clone(),
            ca: given.ca.clone(),
            timeout: given.timeout,
            requests: given.requests,
        }
    }
}

/// More connections than any game's server likes.
const REQUESTS_MAX: usize = 4096;
