//! What one router does to traffic, and the nftables rules that make the kernel do it.

use std::fmt::{self, Write as _};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How a router maps and filters. The terms are those of RFC 4787 §4 and §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// Devices have public addresses; the router only forwards.
    NoNat,
    /// Endpoint-independent mapping, endpoint-independent filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    Restricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering: plain `masquerade`.
    PortRestricted,
    /// A new random port for each destination.
    Symmetric,
    /// A new port for each destination, counting upwards.
    SymmetricSequential,
    /// No IPv4 at all; IPv6 without translation, behind a firewall that lets only replies in.
    Ipv6Firewall,
    /// Translates like [`Profile::PortRestricted`], but forwards no UDP.
    UdpBlocked,
}

impl Profile {
    /// All profiles, in the order of this enum.
    pub const ALL: [Self; 8] = [
        Self::NoNat,
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::SymmetricSequential,
        Self::Ipv6Firewall,
        Self::UdpBlocked,
    ];

    /// The name that scenarios and the command line use, such as `port-restricted`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoNat => "no-nat",
            Self::FullCone => "full-cone",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::SymmetricSequential => "symmetric-sequential",
            Self::Ipv6Firewall => "ipv6-firewall",
            Self::UdpBlocked => "udp-blocked",
        }
    }

    /// Whether devices behind it have IPv4.
    pub fn has_ipv4(self) -> bool {
        self != Self::Ipv6Firewall
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A router: its [`Profile`] and what varies beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nat {
    /// How it maps and filters.
    pub profile: Profile,
    /// Whether two devices inside reach each other through their public addresses.
    /// Such packets pass whatever the profile's filtering says.
    pub hairpin: bool,
    /// How long an idle UDP mapping lives. `None` leaves the kernel's 30 s (120 s once answered).
    pub udp_timeout: Option<Duration>,
    /// Whether the router drops what is addressed to itself from outside. Without it an unexpected
    /// packet takes the port that a device inside is about to use, and hole punching fails.
    pub input_drop: bool,
}

impl Nat {
    /// A router of that profile: no hairpin, the kernel's time-outs, input drop.
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            hairpin: false,
            udp_timeout: None,
            input_drop: true,
        }
    }

    /// Lets devices inside reach each other through their public addresses.
    #[must_use]
    pub fn with_hairpin(mut self) -> Self {
        self.hairpin = true;
        self
    }

    /// Sets how long an idle UDP mapping lives; whole seconds, at least one.
    #[must_use]
    pub fn with_udp_timeout(mut self, timeout: Duration) -> Self {
        self.udp_timeout = Some(timeout);
        self
    }

    /// Takes the input drop away: a hard case for hole punching.
    #[must_use]
    pub fn without_input_drop(mut self) -> Self {
        self.input_drop = false;
        self
    }

    /// Whether inbound packets find their device through a table learned from outbound ones.
    pub(crate) fn learns(&self) -> bool {
        self.hairpin || matches!(self.profile, Profile::FullCone | Profile::Restricted)
    }

    /// The rules for `nft -f -` in the router's namespace, whose interfaces are `wan` and `lan`.
    ///
    /// `wan` is the router's outer IPv4 address, `None` without IPv4.
    pub(crate) fn ruleset(&self, wan: Option<Ipv4Addr>) -> String {
        let mut rules = self.filter_table();
        if let Some(wan) = wan
            && self.profile != Profile::NoNat
        {
            rules.push_str(&self.nat_table(wan));
        }
        rules
    }

    fn filter_table(&self) -> String {
        let mut rules = String::from("table inet lab_filter {\n");
        if self.input_drop {
            rules.push_str(
                "  chain input {\n    type filter hook input priority filter\n    \
                 iifname \"wan\" meta l4proto { tcp, udp } ct state new drop\n  }\n",
            );
        }
        rules.push_str("  chain forward {\n    type filter hook forward priority filter\n");
        if self.profile != Profile::NoNat {
            rules.push_str("    meta nfproto ipv6 iifname \"wan\" ct state new drop\n");
        }
        if self.profile == Profile::UdpBlocked {
            rules.push_str("    meta l4proto udp drop\n");
        }
        rules.push_str("  }\n}\n");
        rules
    }

    fn nat_table(&self, wan: Ipv4Addr) -> String {
        let mut rules = String::from("table ip lab_nat {\n");
        if self.learns() {
            rules.push_str(&self.learning());
        }
        rules.push_str(&self.inbound(wan));
        rules.push_str(&self.outbound(wan));
        rules.push_str("}\n");
        rules
    }

    /// Learns, after translation, which device an outer port belongs to and whom it has sent to.
    fn learning(&self) -> String {
        let timeout = self
            .udp_timeout
            .map_or(60, |timeout| timeout.as_secs().max(1));
        format!(
            "  map owner {{\n    type inet_service : ipv4_addr . inet_service\n    \
             flags dynamic,timeout\n    timeout {timeout}s\n  }}\n  \
             set permitted {{\n    type inet_service . ipv4_addr\n    \
             flags dynamic,timeout\n    timeout {timeout}s\n  }}\n  \
             chain learn {{\n    type filter hook postrouting priority 200\n    \
             oifname \"wan\" meta l4proto udp ct direction original \
             update @owner {{ udp sport : ct original ip saddr . ct original proto-src }}\n    \
             oifname \"wan\" meta l4proto udp update @permitted {{ udp sport . ip daddr }}\n  }}\n"
        )
    }

    fn inbound(&self, wan: Ipv4Addr) -> String {
        let mut rules =
            String::from("  chain inbound {\n    type nat hook prerouting priority dstnat\n");
        match self.profile {
            Profile::FullCone => rules
                .push_str("    iifname \"wan\" meta l4proto udp dnat ip to udp dport map @owner\n"),
            Profile::Restricted => rules.push_str(
                "    iifname \"wan\" meta l4proto udp udp dport . ip saddr @permitted \
                 dnat ip to udp dport map @owner\n",
            ),
            Profile::NoNat
            | Profile::PortRestricted
            | Profile::Symmetric
            | Profile::SymmetricSequential
            | Profile::Ipv6Firewall
            | Profile::UdpBlocked => {}
        }
        if self.hairpin {
            let _ = writeln!(
                rules,
                "    iifname \"lan\" ip daddr {wan} meta l4proto udp dnat ip to udp dport map @owner"
            );
        }
        rules.push_str("  }\n");
        rules
    }

    fn outbound(&self, wan: Ipv4Addr) -> String {
        let mut rules =
            String::from("  chain outbound {\n    type nat hook postrouting priority srcnat\n");
        if self.hairpin {
            let _ = writeln!(
                rules,
                "    iifname \"lan\" oifname \"lan\" ct status dnat snat to {wan}"
            );
        }
        match self.profile {
            Profile::Symmetric => {
                rules.push_str("    oifname \"wan\" meta l4proto udp masquerade fully-random\n");
            }
            Profile::SymmetricSequential => {
                // A counter used as the port itself would be written byte-swapped; a map is not.
                let _ = write!(
                    rules,
                    "    oifname \"wan\" meta l4proto udp snat to {wan} : \
                     numgen inc mod {SEQUENTIAL_PORTS} map {{ "
                );
                for index in 0..SEQUENTIAL_PORTS {
                    let separator = if index == 0 { "" } else { ", " };
                    let _ = write!(rules, "{separator}{index} : {}", SEQUENTIAL_BASE + index);
                }
                rules.push_str(" }\n");
            }
            Profile::NoNat
            | Profile::FullCone
            | Profile::Restricted
            | Profile::PortRestricted
            | Profile::Ipv6Firewall
            | Profile::UdpBlocked => {}
        }
        rules.push_str("    oifname \"wan\" masquerade\n  }\n");
        rules
    }
}

impl From<Profile> for Nat {
    fn from(profile: Profile) -> Self {
        Self::new(profile)
    }
}

const SEQUENTIAL_BASE: u16 = 20_000;
const SEQUENTIAL_PORTS: u16 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const WAN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

    #[test]
    fn every_profile_guards_its_own_input_unless_told_otherwise() {
        for profile in Profile::ALL {
            let rules = Nat::new(profile).ruleset(Some(WAN));
            assert!(rules.contains("hook input"), "{profile}: {rules}");
        }
        let rules = Nat::new(Profile::PortRestricted)
            .without_input_drop()
            .ruleset(Some(WAN));
        assert!(!rules.contains("hook input"), "{rules}");
    }

    #[test]
    fn only_translating_profiles_have_a_nat_table() {
        for profile in Profile::ALL {
            let wan = profile.has_ipv4().then_some(WAN);
            let has_nat = Nat::new(profile).ruleset(wan).contains("table ip lab_nat");
            let expected = !matches!(profile, Profile::NoNat | Profile::Ipv6Firewall);
            assert_eq!(has_nat, expected, "{profile}");
        }
    }

    #[test]
    fn a_hairpin_learns_who_owns_a_port_under_every_filtering() {
        let rules = Nat::new(Profile::PortRestricted)
            .with_hairpin()
            .ruleset(Some(WAN));
        assert!(rules.contains("map owner"), "{rules}");
        assert!(rules.contains("ip daddr 203.0.113.2"), "{rules}");
    }

    #[test]
    fn learned_mappings_live_as_long_as_the_udp_timeout() {
        let nat = Nat::new(Profile::FullCone).with_udp_timeout(Duration::from_secs(2));
        assert!(nat.ruleset(Some(WAN)).contains("timeout 2s"));
    }
}
