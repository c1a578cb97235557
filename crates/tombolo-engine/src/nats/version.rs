//! Which servers may be used.

use std::fmt;
use std::str::FromStr;

/// A server's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Breaking changes.
    pub major: u64,
    /// Features.
    pub minor: u64,
    /// Corrections.
    pub patch: u64,
}

impl Version {
    /// `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Below this one, compare-and-swap with replicas is not exclusive
    /// (nats-io/nats-server#4320), and a killed process could lose whole streams.
    pub const REPLICAS_MIN: Self = Self::new(2, 10, 25);

    /// What the tests run on.
    pub const TESTED_MIN: Self = Self::new(2, 12, 0);

    /// From here on one question is answered by many messages, and messages can end by themselves.
    pub(super) const BATCHES_MIN: Self = Self::new(2, 11, 0);

    /// Decides about a server.
    ///
    /// # Errors
    /// When it must not be used.
    pub fn admit(self, replicas: usize, floor: Self) -> Result<(), Refusal> {
        if replicas > 1 && self < Self::REPLICAS_MIN {
            return Err(Refusal::NotExclusive { found: self });
        }
        if self < floor {
            return Err(Refusal::BelowFloor { found: self, floor });
        }
        Ok(())
    }
}

/// Why a server is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It breaks what rooms and leases rely on.
    #[error(
        "NATS server {found} with replicas lets several writers win the same compare-and-swap: \
         use {} or later",
        Version::REPLICAS_MIN
    )]
    NotExclusive {
        /// Its version.
        found: Version,
    },
    /// The configuration asks for a later one.
    #[error("NATS server {found} is older than {floor}, which the configuration asks for")]
    BelowFloor {
        /// Its version.
        found: Version,
        /// What is asked for.
        floor: Version,
    },
    /// Its version cannot be read.
    #[error("NATS server has a version that cannot be read")]
    Unreadable,
}

/// The text is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a version such as 2.12.0")]
pub struct VersionError;

impl FromStr for Version {
    type Err = VersionError;

    /// Reads `2.12.8`, and takes `2.12.8-beta.1` for it.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(VersionError);
        };
        Ok(Self::new(major, minor, patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_need_a_server_whose_compare_and_swap_is_exclusive() {
        let any = Version::new(0, 0, 0);
        for (text, is_admitted) in [
            ("2.9.10", false),
            ("2.10.24", false),
            ("2.10.25", true),
            ("2.12.8", true),
            ("3.0.0-beta.1", true),
        ] {
            let version: Version = text.parse().unwrap();
            assert_eq!(version.admit(3, any).is_ok(), is_admitted, "{text}");
            assert!(version.admit(1, any).is_ok(), "{text} alone");
        }
    }

    #[test]
    fn a_floor_holds_for_a_single_server_too() {
        let floor = Version::TESTED_MIN;
        let found = Version::new(2, 11, 11);
        let refusal = Refusal::BelowFloor { found, floor };
        assert_eq!(found.admit(1, floor), Err(refusal));
        assert_eq!(floor.admit(1, floor), Ok(()));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "2", "2.12", "2.12.x", "2.12.8.1", "v2.12.8", "-1.2.3"] {
            assert_eq!(text.parse::<Version>(), Err(VersionError), "{text:?}");
        }
    }
}
