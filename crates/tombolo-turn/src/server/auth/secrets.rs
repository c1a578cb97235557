use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::super::stats::Refusal;

/// The secrets under which a realm's time-limited credentials are made: the username says when they
/// end, the password is its HMAC. So nobody has to be listed.
pub(super) struct Secrets {
    secrets: Vec<Vec<u8>>,
    separator: char,
}

/// What a time-limited username says.
pub(super) struct TimeLimited<'a> {
    /// Never empty: whoever has no name is a user of its own.
    pub(super) user: &'a str,
    /// In Unix seconds.
    pub(super) expiry: u64,
    /// Whether it is one without doubt, and not somebody's name that happens to be a number or to end
    /// with one.
    pub(super) is_certain: bool,
}

impl Secrets {
    pub(super) fn new(secrets: &[Vec<u8>], separator: Option<char>) -> Self {
        // An empty secret would be one that everybody knows.
        let secrets = secrets.iter().filter(|one| !one.is_empty());
        Self {
            secrets: secrets.cloned().collect(),
            separator: separator.unwrap_or(SEPARATOR),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Reads a username, which is `EXPIRY:USER`, or `USER:EXPIRY` where the user is no number, or
    /// `EXPIRY`; `None` where it is none of these.
    pub(super) fn read<'a>(&self, username: &'a str) -> Option<TimeLimited<'a>> {
        if self.secrets.is_empty() {
            return None;
        }
        let (expiry, user, is_certain) = match username.split_once(self.separator) {
            Some((expiry, user)) if is_number(expiry) => (expiry, user, true),
            Some((user, expiry)) => (expiry, user, false),
            None => (username, "", false),
        };
        // `parse` alone would take a sign.
        let expiry = is_number(expiry).then(|| expiry.parse().ok()).flatten()?;
        let user = if user.is_empty() { username } else { user };
        Some(TimeLimited {
            user,
            expiry,
            is_certain,
        })
    }

    /// Iterates over the passwords that a username may have, one for each secret.
    pub(super) fn passwords<'s>(&'s self, username: &'s str) -> impl Iterator<Item = String> + 's {
        self.secrets
            .iter()
            .map(move |one| password_of(one, username))
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl TimeLimited<'_> {
    pub(super) fn check_time(&self, unix_now: u64) -> Result<(), Refusal> {
        if self.expiry <= unix_now {
            return Err(Refusal::CredentialsExpired);
        }
        Ok(())
    }
}

/// Returns the password that belongs to a time-limited username (such as `EXPIRY:USER`) under a
/// secret: the Base64 of its HMAC-SHA1.
pub fn password_of(secret: &[u8], username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

const SEPARATOR: char = ':';
