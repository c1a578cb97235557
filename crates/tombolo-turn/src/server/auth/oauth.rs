//! Tokens of an authorization server. See RFC 7635.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use tombolo_stun::Key;

use super::super::stats::Refusal;
use super::{RealmId, User};

/// How clients get into a realm by the tokens of an authorization server. See RFC 7635.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct OAuth {
    /// The server's name, for which tokens are made and which clients are told.
    pub server_name: String,
    /// Keys shared with the authorization server, by the identifier (`kid`) that clients give as
    /// their username. Several, so that one can replace another.
    pub keys: BTreeMap<String, TokenKey>,
}

impl OAuth {
    /// Makes a configuration without keys.
    pub fn new(server_name: impl Into<String>) -> Self {
        Self {
            server_name: server_name.into(),
            keys: BTreeMap::new(),
        }
    }
}

/// Shows no secret.
impl fmt::Debug for OAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth")
            .field("server_name", &self.server_name)
            .field("keys", &self.keys.len())
            .finish()
    }
}

/// A key of the authenticated encryption of tokens.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum TokenKey {
    /// AES-128 in GCM (`A128GCM`).
    Aes128Gcm([u8; 16]),
    /// AES-256 in GCM (`A256GCM`).
    Aes256Gcm([u8; 32]),
}

/// Shows no secret.
impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes128Gcm(_) => "Aes128Gcm(..)",
            Self::Aes256Gcm(_) => "Aes256Gcm(..)",
        })
    }
}

/// Opens tokens.
pub(super) struct Opener {
    server_name: String,
    cipher_by_kid: BTreeMap<String, Cipher>,
}

enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

/// What was in a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) key: Key,
    /// The head of the key, which is all that coturn and its tools use of it: as long as the key that
    /// a password makes.
    pub(super) head: Key,
    /// In Unix seconds.
    pub(super) expiry: u64,
    /// In seconds, from when it was made.
    pub(super) lifetime: u32,
}

/// What an allocation keeps of the token that made it, since further requests prove themselves
/// with its key and do not repeat it. See RFC 7635 §4.
#[derive(Clone)]
pub(in crate::server) struct TokenSession {
    kid: String,
    pub(super) key: Key,
    pub(super) user: User,
    pub(super) expiry: u64,
    lifetime: u32,
}

impl TokenSession {
    pub(super) fn new(kid: &str, user: User, opened: Opened) -> Self {
        Self {
            kid: kid.to_owned(),
            key: opened.key,
            user,
            expiry: opened.expiry,
            lifetime: opened.lifetime,
        }
    }

    /// How long an allocation may live without another token, whatever the clocks say. See RFC 7635
    /// §9.
    pub(in crate::server) fn lifetime(&self) -> Duration {
        Duration::from_secs(self.lifetime.into())
    }

    /// Tells whether a request that names this key is about this token.
    pub(super) fn is_of(&self, realm: RealmId, kid: &str) -> bool {
        self.user.realm == realm && self.kid == kid
    }

    /// Tells whether two are of one token.
    pub(in crate::server) fn is_same(&self, other: &Self) -> bool {
        self.kid == other.kid && self.user.realm == other.user.realm && self.key == other.key
    }

    pub(super) fn check_time(&self, unix_now: u64) -> Result<(), Refusal> {
        if self.expiry <= unix_now {
            return Err(Refusal::CredentialsExpired);
        }
        Ok(())
    }
}

impl Opener {
    pub(super) fn new(oauth: &OAuth) -> Self {
        let cipher = |key: &TokenKey| match key {
            TokenKey::Aes128Gcm(key) => Cipher::Aes128(Box::new(Aes128Gcm::new(key.into()))),
            TokenKey::Aes256Gcm(key) => Cipher::Aes256(Box::new(Aes256Gcm::new(key.into()))),
        };
        let by_kid = oauth
            .keys
            .iter()
            .map(|(kid, key)| (kid.clone(), cipher(key)));
        Self {
            server_name: oauth.server_name.clone(),
            cipher_by_kid: by_kid.collect(),
        }
    }

    pub(super) fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Decrypts a token and checks its time. See RFC 7635 §6.2 and §9.
    pub(super) fn open(&self, kid: &str, token: &[u8], unix_now: u64) -> Result<Opened, Refusal> {
        let cipher = self.cipher_by_kid.get(kid).ok_or(Refusal::TokenWrong)?;
        let plain = cipher.open(&self.server_name, token);
        let plain = plain.ok_or(Refusal::TokenWrong)?;
        let (key, head, timestamp, lifetime) = parse(&plain).ok_or(Refusal::TokenWrong)?;
        // The upper 48 bits are seconds; the others, fractions of one, decide nothing here.
        let made = timestamp >> 16;
        let span = u64::from(lifetime) + CLOCK_SKEW_SECS;
        if made.abs_diff(unix_now) >= span {
            return Err(Refusal::CredentialsExpired);
        }
        Ok(Opened {
            key,
            head,
            expiry: made.saturating_add(span),
            lifetime,
        })
    }
}

impl Cipher {
    /// Returns what is encrypted; `None` where the token is not of this key and server.
    fn open(&self, server_name: &str, token: &[u8]) -> Option<Vec<u8>> {
        let ([a, b], rest) = token.split_first_chunk()?;
        // Both algorithms have nonces of one length (RFC 5116 §5.1 and §5.2).
        if usize::from(u16::from_be_bytes([*a, *b])) != NONCE_BYTES {
            return None;
        }
        let (nonce, msg) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload {
            msg,
            aad: server_name.as_bytes(),
        };
        match self {
            Self::Aes128(cipher) => cipher.decrypt(nonce.into(), payload).ok(),
            Self::Aes256(cipher) => cipher.decrypt(nonce.into(), payload).ok(),
        }
    }
}

/// Reads key, timestamp and lifetime out of a decrypted token.
fn parse(plain: &[u8]) -> Option<(Key, Key, u64, u32)> {
    let ([a, b], rest) = plain.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([*a, *b]));
    if !KEY_BYTES.contains(&length) {
        return None;
    }
    let (key, rest) = rest.split_at_checked(length)?;
    let (timestamp, rest) = rest.split_first_chunk()?;
    // What an issuer adds behind is its own.
    let (lifetime, _) = rest.split_first_chunk()?;
    Some((
        Key::from_bytes(key),
        Key::from_bytes(key.get(..HEAD_BYTES)?),
        u64::from_be_bytes(*timestamp),
        u32::from_be_bytes(*lifetime),
    ))
}

/// See RFC 5116 §5.1.
const NONCE_BYTES: usize = 12;
/// From half of what HMAC-SHA1 asks for to the longest hash in use anywhere. The bound is what
/// CVE-2026-43994 lacked in another server.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// Length of an MD5.
const HEAD_BYTES: usize = 16;
const _: () = assert!(HEAD_BYTES <= *KEY_BYTES.start());
/// How far the clocks of authorization server and TURN server may differ. See RFC 7635 §9.
const CLOCK_SKEW_SECS: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_another_implementation_is_opened() {
        for token in [TOKEN, TOKEN_AGAIN] {
            let opened = opener().open("1234", &base64(token), MADE + 10);
            let expected = Opened {
                key: Key::from_bytes(b"ZksjpweoixXmvn67534m"),
                head: Key::from_bytes(b"ZksjpweoixXmvn67"),
                expiry: MADE + 3600 + 5,
                lifetime: 3600,
            };
            assert_eq!(opened, Ok(expected));
        }
    }

    #[test]
    fn a_token_is_good_for_its_lifetime_around_its_making_and_the_skew_of_clocks() {
        for (now, is_good) in [
            (MADE - 3605, false),
            (MADE - 3604, true),
            (MADE, true),
            (MADE + 3604, true),
            (MADE + 3605, false),
            (u64::MAX, false),
            (0, false),
        ] {
            let opened = opener().open("1234", &base64(TOKEN), now);
            let expected = if is_good {
                None
            } else {
                Some(Refusal::CredentialsExpired)
            };
            assert_eq!(opened.err(), expected, "{now}");
        }
    }

    #[test]
    fn every_truncation_and_every_changed_byte_of_a_token_is_refused() {
        let token = base64(TOKEN);
        for length in 0..token.len() {
            let opened = opener().open("1234", &token[..length], MADE);
            assert_eq!(opened, Err(Refusal::TokenWrong), "{length}");
        }
        for index in 0..token.len() {
            let mut changed = token.clone();
            changed[index] ^= 0x10;
            let opened = opener().open("1234", &changed, MADE);
            assert_eq!(opened, Err(Refusal::TokenWrong), "{index}");
        }
    }

    #[test]
    fn a_token_for_another_server_or_of_another_key_is_refused() {
        let mut config = config();
        config.server_name = "example.net".to_owned();
        let opened = Opener::new(&config).open("1234", &base64(TOKEN), MADE);
        assert_eq!(opened, Err(Refusal::TokenWrong));
        let opened = opener().open("4321", &base64(TOKEN), MADE);
        assert_eq!(opened, Err(Refusal::TokenWrong));
    }

    #[test]
    fn cve_2026_43994_lengths_inside_a_token_are_bounded_before_they_are_used() {
        let sealed = |plain: &[u8]| {
            let cipher = Aes256Gcm::new((&SHARED).into());
            let aad = b"example.com".as_slice();
            let payload = Payload { msg: plain, aad };
            let nonce = [7; NONCE_BYTES];
            let sealed = cipher.encrypt((&nonce).into(), payload).expect("is short");
            [&[0, 12][..], &nonce, &sealed].concat()
        };
        let block = |key_length: u16, key: &[u8]| {
            let timestamp = (MADE << 16).to_be_bytes();
            [
                &key_length.to_be_bytes()[..],
                key,
                &timestamp,
                &3600_u32.to_be_bytes(),
            ]
            .concat()
        };
        for (plain, is_good) in [
            (block(20, &[1; 20]), true),
            (block(64, &[1; 64]), true),
            (block(65, &[1; 65]), false),
            (block(0, &[]), false),
            (block(15, &[1; 15]), false),
            // Longer than what follows, up to the longest that can be said.
            (block(64, &[1; 20]), false),
            (block(u16::MAX, &[1; 20]), false),
            (block(u16::MAX, &[1; 900]), false),
            (Vec::new(), false),
            (vec![0], false),
            (block(20, &[1; 20])[..33].to_vec(), false),
        ] {
            let opened = opener().open("1234", &sealed(&plain), MADE);
            assert_eq!(opened.is_ok(), is_good, "{plain:?}");
        }
        // So is the length of the nonce.
        for length in [0_u16, 11, 13, 255, 256, u16::MAX] {
            let mut token = sealed(&block(20, &[1; 20]));
            token[..2].copy_from_slice(&length.to_be_bytes());
            let opened = opener().open("1234", &token, MADE);
            assert_eq!(opened, Err(Refusal::TokenWrong), "{length}");
        }
    }

    fn opener() -> Opener {
        Opener::new(&config())
    }

    fn config() -> OAuth {
        let mut config = OAuth::new("example.com");
        config
            .keys
            .insert("1234".to_owned(), TokenKey::Aes256Gcm(SHARED));
        config
    }

    fn base64(text: &str) -> Vec<u8> {
        use base64::Engine;
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        decoded.expect("is Base64")
    }

    /// The example of RFC 7635 appendix B, sealed twice by `turnutils_oauth`.
    const TOKEN: &str = "AAwwA3Jl55MY/3G19NVldRpU06ONcXCYuGl2lJEa1rqTDAhlDMgMv0p3ePtg9z9l9K4YP4mm\
                         FoSHeci7h2xP/A==";
    const TOKEN_AGAIN: &str = "AAy1JBYVLo16iq9gFdHyyknmx5T/Lq9YlbxgUdLcStOFS0H8xhHceHOL2f49qxp4uBpG\
                               uuLeLqk+RcAa5uP2EQ==";
    const SHARED: [u8; 32] = *b"HGkj32KJGiuy098sdfaqbNjOiaz71923";
    /// 16,333,642,137,600 in units of 1/65,536 s, as the tool counts.
    const MADE: u64 = 16_333_642_137_600 >> 16;
}
