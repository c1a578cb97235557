//! Clients that count how often they sent a request (RFC 7982).

use tombolo_stun::{
    AttributeType, Class, Key, Message, Method, Nonce, Realm, RequestedTransport, TransactionId,
    TransactionTransmitCounter, Username, XorRelayedAddress,
};
use tombolo_turn::server::FiveTuple;

use super::lab::{Lab, REALM, Reply, alice, client};

#[test]
fn a_reply_repeats_the_requests_count_and_has_one_of_its_own() {
    let mut lab = Lab::new();
    for (transaction, requests, responses) in [
        (1, 1, 1),
        (1, 2, 2),
        (1, 4, 3),
        (2, 1, 1),
        (1, 5, 4),
        (3, 3, 1),
    ] {
        let bytes = request(Method::BINDING, transaction, requests, |_| {});
        let reply = lab.reply(client(1), &bytes);
        let counter = TransactionTransmitCounter {
            requests,
            responses,
        };
        assert_eq!(reply.get(), Ok(counter));
    }
}

#[test]
fn the_counts_of_two_clients_are_two() {
    let mut lab = Lab::new();
    for port in [1, 2] {
        let bytes = request(Method::BINDING, 1, 1, |_| {});
        let reply = lab.reply(client(port), &bytes);
        let counter: TransactionTransmitCounter = reply.get().expect("counts");
        assert_eq!(counter.responses, 1);
    }
}

#[test]
fn whoever_does_not_count_is_not_counted() {
    let mut lab = Lab::new();
    let reply = lab.unsigned(client(1), Method::BINDING, |_| {});
    assert!(!reply.has(AttributeType::TRANSACTION_TRANSMIT_COUNTER));
    let wrong = lab.message(Class::Request, Method::BINDING, |writer| {
        writer.attribute(&tombolo_stun::RawAttribute {
            kind: AttributeType::TRANSACTION_TRANSMIT_COUNTER,
            value: &[1],
        });
    });
    let reply = lab.reply(client(1), &wrong);
    assert!(!reply.has(AttributeType::TRANSACTION_TRANSMIT_COUNTER));
}

#[test]
fn challenges_refusals_and_repeated_answers_count_too() {
    let mut lab = Lab::new();
    let bytes = request(Method::ALLOCATE, 1, 2, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    let challenge = lab.reply(client(1), &bytes);
    assert_eq!(challenge.code(), Some(401));
    assert_eq!(counter_of(&challenge), (2, 1));
    // The answer that made an allocation is repeated with the counts of now, and proves itself.
    let first = allocate(&mut lab, client(1), 2, 1);
    let again = allocate(&mut lab, client(1), 2, 3);
    assert_eq!((counter_of(&first), counter_of(&again)), ((1, 1), (3, 2)));
    assert_eq!(again.message().check_integrity(&alice().key()), Ok(()));
    assert_eq!(
        first.get::<XorRelayedAddress>(),
        again.get::<XorRelayedAddress>()
    );
    let refused = allocate(&mut lab, client(1), 3, 1);
    assert_eq!((refused.code(), counter_of(&refused)), (Some(437), (1, 1)));
}

#[test]
fn loss_and_round_trip_are_known_for_each_allocation_and_in_all() {
    let mut lab = Lab::new();
    lab.nonce(client(1));
    lab.now += std::time::Duration::from_millis(70);
    lab.allocate(client(1), &alice());
    // Of five requests two came; of two more the second.
    for (transaction, requests) in [(10, 2), (10, 5), (11, 2)] {
        let nonce = lab.nonce(client(1));
        let bytes = signed(Method::REFRESH, transaction, requests, &nonce);
        assert_eq!(lab.reply(client(1), &bytes).code(), None);
    }
    let info: Vec<_> = lab.server.allocations(lab.now).collect();
    let path = info[0].path;
    assert_eq!((path.requests_sent, path.requests_received), (7, 3));
    assert_eq!(path.rtt, Some(std::time::Duration::from_millis(70)));
    let stats = lab.server.stats();
    assert_eq!(stats.counted_requests_sent, 7);
    assert_eq!(stats.counted_requests_received, 3);
}

#[test]
fn an_old_nonce_tells_no_round_trip() {
    let mut lab = Lab::new();
    lab.nonce(client(1));
    lab.advance(60);
    lab.allocate(client(1), &alice());
    let info: Vec<_> = lab.server.allocations(lab.now).collect();
    assert_eq!(info[0].path.rtt, None);
}

fn counter_of(reply: &Reply) -> (u8, u8) {
    let counter: TransactionTransmitCounter = reply.get().expect("counts");
    (counter.requests, counter.responses)
}

fn allocate(lab: &mut Lab, from: FiveTuple, transaction: u8, requests: u8) -> Reply {
    let nonce = lab.nonce(from);
    let bytes = signed(Method::ALLOCATE, transaction, requests, &nonce);
    lab.reply(from, &bytes)
}

fn signed(method: Method, transaction: u8, requests: u8, nonce: &str) -> Vec<u8> {
    let user = alice();
    let key: Key = user.key();
    request(method, transaction, requests, |writer| {
        if method == Method::ALLOCATE {
            writer.attribute(&RequestedTransport::UDP);
        }
        writer
            .attribute(&Username::new(&user.username).expect("short"))
            .attribute(&Realm::new(REALM).expect("short"))
            .attribute(&Nonce::new(nonce).expect("short"))
            .integrity(&key);
    })
}

/// Makes the request of a transaction in its n-th transmission.
fn request(
    method: Method,
    transaction: u8,
    requests: u8,
    write: impl FnOnce(&mut tombolo_stun::MessageWriter<'_>),
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = TransactionId([transaction; 12]);
    let mut writer = tombolo_stun::MessageWriter::new(&mut bytes, Class::Request, method, id);
    writer.attribute(&TransactionTransmitCounter {
        requests,
        responses: 0,
    });
    write(&mut writer);
    assert!(Message::decode(&bytes).is_ok());
    bytes
}
