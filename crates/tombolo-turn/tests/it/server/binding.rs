use std::net::SocketAddr;

use tombolo_stun::{
    AttributeType, ChangeRequest, Class, MappedAddress, Method, OtherAddress, Padding,
    RawAttribute, ResponseOrigin, ResponsePort, UnknownAttributes, XorMappedAddress,
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
fn whoever_asks_about_behaviour_is_told_its_address_in_clear_too_and_where_the_answer_is_from() {
    for (mut lab, has_other) in [(Lab::new(), false), (two_ips(), true)] {
        let reply = lab.unsigned(client(1), Method::BINDING, |writer| {
            writer.attribute(&ChangeRequest::default());
        });
        assert_eq!(reply.get(), Ok(MappedAddress(client(1).client)));
        assert_eq!(reply.get(), Ok(XorMappedAddress(client(1).client)));
        assert_eq!(reply.get(), Ok(ResponseOrigin(client(1).server)));
        assert_eq!(reply.has(AttributeType::OTHER_ADDRESS), has_other);
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
fn a_socket_that_is_none_of_those_that_change_announces_no_other() {
    let mut lab = two_ips();
    let mut from = client(1);
    from.server.set_port(5349);
    let reply = lab.unsigned(from, Method::BINDING, |_| {});
    assert_eq!(reply.get(), Ok(XorMappedAddress(from.client)));
    assert!(!reply.has(AttributeType::OTHER_ADDRESS));
    for port in [false, true] {
        let change = ChangeRequest { ip: true, port };
        let reply = lab.unsigned(from, Method::BINDING, |writer| {
            writer.attribute(&change);
        });
        assert_eq!(reply.code(), Some(420));
    }
}

#[test]
fn a_response_goes_to_the_port_that_the_request_names() {
    let mut lab = two_ips();
    let bytes = lab.message(Class::Request, Method::BINDING, |writer| {
        writer.attribute(&ResponsePort(9000));
    });
    let replies = lab.exchange(client(1), &bytes);
    let [reply] = &replies[..] else {
        panic!("there is one reply");
    };
    let mut to = client(1);
    to.client.set_port(9000);
    assert_eq!(reply.to, to);
    let reply = Reply(reply.bytes.clone());
    assert_eq!(reply.get(), Ok(XorMappedAddress(client(1).client)));
    assert_eq!(reply.get(), Ok(ResponseOrigin(client(1).server)));
}

#[test]
fn a_response_port_of_a_service_or_of_a_stream_is_refused() {
    let mut lab = two_ips();
    for (from, port, code) in [
        (client(1), 0, 400),
        (client(1), 53, 400),
        (client(1), 1023, 400),
        (tcp_client(1), 9000, 420),
    ] {
        let reply = lab.unsigned(from, Method::BINDING, |writer| {
            writer.attribute(&ResponsePort(port));
        });
        assert_eq!(reply.code(), Some(code), "{from:?} {port}");
    }
}

#[test]
fn padding_comes_back_as_long_as_it_came_and_all_zero() {
    let mut lab = two_ips();
    for bytes in [0, 4, 1200] {
        let reply = lab.unsigned(client(1), Method::BINDING, |writer| {
            writer.attribute(&Padding::new(bytes));
        });
        assert_eq!(reply.get(), Ok(Padding::new(bytes)));
        let range = reply.message().value_range(AttributeType::PADDING);
        assert!(
            reply.0[range.expect("is there")]
                .iter()
                .all(|byte| *byte == 0)
        );
    }
}

#[test]
fn padding_that_fills_a_whole_request_comes_back_shorter() {
    let mut lab = two_ips();
    // What is left of a frame, and of a datagram over IPv6 in fragments.
    for (from, bytes) in [(tcp_client(1), 65_528), (client(1), 65_500)] {
        let reply = lab.unsigned(from, Method::BINDING, |writer| {
            writer.attribute(&Padding::new(bytes));
        });
        assert_eq!(reply.get(), Ok(Padding::new(9000)));
        assert_eq!(reply.get(), Ok(XorMappedAddress(from.client)));
    }
}

#[test]
fn padding_and_a_response_port_together_are_refused() {
    let mut lab = two_ips();
    let reply = lab.unsigned(client(1), Method::BINDING, |writer| {
        writer
            .attribute(&Padding::new(1200))
            .attribute(&ResponsePort(9000));
    });
    assert_eq!(reply.code(), Some(400));
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
fn only_an_address_of_the_same_scope_is_announced_as_the_other() {
    for (server, others, client, announced) in [
        // A container's network beside the public one, in whatever order.
        ("9.9.9.9", &["172.17.0.1"][..], "8.8.8.8", None),
        ("9.9.9.9", &["127.0.0.1"], "8.8.8.8", None),
        (
            "9.9.9.9",
            &["172.17.0.1", "9.9.9.10"],
            "8.8.8.8",
            Some("9.9.9.10"),
        ),
        ("127.0.0.1", &["9.9.9.9"], "127.0.0.1", None),
        ("10.0.0.1", &["10.0.0.2"], "10.0.0.9", Some("10.0.0.2")),
        // Somebody forwards a public address that the server does not know of.
        ("10.0.0.1", &["10.0.0.2"], "8.8.8.8", None),
        // A laboratory's internet.
        (
            "192.0.2.10",
            &["192.0.2.11"],
            "198.51.100.1",
            Some("192.0.2.11"),
        ),
        ("192.0.2.10", &["192.0.2.11"], "8.8.8.8", Some("192.0.2.11")),
        (
            "2001:db8:ffff::10",
            &["2001:db8:ffff::11"],
            "2001:db8::1",
            Some("2001:db8:ffff::11"),
        ),
        ("2a00::9", &["fd00::1", "fe80::1"], "2a00::1", None),
    ] {
        let at = |ip: &str, port| SocketAddr::new(ip.parse().expect("is an address"), port);
        let mut lab = Lab::with(|config| {
            let ips = [server].into_iter().chain(others.iter().copied());
            config.sockets = ips.flat_map(|ip| [at(ip, 3478), at(ip, 3479)]).collect();
        });
        let from = FiveTuple {
            transport: Transport::Udp,
            client: at(client, 7),
            server: at(server, 3478),
        };
        let reply = lab.unsigned(from, Method::BINDING, |_| {});
        let told = reply.get().ok().map(|OtherAddress(other)| other);
        let expected = announced.map(|ip| at(ip, 3479));
        assert_eq!(told, expected, "{server}, {others:?}, {client}");
        let changed = lab.unsigned(from, Method::BINDING, |writer| {
            writer.attribute(&ChangeRequest {
                ip: true,
                port: true,
            });
        });
        assert_eq!(changed.code().is_none(), announced.is_some(), "{server}");
    }
}

#[test]
fn a_server_behind_a_nat_announces_no_address_that_has_no_public_form() {
    let nat = |private: [&str; 2], public: [&str; 2]| {
        Lab::with(|config| {
            let parse = |ip: &str| ip.parse().expect("is an address");
            config.public_ips = vec![(parse(private[0]), parse(public[0]))];
            let second = (parse(private[1]), parse(public[1]));
            config
                .public_ips
                .extend([second].iter().filter(|(a, b)| a != b));
            let sockets = private.map(parse).map(|ip| [(ip, 3478), (ip, 3479)]);
            config.sockets = sockets.concat().into_iter().map(SocketAddr::from).collect();
        })
    };
    let from = FiveTuple {
        server: address("10.0.0.1:3478"),
        ..client(1)
    };
    let mut half = nat(["10.0.0.1", "10.0.0.2"], ["9.9.9.9", "10.0.0.2"]);
    let reply = half.unsigned(from, Method::BINDING, |_| {});
    assert_eq!(reply.get::<OtherAddress>().ok(), None);
    let mut both = nat(["10.0.0.1", "10.0.0.2"], ["9.9.9.9", "9.9.9.10"]);
    let reply = both.unsigned(from, Method::BINDING, |_| {});
    assert_eq!(reply.get(), Ok(OtherAddress(address("9.9.9.10:3479"))));
    let mut one = nat(["10.0.0.1", "10.0.0.2"], ["9.9.9.9", "9.9.9.9"]);
    let reply = one.unsigned(from, Method::BINDING, |_| {});
    assert_eq!(reply.get::<OtherAddress>().ok(), None);
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

fn two_sockets() -> Vec<SocketAddr> {
    [
        "9.9.9.9:3478",
        "9.9.9.9:3479",
        "9.9.9.10:3478",
        "9.9.9.10:3479",
    ]
    .map(address)
    .to_vec()
}
