//! How many connections a node takes, as its file says.

use anyhow::ensure;
use tombolo_node::{ConnectionConfig, SessionConfig};

use super::bounds::set;
use super::file::Connections;
use super::source::Source;

/// What the file says, checked; what it does not say is as it is without a file.
pub(super) fn config(
    table: &Connections,
    sessions: &SessionConfig,
    source: &Source,
) -> anyhow::Result<ConnectionConfig> {
    let mut config = ConnectionConfig::default();
    let place = |key: &'static str| move || source.place(&["connections", key]);
    if let Some(connections) = table.connections {
        ensure!(
            (sessions.sessions_max..=CONNECTIONS_MAX).contains(&connections),
            "{}: {} (sessions.sessions) to {CONNECTIONS_MAX}",
            place("connections")(),
            sessions.sessions_max
        );
        config.connections_max = Some(connections);
    }
    for (limit, given, key) in [
        (&mut config.per_source_max, table.per_source, "per-source"),
        (&mut config.opening_max, table.opening, "opening"),
        (
            &mut config.opening_per_source_max,
            table.opening_per_source,
            "opening-per-source",
        ),
    ] {
        set(limit, given, 1..=CONNECTIONS_MAX, place(key))?;
    }
    let mut handshakes = 0;
    for (limit, given, key) in [
        (
            &mut handshakes,
            table.handshakes_per_second,
            "handshakes-per-second",
        ),
        (
            &mut config.handshakes_per_second_per_source,
            table.handshakes_per_second_per_source,
            "handshakes-per-second-per-source",
        ),
    ] {
        set(limit, given, 1..=HANDSHAKES_MAX, place(key))?;
    }
    config.handshakes_per_second = table.handshakes_per_second.map(|_| handshakes);
    Ok(config)
}

/// All sessions that a node may have, and as many without one.
const CONNECTIONS_MAX: usize = 2_000_000;
const HANDSHAKES_MAX: u32 = 1_000_000;
