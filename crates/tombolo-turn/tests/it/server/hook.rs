//! Users about whom the driver is asked.

use std::net::Ipv6Addr;
use std::time::Duration;

use tombolo_stun::{Class, Method, Nonce, Realm, RequestedTransport, Username};
use tombolo_turn::server::{
    AuthError, Command, Credential, FiveTuple, HookMode, Proof, Refusal, Timer,
};

use super::lab::{Lab, REALM, Reply, UNIX_START, User, address, alice, client, tcp_client};

#[test]
fn an_unknown_user_is_asked_about_and_comes_in_with_the_answer() {
    let mut lab = lab();
    assert_eq!(allocate(&mut lab, client(1), &carol()), None, "it waits");
    let question = Command::Authenticate {
        id: lab.asked_ids[0],
        realm: REALM.to_owned(),
        username: "carol".to_owned(),
        client: client(1),
    };
    assert_eq!(lab.asked, [question]);
    let replies = answer(&mut lab, good(60));
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].code(), None);
    let proof = replies[0].message().check_integrity(&carol().key());
    assert_eq!(proof, Ok(()));
}

#[test]
fn a_store_without_passwords_answers_with_the_key() {
    let mut lab = lab();
    assert_eq!(allocate(&mut lab, client(1), &carol()), None);
    let proof = Proof::Md5Key(MD5_OF_CAROL);
    let lifetime = Duration::from_secs(60);
    let replies = answer(&mut lab, Ok(Credential { proof, lifetime }));
    assert_eq!(replies[0].code(), None);
}

#[test]
fn a_user_whose_key_is_configured_needs_no_question() {
    let mut lab = Lab::with(|config| {
        config.realm.hook = HookMode::Unknown;
        config.realm.users_by_key = [("carol".to_owned(), MD5_OF_CAROL)].into();
    });
    let reply = allocate(&mut lab, client(1), &carol()).expect("nobody is asked");
    assert_eq!(reply.code(), None);
    assert_eq!(lab.asked, []);
}

#[test]
fn an_answer_is_used_again_until_its_time_is_over() {
    let mut lab = lab();
    assert_eq!(allocate(&mut lab, client(1), &carol()), None);
    answer(&mut lab, good(60));
    lab.advance(60);
    let again = allocate(&mut lab, client(2), &carol());
    assert_eq!(again.map(|reply| reply.code()), Some(None));
    lab.advance(1);
    assert_eq!(allocate(&mut lab, client(3), &carol()), None, "asks again");
    assert_eq!(lab.asked.len(), 2);
}

#[test]
fn a_refused_user_is_challenged_and_not_asked_about_again_at_once() {
    let mut lab = lab();
    assert_eq!(allocate(&mut lab, client(1), &carol()), None);
    let replies = answer(&mut lab, Err(AuthError::Refused));
    assert_eq!(replies[0].code(), Some(401));
    assert!(!replies[0].message().has_integrity());
    let again = allocate(&mut lab, client(1), &carol());
    assert_eq!(again.map(|reply| reply.code()), Some(Some(401)));
    assert_eq!(lab.asked.len(), 1);
    lab.advance(6);
    assert_eq!(allocate(&mut lab, client(1), &carol()), None);
    assert_eq!(lab.asked.len(), 2);
}

#[test]
fn a_wrong_password_fails_although_the_user_is_known() {
    let mut lab = lab();
    let liar = User {
        password: "a guess".to_owned(),
        ..carol()
    };
    assert_eq!(allocate(&mut lab, client(1), &liar), None);
    let replies = answer(&mut lab, good(60));
    assert_eq!(replies[0].code(), Some(401));
    assert_eq!(lab.refused(Refusal::IntegrityWrong), 1);
}

#[test]
fn without_an_answer_nobody_comes_in() {
    let mut lab = lab();
    assert_eq!(allocate(&mut lab, client(1), &carol()), None);
    let (deadline, timer) = lab.server.poll_timeout().expect("something waits");
    assert_eq!(timer, Timer::Authentication);
    assert_eq!(deadline, lab.now + Duration::from_secs(5));
    lab.now = deadline;
    lab.server.handle_timeout(deadline);
    let replies: Vec<Reply> = transmits(&mut lab);
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].code(), Some(500));
    assert_eq!(lab.refused(Refusal::AuthUnavailable), 1);
    // The answer that comes now is too late.
    assert_eq!(answer(&mut lab, good(60)).len(), 0);
    let again = allocate(&mut lab, client(1), &carol());
    assert_eq!(again.map(|reply| reply.code()), Some(Some(500)));
    assert_eq!(lab.server.poll_timeout(), None);
}

#[test]
fn repeated_requests_wait_once_and_other_ones_wait_for_the_same_answer() {
    let mut lab = lab();
    let bytes = request(&mut lab, client(1), &carol());
    assert_eq!(lab.exchange(client(1), &bytes), []);
    assert_eq!(lab.exchange(client(1), &bytes), []);
    assert_eq!(allocate(&mut lab, client(2), &carol()), None);
    assert_eq!(lab.asked.len(), 1);
    let replies = answer(&mut lab, good(60));
    let codes: Vec<_> = replies.iter().map(Reply::code).collect();
    assert_eq!(codes, [None, None]);
}

#[test]
fn users_of_the_configuration_are_not_asked_about() {
    let mut lab = lab();
    let known = allocate(&mut lab, client(1), &alice());
    assert_eq!(known.map(|reply| reply.code()), Some(None));
    assert!(lab.asked.is_empty());
}

/// Such as a telephone number.
#[test]
fn a_user_whose_name_is_a_number_is_asked_about_unless_a_secret_knows_it() {
    let mut lab = lab();
    let numbered = |name: &str| User {
        username: name.to_owned(),
        password: "her password".to_owned(),
    };
    for (port, name) in [(1, "4915112345678"), (2, "12"), (3, "carol:12")] {
        let user = numbered(name);
        assert_eq!(allocate(&mut lab, client(port), &user), None, "{name}");
    }
    assert_eq!(lab.asked.len(), 3);
    let of_secret = User::named((UNIX_START + 60).to_string());
    let reply = allocate(&mut lab, client(4), &of_secret).expect("nobody is asked");
    assert_eq!(reply.code(), None);
    let reply = allocate(&mut lab, client(5), &numbered("12:carol"));
    assert_eq!(reply.map(|reply| reply.code()), Some(Some(401)));
    assert_eq!(lab.asked.len(), 3);
}

#[test]
fn where_no_hook_is_wanted_nobody_is_asked() {
    let mut lab = Lab::new();
    let reply = allocate(&mut lab, client(1), &carol()).expect("is refused at once");
    assert_eq!(reply.code(), Some(401));
    assert!(lab.asked.is_empty());
}

#[test]
fn a_nonce_that_is_not_ours_asks_nobody() {
    let mut lab = lab();
    let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::UDP)
            .attribute(&Username::new("carol").expect("short"))
            .attribute(&Realm::new(REALM).expect("short"))
            .attribute(&Nonce::new("forged").expect("short"))
            .integrity(&carol().key());
    });
    assert_eq!(lab.reply(client(1), &bytes).code(), Some(438));
    assert!(lab.asked.is_empty());
}

#[test]
fn what_waits_is_bounded_in_all_and_by_source_and_in_bytes() {
    for limit in ["all", "source", "bytes"] {
        let mut lab = Lab::with(|config| {
            config.realm.hook = HookMode::Unknown;
            match limit {
                "all" => config.limits.auth_pending_max = 3,
                "source" => config.limits.auth_pending_per_source_max = 3,
                _ => config.limits.auth_pending_bytes_max = 3 * 104,
            }
        });
        let waits = (0..20)
            .filter(|n| allocate(&mut lab, client(1 + n), &somebody(*n)).is_none())
            .count();
        assert_eq!(waits, 3, "{limit}");
        assert_eq!(lab.asked.len(), 3, "{limit}");
        assert_eq!(lab.refused(Refusal::AuthBusy), 17, "{limit}");
        // Another source still has room, if only the source was the limit.
        let other = FiveTuple {
            client: ([7, 7, 7, 7], 1).into(),
            ..client(1)
        };
        let is_waiting = allocate(&mut lab, other, &somebody(99)).is_none();
        assert_eq!(is_waiting, limit == "source", "{limit}");
        // Answers make room again.
        for id in std::mem::take(&mut lab.asked_ids) {
            lab.server.handle_auth(lab.now, id, Err(AuthError::Refused));
        }
        transmits(&mut lab);
        assert!(
            allocate(&mut lab, client(50), &somebody(100)).is_none(),
            "{limit}"
        );
    }
}

#[test]
fn a_network_with_many_subnets_leaves_others_room_to_wait() {
    let mut lab = lab();
    let of = |ip: Ipv6Addr| FiveTuple {
        client: (ip, 1).into(),
        server: address("[2a00::9]:3478"),
        ..client(1)
    };
    let waits = (0..300)
        .map(|n| (n, of(Ipv6Addr::new(0x2001, 0x470, 1, n, 0, 0, 0, 1))))
        .filter(|(n, client)| allocate(&mut lab, *client, &somebody(*n)).is_none());
    assert_eq!(waits.count(), 4 * 32);
    let other = of(Ipv6Addr::new(0x2001, 0x470, 2, 0, 0, 0, 0, 1));
    assert_eq!(allocate(&mut lab, other, &somebody(999)), None);
    for id in std::mem::take(&mut lab.asked_ids) {
        lab.server.handle_auth(lab.now, id, Err(AuthError::Refused));
    }
    transmits(&mut lab);
    let again = of(Ipv6Addr::new(0x2001, 0x470, 1, 301, 0, 0, 0, 1));
    assert_eq!(allocate(&mut lab, again, &somebody(998)), None);
}

#[test]
fn names_that_are_made_up_do_not_push_out_those_that_are_real() {
    let mut lab = Lab::with(|config| {
        config.realm.hook = HookMode::Unknown;
        config.limits.auth_cache_max = 4;
    });
    assert_eq!(allocate(&mut lab, client(1), &carol()), None);
    answer(&mut lab, good(60));
    for n in 0..40 {
        assert!(allocate(&mut lab, client(100 + n), &somebody(n)).is_none());
        answer(&mut lab, Err(AuthError::Refused));
    }
    let again = allocate(&mut lab, client(2), &carol());
    assert_eq!(again.map(|reply| reply.code()), Some(None));
}

#[test]
fn a_client_that_is_gone_waits_for_nothing() {
    let mut lab = lab();
    assert_eq!(allocate(&mut lab, tcp_client(1), &carol()), None);
    lab.server.handle_client_gone(lab.now, tcp_client(1));
    assert_eq!(answer(&mut lab, good(60)).len(), 0);
    assert_eq!(lab.server.stats().allocations, 0);
}

fn lab() -> Lab {
    Lab::with(|config| config.realm.hook = HookMode::Unknown)
}

fn carol() -> User {
    User {
        username: "carol".to_owned(),
        password: "her password".to_owned(),
    }
}

fn somebody(n: u16) -> User {
    User {
        username: format!("user {n:04}"),
        password: String::new(),
    }
}

fn good(seconds: u64) -> Result<Credential, AuthError> {
    Ok(Credential::password(
        "her password",
        Duration::from_secs(seconds),
    ))
}

fn request(lab: &mut Lab, from: FiveTuple, user: &User) -> Vec<u8> {
    lab.sign(from, user, Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    })
}

/// Asks for an allocation; `None` where there is no reply yet.
fn allocate(lab: &mut Lab, from: FiveTuple, user: &User) -> Option<Reply> {
    let bytes = request(lab, from, user);
    let mut replies = lab.exchange(from, &bytes);
    replies.pop().map(|reply| Reply(reply.bytes))
}

/// Answers the last question.
fn answer(lab: &mut Lab, result: Result<Credential, AuthError>) -> Vec<Reply> {
    let id = *lab.asked_ids.last().expect("somebody was asked about");
    lab.server.handle_auth(lab.now, id, result);
    transmits(lab)
}

fn transmits(lab: &mut Lab) -> Vec<Reply> {
    lab.drive();
    let replies = std::iter::from_fn(|| lab.server.poll_transmit());
    replies.map(|reply| Reply(reply.bytes)).collect()
}

/// MD5 of `carol:tombolo:her password`.
const MD5_OF_CAROL: [u8; 16] = [
    0x8a, 0x3a, 0xb3, 0xaf, 0x51, 0x37, 0x17, 0xff, 0x2a, 0x99, 0x25, 0x62, 0x40, 0x4b, 0x2d, 0x2b,
];
