//! How long the replies to strangers are, and what a flood gets out of the server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tombolo_stun::{
    AttributeType, Class, EvenPort, Lifetime, MessageWriter, Method, OtherAddress,
    RequestedTransport,
};
use tombolo_turn::server::{FiveTuple, Refusal, Transport};

use super::lab::{Lab, PEER, address, alice, client};

/// First requests of usual clients, in bytes, as they were seen on the wire.
const BARE_BINDING_BYTES: usize = 20;
/// Allocate with REQUESTED-TRANSPORT.
const BROWSER_ALLOCATE_BYTES: usize = 28;
/// Allocate with LIFETIME and REQUESTED-TRANSPORT.
const AIOICE_ALLOCATE_BYTES: usize = 36;
/// Allocate with REQUESTED-TRANSPORT, LIFETIME, EVEN-PORT and FINGERPRINT.
const UCLIENT_ALLOCATE_BYTES: usize = 52;

#[test]
fn a_binding_reply_is_at_most_1_6_times_the_request_of_a_usual_client() {
    let mut lab = Lab::new();
    let bytes = lab.message(Class::Request, Method::BINDING, |_| {});
    assert_eq!(bytes.len(), BARE_BINDING_BYTES);
    let reply = lab.reply(client(1), &bytes);
    assert!(reply.0.len() * 10 <= bytes.len() * 16, "{}", reply.0.len());
}

#[test]
fn a_challenge_is_at_most_2_2_times_the_request_of_a_usual_client() {
    let mut lab = Lab::new();
    let usual = |length: usize| {
        move |writer: &mut MessageWriter<'_>| {
            writer.attribute(&RequestedTransport::UDP);
            if length >= AIOICE_ALLOCATE_BYTES {
                writer.attribute(&Lifetime(600));
            }
            if length >= UCLIENT_ALLOCATE_BYTES {
                let reserve_next = false;
                writer.attribute(&EvenPort { reserve_next }).fingerprint();
            }
        }
    };
    for length in [
        BROWSER_ALLOCATE_BYTES,
        AIOICE_ALLOCATE_BYTES,
        UCLIENT_ALLOCATE_BYTES,
    ] {
        let bytes = lab.message(Class::Request, Method::ALLOCATE, usual(length));
        assert_eq!(bytes.len(), length);
        let reply = lab.reply(client(1), &bytes);
        assert_eq!(reply.code(), Some(401));
        assert!(reply.0.len() * 10 <= length * 22, "{}", reply.0.len());
    }
}

#[test]
fn what_discovery_adds_to_a_bare_binding_reply_is_left_out_when_many_come() {
    let mut lab = Lab::with(|config| {
        let sockets = [
            "9.9.9.9:3478",
            "9.9.9.9:3479",
            "9.9.9.10:3478",
            "9.9.9.10:3479",
        ];
        config.sockets = sockets.map(address).to_vec();
    });
    let reply = lab.unsigned(client(1), Method::BINDING, |_| {});
    assert!(reply.get::<OtherAddress>().is_ok());
    let mut lengths = Vec::new();
    for port in 0..500 {
        let bytes = lab.message(Class::Request, Method::BINDING, |_| {});
        let replies = lab.exchange(client(port), &bytes);
        lengths.extend(replies.iter().map(|reply| reply.bytes.len()));
    }
    assert_eq!(lengths.iter().filter(|length| **length > 32).count(), 170);
    assert_eq!(lengths.last(), Some(&32));
    // Whoever asks about behaviour is told.
    let reply = lab.unsigned(client(1), Method::BINDING, |writer| {
        writer.attribute(&tombolo_stun::ChangeRequest::default());
    });
    assert!(reply.has(AttributeType::OTHER_ADDRESS));
}

#[test]
fn a_flood_from_ten_thousand_prefixes_gets_fewer_bytes_out_than_it_sends_in() {
    let mut lab = Lab::new();
    let (mut sent, mut got) = (0, 0);
    // Ten seconds, 30,000 requests per second.
    for number in 0..300_000_u32 {
        if number % 30 == 0 {
            lab.now += Duration::from_millis(1);
        }
        let bytes = stranger_request(&mut lab, number);
        sent += bytes.len();
        let replies = lab.exchange(stranger(number % 10_000, number), &bytes);
        got += replies.iter().map(|one| one.bytes.len()).sum::<usize>();
    }
    assert!(got < sent, "{got} bytes for {sent}");
    // Half of what came in, and the allowance of eleven seconds.
    assert!(got <= sent / 2 + 11 * 128 * 1024, "{got} bytes for {sent}");
    assert!(lab.refused(Refusal::BudgetSpent) > 100_000);
}

#[test]
fn a_call_beside_a_flood_loses_nothing() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    for number in 0..60_000_u32 {
        let bytes = stranger_request(&mut lab, number);
        lab.exchange(stranger(number % 10_000, number), &bytes);
        if number % 100 != 0 {
            continue;
        }
        assert!(lab.send_on(client(1), 0x4000, b"voice").is_some());
        // The client's requests are answered too, signed or not, and so are those that it sends
        // from another port of its address.
        let refreshed = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
        assert_eq!(refreshed.code(), None);
        assert_eq!(
            lab.unsigned(client(1), Method::BINDING, |_| {}).code(),
            None
        );
        let challenge = lab.unsigned(client(2), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        });
        assert_eq!(challenge.code(), Some(401));
    }
    assert!(lab.refused(Refusal::BudgetSpent) > 10_000);
}

/// Answers to Binding are shorter than challenges, and took whatever room there was.
#[test]
fn a_newcomer_gets_its_challenge_beside_a_flood_of_other_requests() {
    let mut lab = Lab::new();
    let mut answered = 0;
    // Two seconds, 50,000 requests per second.
    for number in 0..100_000_u32 {
        if number % 50 == 0 {
            lab.now += Duration::from_millis(1);
        }
        let bytes = lab.message(Class::Request, Method::BINDING, |_| {});
        lab.exchange(stranger(number % 10_000, number), &bytes);
        if number % 500 == 0 {
            let newcomer = stranger(20_000 + number / 500, number);
            let bytes = stranger_request(&mut lab, 2);
            answered += lab.exchange(newcomer, &bytes).len();
        }
    }
    assert!(lab.refused(Refusal::BudgetSpent) > 10_000);
    assert!(answered >= 100, "{answered} of 200 tries");
}

#[test]
fn whoever_pretends_to_be_a_client_cannot_flood_it() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let (mut sent, mut got) = (0, 0);
    for _ in 0..100_000 {
        let bytes = lab.message(Class::Request, Method::BINDING, |_| {});
        sent += bytes.len();
        let replies = lab.exchange(client(1), &bytes);
        got += replies.iter().map(|one| one.bytes.len()).sum::<usize>();
    }
    assert!(got <= sent + 256 * 1024, "{got} bytes for {sent}");
}

/// A request without credentials; what the usual clients send, by turns.
fn stranger_request(lab: &mut Lab, number: u32) -> Vec<u8> {
    match number % 3 {
        0 => lab.message(Class::Request, Method::BINDING, |_| {}),
        1 => lab.message(Class::Request, Method::REFRESH, |_| {}),
        _ => lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        }),
    }
}

/// A forged address in one of many /24 networks.
fn stranger(network: u32, number: u32) -> FiveTuple {
    let ip = Ipv4Addr::from(0x6000_0000 | network << 8 | number >> 8 & 0xff);
    FiveTuple {
        transport: Transport::Udp,
        client: SocketAddr::from((ip, 5000)),
        server: client(1).server,
    }
}
