//! What a node is to be, from the file and the command line: flags go before the file, where both say
//! something.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tombolo_node::{ApiKey, Certificate, Node, NodeBuilder, Scope};
use tombolo_wire::NodeId;

use super::file::{ApiKeyTable, File, Nats};
use super::flags::with_flags;
use super::source::Source;
use super::{connections, fields, game, nats, pools, sessions, social, token_keys};
use crate::cli::{ServeArgs, TIME_MAX};
use crate::config_text::{self, At as _};
use crate::turn::file::File as Relay;
use crate::turn::settings::relaying;

/// All that a node is started with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeBuilder,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) admin: Option<PathBuf>,
    pub(crate) drain_timeout: Duration,
    /// In which secrets are.
    pub(crate) secret_files: Vec<PathBuf>,
    pub(crate) source: Source,
}

impl Settings {
    /// Reads what the command line names, and checks all of it.
    pub(crate) fn load(args: &ServeArgs) -> anyhow::Result<Self> {
        let Some(path) = &args.config else {
            return Self::new(File::default(), args, &Source::default());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read it", path.display()))?;
        let file = config_text::parse(&text).with_context(|| path.display().to_string())?;
        let path = Some(path.clone());
        Self::new(file, args, &Source { path, text })
    }

    fn new(file: File, args: &ServeArgs, source: &Source) -> anyhow::Result<Self> {
        let own = source.path.as_ref().filter(|_| file.has_secrets());
        let file = with_flags(source.resolve(file), args)?;
        let secret_files = file.secret_files(source.folder());
        let secret_files = secret_files.into_iter().chain(own.cloned()).collect();
        let mut node = Node::builder();
        if args.dev {
            node = node.dev();
        }
        node = addressed(node, &file, source)?;
        node = trusted(node, &file, args, source)?;
        node = node.relay(relay(&file, source)?);
        for key in api_keys(&file.api_keys).with_context(|| source.place(&["api-key"]))? {
            node = node.api_key(key);
        }
        let tables = pools::tables(&source.text).with_context(|| source.file())?;
        for pool in pools::load(&file.pools, tables).with_context(|| source.place(&["pools"]))? {
            node = node.pool(pool);
        }
        let sessions = sessions::config(&file.sessions, source)?;
        let connections = connections::config(&file.connections, &sessions, source)?;
        node = node.sessions(sessions).connections(connections);
        node = node.social(social::config(&file.social, source)?);
        node = node.fields(fields::config(&file.fields, source)?);
        if let Some(webhook) = game::webhook(&file, source)? {
            node = node.webhook(webhook);
        }
        if let Some(hooks) = game::hooks(&file, source)? {
            node = node.http_hooks(hooks);
        }
        anyhow::ensure!(
            file.data.is_none() || file.nats == Nats::default(),
            "{}: rooms are kept in a folder or on NATS servers, not both",
            source.place(&["data"])
        );
        if let Some(folder) = &file.data {
            node = node.data(folder.clone());
        }
        anyhow::ensure!(
            file.nats != Nats::default()
                || file.data.is_some()
                || !source.has(&["nats", "servers"]),
            "{}: there are none",
            source.place(&["nats", "servers"])
        );
        if let Some(config) = nats::config(&file.nats, source)? {
            node = node.nats(config);
        }
        let keys = file
            .nats
            .seal
            .iter()
            .map(|path| nats::seal_key(path, source));
        node = node.seal_keys(keys.collect::<anyhow::Result<Vec<_>>>()?);
        let drain_timeout = file.drain_timeout;
        anyhow::ensure!(
            drain_timeout.is_none_or(|seconds| seconds <= TIME_MAX),
            "{}: at most {TIME_MAX} seconds (a year)",
            source.place(&["drain-timeout"])
        );
        Ok(Self {
            node,
            metrics: file.metrics,
            admin: file.admin,
            drain_timeout: drain_timeout.map_or(DRAIN_TIMEOUT, Duration::from_secs),
            secret_files,
            source: source.clone(),
        })
    }
}

/// Where the node is, and under which name.
fn addressed(mut node: NodeBuilder, file: &File, source: &Source) -> anyhow::Result<NodeBuilder> {
    if let Some(name) = &file.name {
        let parsed = NodeId::parse(name).with_context(|| source.place(&["name"]))?;
        node = node.name(parsed);
    }
    if let Some(region) = &file.region {
        anyhow::ensure!(
            region.len() <= REGION_BYTES_MAX,
            "{}: at most {REGION_BYTES_MAX} bytes",
            source.place(&["region"])
        );
        node = node.region(region);
    }
    if let Some(sessions) = file.spread_from {
        node = node.spread_min(sessions);
    }
    for ip in &file.listen {
        node = node.listen(*ip);
    }
    if let Some(ip) = file.public {
        anyhow::ensure!(
            !ip.is_unspecified(),
            "{}: devices cannot connect to {ip}",
            source.place(&["public"])
        );
        node = node.public(ip);
    }
    if let Some(host) = &file.host {
        tombolo_wire::ServerUrl::new(host, tombolo_wire::PORT_DEFAULT, None)
            .with_context(|| source.place(&["host"]))?;
        node = node.host(host);
    }
    if let Some(port) = file.port {
        node = node.port(port);
    }
    if let Some(port) = file.turn_port {
        anyhow::ensure!(
            port < u16::MAX,
            "{}: at most {}, since the next one is STUN's alternate port",
            source.place(&["turn-port"]),
            u16::MAX - 1
        );
        node = node.turn_port(port);
    }
    if let Some(port) = file.turns_port {
        node = node.turns_port(port);
    }
    Ok(node)
}

/// By what devices know the node, and the node devices. Without `--dev` both are needed.
fn trusted(
    mut node: NodeBuilder,
    file: &File,
    args: &ServeArgs,
    source: &Source,
) -> anyhow::Result<NodeBuilder> {
    let mut missing = Vec::new();
    match (&file.tls.certificate, &file.tls.key) {
        (Some(chain), Some(key)) => {
            let certificate =
                Certificate::from_pem_files(chain, key).with_context(|| source.place(&["tls"]))?;
            let host = file.host.as_ref().filter(|_| !file.tls.pin);
            if let Some(host) = host.filter(|host| !certificate.is_for(host)) {
                anyhow::bail!(
                    "{}: the certificate is not for {host}, so that no device would accept it",
                    source.place(&["host"])
                );
            }
            node = node.certificate(certificate);
            if file.tls.pin {
                node = node.pin_certificate();
            }
        }
        (None, None) => missing.push(
            "a certificate and its key (--tls CERT KEY, or `certificate` and `key` under [tls])",
        ),
        (Some(_), None) => anyhow::bail!(
            "{}: its `key` is missing",
            source.place(&["tls", "certificate"])
        ),
        (None, Some(_)) => anyhow::bail!(
            "{}: its `certificate` is missing",
            source.place(&["tls", "key"])
        ),
    }
    let mut keys = token_keys::TokenKeys::default();
    for (name, path) in &file.token_keys {
        keys.read(name, path)
            .with_context(|| source.place(&["token-keys", name]))?;
    }
    if keys.is_empty() {
        missing.push(
            "a key of device tokens (--token-key NAME=FILE, or a line NAME = \"FILE\" under \
             [token-keys])",
        );
    }
    anyhow::ensure!(
        args.dev || missing.is_empty(),
        "to serve without --dev, give {}",
        missing.join(", and ")
    );
    if let (true, Some((name, secret))) = (args.dev, keys.secret()) {
        node = node.dev_key(name, secret);
    }
    Ok(node.token_keys(keys.into_set()))
}

/// How the node relays. What the node says itself is no setting of its relay.
fn relay(file: &File, source: &Source) -> anyhow::Result<tombolo_relay::RelayConfig> {
    let empty = Relay::default();
    let given = &file.relay;
    for (key, is_given, instead) in [
        (
            "listen",
            given.listen != empty.listen,
            "`listen` and `turn-port`",
        ),
        (
            "listen-udp",
            given.listen_udp != empty.listen_udp,
            "`listen` and `turn-port`",
        ),
        ("relay-ip", given.relay_ip != empty.relay_ip, "`listen`"),
        ("public-ip", given.public_ip != empty.public_ip, "`public`"),
        ("tls", given.tls != empty.tls, "[tls] and `turns-port`"),
        ("admin", given.admin.is_some(), "`admin`"),
        ("metrics", given.metrics.is_some(), "`metrics`"),
        (
            "drain-timeout",
            given.drain_timeout.is_some(),
            "`drain-timeout`",
        ),
        ("drain-to", given.drain_to != empty.drain_to, CLUSTER),
        ("drain-domain", given.drain_domain.is_some(), CLUSTER),
    ] {
        anyhow::ensure!(
            !is_given,
            "{}: a node has {instead} for that, outside of [relay]",
            source.place(&["relay", key])
        );
    }
    for (key, is_given) in [
        ("plain-udp", given.plain_udp.is_some()),
        ("plain-tcp", given.plain_tcp.is_some()),
    ] {
        anyhow::ensure!(
            !is_given,
            "{}: devices need their node's relay over UDP and TCP",
            source.place(&["relay", key])
        );
    }
    let mut relay = relaying(given, source.folder())
        .at("relay")
        .map_err(|error| source.placed(error))?;
    let ports = file.metrics.iter().map(SocketAddr::port);
    relay.own_ports.extend(ports.filter(|port| *port != 0));
    Ok(relay)
}

/// Where a node sends newcomers when it drains.
const CLUSTER: &str = "the other nodes of its cluster";

/// Who may use the HTTP API for game servers.
fn api_keys(given: &[ApiKeyTable]) -> anyhow::Result<Vec<ApiKey>> {
    let mut keys: Vec<ApiKey> = Vec::new();
    for table in given {
        let name = &table.name;
        let sha256 = sha256(&table.sha256)
            .with_context(|| format!("key {name}: `sha256` has 64 hex digits"))?;
        anyhow::ensure!(
            keys.iter()
                .all(|known| known.name != *name && known.sha256 != sha256),
            "key {name}: it is there twice"
        );
        let mut key = ApiKey::new(name, sha256);
        for word in &table.scopes {
            let scope = Scope::parse(word)
                .with_context(|| format!("key {name}: there is no scope {word:?}"))?;
            key.scopes.insert(scope);
        }
        if let Some(requests) = table.requests_per_second {
            anyhow::ensure!(
                requests > 0,
                "key {name}: `requests-per-second` is at least 1"
            );
            key.requests_per_second = requests;
        }
        keys.push(key);
    }
    Ok(keys)
}

fn sha256(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// How long devices have to go to other nodes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a region's name.
const REGION_BYTES_MAX: usize = 64;

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    pub(in crate::serve) fn args(args: &[&str]) -> ServeArgs {
        let args = ["tombolo", "serve"].iter().chain(args);
        let Command::Serve(args) = Cli::try_parse_from(args).expect("it is right").command else {
            panic!("it is another command");
        };
        *args
    }

    fn complaint(text: &str, flags: &[&str]) -> String {
        let source = Source {
            path: Some("node.toml".into()),
            text: text.to_owned(),
        };
        let settings =
            config_text::parse(text).and_then(|file| Settings::new(file, &args(flags), &source));
        format!("{:#}", settings.expect_err("it is wrong"))
    }

    #[test]
    fn a_complaint_names_the_line_the_key_and_what_to_do() {
        for (text, says) in [
            ("\nname = 'a/b'\n", "node.toml: line 2, name: "),
            (
                "[sessions]\nduplicates = 'oldest'",
                "line 2, sessions.duplicates: \"replace-disconnected\", ",
            ),
            (
                "[connections]\nconnections = 50000",
                "line 2, connections.connections: 100000 (sessions.sessions) to 2000000",
            ),
            (
                "[sessions]\nsessions = 9\n[connections]\nconnections = 8",
                "line 4, connections.connections: 9 (sessions.sessions) to",
            ),
            (
                "[connections]\nopening-per-source = 0",
                "line 2, connections.opening-per-source: 1 to 2000000",
            ),
            (
                "[connections]\nhandshakes-per-second = 0",
                "line 2, connections.handshakes-per-second: 1 to 1000000",
            ),
            (
                "[sessions]\nper-user = 0",
                "line 2, sessions.per-user: 1 to 256",
            ),
            (
                "[sessions]\nresume-window = inf",
                "line 2, sessions.resume-window: 5 to 3600 seconds",
            ),
            (
                "[sessions]\nresume-window = 5\ndrop-after = 6",
                "line 3, sessions.drop-after: at most as long as resume-window, 5 seconds",
            ),
            (
                "[nats]\nservers = ['nats://192.0.2.1']\nlog-bytes = 1",
                "line 3, nats.log-bytes: at least 67108864",
            ),
            (
                "[social]\ngroups-per-user = 1000",
                "line 2, social.groups-per-user: 0 to 256",
            ),
            (
                "[sessions]\nbytes-per-second = 1",
                "line 2, sessions.bytes-per-second: 65536 to ",
            ),
            (
                "[fields]\nbudget = 64",
                "line 2, fields.budget: 256 to 1100 bytes",
            ),
            (
                "[fields]\ndimensions = 4",
                "line 2, fields.dimensions: 2 or 3",
            ),
            (
                "[fields]\nbatches-per-second = 0",
                "line 2, fields.batches-per-second: 1 to 200",
            ),
            (
                "[fields]\nhysteresis = nan",
                "line 2, fields.hysteresis: the hysteresis is from 0 to 10",
            ),
            (
                "[fields]\nsilence = 1\n",
                "line 2, fields.silence: 5 to 3600 seconds",
            ),
            (
                "[fields]\ncell = 0.5",
                "line 2, fields.cell: a cell is from 0.001 to 1e9 wide, and at least a hundredth",
            ),
            (
                "[[fields.sight]]\nof = 0",
                "line 1, fields.sight: a rule names some marks",
            ),
            (
                "[[fields.class]]\nrange = -1",
                "line 1, fields.class: a range is from 0.001 to 1e9",
            ),
            (
                "[[fields.class]]\nrange = 9\nlinked-within = 0",
                "line 1, fields.class: a range is from 0.001 to 1e9",
            ),
            (
                "[[fields.class]]\nrange = 9\nweight = 0",
                "line 1, fields.class: a weight is from",
            ),
            (
                "[[fields.class]]\nrange = 9\ndevices = 'put'",
                "line 1, fields.class: devices come in as one",
            ),
            (
                "[[fields.class]]\nrange = 9\ndevices = 'all'",
                "unknown variant `all`, expected one of `enter`, `put`, `any`, `none`",
            ),
            ("public = '0.0.0.0'", "node.toml: line 1, public: "),
            ("host = 'a b'", "node.toml: line 1, host: "),
            (
                "[tls]\ncertificate = 'c.pem'",
                "line 2, tls.certificate: its `key`",
            ),
            ("[tls]\nkey = 'k.pem'", "line 2, tls.key: its `certificate`"),
            (
                "[tls]\ncertificate = '/nonexistent'\nkey = '/nonexistent'",
                "line 1, tls: /nonexistent: No such file",
            ),
            (
                "[token-keys]\n'2026' = '/nonexistent'",
                "line 2, token-keys.2026: /nonexistent: cannot read it",
            ),
            (
                "[relay]\nlisten = ['192.0.2.1']",
                "line 2, relay.listen: a node has `listen`",
            ),
            (
                "[relay]\n[[relay.realm]]\nsecrets = ['s']",
                "line 2, relay.realm.name: the name of a realm",
            ),
            (
                "[relay]\ndrain-to = ['192.0.2.1:3478']",
                "line 2, relay.drain-to: a node has the other nodes",
            ),
            ("[relay.tls]\ndtls = false", "line 1, relay.tls: "),
            (
                "[relay]\nplain-udp = false",
                "line 2, relay.plain-udp: devices need",
            ),
            (
                "[relay]\nshards = 0",
                "line 2, relay.shards: the number of shards",
            ),
            (
                "[nats]\nreplicas = 3",
                "line 1, nats: there are no `servers`",
            ),
            ("\n[[pool]]\nname = 'a'", "node.toml: line 2, column"),
            (
                "[webhook]\nurl = 'https://x'",
                "line 1, webhook: give either",
            ),
            (
                "[nats]\nservers = []",
                "line 2, nats.servers: there are none",
            ),
            ("turn-port = 65535", "line 1, turn-port: at most 65534"),
            (
                "data = 'd'\n[nats]\nservers = ['nats://192.0.2.1']",
                "line 1, data: rooms are kept in a folder or on NATS",
            ),
            (
                "[nats]\nservers = ['nats://192.0.2.1']\nsecret = '/nonexistent'",
                "line 3, nats.secret: /nonexistent: cannot read it",
            ),
            (
                "[nats]\nservers = ['nats://192.0.2.1']\nsecret = 's'\nnkey = 'n'",
                "line 1, nats: give one of",
            ),
            (
                "[webhook]\nurl = 'https://x'\nkey = 'k'\nkey-file = 'k'",
                "line 1, webhook: ",
            ),
            (
                "[webhook]\nurl = 'https://x'\nkey = 'k'",
                "line 3, webhook.key: ",
            ),
            (
                "[webhook]\nurl = 'http://192.0.2.1/'\nkey = '0123456789abcdef'",
                "line 2, webhook.url: ",
            ),
            (
                "[hooks]\nurl = 'https://x'\nkey = 'k'",
                "line 1, hooks: missing field `ask`",
            ),
            (
                "[hooks]\nurl = 'https://x'\nkey = 'k'\nask = ['join']",
                "line 3, hooks.key: ",
            ),
            (
                "[hooks]\nurl = 'http://192.0.2.1/'\nkey = '0123456789abcdef'\nask = ['join']",
                "line 2, hooks.url: ",
            ),
            (
                "[hooks]\nurl = 'https://x'\nkey = '0123456789abcdef'\nask = []",
                "line 4, hooks.ask: name what",
            ),
            (
                "[hooks]\nurl = 'https://x'\nkey = '0123456789abcdef'\nask = ['message']",
                "line 4, hooks.ask: there is no \"message\"",
            ),
            (
                "[hooks]\nurl = 'https://x'\nkey = '0123456789abcdef'\nask = ['join']\ntimeout = 4.5",
                "line 5, hooks.timeout: the timeout is from 0 to 4s",
            ),
            (
                "[hooks]\nurl = 'https://x'\nkey = '0123456789abcdef'\nask = ['join']\nrequests = 0",
                "line 5, hooks.requests: from 1 to 4096",
            ),
            (
                "[[api-key]]\nname = 'a'\nsha256 = 'ab'\nscopes = []",
                "line 1, api-key: key a: `sha256` has 64",
            ),
            ("port = 'x'", "line 1, port: invalid type"),
            ("prt = 1", "did you mean `port`?"),
            (
                "[relay.limits]\nallocations = -1",
                "line 2, relay.limits.allocations: ",
            ),
        ] {
            let complaint = complaint(text, &["--dev"]);
            assert!(complaint.contains(says), "{text}: {complaint}");
        }
    }

    #[test]
    fn what_is_missing_without_development_mode_is_said_at_once() {
        let complaint = complaint("", &[]);
        for says in [
            "--tls CERT KEY",
            "[tls]",
            "--token-key NAME=FILE",
            "[token-keys]",
        ] {
            assert!(complaint.contains(says), "{complaint}");
        }
    }
}
