use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use tombolo_turn::server::AddressPolicy;

use super::super::settings::Settings;
use super::*;

/// A configuration as operators write them, with a secret in it wherever one may be.
const TYPICAL: &str = "\
# TURN server of example.org
listening-port=3478
tls-listening-port=5349
listening-ip=10.0.0.5
listening-ip=10.0.0.6
listening-ip=2001:db8::5
relay-ip=10.0.0.5
external-ip=203.0.113.5/10.0.0.5
external-ip=203.0.113.6/10.0.0.6
min-port=50000
max-port=60000
fingerprint
use-auth-secret
static-auth-secret=hunter2-new
static-auth-secret=hunter2-old
realm=example.org
user-quota=12
total-quota=1200
max-bps=64000
stale-nonce=600
no-multicast-peers
denied-peer-ip=0.0.0.0-0.255.255.255
denied-peer-ip=83.166.64.0-83.166.95.255
allowed-peer-ip=83.166.68.45
allowed-peer-ip=10.0.0.7
no-tlsv1
no-tlsv1_1
cipher-list=\"ECDHE+AESGCM\"
no-cli
proc-user=turnserver
mobility
prometheus
prometheus-port=9642
max-allocate-lifetime=1800
syslog
";

/// Each line has something to trip over.
const NASTY: &str = "\
user=alice:p=a:s s\"w#o'r\\d
user=alice:hunter2-later
user=bob:0xbc807ee29df3c9ffa736523fb2c4e8eeffff
user=carol:0xhunter2
user=:hunter2
user=dave:
user=hunter2
user = eve: \"hunter2\"
realm=
max-port=65536
min-port=-1
listening-ip=example.org
listening-ip=10.0.0.5/24
relay-ip=10.0.0.5
relay-ip=10.0.0.6
external-ip=10.0.0.5/2001:db8::1
external-ip=/
denied-peer-ip=10.0.0.0/8
denied-peer-ip=10.0.0.9-10.0.0.1
no-tcp=maybe
no-auth=off
verbose=0
hunter2=hunter2
static-auth-secret=
static-auth-secret hunter2 = x
total-quota=99999999999999999999999
user-quota=many
\u{feff}realm=x
Realm=x
relay-threads=-3
relay-threads=0
listening-port=0
";

/// On a machine that has addresses, of which the second is the one towards the internet.
fn of(text: &str) -> Import {
    Import::of(text, &machine())
}

fn machine() -> Machine {
    let ip = |text: &str| text.parse().expect("a literal");
    let ips = ["127.0.0.1", "::1", "192.168.0.5", "10.0.0.5", "127.0.0.1"].map(ip);
    Machine::new(ips.to_vec(), vec![ip("10.0.0.5")])
}

fn fate_of(import: &Import, line: usize) -> &Fate {
    let entry = import.entries.iter().find(|entry| entry.line == line);
    &entry.expect("every line has a fate").fate
}

fn is_invalid(fate: &Fate) -> bool {
    matches!(fate, Fate::Invalid { .. })
}

fn text_of(import: &Import) -> String {
    let mut text = String::new();
    for entry in &import.entries {
        writeln!(text, "{entry}").expect("it is a string");
        text += &serde_json::to_string(entry).expect("it can be written");
    }
    text + &import.notes.join("\n")
}

#[test]
fn a_usual_configuration_means_the_same_here() {
    let import = of(TYPICAL);
    let counts = import.counts();
    assert_eq!(counts.invalid, 0, "{}", text_of(&import));
    assert_eq!(
        counts.taken + counts.not_needed + counts.not_supported,
        TYPICAL.lines().count() - 1,
        "all but the comment"
    );
    assert_eq!(counts.not_supported, 1, "{}", text_of(&import));
    assert!(matches!(fate_of(&import, 12), Fate::NotSupported { .. }));
    let text = import.file.render().expect("it can be written");
    let file = File::parse(&text).expect("it is right");
    assert_eq!(file, import.file);
    let settings = Settings::new(file, Path::new("")).expect("it makes sense");
    let relay = &settings.relay;
    let texts = |addresses: &[std::net::SocketAddr]| {
        let texts = addresses.iter().map(ToString::to_string);
        texts.collect::<Vec<_>>()
    };
    assert_eq!(
        texts(&relay.listen),
        ["10.0.0.5:3478", "10.0.0.6:3478", "[2001:db8::5]:3478"]
    );
    assert_eq!(
        texts(&relay.listen_udp),
        ["10.0.0.5:3479", "10.0.0.6:3479", "[2001:db8::5]:3479"]
    );
    assert_eq!(relay.relay_ips.len(), 1);
    assert_eq!(relay.public_ips.len(), 2);
    assert_eq!(relay.nonce_lifetime.as_secs(), 600);
    assert_eq!(relay.lifetime_max.as_secs(), 1800);
    let metrics = settings.at_start.metrics.map(|address| address.to_string());
    assert_eq!(metrics.as_deref(), Some("127.0.0.1:9642"));
    assert_eq!(relay.relay_ports, 50000..=60000);
    assert_eq!(relay.realm.name, "example.org");
    assert_eq!(relay.realm.secrets.len(), 2);
    assert_eq!(relay.limits.total.allocations, Some(1200));
    let bandwidth = relay.limits.bandwidth.map(|limit| limit.bytes_per_second);
    assert_eq!(bandwidth, Some(64_000));
    assert_eq!(relay.limits.per_user.allocations, Some(12));
    let denied: Vec<_> = relay.deny_peers.iter().map(ToString::to_string).collect();
    assert_eq!(denied, ["0.0.0.0/8", "83.166.64.0/19"]);
    let allowed: Vec<_> = relay.allow_peers.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["83.166.68.45/32", "10.0.0.7/32"]);
}

#[test]
fn hostile_lines_are_told_apart_and_none_shows_a_secret() {
    let import = of(NASTY);
    assert_eq!(import.entries.len(), NASTY.lines().count());
    let text = text_of(&import);
    assert!(!text.contains("hunter2"), "{text}");
    let invalid: Vec<_> = import
        .entries
        .iter()
        .filter(|entry| is_invalid(&entry.fate))
        .map(|entry| entry.line)
        .collect();
    let expected = [
        4, 5, 6, 7, 9, 10, 11, 13, 16, 17, 18, 19, 20, 23, 24, 26, 27, 28, 29, 30,
    ];
    assert_eq!(invalid, expected, "{text}");
    assert!(text.contains("did you mean realm?"), "{text}");
    let realm = &import.file.realms[0];
    assert_eq!(realm.users["alice"].0, "hunter2-later", "the last counts");
    assert_eq!(realm.users["eve"].0, "\"hunter2\"");
    assert_eq!(realm.user_keys["bob"].0, "bc807ee29df3c9ffa736523fb2c4e8ee");
    assert_eq!(realm.secrets[0].0, "hunter2 = x");
    assert_eq!(import.file.shards, Some(1));
    assert_eq!(
        *fate_of(&import, 21),
        Fate::NotNeeded {
            because: "it is off"
        }
    );
}

#[test]
fn a_password_survives_whatever_is_in_it() {
    let password = "p=a:s s\"w#o'r\\d\u{7f}ü\t$";
    let import = of(&format!("user=alice:{password}\n"));
    let text = import.file.render().expect("it can be written");
    let file = File::parse(&text).expect("it is right");
    assert_eq!(file.realms[0].users["alice"].0, password);
}

#[test]
fn another_separator_of_time_and_name_is_taken_over() {
    let of = |line: &str| {
        let import = of(&format!(
            "listening-ip=10.0.0.5\nstatic-auth-secret=s\n{line}\n"
        ));
        let settings = Settings::new(import.file, Path::new("")).expect("it makes sense");
        settings.relay.realm.secrets_separator
    };
    assert_eq!(of("rest-api-separator=|"), Some('|'));
    assert_eq!(of("rest-api-separator=:"), None);
    assert_eq!(of(""), None);
}

#[test]
fn a_line_that_coturn_would_cut_is_not_taken() {
    let import = of(&format!("static-auth-secret={}\n", "x".repeat(1100)));
    assert!(is_invalid(fate_of(&import, 1)));
    assert_eq!(import.file.realms, []);
}

#[test]
fn what_is_unlimited_in_coturn_is_not_less_here_than_the_server_holds() {
    let import = of("listening-ip=10.0.0.5\nuser=shared:by all\n");
    assert_eq!(import.file.limits.allocations_per_user, Some(16_384));
    let import = of("listening-ip=10.0.0.5\ntotal-quota=100\nuser-quota=0\n");
    assert_eq!(import.file.limits.allocations_per_user, Some(100));
    for (text, least) in [
        ("", 16_384),
        ("total-quota=20000\n", 20_000),
        ("total-quota=9\n", 9),
    ] {
        let file = of(&format!("listening-ip=10.0.0.5\n{text}")).file;
        let relay = Settings::new(file, Path::new(""))
            .expect("it makes sense")
            .relay;
        // A proxy may bring all clients, or one company be all of them.
        assert!(relay.connections_max >= least, "{text}");
        assert_eq!(relay.connections_per_source_max, relay.connections_max);
        assert_eq!(relay.handshakes_per_source_max, relay.handshakes_max);
    }
}

#[test]
fn what_is_allowed_in_coturn_although_it_is_denied_stays_allowed() {
    let import = of("allowed-peer-ip=10.0.0.0-10.255.255.255\ndenied-peer-ip=10.1.2.3\n");
    assert_eq!(import.file.peers.deny, []);
    let says = |note: &String| note.contains("10.1.2.3/32 has no effect");
    assert!(import.notes.iter().any(says), "{:?}", import.notes);
}

#[test]
fn what_is_denied_of_loopback_stays_denied() {
    let file = of("allow-loopback-peers\ndenied-peer-ip=127.0.0.53\n").file;
    assert_eq!(
        file.peers.deny,
        ["127.0.0.53/32".parse().expect("a literal")]
    );
    assert!(
        file.peers
            .allow
            .contains(&"127.0.0.0/8".parse().expect("a literal"))
    );
}

#[test]
fn no_peer_is_reached_that_coturn_refuses() {
    const ALL: &str = "0.0.0.0-255.255.255.255";
    const ALL_V6: &str = "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    for (lines, peer, is_reached) in [
        (
            format!("allow-loopback-peers\ndenied-peer-ip={ALL}\n"),
            "127.0.0.53",
            false,
        ),
        (
            format!("allow-loopback-peers\ndenied-peer-ip={ALL_V6}\n"),
            "::1",
            false,
        ),
        (
            format!("allow-loopback-peers\ndenied-peer-ip={ALL}\n"),
            "::1",
            true,
        ),
        ("allow-loopback-peers\n".to_owned(), "127.0.0.53", true),
        (
            format!("allow-loopback-peers\nallowed-peer-ip={ALL}\n"),
            "127.0.0.53",
            true,
        ),
        (
            format!("allow-loopback-peers\nallowed-peer-ip=127.0.0.53\ndenied-peer-ip={ALL}\n"),
            "127.0.0.53",
            true,
        ),
        (format!("allowed-peer-ip={ALL}\n"), "127.0.0.53", false),
        (format!("allowed-peer-ip={ALL}\n"), "0.0.0.0", false),
        (format!("allowed-peer-ip={ALL}\n"), "169.254.169.254", false),
        (format!("allowed-peer-ip={ALL}\n"), "239.1.2.3", false),
        (format!("allowed-peer-ip={ALL}\n"), "10.0.0.9", true),
        (
            format!("allowed-peer-ip={ALL}\ndenied-peer-ip=127.0.0.53\n"),
            "127.0.0.53",
            false,
        ),
        (
            "allowed-peer-ip=126.0.0.0-127.0.0.99\n".to_owned(),
            "127.0.0.53",
            false,
        ),
        (
            "allowed-peer-ip=169.254.169.254\n".to_owned(),
            "169.254.169.254",
            false,
        ),
        (format!("allowed-peer-ip={ALL_V6}\n"), "::1", false),
        (format!("allowed-peer-ip={ALL_V6}\n"), "fe80::1", false),
        (format!("allowed-peer-ip={ALL_V6}\n"), "fd00::1", false),
        (format!("allowed-peer-ip={ALL_V6}\n"), "ff0e::1", false),
        (
            format!("allowed-peer-ip={ALL}\nallowed-peer-ip={ALL_V6}\n"),
            "64:ff9b::7f00:2",
            false,
        ),
    ] {
        let file = of(&format!("listening-ip=10.0.0.5\n{lines}")).file;
        let relay = Settings::new(file, Path::new(""))
            .expect("it makes sense")
            .relay;
        let policy = AddressPolicy {
            allow: relay.allow_peers,
            deny: relay.deny_peers,
            own: Vec::new(),
            relay_ips: Vec::new(),
            relay_ports: relay.relay_ports,
            own_ports: BTreeSet::new(),
        };
        let checked = policy.check_ip(peer.parse().expect("a literal"));
        assert_eq!(checked.is_ok(), is_reached, "{lines}{peer}: {checked:?}");
    }
    let notes = of("allowed-peer-ip=127.0.0.53\n").notes;
    let says = |note: &String| note.contains("127.0.0.53/32 is left out");
    assert!(notes.iter().any(says), "{notes:?}");
}

#[test]
fn no_port_of_a_service_is_relayed_from() {
    let says = |note: &String| note.contains("below 1024");
    for (text, ports, is_told) in [
        ("min-port=1000\nmax-port=2000", Some("1024-2000"), true),
        ("min-port=1024\nmax-port=2000", Some("1024-2000"), false),
        ("min-port=800\nmax-port=900", None, true),
    ] {
        let import = of(text);
        let taken = import.file.relay_ports.map(|ports| ports.to_string());
        assert_eq!(taken.as_deref(), ports, "{text}");
        assert_eq!(import.notes.iter().any(says), is_told, "{text}");
    }
}

#[test]
fn one_port_for_tls_and_all_else_is_bound_once() {
    let tls = "cert=c\npkey=k\nlistening-ip=127.0.0.1\ntls-listening-port=443\n";
    let same = of(&format!("{tls}listening-port=443\n")).file;
    assert_eq!(same.tls.listen, []);
    assert!(same.tls.certificate.is_some());
    assert_eq!(same.listen.len(), 1);
    let further = of(&format!("{tls}aux-server=127.0.0.1:443\n")).file;
    assert_eq!((further.listen.len(), further.tls.listen.len()), (2, 0));
    let twice = of("listening-ip=127.0.0.1\naux-server=127.0.0.1:3478\n").file;
    assert_eq!(twice.listen.len(), 1);
    // Two interfaces of the machine have one address.
    assert_eq!(of("").file.listen.len(), 4);
}

#[test]
fn what_is_there_twice_is_taken_once_and_said_so() {
    let base = "listening-ip=10.0.0.5\nlistening-ip=10.0.0.6\ncert=c\npkey=k\n";
    for (lines, says) in [
        ("listening-ip=10.0.0.5\n", "taken once"),
        ("relay-ip=10.0.0.5\nrelay-ip=10.0.0.5\n", "taken once"),
        (
            "aux-server=10.0.0.5:80\naux-server=10.0.0.5:80\n",
            "taken once",
        ),
        ("aux-server=10.0.0.5:3478\n", "aux-server 10.0.0.5:3478 is"),
        (
            "aux-server=10.0.0.5:3479\n",
            "alt-listening-port: 10.0.0.5:3479",
        ),
        (
            "alt-listening-port=3478\n",
            "alt-listening-port: 10.0.0.6:3478",
        ),
        (
            "alt-listening-port=5349\n",
            "alt-listening-port: 10.0.0.6:5349",
        ),
        (
            "external-ip=203.0.113.5\nexternal-ip=203.0.113.5\n",
            "taken once",
        ),
        (
            "external-ip=203.0.113.5\nexternal-ip=203.0.113.6\n",
            "the first counts",
        ),
        (
            "external-ip=203.0.113.5/10.0.0.5\nexternal-ip=203.0.113.6/10.0.0.5\n",
            "the first counts",
        ),
        (
            "external-ip=203.0.113.5\nexternal-ip=203.0.113.6/10.0.0.5\n",
            "external-ip 203.0.113.5 is left out",
        ),
    ] {
        let import = of(&format!("{base}{lines}"));
        let text = text_of(&import);
        assert!(text.contains(says), "{lines}{text}");
        let file = import.file;
        assert!(file.public_ip.len() <= 1, "{lines}");
        // Without files that are not there.
        let file = File {
            tls: super::super::file::Tls::default(),
            ..file
        };
        let settings = Settings::new(file, Path::new(""));
        assert!(settings.is_ok(), "{lines}{:?}", settings.err());
    }
    let text = text_of(&of(base));
    assert!(!text.contains("taken once"), "{text}");
}

#[test]
fn a_listening_ip_that_is_lost_does_not_open_all_addresses() {
    for line in ["listening-ip=localhost", "listening-ip=10.0.0.5/24"] {
        let import = of(&format!("{line}\n"));
        assert_eq!(import.file.listen, [], "{line}");
        let says = |note: &String| note.contains("where to listen");
        assert!(import.notes.iter().any(says), "{:?}", import.notes);
    }
    let file = of("listening-ip=localhost\nlistening-ip=10.0.0.5\n").file;
    assert_eq!(file.listen.len(), 1);
}

#[test]
fn what_clients_cannot_reach_is_not_relayed_from() {
    for (text, relays_from) in [
        (
            "listening-ip=127.0.0.1\nlistening-ip=10.0.0.9\n",
            &["10.0.0.9"][..],
        ),
        (
            "listening-ip=192.168.0.5\nlistening-ip=10.0.0.5\n",
            &["10.0.0.5"],
        ),
        ("listening-ip=::1\nlistening-ip=10.0.0.9\n", &["10.0.0.9"]),
        ("listening-ip=0.0.0.0\n", &["10.0.0.5"]),
        (
            "listening-ip=0.0.0.0\nexternal-ip=203.0.113.5\n",
            &["10.0.0.5"],
        ),
        ("listening-ip=127.0.0.1\nrelay-ip=0.0.0.0\n", &["10.0.0.5"]),
        (
            "listening-ip=127.0.0.1\nrelay-ip=192.168.0.5\n",
            &["192.168.0.5"],
        ),
        (
            "listening-ip=127.0.0.1\nrelay-ip=0.0.0.0\nrelay-ip=192.168.0.5\n",
            &["192.168.0.5"],
        ),
        ("listening-ip=127.0.0.1\n", &["127.0.0.1"]),
        (
            "listening-ip=10.0.0.8\nlistening-ip=2001:db8::9\n",
            &["10.0.0.8", "2001:db8::9"],
        ),
        (
            "listening-ip=10.0.0.8\naux-server=[::1]:3478\n",
            &["10.0.0.8"],
        ),
        ("", &["10.0.0.5"]),
    ] {
        let file = of(text).file;
        let from: Vec<IpAddr> = match file.relay_ip.as_slice() {
            [] => file.listen.iter().map(|listen| listen.0.ip()).collect(),
            named => named.to_vec(),
        };
        let from: Vec<_> = from.iter().map(ToString::to_string).collect();
        assert_eq!(from, relays_from, "{text}");
        let settings = Settings::new(file, Path::new(""));
        assert!(settings.is_ok(), "{text}");
    }
    let notes = of("listening-ip=192.168.0.5\nlistening-ip=10.0.0.5\n").notes;
    let says = |note: &String| note.contains("relays from 10.0.0.5 alone");
    assert!(notes.iter().any(says), "{notes:?}");
    let notes = of("listening-ip=10.0.0.5\n").notes;
    assert!(!notes.iter().any(says), "{notes:?}");
}

#[test]
fn a_realm_whose_name_makes_long_challenges_is_noted() {
    let is_noted = |text: &str| {
        let notes = of(text).notes;
        notes.iter().any(|note| note.contains("2.2 times"))
    };
    assert!(is_noted("realm=nine.of.9\nuser=alice:hunter2\n"));
    assert!(!is_noted("realm=eight.o8\nuser=alice:hunter2\n"));
    assert!(!is_noted(""));
}

#[test]
fn one_address_has_no_second_port_and_two_have_unless_told_not_to() {
    let udp = |text: &str| of(text).file.listen_udp.len();
    assert_eq!(udp("listening-ip=10.0.0.5\n"), 0);
    assert_eq!(udp("listening-ip=10.0.0.5\nlistening-ip=10.0.0.6\n"), 2);
    assert_eq!(
        udp("listening-ip=10.0.0.5\nlistening-ip=10.0.0.6\nno-rfc5780\n"),
        0
    );
    let import = of("alt-listening-port=3500\nlistening-ip=10.0.0.5\nlistening-ip=10.0.0.6\n");
    assert_eq!(import.file.listen_udp[0].0.port(), 3500);
}

#[test]
fn a_file_that_says_nothing_listens_on_the_addresses_of_the_machine() {
    let import = of("# nothing\n\n");
    assert_eq!(import.entries, []);
    assert!(!import.file.listen.is_empty(), "there is loopback at least");
    let settings = Settings::new(import.file, Path::new(""));
    assert!(settings.is_ok_and(|settings| !settings.has_credentials()));
}

/// Whatever the file says, something of ours comes out, and survives to be written.
#[test]
fn every_truncation_and_every_changed_byte_can_be_imported_and_written() {
    for text in [TYPICAL, NASTY] {
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            assert_written(&bytes[..at]);
            for byte in *b"\n=\"-\xff" {
                let mut changed = bytes.to_vec();
                changed[at] = byte;
                assert_written(&changed);
            }
        }
    }
}

fn assert_written(bytes: &[u8]) {
    let import = of(&String::from_utf8_lossy(bytes));
    let written = toml::to_string(&import.file).expect("it is a file");
    let read: File = toml::from_str(&written).expect("what is written can be read");
    assert_eq!(read, import.file, "{written}");
}

/// Those of its manual, of its help and of its example, but `help`, `version` and the like, which are
/// nothing for a file.
#[test]
fn every_option_of_coturn_4_6_1_is_known() {
    let options: Vec<&str> = OPTIONS_OF_COTURN.split_whitespace().collect();
    assert_eq!(options.len(), 109);
    let unknown = options.iter().filter(|name| options::find(name).is_none());
    assert_eq!(unknown.collect::<Vec<_>>(), [&""; 0]);
}

#[test]
fn what_is_said_of_a_line_is_so() {
    let base = "listening-ip=10.0.0.5\ncert=c.pem\npkey=k.pem\n";
    let of = |line: &str| of(&format!("{base}{line}\n"));
    let kind = |line: &str| match fate_of(&of(line), 4) {
        Fate::Taken { r#as, .. } => *r#as,
        Fate::NotNeeded { .. } => "not needed",
        Fate::NotSupported { .. } => "not supported",
        Fate::Invalid { .. } => "invalid",
    };
    for (line, expected) in [
        ("max-bps=64000", "limits.bytes-per-second"),
        ("bps-capacity=640000", "limits.bandwidth"),
        ("bps-capacity=much", "invalid"),
        ("user-quota=3", "limits.allocations-per-user"),
        ("total-quota=30", "limits.allocations"),
        ("tcp-proxy-port=5555", "not supported"),
        ("no-dtls", "tls.dtls"),
        ("no-dtls=0", "not needed"),
        ("no-tls", "tls"),
        ("no-udp", "plain-udp"),
        ("no-tcp", "plain-tcp"),
        ("no-tcp=no", "not needed"),
        ("no-tcp-relay", "relay-tcp"),
        ("mobility", "not needed"),
        ("no-stun-backward-compatibility", "not needed"),
        ("allowed-peer-ip=10.0.0.9", "peers.allow"),
        ("denied-peer-ip=8.8.8.8", "peers.deny"),
        ("alternate-server=192.0.2.9:3478", "not supported"),
        ("secure-stun", "not supported"),
        ("fingerprint", "not supported"),
        ("allocation-default-address-family=keep", "not supported"),
        ("allocation-default-address-family=ipv5", "invalid"),
        ("rest-api-separator=|", "realm.secrets-separator"),
        ("rest-api-separator=5", "not supported"),
        ("rest-api-separator=", "invalid"),
        ("max-allocate-lifetime=30", "not supported"),
        ("stale-nonce=many", "invalid"),
        ("user-quota=12 # per user", "limits.allocations-per-user"),
        ("min-port=50000;", "relay-ports"),
        ("relay-threads=2 or so", "shards"),
        ("listening-ip=localhost", "not supported"),
        ("external-ip=turn.example.org", "not supported"),
        ("external-ip=turn.example.org/10.0.0.5", "not supported"),
        ("external-ip=10.0.0.5/", "invalid"),
        ("aux-server=turn.example.org:80", "not supported"),
        ("aux-server=10.0.0.6", "invalid"),
        ("relay-ip=10.0.0.5/24", "invalid"),
    ] {
        assert_eq!(kind(line), expected, "{line}");
    }
    assert_eq!(of("no-dtls").file.tls.dtls, Some(false));
    assert_eq!(of("dtls").file.tls.dtls, None, "it is on by itself");
    let plain = |line| (of(line).file.plain_udp, of(line).file.plain_tcp);
    assert_eq!(plain("no-tcp"), (None, Some(false)));
    assert_eq!(plain("no-udp"), (Some(false), None));
    assert_eq!(plain("no-tcp=no"), (None, None));
    let second = of("no-udp\nlistening-ip=10.0.0.6");
    assert_eq!(second.file.listen_udp, []);
    let nothing = of("no-udp\nno-tcp\nno-tls");
    let says = |note: &String| note.contains("nothing to serve");
    assert!(nothing.notes.iter().any(says), "{:?}", nothing.notes);
    assert_eq!(of("no-tls").file.tls, super::super::file::Tls::default());
    assert!(!of("").file.relay_tcp, "as a note says");
    assert!(of("").notes.iter().any(|note| note.contains("relay-tcp")));
    let limits = of("max-bps=64000\ntotal-quota=30000").file.limits;
    assert_eq!(limits.bytes_per_second, Some(64_000));
    assert_eq!(limits.bandwidth, None);
    let capacity = of("max-bps=64000\nbps-capacity=640000").file.limits;
    assert_eq!(capacity.bandwidth, Some(640_000));
    let narrow = of("max-bps=64000 ; fair\nbps-capacity=32000 # all");
    let of_narrow = &narrow.file.limits;
    let bounds = (of_narrow.bytes_per_second, of_narrow.bandwidth);
    assert_eq!(bounds, (Some(32_000), Some(32_000)));
    assert!(
        narrow
            .notes
            .iter()
            .any(|note| note.contains("bps-capacity"))
    );
    let settings = super::super::settings::relaying(&of("user-quota=12 # x").file, Path::new(""));
    let per_user = settings.expect("it makes sense").limits.per_user;
    assert_eq!(per_user.allocations, Some(12), "the bound is not lost");
    let alone = of("bps-capacity=640000");
    assert_eq!(alone.file.limits.bandwidth, None, "as in coturn");
    assert!(alone.notes.iter().any(|note| note.contains("max-bps")));
    let all = (limits.allocations, limits.allocations_per_network);
    assert_eq!(all, (Some(30_000), Some(30_000)), "one network may be all");
}

const OPTIONS_OF_COTURN: &str = "\
    acme-redirect allocation-default-address-family allow-loopback-peers allowed-peer-ip \
    alt-listening-port alt-tls-listening-port alternate-server aux-server bps-capacity CA-file \
    cert channel-lifetime check-origin-consistency cipher-list cli-ip cli-max-output-sessions \
    cli-password cli-port daemon db denied-peer-ip dh-file dh1066 dh566 ec-curve-name \
    external-ip fingerprint keep-address-family listening-device listening-ip listening-port \
    log-binding log-file lt-cred-mech max-allocate-lifetime max-allocate-timeout max-bps \
    max-port min-port mobility mongo-userdb mysql-userdb ne new-log-timestamp \
    new-log-timestamp-format no-auth no-auth-pings no-cli no-dtls no-dynamic-ip-list \
    no-dynamic-realms no-multicast-peers no-rfc5780 no-software-attribute no-stdout-log no-stun \
    no-stun-backward-compatibility no-tcp no-tcp-relay no-tls no-tlsv1 no-tlsv1_1 no-tlsv1_2 \
    no-udp no-udp-relay oauth permission-lifetime pidfile pkey pkey-pwd proc-group proc-user \
    prometheus prometheus-port prometheus-username-labels psql-userdb realm redis-statsdb \
    redis-userdb relay-device relay-ip relay-threads response-origin-only-with-rfc5780 \
    rest-api-separator secret-key-file secure-stun server-name server-relay simple-log \
    stale-nonce static-auth-secret stun-only syslog syslog-facility tcp-proxy-port \
    tls-alternate-server tls-listening-port total-quota udp-self-balance use-auth-secret user \
    user-quota userdb Verbose verbose web-admin web-admin-ip web-admin-listen-on-workers \
    web-admin-port";
