use tombolo_stun::{AttributeType, Class, MessageWriter, Method, RawAttribute, RequestedTransport};
use tombolo_turn::server::{Forward, Refusal};

use super::lab::{Lab, PEER, alice, client, tcp_client};

#[test]
fn malformed_input_is_counted_by_reason_and_not_answered() {
    let mut lab = Lab::new();
    let mut truncated = lab.message(Class::Request, Method::BINDING, |_| {});
    truncated[3] = 4;
    for (bytes, refusal) in [
        (&b""[..], Refusal::NotStun),
        (b"GET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
        (b"\xc0\x00\x00\x01 a QUIC packet", Refusal::NotStun),
        (&[0; 20], Refusal::NotStun),
        (&truncated, Refusal::Malformed),
        (b"\x40\x00\x00\x05four", Refusal::Malformed),
        (b"\x40\x00\x00\x04four", Refusal::AllocationMissing),
    ] {
        let before = lab.refused(refusal);
        assert_eq!(lab.exchange(client(1), bytes), []);
        assert_eq!(lab.refused(refusal), before + 1, "{bytes:?}");
    }
}

#[test]
fn every_truncation_and_every_flipped_bit_of_a_request_is_survived() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let bytes = lab.sign(client(1), &alice(), Method::CHANNEL_BIND, |writer| {
        writer
            .attribute(&super::lab::channel(0x4000))
            .attribute(&tombolo_stun::XorPeerAddress(super::lab::address(PEER)));
    });
    for end in 0..bytes.len() {
        assert_eq!(lab.exchange(client(1), &bytes[..end]), []);
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let forward = lab.server.handle_client(lab.now, client(1), &changed);
        assert_eq!(forward, None, "bit {bit}");
        while lab.server.poll_transmit().is_some() {}
    }
    assert_eq!(
        lab.send_on(client(1), 0x4000, b"x"),
        None,
        "no change was taken for the request"
    );
}

#[test]
fn requests_filled_with_one_attribute_get_replies_that_fit() {
    let mut lab = Lab::new();
    lab.allocate(tcp_client(1), &alice());
    let filling = vec![1; 65_000];
    let kinds = (0..0x40).chain(0x8000..0x8040).map(AttributeType);
    for kind in kinds {
        for method in METHODS {
            let fill = |writer: &mut MessageWriter<'_>| {
                let value = &filling[..];
                writer.attribute(&RawAttribute { kind, value });
            };
            let unsigned = lab.message(Class::Request, method, fill);
            let signed = lab.sign(tcp_client(1), &alice(), method, fill);
            for request in [unsigned, signed] {
                let forward = lab.server.handle_client(lab.now, tcp_client(1), &request);
                assert_eq!(forward, None);
                lab.drive();
                while let Some(reply) = lab.server.poll_transmit() {
                    let bytes = reply.bytes.len();
                    assert!(bytes < 10_000, "{bytes} bytes to {kind:?} in {method:?}");
                }
            }
        }
    }
}

#[test]
fn responses_and_stray_indications_are_not_for_a_server() {
    let mut lab = Lab::new();
    for (class, method) in [
        (Class::Success, Method::BINDING),
        (Class::Error, Method::ALLOCATE),
        (Class::Indication, Method::DATA),
        (Class::Indication, Method::ALLOCATE),
    ] {
        let bytes = lab.message(class, method, |_| {});
        assert_eq!(lab.exchange(client(1), &bytes), []);
    }
    assert_eq!(lab.refused(Refusal::ClassUnexpected), 4);
}

#[test]
fn a_wrong_fingerprint_is_dropped_and_a_right_one_is_not() {
    let mut lab = Lab::new();
    let mut bytes = lab.message(Class::Request, Method::BINDING, |writer| {
        writer.fingerprint();
    });
    assert_eq!(lab.exchange(client(1), &bytes).len(), 1);
    *bytes.last_mut().expect("is not empty") ^= 1;
    assert_eq!(lab.exchange(client(1), &bytes), []);
    assert_eq!(lab.refused(Refusal::FingerprintWrong), 1);
}

#[test]
fn replies_that_nobody_fetches_are_bounded() {
    let mut lab = Lab::with(|config| config.limits.transmits_max = 3);
    let bytes = lab.message(Class::Request, Method::BINDING, |_| {});
    for port in 1..=5 {
        let forward: Option<Forward> = lab.server.handle_client(lab.now, client(port), &bytes);
        assert_eq!(forward, None);
    }
    assert_eq!(std::iter::from_fn(|| lab.server.poll_transmit()).count(), 3);
    assert_eq!(lab.refused(Refusal::QueueFull), 2);
}

#[test]
fn the_same_seed_and_inputs_give_the_same_outputs() {
    let run = || {
        let mut lab = Lab::new();
        let relays: Vec<_> = (1..=4)
            .map(|number| lab.allocate(client(number), &alice()))
            .collect();
        let challenge = lab.unsigned(client(9), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        });
        lab.permit(client(1), &alice(), PEER);
        let indication = lab.peer_sends(relays[0], PEER, b"x");
        (relays, challenge, indication)
    };
    assert_eq!(run(), run());
}

const METHODS: [Method; 7] = [
    Method::BINDING,
    Method::ALLOCATE,
    Method::REFRESH,
    Method::CREATE_PERMISSION,
    Method::CHANNEL_BIND,
    Method::CONNECT,
    Method::CONNECTION_BIND,
];
