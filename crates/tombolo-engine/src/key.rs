//! Names of subjects, logs and values.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// A name made of tokens, such as `room.lobby`.
///
/// A full stop inside a token is written `=`, so that names of users and rooms can be tokens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Which keys are meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// This key.
    Exactly(Key),
    /// All keys that have more tokens after these.
    Under(Key),
}

/// Why tokens make no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no token, or an empty one.
    #[error("key has an empty token")]
    Empty,
    /// The key is longer than [`Key::BYTES_MAX`].
    #[error("key is too long")]
    TooLong,
    /// A token has white space, a control character, or one of `*>=/\`.
    #[error("key has a character that keys don't have")]
    Character,
}

impl Key {
    /// Longest key, in bytes.
    pub const BYTES_MAX: usize = 256;

    /// Joins tokens to a key.
    ///
    /// # Errors
    /// When a token is empty or has a character that the engines keep for themselves.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Result<Self, KeyError> {
        let mut text = String::new();
        for token in tokens {
            if token.is_empty() {
                return Err(KeyError::Empty);
            }
            if token.contains(|c| is_kept(c) || c == '=') {
                return Err(KeyError::Character);
            }
            if !text.is_empty() {
                text.push('.');
            }
            for (number, part) in token.split('.').enumerate() {
                if number > 0 {
                    text.push('=');
                }
                text.push_str(part);
            }
        }
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > Self::BYTES_MAX {
            return Err(KeyError::TooLong);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Its first token.
    pub(crate) fn kind(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// A key from how it is written; `None` when it is no key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_key = !text.is_empty()
            && text.len() <= Self::BYTES_MAX
            && text
                .split('.')
                .all(|token| !token.is_empty() && !token.contains(is_kept));
        is_key.then(|| Self(Arc::from(text)))
    }

    /// The tokens, joined by full stops.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether engines keep a character for themselves.
fn is_kept(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '*' | '>' | '/' | '\\')
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Pattern {
    /// Whether the key is meant.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        match self {
            Self::Exactly(exact) => exact == key,
            Self::Under(prefix) => key
                .as_str()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.starts_with('.')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_with_full_stops_stay_one_token() {
        assert_eq!(Key::new(["room", "a.b"]).unwrap().as_str(), "room.a=b");
        assert_ne!(Key::new(["room", "a.b"]), Key::new(["room", "a", "b"]));
    }

    #[test]
    fn what_engines_keep_for_themselves_is_refused() {
        for token in ["*", ">", "a b", "a\t", "a\0", "a=b", "a/b", "a\\"] {
            assert_eq!(
                Key::new(["room", token]),
                Err(KeyError::Character),
                "{token:?}"
            );
        }
        assert_eq!(Key::new([]), Err(KeyError::Empty));
        assert_eq!(Key::new(["room", ""]), Err(KeyError::Empty));
        assert_eq!(Key::new([&*"x".repeat(257)]), Err(KeyError::TooLong));
    }

    #[test]
    fn a_pattern_ends_at_a_token() {
        let under = Pattern::Under(Key::new(["node", "a"]).unwrap());
        assert!(under.matches(&Key::new(["node", "a", "inbox"]).unwrap()));
        assert!(!under.matches(&Key::new(["node", "ab", "inbox"]).unwrap()));
        assert!(!under.matches(&Key::new(["node", "a"]).unwrap()));
    }
}
