use std::time::Duration;

use tombolo_stun::{
    AttributeType, Class, Key, Lifetime, Method, Nonce, NonceCookie, PasswordAlgorithm,
    PasswordAlgorithms, Realm, RequestedTransport, UserHash, Username,
};
use tombolo_turn::server::{Refusal, Sha256Offer, password_of};

use super::lab::{Lab, PEER, REALM, UNIX_START, User, address, alice, bob, client};

#[test]
fn a_challenge_is_as_short_as_can_be() {
    let mut lab = Lab::with(|config| config.software = Some("secret version".to_owned()));
    let reply = challenge(&mut lab);
    assert_eq!(reply.code(), Some(401));
    assert_eq!(
        reply.get::<Realm<'_>>().map(|realm| realm.as_str()),
        Ok(REALM)
    );
    assert!(!reply.has(AttributeType::SOFTWARE));
    assert_eq!(reply.0.len(), 60);
}

#[test]
fn a_challenge_of_a_realm_with_a_brief_name_is_no_more_than_2_2_times_its_request() {
    let length = |name_bytes| {
        let mut lab = Lab::with(|config| config.realm.name = "r".repeat(name_bytes));
        challenge(&mut lab).0.len()
    };
    // A header and REQUESTED-TRANSPORT.
    let is_brief = |length: usize| length * 10 <= (20 + 8) * 22;
    let longest = tombolo_turn::server::Realm::NAME_BYTES_BRIEF;
    assert!(is_brief(length(longest)));
    assert!(!is_brief(length(longest + 1)));
}

#[test]
fn what_cannot_succeed_anyway_is_refused_without_a_challenge() {
    let mut lab = Lab::new();
    let reply = lab.unsigned(client(1), Method::ALLOCATE, |_| {});
    assert_eq!((reply.code(), reply.0.len()), (Some(400), 28));
    for method in [
        Method::REFRESH,
        Method::CREATE_PERMISSION,
        Method::CHANNEL_BIND,
    ] {
        let reply = lab.unsigned(client(1), method, |_| {});
        assert_eq!((reply.code(), reply.0.len()), (Some(437), 28));
    }
}

#[test]
fn an_unknown_method_is_not_answered() {
    let mut lab = Lab::new();
    let bytes = lab.message(Class::Request, Method::new(0x00d).expect("is one"), |_| {});
    assert_eq!(lab.exchange(client(1), &bytes), []);
    assert_eq!(lab.refused(Refusal::MethodUnknown), 1);
}

#[test]
fn right_credentials_of_both_kinds_are_accepted() {
    let mut lab = Lab::new();
    let fixed = User {
        username: "static".to_owned(),
        password: "password".to_owned(),
    };
    assert_eq!(lab.allocate_with(client(1), &fixed, |_| {}).code(), None);
    assert_eq!(lab.allocate_with(client(2), &alice(), |_| {}).code(), None);
}

#[test]
fn users_of_both_kinds_with_one_name_are_two_users() {
    let fixed = User {
        username: "alice".to_owned(),
        password: "password".to_owned(),
    };
    let mut lab = Lab::with(|config| {
        config.realm.users = [(fixed.username.clone(), fixed.password.clone())].into();
        config.limits.per_user.allocations = Some(1);
    });
    // Each has a quota of its own.
    assert_eq!(lab.allocate_with(client(1), &fixed, |_| {}).code(), None);
    assert_eq!(lab.allocate_with(client(2), &alice(), |_| {}).code(), None);
    // Neither controls what the other one has.
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), Some(441));
    assert_eq!(lab.permit(client(2), &fixed, PEER).code(), Some(441));
    // An introduction is about the one who has credentials from the fleet.
    lab.server.permit(lab.now, "alice", address(PEER).ip());
    assert_eq!(lab.send(client(1), PEER, b"x"), None);
    assert!(lab.send(client(2), PEER, b"x").is_some());
}

#[test]
fn wrong_credentials_are_challenged_again() {
    let mut lab = Lab::new();
    let wrong = |username: &str| User {
        username: username.to_owned(),
        password: "wrong".to_owned(),
    };
    for (user, refusal) in [
        (wrong("static"), Refusal::IntegrityWrong),
        (wrong(&alice().username), Refusal::IntegrityWrong),
        (wrong("nobody"), Refusal::UserUnknown),
        (wrong("soon:alice"), Refusal::UserUnknown),
        (wrong("-5:alice"), Refusal::UserUnknown),
        (wrong("alice:-5"), Refusal::UserUnknown),
        (wrong("alice:5s"), Refusal::UserUnknown),
        (wrong("+5"), Refusal::UserUnknown),
        (wrong(":"), Refusal::UserUnknown),
        (wrong("5"), Refusal::CredentialsExpired),
        (wrong("alice:5"), Refusal::CredentialsExpired),
        (wrong("9999999999"), Refusal::IntegrityWrong),
        (wrong("99999999999999999999:alice"), Refusal::UserUnknown),
        (User::until(0, "alice"), Refusal::CredentialsExpired),
    ] {
        let before = lab.refused(refusal);
        let reply = lab.allocate_with(client(1), &user, |_| {});
        assert_eq!(reply.code(), Some(401), "{user:?}");
        assert!(reply.has(AttributeType::NONCE));
        assert!(!reply.message().has_integrity());
        assert_eq!(lab.refused(refusal), before + 1, "{user:?}");
    }
}

/// As coturn reads them; Prosody makes the first.
#[test]
fn a_time_limited_username_may_be_the_time_alone_or_have_it_behind_the_name() {
    let end = UNIX_START + 60;
    for username in [format!("{end}"), format!("alice:{end}")] {
        let mut lab = Lab::new();
        let user = User::named(username);
        assert_eq!(lab.allocate_with(client(1), &user, |_| {}).code(), None);
        lab.advance(60);
        let reply = lab.allocate_with(client(2), &user, |_| {});
        assert_eq!(reply.code(), Some(401), "{user:?}");
        let reply = lab.signed(client(1), &user, Method::REFRESH, |_| {});
        assert_eq!(reply.code(), Some(401), "{user:?}");
        assert_eq!(lab.refused(Refusal::CredentialsExpired), 2);
        lab.advance(660);
        assert_eq!(lab.server.stats().allocations, 0, "nothing keeps it alive");
    }
}

#[test]
fn time_limited_users_are_those_of_their_names_and_of_their_times_without_names() {
    let mut lab = Lab::with(|config| config.limits.per_user.allocations = Some(1));
    let mut code_of = |port: u16, username: String| {
        let user = User::named(username);
        lab.allocate_with(client(port), &user, |_| {}).code()
    };
    let (end, later) = (UNIX_START + 60, UNIX_START + 61);
    assert_eq!(code_of(1, format!("{end}:alice")), None);
    assert_eq!(code_of(2, format!("alice:{later}")), Some(486), "one user");
    assert_eq!(code_of(3, format!("{end}")), None);
    assert_eq!(code_of(4, format!("{later}:")), None, "another one");
    assert_eq!(code_of(5, format!("{later}")), None, "and one more");
    assert_eq!(code_of(6, format!("{later}")), Some(486), "the same");
}

#[test]
fn time_and_name_are_separated_by_what_the_realm_says() {
    let mut lab = Lab::with(|config| config.realm.secrets_separator = Some('|'));
    let end = UNIX_START + 60;
    for (port, username, code) in [
        (1, format!("{end}|alice"), None),
        (2, format!("alice|{end}"), None),
        (3, format!("{end}"), None),
        (4, format!("{end}:alice"), Some(401)),
    ] {
        let user = User::named(username);
        let reply = lab.allocate_with(client(port), &user, |_| {});
        assert_eq!(reply.code(), code, "{user:?}");
    }
}

#[test]
fn either_of_two_secrets_is_good_while_one_replaces_the_other() {
    let mut lab = Lab::with(|config| config.realm.secrets.insert(0, b"the new secret".to_vec()));
    let username = format!("{}:alice", UNIX_START + 100);
    let password = password_of(b"the new secret", &username);
    let new = User { username, password };
    assert_eq!(lab.allocate_with(client(1), &new, |_| {}).code(), None);
    assert_eq!(lab.allocate_with(client(2), &alice(), |_| {}).code(), None);
}

#[test]
fn expired_credentials_are_refused_on_every_request() {
    let mut lab = Lab::new();
    let user = User::until(300, "alice");
    lab.allocate(client(1), &user);
    lab.advance(299);
    assert_eq!(
        lab.signed(client(1), &user, Method::REFRESH, |_| {}).code(),
        None
    );
    lab.advance(1);
    for method in [
        Method::REFRESH,
        Method::CREATE_PERMISSION,
        Method::CHANNEL_BIND,
    ] {
        assert_eq!(
            lab.signed(client(1), &user, method, |_| {}).code(),
            Some(401)
        );
    }
    assert_eq!(
        lab.allocate_with(client(2), &user, |_| {}).code(),
        Some(401)
    );
    assert_eq!(lab.refused(Refusal::CredentialsExpired), 4);
}

/// A machine may start with a wrong clock, or sleep.
#[test]
fn credentials_follow_a_clock_that_is_set() {
    let mut lab = Lab::new();
    let user = User::until(300, "alice");
    let set = |lab: &mut Lab, seconds: u64| {
        let unix_now = Duration::from_secs(UNIX_START + seconds);
        lab.server.handle_clock(lab.now, unix_now);
    };
    set(&mut lab, 7200);
    assert_eq!(
        lab.allocate_with(client(1), &user, |_| {}).code(),
        Some(401)
    );
    set(&mut lab, 10);
    assert_eq!(lab.allocate_with(client(2), &user, |_| {}).code(), None);
    lab.advance(60);
    // Of the time since the clock was right, and of a sleep.
    set(&mut lab, 71);
    assert_eq!(
        lab.signed(client(2), &user, Method::REFRESH, |_| {}).code(),
        None
    );
    set(&mut lab, 301);
    assert_eq!(
        lab.signed(client(2), &user, Method::REFRESH, |_| {}).code(),
        Some(401)
    );
}

#[test]
fn an_allocation_outlives_its_credentials_by_one_default_lifetime_at_most() {
    let mut lab = Lab::new();
    let user = User::until(100, "alice");
    let reply = lab.allocate_with(client(1), &user, |writer| {
        writer.attribute(&Lifetime(3600));
    });
    assert_eq!(reply.get(), Ok(Lifetime(700)));
}

#[test]
fn renewed_credentials_of_the_same_user_carry_on_and_another_users_do_not() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let renewed = User::until(90_000, "alice");
    assert_eq!(
        lab.signed(client(1), &renewed, Method::REFRESH, |_| {})
            .code(),
        None
    );
    for method in [
        Method::REFRESH,
        Method::CREATE_PERMISSION,
        Method::CHANNEL_BIND,
    ] {
        assert_eq!(
            lab.signed(client(1), &bob(), method, |_| {}).code(),
            Some(441)
        );
    }
}

#[test]
fn a_nonce_grows_stale_and_the_new_one_works() {
    let mut lab = Lab::with(|config| config.nonce_lifetime = Duration::from_secs(60));
    lab.allocate(client(1), &alice());
    lab.advance(61);
    let reply = lab.signed(client(1), &alice(), Method::REFRESH, |_| {});
    assert_eq!(reply.code(), Some(438));
    assert_eq!(
        lab.signed(client(1), &alice(), Method::REFRESH, |_| {})
            .code(),
        None
    );
}

#[test]
fn a_nonce_is_good_only_for_the_address_it_was_given_to() {
    let mut lab = Lab::new();
    let bytes = lab.sign(client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert_eq!(lab.reply(client(2), &bytes).code(), Some(438));
    assert_eq!(lab.refused(Refusal::NonceStale), 1);
    assert_eq!(lab.reply(client(1), &bytes).code(), None);
}

#[test]
fn proof_without_what_it_refers_to_is_a_bad_request() {
    let mut lab = Lab::new();
    let nonce = challenge(&mut lab)
        .get::<Nonce<'_>>()
        .expect("is there")
        .as_str()
        .to_owned();
    for missing in 0..3 {
        let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP);
            if missing != 0 {
                writer.attribute(&Username::new(&alice().username).expect("short"));
            }
            if missing != 1 {
                writer.attribute(&Realm::new(REALM).expect("short"));
            }
            if missing != 2 {
                writer.attribute(&Nonce::new(&nonce).expect("short"));
            }
            writer.integrity(&alice().key());
        });
        assert_eq!(lab.reply(client(1), &bytes).code(), Some(400));
    }
    assert_eq!(lab.refused(Refusal::CredentialsIncomplete), 3);
}

#[test]
fn another_realm_is_challenged_with_ours() {
    let mut lab = Lab::new();
    let nonce = challenge(&mut lab)
        .get::<Nonce<'_>>()
        .expect("is there")
        .as_str()
        .to_owned();
    let user = alice();
    let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::UDP)
            .attribute(&Username::new(&user.username).expect("short"))
            .attribute(&Realm::new("elsewhere").expect("short"))
            .attribute(&Nonce::new(&nonce).expect("short"))
            .integrity(&Key::long_term(&user.username, "elsewhere", &user.password));
    });
    assert_eq!(lab.reply(client(1), &bytes).code(), Some(401));
    assert_eq!(lab.refused(Refusal::RealmWrong), 1);
}

#[test]
fn attributes_behind_the_proof_are_ignored() {
    let mut lab = Lab::new();
    lab.allocate(client(1), &alice());
    let mut bytes = lab.sign(client(1), &alice(), Method::REFRESH, |_| {});
    bytes.extend_from_slice(&[0x00, 0x0d, 0x00, 0x04, 0, 0, 0, 0]);
    let length = u16::try_from(bytes.len() - 20).expect("short");
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    let reply = lab.reply(client(1), &bytes);
    assert_eq!(
        reply.get(),
        Ok(Lifetime(600)),
        "a forged LIFETIME of zero has no effect"
    );
}

#[test]
fn sha256_is_used_where_it_is_offered_and_chosen() {
    let mut lab = Lab::with(|config| config.offer_sha256 = Sha256Offer::Always);
    let reply = challenge(&mut lab);
    let nonce = reply.get::<Nonce<'_>>().expect("is there").as_str();
    assert_eq!(
        NonceCookie::of(nonce).map(|cookie| cookie.password_algorithms),
        Some(true)
    );
    let offer = [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
    assert!(
        reply
            .get::<PasswordAlgorithms<'_>>()
            .expect("is there")
            .is(&offer)
    );

    let user = alice();
    let key = Key::long_term_sha256(&user.username, REALM, &user.password);
    let mut ask = |offer: &[PasswordAlgorithm], choice| {
        let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&Username::new(&user.username).expect("short"))
                .attribute(&Realm::new(REALM).expect("short"))
                .attribute(&Nonce::new(nonce).expect("short"))
                .attribute(&PasswordAlgorithms::new(offer))
                .attribute(&choice)
                .integrity_sha256(&key);
        });
        lab.reply(client(1), &bytes)
    };
    let bid_down = ask(&[PasswordAlgorithm::Md5], PasswordAlgorithm::Md5);
    assert_eq!(bid_down.code(), Some(400), "somebody shortened the offer");
    let reply = ask(&offer, PasswordAlgorithm::Sha256);
    assert_eq!(reply.code(), None);
    assert!(reply.message().has_integrity_sha256());
    assert_eq!(reply.message().check_integrity(&key), Ok(()));
}

#[test]
fn a_fixed_user_may_hide_behind_a_hash() {
    let mut lab = Lab::new();
    let nonce = challenge(&mut lab)
        .get::<Nonce<'_>>()
        .expect("is there")
        .as_str()
        .to_owned();
    for (name, code) in [("static", None), ("nobody", Some(401))] {
        let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&UserHash::new(name, REALM))
                .attribute(&Realm::new(REALM).expect("short"))
                .attribute(&Nonce::new(&nonce).expect("short"))
                .integrity(&Key::long_term("static", REALM, "password"));
        });
        assert_eq!(lab.reply(client(1), &bytes).code(), code);
    }
}

fn challenge(lab: &mut Lab) -> super::lab::Reply {
    lab.unsigned(client(1), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    })
}
