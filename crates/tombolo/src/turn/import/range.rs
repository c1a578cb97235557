//! Ranges of addresses, `FIRST-LAST`, as the networks that they are made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tombolo_node::Cidr;

use super::super::file::Network;

/// Reads an IP or a range of them. No range takes more than 254 networks.
pub(super) fn networks(text: &str) -> Result<Vec<Network>, String> {
    let ip = |text: &str| {
        text.trim()
            .parse::<IpAddr>()
            .map_err(|_| "not an IP, or a range such as 10.0.0.0-10.0.0.255".to_owned())
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (ip(first)?, ip(last)?),
        None => (ip(text)?, ip(text)?),
    };
    let (first, last, bits) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return Err("the two ends of the range are of different families".to_owned()),
    };
    if first > last {
        return Err("the range ends before it begins".to_owned());
    }
    Ok(split(first, last, bits))
}

/// Takes the largest network that begins at `first` and fits, again and again.
fn split(mut first: u128, last: u128, bits: u32) -> Vec<Network> {
    let mut networks = Vec::new();
    loop {
        let aligned = first.trailing_zeros().min(bits);
        // How many addresses are left, less one, so that all of IPv6 fits.
        let left = last - first;
        let fitting = left.checked_add(1).map_or(128, u128::ilog2);
        let host_bits = aligned.min(fitting);
        if let Some(network) = network(first, bits - host_bits, bits) {
            networks.push(network);
        }
        let size_less_one = 1_u128
            .checked_shl(host_bits)
            .map_or(u128::MAX, |size| size - 1);
        if size_less_one >= left {
            return networks;
        }
        first += size_less_one + 1;
    }
}

fn network(first: u128, prefix: u32, bits: u32) -> Option<Network> {
    let ip: IpAddr = if bits == 32 {
        Ipv4Addr::from_bits(u32::try_from(first).ok()?).into()
    } else {
        Ipv6Addr::from_bits(first).into()
    };
    let prefix = u8::try_from(prefix).ok()?;
    Cidr::new(ip, prefix).ok().map(Network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        let networks = networks(text).expect("it is a range");
        networks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_range_becomes_the_fewest_networks() {
        for (text, expected) in [
            ("10.0.0.1", vec!["10.0.0.1/32"]),
            ("10.0.0.0-10.255.255.255", vec!["10.0.0.0/8"]),
            ("0.0.0.0-255.255.255.255", vec!["0.0.0.0/0"]),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", vec!["::/0"]),
            ("83.166.64.0-83.166.95.255", vec!["83.166.64.0/19"]),
            (
                "10.0.0.1-10.0.0.6",
                vec!["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"],
            ),
            ("fe80:: - fe80::1", vec!["fe80::/127"]),
            (
                "255.255.255.254-255.255.255.255",
                vec!["255.255.255.254/31"],
            ),
        ] {
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn the_widest_ranges_stay_few_networks() {
        assert_eq!(split("0.0.0.1-255.255.255.254").len(), 62);
        let v6 = split("::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe");
        assert_eq!(v6.len(), 254);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "-",
            "10.0.0.2-10.0.0.1",
            "10.0.0.0/8",
            "10.0.0.1-::1",
            "a-b",
            "1-2-3",
        ] {
            assert!(networks(text).is_err(), "{text}");
        }
    }
}
