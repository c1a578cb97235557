//! Every option of coturn, and what becomes of it.

use std::str::FromStr;

use super::draft::Draft;
use Handling::{Flag, FlagNotSupported, NotNeeded, NotSupported};

/// What happens to an option.
pub(super) enum Handling {
    /// It sets something here.
    Taken(fn(&mut Draft, &str) -> Result<Taken, Refused>),
    /// A flag that sets something here when it is on.
    Flag(fn(&mut Draft) -> Taken),
    /// What it asks for is so anyway, or is nobody's wish here.
    NotNeeded(&'static str),
    /// What it asks for cannot be had.
    NotSupported(&'static str),
    /// The same for a flag, of which nothing is asked when it is off.
    FlagNotSupported(&'static str),
}

/// Why a value was not taken.
pub(super) enum Refused {
    /// coturn would not have it either.
    Invalid(String),
    /// coturn would have it, and it cannot be had here.
    NotSupported(&'static str),
}

impl From<String> for Refused {
    fn from(because: String) -> Self {
        Self::Invalid(because)
    }
}

impl From<&str> for Refused {
    fn from(because: &str) -> Self {
        Self::Invalid(because.to_owned())
    }
}

/// The key of our configuration that an option became, with what there is to add.
pub(super) struct Taken {
    pub(super) key: &'static str,
    pub(super) note: &'static str,
}

/// Finds an option by its long name.
pub(super) fn find(name: &str) -> Option<&'static Handling> {
    let (_, handling) = OPTIONS.iter().find(|(option, _)| *option == name)?;
    Some(handling)
}

/// Iterates over the names of all options.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

const fn taken(key: &'static str) -> Taken {
    Taken { key, note: "" }
}

const fn noted(key: &'static str, note: &'static str) -> Taken {
    Taken { key, note }
}

/// Options by name: those of 4.6, and those of other versions that are found in files.
#[rustfmt::skip] // It is a table.
const OPTIONS: &[(&str, Handling)] = &[
    // Where the server is.
    ("listening-ip", Handling::Taken(Draft::listening_ip)),
    ("listening-port", Handling::Taken(|draft, value| set(&mut draft.port, value, "listen"))),
    ("tls-listening-port", Handling::Taken(|draft, value| set(&mut draft.tls_port, value, "tls.listen"))),
    ("alt-listening-port", Handling::Taken(|draft, value| set(&mut draft.alternate_port, value, "listen-udp"))),
    ("alt-tls-listening-port", NotNeeded("RFC 5780 is for UDP; one port for TLS is enough")),
    ("tcp-proxy-port", NotSupported("list the networks of the proxies in `proxy-protocol`: they connect to the usual ports, and their connections begin with a PROXY header")),
    ("aux-server", Handling::Taken(Draft::auxiliary)),
    ("udp-self-balance", NotNeeded("the kernel spreads clients over all shards")),
    ("listening-device", NotSupported("bind to addresses instead: `listen`")),
    ("relay-device", NotSupported("relay from addresses instead: `relay-ip`")),
    ("relay-ip", Handling::Taken(|draft, value| draft.relay_ip(value))),
    ("external-ip", Handling::Taken(Draft::external_ip)),
    ("min-port", Handling::Taken(|draft, value| set(&mut draft.min_port, value, "relay-ports"))),
    ("max-port", Handling::Taken(|draft, value| set(&mut draft.max_port, value, "relay-ports"))),
    ("relay-threads", Handling::Taken(Draft::threads)),
    ("cpus", Handling::Taken(Draft::threads)),
    ("sock-buf-size", NotNeeded("sockets have buffers for the load of a shard")),
    ("no-udp", Flag(|draft| { draft.no_udp = true; taken("plain-udp") })),
    ("no-tcp", Flag(|draft| { draft.no_tcp = true; taken("plain-tcp") })),
    ("no-tls", Flag(|draft| { draft.no_tls = true; taken("tls") })),
    ("no-dtls", Flag(|draft| { draft.no_dtls = true; taken("tls.dtls") })),
    ("dtls", NotNeeded("DTLS is served wherever TLS is, with a key on the curve P-256 or P-384")),
    ("no-udp-relay", FlagNotSupported("relaying over UDP is what TURN is for")),
    ("no-tcp-relay", Flag(|draft| { draft.no_tcp_relay = true; taken("relay-tcp") })),
    ("rfc5780", NotNeeded("it is on wherever there are two addresses with two ports each")),
    ("no-rfc5780", Flag(|draft| { draft.no_rfc5780 = true; noted("listen-udp", "there is no second port, and so nothing to announce") })),
    // Who may come in.
    ("lt-cred-mech", NotNeeded("long-term credentials are always required to relay")),
    ("no-auth", FlagNotSupported("relaying for anybody is an open door; give users or secrets")),
    ("user", Handling::Taken(|draft, value| draft.user(value))),
    ("realm", Handling::Taken(|draft, value| { draft.realm(value)?; Ok(taken("realm.name")) })),
    ("use-auth-secret", Flag(|draft| { draft.uses_secret = true; taken("realm.secrets") })),
    ("static-auth-secret", Handling::Taken(|draft, value| { draft.secret(value)?; Ok(taken("realm.secrets")) })),
    ("rest-api-separator", Handling::Taken(Draft::separator)),
    ("no-auth-pings", NotNeeded("there is no database to ask")),
    ("no-dynamic-ip-list", NotNeeded("there is no database to ask")),
    ("no-dynamic-realms", NotNeeded("there is no database to ask")),
    ("userdb", NotSupported(DATABASE)),
    ("db", NotSupported(DATABASE)),
    ("psql-userdb", NotSupported(DATABASE)),
    ("sql-userdb", NotSupported(DATABASE)),
    ("mysql-userdb", NotSupported(DATABASE)),
    ("mongo-userdb", NotSupported(DATABASE)),
    ("redis-userdb", NotSupported(DATABASE)),
    ("redis-statsdb", NotSupported("counters are at the metrics address, allocations in `tombolo turn list`")),
    ("secret-key-file", NotNeeded("there is no database whose password is encrypted")),
    ("oauth", FlagNotSupported("coturn keeps OAuth keys in a database; give them in `realm.oauth.keys`")),
    ("server-name", NotSupported("it is for OAuth; give it in `realm.oauth.server-name`")),
    ("check-origin-consistency", FlagNotSupported("the origin chooses a realm and nothing else")),
    ("secure-stun", FlagNotSupported("Binding requests are answered without credentials, with fewer bytes than a flood would need")),
    // What they may do.
    ("user-quota", Handling::Taken(|draft, value| set_bound(&mut draft.user_quota, value, "limits.allocations-per-user"))),
    ("total-quota", Handling::Taken(|draft, value| set_bound(&mut draft.total_quota, value, "limits.allocations"))),
    ("max-bps", Handling::Taken(|draft, value| set_bound(&mut draft.max_bps, value, "limits.bytes-per-second"))),
    ("bps-capacity", Handling::Taken(|draft, value| { set_bound(&mut draft.bps_capacity, value, "limits.bandwidth")?; Ok(noted("limits.bandwidth", "an allocation that would have to do with less than max-bps is refused")) })),
    ("allowed-peer-ip", Handling::Taken(|draft, value| { draft.peers.allow(value)?; Ok(taken("peers.allow")) })),
    ("denied-peer-ip", Handling::Taken(|draft, value| { draft.peers.deny(value)?; Ok(taken("peers.deny")) })),
    ("allow-loopback-peers", Flag(|draft| { draft.peers.has_loopback = true; noted("peers.allow", "on the internet it opens this machine to clients") })),
    ("no-multicast-peers", NotNeeded("multicast is always refused")),
    ("no-loopback-peers", NotNeeded("loopback is always refused unless `peers.allow` lists it")),
    ("server-relay", FlagNotSupported("packets of peers without a permission are never relayed")),
    ("max-allocate-lifetime", Handling::Taken(|draft, value| { draft.allocation_lifetime = lifetime(value, 3600, 24 * 3600)?; Ok(taken("allocation-lifetime")) })),
    ("max-allocate-timeout", NotNeeded("connections without an allocation are closed after 30 s")),
    ("channel-lifetime", NotNeeded("it is 10 minutes, as RFC 8656 has it")),
    ("permission-lifetime", NotNeeded("it is 5 minutes, as RFC 8656 has it")),
    ("stale-nonce", Handling::Taken(|draft, value| { draft.nonce_lifetime = lifetime(value, 600, 3600)?; Ok(noted("nonce-lifetime", "an hour at most, as RFC 8489 §9.2 has it")) })),
    ("stateless-nonce", NotNeeded("nonces are stateless")),
    ("stateless-nonce-secret", Handling::Taken(|draft, value| draft.fleet_key(value).map(|()| taken("fleet-key")))),
    ("unauthorized-ratelimit", NotNeeded("answers without proof are always budgeted by source network")),
    ("unauthorized-ratelimit-rps", NotNeeded("answers without proof are always budgeted by source network")),
    ("mobility", NotNeeded("clients that ask for mobility get it, unless `mobility` is false")),
    ("stun-only", FlagNotSupported("without users and secrets nobody can relay: leave them out")),
    ("no-stun", FlagNotSupported("Binding requests are always answered; TURN clients need them")),
    ("allocation-default-address-family", Handling::Taken(|_, value| family(value))),
    ("keep-address-family", FlagNotSupported("clients that name no family get IPv4, as RFC 8656 §7.2 has it")),
    ("alternate-server", NotSupported(ALTERNATES)),
    ("tls-alternate-server", NotSupported(ALTERNATES)),
    ("udp-alternate-server", NotSupported(ALTERNATES)),
    ("tcp-alternate-server", NotSupported(ALTERNATES)),
    ("multiplex-peer", NotNeeded("`io = \"steered\"` has one socket for all relay ports, without its restrictions")),
    ("multiplex-peer-port", NotNeeded("`io = \"steered\"` has one socket for all relay ports, without its restrictions")),
    ("multiplex-peer-max-peers", NotNeeded("`io = \"steered\"` has one socket for all relay ports, without its restrictions")),
    // What the answers look like.
    ("fingerprint", FlagNotSupported("replies have no FINGERPRINT, which TURN does not ask for; that of a request is checked")),
    ("no-software-attribute", NotNeeded("the software is not announced")),
    ("prod", NotNeeded("the software is not announced")),
    ("software-attribute", FlagNotSupported("the software is not announced")),
    ("no-stun-backward-compatibility", NotNeeded("replies of RFC 3489 are never sent")),
    ("stun-backward-compatibility", FlagNotSupported("clients of RFC 3489 are 20 years old")),
    ("rfc3489-compatibility", FlagNotSupported("clients of RFC 3489 are 20 years old")),
    ("rfc5766-channel-numbers", NotNeeded("channel numbers of RFC 5766 are accepted")),
    ("response-origin-only-with-rfc5780", NotNeeded("RESPONSE-ORIGIN is sent only where there is another address")),
    ("include-reason-string", NotNeeded("whoever has shown credentials is told the reason in words")),
    ("respond-http-unsupported", FlagNotSupported("what is not STUN or TURN is dropped")),
    ("drop-invalid-packets", NotNeeded("what is not STUN or TURN is dropped")),
    ("drop-invalid-packets-log", NotNeeded("every refusal is counted with its reason")),
    // TLS.
    ("cert", Handling::Taken(|draft, value| { draft.certificate = Some(value.into()); Ok(taken("tls.certificate")) })),
    ("pkey", Handling::Taken(|draft, value| { draft.key = Some(value.into()); Ok(taken("tls.key")) })),
    ("pkey-pwd", NotSupported("keys are read as they are: decrypt the file, for example with openssl pkey")),
    ("CA-file", NotSupported("clients prove themselves by TURN credentials, not by certificates")),
    ("raw-public-keys", FlagNotSupported("certificates are used")),
    ("cipher-list", NotNeeded("only ciphers with forward secrecy are used, none of them weak")),
    ("ec-curve-name", NotNeeded("curves are negotiated: X25519, P-256, P-384")),
    ("dh566", NotNeeded("key exchange is by elliptic curves")),
    ("dh1066", NotNeeded("key exchange is by elliptic curves")),
    ("dh2066", NotNeeded("key exchange is by elliptic curves")),
    ("dh-file", NotNeeded("key exchange is by elliptic curves")),
    ("no-sslv2", NotNeeded("TLS is 1.2 or 1.3")),
    ("no-sslv3", NotNeeded("TLS is 1.2 or 1.3")),
    ("no-tlsv1", NotNeeded("TLS is 1.2 or 1.3")),
    ("no-tlsv1_1", NotNeeded("TLS is 1.2 or 1.3")),
    ("secret-ts-exp-time", NotNeeded("the username of time-limited credentials has the time of its end")),
    ("no-http", NotNeeded("there is no web page; see `tombolo turn list`")),
    ("no-tlsv1_2", FlagNotSupported("TLS 1.2 stays for clients that need it")),
    ("tlsv1", FlagNotSupported("TLS is 1.2 or 1.3")),
    ("tlsv1_1", FlagNotSupported("TLS is 1.2 or 1.3")),
    // The process.
    ("verbose", NotNeeded(LOG)),
    ("Verbose", NotNeeded(LOG)),
    ("log-file", NotNeeded(LOG)),
    ("no-stdout-log", NotNeeded(LOG)),
    ("syslog", NotNeeded(LOG)),
    ("syslog-facility", NotNeeded(LOG)),
    ("simple-log", NotNeeded(LOG)),
    ("log-min-level", NotNeeded(LOG)),
    ("new-log-timestamp", NotNeeded(LOG)),
    ("new-log-timestamp-format", NotNeeded(LOG)),
    ("log-binding", NotNeeded(LOG)),
    ("daemon", NotNeeded("it runs in the foreground, as service managers want it")),
    ("pidfile", NotNeeded("the service manager knows the process")),
    ("proc-user", NotNeeded("the service manager starts it as another user: `User=` of systemd")),
    ("proc-group", NotNeeded("the service manager starts it as another group: `Group=` of systemd")),
    ("no-cli", NotNeeded("there is no telnet; see `tombolo turn list`")),
    ("cli", FlagNotSupported("there is no telnet; see `tombolo turn list`")),
    ("cli-ip", NotNeeded("there is no telnet; see `tombolo turn list`")),
    ("cli-port", NotNeeded("there is no telnet; see `tombolo turn list`")),
    ("cli-password", NotNeeded("there is no telnet; see `tombolo turn list`")),
    ("cli-max-output-sessions", NotNeeded("`tombolo turn list` gives pages")),
    ("web-admin", FlagNotSupported("there is no web page; see `tombolo turn list`")),
    ("web-admin-ip", NotNeeded("there is no web page; see `tombolo turn list`")),
    ("web-admin-port", NotNeeded("there is no web page; see `tombolo turn list`")),
    ("web-admin-listen-on-workers", NotNeeded("there is no web page; see `tombolo turn list`")),
    ("acme-redirect", NotSupported("let another program answer on port 80")),
    ("drain-min-allocations", NotNeeded("a drain ends with the last allocation or at its deadline")),
    ("prometheus", Flag(|draft| { draft.has_metrics = true; noted("metrics", "on loopback unless there is an address; users are never labels") })),
    ("prometheus-address", Handling::Taken(|draft, value| { draft.metrics_ip(value)?; Ok(taken("metrics")) })),
    ("prometheus-port", Handling::Taken(|draft, value| set(&mut draft.metrics_port, value, "metrics"))),
    ("prometheus-path", NotNeeded("the path is /metrics")),
    ("prometheus-username-labels", FlagNotSupported("a label for each user has no bound; see `tombolo turn list`")),
    ("prometheus-tls", FlagNotSupported("metrics are served in the clear, on an address of your choice")),
    ("prometheus-cert", NotNeeded("metrics are served in the clear, on an address of your choice")),
    ("prometheus-key", NotNeeded("metrics are served in the clear, on an address of your choice")),
    ("ne", NotNeeded("see `io`")),
    ("udp-recvmmsg", NotNeeded("packets are moved in batches")),
    ("udp-recvmmsg-log", NotNeeded("packets are moved in batches")),
    ("udp-sendmmsg-log", NotNeeded("packets are moved in batches")),
    ("udp-gso", NotNeeded("packets are moved in batches")),
];

fn set(port: &mut Option<u16>, value: &str, key: &'static str) -> Result<Taken, Refused> {
    let (number, note) = number(value);
    *port = match number.parse().map_err(|_| "not a port")? {
        0 => None,
        port => Some(port),
    };
    Ok(noted(key, note))
}

/// Sets what 0 leaves without a bound.
fn set_bound<T: FromStr + Default + PartialEq>(
    bound: &mut Option<T>,
    value: &str,
    key: &'static str,
) -> Result<Taken, Refused> {
    let (number, note) = number(value);
    let number: T = number.parse().map_err(|_| "not a number")?;
    *bound = Some(number).filter(|number| *number != T::default());
    Ok(noted(key, note))
}

/// The number that a value begins with, which is what coturn takes, and what there is to say of the rest.
pub(super) fn number(value: &str) -> (&str, &'static str) {
    let end = value.find(|c: char| !c.is_ascii_digit());
    match end {
        None | Some(0) => (value, ""),
        Some(end) => (
            &value[..end],
            "the number alone, as in coturn, and not what follows",
        ),
    }
}

/// Seconds, no longer than `max`; 0 stands for no bound.
fn lifetime(value: &str, usual: u64, max: u64) -> Result<Option<u64>, Refused> {
    let (number, _) = number(value);
    let seconds = match number {
        "" => usual,
        _ => number.parse().map_err(|_| "not a number of seconds")?,
    };
    match seconds {
        0 => Ok(Some(max)),
        1..LIFETIME_MIN => Err(Refused::NotSupported("a minute is the least")),
        _ => Ok(Some(seconds.min(max))),
    }
}

fn family(value: &str) -> Result<Taken, Refused> {
    match value {
        "ipv4" => Ok(noted(
            "relay-ip",
            "it is always IPv4, as RFC 8656 §7.2 has it",
        )),
        "ipv6" | "keep" => Err(Refused::NotSupported(
            "clients that name no family get IPv4, as RFC 8656 §7.2 has it",
        )),
        _ => Err("not ipv4, ipv6 or keep".into()),
    }
}

const LIFETIME_MIN: u64 = 60;
const DATABASE: &str = "there is no database: give users in the file, secrets, or an HTTP hook";
const ALTERNATES: &str = "servers that take over are named in `tombolo turn drain`";
const LOG: &str = "logs go to standard error, as much of them as --log says";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_option_is_there_twice() {
        for (i, (option, _)) in OPTIONS.iter().enumerate() {
            assert!(
                OPTIONS[..i].iter().all(|(other, _)| other != option),
                "{option}"
            );
        }
    }
}
