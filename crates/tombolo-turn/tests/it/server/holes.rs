//! Holes that other servers had around messages and credentials. Each test is named after one.

use std::collections::BTreeSet;

use tombolo_stun::{
    AttributeType, Class, Key, Lifetime, Message, Method, Nonce, RequestedTransport, Username,
    XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{HookMode, Refusal, RelayAddr};

use super::lab::{AtClient, Lab, PEER, Reply, User, address, alice, client, tcp_client};

#[test]
fn turn_rs_the_password_of_a_shared_secret_ends_with_its_expiry() {
    let mut lab = Lab::new();
    let user = User::until(60, "alice");
    assert_eq!(lab.allocate_with(client(1), &user, |_| {}).code(), None);
    lab.advance(60);
    assert_eq!(
        lab.allocate_with(client(2), &user, |_| {}).code(),
        Some(401)
    );
    let reply = lab.signed(client(1), &user, Method::REFRESH, |_| {});
    assert_eq!(reply.code(), Some(401));
    lab.advance(660);
    assert_eq!(lab.server.stats().allocations, 0, "nothing keeps it alive");
}

#[test]
fn turn_rs_forged_sources_leave_no_state_behind() {
    let mut lab = Lab::new();
    for port in 1..=2000 {
        let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        });
        lab.exchange(client(port), &bytes);
    }
    assert_eq!(lab.server.allocations(lab.now).count(), 0);
    assert_eq!(lab.server.poll_timeout(), None, "nothing waits for its end");
}

#[test]
fn cve_2025_69217_nonces_and_relay_ports_cannot_be_predicted() {
    // Two servers that start at one time with one configuration, but secrets of their own.
    let mut nonces = BTreeSet::new();
    for key in 0..50 {
        let mut lab = Lab::with(|config| config.nonce_key = [key; 32]);
        nonces.insert(lab.nonce(client(1)));
    }
    assert_eq!(nonces.len(), 50);
    // One server: neither run up nor repeat.
    let mut lab = Lab::new();
    let ports: Vec<u16> = (1..=16)
        .map(|port| {
            let RelayAddr(relay) = lab.allocate(client(port), &User::until(900, "alice"));
            relay.port()
        })
        .collect();
    let steps: BTreeSet<i32> = ports
        .windows(2)
        .map(|two| i32::from(two[1]) - i32::from(two[0]))
        .collect();
    assert!(steps.len() > 12, "{ports:?}");
    assert!(steps.iter().any(|step| *step < 0), "{ports:?}");
    // Ports come from the seed, by a generator that `server.rs` wants to be a secure one.
    let mut first_ports = BTreeSet::new();
    for seed in 0..16 {
        let mut lab = Lab::of_seed([seed; 32], |_| {});
        first_ports.insert(lab.allocate(client(1), &alice()));
    }
    assert!(first_ports.len() > 12, "{first_ports:?}");
}

#[test]
fn cve_2020_4067_padding_is_zero_in_everything_that_leaves() {
    let mut lab = Lab::with(|config| config.software = Some("five!".to_owned()));
    let mut replies = vec![
        lab.unsigned(client(1), Method::BINDING, |_| {}),
        lab.unsigned(client(1), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        }),
        lab.allocate_with(client(1), &alice(), |_| {}),
        lab.permit(client(1), &alice(), "10.0.0.1:1"),
        lab.permit(client(1), &alice(), PEER),
    ];
    let XorRelayedAddress(relay) = replies[2].get().expect("was made");
    for length in 0..9 {
        let payload = vec![0xff; length];
        let sent = lab.peer_sends(RelayAddr(relay), PEER, &payload);
        let AtClient { bytes, .. } = sent.expect("is permitted");
        replies.push(Reply(bytes));
    }
    for reply in replies {
        check_padding(&reply.0);
    }
    lab.allocate(tcp_client(1), &alice());
    lab.bind(tcp_client(1), &alice(), 0x4000, PEER);
    let relay = lab.bound.iter().copied().find(|one| one.0 != relay);
    let sent = lab.peer_sends(relay.expect("is the second"), PEER, &[0xff; 5]);
    assert_eq!(sent.expect("is permitted").bytes[9..], [0, 0, 0]);
}

#[test]
fn ghsa_v8hj_and_4g7c_a_username_is_text_and_nothing_more() {
    for name in [
        "' OR '1'='1",
        "alice'; DROP TABLE turnusers_lt; --",
        "%s%s%s%s%n",
        "%1$s",
        "{}{0}",
        "../../etc/passwd",
        "${jndi:ldap://x}",
        "line\nbreak\r\nHost: x",
        "\u{1b}[2J\u{0}\u{202e}",
        "a\"b\\c",
        ":",
        "1800000000",
    ] {
        let mut lab = Lab::with(|config| {
            config.realm.users = [(name.to_owned(), "password".to_owned())].into();
        });
        let user = User {
            username: name.to_owned(),
            password: "password".to_owned(),
        };
        assert_eq!(lab.allocate_with(client(1), &user, |_| {}).code(), None);
        let info: Vec<_> = lab.server.allocations(lab.now).collect();
        assert_eq!(info[0].user, name);
        // What goes to a log is escaped.
        let logged = format!("{:?}", lab.events);
        assert!(!logged.chars().any(char::is_control), "{logged}");
        let stranger = User {
            username: format!("{name}x"),
            ..user.clone()
        };
        let reply = lab.allocate_with(client(2), &stranger, |_| {});
        assert_eq!(reply.code(), Some(401), "{name:?}");
    }
}

#[test]
fn a_username_that_is_no_text_or_too_long_is_a_bad_request() {
    let mut lab = Lab::with(|config| config.realm.hook = HookMode::Unknown);
    let nonce = lab.nonce(client(1));
    for value in [&[0xff_u8; 4][..], &[0xc0, 0x80], &[b'x'; 764], &[b'x'; 800]] {
        let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&tombolo_stun::RawAttribute {
                    kind: AttributeType::USERNAME,
                    value,
                })
                .attribute(&tombolo_stun::Realm::new("tombolo").expect("short"))
                .attribute(&Nonce::new(&nonce).expect("short"))
                .integrity(&Key::short_term("x"));
        });
        assert_eq!(lab.reply(client(1), &bytes).code(), Some(400));
    }
    assert!(lab.asked.is_empty());
}

#[test]
fn coturn_2026_attributes_behind_the_integrity_have_no_effect() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    for forged in [
        encode(&Lifetime(0)),
        encode(&XorPeerAddress(address("8.8.4.5:5000"))),
        encode(&Username::new("bob").expect("short")),
        // Comprehension-required and unknown to everybody.
        vec![0x7f, 0x00, 0, 0],
    ] {
        let mut bytes = lab.sign(client(1), &alice(), Method::REFRESH, |_| {});
        bytes.extend_from_slice(&forged);
        let length = u16::try_from(bytes.len() - 20).expect("short");
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        let reply = lab.reply(client(1), &bytes);
        assert_eq!(reply.get(), Ok(Lifetime(600)), "{forged:02x?}");
    }
    assert_eq!(lab.send(client(1), "8.8.4.5:5000", b"x"), None);
}

#[test]
fn cve_2026_40613_a_message_is_read_wherever_it_lies() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    for offset in 0..16 {
        let bytes = lab.sign(client(1), &alice(), Method::REFRESH, |writer| {
            writer.attribute(&Lifetime(700));
        });
        let mut buffer = vec![0xff; offset];
        buffer.extend_from_slice(&bytes);
        let reply = lab.reply(client(1), &buffer[offset..]);
        assert_eq!(reply.get(), Ok(Lifetime(700)), "{offset}");
    }
}

#[test]
fn a_client_of_classic_stun_is_not_answered() {
    // RFC 8489 left the backward compatibility with RFC 3489 out.
    let mut lab = Lab::new();
    let classic = [&[0, 1, 0, 0][..], &[7; 16]].concat();
    assert_eq!(lab.exchange(client(1), &classic), []);
    assert_eq!(lab.refused(Refusal::NotStun), 1);
}

fn encode(attribute: &impl tombolo_stun::WriteAttribute) -> Vec<u8> {
    let mut bytes = Vec::new();
    let transaction = tombolo_stun::TransactionId([0; 12]);
    tombolo_stun::MessageWriter::new(&mut bytes, Class::Request, Method::REFRESH, transaction)
        .attribute(attribute);
    bytes.split_off(20)
}

/// Checks that the bytes between attributes are zero.
fn check_padding(bytes: &[u8]) {
    Message::decode(bytes).expect("is well formed");
    let mut rest = &bytes[20..];
    while let [_, _, a, b, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*a, *b]));
        let (value, next) = tail.split_at(length.next_multiple_of(4));
        assert!(
            value[length..].iter().all(|byte| *byte == 0),
            "{bytes:02x?}"
        );
        rest = next;
    }
}
