//! Pairs of devices that Tombolo must connect, and a runner that tries each with the real program.

mod events;
mod nodes;
mod outcome;
mod run;
mod table;

pub use events::{Event, Line, PeerState, PeerSummary, Percentiles, Ready, Via};
pub use outcome::{Ended, PeerRun, Run};
pub use run::{RunError, Runner};
pub use table::{extras, find, matrix, timings};

use std::time::Duration;

use crate::delay::Link;
use crate::error::LabError;
use crate::lab::{Builder, Lab};
use crate::plan::Site;
use crate::space::Host;

/// Two devices, what is between them, and what must come of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Scenario {
    /// Unique name of `[a-z0-9-]`.
    pub name: String,
    /// The first device's site.
    pub a: Site,
    /// The second device's site; `None` when both are in the first.
    pub b: Option<Site>,
    /// How the two end up connected.
    pub expect: Expect,
    /// What the internet does to packets.
    pub link: Option<Link>,
    /// What the devices send to each other.
    pub traffic: Traffic,
    /// When the direct path is cut and healed, if it is.
    pub cut: Option<Cut>,
    /// When the first site's router forgets all its mappings, if it does; from the start.
    pub reboot_after: Option<Duration>,
    /// When the devices' node is drained, if it is, with another one to go to; from the start.
    pub drain_after: Option<Duration>,
    /// On which lane the devices send.
    pub lane: Lane,
    /// Bounds for the medians over all runs.
    pub limits: Limits,
}

/// How two devices end up connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Directly.
    Direct,
    /// Through the relay, never directly.
    Relayed,
    /// Either way.
    Connected,
}

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// All of them arrive, in order.
    Reliable,
    /// One in a thousand may be lost.
    Unreliable,
}

impl Lane {
    /// As the program calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Reliable => "reliable",
            Self::Unreliable => "unreliable",
        }
    }

    /// How many of so many messages may be missing.
    pub(crate) fn losses_max(self, count: u64) -> u64 {
        match self {
            Self::Reliable => 0,
            Self::Unreliable => count / 1000,
        }
    }
}

/// What each device sends to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The interval between messages.
    pub every: Duration,
    /// The number of messages.
    pub count: u64,
    /// The size of a message in bytes.
    pub size: usize,
}

/// Cutting the internet between the two sites for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// From when both are connected directly until the cut.
    pub after: Duration,
    /// Until it is healed.
    pub lasts: Duration,
}

/// Bounds for what is measured, in milliseconds; `None` for no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// For [`Run::first_byte_ms`].
    pub first_byte_ms: Option<f64>,
    /// For [`Run::direct_ms`].
    pub direct_ms: Option<f64>,
    /// For [`Run::relay_again_ms`].
    pub relay_again_ms: Option<f64>,
    /// For [`Run::direct_again_ms`].
    pub direct_again_ms: Option<f64>,
}

impl Scenario {
    /// A pair of sites without delay.
    pub(crate) fn new(name: impl Into<String>, a: Site, b: Option<Site>, expect: Expect) -> Self {
        Self {
            name: name.into(),
            a,
            b,
            expect,
            link: None,
            traffic: Traffic {
                every: Duration::from_millis(20),
                count: 50,
                size: 64,
            },
            cut: None,
            reboot_after: None,
            drain_after: None,
            lane: Lane::Reliable,
            limits: Limits::default(),
        }
    }

    /// Describes the lab of this scenario.
    pub fn lab(&self) -> Builder {
        let mut builder = Lab::builder().site(self.a.clone());
        if let Some(b) = &self.b {
            builder = builder.site(b.clone());
        }
        match self.link {
            Some(link) => builder.link(link),
            None => builder,
        }
    }

    /// The two devices, in a lab of this scenario.
    ///
    /// # Errors
    /// When the lab is another's.
    pub fn devices<'lab>(&self, lab: &'lab Lab) -> Result<[&'lab Host; 2], LabError> {
        let first = lab.device(&self.a.name, 0)?;
        let second = match &self.b {
            Some(b) => lab.device(&b.name, 0)?,
            None => lab.device(&self.a.name, 1)?,
        };
        Ok([first, second])
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::Connected => "connected",
        })
    }
}
