//! The configuration file of `tombolo serve`, as it is written. [`super::settings`] makes sense of it.
//!
//! Every key is documented in `docs/node.md`. Unknown keys are refused, since a key that is misspelt
//! is a limit that does not hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::token_keys::is_pem;
use crate::turn::file::{File as Relay, Secret};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct File {
    pub(crate) name: Option<String>,
    pub(crate) region: Option<String>,
    /// Sessions from which on newcomers are sent to idler nodes.
    pub(crate) spread_from: Option<usize>,
    pub(crate) listen: Vec<IpAddr>,
    pub(crate) public: Option<IpAddr>,
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) turn_port: Option<u16>,
    pub(crate) turns_port: Option<u16>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) admin: Option<PathBuf>,
    /// In seconds.
    pub(crate) drain_timeout: Option<u64>,
    /// Where rooms are kept on this machine.
    pub(crate) data: Option<PathBuf>,
    /// Rules of the matchmaker's pools: files, and folders of them.
    pub(crate) pools: Vec<PathBuf>,
    /// Rules of pools in the file itself; they are read from its text, which knows where they stand.
    #[serde(rename = "pool")]
    pub(crate) pool_tables: Vec<toml::Table>,
    pub(crate) tls: Tls,
    /// Files with the keys of device tokens, by their names.
    pub(crate) token_keys: BTreeMap<String, PathBuf>,
    #[serde(rename = "api-key")]
    pub(crate) api_keys: Vec<ApiKeyTable>,
    pub(crate) webhook: Option<Webhook>,
    pub(crate) hooks: Option<Hooks>,
    pub(crate) connections: Connections,
    pub(crate) sessions: Sessions,
    pub(crate) social: Social,
    pub(crate) fields: Fields,
    pub(crate) nats: Nats,
    pub(crate) relay: Relay,
}

impl File {
    /// The files that are named for the secrets in them; those of the relay are seen from `folder`, all others as
    /// they are.
    pub(crate) fn secret_files(&self, folder: &Path) -> Vec<PathBuf> {
        // Public keys are no secrets.
        let is_secret = |path: &&PathBuf| std::fs::read(path).is_ok_and(|bytes| !is_pem(&bytes));
        let nats = &self.nats;
        let one = [
            &self.tls.key,
            &nats.creds,
            &nats.nkey,
            &nats.secret,
            &nats.key,
        ];
        let named = self.token_keys.values().filter(is_secret);
        let named = named.chain(&nats.seal).chain(one.into_iter().flatten());
        let webhook = self.webhook.iter().filter_map(|one| one.key_file.as_ref());
        let hooks = self.hooks.iter().filter_map(|one| one.key_file.as_ref());
        let of_game = webhook.chain(hooks).map(|path| folder.join(path));
        let of_relay = self.relay.secret_files(folder).into_iter();
        named.cloned().chain(of_game).chain(of_relay).collect()
    }

    /// Whether there are secrets in the file itself.
    pub(crate) fn has_secrets(&self) -> bool {
        let webhook = self.webhook.as_ref().and_then(|one| one.key.as_ref());
        let hooks = self.hooks.as_ref().and_then(|one| one.key.as_ref());
        webhook.or(hooks).is_some() || self.relay.has_secrets()
    }
}

/// What the node proves itself with.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Tls {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    /// Whether devices are told which certificate it is, instead of having the web vouch for it.
    pub(crate) pin: bool,
}

/// A key of the HTTP API for game servers, known by its hash.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ApiKeyTable {
    pub(crate) name: String,
    pub(crate) sha256: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) requests_per_second: Option<u32>,
}

/// An HTTP server that is told what happens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Webhook {
    pub(crate) url: String,
    pub(crate) key: Option<Secret>,
    pub(crate) key_file: Option<PathBuf>,
    /// Whom to trust instead of those whom the web trusts.
    pub(crate) ca: Option<PathBuf>,
    /// In seconds.
    pub(crate) timeout: Option<f64>,
    /// Whether it is told what is said durably.
    #[serde(default)]
    pub(crate) messages: bool,
}

/// An HTTP server that is asked before something happens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Hooks {
    pub(crate) url: String,
    /// About what.
    pub(crate) ask: Vec<String>,
    pub(crate) key: Option<Secret>,
    pub(crate) key_file: Option<PathBuf>,
    /// Whom to trust instead of those whom the web trusts.
    pub(crate) ca: Option<PathBuf>,
    /// In seconds.
    pub(crate) timeout: Option<f64>,
    /// Under way at once.
    pub(crate) requests: Option<usize>,
}

/// How many connections there may be, and how fast they come.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Connections {
    pub(crate) connections: Option<usize>,
    pub(crate) per_source: Option<usize>,
    pub(crate) opening: Option<usize>,
    pub(crate) opening_per_source: Option<usize>,
    pub(crate) handshakes_per_second: Option<u32>,
    pub(crate) handshakes_per_second_per_source: Option<u32>,
}

/// How sessions are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Sessions {
    pub(crate) sessions: Option<usize>,
    pub(crate) per_user: Option<usize>,
    pub(crate) duplicates: Option<String>,
    pub(crate) rooms: Option<usize>,
    /// In seconds, as those that follow.
    pub(crate) resume_window: Option<f64>,
    pub(crate) drop_after: Option<f64>,
    pub(crate) presence_grace: Option<f64>,
    pub(crate) frames_per_second: Option<u32>,
    pub(crate) bytes_per_second: Option<u32>,
}

/// How much users may say that is kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Social {
    pub(crate) groups_per_user: Option<usize>,
    pub(crate) group_bytes: Option<u64>,
    pub(crate) messages_per_second: Option<u32>,
    pub(crate) message_bytes_per_second: Option<u32>,
}

/// How fields are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Fields {
    pub(crate) dimensions: Option<u8>,
    pub(crate) batches_per_second: Option<u32>,
    pub(crate) budget: Option<usize>,
    pub(crate) hysteresis: Option<f64>,
    /// In seconds.
    pub(crate) silence: Option<u64>,
    pub(crate) cell: Option<f64>,
    pub(crate) split_above: Option<usize>,
    pub(crate) entities: Option<usize>,
    pub(crate) fields: Option<usize>,
    pub(crate) per_session: Option<usize>,
    pub(crate) per_device: Option<usize>,
    pub(crate) things: Option<usize>,
    pub(crate) reports_per_second: Option<u32>,
    #[serde(rename = "class")]
    pub(crate) classes: Vec<FieldClass>,
    pub(crate) sight: Vec<FieldSight>,
}

/// Who sees whom in fields.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct FieldSight {
    pub(crate) of: u64,
    pub(crate) same: u64,
    pub(crate) at_least: u64,
    pub(crate) by: u64,
}

/// A kind of entities.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FieldClass {
    pub(crate) range: f64,
    pub(crate) weight: Option<f64>,
    pub(crate) linked_within: Option<f64>,
    pub(crate) devices: Option<FieldClassUse>,
}

/// What devices may do with a kind of entities.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FieldClassUse {
    Enter,
    Put,
    Any,
    None,
}

/// Where the nodes of a cluster keep what they share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Nats {
    pub(crate) servers: Vec<String>,
    pub(crate) replicas: Option<usize>,
    pub(crate) log_bytes: Option<u64>,
    pub(crate) prefix: Option<String>,
    pub(crate) creds: Option<PathBuf>,
    pub(crate) nkey: Option<PathBuf>,
    pub(crate) secret: Option<PathBuf>,
    pub(crate) seal: Vec<PathBuf>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_text;

    #[test]
    fn every_key_is_documented_and_the_example_is_right() {
        let docs = include_str!("../../../../docs/node.md");
        let example = docs.split("```toml\n").nth(1).expect("there is one");
        let example = example.split("```").next().expect("it ends");
        config_text::parse::<File>(example).expect("it is right");
        for table in [
            "",
            "[tls]\n",
            "[nats]\n",
            "[[api-key]]\n",
            "[webhook]\n",
            "[hooks]\n",
            "[connections]\n",
            "[sessions]\n",
            "[social]\n",
            "[fields]\n",
            "[[fields.class]]\n",
        ] {
            // serde tells what it knows when it finds what it does not know.
            let text = format!("{table}no-such-key = 1\n");
            let complaint = config_text::parse::<File>(&text).expect_err("it is wrong");
            let complaint = complaint.to_string();
            let keys: Vec<_> = complaint.split('`').skip(3).step_by(2).collect();
            assert!(keys.len() > 1, "{table}: {complaint}");
            for key in keys {
                let quoted = [
                    format!("`{key}`"),
                    format!("`[{key}]`"),
                    format!("`[[{key}]]`"),
                ];
                let is_there = quoted.iter().any(|key| docs.contains(key));
                assert!(is_there, "{table}{key}");
            }
        }
    }
}
