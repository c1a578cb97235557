//! Device tokens, and tokens of an authorization server (RFC 7635).

use std::time::Duration;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use tombolo_stun::{
    AccessToken, AttributeType, Key, Lifetime, MessageWriter, Method, MobilityTicket, Nonce, Realm,
    RequestedTransport, ThirdPartyAuthorization, UnknownAttributes, Username, XorPeerAddress,
    XorRelayedAddress,
};
use tombolo_turn::server::{Command, FiveTuple, OAuth, PeerAddr, Refusal, RelayAddr, TokenKey};
use tombolo_wire::token::{Claims, SigningKey, VerifyingKey};

use super::lab::{Lab, PEER, REALM, Reply, UNIX_START, User, address, alice, client, tcp_client};

#[test]
fn a_device_token_is_a_credential_of_its_user_until_it_expires() {
    let mut lab = with_device_keys();
    let user = holder(&token("2026-11", &SECRET, "alice", 300));
    assert_eq!(lab.allocate_with(client(1), &user, |_| {}).code(), None);
    // An introduction permits it like any other device of the user.
    lab.server.permit(lab.now, "alice", address(PEER).ip());
    assert!(lab.send(client(1), PEER, b"x").is_some());
    // It is the same user as the one with a time-limited password.
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), None);
    lab.advance(300);
    let reply = lab.signed(client(1), &user, Method::REFRESH, |_| {});
    assert_eq!(reply.code(), Some(401));
    assert_eq!(lab.refused(Refusal::CredentialsExpired), 1);
}

#[test]
fn a_device_token_fits_into_a_username() {
    let longest = "u".repeat(64);
    let user = holder(&token("a key with a long name", &SECRET, &longest, 300));
    assert!(
        user.username.len() <= Username::BYTES_MAX,
        "{}",
        user.username.len()
    );
}

#[test]
fn a_device_token_of_another_key_or_without_its_signature_is_refused() {
    let mut lab = with_device_keys();
    let good = holder(&token("2026-11", &SECRET, "alice", 300));
    for (user, refusal) in [
        (
            holder(&token("2026-11", &[9; 32], "alice", 300)),
            Refusal::IntegrityWrong,
        ),
        (
            holder(&token("2025-11", &SECRET, "alice", 300)),
            Refusal::TokenWrong,
        ),
        (
            holder(&token("2026-11", &SECRET, "alice", 0)),
            Refusal::CredentialsExpired,
        ),
        (
            User {
                password: String::new(),
                ..good.clone()
            },
            Refusal::IntegrityWrong,
        ),
        // A public key can check a signature and cannot make it.
        (holder(&ed25519_token("ed", 300)), Refusal::TokenWrong),
        // Looks like one and is none; no other source knows it either.
        (
            User {
                username: "eyes.wide".to_owned(),
                ..good.clone()
            },
            Refusal::UserUnknown,
        ),
    ] {
        let before = lab.refused(refusal);
        let reply = lab.allocate_with(client(1), &user, |_| {});
        assert_eq!(reply.code(), Some(401), "{}", user.username);
        assert_eq!(lab.refused(refusal), before + 1, "{}", user.username);
    }
}

#[test]
fn a_challenge_names_the_server_for_which_tokens_are_made() {
    let mut lab = with_oauth();
    let reply = lab.unsigned(client(1), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    let third_party = reply.get::<ThirdPartyAuthorization<'_>>();
    assert_eq!(third_party.map(|one| one.as_str()), Ok("turn.example"));
    let mut lab = Lab::new();
    let reply = lab.unsigned(client(1), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP);
    });
    assert!(!reply.has(AttributeType::THIRD_PARTY_AUTHORIZATION));
}

#[test]
fn a_token_makes_an_allocation_and_its_key_serves_later_requests() {
    for kid in ["north", "union"] {
        let mut lab = with_oauth();
        let reply = request(&mut lab, client(1), kid, 1, Some(sealed(kid, 1, 0, 1000)));
        assert_eq!(reply.code(), None, "{kid}");
        assert_eq!(reply.message().check_integrity(&session_key(1)), Ok(()));
        // Without the token, as its clients do.
        let reply = permit(&mut lab, client(1), kid, 1);
        assert_eq!(reply.code(), None, "{kid}");
        assert!(lab.send(client(1), PEER, b"x").is_some());
        assert_eq!(
            permit(&mut lab, client(1), kid, 2).code(),
            Some(401),
            "another key"
        );
        assert_eq!(
            permit(&mut lab, client(2), kid, 1).code(),
            Some(401),
            "no allocation"
        );
    }
}

#[test]
fn an_allocation_lives_no_longer_than_its_token_and_the_next_token_carries_on() {
    let mut lab = with_oauth();
    let reply = request(
        &mut lab,
        client(1),
        "north",
        1,
        Some(sealed("north", 1, 0, 100)),
    );
    assert_eq!(reply.get(), Ok(Lifetime(100)));
    lab.advance(50);
    // There are 55 seconds left of it, with those for the skew of clocks.
    let reply = refresh(&mut lab, client(1), "north", 1, None);
    assert_eq!(reply.get(), Ok(Lifetime(55)));
    // Made by another key of the authorization server.
    let next = sealed("union", 2, 50, 1000);
    let reply = refresh(&mut lab, client(1), "union", 2, Some(next));
    assert_eq!(reply.get(), Ok(Lifetime(600)));
    lab.advance(100);
    assert_eq!(permit(&mut lab, client(1), "union", 2).code(), None);
    assert_eq!(permit(&mut lab, client(1), "north", 1).code(), Some(401));
    lab.advance(600);
    assert_eq!(lab.server.stats().allocations, 0);
}

#[test]
fn a_token_where_nobody_asked_for_one_is_an_unknown_attribute() {
    let mut lab = Lab::new();
    let token = sealed("north", 1, 0, 100);
    let reply = request(&mut lab, client(1), "north", 1, Some(token));
    assert_eq!(reply.code(), Some(420));
    let unknown: UnknownAttributes<'_> = reply.get().expect("says which");
    assert!(unknown.types().eq([AttributeType::ACCESS_TOKEN]));
    assert_eq!(lab.refused(Refusal::TokenUnexpected), 1);
}

#[test]
fn a_session_ends_with_its_token_even_where_the_clock_goes_on() {
    let mut lab = with_oauth();
    request(
        &mut lab,
        client(1),
        "north",
        1,
        Some(sealed("north", 1, 0, 100)),
    );
    lab.now += Duration::from_secs(105);
    assert_eq!(permit(&mut lab, client(1), "north", 1).code(), Some(401));
    assert_eq!(lab.refused(Refusal::CredentialsExpired), 1);
}

#[test]
fn a_token_that_is_not_for_here_and_now_is_challenged() {
    let mut lab = with_oauth();
    let mut changed = sealed("north", 1, 0, 1000);
    changed[20] ^= 1;
    for (kid, token, refusal) in [
        ("north", changed, Refusal::TokenWrong),
        ("union", sealed("north", 1, 0, 1000), Refusal::TokenWrong),
        ("south", sealed("north", 1, 0, 1000), Refusal::TokenWrong),
        ("north", vec![], Refusal::TokenWrong),
        (
            "north",
            vec![0xff; AccessToken::BYTES_MAX],
            Refusal::TokenWrong,
        ),
        (
            "north",
            sealed("north", 1, -1000, 900),
            Refusal::CredentialsExpired,
        ),
        (
            "north",
            sealed("north", 1, 1000, 900),
            Refusal::CredentialsExpired,
        ),
        (
            "north",
            sealed("north", 2, 0, 1000),
            Refusal::IntegrityWrong,
        ),
    ] {
        let before = lab.refused(refusal);
        let reply = request(&mut lab, client(1), kid, 1, Some(token));
        assert_eq!(reply.code(), Some(401), "{kid} {refusal:?}");
        assert!(reply.has(AttributeType::THIRD_PARTY_AUTHORIZATION));
        assert_eq!(lab.refused(refusal), before + 1, "{kid} {refusal:?}");
    }
}

#[test]
fn a_user_without_a_token_does_not_control_what_a_token_made() {
    let mut lab = with_oauth();
    request(
        &mut lab,
        client(1),
        "north",
        1,
        Some(sealed("north", 1, 0, 1000)),
    );
    assert_eq!(lab.permit(client(1), &alice(), PEER).code(), Some(441));
}

#[test]
fn a_ticket_that_was_seen_on_its_way_is_of_no_use_with_another_token_of_the_realm() {
    let mut lab = with_oauth();
    let first = sealed("north", 1, 0, 1000);
    let wish = sign(
        &mut lab,
        client(1),
        Method::ALLOCATE,
        ("north", 1, Some(first)),
        |writer| {
            writer.attribute(&RequestedTransport::UDP);
            writer.attribute(&MobilityTicket(b""));
        },
    );
    let made = lab.reply(client(1), &wish);
    let ticket: MobilityTicket<'_> = made.get().expect("is mobile");
    let go = |lab: &mut Lab, port, (kid, key, made)| {
        let credentials = (kid, key, Some(sealed(kid, key, made, 1000)));
        let request = sign(lab, client(port), Method::REFRESH, credentials, |writer| {
            writer.attribute(&ticket);
        });
        lab.reply(client(port), &request).code()
    };
    assert_eq!(go(&mut lab, 2, ("north", 2, 0)), Some(441));
    assert_eq!(go(&mut lab, 2, ("union", 1, 0)), Some(441));
    assert_eq!(go(&mut lab, 3, ("north", 1, 0)), None, "its own token");
    // After a Refresh with the next token that one counts, and the first one no more.
    let next = sealed("north", 3, 0, 1000);
    assert_eq!(
        refresh(&mut lab, client(3), "north", 3, Some(next)).code(),
        None
    );
    assert_eq!(go(&mut lab, 4, ("north", 1, 0)), Some(441));
    assert_eq!(go(&mut lab, 4, ("north", 3, 0)), None);
}

#[test]
fn a_client_binds_a_connection_with_the_token_that_refreshed_its_allocation() {
    let mut lab = Lab::with(|config| {
        config.realm.oauth = Some(oauth());
        config.relay_tcp = true;
    });
    let control = tcp_client(1);
    let first = sealed("north", 1, 0, 1000);
    let wish = sign(
        &mut lab,
        control,
        Method::ALLOCATE,
        ("north", 1, Some(first)),
        |writer| {
            writer.attribute(&RequestedTransport::TCP);
        },
    );
    let XorRelayedAddress(at) = lab.reply(control, &wish).get().expect("was made");
    let next = sealed("north", 2, 0, 1000);
    assert_eq!(
        refresh(&mut lab, control, "north", 2, Some(next)).code(),
        None
    );
    assert_eq!(permit(&mut lab, control, "north", 2).code(), None);
    let peer = PeerAddr(address(PEER));
    let accepted = lab
        .server
        .handle_peer_accepted(lab.now, RelayAddr(at), peer);
    let connection = accepted.expect("is permitted");
    while lab.server.poll_transmit().is_some() {}
    let mut bind = |port, key| {
        let credentials = ("north", key, Some(sealed("north", key, 0, 1000)));
        let client = tcp_client(port);
        let method = Method::CONNECTION_BIND;
        let request = sign(&mut lab, client, method, credentials, |writer| {
            writer.attribute(&tombolo_stun::ConnectionId(connection.0));
        });
        let reply = lab.exchange(client, &request).pop();
        reply.and_then(|reply| Reply(reply.bytes).code())
    };
    assert_eq!(bind(2, 1), Some(441), "the token before");
    assert_eq!(bind(2, 3), Some(441), "somebody else's");
    assert_eq!(bind(2, 2), None);
    let joined = lab.tcp_commands.pop();
    assert!(matches!(joined, Some(Command::Splice { .. })), "{joined:?}");
}

#[test]
fn each_token_has_a_quota_of_its_own() {
    let mut lab = Lab::with(|config| {
        config.realm.oauth = Some(oauth());
        config.limits.per_user.allocations = Some(2);
    });
    for (port, key, code) in [(1, 1, None), (2, 1, None), (3, 1, Some(486)), (4, 2, None)] {
        let token = sealed("north", key, 0, 1000);
        let reply = request(&mut lab, client(port), "north", key, Some(token));
        assert_eq!(reply.code(), code, "{port}");
    }
}

fn with_device_keys() -> Lab {
    Lab::with(|config| {
        let keys = &mut config.realm.device_keys;
        keys.insert("2026-11", VerifyingKey::hs256(&SECRET).expect("is long"));
        keys.insert("ed", VerifyingKey::ed25519(&[3; 32]));
    })
}

fn token(kid: &str, secret: &[u8], user: &str, seconds: u64) -> String {
    let expires = Duration::from_secs(UNIX_START + seconds);
    let claims = Claims::new(user.parse().expect("is one"), expires);
    let key = SigningKey::hs256(kid, secret).expect("is long");
    key.mint(&claims).expect("can sign")
}

fn ed25519_token(kid: &str, seconds: u64) -> String {
    let expires = Duration::from_secs(UNIX_START + seconds);
    let claims = Claims::new("alice".parse().expect("is one"), expires);
    let key = SigningKey::ed25519(kid, &[4; 32]);
    key.mint(&claims).expect("can sign")
}

/// What the holder of a token uses.
fn holder(token: &str) -> User {
    let (username, password) = token.rsplit_once('.').expect("has a signature");
    User {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

fn with_oauth() -> Lab {
    Lab::with(|config| config.realm.oauth = Some(oauth()))
}

fn oauth() -> OAuth {
    let mut oauth = OAuth::new("turn.example");
    let keys = &mut oauth.keys;
    keys.insert("north".to_owned(), TokenKey::Aes256Gcm(NORTH));
    keys.insert("union".to_owned(), TokenKey::Aes128Gcm(UNION));
    oauth
}

/// Makes a token with the key of `number`, made `made` seconds after the lab's start.
fn sealed(kid: &str, number: u8, made: i64, lifetime: u32) -> Vec<u8> {
    let made = UNIX_START.checked_add_signed(made).expect("is a time");
    let mut plain = vec![0, 20];
    plain.extend_from_slice(&[number; 20]);
    plain.extend_from_slice(&(made << 16).to_be_bytes());
    plain.extend_from_slice(&lifetime.to_be_bytes());
    let nonce = [number; 12];
    let payload = Payload {
        msg: &plain,
        aad: b"turn.example",
    };
    let sealed = match kid {
        "union" => Aes128Gcm::new((&UNION).into()).encrypt((&nonce).into(), payload),
        _ => Aes256Gcm::new((&NORTH).into()).encrypt((&nonce).into(), payload),
    };
    [&[0, 12][..], &nonce, &sealed.expect("is short")].concat()
}

fn session_key(number: u8) -> Key {
    Key::from_bytes(&[number; 20])
}

fn request(lab: &mut Lab, from: FiveTuple, kid: &str, number: u8, token: Option<Vec<u8>>) -> Reply {
    send(lab, from, Method::ALLOCATE, kid, number, token)
}

fn refresh(lab: &mut Lab, from: FiveTuple, kid: &str, number: u8, token: Option<Vec<u8>>) -> Reply {
    send(lab, from, Method::REFRESH, kid, number, token)
}

fn permit(lab: &mut Lab, from: FiveTuple, kid: &str, number: u8) -> Reply {
    send(lab, from, Method::CREATE_PERMISSION, kid, number, None)
}

fn send(
    lab: &mut Lab,
    from: FiveTuple,
    method: Method,
    kid: &str,
    number: u8,
    token: Option<Vec<u8>>,
) -> Reply {
    let bytes = sign(
        lab,
        from,
        method,
        (kid, number, token),
        |writer| match method {
            Method::ALLOCATE => {
                writer.attribute(&RequestedTransport::UDP);
            }
            Method::CREATE_PERMISSION => {
                writer.attribute(&XorPeerAddress(address(PEER)));
            }
            _ => {}
        },
    );
    lab.reply(from, &bytes)
}

/// Makes a request that names a key and may bring a token, and proves itself with the session key
/// of that number.
fn sign(
    lab: &mut Lab,
    from: FiveTuple,
    method: Method,
    (kid, number, token): (&str, u8, Option<Vec<u8>>),
    write: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    let nonce = lab.nonce(from);
    lab.message(tombolo_stun::Class::Request, method, |writer| {
        write(writer);
        if let Some(token) = &token {
            writer.attribute(&AccessToken::new(token).expect("is short"));
        }
        writer
            .attribute(&Username::new(kid).expect("short"))
            .attribute(&Realm::new(REALM).expect("short"))
            .attribute(&Nonce::new(&nonce).expect("short"))
            .integrity(&session_key(number));
    })
}

const SECRET: [u8; 32] = [7; 32];
const NORTH: [u8; 32] = *b"01234567890123456789012345678901";
const UNION: [u8; 16] = *b"1234567890123456";
