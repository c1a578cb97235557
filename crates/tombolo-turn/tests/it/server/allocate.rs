use std::collections::BTreeSet;

use tombolo_stun::{
    AdditionalAddressFamily, AddressErrorCode, AddressFamily, AttributeType, DontFragment,
    EvenPort, Lifetime, Method, RawAttribute, RequestedAddressFamily, RequestedTransport,
    ReservationToken, UnknownAttributes, XorMappedAddress, XorRelayedAddress,
};
use tombolo_turn::server::{CloseReason, Command, Event, PortError, Refusal, Timer};

use super::lab::{Lab, alice, bob, client, tcp_client};

#[test]
fn an_allocation_has_a_random_port_of_the_range_and_says_all_about_itself() {
    let mut lab = Lab::new();
    let mut ports = BTreeSet::new();
    for number in 1..=8 {
        let reply = lab.allocate_with(client(number), &alice(), |_| {});
        let XorRelayedAddress(relayed) = reply.get().expect("is there");
        assert!(relayed.is_ipv4() && relayed.port() >= 49152);
        assert_eq!(reply.get(), Ok(Lifetime(600)));
        assert_eq!(reply.get(), Ok(XorMappedAddress(client(number).client)));
        ports.insert(relayed.port());
    }
    assert_eq!(ports.len(), 8);
    assert_eq!(lab.bound.len(), 8);
    assert_eq!(lab.server.stats().allocations, 8);
}

#[test]
fn an_allocation_is_of_the_family_that_was_asked_for() {
    let mut lab = Lab::new();
    for (number, family) in [(1, AddressFamily::V4), (2, AddressFamily::V6)] {
        let reply = lab.allocate_with(client(number), &alice(), |writer| {
            writer.attribute(&RequestedAddressFamily(family));
        });
        let XorRelayedAddress(relayed) = reply.get().expect("is there");
        assert_eq!(AddressFamily::of(relayed.ip()), family);
    }
}

#[test]
fn both_families_can_be_had_at_once() {
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&AdditionalAddressFamily(AddressFamily::V6));
    });
    let families: Vec<_> = reply
        .message()
        .all::<XorRelayedAddress>()
        .map(|relayed| AddressFamily::of(relayed.expect("well formed").0.ip()))
        .collect();
    assert_eq!(families, [AddressFamily::V4, AddressFamily::V6]);

    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
        writer
            .attribute(&Lifetime(0))
            .attribute(&RequestedAddressFamily(AddressFamily::V4));
    });
    assert_eq!(reply.code(), None);
    assert_eq!(lab.bound.len(), 1, "only the IPv4 address is given back");
    lab.advance(600);
    assert!(lab.bound.is_empty());
}

#[test]
fn both_ports_of_two_families_can_be_even() {
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer
            .attribute(&AdditionalAddressFamily(AddressFamily::V6))
            .attribute(&EvenPort {
                reserve_next: false,
            });
    });
    assert_eq!(reply.message().all::<XorRelayedAddress>().count(), 2);
    assert!(lab.bound.iter().all(|relay| relay.0.port() % 2 == 0));
}

#[test]
fn one_family_of_two_may_be_missing() {
    let mut lab = Lab::with(|config| config.relay_ip_v6 = None);
    let both = AdditionalAddressFamily(AddressFamily::V6);
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&both);
    });
    assert_eq!(reply.code(), None);
    let error: AddressErrorCode<'_> = reply.get().expect("says what is missing");
    assert_eq!((error.family, error.error.code()), (AddressFamily::V6, 440));

    let mut lab = Lab::new();
    lab.port_answers = vec![Ok(()); 1];
    lab.port_answers.extend(vec![Err(PortError::InUse); 9]);
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&both);
    });
    let error: AddressErrorCode<'_> = reply.get().expect("says what is missing");
    assert_eq!((error.family, error.error.code()), (AddressFamily::V4, 508));
}

#[test]
fn a_family_that_the_server_lacks_or_nobody_knows_is_not_supported() {
    let mut lab = Lab::with(|config| config.relay_ip_v6 = None);
    for family in [2, 3] {
        let reply = lab.allocate_with(client(1), &alice(), |writer| {
            let kind = AttributeType::REQUESTED_ADDRESS_FAMILY;
            writer.attribute(&RawAttribute {
                kind,
                value: &[family, 0, 0, 0],
            });
        });
        assert_eq!(reply.code(), Some(440));
    }
}

#[test]
fn only_udp_is_relayed() {
    let mut lab = Lab::new();
    let reply = lab.signed(client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport(6));
    });
    assert_eq!(reply.code(), Some(442));
    let reply = lab.signed(client(1), &alice(), Method::ALLOCATE, |_| {});
    assert_eq!(reply.code(), Some(400));
}

#[test]
fn dont_fragment_is_supported() {
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&DontFragment);
    });
    assert_eq!(reply.code(), None);
}

#[test]
fn attributes_that_must_be_understood_and_are_not_are_named() {
    let mut lab = Lab::new();
    let kind = AttributeType(0x7777);
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&RawAttribute { kind, value: &[] });
    });
    assert_eq!(reply.code(), Some(420));
    let unknown: UnknownAttributes<'_> = reply.get().expect("says which");
    assert!(unknown.types().eq([kind]));
}

#[test]
fn wishes_that_contradict_each_other_are_bad_requests() {
    let mut lab = Lab::new();
    let token = ReservationToken([0; 8]);
    let v4 = RequestedAddressFamily(AddressFamily::V4);
    let both = AdditionalAddressFamily(AddressFamily::V6);
    let next = EvenPort { reserve_next: true };
    let replies = [
        lab.allocate_with(client(1), &alice(), |w| {
            w.attribute(&token).attribute(&v4);
        }),
        lab.allocate_with(client(1), &alice(), |w| {
            w.attribute(&token).attribute(&both);
        }),
        lab.allocate_with(client(1), &alice(), |w| {
            w.attribute(&token).attribute(&next);
        }),
        lab.allocate_with(client(1), &alice(), |w| {
            w.attribute(&v4).attribute(&both);
        }),
        lab.allocate_with(client(1), &alice(), |w| {
            w.attribute(&next).attribute(&both);
        }),
        lab.allocate_with(client(1), &alice(), |w| {
            w.attribute(&AdditionalAddressFamily(AddressFamily::V4));
        }),
    ];
    assert_eq!(replies.map(|reply| reply.code()), [Some(400); 6]);
}

#[test]
fn a_retransmitted_allocate_gets_the_same_answer_and_another_one_a_mismatch() {
    let mut lab = Lab::new();
    let bytes = lab.sign(client(1), &alice(), Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::UDP)
            .attribute(&Lifetime(1000));
    });
    let first = lab.reply(client(1), &bytes);
    lab.advance(5);
    assert_eq!(lab.reply(client(1), &bytes), first);
    assert_eq!(lab.bound.len(), 1);
    assert_eq!(
        lab.allocate_with(client(1), &alice(), |_| {}).code(),
        Some(437)
    );
}

#[test]
fn a_retransmission_while_the_port_is_awaited_is_answered_once() {
    let mut lab = Lab::new();
    lab.is_driver_slow = true;
    let bytes = lab.sign(client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(lab.exchange(client(1), &bytes), []);
    assert_eq!(lab.exchange(client(1), &bytes), []);
    assert_eq!(
        lab.allocate_with(client(1), &alice(), |_| {}).code(),
        Some(437)
    );
    assert_eq!(lab.catch_up().len(), 1);
    assert_eq!(lab.bound.len(), 1);
}

#[test]
fn a_client_that_goes_while_its_port_is_awaited_leaves_nothing_behind() {
    let mut lab = Lab::new();
    let bytes = lab.sign(tcp_client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    lab.is_driver_slow = true;
    assert_eq!(lab.exchange(tcp_client(1), &bytes), []);
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    assert_eq!(lab.catch_up(), []);
    assert!(lab.bound.is_empty());
    assert_eq!(lab.server.stats().allocations, 0);
}

#[test]
fn a_client_whose_connection_closes_loses_its_allocation() {
    let mut lab = Lab::new();
    lab.allocate(tcp_client(1), &alice());
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    lab.drive();
    assert!(lab.bound.is_empty());
    let reason = CloseReason::ClientGone;
    let closed = Event::Closed {
        client: tcp_client(1),
        user: "alice".to_owned(),
        reason,
    };
    assert_eq!(lab.events.last(), Some(&closed));
}

#[test]
fn a_port_in_use_elsewhere_is_tried_again_elsewhere() {
    let mut lab = Lab::new();
    lab.port_answers = vec![Err(PortError::InUse); 3];
    lab.allocate(client(1), &alice());
}

#[test]
fn a_port_that_somebody_else_has_is_not_tried_twice_while_there_are_others() {
    let mut lab = Lab::with(|config| config.relay_ports = 50000..=50008);
    let wish = lab.sign(client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    lab.is_driver_slow = true;
    lab.exchange(client(1), &wish);
    let mut tried = BTreeSet::new();
    while let Some(Command::BindPort { id, address }) = lab.waiting.pop() {
        assert!(tried.insert(address), "{address:?} was tried before");
        let answer = Err(PortError::InUse);
        lab.server.handle_port(lab.now, id, answer);
        lab.drive();
    }
    assert_eq!(tried.len(), 9, "all of them");
}

#[test]
fn no_port_left_means_no_capacity_and_nothing_is_kept() {
    let mut lab = Lab::with(|config| {
        config.relay_ports = 50000..=50001;
        config.limits.per_user.allocations = Some(2);
    });
    lab.allocate(client(1), &bob());
    lab.allocate(client(2), &bob());
    for _ in 0..4 {
        let reply = lab.allocate_with(client(3), &alice(), |_| {});
        assert_eq!(
            reply.code(),
            Some(508),
            "and not 486: a failure takes no quota"
        );
    }
    lab.advance(600);
    lab.allocate(client(3), &alice());

    lab.port_answers = vec![Err(PortError::Unavailable); 32];
    assert_eq!(
        lab.allocate_with(client(4), &alice(), |_| {}).code(),
        Some(508)
    );
}

#[test]
fn a_user_has_only_so_many_allocations_and_a_shard_too() {
    let mut lab = Lab::with(|config| {
        config.limits.per_user.allocations = Some(2);
        config.limits.total.allocations = Some(3);
    });
    lab.allocate(client(1), &alice());
    lab.allocate(client(2), &alice());
    assert_eq!(
        lab.allocate_with(client(3), &alice(), |_| {}).code(),
        Some(486)
    );
    lab.allocate(client(3), &bob());
    assert_eq!(
        lab.allocate_with(client(4), &bob(), |_| {}).code(),
        Some(508)
    );
    assert_eq!(lab.refused(Refusal::CapacityReached), 1);
    lab.advance(600);
    lab.allocate(client(1), &alice());
}

#[test]
fn an_even_port_is_even_and_the_next_one_can_be_had_with_the_token() {
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&EvenPort { reserve_next: true });
    });
    let XorRelayedAddress(even) = reply.get().expect("is there");
    assert_eq!(even.port() % 2, 0);
    let token: ReservationToken = reply.get().expect("is there");

    let stolen = lab.allocate_with(client(2), &bob(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(stolen.code(), Some(508), "the token is another user's");
    let reply = lab.allocate_with(client(2), &alice(), |writer| {
        writer.attribute(&token);
    });
    let XorRelayedAddress(odd) = reply.get().expect("is there");
    assert_eq!(odd.port(), even.port() + 1);
    let again = lab.allocate_with(client(3), &alice(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(again.code(), Some(508), "the token is used up");
}

#[test]
fn a_reserved_port_counts_for_the_quota_and_is_given_back_in_time() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(2));
    let next = EvenPort { reserve_next: true };
    lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&next);
    });
    assert_eq!(
        lab.allocate_with(client(2), &alice(), |_| {}).code(),
        Some(486)
    );
    assert_eq!(
        lab.server.poll_timeout().map(|(_, timer)| timer),
        Some(Timer::Reservation)
    );
    lab.advance(29);
    assert_eq!(lab.bound.len(), 2, "it is held");
    lab.advance(1);
    assert_eq!(lab.bound.len(), 1);
    lab.allocate(client(2), &alice());
}

#[test]
fn a_reserved_port_can_be_had_as_long_as_it_is_held() {
    let mut lab = Lab::new();
    let next = EvenPort { reserve_next: true };
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&next);
    });
    let token: ReservationToken = reply.get().expect("is reserved");
    lab.advance(29);
    let reply = lab.allocate_with(client(2), &alice(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(reply.code(), None);
}

#[test]
fn a_reserved_pair_moves_on_when_its_second_port_is_in_use() {
    let mut lab = Lab::new();
    lab.port_answers = vec![Ok(()), Ok(()), Err(PortError::InUse), Ok(())];
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&EvenPort { reserve_next: true });
    });
    assert_eq!(reply.code(), None);
    assert_eq!(lab.bound.len(), 2);
}

#[test]
fn lifetimes_are_kept_between_the_default_and_the_maximum() {
    let mut lab = Lab::new();
    for (number, asked, granted) in [
        (1, 1, 600),
        (2, 1000, 1000),
        (3, u32::MAX, 3600),
        (4, 0, 600),
    ] {
        let reply = lab.allocate_with(client(number), &alice(), |writer| {
            writer.attribute(&Lifetime(asked));
        });
        assert_eq!(reply.get(), Ok(Lifetime(granted)));
    }
}

#[test]
fn an_allocation_ends_when_it_is_not_refreshed() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.advance(599);
    assert_eq!(
        lab.signed(client(1), &alice(), Method::REFRESH, |_| {})
            .code(),
        None
    );
    lab.advance(599);
    assert_eq!(lab.bound.len(), 1);
    assert_eq!(
        lab.server.poll_timeout().map(|(_, timer)| timer),
        Some(Timer::Allocation)
    );
    lab.advance(1);
    assert!(lab.bound.is_empty());
    assert_eq!(lab.server.poll_timeout(), None);
    assert_eq!(lab.server.stats().allocations_expired, 1);
    assert_eq!(
        lab.signed(client(1), &alice(), Method::REFRESH, |_| {})
            .code(),
        Some(437)
    );
}

#[test]
fn a_lifetime_of_zero_ends_an_allocation_at_once() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0));
    });
    assert_eq!(reply.get(), Ok(Lifetime(0)));
    assert!(lab.bound.is_empty());
    lab.allocate(client(1), &alice());
}

#[test]
fn a_refresh_of_the_other_family_is_a_mismatch() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&RequestedAddressFamily(AddressFamily::V6));
    });
    assert_eq!(reply.code(), Some(443));
}

#[test]
fn relayed_addresses_are_told_as_the_world_knows_them() {
    let public = "7.7.7.7".parse().expect("is an address");
    let mut lab = Lab::with(|config| {
        config.public_ips = vec![("9.9.9.9".parse().expect("is an address"), public)];
    });
    let reply = lab.allocate_with(client(1), &alice(), |_| {});
    let XorRelayedAddress(relayed) = reply.get().expect("is there");
    assert_eq!(relayed.ip(), public);
    let bound = lab.bound.first().expect("is bound").0;
    assert_eq!(
        (bound.ip().to_string().as_str(), bound.port()),
        ("9.9.9.9", relayed.port())
    );
}
