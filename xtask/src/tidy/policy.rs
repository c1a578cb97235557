//! What the rules of [`super`] are told about this project: its layers and what may break a rule.

use super::exceptions::{EXCEPTIONS, Exception};

/// The layers, and who may do what others may not.
pub(super) struct Policy {
    /// From the lowest; the crates of each.
    pub(super) layers: &'static [&'static [&'static str]],
    /// Crates on which nothing may depend.
    pub(super) worlds: &'static [&'static str],
    /// Dependencies that the layers alone would refuse.
    pub(super) edges: &'static [Edge],
    /// Files or folders that may hold `unsafe`.
    pub(super) unsafe_paths: &'static [&'static str],
    /// Crates whose roots deny `unsafe` instead of forbidding it.
    pub(super) unsafe_crates: &'static [&'static str],
    pub(super) exceptions: &'static [Exception],
}

/// A dependency that is allowed although the layers refuse it.
pub(super) struct Edge {
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    /// Allowed for tests alone.
    pub(super) tests_only: bool,
    /// Read by people.
    #[allow(dead_code, reason = "an exception without a reason is none")]
    pub(super) reason: &'static str,
}

impl Policy {
    /// The project's own.
    pub(super) fn tombolo() -> Self {
        Self {
            layers: LAYERS,
            worlds: &["tombolo-sim", "tombolo-natlab", "tombolo-bench"],
            edges: EDGES,
            unsafe_paths: UNSAFE_PATHS,
            unsafe_crates: &["tombolo-relay", "tombolo-bench"],
            exceptions: EXCEPTIONS,
        }
    }

    /// The layer of a crate; none for test worlds and unknown crates.
    pub(super) fn layer(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer.contains(&name))
    }

    /// Whether the crate is in layer 0 or 1, which hold only state machines and codecs.
    pub(super) fn is_core(&self, name: &str) -> bool {
        self.layer(name).is_some_and(|layer| layer <= 1)
    }

    pub(super) fn is_world(&self, name: &str) -> bool {
        self.worlds.contains(&name)
    }
}

const LAYERS: &[&[&str]] = &[
    &["tombolo-stun", "tombolo-wire"],
    &[
        "tombolo-turn",
        "tombolo-path",
        "tombolo-room",
        "tombolo-match",
        "tombolo-field",
        "tombolo-social",
    ],
    &[
        "tombolo-engine",
        "tombolo-relay",
        "tombolo-gateway",
        "tombolo-services",
    ],
    &["tombolo-node", "tombolo-client", "tombolo"],
];

const UNSAFE_PATHS: &[&str] = &[
    "crates/tombolo-relay/src/socket",
    // The load generator gives each datagram of a `sendmmsg` a source address of its own, which no
    // safe wrapper of the call can.
    "crates/tombolo-bench/src/socket",
];

const EDGES: &[Edge] = &[
    Edge {
        from: "tombolo-services",
        to: "tombolo-engine",
        tests_only: false,
        reason: "services are cores bound to the engine",
    },
    Edge {
        from: "tombolo-client",
        to: "tombolo-node",
        tests_only: true,
        reason: "the SDK is tested against a real node",
    },
    Edge {
        from: "tombolo-gateway",
        to: "tombolo-services",
        tests_only: false,
        reason: "a session that the gateway accepts is a session of the services",
    },
    Edge {
        from: "tombolo-gateway",
        to: "tombolo-engine",
        tests_only: true,
        reason: "its tests serve sessions, and services need an engine",
    },
    Edge {
        from: "tombolo",
        to: "tombolo-node",
        tests_only: false,
        reason: "the binary is the node's command line",
    },
    Edge {
        from: "tombolo",
        to: "tombolo-relay",
        tests_only: false,
        reason: "`tombolo turn` runs the relay alone",
    },
    Edge {
        from: "tombolo",
        to: "tombolo-client",
        tests_only: false,
        reason: "the binary is a device's command line too",
    },
    Edge {
        from: "tombolo",
        to: "tombolo-natlab",
        tests_only: false,
        reason: "`tombolo demo` puts its two devices behind NATs of the kernel",
    },
];
