//! A configuration of ours in the making, from lines whose order does not matter.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tombolo_turn::server;

use super::super::file::{File, Limits, Listen, Ports, PublicIp, Realm, Secret, Tls};
use super::machine::Machine;
use super::options::{Refused, Taken, number};
use super::peers::PeerRules;

/// What the lines have said so far, in coturn's terms.
#[derive(Default)]
pub(super) struct Draft {
    listening_ips: Vec<IpAddr>,
    /// Whether there was one that cannot be taken over.
    has_lost_listening_ip: bool,
    auxiliary: Vec<SocketAddr>,
    pub(super) port: Option<u16>,
    pub(super) alternate_port: Option<u16>,
    pub(super) tls_port: Option<u16>,
    pub(super) no_udp: bool,
    pub(super) no_tcp: bool,
    pub(super) no_tls: bool,
    pub(super) no_dtls: bool,
    pub(super) no_rfc5780: bool,
    relay_ips: Vec<IpAddr>,
    public_ips: Vec<PublicIp>,
    pub(super) min_port: Option<u16>,
    pub(super) max_port: Option<u16>,
    shards: Option<usize>,
    realm: Option<String>,
    passwords: BTreeMap<String, Secret>,
    keys: BTreeMap<String, Secret>,
    secrets: Vec<Secret>,
    separator: Option<char>,
    pub(super) uses_secret: bool,
    pub(super) user_quota: Option<usize>,
    pub(super) total_quota: Option<usize>,
    pub(super) peers: PeerRules,
    pub(super) no_tcp_relay: bool,
    pub(super) has_metrics: bool,
    metrics_ip: Option<IpAddr>,
    pub(super) metrics_port: Option<u16>,
    pub(super) nonce_lifetime: Option<u64>,
    pub(super) allocation_lifetime: Option<u64>,
    fleet_key: Option<Secret>,
    pub(super) max_bps: Option<u32>,
    pub(super) bps_capacity: Option<u64>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

impl Draft {
    pub(super) fn listening_ip(&mut self, value: &str) -> Result<Taken, Refused> {
        let ip = ip(value).inspect_err(|_| self.has_lost_listening_ip = true)?;
        let note = add(&mut self.listening_ips, ip);
        Ok(Taken {
            key: "listen",
            note,
        })
    }

    pub(super) fn auxiliary(&mut self, value: &str) -> Result<Taken, Refused> {
        let (host, _) = value.rsplit_once(':').unwrap_or((value, ""));
        let wrong = || no_ip(host, "not an address such as 192.0.2.1:3478");
        let address = value.parse().map_err(|_| wrong())?;
        let note = add(&mut self.auxiliary, address);
        Ok(Taken {
            key: "listen",
            note,
        })
    }

    pub(super) fn relay_ip(&mut self, value: &str) -> Result<Taken, Refused> {
        let ip = ip(value)?;
        let is_first = |known: &IpAddr| {
            known.is_ipv4() == ip.is_ipv4() && *known != ip && !known.is_unspecified()
        };
        if self.relay_ips.iter().any(is_first) {
            return Err(Refused::NotSupported(
                "one IP of each family is relayed from, and there is one before",
            ));
        }
        let note = add(&mut self.relay_ips, ip);
        Ok(Taken {
            key: "relay-ip",
            note,
        })
    }

    /// Of several that stand for the same IP coturn takes the first.
    pub(super) fn external_ip(&mut self, value: &str) -> Result<Taken, Refused> {
        let name = value.split('/').find(|part| is_name(part));
        let wrong = |why: String| name.map_or_else(|| why.into(), |name| no_ip(name, ""));
        let ip: PublicIp = value.parse().map_err(wrong)?;
        let is_known = |known: &PublicIp| match (known.local, ip.local) {
            (None, None) => known.public.is_ipv4() == ip.public.is_ipv4(),
            (known, local) => known == local,
        };
        let first = self.public_ips.iter().find(|known| is_known(known));
        let note = match first {
            Some(first) if *first == ip => ONCE,
            Some(_) => "there is another one before, and the first counts, as in coturn",
            None => "",
        };
        if first.is_none() {
            self.public_ips.push(ip);
        }
        Ok(Taken {
            key: "public-ip",
            note,
        })
    }

    pub(super) fn threads(&mut self, value: &str) -> Result<Taken, Refused> {
        let (number, note) = number(value);
        let count: usize = number.parse().map_err(|_| "not a number")?;
        self.shards = Some(count.clamp(1, THREADS_MAX));
        let key = "shards";
        Ok(Taken { key, note })
    }

    pub(super) fn realm(&mut self, value: &str) -> Result<(), String> {
        if value.is_empty() || value.chars().count() > REALM_CHARS_MAX {
            return Err(format!("a realm has 1 to {REALM_CHARS_MAX} characters"));
        }
        self.realm = Some(value.to_owned());
        Ok(())
    }

    /// `NAME:PASSWORD`, or `NAME:0xKEY` with the MD5 over name, realm and password.
    pub(super) fn user(&mut self, value: &str) -> Result<Taken, Refused> {
        let (name, password) = value.split_once(':').ok_or("not NAME:PASSWORD")?;
        // Blanks behind the colon are not of the password, as coturn has it.
        let password = password.trim_start_matches([' ', '\t']);
        if name.is_empty() || password.is_empty() {
            return Err("name and password must not be empty".into());
        }
        if name.len() > USERNAME_BYTES_MAX {
            return Err(format!("a name has at most {USERNAME_BYTES_MAX} bytes").into());
        }
        // The last line of a name counts.
        self.passwords.remove(name);
        self.keys.remove(name);
        let Some(hex) = password.strip_prefix("0x") else {
            let password = Secret(password.to_owned());
            self.passwords.insert(name.to_owned(), password);
            return Ok(Taken {
                key: "realm.users",
                note: "",
            });
        };
        // coturn reads 32 digits and no more.
        let hex = hex.get(..MD5_HEX_DIGITS).ok_or("a key has 32 hex digits")?;
        if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a key has 32 hex digits".into());
        }
        self.keys.insert(name.to_owned(), Secret(hex.to_owned()));
        Ok(Taken {
            key: "realm.user-keys",
            note: "",
        })
    }

    pub(super) fn secret(&mut self, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Err("an empty secret would let everybody in".to_owned());
        }
        let secret = Secret(value.to_owned());
        if !self.secrets.contains(&secret) {
            self.secrets.push(secret);
        }
        Ok(())
    }

    /// coturn takes the first byte of whatever is there.
    pub(super) fn separator(&mut self, value: &str) -> Result<Taken, Refused> {
        let separator = value.chars().next().ok_or("nothing separates nothing")?;
        if !separator.is_ascii() || separator.is_ascii_digit() {
            return Err(Refused::NotSupported("it is one of ASCII, and no digit"));
        }
        self.separator = Some(separator).filter(|separator| *separator != ':');
        Ok(Taken {
            key: "realm.secrets-separator",
            note: "",
        })
    }

    pub(super) fn fleet_key(&mut self, value: &str) -> Result<(), Refused> {
        if value.len() < FLEET_KEY_BYTES_MIN {
            return Err(Refused::NotSupported("it must have at least 16 bytes"));
        }
        self.fleet_key = Some(Secret(value.to_owned()));
        Ok(())
    }

    pub(super) fn metrics_ip(&mut self, value: &str) -> Result<(), Refused> {
        self.metrics_ip = Some(ip(value)?);
        Ok(())
    }

    /// Makes a file of it, with what there is to say beyond single lines.
    pub(super) fn finish(mut self, machine: &Machine) -> (File, Vec<String>) {
        let mut notes = Vec::new();
        self.listen_somewhere(machine, &mut notes);
        if !self.no_tcp_relay {
            notes.push("TCP is not relayed (RFC 6062) unless `relay-tcp` says so".to_owned());
        }
        let listen = self.listen(&mut notes);
        let mut relay_ip = self.relay_ips(machine, &mut notes);
        self.drop_public_ips(&relay_ip, &mut notes);
        if relay_ip == first_of_each_family(&listen) {
            // It is so by default, also where a flag says where to listen.
            relay_ip.clear();
        }
        let tls = self.tls(&listen, &mut notes);
        let listen_udp = self.listen_udp(&listen, &tls, &mut notes);
        if self.no_udp && self.alternate_port.is_some() {
            notes.push(
                "alt-listening-port is of no use with no-udp: RFC 5780 is for UDP".to_owned(),
            );
        }
        if self.no_udp && self.no_tcp && tls.certificate.is_none() {
            notes.push("no-udp and no-tcp leave nothing to serve without TLS".to_owned());
        }
        let users = self.users(&mut notes);
        let peers = self.peers.finish(&mut notes);
        let limits = self.limits(&mut notes);
        let file = File {
            listen,
            listen_udp,
            plain_udp: self.no_udp.then_some(false),
            plain_tcp: self.no_tcp.then_some(false),
            relay_ip,
            public_ip: self.public_ips.clone(),
            relay_ports: self.relay_ports(&mut notes),
            fleet_key: self.fleet_key.clone(),
            nonce_lifetime: self.nonce_lifetime,
            allocation_lifetime: self.allocation_lifetime,
            metrics: self.metrics(),
            shards: self.shards,
            tls,
            realms: users.into_iter().collect(),
            peers,
            limits,
            ..File::default()
        };
        (file, notes)
    }

    /// Who names an address wants no others to be open.
    fn listen_somewhere(&mut self, machine: &Machine, notes: &mut Vec<String>) {
        if !self.listening_ips.is_empty() {
            return;
        }
        let note = if self.has_lost_listening_ip {
            "no listening-ip is taken over: say in `listen` where to listen, it listens nowhere else"
        } else {
            self.listening_ips.clone_from(&machine.ips);
            "no listening-ip: it listens on the addresses that this machine has now"
        };
        notes.push(note.to_owned());
    }

    fn listen(&self, notes: &mut Vec<String>) -> Vec<Listen<3478>> {
        let mut listen = self.at(self.port.unwrap_or(TURN_PORT));
        for address in &self.auxiliary {
            if add(&mut listen, *address) == ONCE {
                notes.push(format!(
                    "aux-server {address} is where it listens anyway: it is taken once"
                ));
            }
        }
        listen.into_iter().map(Listen).collect()
    }

    /// The second port of each address, unless it serves something else, too.
    fn listen_udp(
        &self,
        listen: &[Listen<3478>],
        tls: &Tls,
        notes: &mut Vec<String>,
    ) -> Vec<Listen<3479>> {
        let port = self.port.unwrap_or(TURN_PORT);
        let alternate = self.alternate_port.or_else(|| port.checked_add(1));
        let is_wanted = !self.no_rfc5780 && !self.no_udp;
        let alternate = alternate.filter(|_| is_wanted && self.has_two_addresses());
        let mut listen_udp: Vec<SocketAddr> = alternate.map_or_else(Vec::new, |port| self.at(port));
        let is_taken = |address: &SocketAddr| {
            listen.contains(&Listen(*address)) || tls.listen.contains(&Listen(*address))
        };
        for address in listen_udp.extract_if(.., |address| is_taken(address)) {
            notes.push(format!(
                "alt-listening-port: {address} is listened on anyway and taken once, so that clients cannot \
                 measure their NAT there (RFC 5780)"
            ));
        }
        listen_udp.into_iter().map(Listen).collect()
    }

    /// Each address with a port.
    fn at(&self, port: u16) -> Vec<SocketAddr> {
        let ips = self.listening_ips.iter();
        ips.map(|ip| SocketAddr::new(*ip, port)).collect()
    }

    /// Whether RFC 5780 is possible, for which two addresses of one family are needed.
    fn has_two_addresses(&self) -> bool {
        let usable = |is_v4: bool| {
            let ips = self.listening_ips.iter();
            ips.filter(|ip| ip.is_ipv4() == is_v4 && !ip.is_loopback())
                .count()
        };
        usable(true) > 1 || usable(false) > 1
    }

    /// coturn relays from the address that the client came to, unless it is told another one. Here there is
    /// one of each family.
    fn relay_ips(&self, machine: &Machine, notes: &mut Vec<String>) -> Vec<IpAddr> {
        if self.relay_ips.iter().any(|ip| !ip.is_unspecified()) {
            let named = self.relay_ips.iter().filter(|ip| !ip.is_unspecified());
            return named.copied().collect();
        }
        let choices = [true, false].map(|is_v4| self.relay_choices(machine, is_v4));
        let has_others = choices.iter().flatten().any(|ip| !ip.is_loopback());
        let mut chosen = Vec::new();
        for mut choices in choices {
            // Nobody else can be reached from there, but programs of this machine.
            choices.retain(|ip| !(has_others && ip.is_loopback()));
            let outward = choices.iter().find(|ip| machine.outward.contains(ip));
            let Some(ip) = outward.or_else(|| choices.first()).copied() else {
                continue;
            };
            if choices.len() > 1 {
                notes.push(format!(
                    "relays from {ip} alone, unless `relay-ip` says otherwise; coturn relays from where the \
                     client came to"
                ));
            }
            chosen.push(ip);
        }
        chosen
    }

    /// The IPs of a family that clients may come to, or all if these are not named.
    fn relay_choices(&self, machine: &Machine, is_v4: bool) -> Vec<IpAddr> {
        let of_family = |ips: &[IpAddr]| -> Vec<IpAddr> {
            let ips = ips.iter().copied();
            ips.filter(|ip| ip.is_ipv4() == is_v4).collect()
        };
        let named = of_family(&self.listening_ips);
        let all = [named.clone(), of_family(&self.relay_ips)].concat();
        if all.iter().any(IpAddr::is_unspecified) {
            return of_family(&machine.ips);
        }
        named
    }

    /// Takes out what stands for a relay IP that another one stands for by name, which is what coturn looks
    /// at first.
    fn drop_public_ips(&mut self, relay_ips: &[IpAddr], notes: &mut Vec<String>) {
        let named: Vec<IpAddr> = self.public_ips.iter().filter_map(|ip| ip.local).collect();
        let stands_for = |public: &PublicIp| {
            let mut of_family = relay_ips.iter();
            of_family.find(|ip| ip.is_ipv4() == public.public.is_ipv4())
        };
        let is_second = |ip: &PublicIp| {
            ip.local.is_none() && stands_for(ip).is_some_and(|local| named.contains(local))
        };
        for ip in self.public_ips.extract_if(.., |ip| is_second(ip)) {
            notes.push(format!(
                "external-ip {ip} is left out: there is another one with the relay IP behind a slash"
            ));
        }
    }

    fn metrics(&self) -> Option<SocketAddr> {
        let ip = self
            .metrics_ip
            .unwrap_or_else(|| Ipv4Addr::LOCALHOST.into());
        let port = self.metrics_port.unwrap_or(METRICS_PORT);
        self.has_metrics.then_some(SocketAddr::new(ip, port))
    }

    /// coturn relays from ports of services, too.
    fn relay_ports(&self, notes: &mut Vec<String>) -> Option<Ports> {
        if self.min_port.is_none() && self.max_port.is_none() {
            return None;
        }
        let (a, b) = (
            self.min_port.unwrap_or(RELAY_PORT_MIN),
            self.max_port.unwrap_or(u16::MAX),
        );
        let (min, max) = (a.min(b).max(SERVICE_PORTS_END), a.max(b));
        if min > a.min(b) {
            notes.push(format!(
                "min-port: ports below {SERVICE_PORTS_END} belong to services and are not relayed from"
            ));
        }
        (min <= max).then_some(Ports { min, max })
    }

    /// Where the two ports are the same, what is in `listen` serves both.
    fn tls(&self, listen: &[Listen<3478>], notes: &mut Vec<String>) -> Tls {
        if self.no_tls {
            if !self.no_dtls && self.certificate.is_some() {
                notes.push("no-tls leaves DTLS out too, which is not served alone".to_owned());
            }
            return Tls::default();
        }
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            notes.push("no cert and pkey: there is no TLS".to_owned());
            return Tls::default();
        };
        let further = self.at(self.tls_port.unwrap_or(TURNS_PORT)).into_iter();
        let further = further.filter(|address| !listen.contains(&Listen(*address)));
        Tls {
            certificate: Some(certificate.clone()),
            key: Some(key.clone()),
            listen: further.map(Listen).collect(),
            dtls: self.no_dtls.then_some(false),
        }
    }

    fn users(&self, notes: &mut Vec<String>) -> Option<Realm> {
        let has_users = !self.passwords.is_empty() || !self.keys.is_empty();
        let uses_secrets = self.uses_secret || !self.secrets.is_empty();
        if has_users && uses_secrets {
            notes.push("coturn ignores users where there are secrets; here both count".to_owned());
        }
        if self.uses_secret && self.secrets.is_empty() {
            notes
                .push("there is no static-auth-secret: give secrets in `realm.secrets`".to_owned());
        }
        if !has_users && self.secrets.is_empty() {
            notes.push("there are no users and no secrets: nobody can relay".to_owned());
        }
        if self.realm.is_none() && !self.keys.is_empty() {
            notes.push("keys of users are of one realm, and there is no realm".to_owned());
        }
        let brief = server::Realm::NAME_BYTES_BRIEF;
        if self.realm.as_ref().is_some_and(|name| name.len() > brief) {
            notes.push(format!(
                "with more than {brief} bytes in the realm's name, challenges over UDP are longer than 2.2 \
                 times what a usual client sends"
            ));
        }
        let name = self.realm.clone().unwrap_or_else(|| REALM.to_owned());
        let is_empty = self.realm.is_none() && !has_users && self.secrets.is_empty();
        (!is_empty).then(|| Realm {
            name,
            users: self.passwords.clone(),
            user_keys: self.keys.clone(),
            secrets: self.secrets.clone(),
            secrets_separator: self.separator,
            ..Realm::default()
        })
    }

    /// coturn has no bounds unless told so.
    fn limits(&self, notes: &mut Vec<String>) -> Limits {
        if self.user_quota.is_none() {
            notes.push("no user-quota: one user may have all allocations".to_owned());
        }
        let total = self.total_quota.unwrap_or(ALLOCATIONS_MAX);
        let bandwidth = self.bps_capacity.filter(|_| self.max_bps.is_some());
        if bandwidth != self.bps_capacity {
            notes.push("bps-capacity bounds nothing without max-bps, as in coturn".to_owned());
        }
        let rate = self.max_bps.map(|rate| {
            let capacity = bandwidth.and_then(|all| u32::try_from(all).ok());
            rate.min(capacity.unwrap_or(u32::MAX))
        });
        if rate != self.max_bps {
            notes.push(
                "max-bps is more than bps-capacity, which is what one session gets".to_owned(),
            );
        }
        if self.certificate.is_some() && !self.no_tls {
            notes.push(
                "handshakes are bounded by `handshakes-per-second`, a fifth of them for one network; in coturn \
                 by nothing"
                    .to_owned(),
            );
        }
        let connections = total.max(CONNECTIONS_MAX);
        Limits {
            allocations: self.total_quota,
            bytes_per_second: rate,
            bandwidth,
            allocations_per_user: Some(self.user_quota.unwrap_or(total)),
            // In coturn many clients may come from one network, as by a proxy.
            allocations_per_network: Some(total),
            permissions_per_network: Some(PEERS_MAX),
            channels_per_network: Some(PEERS_MAX),
            peer_connections_per_network: Some(CONNECTIONS_MAX),
            connections: Some(connections),
            connections_per_source: Some(connections),
            handshakes_per_source: Some(HANDSHAKES_MAX),
            ..Limits::default()
        }
    }
}

/// Adds what is not there yet, and returns what there is to say otherwise.
fn add<T: PartialEq>(values: &mut Vec<T>, value: T) -> &'static str {
    if values.contains(&value) {
        return ONCE;
    }
    values.push(value);
    ""
}

fn first_of_each_family(listen: &[Listen<3478>]) -> Vec<IpAddr> {
    let first = |is_v4: bool| {
        let mut ips = listen.iter().map(|listen| listen.0.ip());
        ips.find(|ip| ip.is_ipv4() == is_v4 && !ip.is_unspecified())
    };
    [first(true), first(false)].into_iter().flatten().collect()
}

fn ip(value: &str) -> Result<IpAddr, Refused> {
    value.parse().map_err(|_| no_ip(value, "not an IP"))
}

/// coturn looks names up as it starts.
fn no_ip(value: &str, otherwise: &str) -> Refused {
    if is_name(value) {
        return Refused::NotSupported("names are not looked up: give the IP");
    }
    otherwise.into()
}

fn is_name(text: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    text.contains(|c: char| c.is_ascii_alphabetic()) && text.chars().all(is_of_name)
}

/// What there is to say of a line that was there before.
const ONCE: &str = "it is there before, and taken once";
/// The realm of those who name none.
const REALM: &str = "tombolo";
const TURN_PORT: u16 = 3478;
const TURNS_PORT: u16 = 5349;
const RELAY_PORT_MIN: u16 = 49152;
/// A relay takes no ports below.
const SERVICE_PORTS_END: u16 = 1024;
/// As many allocations as there are by default.
const ALLOCATIONS_MAX: usize = 16_384;
/// As many permissions, and as many channels, as there are by default.
const PEERS_MAX: usize = 262_144;
/// As many TCP connections to peers, and as many of clients, as there are by default.
const CONNECTIONS_MAX: usize = 4096;
/// As many handshakes under way as there are by default.
const HANDSHAKES_MAX: usize = 256;
const METRICS_PORT: u16 = 9641;
const FLEET_KEY_BYTES_MIN: usize = 16;
const THREADS_MAX: usize = 128;
const REALM_CHARS_MAX: usize = 127;
const USERNAME_BYTES_MAX: usize = 508;
const MD5_HEX_DIGITS: usize = 32;
