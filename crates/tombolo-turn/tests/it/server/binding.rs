use tombolo_stun::{
    AttributeType, ChangeRequest, Class, Method, OtherAddress, RawAttribute, ResponseOrigin,
    UnknownAttributes, XorMappedAddress,
};
use tombolo_turn::server::{FiveTuple, Refusal, Transport};

use super::lab::{Lab, Reply, address, client, tcp_client};

#[test]
fn a_client_is_told_its_address_and_nothing_else() {
    let mut lab = Lab::new();
    let reply = lab.unsigned(client(1), Method::BINDING, |_| {});
    assert_eq!(reply.get(), Ok(XorMappedAddress(client(1).client)));
    assert_eq!(reply.0.len(), 32);
}

#[test]
fn an_ipv4_client_on_an_ipv6_socket_is_told_its_ipv4_address() {
    let mut lab = Lab::new();
    let from = FiveTuple {
        transport: Transport::Udp,
        client: address("[::ffff:8.8.8.8]:7"),
        server: address("[2a00::9]:3478"),
    };
    let reply = lab.unsigned(from, Method::BINDING, |_| {});
    assert_eq!(reply.get(), Ok(XorMappedAddress(address("8.8.8.8:7"))));
}

#[test]
fn a_change_request_is_answered_from_the_other_socket() {
    let mut lab = two_ips();
    for (ip, port, origin) in [
        (false, false, "9.9.9.9:3478"),
        (false, true, "9.9.9.9:3479"),
        (true, false, "9.9.9.10:3478"),
        (true, true, "9.9.9.10:3479"),
    ] {
        let bytes = lab.message(Class::Request, Method::BINDING, |writer| {
            writer.attribute(&ChangeRequest { ip, port });
        });
        let mut replies = lab.exchange(client(1), &bytes);
        let reply = replies.pop().expect("there is a reply");
        assert_eq!(
            reply.to,
            FiveTuple {
                server: address(origin),
                ..client(1)
            }
        );
        let reply = Reply(reply.bytes);
        assert_eq!(reply.get(), Ok(ResponseOrigin(address(origin))));
        assert_eq!(reply.get(), Ok(OtherAddress(address("9.9.9.10:3479"))));
    }
}

#[test]
fn a_change_request_that_cannot_be_fulfilled_is_an_unknown_attribute() {
    for (mut lab, from) in [(Lab::new(), client(1)), (two_ips(), tcp_client(1))] {
        for (ip, port) in [(true, false), (false, true), (true, true)] {
            let reply = lab.unsigned(from, Method::BINDING, |writer| {
                writer.attribute(&ChangeRequest { ip, port });
            });
            assert_eq!(reply.code(), Some(420));
            let unknown: UnknownAttributes<'_> = reply.get().expect("says which");
            assert!(unknown.types().eq([AttributeType::CHANGE_REQUEST]));
        }
    }
}

#[test]
fn public_addresses_are_announced_where_a_nat_stands_before_the_server() {
    let mut lab = Lab::with(|config| {
        config.public_ips = vec![(
            "9.9.9.10".parse().expect("is an address"),
            "7.7.7.7".parse().expect("is an address"),
        )];
        config.sockets = two_sockets();
    });
    let reply = lab.unsigned(client(1), Method::BINDING, |_| {});
    assert_eq!(reply.get(), Ok(OtherAddress(address("7.7.7.7:3479"))));
}

#[test]
fn unknown_attributes_are_refused_with_a_reply_no_longer_than_the_request() {
    let mut lab = Lab::new();
    let bytes = lab.message(Class::Request, Method::BINDING, |writer| {
        for kind in 0x7f00..0x7f80 {
            writer.attribute(&RawAttribute {
                kind: AttributeType(kind),
                value: b"",
            });
        }
    });
    let reply = lab.reply(client(1), &bytes);
    assert_eq!(reply.code(), Some(420));
    assert!(reply.0.len() < bytes.len());
}

#[test]
fn a_binding_indication_is_not_answered_and_not_refused() {
    let mut lab = Lab::new();
    let bytes = lab.message(Class::Indication, Method::BINDING, |_| {});
    assert_eq!(lab.exchange(client(1), &bytes), []);
    assert_eq!(
        lab.server
            .stats()
            .refusals()
            .map(|(_, count)| count)
            .sum::<u64>(),
        0
    );
}

#[test]
fn a_flood_gets_fewer_bytes_than_it_sends_beyond_its_budget() {
    let mut lab = Lab::with(|config| config.limits.unproven_bytes_max = 1000);
    let (mut sent, mut got) = (0, 0);
    for port in 1..=1000 {
        let bytes = lab.message(Class::Request, Method::BINDING, |_| {});
        sent += bytes.len();
        got += lab
            .exchange(client(port), &bytes)
            .iter()
            .map(|one| one.bytes.len())
            .sum::<usize>();
    }
    assert!(got <= sent + 1000, "{got} bytes for {sent}");
    assert!(lab.refused(Refusal::BudgetSpent) > 0);
    lab.advance(1);
    assert_eq!(
        lab.unsigned(client(1), Method::BINDING, |_| {}).code(),
        None
    );
}

fn two_ips() -> Lab {
    Lab::with(|config| config.sockets = two_sockets())
}

fn two_sockets() -> Vec<std::net::SocketAddr> {
    [
        "9.9.9.9:3478",
        "9.9.9.9:3479",
        "9.9.9.10:3478",
        "9.9.9.10:3479",
    ]
    .map(address)
    .to_vec()
}
