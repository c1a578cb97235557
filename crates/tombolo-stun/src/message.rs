use std::fmt;
use std::ops::Range;

use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::integrity::{fingerprint_of, hmac_sha1, hmac_sha256, signed_header};
use crate::{
    Attribute, AttributeError, AttributeType, FingerprintError, IntegrityError, Key, RawAttribute,
};

/// Length of the fixed STUN header in bytes. See RFC 8489 §5.
pub const HEADER_BYTES: usize = 20;

/// Bytes 4 to 8 of every STUN message. See RFC 8489 §5.
pub const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// A STUN message whose structure has been checked; a view into the datagram that carried it.
///
/// Checked are the header, the length, and that every attribute with its padding lies inside.
/// Values of attributes are checked when they are asked for.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    integrity: Option<Span>,
    integrity_sha256: Option<Span>,
    fingerprint: Option<Span>,
}

impl<'a> Message<'a> {
    /// Decodes one whole message. `bytes` is exactly the message, as a datagram carries it.
    ///
    /// # Errors
    /// Says which rule of RFC 8489 §5, §6 or §14 the bytes break.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::TooShort);
        };
        let [first, _, c, d, cookie @ ..] = header;
        if first & 0xc0 != 0 {
            return Err(DecodeError::NotStun);
        }
        if !cookie.starts_with(&MAGIC_COOKIE) {
            return Err(DecodeError::NoMagicCookie);
        }
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        if !length.is_multiple_of(4) {
            return Err(DecodeError::UnalignedLength);
        }
        if bytes.len() != HEADER_BYTES + length {
            return Err(DecodeError::LengthMismatch);
        }
        let mut message = Self {
            bytes,
            integrity: None,
            integrity_sha256: None,
            fingerprint: None,
        };
        message.scan()?;
        Ok(message)
    }

    /// Returns the class of the message. See RFC 8489 §5.
    pub fn class(&self) -> Class {
        let [a, b] = self.header();
        match (a & 0x01, b & 0x10) {
            (0, 0) => Class::Request,
            (0, _) => Class::Indication,
            (_, 0) => Class::Success,
            (_, _) => Class::Error,
        }
    }

    /// Returns the method of the message. See RFC 8489 §5.
    pub fn method(&self) -> Method {
        let kind = u16::from_be_bytes(self.header());
        Method((kind & 0x000f) | ((kind & 0x00e0) >> 1) | ((kind & 0x3e00) >> 2))
    }

    /// Returns the identifier that ties a response to its request.
    pub fn transaction_id(&self) -> TransactionId {
        let mut id = [0; 12];
        if let Some(bytes) = self.bytes.get(8..HEADER_BYTES) {
            id.copy_from_slice(bytes);
        }
        TransactionId(id)
    }

    /// Returns the bytes of the whole message.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Iterates over the attributes that count, in wire order.
    ///
    /// Whatever follows MESSAGE-INTEGRITY is skipped, except MESSAGE-INTEGRITY-SHA256 and
    /// FINGERPRINT; after MESSAGE-INTEGRITY-SHA256 only FINGERPRINT counts. See RFC 8489 §14.5
    /// and §14.6.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes {
            rest: self.bytes.get(HEADER_BYTES..).unwrap_or(&[]),
            seal: Seal::Open,
        }
    }

    /// Returns the first attribute of type `A`, or `None` where there is none.
    ///
    /// # Errors
    /// The attribute is there, but its value breaks a rule of its definition.
    pub fn attribute<A: Attribute<'a>>(&self) -> Result<Option<A>, AttributeError> {
        self.all::<A>().next().transpose()
    }

    /// Returns the first attribute of type `A`.
    ///
    /// # Errors
    /// The attribute is missing, or its value breaks a rule of its definition.
    pub fn required<A: Attribute<'a>>(&self) -> Result<A, AttributeError> {
        self.attribute::<A>()?
            .ok_or(AttributeError::Missing(A::TYPE))
    }

    /// Iterates over every attribute of type `A`, for the few that may repeat.
    pub fn all<A: Attribute<'a>>(&self) -> impl Iterator<Item = Result<A, AttributeError>> + 'a {
        let transaction = self.transaction_id();
        self.attributes()
            .filter(|attribute| attribute.kind == A::TYPE)
            .map(move |attribute| A::parse(attribute.value, transaction))
    }

    /// Tells whether an attribute of this type counts in the message.
    pub fn has(&self, kind: AttributeType) -> bool {
        self.attributes().any(|attribute| attribute.kind == kind)
    }

    /// Returns where in [`Self::as_bytes`] the first attribute of this type has its value.
    pub fn value_range(&self, kind: AttributeType) -> Option<Range<usize>> {
        let mut attributes = self.attributes();
        let found = attributes.find(|attribute| attribute.kind == kind)?;
        let end = self.bytes.len() - attributes.rest.len();
        let start = end - found.value.len().next_multiple_of(4);
        Some(start..start + found.value.len())
    }

    /// Iterates over the comprehension-required attribute types that `known` does not list.
    ///
    /// The two integrity attributes are always known. See RFC 8489 §6.3.1.
    pub fn unknown_required<'k>(
        &self,
        known: &'k [AttributeType],
    ) -> impl Iterator<Item = AttributeType> + use<'a, 'k> {
        self.attributes()
            .map(|attribute| attribute.kind)
            .filter(move |kind| {
                kind.is_comprehension_required()
                    && *kind != AttributeType::MESSAGE_INTEGRITY
                    && *kind != AttributeType::MESSAGE_INTEGRITY_SHA256
                    && !known.contains(kind)
            })
    }

    /// Checks the FINGERPRINT attribute. See RFC 8489 §14.7.
    ///
    /// # Errors
    /// There is none, or it does not match.
    pub fn check_fingerprint(&self) -> Result<(), FingerprintError> {
        let span = self.fingerprint.ok_or(FingerprintError::Missing)?;
        let (Some(before), Some(value)) =
            (self.bytes.get(..span.start), self.bytes.get(span.value()))
        else {
            return Err(FingerprintError::Mismatch);
        };
        if fingerprint_of(before) != value {
            return Err(FingerprintError::Mismatch);
        }
        Ok(())
    }

    /// Checks the integrity of the message, by MESSAGE-INTEGRITY-SHA256 where it is present, else
    /// by MESSAGE-INTEGRITY. Truncated values are refused. See RFC 8489 §14.5 and §14.6.
    ///
    /// # Errors
    /// There is neither attribute, its length is not allowed, or it does not match.
    pub fn check_integrity(&self, key: &Key) -> Result<(), IntegrityError> {
        self.check_integrity_truncated(key, 32)
    }

    /// Like [`Self::check_integrity`], for usages that allow a MESSAGE-INTEGRITY-SHA256 truncated
    /// to at least `bytes_min` bytes; less than 16 is never accepted. See RFC 8489 §14.6.
    ///
    /// # Errors
    /// There is neither attribute, its length is not allowed, or it does not match.
    pub fn check_integrity_truncated(
        &self,
        key: &Key,
        bytes_min: usize,
    ) -> Result<(), IntegrityError> {
        let (span, is_sha256) = match (self.integrity_sha256, self.integrity) {
            (Some(span), _) => (span, true),
            (None, Some(span)) => (span, false),
            (None, None) => return Err(IntegrityError::Missing),
        };
        let (Some(value), Some(covered)) =
            (self.bytes.get(span.value()), self.bytes.get(..span.start))
        else {
            return Err(IntegrityError::Length);
        };
        let (header, body) = signed_header(covered, value.len());
        let is_equal = if is_sha256 {
            let allowed = bytes_min.clamp(16, 32)..=32;
            if !allowed.contains(&value.len()) || !value.len().is_multiple_of(4) {
                return Err(IntegrityError::Length);
            }
            let expected = hmac_sha256(key, &[&header, body]);
            expected
                .get(..value.len())
                .is_some_and(|head| head.ct_eq(value).into())
        } else {
            if value.len() != 20 {
                return Err(IntegrityError::Length);
            }
            hmac_sha1(key, &[&header, body]).ct_eq(value).into()
        };
        if !is_equal {
            return Err(IntegrityError::Mismatch);
        }
        Ok(())
    }

    /// Tells whether the message carries MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
    pub fn has_integrity(&self) -> bool {
        self.integrity.is_some() || self.integrity_sha256.is_some()
    }

    /// Tells whether the message carries MESSAGE-INTEGRITY-SHA256.
    pub fn has_integrity_sha256(&self) -> bool {
        self.integrity_sha256.is_some()
    }

    fn header(&self) -> [u8; 2] {
        match self.bytes {
            [a, b, ..] => [*a, *b],
            _ => [0, 0],
        }
    }

    /// Walks over all attributes once: each must lie inside, FINGERPRINT must be the last.
    fn scan(&mut self) -> Result<(), DecodeError> {
        let mut start = HEADER_BYTES;
        while start < self.bytes.len() {
            if self.fingerprint.is_some() {
                return Err(DecodeError::AfterFingerprint);
            }
            let Some([a, b, c, d]) = self.bytes.get(start..).and_then(<[u8]>::first_chunk) else {
                return Err(DecodeError::AttributeTruncated);
            };
            let kind = AttributeType(u16::from_be_bytes([*a, *b]));
            let span = Span {
                start,
                length: usize::from(u16::from_be_bytes([*c, *d])),
            };
            if span.end() > self.bytes.len() {
                return Err(DecodeError::AttributeTruncated);
            }
            self.note(kind, span)?;
            start = span.end();
        }
        Ok(())
    }

    /// Remembers where the attributes are that protect the message.
    fn note(&mut self, kind: AttributeType, span: Span) -> Result<(), DecodeError> {
        let is_sealed = self.integrity_sha256.is_some();
        match kind {
            AttributeType::FINGERPRINT if span.length != 4 => {
                return Err(DecodeError::FingerprintLength);
            }
            AttributeType::FINGERPRINT => self.fingerprint = Some(span),
            AttributeType::MESSAGE_INTEGRITY if !is_sealed && self.integrity.is_none() => {
                self.integrity = Some(span);
            }
            AttributeType::MESSAGE_INTEGRITY_SHA256 if !is_sealed => {
                self.integrity_sha256 = Some(span);
            }
            _ => {}
        }
        Ok(())
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("class", &self.class())
            .field("method", &self.method())
            .field("transaction_id", &self.transaction_id())
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Iterator over the attributes of a message that count; made by [`Message::attributes`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
    seal: Seal,
}

impl<'a> Attributes<'a> {
    fn next_raw(&mut self) -> Option<RawAttribute<'a>> {
        let ([a, b, c, d], rest) = self.rest.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let value = rest.get(..length)?;
        self.rest = rest.get(length.next_multiple_of(4)..)?;
        Some(RawAttribute {
            kind: AttributeType(u16::from_be_bytes([*a, *b])),
            value,
        })
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = RawAttribute<'a>;

    fn next(&mut self) -> Option<RawAttribute<'a>> {
        loop {
            let attribute = self.next_raw()?;
            let (counts, seal) = self.seal.admit(attribute.kind);
            self.seal = seal;
            if counts {
                return Some(attribute);
            }
        }
    }
}

/// Class of a message. See RFC 8489 §5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Asks for a response.
    Request,
    /// Asks for none.
    Indication,
    /// The request was done.
    Success,
    /// The request was refused; ERROR-CODE says why.
    Error,
}

impl Class {
    fn bits(self) -> u16 {
        match self {
            Self::Request => 0x0000,
            Self::Indication => 0x0010,
            Self::Success => 0x0100,
            Self::Error => 0x0110,
        }
    }
}

/// Method of a message, 12 bits. See RFC 8489 §5 and RFC 8656 §17.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Method(u16);

impl Method {
    /// Binding. See RFC 8489 §3.
    pub const BINDING: Self = Self(0x001);
    /// Allocate. See RFC 8656 §7.
    pub const ALLOCATE: Self = Self(0x003);
    /// Refresh. See RFC 8656 §8.
    pub const REFRESH: Self = Self(0x004);
    /// Send, only as an indication. See RFC 8656 §11.
    pub const SEND: Self = Self(0x006);
    /// Data, only as an indication. See RFC 8656 §11.
    pub const DATA: Self = Self(0x007);
    /// CreatePermission. See RFC 8656 §10.
    pub const CREATE_PERMISSION: Self = Self(0x008);
    /// ChannelBind. See RFC 8656 §12.
    pub const CHANNEL_BIND: Self = Self(0x009);

    /// Connect. See RFC 6062 §4.3.
    pub const CONNECT: Self = Self(0x00a);
    /// ConnectionBind. See RFC 6062 §4.3.
    pub const CONNECTION_BIND: Self = Self(0x00b);
    /// ConnectionAttempt, only as an indication. See RFC 6062 §4.4.
    pub const CONNECTION_ATTEMPT: Self = Self(0x00c);

    /// Makes a method from its number; `None` where it needs more than 12 bits.
    pub const fn new(number: u16) -> Option<Self> {
        if number > 0x0fff {
            None
        } else {
            Some(Self(number))
        }
    }

    /// Returns the method's number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns the first two bytes of a message of this method and class.
    pub(crate) fn with_class(self, class: Class) -> [u8; 2] {
        let Self(m) = self;
        let spread = (m & 0x000f) | ((m & 0x0070) << 1) | ((m & 0x0f80) << 2);
        (spread | class.bits()).to_be_bytes()
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::BINDING => "Binding",
            Self::ALLOCATE => "Allocate",
            Self::REFRESH => "Refresh",
            Self::SEND => "Send",
            Self::DATA => "Data",
            Self::CREATE_PERMISSION => "CreatePermission",
            Self::CHANNEL_BIND => "ChannelBind",
            Self::CONNECT => "Connect",
            Self::CONNECTION_BIND => "ConnectionBind",
            Self::CONNECTION_ATTEMPT => "ConnectionAttempt",
            Self(number) => return write!(f, "Method({number:#05x})"),
        };
        f.write_str(name)
    }
}

/// Identifier of a transaction: 96 random bits. See RFC 8489 §5.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why bytes are not a STUN message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than a header has.
    #[error("shorter than a STUN header")]
    TooShort,
    /// One of the first two bits is set.
    #[error("the first two bits are not zero")]
    NotStun,
    /// The magic cookie is not in its place.
    #[error("no magic cookie")]
    NoMagicCookie,
    /// The length in the header is not a multiple of four.
    #[error("length is not a multiple of four")]
    UnalignedLength,
    /// The length in the header is not that of the datagram.
    #[error("length differs from that of the datagram")]
    LengthMismatch,
    /// An attribute reaches beyond the end of the message.
    #[error("attribute reaches beyond the message")]
    AttributeTruncated,
    /// FINGERPRINT is not four bytes long.
    #[error("fingerprint is not four bytes long")]
    FingerprintLength,
    /// An attribute follows FINGERPRINT, which must be the last.
    #[error("attribute after the fingerprint")]
    AfterFingerprint,
}

/// What has been seen so far of the attributes after which others are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seal {
    Open,
    Integrity,
    IntegritySha256,
}

impl Seal {
    /// Tells whether an attribute counts in this state, and the state after it.
    fn admit(self, kind: AttributeType) -> (bool, Self) {
        let after = match kind {
            AttributeType::MESSAGE_INTEGRITY if self == Self::Open => Self::Integrity,
            AttributeType::MESSAGE_INTEGRITY_SHA256 if self != Self::IntegritySha256 => {
                Self::IntegritySha256
            }
            AttributeType::FINGERPRINT => return (true, self),
            _ => return (self == Self::Open, self),
        };
        (true, after)
    }
}

/// Place of one attribute inside a message.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Offset of the attribute's header.
    start: usize,
    /// Length of the value, without padding.
    length: usize,
}

impl Span {
    fn value(self) -> Range<usize> {
        self.start + 4..self.start + 4 + self.length
    }

    fn end(self) -> usize {
        self.start + 4 + self.length.next_multiple_of(4)
    }
}
