//! What readers of these logs rely on.
#![allow(missing_docs, clippy::unwrap_used, clippy::unwrap_in_result)]
#![allow(clippy::wildcard_enum_match_arm)]

mod board;
mod group;
mod inbox;
mod inbox_random;
mod kept;
mod presence;
mod roster;
