//! What is said between a relay and an HTTP server that knows users.

use std::time::Duration;

use ring::hmac;
use serde::{Deserialize, Serialize};
use tombolo_turn::server::{Credential, FiveTuple, Proof};

use super::canonical;
use crate::stats::HookFailure;

/// The header with the signature.
pub(super) const SIGNATURE: &str = "tombolo-signature";
/// In front of the body of a question where it is signed. Neither side's messages can be used as the
/// other's.
pub(super) const QUESTION: &str = "tombolo-hook-question\n";
/// In front of the body of an answer where it is signed.
pub(super) const ANSWER: &str = "tombolo-hook-answer\n";

#[derive(Serialize)]
struct Question<'a> {
    realm: &'a str,
    username: &'a str,
    client: String,
    transport: String,
    time: u64,
    nonce: &'a str,
}

/// The body of a question.
pub(super) fn question(
    realm: &str,
    username: &str,
    client: FiveTuple,
    time: u64,
    nonce: &str,
) -> Vec<u8> {
    let question = Question {
        realm,
        username,
        client: canonical(client.client).to_string(),
        transport: format!("{:?}", client.transport).to_ascii_lowercase(),
        time,
        nonce,
    };
    serde_json::to_vec(&question).expect("texts and a number can be written")
}

/// What an HTTP server knows of a user.
#[derive(Deserialize)]
pub(super) struct Answer {
    nonce: String,
    #[serde(default)]
    refused: bool,
    password: Option<String>,
    /// MD5 over username, realm and password, in hex.
    key: Option<String>,
    /// In seconds.
    lifetime: Option<u64>,
}

impl Answer {
    pub(super) fn parse(body: &[u8], nonce: &str) -> Result<Self, HookFailure> {
        let answer: Self = serde_json::from_slice(body).map_err(|_| HookFailure::Malformed)?;
        // An answer to another question may be an old one, sent again.
        if answer.nonce != nonce {
            return Err(HookFailure::Nonce);
        }
        let has_proof = match (&answer.password, &answer.key) {
            (Some(password), None) => !password.is_empty(),
            (None, Some(key)) => md5_key(key).is_some(),
            (Some(_), Some(_)) => false,
            (None, None) => answer.refused,
        };
        if has_proof {
            Ok(answer)
        } else {
            Err(HookFailure::Malformed)
        }
    }

    /// `None` where the user is refused.
    pub(super) fn into_credential(self) -> Option<Credential> {
        if self.refused {
            return None;
        }
        let lifetime = self.lifetime.map_or(LIFETIME, Duration::from_secs);
        let proof = match (self.password, self.key) {
            (Some(password), _) => Proof::Password(password),
            (None, key) => Proof::Md5Key(md5_key(&key?)?),
        };
        Some(Credential { proof, lifetime })
    }
}

fn md5_key(hex: &str) -> Option<[u8; 16]> {
    let is_hex = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u128::from_str_radix(hex, 16).ok().filter(|_| is_hex)?;
    Some(value.to_be_bytes())
}

pub(super) fn sign(key: &hmac::Key, what: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(what.as_bytes());
    context.update(body);
    format!("sha256={}", hex(context.sign().as_ref()))
}

/// Compares in constant time.
pub(super) fn is_signed(key: &hmac::Key, what: &str, body: &[u8], signature: &[u8]) -> bool {
    let Some(bytes) = signature.strip_prefix(b"sha256=").and_then(unhex) else {
        return false;
    };
    let signed = [what.as_bytes(), body].concat();
    hmac::verify(key, &signed, &bytes).is_ok()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(hex: &[u8]) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = hex.chunks_exact(2);
    let bytes = pairs.map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok());
    bytes.collect()
}

/// How long an answer is good that does not say so.
const LIFETIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, b"a key of at least 16 bytes")
    }

    #[test]
    fn a_signature_is_good_for_one_body_and_one_direction() {
        let signature = sign(&key(), ANSWER, b"body");
        let is_good =
            |what, body: &[u8], signature: &[u8]| is_signed(&key(), what, body, signature);
        assert!(is_good(ANSWER, b"body", signature.as_bytes()));
        assert!(!is_good(QUESTION, b"body", signature.as_bytes()));
        assert!(!is_good(ANSWER, b"bodz", signature.as_bytes()));
        for wrong in [
            "",
            "sha256=",
            "sha256=0",
            "sha256=zz",
            "sha1=00",
            &signature[..70],
        ] {
            assert!(!is_good(ANSWER, b"body", wrong.as_bytes()), "{wrong}");
        }
        let other = hmac::Key::new(hmac::HMAC_SHA256, b"another key of 16 bytes");
        assert!(!is_signed(&other, ANSWER, b"body", signature.as_bytes()));
    }

    #[test]
    fn only_answers_that_say_one_thing_are_taken() {
        let credential =
            |body: &str| Answer::parse(body.as_bytes(), "n").map(Answer::into_credential);
        let good = credential(r#"{"nonce":"n","password":"p","lifetime":7}"#);
        let good = good.expect("it is right").expect("it is no refusal");
        assert_eq!(good.lifetime, Duration::from_secs(7));
        assert!(matches!(good.proof, Proof::Password(password) if password == "p"));
        let key = "8a3ab3af513717ff2a992562404b2d2b";
        let by_key = credential(&format!(r#"{{"nonce":"n","key":"{key}"}}"#));
        let by_key = by_key.expect("it is right").expect("it is no refusal");
        assert!(matches!(by_key.proof, Proof::Md5Key([0x8a, ..])));
        assert_eq!(by_key.lifetime, LIFETIME);
        let refused = credential(r#"{"nonce":"n","refused":true}"#);
        assert!(refused.expect("it is right").is_none());
        let refused = credential(r#"{"nonce":"n","refused":true,"password":"p"}"#);
        assert!(
            refused.expect("it is right").is_none(),
            "a refusal goes first"
        );
        for (body, failure) in [
            ("", HookFailure::Malformed),
            ("{}", HookFailure::Malformed),
            (r#"{"nonce":"n"}"#, HookFailure::Malformed),
            (r#"{"nonce":"n","password":""}"#, HookFailure::Malformed),
            (
                r#"{"nonce":"n","key":"+a3ab3af513717ff2a992562404b2d2b"}"#,
                HookFailure::Malformed,
            ),
            (
                r#"{"nonce":"n","key":"00","password":"p"}"#,
                HookFailure::Malformed,
            ),
            (
                r#"{"nonce":"n","password":"p","lifetime":-1}"#,
                HookFailure::Malformed,
            ),
            (r#"{"nonce":"o","password":"p"}"#, HookFailure::Nonce),
        ] {
            let found = credential(body).err();
            assert_eq!(found, Some(failure), "{body}");
        }
    }
}
