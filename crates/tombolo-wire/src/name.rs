//! Names of users, rooms and nodes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::v1::ErrorCode;

/// Longest [`UserId`], in bytes.
pub const USER_BYTES_MAX: usize = 64;

/// Longest [`RoomId`], in bytes.
pub const ROOM_BYTES_MAX: usize = 128;

/// Longest [`GroupName`], in bytes.
pub const GROUP_BYTES_MAX: usize = 64;

/// Longest [`FieldId`], in bytes.
pub const FIELD_BYTES_MAX: usize = 64;

/// Longest [`TagName`], in bytes.
pub const TAG_BYTES_MAX: usize = 64;

/// Longest [`CommandName`], in bytes.
pub const COMMAND_BYTES_MAX: usize = 64;

/// Longest [`NodeId`], in bytes.
pub const NODE_BYTES_MAX: usize = 64;

/// Who a device acts for: 1 to 64 bytes of `[A-Za-z0-9._~@-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

/// The name of a room: 1 to 128 bytes of `[A-Za-z0-9._~@-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomId(Arc<str>);

/// The name of a group of users: 1 to 64 bytes of `[A-Za-z0-9._~@-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

/// The name of a field: 1 to 64 bytes of `[A-Za-z0-9._~@-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldId(Arc<str>);

/// Something that many users have in common, as an application names it in their tokens: 1 to 64 bytes of
/// `[A-Za-z0-9._~@-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(Arc<str>);

/// The name of a command that a game understands: 1 to 64 bytes of `[A-Za-z0-9._~@-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandName(Arc<str>);

/// The name of a node: 1 to 64 bytes of `[A-Za-z0-9._~@-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text has no bytes.
    #[error("name is empty")]
    Empty,
    /// The text has more bytes than such a name may have.
    #[error("name is longer than {bytes_max} bytes")]
    TooLong {
        /// How many bytes it may have.
        bytes_max: usize,
    },
    /// The text holds something else than `[A-Za-z0-9._~@-]`.
    #[error("name has a character outside of A-Z a-z 0-9 . _ ~ @ -")]
    Character,
}

impl NameError {
    /// What a device is told.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        ErrorCode::BadName
    }
}

macro_rules! name {
    ($name:ident, $bytes_max:ident) => {
        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// When the text is empty, too long or has a character that names don't have.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text, $bytes_max)?;
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                Self::from(&*name.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name!(UserId, USER_BYTES_MAX);
name!(RoomId, ROOM_BYTES_MAX);
name!(GroupName, GROUP_BYTES_MAX);
name!(FieldId, FIELD_BYTES_MAX);
name!(TagName, TAG_BYTES_MAX);
name!(CommandName, COMMAND_BYTES_MAX);
name!(NodeId, NODE_BYTES_MAX);

fn check(text: &str, bytes_max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > bytes_max {
        return Err(NameError::TooLong { bytes_max });
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"._~@-".contains(&b))
    {
        return Err(NameError::Character);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_length_and_an_alphabet() {
        assert_eq!(
            UserId::parse("alice@home.example~2_x-1")
                .unwrap()
                .as_str()
                .len(),
            24
        );
        assert_eq!(UserId::parse(""), Err(NameError::Empty));
        assert!(UserId::parse(&"u".repeat(64)).is_ok());
        assert_eq!(
            UserId::parse(&"u".repeat(65)),
            Err(NameError::TooLong { bytes_max: 64 })
        );
        assert!(RoomId::parse(&"r".repeat(128)).is_ok());
        assert_eq!(
            RoomId::parse(&"r".repeat(129)),
            Err(NameError::TooLong { bytes_max: 128 })
        );
        for text in ["a b", "a/b", "a\0", "ä", "a:b", "*", ">", "a\n"] {
            assert_eq!(RoomId::parse(text), Err(NameError::Character), "{text:?}");
        }
    }
}
