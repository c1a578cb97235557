//! Device tokens: JWTs that say who a device acts for.
//!
//! A token names its key by `kid`, so that keys can be rotated: a [`KeySet`] holds the old and the
//! new key while tokens of both are about. Only HS256 and EdDSA (Ed25519) exist here, each key has
//! one algorithm, and the token's `alg` must be that one.
//!
//! ```
//! use std::time::Duration;
//! use tombolo_wire::token::{Claims, KeySet, SigningKey, VerifyingKey};
//!
//! let secret = [7; 32];
//! let mut keys = KeySet::new();
//! keys.insert("2026-11", VerifyingKey::hs256(&secret)?);
//!
//! let now = Duration::from_secs(1_800_000_000);
//! let claims = Claims::new("alice".parse()?, now + Duration::from_secs(3600));
//! let token = SigningKey::hs256("2026-11", &secret)?.mint(&claims)?;
//! assert_eq!(keys.verify(&token, now)?, claims);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken as jwt;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::v1::ErrorCode;
use crate::{TagName, UserId};

/// The audience (`aud`) of every device token.
pub const AUDIENCE: &str = "tombolo";

/// Longest token that is looked at, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;

/// Shortest HS256 secret, in bytes (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// How far the issuer's clock may be ahead of ours for `nbf`.
pub const NOT_BEFORE_LEEWAY: Duration = Duration::from_secs(10);

/// The most tags of a token.
pub const TAGS_MAX: usize = 16;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claims {
    /// Who the device acts for (`sub`).
    pub user: UserId,
    /// Since the Unix epoch (`exp`): not valid from then on.
    pub expires: Duration,
    /// Since the Unix epoch (`nbf`): not valid before.
    pub not_before: Option<Duration>,
    /// What notices are for it beside those for everybody (`tags`), at most [`TAGS_MAX`].
    pub tags: Vec<TagName>,
}

impl Claims {
    /// Claims that hold from now on.
    #[must_use]
    pub fn new(user: UserId, expires: Duration) -> Self {
        Self {
            user,
            expires,
            not_before: None,
            tags: Vec::new(),
        }
    }
}

/// A key that mints tokens.
pub struct SigningKey {
    header: jwt::Header,
    key: jwt::EncodingKey,
}

impl SigningKey {
    /// A shared secret.
    ///
    /// # Errors
    /// When the secret is shorter than [`SECRET_BYTES_MIN`].
    pub fn hs256(kid: &str, secret: &[u8]) -> Result<Self, KeyError> {
        check_secret(secret)?;
        Ok(Self {
            header: header(jwt::Algorithm::HS256, kid),
            key: jwt::EncodingKey::from_secret(secret),
        })
    }

    /// An Ed25519 private key as its 32 byte seed (RFC 8032 §5.1.5).
    #[must_use]
    pub fn ed25519(kid: &str, seed: &[u8; 32]) -> Self {
        let mut pkcs8 = PKCS8_ED25519.to_vec();
        pkcs8.extend_from_slice(seed);
        Self {
            header: header(jwt::Algorithm::EdDSA, kid),
            key: jwt::EncodingKey::from_ed_der(&pkcs8),
        }
    }

    /// Makes a token; times are rounded down to seconds.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn mint(&self, claims: &Claims) -> Result<String, MintError> {
        let claims = MintedClaims {
            sub: claims.user.as_str(),
            aud: AUDIENCE,
            exp: claims.expires.as_secs(),
            nbf: claims.not_before.map(|at| at.as_secs()),
            tags: claims.tags.iter().map(TagName::as_str).collect(),
        };
        jwt::encode(&self.header, &claims, &self.key).map_err(|_| MintError)
    }
}

impl fmt::Debug for SigningKey {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SigningKey({:?}, {:?})",
            self.header.kid, self.header.alg
        )
    }
}

/// A key that verifies tokens.
#[derive(Clone)]
pub struct VerifyingKey {
    algorithm: jwt::Algorithm,
    key: jwt::DecodingKey,
    /// The same as a key that signs, where it is one.
    secret: Option<jwt::EncodingKey>,
}

impl VerifyingKey {
    /// A shared secret.
    ///
    /// # Errors
    /// When the secret is shorter than [`SECRET_BYTES_MIN`].
    pub fn hs256(secret: &[u8]) -> Result<Self, KeyError> {
        check_secret(secret)?;
        Ok(Self {
            algorithm: jwt::Algorithm::HS256,
            key: jwt::DecodingKey::from_secret(secret),
            secret: Some(jwt::EncodingKey::from_secret(secret)),
        })
    }

    /// An Ed25519 public key.
    #[must_use]
    pub fn ed25519(public: &[u8; 32]) -> Self {
        // The function's name says DER, but it wants the bare key.
        Self {
            algorithm: jwt::Algorithm::EdDSA,
            key: jwt::DecodingKey::from_ed_der(public),
            secret: None,
        }
    }
}

impl fmt::Debug for VerifyingKey {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({:?})", self.algorithm)
    }
}

/// The keys that are valid now, by `kid`.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    key_by_kid: BTreeMap<String, VerifyingKey>,
}

impl KeySet {
    /// Trusts nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts a key, in place of an older one of that name.
    pub fn insert(&mut self, kid: &str, key: VerifyingKey) {
        self.key_by_kid.insert(kid.to_owned(), key);
    }

    /// Trusts a key no longer; false when it was not in the set.
    pub fn remove(&mut self, kid: &str) -> bool {
        self.key_by_kid.remove(kid).is_some()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.key_by_kid.is_empty()
    }

    /// Makes the signature of a token that comes without it, as `HEADER.PAYLOAD`.
    ///
    /// So holders of a token can prove that they have it to somebody who knows its key, without
    /// showing it. Only a shared secret can do that, no public key.
    ///
    /// # Errors
    /// The header is malformed, or names no key that can sign.
    pub fn signature_of(&self, unsigned: &str) -> Result<String, TokenError> {
        let key = self.key_of(unsigned)?;
        let secret = key.secret.as_ref().ok_or(TokenError::Algorithm)?;
        jwt::crypto::sign(unsigned.as_bytes(), secret, key.algorithm)
            .map_err(|_| TokenError::Algorithm)
    }

    /// Checks a token: key, algorithm, signature, audience, times and user, in this order.
    ///
    /// `unix_now` is the time since the Unix epoch.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn verify(&self, token: &str, unix_now: Duration) -> Result<Claims, TokenError> {
        let key = self.key_of(token)?;
        let claims = jwt::decode::<ReceivedClaims>(token, &key.key, &signature_only(key.algorithm))
            .map_err(|error| blame(&error))?
            .claims;

        let audience = claims.aud.ok_or(TokenError::MissingClaim("aud"))?;
        if !audience.contains(AUDIENCE) {
            return Err(TokenError::WrongAudience);
        }
        let expires = time(claims.exp.ok_or(TokenError::MissingClaim("exp"))?)?;
        if expires <= unix_now {
            return Err(TokenError::Expired);
        }
        let not_before = claims.nbf.map(time).transpose()?;
        if not_before.is_some_and(|at| at > unix_now + NOT_BEFORE_LEEWAY) {
            return Err(TokenError::NotYetValid);
        }
        let user = claims.sub.ok_or(TokenError::MissingClaim("sub"))?;
        let user = UserId::parse(&user).map_err(|_| TokenError::BadUser)?;
        if claims.tags.len() > TAGS_MAX {
            return Err(TokenError::BadTag);
        }
        let tags = claims.tags.iter().map(|tag| TagName::parse(tag));
        let tags = tags.collect::<Result<_, _>>();
        let tags = tags.map_err(|_| TokenError::BadTag)?;
        Ok(Claims {
            user,
            expires,
            not_before,
            tags,
        })
    }

    /// The key that the token's header names, if it may be used as the header says.
    fn key_of(&self, token: &str) -> Result<&VerifyingKey, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let (header, _) = token.split_once('.').ok_or(TokenError::Malformed)?;
        let header = URL_SAFE_NO_PAD
            .decode(header)
            .map_err(|_| TokenError::Malformed)?;
        let header: ReceivedHeader =
            serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        if header.crit {
            return Err(TokenError::Malformed);
        }
        let algorithm = match header.alg.as_str() {
            "HS256" => jwt::Algorithm::HS256,
            "EdDSA" => jwt::Algorithm::EdDSA,
            _ => return Err(TokenError::Algorithm),
        };
        let key = header.kid.and_then(|kid| self.key_by_kid.get(&kid));
        let key = key.ok_or(TokenError::UnknownKey)?;
        if key.algorithm != algorithm {
            Err(TokenError::Algorithm)
        } else {
            Ok(key)
        }
    }
}

/// Why a key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The secret is shorter than [`SECRET_BYTES_MIN`].
    #[error("secret must have at least 32 bytes")]
    ShortSecret,
}

/// The key could not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key cannot sign")]
pub struct MintError;

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Longer than [`TOKEN_BYTES_MAX`].
    #[error("token is too long")]
    TooLong,
    /// Not three parts of base64url with JSON inside, or with a header that demands extensions
    /// (`crit`).
    #[error("token is malformed")]
    Malformed,
    /// An algorithm other than the key's, `none` above all.
    #[error("token has an algorithm that its key is not for")]
    Algorithm,
    /// No `kid`, or of a key that is not trusted (any more).
    #[error("token is of an unknown key")]
    UnknownKey,
    /// The signature is not of the key that the token names.
    #[error("token has a wrong signature")]
    WrongKey,
    /// The token is for somebody else.
    #[error("token is for another audience")]
    WrongAudience,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("token is not valid yet")]
    NotYetValid,
    /// A claim that must be there is not.
    #[error("token has no claim {0}")]
    MissingClaim(&'static str),
    /// `sub` is no [`UserId`].
    #[error("token names no valid user")]
    BadUser,
    /// `tags` has too many, or one that is no [`TagName`].
    #[error("token has too many tags, or one that is no tag")]
    BadTag,
}

impl TokenError {
    /// What the device is told.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::TokenExpired,
            // It passes by itself, as when the node's clock is behind.
            Self::NotYetValid => ErrorCode::Unavailable,
            Self::TooLong
            | Self::Malformed
            | Self::Algorithm
            | Self::UnknownKey
            | Self::WrongKey
            | Self::WrongAudience
            | Self::MissingClaim(_)
            | Self::BadUser
            | Self::BadTag => ErrorCode::TokenInvalid,
        }
    }
}

#[derive(Serialize)]
struct MintedClaims<'a> {
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<&'a str>,
}

#[derive(Deserialize)]
struct ReceivedHeader {
    alg: String,
    kid: Option<String>,
    /// RFC 7515 §4.1.11: there are extensions that must be understood. None are.
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

/// True, whatever the value is.
fn is_present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[derive(Deserialize)]
struct ReceivedClaims {
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default)]
    tags: Vec<String>,
}

/// RFC 7519 §4.1.3: one text or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }
}

fn header(algorithm: jwt::Algorithm, kid: &str) -> jwt::Header {
    let mut header = jwt::Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    header
}

fn check_secret(secret: &[u8]) -> Result<(), KeyError> {
    if secret.len() < SECRET_BYTES_MIN {
        Err(KeyError::ShortSecret)
    } else {
        Ok(())
    }
}

/// The library checks the signature; the claims are checked here, against the caller's clock.
fn signature_only(algorithm: jwt::Algorithm) -> jwt::Validation {
    let mut validation = jwt::Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

fn blame(error: &jwt::errors::Error) -> TokenError {
    use jwt::errors::ErrorKind;

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the library's kinds are not exhaustive"
    )]
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::WrongKey,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => TokenError::Algorithm,
        _ => TokenError::Malformed,
    }
}

/// RFC 7519 §2, NumericDate: seconds, which may have a fraction.
fn time(seconds: f64) -> Result<Duration, TokenError> {
    Duration::try_from_secs_f64(seconds).map_err(|_| TokenError::Malformed)
}

/// What stands before the seed in PKCS #8 (RFC 8410 §7).
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
