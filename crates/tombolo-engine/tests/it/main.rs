//! What nodes rely on.
#![allow(missing_docs, clippy::unwrap_used)]

mod disk;
mod local;
mod nats;
