//! Holes that other servers had around ports, quotas and whose allocation it is. See `holes.rs` too.

use tombolo_stun::{
    EvenPort, Lifetime, Method, MobilityTicket, RequestedTransport, ReservationToken,
};
use tombolo_turn::server::{PortError, RelayAddr};

use super::lab::{Lab, PEER, User, alice, bob, client, tcp_client};

#[test]
fn coturn_2026_even_port_without_reservation_leaks_no_port() {
    let mut lab = Lab::with(|config| config.relay_ports = 50_000..=50_003);
    let even = EvenPort {
        reserve_next: false,
    };
    for round in 0..20 {
        for port in 1..=2 {
            let reply = lab.allocate_with(client(port), &alice(), |writer| {
                writer.attribute(&even);
            });
            assert_eq!(reply.code(), None, "round {round}");
        }
        // Both even ports are taken; the odd ones are not held for anybody.
        let reply = lab.allocate_with(client(3), &alice(), |writer| {
            writer.attribute(&even);
        });
        assert_eq!(reply.code(), Some(508));
        for port in 3..=4 {
            lab.allocate(client(port), &alice());
        }
        for port in 1..=4 {
            end(&mut lab, port);
        }
        assert!(lab.bound.is_empty());
    }
}

#[test]
fn coturn_2026_a_failed_pair_of_ports_leaves_neither_behind() {
    let mut lab = Lab::with(|config| config.relay_ports = 50_000..=50_001);
    for _ in 0..20 {
        // The second of the pair cannot be bound, however often another one is tried.
        lab.port_answers = [Err(PortError::InUse), Ok(())].repeat(20);
        let reply = lab.allocate_with(client(1), &alice(), |writer| {
            writer.attribute(&EvenPort { reserve_next: true });
        });
        assert_eq!(reply.code(), Some(508));
        assert!(lab.bound.is_empty());
    }
    lab.port_answers.clear();
    lab.allocate(client(1), &alice());
    lab.allocate(client(2), &alice());
}

#[test]
fn coturn_2026_reservations_count_for_the_quota_until_they_are_over() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(2));
    let token = reserve(&mut lab, 1);
    let reply = lab.allocate_with(client(2), &alice(), |_| {});
    assert_eq!(reply.code(), Some(486), "one is reserved");
    // The allocation that made it ends; the reservation still counts.
    end(&mut lab, 1);
    let reply = lab.allocate_with(client(2), &alice(), |writer| {
        writer.attribute(&EvenPort { reserve_next: true });
    });
    assert_eq!(reply.code(), Some(486));
    // Redeemed it is one allocation, and no more.
    let reply = lab.allocate_with(client(2), &alice(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(reply.code(), None);
    lab.allocate(client(3), &alice());
    let reply = lab.allocate_with(client(4), &alice(), |_| {});
    assert_eq!(reply.code(), Some(486));
}

#[test]
fn ports_that_will_be_reserved_count_from_when_they_are_asked_for() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(4));
    let wishes = [1, 2, 3].map(|port| {
        lab.sign(client(port), &alice(), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
            writer.attribute(&EvenPort { reserve_next: true });
        })
    });
    lab.is_driver_slow = true;
    assert_eq!(lab.exchange(client(1), &wishes[0]), []);
    assert_eq!(lab.exchange(client(2), &wishes[1]), []);
    assert_eq!(lab.reply(client(3), &wishes[2]).code(), Some(486));
    assert_eq!(lab.catch_up().len(), 2);
    assert_eq!(lab.server.usage().allocations, 4);
    for port in [1, 2] {
        end(&mut lab, port);
    }
    lab.advance(30);
    assert_eq!(lab.server.usage().allocations, 0);
}

#[test]
fn coturn_2026_a_reservation_that_nobody_redeems_is_given_back() {
    let mut lab = Lab::with(|config| {
        config.limits.per_user.allocations = Some(2);
        config.relay_ports = 50_000..=50_001;
    });
    for _ in 0..20 {
        reserve(&mut lab, 1);
        end(&mut lab, 1);
        lab.advance(30);
        assert!(lab.bound.is_empty());
    }
}

#[test]
fn coturn_2026_a_token_is_redeemed_once_and_by_its_user_alone() {
    let mut lab = Lab::new();
    let token = reserve(&mut lab, 1);
    let mut redeem = |port, user: &User| {
        let reply = lab.allocate_with(client(port), user, |writer| {
            writer.attribute(&token);
        });
        reply.code()
    };
    assert_eq!(redeem(2, &bob()), Some(508));
    assert_eq!(redeem(2, &alice()), None);
    assert_eq!(redeem(3, &alice()), Some(508));
}

#[test]
fn coturn_2026_moving_makes_no_room_for_more_allocations() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(2));
    let mut tickets = Vec::new();
    for port in [1, 2] {
        let reply = lab.allocate_with(tcp_client(port), &alice(), |writer| {
            writer.attribute(&MobilityTicket(b""));
        });
        let ticket: MobilityTicket<'_> = reply.get().expect("is mobile");
        tickets.push(ticket.0.to_vec());
    }
    // Left behind, moved, moved again: two are two.
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    for to in [3, 4, 5] {
        let reply = lab.signed(client(to), &alice(), Method::REFRESH, |writer| {
            writer.attribute(&MobilityTicket(&tickets[1]));
        });
        assert_eq!(reply.code(), None);
        let reply = lab.allocate_with(client(10 + to), &alice(), |_| {});
        assert_eq!(reply.code(), Some(486));
    }
    assert_eq!(lab.bound.len(), 2);
}

#[test]
fn pion_another_user_cannot_touch_an_allocation_from_its_address() {
    let mut lab = Lab::new();
    let at: RelayAddr = lab.allocate(client(1), &alice());
    let forbidden = [
        lab.permit(client(1), &bob(), PEER),
        lab.bind(client(1), &bob(), 0x4000, PEER),
        lab.signed(client(1), &bob(), Method::REFRESH, |_| {}),
        lab.signed(client(1), &bob(), Method::REFRESH, |writer| {
            writer.attribute(&Lifetime(0));
        }),
    ];
    assert_eq!(forbidden.map(|reply| reply.code()), [Some(441); 4]);
    assert_eq!(
        lab.allocate_with(client(1), &bob(), |_| {}).code(),
        Some(437)
    );
    assert!(lab.bound.contains(&at));
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
}

fn reserve(lab: &mut Lab, port: u16) -> ReservationToken {
    let reply = lab.allocate_with(client(port), &alice(), |writer| {
        writer.attribute(&EvenPort { reserve_next: true });
    });
    reply.get().expect("is reserved")
}

fn end(lab: &mut Lab, port: u16) {
    let reply = lab.signed(client(port), &alice(), Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0));
    });
    assert_eq!(reply.code(), None);
}
