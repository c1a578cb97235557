//! Forged, broken and excessive input.

use std::net::SocketAddr;
use std::time::Duration;

use tombolo_path::{
    AddPeerError, Candidate, CandidateKind, CandidateRefusal, Cause, Config, Credentials,
    PeerConfig, PeerId, Route,
};
use tombolo_stun::{
    AttributeType, Class, ErrorCode, IceControlled, IceControlling, Key, Message, MessageWriter,
    Method, Priority, RawAttribute, TransactionId, UnknownAttributes, UseCandidate, Username,
    XorMappedAddress,
};

use crate::world::{MS, Nat, PEER, Side, World};

const STRANGER: &str = "198.51.100.66:666";

fn stranger() -> SocketAddr {
    STRANGER.parse().unwrap()
}

/// A check as B would send it to A, with whatever is to be different.
struct Forged {
    class: Class,
    username: String,
    password: String,
    id: u8,
    extra: Vec<AttributeType>,
    is_nominating: bool,
}

impl Forged {
    fn new() -> Self {
        let (a, b) = (
            Credentials::from_seed([1; 32]),
            Credentials::from_seed([2; 32]),
        );
        Self {
            class: Class::Request,
            username: format!("{}:{}", a.ufrag, b.ufrag),
            password: a.password,
            id: 0,
            extra: Vec::new(),
            is_nominating: false,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let id = TransactionId([self.id; 12]);
        let mut writer = MessageWriter::new(&mut bytes, self.class, Method::BINDING, id);
        writer
            .attribute(&Username::new(&self.username).unwrap())
            .attribute(&Priority(1));
        if self.is_nominating {
            writer
                .attribute(&IceControlling(1))
                .attribute(&UseCandidate);
        } else {
            writer.attribute(&IceControlled(1));
        }
        for kind in &self.extra {
            writer.attribute(&RawAttribute {
                kind: *kind,
                value: &[],
            });
        }
        writer
            .integrity(&Key::short_term(&self.password))
            .fingerprint();
        bytes
    }
}

/// A, introduced to a B that says nothing.
fn lonely() -> World {
    let mut world = World::new(1, Nat::None, Nat::None);
    let config = PeerConfig {
        candidates: Vec::new(),
        ..world.peer_config(Side::A)
    };
    world.introduce_with(Side::A, config);
    world
}

/// What A sent last.
fn last_sent(world: &World) -> (SocketAddr, Class, Option<u16>) {
    let (_, to, bytes) = world.seen.back().expect("something was sent");
    let message = Message::decode(bytes).unwrap();
    let code = message
        .attribute::<ErrorCode<'_>>()
        .unwrap()
        .map(|error| error.code());
    (*to, message.class(), code)
}

#[test]
fn a_wrong_password_is_answered_401_and_leads_nowhere() {
    let mut world = lonely();
    let forged = Forged {
        password: "x".repeat(24),
        ..Forged::new()
    };
    world.inject(Side::A, stranger(), &forged.bytes());
    assert_eq!(last_sent(&world), (stranger(), Class::Error, Some(401)));
    assert_eq!(world.device(Side::A).agent.stats().unauthenticated, 1);
    world.run_for(MS * 1000);
    assert_eq!(world.seen.len(), 1, "no check back");
    assert_eq!(world.device(Side::A).events, []);
}

#[test]
fn a_wrong_remote_fragment_is_answered_401() {
    let mut world = lonely();
    let local = Credentials::from_seed([1; 32]).ufrag;
    let forged = Forged {
        username: format!("{local}:else"),
        ..Forged::new()
    };
    world.inject(Side::A, stranger(), &forged.bytes());
    assert_eq!(last_sent(&world), (stranger(), Class::Error, Some(401)));
}

#[test]
fn a_check_without_integrity_is_answered_400() {
    let mut world = lonely();
    let mut bytes = Vec::new();
    let id = TransactionId([9; 12]);
    MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, id)
        .attribute(&Username::new(&Forged::new().username).unwrap())
        .fingerprint();
    world.inject(Side::A, stranger(), &bytes);
    assert_eq!(last_sent(&world), (stranger(), Class::Error, Some(400)));
}

#[test]
fn an_unknown_fragment_is_not_answered() {
    let mut world = lonely();
    let forged = Forged {
        username: "nobody:else".into(),
        ..Forged::new()
    };
    world.inject(Side::A, stranger(), &forged.bytes());
    assert!(world.seen.is_empty());
    assert_eq!(world.device(Side::A).agent.stats().unknown_username, 1);
}

#[test]
fn an_indication_is_not_answered_and_leads_nowhere_whatever_it_proves() {
    let mut world = lonely();
    let indication = || Forged {
        class: Class::Indication,
        ..Forged::new()
    };
    let unknown = Forged {
        username: "nobody:else".into(),
        ..indication()
    };
    let unproven = Forged {
        password: "x".repeat(24),
        ..indication()
    };
    let mut bare = Vec::new();
    let id = TransactionId([9; 12]);
    MessageWriter::new(&mut bare, Class::Indication, Method::BINDING, id).fingerprint();
    for bytes in [
        indication().bytes(),
        unknown.bytes(),
        unproven.bytes(),
        bare,
    ] {
        world.inject(Side::A, stranger(), &bytes);
    }
    world.run_for(MS * 1000);
    assert!(world.seen.is_empty());
    assert_eq!(world.device(Side::A).events, []);
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert!(explanation.pairs.is_empty());
}

#[test]
fn error_answers_are_shorter_than_what_asks_for_them_and_budgeted() {
    let mut world = lonely();
    let forged = Forged {
        password: "x".repeat(24),
        ..Forged::new()
    }
    .bytes();
    for _ in 0..1000 {
        world.inject(Side::A, stranger(), &forged);
    }
    assert_eq!(world.seen.len(), 20);
    assert!(
        world
            .seen
            .iter()
            .all(|(_, _, bytes)| bytes.len() < forged.len())
    );
    for (_, _, bytes) in &world.seen {
        let answer = Message::decode(bytes).expect("is well formed");
        assert!(!answer.has_integrity(), "nothing could prove it");
        assert!(!answer.has(AttributeType::USERNAME));
    }
    assert_eq!(world.device(Side::A).agent.stats().errors_withheld, 980);
}

#[test]
fn every_truncation_and_every_flipped_byte_of_a_check_is_refused() {
    let mut world = lonely();
    let good = Forged::new().bytes();
    for length in 0..good.len() {
        world.inject(Side::A, stranger(), &good[..length]);
    }
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 0x55;
        world.inject(Side::A, stranger(), &bad);
    }
    let stats = world.device(Side::A).agent.stats();
    assert_eq!(stats.checks_received, 0);
    assert_eq!(stats.malformed, 2 * good.len() as u64);
    world.inject(Side::A, stranger(), &good);
    assert_eq!(world.device(Side::A).agent.stats().checks_received, 1);
}

#[test]
fn an_unknown_required_attribute_is_answered_420() {
    let mut world = lonely();
    let forged = Forged {
        extra: vec![AttributeType(0x7abc)],
        ..Forged::new()
    };
    world.inject(Side::A, stranger(), &forged.bytes());
    assert_eq!(last_sent(&world), (stranger(), Class::Error, Some(420)));
    let (_, _, bytes) = world.seen.back().unwrap();
    let answer = Message::decode(bytes).unwrap();
    answer
        .check_integrity(&Key::short_term(&Forged::new().password))
        .unwrap();
    let unknown = answer.required::<UnknownAttributes<'_>>().unwrap();
    assert_eq!(unknown.types().collect::<Vec<_>>(), [AttributeType(0x7abc)]);
}

#[test]
fn a_forged_answer_does_not_make_a_route() {
    let mut world = World::new(1, Nat::None, Nat::None);
    let config = world.peer_config(Side::A);
    world.introduce_with(Side::A, config);
    let (_, to, check) = world.seen[0].clone();
    let id = Message::decode(&check).unwrap().transaction_id();
    let answer = |password: &str| {
        let mut bytes = Vec::new();
        MessageWriter::new(&mut bytes, Class::Success, Method::BINDING, id)
            .attribute(&XorMappedAddress(stranger()))
            .integrity(&Key::short_term(password))
            .fingerprint();
        bytes
    };
    world.inject(Side::A, to, &answer("not the password of the peer"));
    assert_eq!(world.route(Side::A), Route::Relay);
    assert_eq!(world.device(Side::A).agent.stats().unauthenticated, 1);
    // With the right password but from elsewhere: the path is not symmetric.
    let password = Credentials::from_seed([2; 32]).password;
    world.inject(Side::A, stranger(), &answer(&password));
    assert_eq!(world.route(Side::A), Route::Relay);
    assert_eq!(world.device(Side::A).agent.stats().asymmetric, 1);
    // From the right place it counts all the same, once.
    for _ in 0..2 {
        world.inject(Side::A, to, &answer(&password));
    }
    assert_eq!(world.route(Side::A), Route::Direct(to));
    let stats = *world.device(Side::A).agent.stats();
    assert_eq!((stats.checks_answered, stats.unknown_transaction), (1, 1));
}

#[test]
fn copies_of_answers_from_elsewhere_do_not_keep_the_answers_from_counting() {
    let mut world = World::new(1, Nat::None, Nat::None);
    world.introduce();
    let peer = world.device(Side::B).host;
    let mut copied = 0;
    // Somebody who hears B's answers is faster than they are.
    for _ in 0..95 {
        world.run_for(MS);
        let sent: Vec<_> = world.seen.iter().skip(copied).cloned().collect();
        copied += sent.len();
        for (from, _, bytes) in sent {
            if from == peer && Message::decode(&bytes).unwrap().class() == Class::Success {
                world.inject(Side::A, stranger(), &bytes);
            }
        }
    }
    assert!(world.device(Side::A).agent.stats().asymmetric > 0);
    assert_eq!(world.route(Side::A), Route::Direct(peer));
}

#[test]
fn a_replayed_answer_does_not_keep_a_dead_route() {
    let mut world = World::new(1, Nat::None, Nat::None);
    world.introduce();
    world.data_every = Some(MS * 10);
    world.run_for(MS * 2000);
    let a = world.device(Side::A).host;
    let b = world.device(Side::B).host;
    let answers: Vec<_> = world
        .seen
        .iter()
        .filter(|(_, to, bytes)| *to == a && bytes[0] == 1)
        .map(|(_, _, bytes)| bytes.clone())
        .collect();
    assert!(!answers.is_empty());
    world.is_cut = true;
    for _ in 0..20 {
        world.run_for(MS * 50);
        for answer in &answers {
            world.inject(Side::A, b, answer);
        }
    }
    assert_eq!(world.route(Side::A), Route::Relay);
}

#[test]
fn a_flood_of_peer_reflexive_addresses_is_bounded() {
    let mut world = lonely();
    for port in 1..=2000 {
        let forged = Forged {
            id: (port % 251) as u8,
            ..Forged::new()
        };
        world.inject(Side::A, ([198, 51, 100, 66], port).into(), &forged.bytes());
    }
    let now = world.now();
    let agent = &mut world.device(Side::A).agent;
    assert_eq!(agent.explain(now, PEER).unwrap().pairs.len(), 32);
    assert_eq!(agent.stats().prflx_dropped, 2000 - 32);
    // Later a real one finds room: the others have long been silent.
    world.run_for(Duration::from_secs(20));
    world.inject(Side::A, stranger(), &Forged::new().bytes());
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert!(
        explanation
            .pairs
            .iter()
            .any(|pair| pair.address == stranger())
    );
}

#[test]
fn a_flood_of_checks_gets_at_most_one_check_per_5_ms_back() {
    let mut world = lonely();
    let from = world.elapsed;
    for round in 0..200u16 {
        for port in 1..=20 {
            let forged = Forged {
                id: (round % 251) as u8,
                ..Forged::new()
            };
            world.inject(Side::A, ([198, 51, 100, 66], port).into(), &forged.bytes());
        }
        world.run_for(MS);
    }
    assert_eq!(world.elapsed - from, MS * 200);
    let sent = world.device(Side::A).agent.stats().checks_sent;
    assert!(sent <= 8 + 200 / 5, "{sent}");
}

#[test]
fn candidates_are_bounded_and_refusals_explained() {
    let mut world = World::new(1, Nat::None, Nat::None);
    let mut config = world.peer_config(Side::A);
    config.candidates = vec![
        Candidate::new(CandidateKind::Host, "127.0.0.1:80".parse().unwrap()),
        Candidate::new(CandidateKind::Host, "224.0.0.1:80".parse().unwrap()),
        Candidate::new(CandidateKind::Relayed, "192.0.2.200:50000".parse().unwrap()),
    ];
    for n in 1..=100 {
        let address = ([198, 51, 100, n], 5000).into();
        config
            .candidates
            .push(Candidate::new(CandidateKind::Host, address));
    }
    world.introduce_with(Side::A, config);
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.pairs.len(), 32);
    assert_eq!(explanation.refused.len(), 32);
    assert_eq!(
        world.device(Side::A).agent.stats().candidates_refused,
        2 + 100 - 32
    );
    world.run_for(MS * 1000);
    assert!(
        world
            .seen
            .iter()
            .all(|(_, to, _)| to.ip().to_string().starts_with("198.51.100."))
    );
}

#[test]
fn a_peer_may_announce_four_ports_of_an_ip_and_no_more() {
    let mut world = World::new(1, Nat::None, Nat::None);
    let mut config = world.peer_config(Side::A);
    config.candidates = (1..=32)
        .map(|port| ([198, 51, 100, 66], port).into())
        .map(|victim| Candidate::new(CandidateKind::ServerReflexive, victim))
        .collect();
    world.introduce_with(Side::A, config);
    let more = Candidate::new(CandidateKind::Host, ([198, 51, 100, 66], 99).into());
    let now = world.now();
    let agent = &mut world.device(Side::A).agent;
    agent.add_remote_candidate(now, PEER, more);
    let explanation = agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.pairs.len(), 4);
    assert_eq!(agent.stats().candidates_refused, 32 - 4 + 1);
    let reason = explanation.refused[0].reason;
    assert_eq!(reason, CandidateRefusal::TooManyOfIp);
    // Those that the peer's own checks reveal have a bound of their own.
    world.inject(Side::A, stranger(), &Forged::new().bytes());
    let now = world.now();
    let explanation = world.device(Side::A).agent.explain(now, PEER).unwrap();
    assert_eq!(explanation.pairs.len(), 5);
}

#[test]
fn a_peer_that_is_never_heard_gets_100_checks_and_then_few() {
    let mut world = World::new(1, Nat::None, Nat::None);
    let mut config = world.peer_config(Side::A);
    config.candidates = (0..32)
        .map(|n| ([198, 51, 100, 60 + n / 4], 5000 + u16::from(n)).into())
        .map(|victim| Candidate::new(CandidateKind::ServerReflexive, victim))
        .collect();
    world.introduce_with(Side::A, config);
    // Each address still had a check planned when the budget ended.
    world.run_for(MS * 5_000);
    let at_first = world.device(Side::A).checks_sent;
    assert!((100..=132).contains(&at_first), "{at_first} checks");
    world.run_for(MS * 10_000);
    let later = world.device(Side::A).checks_sent - at_first;
    assert!(later <= 2 * 32, "{later} checks in ten seconds");
}

#[test]
fn a_peer_heard_after_the_first_100_checks_is_checked_at_once() {
    let mut world = World::new(1, Nat::PortRestricted, Nat::PortRestricted);
    let (a, b) = (world.peer_config(Side::A), world.peer_config(Side::B));
    world.introduce_with(Side::A, a);
    world.run_for(MS * 123_000);
    world.introduce_with(Side::B, b);
    let took = world.run_until(MS * 1000, World::both_direct);
    assert!(took.is_some_and(|took| took <= MS * 95), "{took:?}");
}

#[test]
fn a_peer_that_loses_its_route_over_and_over_aims_few_checks_at_others() {
    let mut world = World::new(1, Nat::None, Nat::None);
    let (mut a, b) = (world.peer_config(Side::A), world.peer_config(Side::B));
    let victims: Vec<SocketAddr> = (0..4)
        .map(|n| ([198, 51, 100, 60 + n], 5000).into())
        .collect();
    a.candidates.extend(
        victims
            .iter()
            .map(|victim| Candidate::new(CandidateKind::ServerReflexive, *victim)),
    );
    world.introduce_with(Side::A, a);
    world.introduce_with(Side::B, b);
    for _ in 0..40 {
        world.loss = 0;
        assert!(world.run_until(MS * 10_000, World::both_direct).is_some());
        world.loss = 100;
        let is_lost = |world: &World| !world.any_direct();
        assert!(world.run_until(MS * 60_000, is_lost).is_some());
    }
    assert!(world.changes(Side::A, Cause::Suspected).len() >= 40);
    for victim in victims {
        let checks = world.seen.iter().filter(|(_, to, _)| *to == victim).count();
        assert!((60..100).contains(&checks), "{checks} checks to {victim}");
    }
}

#[test]
fn a_check_sealed_with_sha_256_is_answered_with_sha_256() {
    let mut world = lonely();
    let mut bytes = Vec::new();
    let (forged, id) = (Forged::new(), TransactionId([9; 12]));
    MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, id)
        .attribute(&Username::new(&forged.username).unwrap())
        .attribute(&Priority(1))
        .attribute(&IceControlled(1))
        .integrity_sha256(&Key::short_term(&forged.password))
        .fingerprint();
    world.inject(Side::A, stranger(), &bytes);
    let answers = world.seen.iter().map(|(_, _, bytes)| bytes);
    let answers = answers.map(|bytes| Message::decode(bytes).unwrap());
    let answers: Vec<_> = answers.filter(|m| m.class() == Class::Success).collect();
    let [answer] = answers.as_slice() else {
        panic!("one answer, not {}", answers.len());
    };
    let sha1 = AttributeType::MESSAGE_INTEGRITY;
    assert!(answer.has_integrity_sha256() && !answer.has(sha1));
    assert!(!answer.has(AttributeType::USERNAME));
    let key = Key::short_term(&forged.password);
    assert_eq!(answer.check_integrity(&key), Ok(()));
}

#[test]
fn a_check_from_loopback_teaches_no_address() {
    let mut world = lonely();
    let local = "127.0.0.1:53".parse().unwrap();
    world.inject(Side::A, local, &Forged::new().bytes());
    world.run_for(MS * 1000);
    let now = world.now();
    let agent = &mut world.device(Side::A).agent;
    assert_eq!(agent.explain(now, PEER).unwrap().pairs.len(), 0);
    assert_eq!(agent.stats().checks_sent, 0);
}

#[test]
fn peers_are_bounded_and_told_apart() {
    let mut config = Config::default();
    config.peers_max = 2;
    let mut world = World::with_config(1, Nat::None, Nat::None, config);
    let credentials = |n| Credentials::from_seed([n; 32]);
    let now = world.now();
    let agent = &mut world.device(Side::A).agent;
    let peer = |n| PeerConfig::new(credentials(n), credentials(n + 100), true);
    assert_eq!(agent.add_peer(now, PeerId(1), peer(1)), Ok(()));
    assert_eq!(
        agent.add_peer(now, PeerId(1), peer(2)),
        Err(AddPeerError::LocalDuplicate)
    );
    assert_eq!(
        agent.add_peer(now, PeerId(2), peer(1)),
        Err(AddPeerError::LocalUfragInUse)
    );
    let mut short = peer(3);
    short.remote.password.truncate(21);
    assert_eq!(
        agent.add_peer(now, PeerId(2), short),
        Err(AddPeerError::PeerCredentials)
    );
    let mut colon = peer(3);
    colon.local.ufrag = "a:bcd".into();
    assert_eq!(
        agent.add_peer(now, PeerId(2), colon),
        Err(AddPeerError::LocalCredentials)
    );
    assert_eq!(agent.add_peer(now, PeerId(2), peer(2)), Ok(()));
    assert_eq!(
        agent.add_peer(now, PeerId(3), peer(3)),
        Err(AddPeerError::LimitPeers)
    );
    agent.remove_peer(now, PeerId(1));
    assert_eq!(agent.add_peer(now, PeerId(3), peer(1)), Ok(()));
    assert_eq!(agent.route(PeerId(1)), None);
}

#[test]
fn a_removed_peer_is_neither_checked_nor_answered() {
    let mut world = World::new(1, Nat::None, Nat::None);
    world.introduce();
    world.run_for(MS * 500);
    let now = world.now();
    world.device(Side::A).agent.remove_peer(now, PEER);
    world.drain(Side::A);
    let sent = world.device(Side::A).checks_sent;
    let b = world.device(Side::B).host;
    world.inject(Side::A, b, &Forged::new().bytes());
    let now = world.now() + Duration::from_secs(60);
    world.device(Side::A).agent.handle_timeout(now);
    world.drain(Side::A);
    assert_eq!(world.device(Side::A).checks_sent, sent);
}

#[test]
fn a_nomination_by_a_controlling_agent_is_followed() {
    let mut world = World::new(1, Nat::None, Nat::None);
    world.delay = MS * 10;
    let other = ([10, 9, 0, 2], 5000).into();
    world
        .device(Side::A)
        .extra
        .push(([10, 9, 0, 1], 5000).into());
    world.device(Side::B).extra.push(other);
    let mut a = PeerConfig {
        controlling: false,
        ..world.peer_config(Side::A)
    };
    a.candidates
        .push(Candidate::new(CandidateKind::ServerReflexive, other));
    let b = PeerConfig {
        controlling: true,
        ..world.peer_config(Side::B)
    };
    world.introduce_with(Side::A, a);
    world.introduce_with(Side::B, b);
    world.run_for(MS * 2000);
    assert_ne!(world.route(Side::A), Route::Direct(other));
    let nominating = Forged {
        is_nominating: true,
        ..Forged::new()
    };
    world.inject(Side::A, other, &nominating.bytes());
    assert_eq!(world.route(Side::A), Route::Direct(other));
    assert_eq!(world.changes(Side::A, Cause::Adopted).len(), 1);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.route(Side::A), Route::Direct(other));
}
