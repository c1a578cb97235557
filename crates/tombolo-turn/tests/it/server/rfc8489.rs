//! What RFC 8489 asks of a server and no other file here shows. See `docs/turn-conformance/rfc8489.md`.

use tombolo_stun::{
    AttributeType, Class, Data, DontFragment, Key, Lifetime, Method, Nonce, RawAttribute, Realm,
    RequestedTransport, UserHash, Username, XorPeerAddress,
};
use tombolo_turn::server::{FiveTuple, Refusal, Transport};

use super::lab::{Lab, PEER, REALM, address, alice, channel, client, tcp_client};

#[test]
fn attributes_that_belong_in_another_message_are_ignored() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
        writer
            .attribute(&channel(0x4000))
            .attribute(&XorPeerAddress(address("8.8.4.5:1")))
            .attribute(&RequestedTransport::TCP);
    });
    assert_eq!(reply.code(), None);
    let reply = lab.unsigned(client(1), Method::BINDING, |writer| {
        writer.attribute(&Lifetime(7)).attribute(&channel(0x4000));
    });
    assert_eq!(reply.code(), None);
    let bytes = lab.message(Class::Indication, Method::SEND, |writer| {
        writer
            .attribute(&XorPeerAddress(address(PEER)))
            .attribute(&Lifetime(0))
            .attribute(&Data(b"x"));
    });
    assert!(lab.data(client(1), &bytes).is_some());
    // What belongs to ICE is unknown to a server.
    let reply = lab.unsigned(client(1), Method::BINDING, |writer| {
        writer.attribute(&tombolo_stun::Priority(1));
    });
    assert_eq!(reply.code(), Some(420));
}

#[test]
fn attributes_that_need_not_be_understood_are_ignored() {
    let mut lab = Lab::new();
    let unknown = RawAttribute {
        kind: AttributeType(0xff00),
        value: b"whatever",
    };
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&unknown);
    });
    assert_eq!(reply.code(), None);
    lab.permit(client(1), &alice(), PEER);
    let bytes = lab.message(Class::Indication, Method::SEND, |writer| {
        writer
            .attribute(&unknown)
            .attribute(&XorPeerAddress(address(PEER)))
            .attribute(&DontFragment)
            .attribute(&Data(b"x"));
    });
    assert!(lab.data(client(1), &bytes).is_some());
}

#[test]
fn classic_stun_over_dtls_gets_an_error_for_a_request_and_nothing_for_an_indication() {
    let mut lab = Lab::new();
    let over = |transport| FiveTuple {
        transport,
        ..client(1)
    };
    let id: [u8; 16] = std::array::from_fn(|index| index as u8 + 1);
    let binding = |kind: u16, length: u16| {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&id);
        bytes
    };
    let request = binding(0x0001, 0);
    let replies = lab.exchange(over(Transport::Dtls), &request);
    let mut error = binding(0x0111, 8);
    error.extend_from_slice(&[0, 9, 0, 4, 0, 0, 5, 0]);
    let replies: Vec<_> = replies.into_iter().map(|reply| reply.bytes).collect();
    assert_eq!(replies, [error.clone()]);
    for nothing in [
        binding(0x0011, 0),
        binding(0x0101, 0),
        binding(0x0111, 0),
        binding(0x0001, 4),
        binding(0x8001, 0),
        request[..19].to_vec(),
        error,
    ] {
        assert_eq!(lab.exchange(over(Transport::Dtls), &nothing), []);
    }
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        assert_eq!(lab.exchange(over(transport), &request), []);
    }
    assert_eq!(lab.refused(Refusal::NotStun), 11);
}

#[test]
fn a_username_as_long_as_those_of_rfc_5389_is_read_and_not_known() {
    let mut lab = Lab::new();
    let nonce = lab.nonce(client(1));
    let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::UDP)
            .attribute(&RawAttribute {
                kind: AttributeType::USERNAME,
                value: &[b'x'; 763],
            })
            .attribute(&Realm::new(REALM).expect("short"))
            .attribute(&Nonce::new(&nonce).expect("short"))
            .integrity(&Key::short_term("x"));
    });
    assert_eq!(lab.reply(client(1), &bytes).code(), Some(401));
    assert_eq!(lab.refused(Refusal::UserUnknown), 1);
}

#[test]
fn no_refusal_for_want_of_proof_shows_a_user_or_proves_itself() {
    let mut lab = Lab::new();
    let from = tcp_client(1);
    let nonce = lab.nonce(from);
    let key = alice().key();
    // Without proof, of a user that nobody knows, with a wrong proof, without a nonce, and stale.
    for (number, code) in [401, 401, 401, 400, 438].into_iter().enumerate() {
        let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
            if number == 0 {
                return;
            }
            let name = alice().username;
            match number {
                1 => writer.attribute(&UserHash::new("nobody", REALM)),
                _ => writer.attribute(&Username::new(&name).expect("short")),
            };
            writer.attribute(&Realm::new(REALM).expect("short"));
            let nonce = match number {
                4 => "of another time",
                _ => nonce.as_str(),
            };
            if number != 3 {
                writer.attribute(&Nonce::new(nonce).expect("short"));
            }
            match number {
                2 => writer.integrity(&Key::short_term("wrong")),
                _ => writer.integrity(&key),
            };
        });
        let reply = lab.reply(from, &bytes);
        assert_eq!(reply.code(), Some(code), "{number}");
        for kind in [
            AttributeType::USERNAME,
            AttributeType::USERHASH,
            AttributeType::MESSAGE_INTEGRITY,
            AttributeType::MESSAGE_INTEGRITY_SHA256,
        ] {
            assert!(!reply.has(kind), "{number}: {kind}");
        }
        for kind in [
            AttributeType::REALM,
            AttributeType::NONCE,
            AttributeType::PASSWORD_ALGORITHMS,
        ] {
            assert_eq!(reply.has(kind), code != 400, "{number}: {kind}");
        }
    }
}

#[test]
fn an_error_for_whoever_has_authenticated_proves_itself() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let forbidden = lab.permit(client(1), &alice(), "10.0.0.1:1");
    let unknown = lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
        let kind = AttributeType(0x7f00);
        writer.attribute(&RawAttribute { kind, value: b"" });
    });
    let missing = lab.permit(client(2), &alice(), PEER);
    let unsupported = lab.signed(client(2), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport(99));
    });
    for (reply, code) in [
        (forbidden, 403),
        (unknown, 420),
        (missing, 437),
        (unsupported, 442),
    ] {
        assert_eq!(reply.code(), Some(code));
        assert_eq!(reply.message().check_integrity(&alice().key()), Ok(()));
        for kind in [
            AttributeType::USERNAME,
            AttributeType::USERHASH,
            AttributeType::REALM,
            AttributeType::NONCE,
        ] {
            assert!(!reply.has(kind), "{code}: {kind}");
        }
    }
}

#[test]
fn replies_repeat_the_transaction_of_their_request() {
    let mut lab = Lab::new();
    let nonce = lab.nonce(client(1));
    let messages = [
        lab.message(Class::Request, Method::BINDING, |_| {}),
        lab.message(Class::Request, Method::REFRESH, |_| {}),
        lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        }),
        lab.sign(client(1), &alice(), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        }),
        lab.sign(client(1), &alice(), Method::CREATE_PERMISSION, |_| {}),
    ];
    assert!(!nonce.is_empty());
    for message in messages {
        let replies = lab.exchange(client(1), &message);
        let [reply] = &replies[..] else {
            panic!("there is one reply");
        };
        // The cookie, and the id behind it.
        assert_eq!(reply.bytes[4..20], message[4..20]);
    }
}
