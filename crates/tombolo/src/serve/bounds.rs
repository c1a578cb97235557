//! Numbers of a node's file that have to be within a range.

use std::fmt::Display;
use std::ops::RangeInclusive;

use anyhow::ensure;

/// Sets a limit to what is given, if anything is; or says where it stands, and what it may be.
pub(super) fn set<T: PartialOrd + Display>(
    limit: &mut T,
    given: Option<T>,
    range: RangeInclusive<T>,
    place: impl Fn() -> String,
) -> anyhow::Result<()> {
    if let Some(given) = given {
        ensure!(
            range.contains(&given),
            "{}: {} to {}",
            place(),
            range.start(),
            range.end()
        );
        *limit = given;
    }
    Ok(())
}
