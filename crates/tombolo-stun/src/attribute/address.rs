use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    Attribute, AttributeError, AttributeType, MAGIC_COOKIE, TransactionId, WriteAttribute,
};

macro_rules! address_attribute {
    ($(#[$doc:meta])* $name:ident = $kind:ident, $mask:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl<'a> Attribute<'a> for $name {
            const TYPE: AttributeType = AttributeType::$kind;

            fn parse(
                value: &'a [u8],
                transaction: TransactionId,
            ) -> Result<Self, AttributeError> {
                parse_address(Self::TYPE, value, $mask(transaction)).map(Self)
            }
        }

        impl WriteAttribute for $name {
            fn attribute_type(&self) -> AttributeType {
                <Self as Attribute<'_>>::TYPE
            }

            fn write_value(&self, transaction: TransactionId, buffer: &mut Vec<u8>) {
                write_address(self.0, $mask(transaction), buffer);
            }
        }
    };
}

address_attribute! {
    /// MAPPED-ADDRESS: the sender as the server sees it, in clear. See RFC 8489 §14.1.
    MappedAddress = MAPPED_ADDRESS, no_mask
}
address_attribute! {
    /// XOR-MAPPED-ADDRESS: the sender as the server sees it. See RFC 8489 §14.2.
    XorMappedAddress = XOR_MAPPED_ADDRESS, xor_mask
}
address_attribute! {
    /// XOR-PEER-ADDRESS: the peer as the server sees it. See RFC 8656 §18.3.
    XorPeerAddress = XOR_PEER_ADDRESS, xor_mask
}
address_attribute! {
    /// XOR-RELAYED-ADDRESS: the address that the server gave the client. See RFC 8656 §18.5.
    XorRelayedAddress = XOR_RELAYED_ADDRESS, xor_mask
}
address_attribute! {
    /// ALTERNATE-SERVER: where the client shall try instead. See RFC 8489 §14.15.
    AlternateServer = ALTERNATE_SERVER, no_mask
}
address_attribute! {
    /// RESPONSE-ORIGIN: where the response was sent from. See RFC 5780 §7.3.
    ResponseOrigin = RESPONSE_ORIGIN, no_mask
}
address_attribute! {
    /// OTHER-ADDRESS: the server's other IP address and other port. See RFC 5780 §7.4.
    OtherAddress = OTHER_ADDRESS, no_mask
}

/// What an address is exclusive-ored with: the cookie, then the transaction id.
type Mask = [u8; 16];

fn no_mask(_: TransactionId) -> Mask {
    [0; 16]
}

fn xor_mask(TransactionId(id): TransactionId) -> Mask {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE);
    mask[4..].copy_from_slice(&id);
    mask
}

/// Reads one reserved byte, the family, the port and the address; nothing may follow.
fn parse_address(
    kind: AttributeType,
    value: &[u8],
    mask: Mask,
) -> Result<SocketAddr, AttributeError> {
    let Some(([_, family, p, q], address)) = value.split_first_chunk() else {
        return Err(AttributeError::Length(kind));
    };
    let port = u16::from_be_bytes([p ^ mask[0], q ^ mask[1]]);
    let ip: IpAddr = match *family {
        FAMILY_V4 => {
            let octets: [u8; 4] = address
                .try_into()
                .map_err(|_| AttributeError::Length(kind))?;
            Ipv4Addr::from(xor(octets, mask)).into()
        }
        FAMILY_V6 => {
            let octets: [u8; 16] = address
                .try_into()
                .map_err(|_| AttributeError::Length(kind))?;
            Ipv6Addr::from(xor(octets, mask)).into()
        }
        _ => return Err(AttributeError::Value(kind)),
    };
    Ok(SocketAddr::new(ip, port))
}

fn write_address(address: SocketAddr, mask: Mask, buffer: &mut Vec<u8>) {
    let family = if address.is_ipv4() {
        FAMILY_V4
    } else {
        FAMILY_V6
    };
    let [p, q] = address.port().to_be_bytes();
    buffer.extend_from_slice(&[0, family, p ^ mask[0], q ^ mask[1]]);
    match address.ip() {
        IpAddr::V4(ip) => buffer.extend_from_slice(&xor(ip.octets(), mask)),
        IpAddr::V6(ip) => buffer.extend_from_slice(&xor(ip.octets(), mask)),
    }
}

fn xor<const N: usize>(mut octets: [u8; N], mask: Mask) -> [u8; N] {
    octets
        .iter_mut()
        .zip(mask)
        .for_each(|(octet, mask)| *octet ^= mask);
    octets
}

pub(crate) const FAMILY_V4: u8 = 0x01;
pub(crate) const FAMILY_V6: u8 = 0x02;

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: TransactionId = TransactionId([0x5a; 12]);

    #[test]
    fn a_family_other_than_ip_is_refused() {
        let error = MappedAddress::parse(&[0, 3, 0, 1, 1, 2, 3, 4], TRANSACTION);
        assert_eq!(
            error,
            Err(AttributeError::Value(AttributeType::MAPPED_ADDRESS))
        );
    }

    #[test]
    fn every_length_but_the_familys_own_is_refused() {
        for len in 0..=24 {
            for family in [FAMILY_V4, FAMILY_V6] {
                let mut value = vec![0; len];
                if let Some(byte) = value.get_mut(1) {
                    *byte = family;
                }
                let is_right = len == if family == FAMILY_V4 { 8 } else { 20 };
                assert_eq!(XorPeerAddress::parse(&value, TRANSACTION).is_ok(), is_right);
            }
        }
    }

    #[test]
    fn the_reserved_byte_is_ignored() {
        let address = MappedAddress::parse(&[0xff, 1, 0x0d, 0x96, 192, 0, 2, 1], TRANSACTION);
        assert_eq!(
            address,
            Ok(MappedAddress(SocketAddr::from(([192, 0, 2, 1], 3478))))
        );
    }
}
