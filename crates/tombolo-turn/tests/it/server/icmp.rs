//! ICMP errors on their way to the client. See RFC 8656 §11.5.

use tombolo_stun::{
    AddressFamily, AttributeType, Class, Icmp, Message, Method, RequestedAddressFamily,
    XorPeerAddress, XorRelayedAddress,
};
use tombolo_turn::server::{PeerAddr, PeerError, Refusal, RelayAddr, Transmit};

use super::lab::{Lab, PEER, PEER_V6, address, alice, client};

const UNREACHABLE: PeerError = PeerError {
    kind: 3,
    code: 3,
    data: [1, 2, 3, 4],
};

#[test]
fn an_icmp_error_about_a_permitted_peer_reaches_the_client_as_a_data_indication() {
    let mut lab = Lab::new();
    let at = lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    // The port does not matter, as for a packet of the peer.
    let sent = report(&mut lab, at, "8.8.4.4:7777", UNREACHABLE).expect("is permitted");
    assert_eq!(sent.to, client(1));
    let message = Message::decode(&sent.bytes).expect("is well formed");
    assert_eq!(
        (message.class(), message.method()),
        (Class::Indication, Method::DATA)
    );
    assert_eq!(
        message.required(),
        Ok(XorPeerAddress(address("8.8.4.4:7777")))
    );
    let icmp = Icmp {
        icmp_type: 3,
        icmp_code: 3,
        error_data: [0; 4],
    };
    assert_eq!(message.required(), Ok(icmp), "only an MTU is passed on");
    assert!(!message.has(AttributeType::DATA));
    assert_eq!(lab.server.stats().icmp_errors, 1);
}

#[test]
fn an_icmp_error_reaches_the_client_as_an_indication_though_a_channel_is_bound() {
    let mut lab = Lab::new();
    let at = lab.allocate(client(1), &alice());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    let sent = report(&mut lab, at, PEER, UNREACHABLE).expect("is permitted");
    assert!(Message::decode(&sent.bytes).is_ok());
}

#[test]
fn a_packet_that_is_too_big_says_how_big_it_may_be() {
    let mut lab = Lab::new();
    let v4 = lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    let family = RequestedAddressFamily(AddressFamily::V6);
    let reply = lab.allocate_with(client(2), &alice(), |writer| {
        writer.attribute(&family);
    });
    let XorRelayedAddress(v6) = reply.get().expect("was made");
    lab.permit(client(2), &alice(), PEER_V6);
    let data = 1400_u32.to_be_bytes();
    for (at, peer, kind, code) in [(v4, PEER, 3, 4), (RelayAddr(v6), PEER_V6, 2, 0)] {
        let sent = report(&mut lab, at, peer, PeerError { kind, code, data });
        let bytes = sent.expect("is permitted").bytes;
        let icmp: Icmp = Message::decode(&bytes)
            .expect("is well formed")
            .required()
            .expect("is there");
        assert_eq!(icmp.error_data, data);
    }
}

#[test]
fn icmp_errors_without_permission_allocation_or_meaning_are_dropped() {
    let mut lab = Lab::new();
    let at = lab.allocate(client(1), &alice());
    assert_eq!(report(&mut lab, at, PEER, UNREACHABLE), None);
    assert_eq!(lab.refused(Refusal::PeerNotPermitted), 1);
    lab.permit(client(1), &alice(), PEER);
    let nobodys = RelayAddr(address("9.9.9.9:1"));
    assert_eq!(report(&mut lab, nobodys, PEER, UNREACHABLE), None);
    assert_eq!(lab.refused(Refusal::RelayIdle), 1);
    for kind in [0, 1, 2, 5, 8, 12] {
        let error = PeerError {
            kind,
            ..UNREACHABLE
        };
        assert_eq!(report(&mut lab, at, PEER, error), None, "type {kind}");
    }
    assert_eq!(lab.refused(Refusal::IcmpIrrelevant), 6);
}

#[test]
fn a_flood_of_icmp_errors_reaches_a_client_in_part_and_no_other_client_suffers() {
    let mut lab = Lab::new();
    let at = lab.allocate(client(1), &alice());
    lab.permit(client(1), &alice(), PEER);
    let other = lab.allocate(client(2), &alice());
    lab.permit(client(2), &alice(), PEER);
    let told = |lab: &mut Lab| {
        let reports = (0..1000).filter_map(|_| report(lab, at, PEER, UNREACHABLE));
        reports.count()
    };
    let in_the_first_second = told(&mut lab);
    assert!((1..=16).contains(&in_the_first_second));
    let dropped = 1000 - in_the_first_second as u64;
    assert_eq!(lab.refused(Refusal::IcmpTooMany), dropped);
    assert!(report(&mut lab, other, PEER, UNREACHABLE).is_some());
    lab.advance(1);
    assert_eq!(told(&mut lab), in_the_first_second);
}

fn report(lab: &mut Lab, at: RelayAddr, peer: &str, error: PeerError) -> Option<Transmit> {
    let peer = PeerAddr(address(peer));
    lab.server.handle_peer_error(lab.now, at, peer, error);
    lab.server.poll_transmit()
}
