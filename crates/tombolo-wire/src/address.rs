//! Socket addresses on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use crate::v1::{Address, Candidate, ErrorCode};

/// Why an address was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The address is missing.
    #[error("address is missing")]
    Missing,
    /// An IP address has neither 4 nor 16 bytes.
    #[error("an IP address must have 4 or 16 bytes")]
    Length,
    /// A port is 0 or above 65535.
    #[error("a port must be between 1 and 65535")]
    Port,
}

impl AddressError {
    /// What a device is told.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        ErrorCode::BadFrame
    }
}

/// IPv4-mapped IPv6 addresses come out as IPv4, so that an address has one form only.
impl TryFrom<&Address> for SocketAddr {
    type Error = AddressError;

    fn try_from(address: &Address) -> Result<Self, AddressError> {
        let ip = if let Ok(bytes) = <[u8; 4]>::try_from(address.ip.as_ref()) {
            IpAddr::V4(Ipv4Addr::from(bytes))
        } else if let Ok(bytes) = <[u8; 16]>::try_from(address.ip.as_ref()) {
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        } else {
            return Err(AddressError::Length);
        };
        match u16::try_from(address.port) {
            Ok(port) if port != 0 => Ok(Self::new(ip, port)),
            Ok(_) | Err(_) => Err(AddressError::Port),
        }
    }
}

impl Candidate {
    /// Where the candidate is.
    ///
    /// # Errors
    /// When the address is missing or none.
    pub fn socket_addr(&self) -> Result<SocketAddr, AddressError> {
        self.address
            .as_ref()
            .ok_or(AddressError::Missing)?
            .try_into()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip().to_canonical() {
            IpAddr::V4(ip) => Bytes::copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => Bytes::copy_from_slice(&ip.octets()),
        };
        Self {
            ip,
            port: u32::from(address.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_in_their_one_form() {
        for (sent, received) in [
            ("192.0.2.1:9", "192.0.2.1:9"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
            ("[::ffff:192.0.2.1]:9", "192.0.2.1:9"),
        ] {
            let address = Address::from(sent.parse::<SocketAddr>().unwrap());
            assert_eq!(
                SocketAddr::try_from(&address),
                Ok(received.parse().unwrap())
            );
        }
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        let address = Address {
            ip: Bytes::copy_from_slice(&mapped),
            port: 9,
        };
        assert_eq!(
            SocketAddr::try_from(&address),
            Ok("192.0.2.1:9".parse().unwrap())
        );
    }

    #[test]
    fn odd_lengths_and_ports_are_refused() {
        for length in (0..=32).filter(|length| ![4, 16].contains(length)) {
            let address = Address {
                ip: Bytes::from(vec![1; length]),
                port: 9,
            };
            assert_eq!(SocketAddr::try_from(&address), Err(AddressError::Length));
        }
        for port in [0, 65536, u32::MAX] {
            let address = Address {
                ip: Bytes::from_static(&[192, 0, 2, 1]),
                port,
            };
            assert_eq!(SocketAddr::try_from(&address), Err(AddressError::Port));
        }
    }
}
