use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tombolo_wire::UserId;
use tombolo_wire::token::{
    Claims, KeyError, KeySet, NOT_BEFORE_LEEWAY, SigningKey, TOKEN_BYTES_MAX, TokenError,
    VerifyingKey,
};
use tombolo_wire::v1::ErrorCode;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const SECRET: [u8; 32] = [7; 32];

/// RFC 8032 §7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

#[test]
fn a_minted_token_is_valid_until_it_expires() {
    for key in [
        SigningKey::hs256("hs", &SECRET).unwrap(),
        SigningKey::ed25519("ed", &hex(SEED)),
    ] {
        let claims = claims(60);
        let token = key.mint(&claims).unwrap();
        assert_eq!(keys().verify(&token, NOW), Ok(claims.clone()));
        assert_eq!(
            keys().verify(&token, NOW + Duration::from_secs(59)),
            Ok(claims)
        );
        let late = keys().verify(&token, NOW + Duration::from_secs(60));
        assert_eq!(late, Err(TokenError::Expired));
    }
}

#[test]
fn not_before_leaves_room_for_a_clock_that_is_ahead() {
    let mut claims = claims(3600);
    claims.not_before = Some(NOW + Duration::from_secs(60));
    let token = SigningKey::hs256("hs", &SECRET)
        .unwrap()
        .mint(&claims)
        .unwrap();
    let verify = |after: u64| keys().verify(&token, NOW + Duration::from_secs(after));
    assert_eq!(verify(0), Err(TokenError::NotYetValid));
    let leeway = NOT_BEFORE_LEEWAY.as_secs();
    assert_eq!(verify(59 - leeway), Err(TokenError::NotYetValid));
    assert_eq!(verify(60 - leeway), Ok(claims));
}

#[test]
fn keys_are_rotated_by_kid() {
    let new = [8; 32];
    let mut keys = keys();
    let old_token = SigningKey::hs256("hs", &SECRET)
        .unwrap()
        .mint(&claims(60))
        .unwrap();
    let new_token = SigningKey::hs256("hs2", &new)
        .unwrap()
        .mint(&claims(60))
        .unwrap();
    assert_eq!(keys.verify(&new_token, NOW), Err(TokenError::UnknownKey));

    keys.insert("hs2", VerifyingKey::hs256(&new).unwrap());
    assert!(keys.verify(&old_token, NOW).is_ok());
    assert!(keys.verify(&new_token, NOW).is_ok());

    assert!(keys.remove("hs"));
    assert_eq!(keys.verify(&old_token, NOW), Err(TokenError::UnknownKey));
    assert!(keys.verify(&new_token, NOW).is_ok());
}

#[test]
fn a_signature_can_be_made_again_from_a_shared_secret_and_from_nothing_else() {
    let token = |key: SigningKey| key.mint(&claims(60)).unwrap();
    let signed = token(SigningKey::hs256("hs", &SECRET).unwrap());
    let (unsigned, signature) = signed.rsplit_once('.').unwrap();
    assert_eq!(keys().signature_of(unsigned).as_deref(), Ok(signature));

    let signed = token(SigningKey::ed25519("ed", &hex(SEED)));
    let (unsigned, _) = signed.rsplit_once('.').unwrap();
    assert_eq!(keys().signature_of(unsigned), Err(TokenError::Algorithm));

    let signed = token(SigningKey::hs256("other", &SECRET).unwrap());
    let (unsigned, _) = signed.rsplit_once('.').unwrap();
    assert_eq!(keys().signature_of(unsigned), Err(TokenError::UnknownKey));
    assert_eq!(keys().signature_of("alice"), Err(TokenError::Malformed));
    assert_eq!(keys().signature_of("ey.ey"), Err(TokenError::Malformed));
}

#[test]
fn each_wrong_token_is_refused_for_its_reason() {
    let good = r#"{"sub":"alice","aud":"tombolo","exp":1800000060}"#;
    let sign = |header: &str, payload: &str| signed(header, payload, &SECRET);
    let hs = r#"{"alg":"HS256","kid":"hs"}"#;
    let claim = |payload: &str| sign(hs, payload);

    let table = [
        ("", TokenError::Malformed),
        ("..", TokenError::Malformed),
        ("a.b", TokenError::Malformed),
        ("é.b.c", TokenError::Malformed),
        (&"a".repeat(TOKEN_BYTES_MAX + 1), TokenError::TooLong),
        (
            &sign(r#"{"alg":"none","kid":"hs"}"#, good),
            TokenError::Algorithm,
        ),
        (&unsigned(r#"{"alg":"none"}"#, good), TokenError::Algorithm),
        (
            &unsigned(r#"{"alg":"nOnE","kid":"hs"}"#, good),
            TokenError::Algorithm,
        ),
        (
            &sign(r#"{"alg":"HS512","kid":"hs"}"#, good),
            TokenError::Algorithm,
        ),
        (
            &sign(r#"{"alg":"RS256","kid":"hs"}"#, good),
            TokenError::Algorithm,
        ),
        (
            &sign(r#"{"alg":"EdDSA","kid":"hs"}"#, good),
            TokenError::Algorithm,
        ),
        // The classic: the public key taken for a shared secret.
        (
            &signed(r#"{"alg":"HS256","kid":"ed"}"#, good, &hex(PUBLIC)),
            TokenError::Algorithm,
        ),
        (
            &sign(r#"{"alg":"HS256","kid":"other"}"#, good),
            TokenError::UnknownKey,
        ),
        (&sign(r#"{"alg":"HS256"}"#, good), TokenError::UnknownKey),
        (&signed(hs, good, &[8; 32]), TokenError::WrongKey),
        (&unsigned(hs, good), TokenError::WrongKey),
        (
            &unsigned(r#"{"alg":"EdDSA","kid":"ed"}"#, good),
            TokenError::WrongKey,
        ),
        (&sign(r#"{"kid":"hs"}"#, good), TokenError::Malformed),
        (&sign("[]", good), TokenError::Malformed),
        (&claim("{}"), TokenError::MissingClaim("aud")),
        (&claim("nonsense"), TokenError::Malformed),
        (
            &claim(r#"{"sub":"alice","exp":1800000060}"#),
            TokenError::MissingClaim("aud"),
        ),
        (
            &claim(r#"{"sub":"alice","aud":"other","exp":1800000060}"#),
            TokenError::WrongAudience,
        ),
        (
            &claim(r#"{"sub":"alice","aud":[],"exp":1800000060}"#),
            TokenError::WrongAudience,
        ),
        (
            &claim(r#"{"sub":"alice","aud":"tombolo"}"#),
            TokenError::MissingClaim("exp"),
        ),
        (
            &claim(r#"{"sub":"alice","aud":"tombolo","exp":1800000000}"#),
            TokenError::Expired,
        ),
        (
            &claim(r#"{"sub":"alice","aud":"tombolo","exp":-1}"#),
            TokenError::Malformed,
        ),
        (
            &claim(r#"{"sub":"alice","aud":"tombolo","exp":1e300}"#),
            TokenError::Malformed,
        ),
        (
            &claim(r#"{"sub":"alice","aud":"tombolo","exp":"1"}"#),
            TokenError::Malformed,
        ),
        (
            &claim(r#"{"sub":"alice","aud":"tombolo","exp":1800000060,"nbf":1800000050}"#),
            TokenError::NotYetValid,
        ),
        (
            &claim(r#"{"aud":"tombolo","exp":1800000060}"#),
            TokenError::MissingClaim("sub"),
        ),
        (
            &claim(r#"{"sub":"","aud":"tombolo","exp":1800000060}"#),
            TokenError::BadUser,
        ),
        (
            &claim(r#"{"sub":"a b","aud":"tombolo","exp":1800000060}"#),
            TokenError::BadUser,
        ),
    ];
    for (token, error) in table {
        assert_eq!(keys().verify(token, NOW), Err(error), "{token}");
        let code = if error == TokenError::Expired {
            ErrorCode::TokenExpired
        } else if error == TokenError::NotYetValid {
            ErrorCode::Unavailable
        } else {
            ErrorCode::TokenInvalid
        };
        assert_eq!(error.code(), code);
    }
}

#[test]
fn a_token_that_demands_extensions_is_refused() {
    let good = r#"{"sub":"alice","aud":"tombolo","exp":1800000060}"#;
    for crit in [r#"["exp"]"#, "[]", "null", "7"] {
        let header = format!(r#"{{"alg":"HS256","kid":"hs","crit":{crit}}}"#);
        let token = signed(&header, good, &SECRET);
        assert_eq!(keys().verify(&token, NOW), Err(TokenError::Malformed));
    }
}

#[test]
fn audiences_may_be_several_and_times_may_have_fractions() {
    let payload = r#"{"sub":"alice","aud":["x","tombolo"],"exp":1800000060.5}"#;
    let token = signed(
        r#"{"alg":"HS256","kid":"hs","typ":"JWT"}"#,
        payload,
        &SECRET,
    );
    assert_eq!(keys().verify(&token, NOW).unwrap().user.as_str(), "alice");
}

#[test]
fn every_truncation_and_every_changed_byte_is_refused() {
    let token = SigningKey::ed25519("ed", &hex(SEED))
        .mint(&claims(60))
        .unwrap();
    for end in 0..token.len() {
        assert!(keys().verify(&token[..end], NOW).is_err(), "cut at {end}");
    }
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(keys().verify(&changed, NOW).is_err(), "changed at {at}");
    }
}

#[test]
fn short_secrets_are_refused() {
    assert_eq!(
        SigningKey::hs256("hs", &[0; 31]).err(),
        Some(KeyError::ShortSecret)
    );
    assert_eq!(
        VerifyingKey::hs256(&[0; 31]).err(),
        Some(KeyError::ShortSecret)
    );
}

#[test]
fn keys_do_not_show_their_secrets() {
    let text = format!(
        "{:?} {:?}",
        SigningKey::hs256("hs", &SECRET).unwrap(),
        keys()
    );
    assert!(!text.contains('7'), "{text}");
}

fn keys() -> KeySet {
    let mut keys = KeySet::new();
    keys.insert("hs", VerifyingKey::hs256(&SECRET).unwrap());
    keys.insert("ed", VerifyingKey::ed25519(&hex(PUBLIC)));
    keys
}

fn claims(seconds: u64) -> Claims {
    Claims::new(
        UserId::parse("alice").unwrap(),
        NOW + Duration::from_secs(seconds),
    )
}

fn unsigned(header: &str, payload: &str) -> String {
    format!(
        "{}.{}.",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    )
}

fn signed(header: &str, payload: &str, secret: &[u8]) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let signature = jsonwebtoken::crypto::sign(
        message.as_bytes(),
        &jsonwebtoken::EncodingKey::from_secret(secret),
        jsonwebtoken::Algorithm::HS256,
    );
    format!("{message}.{}", signature.unwrap())
}

fn hex(text: &str) -> [u8; 32] {
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}
