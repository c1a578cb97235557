//! Short names for rooms, for people to tell each other.

use std::fmt;
use std::str::FromStr;

/// How many characters a [`RoomCode`] has.
pub const CODE_LENGTH: usize = 6;

/// A short name for a room, for people to tell each other, such as `7KQ3XF`.
///
/// It has no letters or digits that look or sound like others, and none that make words. As typed, small
/// letters, spaces and hyphens are fine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomCode([u8; CODE_LENGTH]);

/// Why a text is no [`RoomCode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a room's code has {CODE_LENGTH} letters and digits, without vowels and look-alikes")]
pub struct CodeError;

impl RoomCode {
    /// Reads a code as somebody typed it.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        let mut code = [0; CODE_LENGTH];
        let mut length = 0;
        for byte in text.bytes().filter(|byte| !matches!(byte, b' ' | b'-')) {
            let byte = byte.to_ascii_uppercase();
            let place = code.get_mut(length).ok_or(CodeError)?;
            if !ALPHABET.contains(&byte) {
                return Err(CodeError);
            }
            *place = byte;
            length += 1;
        }
        if length < CODE_LENGTH {
            return Err(CodeError);
        }
        Ok(Self(code))
    }

    /// Makes a code of random bytes; `None` when they would favour some codes: take others then.
    #[must_use]
    pub fn from_random(bytes: [u8; 8]) -> Option<Self> {
        const CODES: u64 = (ALPHABET.len() as u64).pow(CODE_LENGTH as u32);
        let number = u64::from_be_bytes(bytes);
        if number >= u64::MAX - u64::MAX % CODES {
            return None;
        }
        let mut rest = number % CODES;
        let code = std::array::from_fn(|_| {
            let at = rest % ALPHABET.len() as u64;
            rest /= ALPHABET.len() as u64;
            // The remainder is below the alphabet's length.
            ALPHABET[at as usize]
        });
        Some(Self(code))
    }

    /// The code as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the alphabet is ASCII")
    }
}

impl FromStr for RoomCode {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        Self::parse(text)
    }
}

impl fmt::Display for RoomCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RoomCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Without vowels, and without 0/O, 1/I/L, 2/Z, 5/S, 8/B and U/V in pairs.
const ALPHABET: &[u8] = b"346789CDFGHJKMNPQRTVWXY";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = RoomCode::parse("7kq-3xf").unwrap();
        assert_eq!(code.as_str(), "7KQ3XF");
        assert_eq!(RoomCode::parse(" 7KQ 3XF "), Ok(code));
        for bad in [
            "", "7KQ3X", "7KQ3XFF", "7KQ3XO", "7KQ3X1", "7KQ3Xé", "7KQ/XF",
        ] {
            assert_eq!(RoomCode::parse(bad), Err(CodeError), "{bad}");
        }
    }

    #[test]
    fn random_bytes_reach_every_character_in_every_place() {
        let codes = (0..1000_u64).map(|number| {
            let bytes = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            RoomCode::from_random(bytes).unwrap()
        });
        let seen: BTreeSet<_> = codes
            .flat_map(|code| code.as_str().bytes().enumerate().collect::<Vec<_>>())
            .collect();
        assert_eq!(seen.len(), CODE_LENGTH * ALPHABET.len());
        assert_eq!(RoomCode::from_random([255; 8]), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let code = RoomCode::from_random([7; 8]).unwrap();
        assert_eq!(RoomCode::parse(&code.to_string()), Ok(code));
    }
}
