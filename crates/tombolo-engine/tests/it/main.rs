//! What nodes rely on.
#![allow(missing_docs, clippy::unwrap_used)]

mod disk;
mod killed;
mod local;
mod nats;
mod sealed;

use nats::servers;
