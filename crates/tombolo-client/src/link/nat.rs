//! What devices tell each other of their NATs.

use tombolo_path::{Filtering, Mapping, NatBehaviour};
use tombolo_wire::v1::{self, NatFiltering, NatMapping};

pub(super) fn to_wire(nat: NatBehaviour) -> v1::Nat {
    let mapping = match nat.mapping {
        Mapping::NoNat => NatMapping::NoNat,
        Mapping::EndpointIndependent => NatMapping::EndpointIndependent,
        Mapping::AddressDependent => NatMapping::AddressDependent,
        Mapping::AddressAndPortDependent => NatMapping::AddressAndPortDependent,
        Mapping::Dependent => NatMapping::Dependent,
        Mapping::PortIndependent => NatMapping::PortIndependent,
        Mapping::Unknown => NatMapping::Unspecified,
    };
    let filtering = match nat.filtering {
        Filtering::EndpointIndependent => NatFiltering::EndpointIndependent,
        Filtering::AddressDependent => NatFiltering::AddressDependent,
        Filtering::AddressAndPortDependent => NatFiltering::AddressAndPortDependent,
        Filtering::Unknown => NatFiltering::Unspecified,
    };
    v1::Nat {
        mapping: mapping.into(),
        filtering: filtering.into(),
        udp_blocked: !nat.udp,
    }
}

/// Reads a peer's word; what a later version might say counts as unknown.
pub(super) fn from_wire(nat: &v1::Nat) -> NatBehaviour {
    NatBehaviour {
        mapping: match nat.mapping() {
            NatMapping::NoNat => Mapping::NoNat,
            NatMapping::EndpointIndependent => Mapping::EndpointIndependent,
            NatMapping::AddressDependent => Mapping::AddressDependent,
            NatMapping::AddressAndPortDependent => Mapping::AddressAndPortDependent,
            NatMapping::Dependent => Mapping::Dependent,
            NatMapping::PortIndependent => Mapping::PortIndependent,
            NatMapping::Unspecified => Mapping::Unknown,
        },
        filtering: match nat.filtering() {
            NatFiltering::EndpointIndependent => Filtering::EndpointIndependent,
            NatFiltering::AddressDependent => Filtering::AddressDependent,
            NatFiltering::AddressAndPortDependent => Filtering::AddressAndPortDependent,
            NatFiltering::Unspecified => Filtering::Unknown,
        },
        udp: !nat.udp_blocked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviours_come_back_as_they_were_told() {
        let blocked = NatBehaviour {
            mapping: Mapping::Unknown,
            filtering: Filtering::Unknown,
            udp: false,
        };
        let hard = NatBehaviour::new(Mapping::Dependent, Filtering::AddressAndPortDependent);
        for nat in [blocked, hard] {
            assert_eq!(from_wire(&to_wire(nat)), nat);
        }
    }
}
