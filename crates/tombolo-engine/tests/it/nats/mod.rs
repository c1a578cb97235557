//! The engine of a cluster, on servers that the tests start. `scripts/install-nats.sh` installs them;
//! where one is missing, its tests say so.

mod chaos;
mod cut_off;
mod fire;
mod one;
mod played;
mod rolled_back;
pub(crate) mod servers;
mod three;

use std::time::Duration;

use tombolo_engine::{Key, NatsConfig, OperationId};

/// An engine's configuration for tests: few streams, short leases.
fn config(urls: Vec<String>, replicas: usize, prefix: &str) -> NatsConfig {
    let mut config = NatsConfig::new(urls);
    config.replicas = replicas;
    config.prefix = prefix.to_owned();
    config.log_shards = 2;
    config.value_shards = 2;
    config.lease_time = Duration::from_secs(2);
    config
}

fn key(name: &str) -> Key {
    Key::new([name]).unwrap()
}

/// An operation like no other.
fn operation() -> OperationId {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    OperationId(u128::from(LAST.fetch_add(1, Ordering::Relaxed)).to_be_bytes())
}
