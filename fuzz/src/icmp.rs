//! ICMP errors: whatever they quote is read inside its bounds, and bytes behind the quoted header of UDP
//! say nothing.

use tombolo_relay::IcmpError;

/// Parses `data` as what raw sockets of both families bring.
pub fn run(data: &[u8]) {
    if let Ok(said) = IcmpError::parse_v4(data) {
        assert!(said.from.is_ipv4() && said.to.is_ipv4());
        assert!(matches!(said.error.kind, 3 | 11));
    }
    let Ok(said) = IcmpError::parse_v6(data) else {
        return;
    };
    assert!(said.from.is_ipv6() && said.to.is_ipv6());
    assert!(matches!(said.error.kind, 1..=3));
    assert_eq!(IcmpError::parse_v6(&data[..V6_ERROR_BYTES]), Ok(said));
    assert!(IcmpError::parse_v6(&data[..V6_ERROR_BYTES - 1]).is_err());
}

/// ICMPv6, IPv6 and UDP headers.
const V6_ERROR_BYTES: usize = 8 + 40 + 8;
