use super::chars_in;
use super::turn::AddressFamily;
use crate::{Attribute, AttributeError, AttributeType, TransactionId, WriteAttribute};

/// ERROR-CODE: why a request was refused. See RFC 8489 §14.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode<'a> {
    code: u16,
    reason: &'a str,
}

impl<'a> ErrorCode<'a> {
    /// 300: try the alternate server.
    pub const TRY_ALTERNATE: u16 = 300;
    /// 400: the request is malformed.
    pub const BAD_REQUEST: u16 = 400;
    /// 401: credentials are missing or wrong.
    pub const UNAUTHENTICATED: u16 = 401;
    /// 403: understood, and not allowed.
    pub const FORBIDDEN: u16 = 403;
    /// 405: the server does not let allocations move. See RFC 8016 §3.4.
    pub const MOBILITY_FORBIDDEN: u16 = 405;
    /// 420: a comprehension-required attribute is unknown.
    pub const UNKNOWN_ATTRIBUTE: u16 = 420;
    /// 437: the allocation does not exist, or already exists.
    pub const ALLOCATION_MISMATCH: u16 = 437;
    /// 438: the nonce is no longer valid.
    pub const STALE_NONCE: u16 = 438;
    /// 440: the server does not support the address family.
    pub const ADDRESS_FAMILY_NOT_SUPPORTED: u16 = 440;
    /// 441: not the credentials that made the allocation.
    pub const WRONG_CREDENTIALS: u16 = 441;
    /// 442: the server does not support the transport towards the peer.
    pub const UNSUPPORTED_TRANSPORT_PROTOCOL: u16 = 442;
    /// 443: the peer's family is not that of the relayed address.
    pub const PEER_ADDRESS_FAMILY_MISMATCH: u16 = 443;
    /// 446: there is a connection to this peer already. See RFC 6062 §6.3.
    pub const CONNECTION_ALREADY_EXISTS: u16 = 446;
    /// 447: the peer cannot be connected to. See RFC 6062 §6.3.
    pub const CONNECTION_TIMEOUT_OR_FAILURE: u16 = 447;
    /// 486: the user has as many allocations as allowed.
    pub const ALLOCATION_QUOTA_REACHED: u16 = 486;
    /// 487: both ICE agents have the same role. See RFC 8445 §7.3.1.1.
    pub const ROLE_CONFLICT: u16 = 487;
    /// 500: the server has a temporary error.
    pub const SERVER_ERROR: u16 = 500;
    /// 508: the server has no ports or no room left.
    pub const INSUFFICIENT_CAPACITY: u16 = 508;

    /// Longest reason to be written, in characters.
    pub const REASON_CHARS_MAX: usize = 127;
    /// Longest reason that is read, in bytes.
    pub const REASON_READ_BYTES_MAX: usize = 763;

    /// Makes an error code with a reason for people, which may be empty.
    ///
    /// # Errors
    /// The code is outside 300 to 699, or the reason longer than
    /// [`Self::REASON_CHARS_MAX`].
    pub const fn new(code: u16, reason: &'a str) -> Result<Self, AttributeError> {
        if code < 300 || code > 699 {
            return Err(AttributeError::Value(AttributeType::ERROR_CODE));
        }
        if chars_in(reason) > Self::REASON_CHARS_MAX {
            return Err(AttributeError::Length(AttributeType::ERROR_CODE));
        }
        Ok(Self { code, reason })
    }

    /// Returns the code, 300 to 699.
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// Returns the reason, for people.
    pub const fn reason(&self) -> &'a str {
        self.reason
    }

    /// Reads what stands behind the first two bytes: class, number, reason.
    fn parse_tail(kind: AttributeType, tail: &'a [u8]) -> Result<Self, AttributeError> {
        let [class, number, reason @ ..] = tail else {
            return Err(AttributeError::Length(kind));
        };
        if reason.len() > Self::REASON_READ_BYTES_MAX {
            return Err(AttributeError::Length(kind));
        }
        let class = class & 0x07;
        if !(3..=6).contains(&class) || *number > 99 {
            return Err(AttributeError::Value(kind));
        }
        let reason = std::str::from_utf8(reason).map_err(|_| AttributeError::Value(kind))?;
        Ok(Self {
            code: u16::from(class) * 100 + u16::from(*number),
            reason,
        })
    }

    fn write_tail(&self, buffer: &mut Vec<u8>) {
        let [class, number] = [self.code / 100, self.code % 100].map(|part| part as u8);
        buffer.extend_from_slice(&[class, number]);
        buffer.extend_from_slice(self.reason.as_bytes());
    }
}

impl<'a> Attribute<'a> for ErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ERROR_CODE;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [_, _, tail @ ..] = value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        Self::parse_tail(Self::TYPE, tail)
    }
}

impl WriteAttribute for ErrorCode<'_> {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&[0, 0]);
        self.write_tail(buffer);
    }
}

/// ADDRESS-ERROR-CODE: why one of two requested families got no address. See RFC 8656 §18.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressErrorCode<'a> {
    /// The family that got none.
    pub family: AddressFamily,
    /// Why.
    pub error: ErrorCode<'a>,
}

impl<'a> Attribute<'a> for AddressErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ADDRESS_ERROR_CODE;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [family, _, tail @ ..] = value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        let family = AddressFamily::from_byte(*family).ok_or(AttributeError::Value(Self::TYPE))?;
        Ok(Self {
            family,
            error: ErrorCode::parse_tail(Self::TYPE, tail)?,
        })
    }
}

impl WriteAttribute for AddressErrorCode<'_> {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&[self.family.to_byte(), 0]);
        self.error.write_tail(buffer);
    }
}

/// UNKNOWN-ATTRIBUTES: the types that made a server answer 420. See RFC 8489 §14.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnknownAttributes<'a>(Types<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Types<'a> {
    Wire(&'a [u8]),
    Local(&'a [AttributeType]),
}

impl<'a> UnknownAttributes<'a> {
    /// Lists `types`; there must not be more than 32,767.
    pub fn new(types: &'a [AttributeType]) -> Self {
        Self(Types::Local(types))
    }

    /// Iterates over the types.
    pub fn types(&self) -> impl Iterator<Item = AttributeType> + 'a {
        let (wire, local): (&'a [u8], &'a [AttributeType]) = match self.0 {
            Types::Wire(bytes) => (bytes, &[]),
            Types::Local(types) => (&[], types),
        };
        let (pairs, _) = wire.as_chunks();
        let from_wire = pairs
            .iter()
            .map(|pair| AttributeType(u16::from_be_bytes(*pair)));
        from_wire.chain(local.iter().copied())
    }
}

impl<'a> Attribute<'a> for UnknownAttributes<'a> {
    const TYPE: AttributeType = AttributeType::UNKNOWN_ATTRIBUTES;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        if !value.len().is_multiple_of(2) {
            return Err(AttributeError::Length(Self::TYPE));
        }
        Ok(Self(Types::Wire(value)))
    }
}

impl WriteAttribute for UnknownAttributes<'_> {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        self.types()
            .for_each(|kind| buffer.extend_from_slice(&kind.0.to_be_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: TransactionId = TransactionId([0; 12]);

    #[test]
    fn codes_outside_300_to_699_are_refused() {
        for value in [[0, 0, 2, 99], [0, 0, 7, 0], [0, 0, 4, 100]] {
            assert!(
                ErrorCode::parse(&value, TRANSACTION).is_err(),
                "{value:?} was accepted"
            );
        }
        assert!(ErrorCode::new(299, "").is_err());
        assert!(ErrorCode::new(700, "").is_err());
    }

    #[test]
    fn reserved_bits_of_the_class_are_ignored() {
        let parsed = ErrorCode::parse(&[0xff, 0xff, 0xfc, 38], TRANSACTION).expect("is 438");
        assert_eq!(parsed.code(), 438);
    }

    #[test]
    fn a_reason_that_is_too_long_or_no_text_is_refused() {
        let mut value = vec![0, 0, 4, 0];
        value.resize(4 + 764, b'x');
        assert!(ErrorCode::parse(&value, TRANSACTION).is_err());
        assert!(ErrorCode::parse(&[0, 0, 4, 0, 0xff], TRANSACTION).is_err());
    }
}
