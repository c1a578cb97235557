//! The behaviours of NATs, in the words of RFC 4787.

use std::fmt;

/// How a NAT chooses the public address for an internal one. See RFC 4787 §4.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mapping {
    /// There is no translation: the public address is the device's own.
    NoNat,
    /// One public address for all destinations ("cone").
    EndpointIndependent,
    /// One public address per destination address.
    AddressDependent,
    /// One public address per destination address and port ("symmetric").
    AddressAndPortDependent,
    /// Different public addresses for different destinations; whether the port matters is not
    /// known, because no server answered on two ports of one address.
    Dependent,
    /// The same public address for two ports of one server; what another address would see is not
    /// known, because no second one answered.
    PortIndependent,
    /// Too few answers to tell.
    #[default]
    Unknown,
}

impl Mapping {
    /// Says whether a public address learned from a server holds for peers: `Some(false)` makes a
    /// NAT hard to traverse, `None` means that it is not known.
    #[must_use]
    pub fn is_predictable(self) -> Option<bool> {
        match self {
            Self::NoNat | Self::EndpointIndependent | Self::PortIndependent => Some(true),
            Self::AddressDependent | Self::AddressAndPortDependent | Self::Dependent => Some(false),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNat => "no NAT",
            Self::EndpointIndependent => "endpoint-independent mapping",
            Self::AddressDependent => "address-dependent mapping",
            Self::AddressAndPortDependent => "address-and-port-dependent mapping",
            Self::Dependent => "address- or address-and-port-dependent mapping",
            Self::PortIndependent => "endpoint-independent or address-dependent mapping",
            Self::Unknown => "unknown mapping",
        })
    }
}

/// From whom a NAT lets packets in. See RFC 4787 §5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filtering {
    /// From anybody, once the device has sent anything ("full cone").
    EndpointIndependent,
    /// From the addresses to which the device has sent ("restricted cone").
    AddressDependent,
    /// From the addresses and ports to which the device has sent ("port-restricted cone").
    AddressAndPortDependent,
    /// Not measured, or too few answers to tell.
    #[default]
    Unknown,
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointIndependent => "endpoint-independent filtering",
            Self::AddressDependent => "address-dependent filtering",
            Self::AddressAndPortDependent => "address-and-port-dependent filtering",
            Self::Unknown => "unknown filtering",
        })
    }
}

/// What is known of the NAT in front of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatBehaviour {
    /// How public addresses are chosen.
    pub mapping: Mapping,
    /// Who is let in.
    pub filtering: Filtering,
    /// False when no STUN server answered over UDP: then nothing direct can work.
    pub udp: bool,
}

impl NatBehaviour {
    /// Makes a behaviour of a device on which UDP works.
    #[must_use]
    pub fn new(mapping: Mapping, filtering: Filtering) -> Self {
        Self {
            mapping,
            filtering,
            udp: true,
        }
    }
}

impl fmt::Display for NatBehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.udp {
            return f.write_str("UDP blocked");
        }
        write!(f, "{}, {}", self.mapping, self.filtering)
    }
}
