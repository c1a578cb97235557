//! What a server is to do, from the file and the command line: flags go before the file, where both
//! say something.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tombolo_relay::{Certificates, IoMode, RelayConfig};
use tombolo_turn::server::{self, Cidr, Drain, Sha256Offer};

use super::args::ServerArgs;
use super::credentials::{fleet_key, hook, realms};
use super::file::{File, Listen, Network, PublicIp, Realm, Secret, Sha256};
use super::import::{Import, Machine};
use super::limits;
use crate::cli::TIME_MAX;
use crate::config_text::{self, At as _, ensure};

/// All that a server is started with.
pub(crate) struct Settings {
    pub(crate) relay: RelayConfig,
    pub(crate) at_start: AtStart,
    /// In which secrets are.
    pub(crate) secret_files: Vec<PathBuf>,
}

/// What no reload changes.
#[derive(Clone, Debug)]
pub(crate) struct AtStart {
    pub(crate) admin: Option<PathBuf>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) drain_timeout: Duration,
    /// What SIGTERM begins, unless the server drains already.
    pub(crate) drain: Drain,
}

impl AtStart {
    /// The keys that say something else.
    pub(crate) fn differs(&self, other: &Self) -> Vec<&'static str> {
        let (drain, others) = (&self.drain, &other.drain);
        let parts = [
            ("admin", self.admin == other.admin),
            ("metrics", self.metrics == other.metrics),
            ("drain-timeout", self.drain_timeout == other.drain_timeout),
            ("drain-to", drain.alternates == others.alternates),
            ("drain-domain", drain.domain == others.domain),
        ];
        let differs = parts.into_iter().filter(|(_, is_same)| !is_same);
        differs.map(|(name, _)| name).collect()
    }
}

impl Settings {
    /// Reads what the command line names, and checks all of it. An imported file that names no addresses
    /// means those of the machine.
    pub(crate) fn load(args: &ServerArgs, machine: &Machine) -> anyhow::Result<Self> {
        let Some(path) = &args.config else {
            let file = match &args.import {
                Some(path) => Import::read(path, machine)?.file,
                None => File::default(),
            };
            let own = args.import.as_deref();
            return Self::of(file, args, own, Path::new("")).map_err(|error| {
                config_text::flagged(error, |key| args.gives(key)).unwrap_or_else(|error| error)
            });
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read it", path.display()))?;
        let file = File::parse(&text).with_context(|| path.display().to_string())?;
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        Self::of(file, args, Some(path), directory).map_err(|error| {
            config_text::flagged(error, |key| args.gives(key))
                .unwrap_or_else(|error| config_text::placed(error, path, &text))
        })
    }

    /// Makes sense of what stands in a file, which is `own`, and on the command line.
    fn of(
        file: File,
        args: &ServerArgs,
        own: Option<&Path>,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let own = own.filter(|_| file.has_secrets()).map(Path::to_owned);
        let file = with_flags(file, args)?;
        let mut secret_files = file.secret_files(directory);
        secret_files.extend(own);
        Ok(Self {
            secret_files,
            ..Self::new(file, directory)?
        })
    }

    /// Makes sense of a file whose relative paths are seen from `directory`.
    pub(crate) fn new(file: File, directory: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(
            !file.listen.is_empty(),
            "nothing to listen on: give --listen, or `listen` in the file"
        );
        let drain_timeout = file.drain_timeout.unwrap_or(0);
        ensure(drain_timeout <= TIME_MAX, || {
            format!("at most {TIME_MAX} seconds (a year)")
        })
        .at("drain-timeout")?;
        let mut drain = Drain::default();
        drain.alternates.clone_from(&file.drain_to);
        drain.domain.clone_from(&file.drain_domain);
        drain.deadline = Some(Duration::from_secs(drain_timeout));
        once_each(&file)?;
        let relay_ips = relay_ips(&file).at("relay-ip")?;
        let relay = RelayConfig {
            listen: addresses(&file.listen),
            listen_udp: addresses(&file.listen_udp),
            listen_tls: addresses(&file.tls.listen),
            tls: certificates(&file, directory).at("tls")?,
            plain_udp: file.plain_udp.unwrap_or(true),
            plain_tcp: file.plain_tcp.unwrap_or(true),
            public_ips: public_ips(&file.public_ip, &relay_ips).at("public-ip")?,
            relay_ips: file.relay_ip.clone(),
            own_ports: own_ports(&file),
            ..relaying(&file, directory)?
        };
        Ok(Self {
            relay,
            at_start: AtStart {
                admin: file.admin.map(|path| directory.join(path)),
                metrics: file.metrics,
                drain_timeout: Duration::from_secs(drain_timeout),
                drain,
            },
            secret_files: Vec::new(),
        })
    }

    /// Whether anybody could relay.
    pub(crate) fn has_credentials(&self) -> bool {
        let mut realms = std::iter::once(&self.relay.realm).chain(&self.relay.realms);
        realms.any(|realm| {
            !realm.users.is_empty()
                || !realm.users_by_key.is_empty()
                || !realm.secrets.is_empty()
                || !realm.device_keys.is_empty()
                || realm.oauth.is_some()
                || realm.hook != server::HookMode::Off
        })
    }
}

/// How a relay is to relay, wherever it is.
pub(crate) fn relaying(file: &File, directory: &Path) -> anyhow::Result<RelayConfig> {
    let is_good = |count| (1..=SHARDS_MAX).contains(&count);
    ensure(file.shards.is_none_or(is_good), || {
        format!("the number of shards must be from 1 to {SHARDS_MAX}")
    })
    .at("shards")?;
    let mut realms = realms(file, directory)?.into_iter();
    let mut relay = RelayConfig {
        dtls: file.tls.dtls.unwrap_or(true),
        realm: realms.next().unwrap_or_else(|| server::Realm::new(REALM)),
        realms: realms.collect(),
        allow_peers: networks(&file.peers.allow),
        deny_peers: networks(&file.peers.deny),
        hook: hook(file, directory).at("hook")?,
        io: file.io.map_or(IoMode::Auto, Into::into),
        shards: file.shards,
        relay_tcp: file.relay_tcp,
        proxy_protocol: networks(&file.proxy_protocol),
        ..RelayConfig::default()
    };
    if let Some(ports) = file.relay_ports {
        relay.relay_ports = ports.min..=ports.max;
    }
    relay.nonce_key = fleet_key(file, directory)?;
    extend(&mut relay, file)?;
    limits::set(&mut relay, &file.limits)?;
    Ok(relay)
}

/// Puts flags in place of what the file says, credentials beside those of its first realm.
fn with_flags(mut file: File, args: &ServerArgs) -> anyhow::Result<File> {
    fn replace<T: Clone>(values: &mut Vec<T>, given: &[T]) {
        if !given.is_empty() {
            *values = given.to_vec();
        }
    }
    replace(&mut file.listen, &args.listen);
    replace(&mut file.relay_ip, &args.relay_ip);
    replace(&mut file.public_ip, &args.public_ip);
    replace(&mut file.tls.listen, &args.tls_listen);
    replace(&mut file.peers.allow, &args.allow_peer);
    replace(&mut file.peers.deny, &args.deny_peer);
    file.relay_ports = args.relay_ports.or(file.relay_ports);
    file.relay_tcp |= args.relay_tcp;
    file.plain_udp = args.no_plain_udp.then_some(false).or(file.plain_udp);
    file.plain_tcp = args.no_plain_tcp.then_some(false).or(file.plain_tcp);
    file.shards = args.shards.or(file.shards);
    file.io = args.io.or(file.io);
    file.metrics = args.metrics.or(file.metrics);
    file.drain_timeout = args.drain_timeout.or(file.drain_timeout);
    if let Some(path) = &args.admin {
        file.admin = Some(std::path::absolute(path)?);
    }
    if let [chain, key] = args.tls.as_slice() {
        let absolute = |path: &PathBuf| std::path::absolute(path);
        file.tls.certificate = Some(absolute(chain)?);
        file.tls.key = Some(absolute(key)?);
    }
    let users = users(&args.user)?;
    let has_flags = args.realm.is_some()
        || !users.is_empty()
        || !args.secret.is_empty()
        || !args.secret_file.is_empty();
    if has_flags && file.realms.is_empty() {
        file.realms.push(Realm {
            name: REALM.to_owned(),
            ..Realm::default()
        });
    }
    if let Some(realm) = file.realms.first_mut() {
        if let Some(name) = &args.realm {
            realm.name.clone_from(name);
        }
        realm.users.extend(users);
        realm
            .secrets
            .extend(args.secret.iter().cloned().map(Secret));
        for path in &args.secret_file {
            realm.secret_files.push(std::path::absolute(path)?);
        }
    }
    Ok(file)
}

/// Passwords by user. Complaints show the name at most.
fn users(pairs: &[String]) -> anyhow::Result<BTreeMap<String, Secret>> {
    let mut users = BTreeMap::new();
    for (i, pair) in pairs.iter().enumerate() {
        let Some((name, password)) = pair.split_once(':') else {
            anyhow::bail!("--user, number {}: not NAME:PASSWORD", i + 1);
        };
        let known = users.insert(name.to_owned(), Secret(password.to_owned()));
        anyhow::ensure!(known.is_none(), "--user {name}: given twice");
    }
    Ok(users)
}

fn addresses<const PORT: u16>(listen: &[Listen<PORT>]) -> Vec<SocketAddr> {
    listen.iter().map(|listen| listen.0).collect()
}

/// Checks that no address is to be served twice, which would look as if another program had it.
fn once_each(file: &File) -> anyhow::Result<()> {
    let tls = file
        .tls
        .listen
        .iter()
        .map(|listen| ("tls.listen", listen.0));
    // Over TCP alone.
    let udp = file
        .listen_udp
        .iter()
        .filter(|_| file.tls.dtls != Some(false));
    let udp = udp.map(|listen| ("listen-udp", listen.0));
    let named = file.listen.iter().map(|listen| ("listen", listen.0));
    let mut known: Vec<(&str, SocketAddr)> = Vec::new();
    for (key, address) in named.chain(udp).chain(tls) {
        let first = known.iter().find(|(_, known)| *known == address);
        if let Some((first, _)) = first.filter(|_| address.port() != 0) {
            anyhow::bail!(
                "{address} is there twice, in `{first}` and in `{key}`: name it once, in `listen` if all is \
                 to be served there"
            );
        }
        known.push((key, address));
    }
    Ok(())
}

/// Where this program listens besides the relay. Clients may not reach it by way of the relay.
fn own_ports(file: &File) -> Vec<u16> {
    let ports = file.metrics.iter().map(SocketAddr::port);
    ports.filter(|port| *port != 0).collect()
}

fn networks(networks: &[Network]) -> Vec<Cidr> {
    networks.iter().map(|network| network.0).collect()
}

/// The IPs that are relayed from.
fn relay_ips(file: &File) -> anyhow::Result<Vec<IpAddr>> {
    for is_v4 in [true, false] {
        let count = file.relay_ip.iter().filter(|ip| ip.is_ipv4() == is_v4);
        anyhow::ensure!(
            count.count() <= 1,
            "give one relay IP of each family, not several"
        );
    }
    let listen: Vec<_> = file.listen.iter().map(|listen| listen.0.ip()).collect();
    let all = if file.relay_ip.is_empty() {
        &listen
    } else {
        &file.relay_ip
    };
    let first = |is_v4| {
        all.iter()
            .find(|ip| ip.is_ipv4() == is_v4 && !ip.is_unspecified())
    };
    Ok([first(true), first(false)]
        .into_iter()
        .flatten()
        .copied()
        .collect())
}

/// Local and public IPs.
fn public_ips(given: &[PublicIp], relay_ips: &[IpAddr]) -> anyhow::Result<Vec<(IpAddr, IpAddr)>> {
    let mut pairs: Vec<(IpAddr, IpAddr)> = Vec::new();
    for PublicIp { public, local } in given {
        let relay_ip = relay_ips
            .iter()
            .find(|ip| ip.is_ipv4() == public.is_ipv4())
            .copied();
        let Some(local) = local.or(relay_ip) else {
            anyhow::bail!("the public IP {public} stands for no relay IP: give it as PUBLIC/LOCAL");
        };
        anyhow::ensure!(
            !pairs.iter().any(|(known, _)| *known == local),
            "two public IPs stand for {local}: give them as PUBLIC/LOCAL"
        );
        pairs.push((local, *public));
    }
    Ok(pairs)
}

fn certificates(file: &File, directory: &Path) -> anyhow::Result<Option<Certificates>> {
    match (&file.tls.certificate, &file.tls.key) {
        (Some(chain), Some(key)) => {
            let (chain, key) = (directory.join(chain), directory.join(key));
            Ok(Some(Certificates::from_pem_files(chain, key)?))
        }
        (None, None) => {
            anyhow::ensure!(
                file.tls.listen.is_empty(),
                "there is an address for TLS but no certificate: give --tls CERT KEY"
            );
            Ok(None)
        }
        _ => anyhow::bail!("a certificate needs its key, and a key its certificate"),
    }
}

/// What there is beyond plain TURN, and for how long things are good.
fn extend(relay: &mut RelayConfig, file: &File) -> anyhow::Result<()> {
    relay.mobility = file.mobility.unwrap_or(relay.mobility);
    relay.offer_sha256 = match file.offer_sha256 {
        None => relay.offer_sha256,
        Some(Sha256::Never) => Sha256Offer::Never,
        Some(Sha256::WhereProven) => Sha256Offer::WhereProven,
        Some(Sha256::Always) => Sha256Offer::Always,
    };
    for (name, given, lifetime, max) in [
        (
            "nonce-lifetime",
            file.nonce_lifetime,
            &mut relay.nonce_lifetime,
            NONCE_LIFETIME_MAX,
        ),
        (
            "allocation-lifetime",
            file.allocation_lifetime,
            &mut relay.lifetime_max,
            ALLOCATION_LIFETIME_MAX,
        ),
    ] {
        if let Some(seconds) = given {
            ensure((LIFETIME_MIN..=max).contains(&seconds), || {
                format!("from {LIFETIME_MIN} to {max} seconds")
            })
            .at(name)?;
            *lifetime = Duration::from_secs(seconds);
        }
    }
    Ok(())
}

/// In seconds; clients need some round trips.
const LIFETIME_MIN: u64 = 60;
/// In seconds. See RFC 8489 §9.2.
const NONCE_LIFETIME_MAX: u64 = 3600;
/// In seconds.
const ALLOCATION_LIFETIME_MAX: u64 = 24 * 3600;
/// The realm of those who name none.
const REALM: &str = "tombolo";
/// A shard is named in one byte.
const SHARDS_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings(args: &[&str]) -> anyhow::Result<Settings> {
        let args = ["tombolo", "turn"].iter().chain(args);
        let Command::Turn(args) = Cli::try_parse_from(args)?.command else {
            panic!("it is another command");
        };
        Settings::load(&args.server, &Machine::default())
    }

    fn of_file(text: &str) -> anyhow::Result<Settings> {
        Settings::new(File::parse(text)?, Path::new(""))
    }

    fn complaint(result: anyhow::Result<Settings>) -> String {
        let error = result.err().expect("it is wrong");
        format!("{error:#}")
    }

    #[test]
    fn flags_say_what_the_file_would() {
        let flags = settings(&[
            "--listen=192.0.2.1",
            "--realm=example.org",
            "--user=alice:a:b",
            "--secret=new",
            "--secret=old",
            "--public-ip=203.0.113.1",
            "--deny-peer=9.9.9.9",
            "--relay-ports=50000-50010",
            "--no-plain-tcp",
        ]);
        let file = of_file(
            "listen = ['192.0.2.1']\npublic-ip = ['203.0.113.1/192.0.2.1']\n\
             relay-ports = '50000-50010'\nplain-tcp = false\npeers = { deny = ['9.9.9.9/32'] }\n\
             [[realm]]\nname = 'example.org'\nsecrets = ['new', 'old']\nusers = { alice = 'a:b' }\n",
        );
        for settings in [flags, file] {
            let relay = settings.expect("it is right").relay;
            assert_eq!(relay.listen, ["192.0.2.1:3478".parse().expect("a literal")]);
            assert_eq!(relay.realm.name, "example.org");
            assert_eq!(relay.realm.users["alice"], "a:b");
            assert_eq!(relay.realm.secrets, [b"new".to_vec(), b"old".to_vec()]);
            let (local, public) = relay.public_ips[0];
            assert_eq!(
                (local.to_string(), public.to_string()),
                ("192.0.2.1".to_owned(), "203.0.113.1".to_owned())
            );
            assert_eq!(relay.deny_peers[0].to_string(), "9.9.9.9/32");
            assert_eq!(relay.relay_ports, 50000..=50010);
            assert_eq!((relay.plain_udp, relay.plain_tcp), (true, false));
        }
    }

    #[test]
    fn a_complaint_about_a_flag_names_the_flag() {
        let listen = "--listen=192.0.2.1";
        for (flag, says) in [
            ("--shards=0", "--shards: the number of shards"),
            ("--public-ip=2001:db8::1", "--public-ip: the public IP"),
        ] {
            let complaint = complaint(settings(&[listen, flag]));
            assert!(complaint.starts_with(says), "{flag}: {complaint}");
        }
    }

    #[test]
    fn connections_to_peers_that_wait_are_bounded_as_the_file_says() {
        let bounds = |text: &str| {
            let limits = of_file(text).expect("it is right").relay.limits;
            let total = limits.connections_waiting_max;
            let per_user = limits.connections_waiting_per_user_max;
            (total, per_user, limits.connections_waiting_per_network_max)
        };
        assert_eq!(bounds("listen = ['192.0.2.1']"), (1024, 64, 128));
        let text = "listen = ['192.0.2.1']\n[limits]\nwaiting-peer-connections = 3\n\
            waiting-peer-connections-per-user = 1\nwaiting-peer-connections-per-network = 2\n";
        assert_eq!(bounds(text), (3, 1, 2));
    }

    #[test]
    fn the_port_of_the_metrics_is_no_relay_port_and_no_peer() {
        let settings = settings(&["--listen=192.0.2.1", "--metrics=192.0.2.1:50000"]);
        let settings = settings.expect("it is right");
        assert_eq!(settings.relay.own_ports, [50_000]);
        let anywhere = of_file("listen = ['192.0.2.1']\nmetrics = '127.0.0.1:0'\n");
        assert_eq!(anywhere.expect("it is right").relay.own_ports, [0; 0]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, says) in [
            ("", "nothing to listen on"),
            ("listen = ['192.0.2.1']\nshards = 0", "shards"),
            ("listen = ['192.0.2.1']\ndrain-timeout = 31536001", "a year"),
            ("listen = ['192.0.2.1']\nnonce-lifetime = 3601", "3600"),
            ("listen = ['192.0.2.1']\nallocation-lifetime = 1", "60"),
            ("listen = ['192.0.2.1']\nfleet-key = 'short'", "16 bytes"),
            (
                "listen = ['192.0.2.1']\nhook = { url = 'https://x', key = 'k', key-file = 'k' }",
                "either",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\nhook = true",
                "no `hook`",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\ndevice-keys = { k = 'short' }",
                "device key k",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\n\
                 oauth = { server-name = 's', keys = { k = 'AAAA' } }",
                "OAuth key k",
            ),
            (
                "listen = ['192.0.2.1']\nrelay-ip = ['192.0.2.1', '192.0.2.2']",
                "one relay IP",
            ),
            (
                "listen = ['192.0.2.1']\npublic-ip = ['203.0.113.1', '203.0.113.2']",
                "PUBLIC/LOCAL",
            ),
            (
                "listen = ['192.0.2.1']\npublic-ip = ['2001:db8::1']",
                "PUBLIC/LOCAL",
            ),
            (
                "listen = ['192.0.2.1']\ntls = { listen = ['192.0.2.1'] }",
                "no certificate",
            ),
            (
                "listen = ['192.0.2.1:443']\ntls = { listen = ['192.0.2.1:443'] }",
                "192.0.2.1:443 is there twice, in `listen` and in `tls.listen`",
            ),
            (
                "listen = ['192.0.2.1', '192.0.2.1']",
                "in `listen` and in `listen`",
            ),
            (
                "listen = ['192.0.2.1']\ntls = { key = 'k.pem' }",
                "its certificate",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = ''",
                "name of a realm",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\n[[realm]]\nname = 'a'",
                "twice",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\nsecrets = ['']",
                "everybody",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\nusers = { x = '' }",
                "password is empty",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\nuser-keys = { x = '0x' }",
                "hex",
            ),
            (
                "listen = ['192.0.2.1']\n[[realm]]\nname = 'a'\nsecret-files = ['/nonexistent']",
                "/nonexistent",
            ),
        ] {
            let complaint = complaint(of_file(text));
            assert!(complaint.contains(says), "{text}: {complaint}");
        }
    }

    #[test]
    fn a_realm_has_all_sources_of_credentials() {
        let text = "listen = ['192.0.2.1']\nfleet-key = 'of 16 bytes at least'\n\
            offer-sha256 = 'always'\nmobility = false\nnonce-lifetime = 600\n\
            [hook]\nurl = 'https://example.org/turn'\nkey = 'of 16 bytes at least'\n\
            [[realm]]\nname = 'r'\nhook = true\norigins = ['https://example.org']\n\
            allocations = 7\nallocations-per-user = 3\nwaiting-peer-connections = 2\n\
            bytes-per-second = 500\nbandwidth = 9000\nbandwidth-per-user = 1000\n\
            device-keys = { k = '0123456789abcdef0123456789abcdef' }\n\
            [realm.oauth]\nserver-name = 's'\nkeys = { a = 'AAAAAAAAAAAAAAAAAAAAAA==' }\n";
        let relay = of_file(text).expect("it is right").relay;
        assert_eq!(relay.realm.hook, server::HookMode::Unknown);
        assert_eq!(relay.realm.quota.allocations, Some(7));
        assert_eq!(relay.realm.per_user.allocations, Some(3));
        assert_eq!(relay.realm.connections_waiting_max, Some(2));
        let bandwidth = relay.realm.bandwidth.expect("it is there");
        assert_eq!(bandwidth.bytes_per_second, 500);
        assert_eq!(relay.realm.quota.bandwidth, Some(9000));
        assert_eq!(relay.realm.per_user.bandwidth, Some(1000));
        assert_eq!(relay.realm.origins, ["https://example.org"]);
        assert!(!relay.realm.device_keys.is_empty());
        let oauth = relay.realm.oauth.expect("it is there");
        assert_eq!((oauth.server_name.as_str(), oauth.keys.len()), ("s", 1));
        assert_eq!(relay.offer_sha256, Sha256Offer::Always);
        assert_eq!(relay.nonce_lifetime, Duration::from_secs(600));
        assert!(!relay.mobility);
        let same = of_file("listen = ['192.0.2.2']\nfleet-key = 'of 16 bytes at least'");
        let same = same.expect("it is right").relay.nonce_key;
        assert!(relay.nonce_key.is_some() && relay.nonce_key == same);
        assert_eq!(relay.hook.expect("it is there").requests_max, 64);
    }

    #[test]
    fn a_user_is_known_by_password_or_by_key() {
        // The example of coturn's own documentation.
        let text = "listen = ['192.0.2.1']\n[[realm]]\nname = 'north.gov'\n\
            user-keys = { ninefingers = 'bc807ee29df3c9ffa736523fb2c4e8ee' }";
        let settings = of_file(text).expect("it is right");
        assert!(settings.has_credentials());
        let key = settings.relay.realm.users_by_key["ninefingers"];
        assert_eq!((key[0], key[15]), (0xbc, 0xee));
        let none = of_file("listen = ['192.0.2.1']").expect("it is right");
        assert!(!none.has_credentials());
        assert_eq!(none.relay.realm.name, "tombolo");
    }
}
