//! `tombolo api-key`: a key for a game server.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Serialize;
use tombolo_node::{ApiKey, Scope};

use crate::output::{Style, json, line_of_text};

#[derive(Debug, Args)]
#[command(
    after_help = "Example: tombolo api-key --name lobby --scope rooms:read --scope rooms:send"
)]
pub(crate) struct ApiKeyArgs {
    /// What logs call the key
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// What it allows; repeat it for more: rooms:read, messages:read, rooms:create, rooms:send,
    /// rooms:set, rooms:kick, notices:send, pools:read, fields:put, groups:read, groups:end
    #[arg(long, value_name = "SCOPE", value_parser = scope, required = true)]
    scope: Vec<Scope>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    ApiKey {
        name: &'a str,
        key: &'a str,
        sha256: &'a str,
        scopes: &'a [&'static str],
    },
}

/// Makes a key, and prints it with what a node's file is to say of it.
pub(crate) fn run(args: &ApiKeyArgs) -> anyhow::Result<()> {
    let mut secret = [0; 32];
    let filled = SystemRandom::new().fill(&mut secret);
    anyhow::ensure!(filled.is_ok(), "the system gives no random numbers");
    let key = URL_SAFE_NO_PAD.encode(secret);
    let sha256 = hex(&ApiKey::hash(&key));
    let scopes: Vec<_> = args.scope.iter().map(|scope| scope.as_str()).collect();
    if let Style::Json = Style::of(args.json) {
        return Ok(json(&Event::ApiKey {
            name: &args.name,
            key: &key,
            sha256: &sha256,
            scopes: &scopes,
        })?);
    }
    line_of_text(&format!(
        "The key, which only your server needs:\n\n  {key}\n"
    ))?;
    line_of_text("In the node's file:\n")?;
    line_of_text(&format!(
        "  [[api-key]]\n  name = {:?}\n  sha256 = \"{sha256}\"\n  scopes = {scopes:?}",
        args.name
    ))?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn scope(text: &str) -> Result<Scope, String> {
    let words: Vec<_> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
    Scope::parse(text).ok_or_else(|| format!("not one of {}", words.join(", ")))
}
