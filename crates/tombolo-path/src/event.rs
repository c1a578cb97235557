//! What the agent tells its driver.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::PeerId;

/// The way that a peer's data takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// Through the relay: always possible, and where every peer starts.
    Relay,
    /// Straight to this address, in canonical form (never IPv4-mapped).
    Direct(SocketAddr),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay => f.write_str("relay"),
            Self::Direct(address) => write!(f, "direct to {address}"),
        }
    }
}

/// Why a route changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A check was answered while there was no direct route.
    FirstAnswer,
    /// Another direct path is clearly faster, or as fast and of a better kind.
    Better,
    /// The peer chose this path: by its peer link or by nominating it (RFC 8445 §8.1.1).
    Adopted,
    /// Nothing came back on the route for too long.
    Suspected,
    /// The peer link's path was closed, mostly because the peer suspects it.
    Abandoned,
    /// No check was answered for 30 s, so no more may be sent there. See RFC 7675 §5.1.
    ConsentExpired,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstAnswer => "a check was answered",
            Self::Better => "a better direct path",
            Self::Adopted => "the peer chose it",
            Self::Suspected => "the direct path went silent",
            Self::Abandoned => "the peer closed the direct path",
            Self::ConsentExpired => "the peer's consent expired",
        })
    }
}

/// Something that the driver should know or act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// From now on the peer's data takes this route.
    Route {
        /// Whose data.
        peer: PeerId,
        /// The new route; never the same twice in a row.
        route: Route,
        /// Why it changed.
        cause: Cause,
        /// The smoothed RTT of the direct route; `None` for the relay and for a route not measured.
        rtt: Option<Duration>,
    },
    /// An authenticated check arrived from this address, and no check of ours to it was answered
    /// yet: the way in works, the way out probably does. A hint to open a path early. Comes once
    /// per address and attempt.
    Heard {
        /// Who sent the check.
        peer: PeerId,
        /// Where it came from, in canonical form.
        from: SocketAddr,
    },
}

impl Event {
    /// Returns the peer that the event is about.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        match self {
            Self::Route { peer, .. } | Self::Heard { peer, .. } => *peer,
        }
    }
}

/// A datagram to send on the device's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The destination, in canonical form (never IPv4-mapped).
    pub to: SocketAddr,
    /// The payload: one STUN message.
    pub bytes: Vec<u8>,
}

/// Why the agent wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// A check waits for its turn (pacing).
    Pace,
    /// A check to an address that has not answered is due.
    Retry,
    /// A working address that is not the route is due for a check.
    Standby,
    /// The route is silent: a probe or the verdict is due.
    Silence,
    /// A consent check, or the end of consent, is due.
    Consent,
}
