use sha2::{Digest, Sha256};

use super::text_attribute;
use crate::{Attribute, AttributeError, AttributeType, TransactionId, WriteAttribute};

text_attribute! {
    /// USERNAME of the credentials in use. See RFC 8489 §14.3.
    Username = USERNAME, 508, 508, 763
}

text_attribute! {
    /// REALM that the credentials belong to. See RFC 8489 §14.9.
    Realm = REALM, 509, 127, 763
}

text_attribute! {
    /// NONCE chosen by the server. See RFC 8489 §14.10.
    Nonce = NONCE, 509, 127, 763
}

/// The security features that a server announces in the head of its nonce. See RFC 8489 §9.2
/// and §18.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NonceCookie {
    /// The server chooses among password algorithms (bit 0).
    pub password_algorithms: bool,
    /// Usernames may be sent as USERHASH (bit 1).
    pub username_anonymity: bool,
}

impl NonceCookie {
    /// Length of the cookie in bytes, all of them ASCII.
    pub const BYTES: usize = 13;

    /// Reads the cookie; `None` where the nonce begins with none.
    pub fn of(nonce: &str) -> Option<Self> {
        let features = nonce
            .as_bytes()
            .strip_prefix(NONCE_COOKIE_PREFIX)?
            .first_chunk::<4>()?;
        let bits = features.iter().try_fold(0, |bits: u32, character| {
            let digit = BASE64.iter().position(|letter| letter == character)?;
            Some((bits << 6) | u32::try_from(digit).ok()?)
        })?;
        Some(Self {
            password_algorithms: bits & FEATURE_PASSWORD_ALGORITHMS != 0,
            username_anonymity: bits & FEATURE_USERNAME_ANONYMITY != 0,
        })
    }

    /// Returns the cookie as text, to be put in front of the rest of a nonce.
    pub fn to_ascii(self) -> [u8; Self::BYTES] {
        let algorithms = if self.password_algorithms {
            FEATURE_PASSWORD_ALGORITHMS
        } else {
            0
        };
        let anonymity = if self.username_anonymity {
            FEATURE_USERNAME_ANONYMITY
        } else {
            0
        };
        let bits = algorithms | anonymity;
        let mut cookie = *b"obMatJos2AAAA";
        let letters = [18, 12, 6, 0].map(|shift| BASE64[(bits >> shift) as usize & 0x3f]);
        cookie[NONCE_COOKIE_PREFIX.len()..].copy_from_slice(&letters);
        cookie
    }
}

/// USERHASH: the username without showing it. See RFC 8489 §14.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserHash(pub [u8; 32]);

impl UserHash {
    /// Hashes a username in its realm.
    pub fn new(username: &str, realm: &str) -> Self {
        let mut digest = Sha256::new();
        digest.update(username);
        digest.update(":");
        digest.update(realm);
        Self(digest.finalize().into())
    }
}

impl<'a> Attribute<'a> for UserHash {
    const TYPE: AttributeType = AttributeType::USERHASH;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        value
            .try_into()
            .map(Self)
            .map_err(|_| AttributeError::Length(Self::TYPE))
    }
}

impl WriteAttribute for UserHash {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.0);
    }
}

/// PASSWORD-ALGORITHM: how the key is made from the password. See RFC 8489 §14.12 and §18.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PasswordAlgorithm {
    /// 0x0001.
    Md5,
    /// 0x0002.
    Sha256,
}

impl PasswordAlgorithm {
    const fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }

    /// `None` for an algorithm this crate does not know, or one with parameters.
    fn from_parts(number: u16, parameters: &[u8]) -> Option<Self> {
        match (number, parameters) {
            (1, []) => Some(Self::Md5),
            (2, []) => Some(Self::Sha256),
            _ => None,
        }
    }

    fn write(self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.number().to_be_bytes());
        buffer.extend_from_slice(&[0, 0]);
    }
}

impl<'a> Attribute<'a> for PasswordAlgorithm {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHM;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let (number, parameters, rest) =
            split_algorithm(value).ok_or(AttributeError::Length(Self::TYPE))?;
        if !rest.is_empty() {
            return Err(AttributeError::Length(Self::TYPE));
        }
        Self::from_parts(number, parameters).ok_or(AttributeError::Value(Self::TYPE))
    }
}

impl WriteAttribute for PasswordAlgorithm {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        self.write(buffer);
    }
}

/// PASSWORD-ALGORITHMS: what the server accepts, the preferred one first. See RFC 8489 §14.11.
#[derive(Debug, Clone, Copy)]
pub struct PasswordAlgorithms<'a>(List<'a>);

#[derive(Debug, Clone, Copy)]
enum List<'a> {
    Wire(&'a [u8]),
    Local(&'a [PasswordAlgorithm]),
}

impl<'a> PasswordAlgorithms<'a> {
    /// Lists `algorithms`, the preferred one first.
    pub fn new(algorithms: &'a [PasswordAlgorithm]) -> Self {
        Self(List::Local(algorithms))
    }

    /// Iterates over the algorithms in order; `None` stands for one that is not known here.
    pub fn algorithms(&self) -> impl Iterator<Item = Option<PasswordAlgorithm>> + 'a {
        let (mut wire, local): (&'a [u8], &'a [PasswordAlgorithm]) = match self.0 {
            List::Wire(bytes) => (bytes, &[]),
            List::Local(algorithms) => (&[], algorithms),
        };
        let from_wire = std::iter::from_fn(move || {
            let (number, parameters, rest) = split_algorithm(wire)?;
            wire = rest;
            Some(PasswordAlgorithm::from_parts(number, parameters))
        });
        from_wire.chain(local.iter().copied().map(Some))
    }

    /// Tells whether this is exactly `algorithms`, in this order.
    pub fn is(&self, algorithms: &[PasswordAlgorithm]) -> bool {
        self.algorithms().eq(algorithms.iter().copied().map(Some))
    }
}

impl<'a> Attribute<'a> for PasswordAlgorithms<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHMS;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let mut rest = value;
        while !rest.is_empty() {
            (_, _, rest) = split_algorithm(rest).ok_or(AttributeError::Length(Self::TYPE))?;
        }
        Ok(Self(List::Wire(value)))
    }
}

impl WriteAttribute for PasswordAlgorithms<'_> {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        match self.0 {
            List::Wire(bytes) => buffer.extend_from_slice(bytes),
            List::Local(algorithms) => algorithms.iter().for_each(|one| one.write(buffer)),
        }
    }
}

/// Splits off one algorithm: number, parameters, and what follows their padding.
fn split_algorithm(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let ([a, b, c, d], rest) = bytes.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([*c, *d]));
    let parameters = rest.get(..length)?;
    // Some senders leave the padding of the last one out.
    let rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((u16::from_be_bytes([*a, *b]), parameters, rest))
}

const NONCE_COOKIE_PREFIX: &[u8] = b"obMatJos2";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Bit 0 is the least significant one, as in the nonce of RFC 8489 appendix B.1.
const FEATURE_PASSWORD_ALGORITHMS: u32 = 1 << 0;
const FEATURE_USERNAME_ANONYMITY: u32 = 1 << 1;

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: TransactionId = TransactionId([0; 12]);

    #[test]
    fn the_nonce_cookie_announces_its_features() {
        let cookie = NonceCookie {
            password_algorithms: true,
            username_anonymity: false,
        };
        assert_eq!(&cookie.to_ascii(), b"obMatJos2AAAB");
        for (password_algorithms, username_anonymity) in
            [(false, false), (true, false), (false, true), (true, true)]
        {
            let cookie = NonceCookie {
                password_algorithms,
                username_anonymity,
            };
            let text = cookie.to_ascii();
            let nonce = std::str::from_utf8(&text).expect("is ASCII");
            assert_eq!(NonceCookie::of(&format!("{nonce}rest")), Some(cookie));
        }
    }

    #[test]
    fn a_nonce_without_the_cookie_announces_nothing() {
        for nonce in [
            "",
            "obMatJos2",
            "obMatJos2AAA",
            "obMatJos2AA-A",
            "ObMatJos2AAAA",
        ] {
            assert_eq!(NonceCookie::of(nonce), None, "{nonce}");
        }
    }

    #[test]
    fn unknown_algorithms_keep_their_place_in_the_list() {
        let value = [0, 9, 0, 2, 1, 2, 0, 0, 0, 2, 0, 0];
        let list = PasswordAlgorithms::parse(&value, TRANSACTION).expect("well formed");
        let algorithms: Vec<_> = list.algorithms().collect();
        assert_eq!(algorithms, [None, Some(PasswordAlgorithm::Sha256)]);
    }

    #[test]
    fn algorithms_that_do_not_fit_are_refused() {
        assert!(PasswordAlgorithms::parse(&[0, 1, 0], TRANSACTION).is_err());
        assert!(PasswordAlgorithms::parse(&[0, 1, 0, 4, 0], TRANSACTION).is_err());
        assert!(PasswordAlgorithm::parse(&[0, 1, 0, 0, 0, 2, 0, 0], TRANSACTION).is_err());
        assert!(PasswordAlgorithm::parse(&[0, 3, 0, 0], TRANSACTION).is_err());
    }

    #[test]
    fn parameters_of_a_known_algorithm_make_it_unknown() {
        let error = PasswordAlgorithm::parse(&[0, 2, 0, 4, 1, 2, 3, 4], TRANSACTION);
        assert_eq!(
            error,
            Err(AttributeError::Value(AttributeType::PASSWORD_ALGORITHM))
        );
    }
}
