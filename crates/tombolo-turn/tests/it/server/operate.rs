//! A server that is drained, and one that gets another configuration.

use std::net::SocketAddr;
use std::time::Duration;

use tombolo_stun::{
    AlternateDomain, AlternateServer, AttributeType, EvenPort, Method, RequestedTransport,
    ReservationToken,
};
use tombolo_turn::server::{
    Command, Config, Drain, Event, FiveTuple, PortError, Realm, Refusal, Timer, Transport,
    password_of,
};

use super::lab::{Lab, PEER, REALM, SECRET, User, address, alice, bob, client, tcp_client};

#[test]
fn a_drained_server_sends_newcomers_elsewhere_by_turns_once_they_show_credentials() {
    let mut lab = Lab::new();
    drain(&mut lab, &["9.9.9.10:3478", "9.9.9.11:3478"]);
    let mut places = Vec::new();
    for port in 1..=4 {
        // A redirection that nothing proves could be anybody's.
        let reply = lab.unsigned(client(port), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        });
        assert_eq!(reply.code(), Some(401));
        assert!(!reply.has(AttributeType::ALTERNATE_SERVER));
        let reply = lab.allocate_with(client(port), &alice(), |_| {});
        assert_eq!(reply.code(), Some(300));
        assert_eq!(reply.message().check_integrity(&alice().key()), Ok(()));
        places.push(reply.get::<AlternateServer>().expect("says where").0);
    }
    let [first, second] = ["9.9.9.10:3478", "9.9.9.11:3478"].map(address);
    assert_eq!(places, [first, second, first, second]);
    assert_eq!(lab.refused(Refusal::Redirected), 4);
    assert_eq!(lab.server.stats().draining, 1);
}

#[test]
fn a_newcomer_is_told_a_server_of_its_own_family_and_then_one_of_the_other() {
    let mut lab = Lab::new();
    let [v4, v6] = ["9.9.9.10:3478", "[2a00::10]:3478"];
    drain(&mut lab, &[v4, v6]);
    for (from, places) in [("[2a00::1]:7", [v6, v4]), ("[::ffff:8.8.8.8]:7", [v4, v6])] {
        let from = FiveTuple {
            transport: Transport::Udp,
            client: address(from),
            server: address("[2a00::9]:3478"),
        };
        let reply = lab.allocate_with(from, &alice(), |_| {});
        let told = reply.message().all::<AlternateServer>();
        let told: Result<Vec<_>, _> = told.collect();
        assert_eq!(told, Ok(places.map(address).map(AlternateServer).to_vec()));
    }
}

#[test]
fn a_newcomer_that_authenticated_before_gets_an_answer_that_proves_itself() {
    let mut lab = Lab::new();
    let bytes = lab.sign(client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    let mut how = Drain::default();
    how.alternates = vec![address("9.9.9.10:3478")];
    how.domain = Some("other.example".to_owned());
    lab.server.drain(lab.now, how);
    let reply = lab.reply(client(1), &bytes);
    assert_eq!(reply.code(), Some(300));
    assert_eq!(reply.message().check_integrity(&alice().key()), Ok(()));
    let domain = reply.get::<AlternateDomain<'_>>();
    assert_eq!(domain.map(|domain| domain.as_str()), Ok("other.example"));
}

#[test]
fn a_drained_server_that_knows_no_other_has_no_room() {
    let mut lab = Lab::new();
    drain(&mut lab, &["[2a00::10]:3478"]);
    let reply = lab.unsigned(client(1), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(reply.code(), Some(508));
    assert!(!reply.has(AttributeType::ALTERNATE_SERVER));
    assert_eq!(lab.refused(Refusal::Draining), 1);
}

#[test]
fn those_who_have_allocations_notice_nothing_of_a_drain() {
    let mut lab = Lab::new();
    let reply = lab.allocate_with(client(1), &alice(), |writer| {
        writer.attribute(&EvenPort { reserve_next: true });
    });
    let token: ReservationToken = reply.get().expect("is reserved");
    let holder = tcp_client(2);
    lab.nonce(holder);
    drain(&mut lab, &["9.9.9.10:3478"]);
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), None);
    assert!(lab.send(client(1), PEER, b"x").is_some());
    let refreshed = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    assert_eq!(refreshed.code(), None);
    assert_eq!(
        lab.unsigned(client(1), Method::BINDING, |_| {}).code(),
        None
    );
    // The second port of a pair belongs to the first.
    let challenge = lab.unsigned(client(2), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP).attribute(&token);
    });
    assert_eq!(challenge.code(), Some(401));
    let reply = lab.allocate_with(holder, &alice(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(reply.code(), None);
}

#[test]
fn the_end_of_a_drain_is_told_once() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    lab.allocate(client(2), &bob());
    drain(&mut lab, &[]);
    lab.drive();
    assert!(!told(&mut lab).contains(&0));
    lab.server.handle_client_gone(lab.now, client(1));
    assert!(told(&mut lab).is_empty());
    lab.server.handle_client_gone(lab.now, client(2));
    assert_eq!(told(&mut lab), [0]);
    lab.advance(1000);
    assert!(told(&mut lab).is_empty());
    // An empty server is drained at once.
    drain(&mut lab, &[]);
    assert_eq!(told(&mut lab), [0]);
}

#[test]
fn a_drain_ends_when_the_last_allocation_in_the_making_fails() {
    let mut lab = Lab::new();
    lab.is_driver_slow = true;
    let [wish, other] = [1, 2].map(|port| {
        lab.sign(client(port), &alice(), Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
        })
    });
    assert_eq!(lab.exchange(client(1), &wish), []);
    drain(&mut lab, &[]);
    assert!(told(&mut lab).is_empty());
    while let Some(Command::BindPort { id, .. }) = lab.waiting.pop() {
        let unavailable = Err(PortError::Unavailable);
        lab.server.handle_port(lab.now, id, unavailable);
        lab.drive();
    }
    assert_eq!(told(&mut lab), [0]);
    while lab.server.poll_transmit().is_some() {}
    // So it is where the client has given up meanwhile.
    lab.server.undrain();
    assert_eq!(lab.exchange(client(2), &other), []);
    drain(&mut lab, &[]);
    lab.server.handle_client_gone(lab.now, client(2));
    assert!(told(&mut lab).is_empty());
    lab.catch_up();
    assert_eq!(told(&mut lab), [0]);
    assert!(lab.bound.is_empty());
}

#[test]
fn at_its_deadline_a_drain_tells_how_many_are_left() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let mut how = Drain::default();
    how.deadline = Some(Duration::from_secs(30));
    lab.server.drain(lab.now, how);
    let deadline = lab.now + Duration::from_secs(30);
    assert_eq!(lab.server.poll_timeout(), Some((deadline, Timer::Drain)));
    lab.advance(29);
    assert!(told(&mut lab).is_empty());
    lab.advance(1);
    assert_eq!(told(&mut lab), [1]);
    lab.advance(600);
    assert_eq!(told(&mut lab), [0]);
}

#[test]
fn after_a_drain_newcomers_are_welcome_again() {
    let mut lab = Lab::new();
    drain(&mut lab, &["9.9.9.10:3478"]);
    lab.server.undrain();
    lab.allocate(client(1), &alice());
    assert_eq!(lab.server.stats().draining, 0);
}

#[test]
fn a_new_configuration_replaces_secrets_and_keeps_allocations() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let mut config = config();
    config.realm.secrets = vec![b"the next secret".to_vec()];
    lab.server.reconfigure(lab.now, config);
    assert_eq!(lab.server.stats().allocations, 1);
    // The old secret is over, the new one carries on for the same user.
    let old = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    assert_eq!(old.code(), Some(401));
    let username = alice().username;
    let password = password_of(b"the next secret", &username);
    let renewed = User { username, password };
    let refreshed = lab.signed(client(1), &renewed, Method::REFRESH, |_| {});
    assert_eq!(refreshed.code(), None);
}

#[test]
fn a_new_configuration_bars_peers_that_were_allowed_at_once() {
    let mut lab = Lab::with(|config| config.allow_peers = vec!["10.0.0.0/8".parse().expect("is")]);
    lab.allocate(client(1), &alice());
    for (peer, number) in [("10.1.2.3:5000", 0x4000), (PEER, 0x4001)] {
        assert_eq!(lab.bind(client(1), &alice(), number, peer).code(), None);
        assert!(lab.send_on(client(1), number, b"x").is_some());
    }
    lab.server.reconfigure(lab.now, config());
    assert_eq!(lab.send(client(1), "10.1.2.3:5000", b"x"), None);
    assert_eq!(lab.send_on(client(1), 0x4000, b"x"), None);
    assert!(lab.send_on(client(1), 0x4001, b"x").is_some());
    let reply = lab.permit(client(1), &alice(), "10.1.2.3:5000");
    assert_eq!(reply.code(), Some(403));
}

#[test]
fn a_realm_that_comes_back_is_the_realm_it_was() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let mut other = config();
    other.realm.name = "elsewhere".to_owned();
    lab.server.reconfigure(lab.now, other);
    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    assert_eq!(reply.code(), Some(401));
    assert_eq!(lab.refused(Refusal::RealmWrong), 1);
    lab.server.reconfigure(lab.now, config());
    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    assert_eq!(reply.code(), None);
}

fn config() -> Config {
    let mut config = Config::new([3; 32]);
    config.realm = Realm::new(REALM);
    config.realm.secrets = vec![SECRET.to_vec()];
    config
}

fn drain(lab: &mut Lab, alternates: &[&str]) {
    let alternates: Vec<SocketAddr> = alternates.iter().map(|one| address(one)).collect();
    let mut how = Drain::default();
    how.alternates = alternates;
    lab.server.drain(lab.now, how);
}

/// Returns what the server told about its drain since the last time.
fn told(lab: &mut Lab) -> Vec<usize> {
    lab.drive();
    let left = |event: Event| match event {
        Event::Drained { left } => Some(left),
        Event::Allocated { .. } | Event::Closed { .. } | _ => None,
    };
    lab.events.drain(..).filter_map(left).collect()
}

#[test]
fn the_ends_of_clients_with_connections_are_told_however_many_wait() {
    let mut lab = Lab::with(|config| config.limits.events_max = 1);
    for port in 1..=3 {
        lab.allocate(tcp_client(port), &alice());
        lab.allocate(client(port), &alice());
    }
    lab.events.clear();
    for port in 1..=3 {
        for client in [client(port), tcp_client(port)] {
            assert_eq!(lab.end(client), 1);
        }
    }
    lab.drive();
    let is_told = |wanted| {
        let is_it =
            |event: &Event| matches!(event, Event::Closed { client, .. } if *client == wanted);
        lab.events.iter().any(is_it)
    };
    assert!((1..=3).all(|port| is_told(tcp_client(port))));
    assert!(!is_told(client(3)), "others have a bound");
}
