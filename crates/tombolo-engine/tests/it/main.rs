//! What nodes rely on.
#![allow(missing_docs, clippy::unwrap_used)]

mod local;
