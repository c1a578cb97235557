use std::time::Duration;

use tombolo_wire::UserId;
use tombolo_wire::token::{KeySet, TokenError};

use super::super::stats::Refusal;

/// The keys of a realm's device tokens.
///
/// Whoever holds a token can use TURN with it: the username is the token without its signature
/// (`HEADER.PAYLOAD`), the password is the signature. The server makes the signature again from
/// the key that the header names. It can do so for HS256 only: a signature by Ed25519 can be
/// checked by the server and not made, and MESSAGE-INTEGRITY never shows it.
pub(super) struct Tokens(KeySet);

/// A token whose signature its holder has yet to show.
pub(super) struct DeviceToken {
    pub(super) user: UserId,
    /// In Unix seconds.
    pub(super) expiry: u64,
    /// What the holder uses as password.
    pub(super) signature: String,
}

impl Tokens {
    pub(super) fn new(keys: &KeySet) -> Self {
        Self(keys.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a username; `None` where it is no token, or none of these keys.
    pub(super) fn read(
        &self,
        username: &str,
        unix_now: u64,
    ) -> Option<Result<DeviceToken, Refusal>> {
        // Base64 of `{"`, with which every header begins.
        if self.0.is_empty() || !username.starts_with("ey") || username.split('.').count() != 2 {
            return None;
        }
        let signature = match self.0.signature_of(username) {
            Ok(signature) => signature,
            Err(TokenError::Malformed | TokenError::TooLong) => return None,
            Err(_) => return Some(Err(Refusal::TokenWrong)),
        };
        let token = format!("{username}.{signature}");
        let claims = match self.0.verify(&token, Duration::from_secs(unix_now)) {
            Ok(claims) => claims,
            Err(TokenError::Expired) => return Some(Err(Refusal::CredentialsExpired)),
            Err(_) => return Some(Err(Refusal::TokenWrong)),
        };
        Some(Ok(DeviceToken {
            user: claims.user,
            expiry: claims.expires.as_secs(),
            signature,
        }))
    }
}
