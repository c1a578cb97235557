use std::fmt;

use thiserror::Error;

use crate::TransactionId;

pub(crate) mod address;
pub(crate) mod behavior;
pub(crate) mod credential;
pub(crate) mod error_code;
pub(crate) mod ice;
pub(crate) mod measure;
pub(crate) mod text;
pub(crate) mod third_party;
pub(crate) mod turn;

/// An attribute that can be read from a message.
pub trait Attribute<'a>: Sized {
    /// The type under which it travels.
    const TYPE: AttributeType;

    /// Reads the attribute from its value, which comes without padding.
    ///
    /// # Errors
    /// The value has a wrong length or a content that the attribute's definition forbids.
    fn parse(value: &'a [u8], transaction: TransactionId) -> Result<Self, AttributeError>;
}

/// An attribute that can be appended to a message.
pub trait WriteAttribute {
    /// Returns the type under which it travels.
    fn attribute_type(&self) -> AttributeType;

    /// Appends the value, without header and padding, to `buffer`.
    fn write_value(&self, transaction: TransactionId, buffer: &mut Vec<u8>);
}

/// An attribute whose value has not been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawAttribute<'a> {
    /// The type.
    pub kind: AttributeType,
    /// The value, without padding.
    pub value: &'a [u8],
}

impl WriteAttribute for RawAttribute<'_> {
    fn attribute_type(&self) -> AttributeType {
        self.kind
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.value);
    }
}

/// Type of an attribute. See RFC 8489 §14 and the IANA registry of STUN parameters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeType(pub u16);

impl AttributeType {
    /// Tells whether a receiver must understand the attribute to process the message.
    pub const fn is_comprehension_required(self) -> bool {
        self.0 < 0x8000
    }
}

macro_rules! attribute_types {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $wire:literal;)*) => {
        impl AttributeType {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// Every type that has a name here.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the name of the attribute in its RFC, or `None` where this crate knows
            /// none.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($wire),)*
                    _ => None,
                }
            }
        }
    };
}

attribute_types! {
    /// See RFC 8489 §14.1.
    MAPPED_ADDRESS = 0x0001, "MAPPED-ADDRESS";
    /// See RFC 5780 §7.2.
    CHANGE_REQUEST = 0x0003, "CHANGE-REQUEST";
    /// See RFC 8489 §14.3.
    USERNAME = 0x0006, "USERNAME";
    /// See RFC 8489 §14.5.
    MESSAGE_INTEGRITY = 0x0008, "MESSAGE-INTEGRITY";
    /// See RFC 8489 §14.8.
    ERROR_CODE = 0x0009, "ERROR-CODE";
    /// See RFC 8489 §14.13.
    UNKNOWN_ATTRIBUTES = 0x000a, "UNKNOWN-ATTRIBUTES";
    /// See RFC 8656 §18.1.
    CHANNEL_NUMBER = 0x000c, "CHANNEL-NUMBER";
    /// See RFC 8656 §18.2.
    LIFETIME = 0x000d, "LIFETIME";
    /// See RFC 8656 §18.3.
    XOR_PEER_ADDRESS = 0x0012, "XOR-PEER-ADDRESS";
    /// See RFC 8656 §18.4.
    DATA = 0x0013, "DATA";
    /// See RFC 8489 §14.9.
    REALM = 0x0014, "REALM";
    /// See RFC 8489 §14.10.
    NONCE = 0x0015, "NONCE";
    /// See RFC 8656 §18.5.
    XOR_RELAYED_ADDRESS = 0x0016, "XOR-RELAYED-ADDRESS";
    /// See RFC 8656 §18.6.
    REQUESTED_ADDRESS_FAMILY = 0x0017, "REQUESTED-ADDRESS-FAMILY";
    /// See RFC 8656 §18.7.
    EVEN_PORT = 0x0018, "EVEN-PORT";
    /// See RFC 8656 §18.8.
    REQUESTED_TRANSPORT = 0x0019, "REQUESTED-TRANSPORT";
    /// See RFC 8656 §18.9.
    DONT_FRAGMENT = 0x001a, "DONT-FRAGMENT";
    /// See RFC 7635 §6.2.
    ACCESS_TOKEN = 0x001b, "ACCESS-TOKEN";
    /// See RFC 8489 §14.6.
    MESSAGE_INTEGRITY_SHA256 = 0x001c, "MESSAGE-INTEGRITY-SHA256";
    /// See RFC 8489 §14.12.
    PASSWORD_ALGORITHM = 0x001d, "PASSWORD-ALGORITHM";
    /// See RFC 8489 §14.4.
    USERHASH = 0x001e, "USERHASH";
    /// See RFC 8489 §14.2.
    XOR_MAPPED_ADDRESS = 0x0020, "XOR-MAPPED-ADDRESS";
    /// See RFC 8656 §18.10.
    RESERVATION_TOKEN = 0x0022, "RESERVATION-TOKEN";
    /// See RFC 8445 §16.1.
    PRIORITY = 0x0024, "PRIORITY";
    /// See RFC 8445 §16.1.
    USE_CANDIDATE = 0x0025, "USE-CANDIDATE";
    /// See RFC 5780 §7.6.
    PADDING = 0x0026, "PADDING";
    /// See RFC 5780 §7.5.
    RESPONSE_PORT = 0x0027, "RESPONSE-PORT";
    /// See RFC 6062 §6.2.1.
    CONNECTION_ID = 0x002a, "CONNECTION-ID";
    /// See RFC 8656 §18.11.
    ADDITIONAL_ADDRESS_FAMILY = 0x8000, "ADDITIONAL-ADDRESS-FAMILY";
    /// See RFC 8656 §18.12.
    ADDRESS_ERROR_CODE = 0x8001, "ADDRESS-ERROR-CODE";
    /// See RFC 8489 §14.11.
    PASSWORD_ALGORITHMS = 0x8002, "PASSWORD-ALGORITHMS";
    /// See RFC 8489 §14.16.
    ALTERNATE_DOMAIN = 0x8003, "ALTERNATE-DOMAIN";
    /// See RFC 8656 §18.13.
    ICMP = 0x8004, "ICMP";
    /// See RFC 8489 §14.14.
    SOFTWARE = 0x8022, "SOFTWARE";
    /// See RFC 8489 §14.15.
    ALTERNATE_SERVER = 0x8023, "ALTERNATE-SERVER";
    /// See RFC 7982 §3.1.
    TRANSACTION_TRANSMIT_COUNTER = 0x8025, "TRANSACTION_TRANSMIT_COUNTER";
    /// See RFC 5780 §7.7 (there without a definition beyond its type and length).
    CACHE_TIMEOUT = 0x8027, "CACHE-TIMEOUT";
    /// See RFC 8489 §14.7.
    FINGERPRINT = 0x8028, "FINGERPRINT";
    /// See RFC 8445 §16.1.
    ICE_CONTROLLED = 0x8029, "ICE-CONTROLLED";
    /// See RFC 8445 §16.1.
    ICE_CONTROLLING = 0x802a, "ICE-CONTROLLING";
    /// See RFC 5780 §7.3.
    RESPONSE_ORIGIN = 0x802b, "RESPONSE-ORIGIN";
    /// See RFC 5780 §7.4.
    OTHER_ADDRESS = 0x802c, "OTHER-ADDRESS";
    /// See RFC 7635 §6.1.
    THIRD_PARTY_AUTHORIZATION = 0x802e, "THIRD-PARTY-AUTHORIZATION";
    /// See draft-ietf-tram-stun-origin §2.
    ORIGIN = 0x802f, "ORIGIN";
    /// See RFC 8016 §3.3.
    MOBILITY_TICKET = 0x8030, "MOBILITY-TICKET";
}

impl fmt::Display for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "attribute {:#06x}", self.0),
        }
    }
}

impl fmt::Debug for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why an attribute cannot be read, or cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum AttributeError {
    /// The message does not carry the attribute.
    #[error("{0} is missing")]
    Missing(AttributeType),
    /// The value is shorter or longer than its definition allows.
    #[error("{0} has a length that is not allowed")]
    Length(AttributeType),
    /// The value has the right length, and a content that its definition forbids.
    #[error("{0} has a value that is not allowed")]
    Value(AttributeType),
}

impl AttributeError {
    /// Returns the type of the attribute concerned.
    pub fn attribute_type(&self) -> AttributeType {
        match self {
            Self::Missing(kind) | Self::Length(kind) | Self::Value(kind) => *kind,
        }
    }
}

/// Defines an attribute whose value is one big-endian integer.
macro_rules! integer_attribute {
    ($(#[$doc:meta])* $name:ident($integer:ty) = $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $integer);

        impl<'a> $crate::Attribute<'a> for $name {
            const TYPE: $crate::AttributeType = $crate::AttributeType::$kind;

            fn parse(
                value: &'a [u8],
                _: $crate::TransactionId,
            ) -> Result<Self, $crate::AttributeError> {
                let value = value
                    .try_into()
                    .map_err(|_| $crate::AttributeError::Length(Self::TYPE))?;
                Ok(Self(<$integer>::from_be_bytes(value)))
            }
        }

        impl $crate::WriteAttribute for $name {
            fn attribute_type(&self) -> $crate::AttributeType {
                <Self as $crate::Attribute<'_>>::TYPE
            }

            fn write_value(&self, _: $crate::TransactionId, buffer: &mut Vec<u8>) {
                buffer.extend_from_slice(&self.0.to_be_bytes());
            }
        }
    };
}

/// Defines an attribute without a value: its presence says it all.
macro_rules! flag_attribute {
    ($(#[$doc:meta])* $name:ident = $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name;

        impl<'a> $crate::Attribute<'a> for $name {
            const TYPE: $crate::AttributeType = $crate::AttributeType::$kind;

            fn parse(
                value: &'a [u8],
                _: $crate::TransactionId,
            ) -> Result<Self, $crate::AttributeError> {
                if !value.is_empty() {
                    return Err($crate::AttributeError::Length(Self::TYPE));
                }
                Ok(Self)
            }
        }

        impl $crate::WriteAttribute for $name {
            fn attribute_type(&self) -> $crate::AttributeType {
                <Self as $crate::Attribute<'_>>::TYPE
            }

            fn write_value(&self, _: $crate::TransactionId, _: &mut Vec<u8>) {}
        }
    };
}

/// Defines an attribute whose value is text of a bounded length: the longest to be written, in bytes
/// and in characters, and the longest to be read, in bytes.
macro_rules! text_attribute {
    ($(#[$doc:meta])* $name:ident = $kind:ident, $bytes_max:expr, $chars_max:expr, $read_max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name<'a>(&'a str);

        impl<'a> $name<'a> {
            #[doc = concat!("Longest text to be written, in bytes: ", stringify!($bytes_max), ".")]
            pub const BYTES_MAX: usize = $bytes_max;
            #[doc = concat!("Longest text to be written, in characters: ", stringify!($chars_max), ".")]
            pub const CHARS_MAX: usize = $chars_max;
            #[doc = concat!("Longest text that is read, in bytes: ", stringify!($read_max), ".")]
            pub const READ_BYTES_MAX: usize = $read_max;

            /// Wraps the text.
            ///
            /// # Errors
            /// It is longer than [`Self::BYTES_MAX`] or [`Self::CHARS_MAX`].
            pub const fn new(text: &'a str) -> Result<Self, $crate::AttributeError> {
                let chars = $crate::attribute::chars_in(text);
                if text.len() > Self::BYTES_MAX || chars > Self::CHARS_MAX {
                    return Err($crate::AttributeError::Length($crate::AttributeType::$kind));
                }
                Ok(Self(text))
            }

            /// Returns the text.
            pub const fn as_str(&self) -> &'a str {
                self.0
            }
        }

        impl<'a> $crate::Attribute<'a> for $name<'a> {
            const TYPE: $crate::AttributeType = $crate::AttributeType::$kind;

            fn parse(
                value: &'a [u8],
                _: $crate::TransactionId,
            ) -> Result<Self, $crate::AttributeError> {
                if value.len() > Self::READ_BYTES_MAX {
                    return Err($crate::AttributeError::Length(Self::TYPE));
                }
                let text = std::str::from_utf8(value)
                    .map_err(|_| $crate::AttributeError::Value(Self::TYPE))?;
                Ok(Self(text))
            }
        }

        impl $crate::WriteAttribute for $name<'_> {
            fn attribute_type(&self) -> $crate::AttributeType {
                <Self as $crate::Attribute<'_>>::TYPE
            }

            fn write_value(&self, _: $crate::TransactionId, buffer: &mut Vec<u8>) {
                buffer.extend_from_slice(self.0.as_bytes());
            }
        }
    };
}

/// Counts the characters of a text, each of which has one byte that does not continue another.
pub(crate) const fn chars_in(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut chars, mut index) = (0, 0);
    while index < bytes.len() {
        chars += (bytes[index] & 0xc0 != 0x80) as usize;
        index += 1;
    }
    chars
}

pub(crate) use {flag_attribute, integer_attribute, text_attribute};
