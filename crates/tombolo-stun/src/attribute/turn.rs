use std::fmt;
use std::net::IpAddr;

use super::address::{FAMILY_V4, FAMILY_V6};
use super::{flag_attribute, integer_attribute};
use crate::{Attribute, AttributeError, AttributeType, TransactionId, WriteAttribute};

/// Address family, as TURN writes it. See RFC 8656 §18.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressFamily {
    /// IPv4, 0x01.
    V4,
    /// IPv6, 0x02.
    V6,
}

impl AddressFamily {
    /// Returns the family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            FAMILY_V4 => Some(Self::V4),
            FAMILY_V6 => Some(Self::V6),
            _ => None,
        }
    }

    pub(crate) const fn to_byte(self) -> u8 {
        match self {
            Self::V4 => FAMILY_V4,
            Self::V6 => FAMILY_V6,
        }
    }
}

macro_rules! family_attribute {
    ($(#[$doc:meta])* $name:ident = $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub AddressFamily);

        impl<'a> Attribute<'a> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
                let [family, _, _, _] = value else {
                    return Err(AttributeError::Length(Self::TYPE));
                };
                let family = AddressFamily::from_byte(*family);
                family.map(Self).ok_or(AttributeError::Value(Self::TYPE))
            }
        }

        impl WriteAttribute for $name {
            fn attribute_type(&self) -> AttributeType {
                <Self as Attribute<'_>>::TYPE
            }

            fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
                buffer.extend_from_slice(&[self.0.to_byte(), 0, 0, 0]);
            }
        }
    };
}

family_attribute! {
    /// REQUESTED-ADDRESS-FAMILY: of the relayed address. See RFC 8656 §18.6.
    RequestedAddressFamily = REQUESTED_ADDRESS_FAMILY
}
family_attribute! {
    /// ADDITIONAL-ADDRESS-FAMILY: of a second relayed address. See RFC 8656 §18.11.
    AdditionalAddressFamily = ADDITIONAL_ADDRESS_FAMILY
}

integer_attribute! {
    /// LIFETIME of an allocation, in seconds. See RFC 8656 §18.2.
    Lifetime(u32) = LIFETIME
}

flag_attribute! {
    /// DONT-FRAGMENT: set the DF bit towards the peer. See RFC 8656 §18.9.
    DontFragment = DONT_FRAGMENT
}

/// DATA: a payload to or from a peer. See RFC 8656 §18.4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Attribute<'a> for Data<'a> {
    const TYPE: AttributeType = AttributeType::DATA;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        Ok(Self(value))
    }
}

impl WriteAttribute for Data<'_> {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.0);
    }
}

impl fmt::Debug for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.0.len())
    }
}

/// REQUESTED-TRANSPORT: the protocol between server and peer, by its IP protocol number.
/// See RFC 8656 §18.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestedTransport(pub u8);

impl RequestedTransport {
    /// UDP, the one protocol of RFC 8656.
    pub const UDP: Self = Self(17);
    /// TCP, which RFC 6062 adds.
    pub const TCP: Self = Self(6);
}

impl<'a> Attribute<'a> for RequestedTransport {
    const TYPE: AttributeType = AttributeType::REQUESTED_TRANSPORT;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [protocol, _, _, _] = value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        Ok(Self(*protocol))
    }
}

impl WriteAttribute for RequestedTransport {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&[self.0, 0, 0, 0]);
    }
}

/// EVEN-PORT: the relayed port shall be even. See RFC 8656 §18.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EvenPort {
    /// Also reserve the next higher port.
    pub reserve_next: bool,
}

impl<'a> Attribute<'a> for EvenPort {
    const TYPE: AttributeType = AttributeType::EVEN_PORT;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [flags] = value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        Ok(Self {
            reserve_next: flags & 0x80 != 0,
        })
    }
}

impl WriteAttribute for EvenPort {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.push(if self.reserve_next { 0x80 } else { 0 });
    }
}

/// RESERVATION-TOKEN: names a port that the server keeps. See RFC 8656 §18.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationToken(pub [u8; 8]);

impl<'a> Attribute<'a> for ReservationToken {
    const TYPE: AttributeType = AttributeType::RESERVATION_TOKEN;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        value
            .try_into()
            .map(Self)
            .map_err(|_| AttributeError::Length(Self::TYPE))
    }
}

impl WriteAttribute for ReservationToken {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&self.0);
    }
}

integer_attribute! {
    /// CONNECTION-ID: names a TCP connection between server and peer. See RFC 6062 §6.2.1.
    ConnectionId(u32) = CONNECTION_ID
}

/// MOBILITY-TICKET: what lets a client move its allocation to another address; empty where a client
/// asks for one. Only the server reads it. See RFC 8016 §3.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MobilityTicket<'a>(pub &'a [u8]);

impl<'a> Attribute<'a> for MobilityTicket<'a> {
    const TYPE: AttributeType = AttributeType::MOBILITY_TICKET;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        Ok(Self(value))
    }
}

impl WriteAttribute for MobilityTicket<'_> {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.0);
    }
}

/// ICMP: what the server received about a packet it sent to a peer. See RFC 8656 §18.13.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// ICMP or ICMPv6 type, at most 127 on the wire.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u16,
    /// The ICMP message's second word, such as the MTU of a "packet too big".
    pub error_data: [u8; 4],
}

impl<'a> Attribute<'a> for Icmp {
    const TYPE: AttributeType = AttributeType::ICMP;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [_, _, a, b, error_data @ ..] = value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        let error_data = error_data
            .try_into()
            .map_err(|_| AttributeError::Length(Self::TYPE))?;
        let icmp_code = u16::from_be_bytes([a & 0x01, *b]);
        Ok(Self {
            icmp_type: a >> 1,
            icmp_code,
            error_data,
        })
    }
}

impl WriteAttribute for Icmp {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        let [high, low] = (self.icmp_code & 0x01ff).to_be_bytes();
        buffer.extend_from_slice(&[0, 0, (self.icmp_type << 1) | high, low]);
        buffer.extend_from_slice(&self.error_data);
    }
}
