use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::super::stats::Refusal;

/// The secrets under which a realm's time-limited credentials are made: the username is
/// `EXPIRY:USER`, the password its HMAC. So nobody has to be listed.
pub(super) struct Secrets(Vec<Vec<u8>>);

/// What a time-limited username says.
pub(super) struct TimeLimited<'a> {
    pub(super) user: &'a str,
    /// In Unix seconds.
    pub(super) expiry: u64,
}

impl Secrets {
    pub(super) fn new(secrets: &[Vec<u8>]) -> Self {
        // An empty secret would be one that everybody knows.
        Self(
            secrets
                .iter()
                .filter(|one| !one.is_empty())
                .cloned()
                .collect(),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a username; `None` where it is not a time-limited one.
    pub(super) fn read<'a>(&self, username: &'a str) -> Option<TimeLimited<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let (expiry, user) = username.split_once(':')?;
        // `parse` alone would take a sign.
        if !expiry.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let expiry = expiry.parse().ok()?;
        Some(TimeLimited { user, expiry })
    }

    /// Iterates over the passwords that a username may have, one for each secret.
    pub(super) fn passwords<'s>(&'s self, username: &'s str) -> impl Iterator<Item = String> + 's {
        self.0.iter().map(move |one| password_of(one, username))
    }
}

impl TimeLimited<'_> {
    pub(super) fn check_time(&self, unix_now: u64) -> Result<(), Refusal> {
        if self.expiry <= unix_now {
            return Err(Refusal::CredentialsExpired);
        }
        Ok(())
    }
}

/// Returns the password that belongs to a time-limited username (`EXPIRY:USER`) under a secret:
/// the Base64 of its HMAC-SHA1.
pub fn password_of(secret: &[u8], username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}
