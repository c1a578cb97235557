//! Public keys of a device.

use std::fmt;

use bytes::Bytes;

use crate::v1::{DeviceKeys, ErrorCode};

/// Who a device proves to be towards its peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKeys {
    /// Ed25519: the peer link's TLS raw public key.
    pub identity: [u8; 32],
    /// X25519: seals the first messages inside an introduction.
    pub seal: [u8; 32],
}

/// Why keys were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The message has no keys.
    #[error("keys are missing")]
    Missing,
    /// A key has not 32 bytes.
    #[error("a key must have 32 bytes")]
    Length,
}

impl KeysError {
    /// What a device is told.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        ErrorCode::BadFrame
    }
}

impl TryFrom<&DeviceKeys> for PublicKeys {
    type Error = KeysError;

    fn try_from(keys: &DeviceKeys) -> Result<Self, KeysError> {
        let key = |bytes: &Bytes| bytes.as_ref().try_into().map_err(|_| KeysError::Length);
        Ok(Self {
            identity: key(&keys.identity)?,
            seal: key(&keys.seal)?,
        })
    }
}

impl TryFrom<Option<&DeviceKeys>> for PublicKeys {
    type Error = KeysError;

    fn try_from(keys: Option<&DeviceKeys>) -> Result<Self, KeysError> {
        Self::try_from(keys.ok_or(KeysError::Missing)?)
    }
}

impl From<&PublicKeys> for DeviceKeys {
    fn from(keys: &PublicKeys) -> Self {
        Self {
            identity: Bytes::copy_from_slice(&keys.identity),
            seal: Bytes::copy_from_slice(&keys.seal),
        }
    }
}

impl fmt::Debug for PublicKeys {
    /// The first bytes of the identity: enough to tell devices apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.identity;
        write!(f, "PublicKeys({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_32_bytes_each() {
        let keys = PublicKeys {
            identity: [1; 32],
            seal: [2; 32],
        };
        let mut message = DeviceKeys::from(&keys);
        assert_eq!(PublicKeys::try_from(&message), Ok(keys));

        message.seal = Bytes::from_static(&[2; 31]);
        assert_eq!(PublicKeys::try_from(&message), Err(KeysError::Length));
        assert_eq!(PublicKeys::try_from(None), Err(KeysError::Missing));
    }
}
