use super::integer_attribute;
use crate::{Attribute, AttributeError, AttributeType, TransactionId, WriteAttribute};

/// CHANGE-REQUEST: the response shall come from elsewhere. See RFC 5780 §7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ChangeRequest {
    /// Answer from the other IP address.
    pub ip: bool,
    /// Answer from the other port.
    pub port: bool,
}

impl<'a> Attribute<'a> for ChangeRequest {
    const TYPE: AttributeType = AttributeType::CHANGE_REQUEST;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [_, _, _, flags] = value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        Ok(Self {
            ip: flags & CHANGE_IP != 0,
            port: flags & CHANGE_PORT != 0,
        })
    }
}

impl WriteAttribute for ChangeRequest {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        let ip = if self.ip { CHANGE_IP } else { 0 };
        let port = if self.port { CHANGE_PORT } else { 0 };
        buffer.extend_from_slice(&[0, 0, 0, ip | port]);
    }
}

/// PADDING: bytes without meaning that make a message long. See RFC 5780 §7.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Padding(u16);

impl Padding {
    /// Makes a padding of `bytes` zero bytes, rounded up to a multiple of four.
    pub const fn new(bytes: u16) -> Self {
        Self(if bytes > 0xfffc {
            0xfffc
        } else {
            bytes.next_multiple_of(4)
        })
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u16 {
        self.0
    }
}

impl<'a> Attribute<'a> for Padding {
    const TYPE: AttributeType = AttributeType::PADDING;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let bytes = u16::try_from(value.len()).map_err(|_| AttributeError::Length(Self::TYPE))?;
        if !bytes.is_multiple_of(4) {
            return Err(AttributeError::Length(Self::TYPE));
        }
        Ok(Self(bytes))
    }
}

impl WriteAttribute for Padding {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.resize(buffer.len() + usize::from(self.0), 0);
    }
}

/// RESPONSE-PORT: the port to which the response shall go. See RFC 5780 §7.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResponsePort(pub u16);

impl<'a> Attribute<'a> for ResponsePort {
    const TYPE: AttributeType = AttributeType::RESPONSE_PORT;

    /// Two more bytes after the port are tolerated: an erratum makes them part of the value.
    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        match value {
            [a, b] | [a, b, _, _] => Ok(Self(u16::from_be_bytes([*a, *b]))),
            _ => Err(AttributeError::Length(Self::TYPE)),
        }
    }
}

impl WriteAttribute for ResponsePort {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.0.to_be_bytes());
    }
}

integer_attribute! {
    /// CACHE-TIMEOUT: how long a transaction may be answered from memory, in seconds.
    /// See RFC 5780 §9.1.
    CacheTimeout(u32) = CACHE_TIMEOUT
}

const CHANGE_IP: u8 = 0x04;
const CHANGE_PORT: u8 = 0x02;
