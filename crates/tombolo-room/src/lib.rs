//! A room as a deterministic state machine fed by a log.
#![forbid(unsafe_code)]
