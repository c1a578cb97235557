//! What every node relies on.
#![allow(missing_docs, clippy::unwrap_used)]

mod encoding;
mod rules;
mod sameness;
