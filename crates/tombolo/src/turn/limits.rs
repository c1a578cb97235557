//! The bounds of a file as the relay has them.

use anyhow::Context as _;
use tombolo_relay::RelayConfig;
use tombolo_turn::server::{Bandwidth, Quota};

use super::file::Limits;

/// Sets what a file bounds.
///
/// # Errors
/// Bounds of bandwidth that nothing comes of.
pub(super) fn set(relay: &mut RelayConfig, limits: &Limits) -> anyhow::Result<()> {
    set_quotas(relay, limits);
    let bounds = &mut relay.limits;
    let given = [
        (
            &mut bounds.connections_waiting_max,
            limits.waiting_peer_connections,
        ),
        (
            &mut bounds.connections_waiting_per_user_max,
            limits.waiting_peer_connections_per_user,
        ),
        (
            &mut bounds.connections_waiting_per_network_max,
            limits.waiting_peer_connections_per_network,
        ),
        (&mut relay.connections_max, limits.connections),
        (
            &mut relay.connections_per_source_max,
            limits.connections_per_source,
        ),
        (&mut relay.handshakes_max, limits.handshakes),
        (
            &mut relay.handshakes_per_source_max,
            limits.handshakes_per_source,
        ),
    ];
    for (bound, given) in given {
        *bound = given.unwrap_or(*bound);
    }
    let rates = [
        (
            &mut relay.handshakes_per_second_max,
            limits.handshakes_per_second,
        ),
        (
            &mut relay.limits.unproven_bytes_max,
            limits.unproven_bytes_per_second,
        ),
        (
            &mut relay.limits.unproven_total_bytes_max,
            limits.unproven_total_bytes_per_second,
        ),
    ];
    for (bound, given) in rates {
        *bound = given.unwrap_or(*bound);
    }
    relay.limits.bandwidth = limits.bytes_per_second.map(bandwidth);
    check_bandwidth(relay)
}

/// What goes through an allocation in each direction.
pub(super) fn bandwidth(bytes_per_second: u32) -> Bandwidth {
    Bandwidth {
        bytes_per_second,
        // A second's worth, and room for the longest payload.
        burst_bytes: bytes_per_second.max(1 << 16),
    }
}

/// Bandwidth is granted with allocations, each of which counts with what it may have: so that has to
/// be known, and there has to be enough for one.
fn check_bandwidth(relay: &RelayConfig) -> anyhow::Result<()> {
    let limits = &relay.limits;
    for realm in std::iter::once(&relay.realm).chain(&relay.realms) {
        let quotas = [
            limits.total,
            limits.per_network,
            realm.quota,
            realm.per_user.or(limits.per_user),
        ];
        let bounds = quotas.into_iter().filter_map(|quota| quota.bandwidth);
        let Some(least) = bounds.min() else { continue };
        let each = realm.bandwidth.or(limits.bandwidth);
        let each = each.map(|each| u64::from(each.bytes_per_second));
        let each = each.with_context(|| {
            format!(
                "realm {}: to bound `bandwidth`, say by `bytes-per-second` what each allocation has",
                realm.name
            )
        })?;
        anyhow::ensure!(
            each <= least,
            "realm {}: a bandwidth of {least} is too little for one allocation, which has {each}",
            realm.name
        );
    }
    Ok(())
}

/// Bounds what clients hold: in all, of each user, of each network, of each allocation.
fn set_quotas(relay: &mut RelayConfig, limits: &Limits) {
    let quota = |allocations, permissions, channels, connections, bandwidth| Quota {
        allocations,
        permissions,
        channels,
        connections,
        bandwidth,
    };
    let given = [
        quota(
            limits.allocations,
            limits.permissions,
            limits.channels,
            limits.peer_connections,
            limits.bandwidth,
        ),
        quota(
            limits.allocations_per_user,
            limits.permissions_per_user,
            limits.channels_per_user,
            limits.peer_connections_per_user,
            limits.bandwidth_per_user,
        ),
        quota(
            limits.allocations_per_network,
            limits.permissions_per_network,
            limits.channels_per_network,
            limits.peer_connections_per_network,
            limits.bandwidth_per_network,
        ),
        quota(
            None,
            limits.permissions_per_allocation,
            limits.channels_per_allocation,
            limits.peer_connections_per_allocation,
            None,
        ),
    ];
    let bounds = &mut relay.limits;
    let bounds = [
        &mut bounds.total,
        &mut bounds.per_user,
        &mut bounds.per_network,
        &mut bounds.per_allocation,
    ];
    for (bound, given) in bounds.into_iter().zip(given) {
        *bound = given.or(*bound);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{file::File, settings::relaying};

    fn of_file(text: &str) -> anyhow::Result<tombolo_relay::RelayConfig> {
        relaying(&File::parse(text)?, Path::new(""))
    }

    #[test]
    fn bandwidth_is_bounded_as_the_file_says() {
        let text = "[limits]\nbytes-per-second = 1000\nbandwidth = 9000\n\
            bandwidth-per-user = 2000\nbandwidth-per-network = 4000\n";
        let limits = of_file(text).expect("it is right").limits;
        let bounds = [limits.total, limits.per_user, limits.per_network];
        let bounds = bounds.map(|quota| quota.bandwidth);
        assert_eq!(bounds, [Some(9000), Some(2000), Some(4000)]);
        assert_eq!(limits.total.allocations, Some(16_384), "as by default");
        assert_eq!(limits.per_allocation.bandwidth, None);
    }

    #[test]
    fn a_bandwidth_of_which_nothing_comes_is_refused() {
        for text in [
            "[limits]\nbandwidth = 9000\n",
            "[[realm]]\nname = 'r'\nbandwidth-per-user = 9000\n",
            "[[realm]]\nname = 'q'\nbytes-per-second = 9\n\
             [[realm]]\nname = 'r'\nbandwidth = 9000\n",
        ] {
            let error = of_file(text).err().expect("it is wrong");
            let complaint = format!("{error:#}");
            assert!(complaint.contains("bytes-per-second"), "{complaint}");
        }
        for text in [
            "limits = { bytes-per-second = 1000, bandwidth-per-network = 999 }",
            "limits = { bytes-per-second = 1000 }\n[[realm]]\nname = 'r'\nbandwidth = 999\n",
        ] {
            let error = of_file(text).err().expect("it is wrong");
            let complaint = format!("{error:#}");
            assert!(complaint.contains("999 is too little"), "{complaint}");
        }
    }
}
