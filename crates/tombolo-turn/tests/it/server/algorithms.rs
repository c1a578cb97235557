//! Password algorithms, their protection against bidding down, and hidden usernames
//! (RFC 8489 §9.2).

use tombolo_stun::{
    AttributeType, Class, Key, MessageWriter, Method, Nonce, NonceCookie, PasswordAlgorithm,
    PasswordAlgorithms, Realm, RequestedTransport, UserHash, Username,
};
use tombolo_turn::server::{Config, Refusal, Sha256Offer};

use super::lab::{Lab, REALM, Reply, alice, client, tcp_client};

#[test]
fn sha256_is_offered_where_the_address_is_proven_unless_the_operator_wants_otherwise() {
    for (offer, over_udp, over_tcp) in [
        (Sha256Offer::Never, false, false),
        (Sha256Offer::WhereProven, false, true),
        (Sha256Offer::Always, true, true),
    ] {
        let mut lab = Lab::with(|config| config.offer_sha256 = offer);
        for (from, is_offered) in [(client(1), over_udp), (tcp_client(1), over_tcp)] {
            let reply = lab.unsigned(from, Method::ALLOCATE, |writer| {
                writer.attribute(&RequestedTransport::UDP);
            });
            let nonce = reply.get::<Nonce<'_>>().expect("is a challenge");
            let cookie = NonceCookie::of(nonce.as_str());
            let told = cookie.is_some_and(|cookie| cookie.password_algorithms);
            assert_eq!(told, is_offered, "{offer:?} {from:?}");
            assert_eq!(reply.has(AttributeType::PASSWORD_ALGORITHMS), is_offered);
        }
    }
    assert_eq!(Config::new([0; 32]).offer_sha256, Sha256Offer::WhereProven);
}

#[test]
fn a_client_older_than_the_offer_comes_in_with_md5_and_sha1() {
    let mut lab = offering();
    let reply = lab.allocate_with(client(1), &alice(), |_| {});
    assert_eq!(reply.code(), None);
    assert!(reply.has(AttributeType::MESSAGE_INTEGRITY));
    assert!(!reply.has(AttributeType::MESSAGE_INTEGRITY_SHA256));
}

#[test]
fn a_reply_never_carries_both_integrity_attributes() {
    let mut lab = offering();
    let keys = [MD5, SHA256].map(key_of);
    let reply = ask(&mut lab, |writer| {
        writer
            .attribute(&PasswordAlgorithms::new(OFFER))
            .attribute(&SHA256)
            .integrity(&keys[0])
            .integrity_sha256(&keys[1]);
    });
    assert_eq!(reply.code(), None);
    assert!(!reply.has(AttributeType::MESSAGE_INTEGRITY));
    assert!(reply.has(AttributeType::MESSAGE_INTEGRITY_SHA256));
}

#[test]
fn md5_may_be_chosen_from_the_offer_too() {
    let mut lab = offering();
    let reply = ask(&mut lab, |writer| {
        writer
            .attribute(&PasswordAlgorithms::new(OFFER))
            .attribute(&MD5)
            .integrity_sha256(&key_of(MD5));
    });
    assert_eq!(reply.code(), None);
    assert_eq!(reply.message().check_integrity(&key_of(MD5)), Ok(()));
}

#[test]
fn a_reply_proves_itself_with_sha256_to_whoever_has_chosen_an_algorithm_and_with_sha1_else() {
    let mut lab = offering();
    let reply = ask(&mut lab, |writer| {
        writer
            .attribute(&PasswordAlgorithms::new(OFFER))
            .attribute(&MD5)
            .integrity(&key_of(MD5));
    });
    assert_eq!(reply.code(), None);
    assert!(reply.has(AttributeType::MESSAGE_INTEGRITY_SHA256));
    assert_eq!(reply.message().check_integrity(&key_of(MD5)), Ok(()));
    let mut lab = offering();
    let reply = ask(&mut lab, |writer| {
        writer.integrity_sha256(&key_of(MD5));
    });
    assert_eq!(reply.code(), None);
    assert!(!reply.has(AttributeType::MESSAGE_INTEGRITY_SHA256));
    assert_eq!(reply.message().check_integrity(&key_of(MD5)), Ok(()));
}

#[test]
fn an_offer_that_comes_back_changed_is_refused() {
    for (list, choice) in [
        (Some(&[MD5][..]), Some(MD5)),
        (Some(&[SHA256]), Some(SHA256)),
        (Some(&[MD5, SHA256]), Some(SHA256)),
        (Some(&[SHA256, MD5, MD5]), Some(SHA256)),
        (Some(&[]), Some(SHA256)),
        (Some(OFFER), None),
        (None, Some(SHA256)),
        (None, Some(MD5)),
    ] {
        let mut lab = offering();
        let reply = ask(&mut lab, |writer| {
            if let Some(list) = list {
                writer.attribute(&PasswordAlgorithms::new(list));
            }
            if let Some(choice) = choice {
                writer.attribute(&choice);
            }
            writer.integrity_sha256(&key_of(choice.unwrap_or(MD5)));
        });
        assert_eq!(reply.code(), Some(400), "{list:?} {choice:?}");
        assert!(!reply.has(AttributeType::NONCE), "is no challenge");
        assert_eq!(lab.refused(Refusal::AlgorithmWrong), 1);
    }
}

#[test]
fn an_algorithm_that_nobody_knows_is_refused() {
    let mut lab = offering();
    let reply = ask(&mut lab, |writer| {
        writer
            .attribute(&PasswordAlgorithms::new(OFFER))
            .attribute(&tombolo_stun::RawAttribute {
                kind: AttributeType::PASSWORD_ALGORITHM,
                value: &[0, 9, 0, 0],
            })
            .integrity(&key_of(MD5));
    });
    assert_eq!(reply.code(), Some(400));
}

#[test]
fn a_choice_that_was_not_offered_is_refused() {
    let mut lab = Lab::with(|config| config.offer_sha256 = Sha256Offer::Never);
    let reply = ask(&mut lab, |writer| {
        writer
            .attribute(&PasswordAlgorithms::new(OFFER))
            .attribute(&SHA256)
            .integrity_sha256(&key_of(SHA256));
    });
    assert_eq!(reply.code(), Some(400));
}

#[test]
fn a_nonce_whose_offer_somebody_cut_off_is_stale() {
    // Who sits in between takes the offer out of the challenge and the cookie off the nonce, so
    // that the client proves itself with MD5.
    let mut lab = offering();
    let nonce = lab.nonce(client(1));
    let cut = nonce[NonceCookie::BYTES..].to_owned();
    let none = NonceCookie::default().to_ascii().map(char::from);
    let changed: String = none.into_iter().chain(cut.chars()).collect();
    for nonce in [cut, changed] {
        let reply = ask_with(&mut lab, &nonce, |writer| {
            writer.integrity(&key_of(MD5));
        });
        assert_eq!(reply.code(), Some(438), "{nonce}");
        let again = reply.get::<Nonce<'_>>().expect("is a challenge");
        let cookie = NonceCookie::of(again.as_str());
        assert!(cookie.is_some_and(|cookie| cookie.password_algorithms));
    }
}

#[test]
fn truncated_sha256_integrity_is_not_enough_for_long_term_credentials() {
    for bytes in [16, 20, 24, 28] {
        let mut lab = offering();
        let reply = ask(&mut lab, |writer| {
            writer
                .attribute(&PasswordAlgorithms::new(OFFER))
                .attribute(&SHA256)
                .integrity_sha256_truncated(&key_of(SHA256), bytes);
        });
        assert_eq!(reply.code(), Some(401), "{bytes}");
    }
}

#[test]
fn usernames_are_to_be_hidden_where_every_user_can_be_found_by_a_hash() {
    for (has_secrets, is_told) in [(true, false), (false, true)] {
        let mut lab = Lab::with(|config| {
            config.offer_sha256 = Sha256Offer::Always;
            if !has_secrets {
                config.realm.secrets.clear();
            }
        });
        let nonce = lab.nonce(client(1));
        let cookie = NonceCookie::of(&nonce).expect("offers something");
        assert_eq!(cookie.username_anonymity, is_told);
        let key = Key::long_term_sha256("static", REALM, "password");
        let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&UserHash::new("static", REALM))
                .attribute(&Realm::new(REALM).expect("short"))
                .attribute(&Nonce::new(&nonce).expect("short"))
                .attribute(&PasswordAlgorithms::new(OFFER))
                .attribute(&SHA256)
                .integrity_sha256(&key);
        });
        let reply = lab.reply(client(1), &bytes);
        assert_eq!(reply.code(), None);
        assert_eq!(reply.message().check_integrity(&key), Ok(()));
    }
}

#[test]
fn a_time_limited_user_cannot_hide_behind_a_hash_since_nobody_lists_it() {
    let mut lab = offering();
    let nonce = lab.nonce(client(1));
    let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::UDP)
            .attribute(&UserHash::new(&alice().username, REALM))
            .attribute(&Realm::new(REALM).expect("short"))
            .attribute(&Nonce::new(&nonce).expect("short"))
            .integrity(&alice().key());
    });
    assert_eq!(lab.reply(client(1), &bytes).code(), Some(401));
    assert_eq!(lab.refused(Refusal::UserUnknown), 1);
}

fn offering() -> Lab {
    Lab::with(|config| config.offer_sha256 = Sha256Offer::Always)
}

fn key_of(algorithm: PasswordAlgorithm) -> Key {
    let user = alice();
    match algorithm {
        PasswordAlgorithm::Sha256 => Key::long_term_sha256(&user.username, REALM, &user.password),
        PasswordAlgorithm::Md5 | _ => user.key(),
    }
}

/// Sends an Allocate that ends with what `prove` writes, under a nonce of now.
fn ask(lab: &mut Lab, prove: impl FnOnce(&mut MessageWriter<'_>)) -> Reply {
    let nonce = lab.nonce(client(1));
    ask_with(lab, &nonce, prove)
}

fn ask_with(lab: &mut Lab, nonce: &str, prove: impl FnOnce(&mut MessageWriter<'_>)) -> Reply {
    let user = alice();
    let bytes = lab.message(Class::Request, Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::UDP)
            .attribute(&Username::new(&user.username).expect("short"))
            .attribute(&Realm::new(REALM).expect("short"))
            .attribute(&Nonce::new(nonce).expect("short"));
        prove(writer);
    });
    lab.reply(client(1), &bytes)
}

const MD5: PasswordAlgorithm = PasswordAlgorithm::Md5;
const SHA256: PasswordAlgorithm = PasswordAlgorithm::Sha256;
const OFFER: &[PasswordAlgorithm] = &[SHA256, MD5];
