use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use md5::digest::Output;
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::message::HEADER_BYTES;

/// Key of MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256. See RFC 8489 §9.1.1 and §18.5.
///
/// It lives in place, so that a server that makes one for each request asks for no memory.
#[derive(Clone)]
pub struct Key {
    bytes: [u8; BLOCK_BYTES],
    length: usize,
}

impl Key {
    /// Makes the key of the short-term mechanism: the password itself. See RFC 8489 §9.1.1.
    pub fn short_term(password: &str) -> Self {
        Self::from_bytes(password.as_bytes())
    }

    /// Makes a key that comes ready made, as from a store or a token.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut key = Self {
            bytes: [0; BLOCK_BYTES],
            length: bytes.len().min(BLOCK_BYTES),
        };
        if let Some(room) = key.bytes.get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            return key;
        }
        // HMAC shortens what is longer than a block by the hash in use, of which there are two
        // (RFC 2104 §2).
        let sha1 = Sha1::digest(bytes);
        let sha256 = Sha256::digest(bytes);
        key.length = LONG;
        let halves = sha1.iter().chain(sha256.iter());
        key.bytes
            .iter_mut()
            .zip(halves)
            .for_each(|(to, from)| *to = *from);
        key
    }

    /// Returns four bytes that tell keys apart in logs and do not help to guess one.
    pub fn trace(&self) -> u32 {
        let [a, b, c, d, ..] = hmac_sha256(self, &[b"trace"]);
        u32::from_be_bytes([a, b, c, d])
    }

    /// Returns the key of HMAC-SHA1.
    fn of_sha1(&self) -> &[u8] {
        match self.length {
            LONG => &self.bytes[..SHA1_BYTES],
            length => &self.bytes[..length],
        }
    }

    /// Returns the key of HMAC-SHA256.
    fn of_sha256(&self) -> &[u8] {
        match self.length {
            LONG => &self.bytes[SHA1_BYTES..SHA1_BYTES + SHA256_BYTES],
            length => &self.bytes[..length],
        }
    }

    /// Makes the key of the long-term mechanism with the MD5 algorithm. See RFC 8489 §18.5.1.1.
    pub fn long_term(username: &str, realm: &str, password: &str) -> Self {
        Self::from_bytes(&digest_of::<Md5>(username, realm, password))
    }

    /// Makes the key of the long-term mechanism with the SHA-256 algorithm. See RFC 8489
    /// §18.5.1.2.
    pub fn long_term_sha256(username: &str, realm: &str, password: &str) -> Self {
        Self::from_bytes(&digest_of::<Sha256>(username, realm, password))
    }
}

/// Takes the same time wherever two keys differ.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && bool::from(self.bytes.ct_eq(&other.bytes))
    }
}

impl Eq for Key {}

/// Shows nothing of the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Why the integrity of a message could not be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum IntegrityError {
    /// The message carries neither integrity attribute.
    #[error("no message integrity")]
    Missing,
    /// The attribute's length is not one that its definition allows.
    #[error("message integrity of a length that is not allowed")]
    Length,
    /// The message was changed, or made with another key.
    #[error("message integrity does not match")]
    Mismatch,
}

/// Why a message's FINGERPRINT is not right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// The message carries none.
    #[error("no fingerprint")]
    Missing,
    /// The checksum differs.
    #[error("fingerprint does not match")]
    Mismatch,
}

/// Returns the HMAC-SHA1 over `parts`.
pub(crate) fn hmac_sha1(key: &Key, parts: &[&[u8]]) -> [u8; 20] {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(key.of_sha1()).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Returns the HMAC-SHA256 over `parts`.
pub(crate) fn hmac_sha256(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.of_sha256()).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// Splits `covered` into its header, with the length as if the message ended right after an
/// integrity attribute of `value_len` bytes, and the rest. See RFC 8489 §14.5.
pub(crate) fn signed_header(covered: &[u8], value_len: usize) -> ([u8; HEADER_BYTES], &[u8]) {
    let (header, body) = covered
        .split_first_chunk()
        .expect("the header precedes attributes");
    let mut header: [u8; HEADER_BYTES] = *header;
    let length = body.len() + 4 + value_len;
    let length = u16::try_from(length).expect("the message's length fits its header");
    header[2..4].copy_from_slice(&length.to_be_bytes());
    (header, body)
}

/// Returns the FINGERPRINT value of a message whose length already counts it. See RFC 8489 §14.7.
pub(crate) fn fingerprint_of(before: &[u8]) -> [u8; 4] {
    (crc32fast::hash(before) ^ FINGERPRINT_XOR).to_be_bytes()
}

fn digest_of<D: Digest>(username: &str, realm: &str, password: &str) -> Output<D> {
    let mut digest = D::new();
    digest.update(username);
    digest.update(":");
    digest.update(realm);
    digest.update(":");
    digest.update(password);
    digest.finalize()
}

/// Block of both hashes, up to which HMAC takes a key as it is.
const BLOCK_BYTES: usize = 64;
const SHA1_BYTES: usize = 20;
const SHA256_BYTES: usize = 32;
/// In place of the length of a key that was longer than a block.
const LONG: usize = usize::MAX;
const _: () = assert!(SHA1_BYTES + SHA256_BYTES <= BLOCK_BYTES);
const FINGERPRINT_XOR: u32 = 0x5354_554e;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_longer_than_a_block_is_what_hmac_makes_of_it() {
        for length in [0, 1, 63, 64, 65, 508] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let key = Key::from_bytes(&bytes);
            let mut sha1 = Hmac::<Sha1>::new_from_slice(&bytes).expect("of any length");
            sha1.update(b"message");
            let sha1: [u8; 20] = sha1.finalize().into_bytes().into();
            assert_eq!(hmac_sha1(&key, &[b"message"]), sha1, "{length}");
            let mut sha256 = Hmac::<Sha256>::new_from_slice(&bytes).expect("of any length");
            sha256.update(b"message");
            let sha256: [u8; 32] = sha256.finalize().into_bytes().into();
            assert_eq!(hmac_sha256(&key, &[b"message"]), sha256, "{length}");
        }
    }
}
