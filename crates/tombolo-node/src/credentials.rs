//! Time-limited TURN credentials from a shared secret: the relay needs no list of users.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use tombolo_wire::UserId;

/// What node and relay share.
#[derive(Clone)]
pub(crate) struct RelaySecret(String);

/// User name and password of one user, for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl RelaySecret {
    /// A secret as configurations write it.
    pub(crate) fn new(bytes: &[u8; 32]) -> Self {
        Self(STANDARD.encode(bytes))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Credentials of `user` until `expires`, since the Unix epoch.
    pub(crate) fn credentials(&self, user: &UserId, expires: Duration) -> Credentials {
        let username = format!("{}:{}", expires.as_secs(), user.as_str());
        let mut mac =
            Hmac::<Sha1>::new_from_slice(self.0.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(username.as_bytes());
        let password = STANDARD.encode(mac.finalize().into_bytes());
        Credentials { username, password }
    }
}

impl fmt::Debug for RelaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelaySecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_what_other_turn_servers_expect() {
        let secret = RelaySecret("north".to_owned());
        let user = "alice".parse().expect("a user");
        let credentials = secret.credentials(&user, Duration::from_secs(1_433_895_918));
        assert_eq!(credentials.username, "1433895918:alice");
        // printf 1433895918:alice | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(credentials.password, "RqMvcGPYTJMGThVLSi4amT4zFtI=");
    }
}
