use std::fmt;

use thiserror::Error;

use crate::{Attribute, AttributeError, AttributeType, TransactionId, WriteAttribute};

/// Length of the header in front of a ChannelData payload, in bytes. See RFC 8656 §12.4.
pub const CHANNEL_HEADER_BYTES: usize = 4;

/// Number of a channel, 0x4000 to 0x7ffe; also the CHANNEL-NUMBER attribute.
///
/// RFC 8656 §12 narrows the range to 0x4fff, and a client of today stays within it; clients of
/// RFC 5766 §11 use all of it. The first two bits of a packet tell it from STUN either way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The lowest channel number.
    pub const MIN: Self = Self(0x4000);
    /// The highest channel number.
    pub const MAX: Self = Self(0x7ffe);

    /// Makes a channel number; `None` outside 0x4000 to 0x7ffe.
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::MIN.0 || number > Self::MAX.0 {
            None
        } else {
            Some(Self(number))
        }
    }

    /// Returns the number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns the four bytes that go in front of `len` bytes of payload. Over TCP and TLS the
    /// payload is followed by zero bytes up to a multiple of four, which `len` does not count.
    ///
    /// `None` where `len` is more than the header can say (65,535).
    pub const fn header(self, len: usize) -> Option<[u8; CHANNEL_HEADER_BYTES]> {
        if len > 0xffff {
            return None;
        }
        let [a, b] = self.0.to_be_bytes();
        let [c, d] = (len as u16).to_be_bytes();
        Some([a, b, c, d])
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

impl<'a> Attribute<'a> for ChannelNumber {
    const TYPE: AttributeType = AttributeType::CHANNEL_NUMBER;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [a, b, _, _] = value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        Self::new(u16::from_be_bytes([*a, *b])).ok_or(AttributeError::Value(Self::TYPE))
    }
}

impl WriteAttribute for ChannelNumber {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.0.to_be_bytes());
        buffer.extend_from_slice(&[0, 0]);
    }
}

/// A payload on a channel; a view into the datagram that carried it. See RFC 8656 §12.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel it is on.
    pub number: ChannelNumber,
    /// The payload, without padding.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Decodes a datagram. Up to three bytes of padding may follow the payload.
    ///
    /// # Errors
    /// The header is incomplete, the number out of range, or the length not that of the datagram.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ChannelDataError> {
        let Some(([a, b, c, d], rest)) = bytes.split_first_chunk() else {
            return Err(ChannelDataError::TooShort);
        };
        let number = ChannelNumber::new(u16::from_be_bytes([*a, *b]))
            .ok_or(ChannelDataError::NumberOutOfRange)?;
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let (Some(data), Some(padding)) = (rest.get(..length), rest.get(length..)) else {
            return Err(ChannelDataError::LengthMismatch);
        };
        if padding.len() > 3 {
            return Err(ChannelDataError::LengthMismatch);
        }
        Ok(Self { number, data })
    }
}

/// Why bytes are not ChannelData.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ChannelDataError {
    /// Fewer bytes than the header has.
    #[error("shorter than a channel data header")]
    TooShort,
    /// The channel number is outside 0x4000 to 0x7ffe.
    #[error("channel number out of range")]
    NumberOutOfRange,
    /// The length in the header is not that of the datagram.
    #[error("length differs from that of the datagram")]
    LengthMismatch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_comes_back_out_with_and_without_padding() {
        let mut bytes = ChannelNumber::MIN.header(5).expect("short").to_vec();
        bytes.extend_from_slice(b"hello");
        for _ in 0..4 {
            let decoded = ChannelData::decode(&bytes).expect("well formed");
            assert_eq!(
                decoded,
                ChannelData {
                    number: ChannelNumber::MIN,
                    data: b"hello"
                }
            );
            bytes.push(0);
        }
        assert_eq!(
            ChannelData::decode(&bytes),
            Err(ChannelDataError::LengthMismatch)
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = [0x40, 0x00, 0x00, 0x04, 1, 2, 3, 4];
        for end in 0..bytes.len() {
            assert!(
                ChannelData::decode(&bytes[..end]).is_err(),
                "{end} bytes were accepted"
            );
        }
    }

    #[test]
    fn reserved_numbers_are_refused() {
        assert_eq!(ChannelNumber::new(0x3fff), None);
        assert_eq!(ChannelNumber::new(0x7fff), None);
        let error = ChannelData::decode(&[0x7f, 0xff, 0, 0]).expect_err("reserved");
        assert_eq!(error, ChannelDataError::NumberOutOfRange);
    }

    #[test]
    fn numbers_that_only_rfc_5766_has_are_accepted() {
        let decoded = ChannelData::decode(&[0x50, 0, 0, 1, 7]).expect("is in the range");
        assert_eq!(decoded.number.number(), 0x5000);
        assert_eq!(decoded.data, [7]);
    }

    #[test]
    fn header_refuses_what_it_cannot_say() {
        assert_eq!(
            ChannelNumber::MAX.header(65_535),
            Some([0x7f, 0xfe, 0xff, 0xff])
        );
        assert_eq!(ChannelNumber::MAX.header(65_536), None);
    }
}
