//! What nodes keep for each other among the engine's values, beside nodes, rooms and their codes.

pub(crate) mod generated;
pub(crate) mod made;
pub(crate) mod making;
pub(crate) mod requests;

/// The version of the values that this crate writes and reads.
pub(crate) const VERSION: u32 = 1;
