//! The rows of the table: what is measured, with whom, and what it must be.

use crate::flood;
use crate::measure::{BURST, BURST_FLOWS, Bench, FLOWS, Sample, echo};
use crate::subject::Subject::{self, Coturn, Floor, Sockets, Steered};
use crate::traffic::{Far, Shape};

/// One thing to measure.
pub(crate) struct Row {
    /// As `--only` takes it.
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    pub(crate) subjects: &'static [Subject],
    /// What the table shows first.
    pub(crate) metric: Metric,
    pub(crate) goals: &'static [Goal],
    pub(crate) measure: fn(&Bench, Subject) -> anyhow::Result<Sample>,
}

/// A figure of a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    pub(crate) key: &'static str,
    pub(crate) unit: &'static str,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goal {
    pub(crate) of: Subject,
    pub(crate) key: &'static str,
    /// Whose figure of the same round it is divided by; it stands for itself if `None`.
    pub(crate) against: Option<Subject>,
    pub(crate) limit: Limit,
}

/// Which side of a value is good.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

const fn ratio(of: Subject, key: &'static str, against: Subject, limit: Limit) -> Goal {
    Goal {
        of,
        key,
        against: Some(against),
        limit,
    }
}

const fn absolute(of: Subject, key: &'static str, limit: Limit) -> Goal {
    Goal {
        of,
        key,
        against: None,
        limit,
    }
}

const CPU: Metric = Metric {
    key: "cpu_us",
    unit: "us/packet",
};
const RATE: Metric = Metric {
    key: "per_s",
    unit: "/s",
};
const SERVERS: &[Subject] = &[Coturn, Sockets, Steered];
const ECHO_GOALS: &[Goal] = &[
    ratio(Sockets, "cpu_us", Coturn, Limit::AtMost(0.75)),
    ratio(Steered, "cpu_us", Coturn, Limit::AtMost(0.65)),
    ratio(Sockets, "cpu_us", Floor, Limit::AtMost(1.10)),
    ratio(Steered, "cpu_us", Floor, Limit::AtMost(0.95)),
];
const BURST_GOALS: &[Goal] = &[
    ratio(Sockets, "cpu_us", Floor, Limit::AtMost(0.15)),
    ratio(Steered, "cpu_us", Floor, Limit::AtMost(0.15)),
];

/// All rows, in the table's order.
pub(crate) const ROWS: &[Row] = &[
    Row {
        id: "echo-172",
        what: "172 B there and back, 100 flows, one packet each in turn",
        subjects: &Subject::ALL,
        metric: CPU,
        goals: ECHO_GOALS,
        measure: |bench, subject| bench.rate(subject, echo(172), FLOWS, FLOWS),
    },
    Row {
        id: "echo-1200",
        what: "1200 B there and back, 100 flows, one packet each in turn",
        subjects: &Subject::ALL,
        metric: CPU,
        goals: ECHO_GOALS,
        measure: |bench, subject| bench.rate(subject, echo(1200), FLOWS, FLOWS),
    },
    Row {
        id: "burst-172",
        what: "bursts of 16 x 172 B there and back, 32 flows",
        subjects: &[Floor, Sockets, Steered],
        metric: CPU,
        goals: BURST_GOALS,
        measure: |bench, subject| bench.rate(subject, bursts(172), BURST_FLOWS, BURST_FLOWS),
    },
    Row {
        id: "burst-1200",
        what: "bursts of 16 x 1200 B there and back, 32 flows",
        subjects: &[Floor, Sockets, Steered],
        metric: CPU,
        goals: BURST_GOALS,
        measure: |bench, subject| bench.rate(subject, bursts(1200), BURST_FLOWS, BURST_FLOWS),
    },
    Row {
        id: "pair",
        what: "client, its relay, the other client's relay, the other client: 172 B, 100 flows",
        subjects: SERVERS,
        metric: CPU,
        goals: &[
            ratio(Sockets, "cpu_us", Coturn, Limit::AtMost(0.45)),
            ratio(Steered, "cpu_us", Coturn, Limit::AtMost(0.45)),
        ],
        measure: |bench, subject| {
            let shape = Shape {
                far: Far::Clients,
                ..echo(172)
            };
            bench.rate(subject, shape, FLOWS, FLOWS)
        },
    },
    Row {
        id: "idle",
        what: "10,000 packets/s of 172 B beside 2,000 idle allocations",
        subjects: &Subject::ALL,
        metric: CPU,
        goals: &[
            ratio(Sockets, "cpu_us", Coturn, Limit::AtMost(0.70)),
            ratio(Steered, "cpu_us", Coturn, Limit::AtMost(0.70)),
        ],
        measure: |bench, subject| bench.paced(subject, echo(172), FLOWS + bench.scale.idle, 10_000),
    },
    Row {
        id: "many",
        what: "172 B there and back over 100 flows beside 15,900 idle allocations, against none",
        subjects: &[Sockets, Steered],
        metric: Metric {
            key: "ratio",
            unit: "of CPU/packet",
        },
        goals: &[
            absolute(Sockets, "ratio", Limit::AtMost(1.10)),
            absolute(Steered, "ratio", Limit::AtMost(1.10)),
        ],
        measure: |bench, subject| bench.many(subject, echo(172)),
    },
    Row {
        id: "many-active",
        what: "172 B there and back over 16,000 flows in turn: every packet finds its caches cold",
        subjects: SERVERS,
        metric: CPU,
        goals: &[],
        measure: |bench, subject| {
            let flows = bench.scale.many;
            let shape = Shape { flows, ..echo(172) };
            bench.rate(subject, shape, flows, FLOWS)
        },
    },
    Row {
        id: "allocate",
        what: "allocations with their 401 round, and what a thousand idle ones take",
        subjects: SERVERS,
        metric: RATE,
        goals: &[
            ratio(Sockets, "per_s", Coturn, Limit::AtLeast(3.5)),
            ratio(Steered, "per_s", Coturn, Limit::AtLeast(6.0)),
            absolute(Sockets, "rss_mb_per_1000", Limit::AtMost(1.5)),
            absolute(Steered, "rss_mb_per_1000", Limit::AtMost(1.5)),
            absolute(Steered, "slab_mb_per_1000", Limit::AtMost(0.05)),
        ],
        measure: Bench::allocations,
    },
    Row {
        id: "binding",
        what: "Binding requests",
        subjects: SERVERS,
        metric: RATE,
        goals: &[
            ratio(Sockets, "per_s", Coturn, Limit::AtLeast(1.3)),
            ratio(Steered, "per_s", Coturn, Limit::AtLeast(1.3)),
        ],
        measure: Bench::bindings,
    },
    Row {
        id: "flood",
        what: "a call beside 50,000 requests/s without credentials from 10,000 spoofed networks",
        subjects: &[Sockets, Steered],
        metric: Metric {
            key: "out_per_in",
            unit: "bytes out per byte in",
        },
        goals: &[
            absolute(Sockets, "out_per_in", Limit::AtMost(1.0)),
            absolute(Steered, "out_per_in", Limit::AtMost(1.0)),
            absolute(Sockets, "rss_growth_mb", Limit::AtMost(1.0)),
            absolute(Steered, "rss_growth_mb", Limit::AtMost(1.0)),
        ],
        measure: flood::measure,
    },
];

fn bursts(bytes: usize) -> Shape {
    Shape {
        far: Far::Peers,
        flows: BURST_FLOWS,
        bytes,
        burst: BURST,
    }
}
