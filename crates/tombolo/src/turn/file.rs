//! The configuration file of `tombolo turn`, as it is written. [`super::settings`] makes sense of it.
//!
//! Every key is documented in `docs/turn-server.md`. Unknown keys are refused, since a key that is
//! misspelt is a limit that does not hold.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tombolo_node::Cidr;

use super::args::IoArg;
use crate::config_text;

/// The whole file. Its tables come last, as TOML wants them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct File {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) listen: Vec<Listen<3478>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) listen_udp: Vec<Listen<3479>>,
    /// Whether STUN and TURN are served over UDP without DTLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plain_udp: Option<bool>,
    /// Whether STUN and TURN are served over TCP without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plain_tcp: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) relay_ip: Vec<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) public_ip: Vec<PublicIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relay_ports: Option<Ports>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) relay_tcp: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) proxy_protocol: Vec<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mobility: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fleet_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fleet_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offer_sha256: Option<Sha256>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nonce_lifetime: Option<u64>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocation_lifetime: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shards: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) io: Option<IoArg>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admin: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_timeout: Option<u64>,
    /// Servers for newcomers meanwhile.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) drain_to: Vec<SocketAddr>,
    /// The name in their certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drain_domain: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) tls: Tls,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hook: Option<Hook>,
    #[serde(rename = "realm", skip_serializing_if = "Vec::is_empty")]
    pub(crate) realms: Vec<Realm>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) peers: Peers,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) limits: Limits,
}

/// To whom SHA-256 is offered as password algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sha256 {
    Never,
    /// To clients over TCP, TLS and DTLS.
    WhereProven,
    Always,
}

/// Certificates and where they are used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Tls {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) listen: Vec<Listen<5349>>,
    /// Whether DTLS is served too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dtls: Option<bool>,
}

/// Who may come in under one name. The first one is for all clients that no other one is for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Realm {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<Secret>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) secret_files: Vec<PathBuf>,
    /// What stands between expiry and name in time-limited usernames, if it is no colon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secrets_separator: Option<char>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) users: BTreeMap<String, Secret>,
    /// MD5 over name, realm and password, in hex, where the password is not known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) user_keys: BTreeMap<String, Secret>,
    /// Whether the hook is asked about users that nothing here knows.
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) hook: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) origins: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) listen: Vec<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocations: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocations_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permissions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permissions_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channels: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channels_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_connections_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_peer_connections: Option<usize>,
    /// Payload of an allocation in each direction, in place of what `limits` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_second: Option<u32>,
    /// Of all allocations together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_per_user: Option<u64>,
    /// Secrets of device tokens (HS256), by the name of the key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) device_keys: BTreeMap<String, Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) oauth: Option<OAuth>,
}

impl Realm {
    fn has_secrets(&self) -> bool {
        !self.users.is_empty()
            || !self.user_keys.is_empty()
            || !self.secrets.is_empty()
            || !self.device_keys.is_empty()
            || self.oauth.is_some()
    }
}

/// Tokens of an authorization server (RFC 7635).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct OAuth {
    pub(crate) server_name: String,
    /// Keys of 16 or 32 bytes in base64, by name.
    pub(crate) keys: BTreeMap<String, Secret>,
}

/// An HTTP server that knows users.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Hook {
    pub(crate) url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// Whom to trust instead of those whom the web trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// In seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<usize>,
}

/// Whom clients may reach.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Peers {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) allow: Vec<Network>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) deny: Vec<Network>,
}

/// Bounds. What is left out is the default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocations: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocations_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) allocations_per_network: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permissions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permissions_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permissions_per_network: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) permissions_per_allocation: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channels: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channels_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channels_per_network: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) channels_per_allocation: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_connections_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_connections_per_network: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_connections_per_allocation: Option<usize>,
    /// Those of `peer_connections` that are being made or wait for their client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_peer_connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_peer_connections_per_user: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_peer_connections_per_network: Option<usize>,
    /// Payload of an allocation in each direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_second: Option<u32>,
    /// Of all allocations together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_per_user: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_per_network: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unproven_bytes_per_second: Option<u32>,
    /// Of all networks together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unproven_total_bytes_per_second: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) connections_per_source: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) handshakes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) handshakes_per_source: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) handshakes_per_second: Option<u32>,
}

impl File {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Names the line and what is wrong there, but never shows it: it may hold a secret.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        config_text::parse(text)
    }

    /// The files that are named for the secrets in them, seen from `directory`.
    pub(crate) fn secret_files(&self, directory: &Path) -> Vec<PathBuf> {
        let of_realms = self.realms.iter().flat_map(|realm| &realm.secret_files);
        let hook = self.hook.iter().filter_map(|hook| hook.key_file.as_ref());
        let one = [&self.fleet_key_file, &self.tls.key];
        let named = of_realms.chain(hook).chain(one.into_iter().flatten());
        named.map(|path| directory.join(path)).collect()
    }

    /// Whether there are secrets in the file itself.
    pub(crate) fn has_secrets(&self) -> bool {
        self.fleet_key.is_some()
            || self.hook.as_ref().is_some_and(|hook| hook.key.is_some())
            || self.realms.iter().any(Realm::has_secrets)
    }

    /// Writes what [`File::parse`] reads.
    pub(crate) fn render(&self) -> anyhow::Result<String> {
        Ok(toml::to_string(self)?)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Something that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Makes a type of what `FromStr` and `Display` read and write.
macro_rules! text {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// An address to listen on: an IP, a port behind it unless it is the usual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen<const PORT: u16>(pub(crate) SocketAddr);

impl<const PORT: u16> std::str::FromStr for Listen<PORT> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let ip = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        let ip: IpAddr = ip.unwrap_or(text).parse().map_err(|_| {
            "not an address such as 192.0.2.1:3478 or [2001:db8::1]:3478 (names are not looked up)"
                .to_owned()
        })?;
        Ok(Self(SocketAddr::new(ip, PORT)))
    }
}

impl<'de, const PORT: u16> Deserialize<'de> for Listen<PORT> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<const PORT: u16> Serialize for Listen<PORT> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What the world sees of an IP: `PUBLIC`, or `PUBLIC/LOCAL` where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicIp {
    pub(crate) public: IpAddr,
    pub(crate) local: Option<IpAddr>,
}

impl std::str::FromStr for PublicIp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| "not an IP, or two such as PUBLIC/LOCAL".to_owned();
        let (public, local) = match text.split_once('/') {
            Some((public, local)) => (public, Some(local.trim().parse().map_err(wrong)?)),
            None => (text, None),
        };
        let public: IpAddr = public.trim().parse().map_err(wrong)?;
        if local.is_some_and(|local: IpAddr| local.is_ipv4() != public.is_ipv4()) {
            return Err("the two IPs are of different families".to_owned());
        }
        Ok(Self { public, local })
    }
}

impl std::fmt::Display for PublicIp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.public)?;
        match self.local {
            Some(local) => write!(f, "/{local}"),
            None => Ok(()),
        }
    }
}

text!(PublicIp);

/// A range of ports, `MIN-MAX`, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) min: u16,
    pub(crate) max: u16,
}

impl std::str::FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.split_once('-').and_then(|(min, max)| {
            let min = min.trim().parse().ok()?;
            let max = max.trim().parse().ok()?;
            Some(Self { min, max })
        });
        range
            .filter(|range| range.min <= range.max)
            .ok_or_else(|| "not a range of ports such as 49152-65535".to_owned())
    }
}

impl std::fmt::Display for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

text!(Ports);

/// An IP network, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network(pub(crate) Cidr);

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| "not a network such as 10.0.0.0/8".to_owned())
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

text!(Network);

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        File::parse(text).expect_err("it is wrong").to_string()
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_line_and_the_key_that_was_meant() {
        let text = complaint("shards = 2\n\n[limits]\nallocations-per-usr = 3\n");
        assert!(text.starts_with("line 4: "), "{text}");
        assert!(
            text.contains("did you mean `allocations-per-user`?"),
            "{text}"
        );
        let text = complaint("lisen = []\n");
        assert!(text.contains("did you mean `listen`?"), "{text}");
    }

    #[test]
    fn a_mistake_in_a_line_with_a_secret_does_not_show_the_secret() {
        for text in [
            "[[realm]]\nname = 'r'\nsecrets = 'hunter2'\n",
            "[[realm]]\nname = 'r'\nusers = ['hunter2']\n",
            "[[realm]]\nname = 'r'\nusers = 'x, expected hunter2, expected hunter2'\n",
            "[[realm]]\nname = 'r'\nsecrets = ['hunter2\n",
        ] {
            let text = complaint(text);
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.starts_with("line 3"), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let text = r#"
            listen = ["192.0.2.1:3478", "2001:db8::1", "[2001:db8::2]"]
            listen-udp = ["192.0.2.1"]
            relay-ip = ["10.0.0.1"]
            public-ip = ["192.0.2.1/10.0.0.1", "192.0.2.9"]
            relay-ports = "50000-60000"
            shards = 3
            io = "sockets"
            tls = { certificate = "c.pem", key = "k.pem", listen = ["192.0.2.1"] }
            peers = { allow = ["10.0.0.0/8"], deny = ["192.0.2.0/24"] }
            limits = { allocations = 9 }
            [[realm]]
            name = "example.org"
            secrets = ["one", "\"two\" = \\ # 'x'"]
            users = { alice = "a b", "odd:name" = "p" }
            user-keys = { bob = "bc807ee29df3c9ffa736523fb2c4e8ee" }
            [[realm]]
            name = "example.net"
        "#;
        let file = File::parse(text).expect("it is right");
        assert_eq!(file.listen[1].0.to_string(), "[2001:db8::1]:3478");
        assert_eq!(file.tls.listen[0].0.port(), 5349);
        let written = file.render().expect("it can be written");
        assert_eq!(File::parse(&written).expect("it is right"), file);
    }

    #[test]
    fn every_key_is_documented_and_the_example_is_right() {
        let docs = include_str!("../../../../docs/turn-server.md");
        let example = docs.split("```toml\n").nth(1).expect("there is one");
        let example = example.split("```").next().expect("it ends");
        File::parse(example).expect("it is right");
        for table in [
            "",
            "[tls]\n",
            "[[realm]]\n",
            "[realm.oauth]\n",
            "[peers]\n",
            "[limits]\n",
            "[hook]\n",
        ] {
            let table = table.replace("[realm.oauth]", "[[realm]]\n[realm.oauth]");
            // serde tells what it knows when it finds what it does not know.
            let text = complaint(&format!("{table}no-such-key = 1\n"));
            let keys: Vec<_> = text.split('`').skip(3).step_by(2).collect();
            assert!(keys.len() > 1, "{table}: {text}");
            for key in keys {
                let quoted = [
                    format!("`{key}`"),
                    format!("`[{key}]`"),
                    format!("`[[{key}]]`"),
                ];
                let is_inside = docs.contains(&format!("{key} = "));
                let is_there = is_inside || quoted.iter().any(|key| docs.contains(key));
                assert!(is_there, "{table}{key}");
            }
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for text in [
            "listen = ['example.org']",
            "relay-ports = '9-5'",
            "relay-ports = '70000-70001'",
            "public-ip = ['192.0.2.1/2001:db8::1']",
            "peers = { deny = ['10.0.0.0/33'] }",
            "io = 'fast'",
            "limits = { allocations = -1 }",
        ] {
            let text = complaint(text);
            assert!(text.starts_with("line 1"), "{text}");
        }
    }
}
