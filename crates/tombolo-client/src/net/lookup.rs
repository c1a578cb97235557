//! What addresses a name has.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A name that is not resolved by then is not resolved: systems go on asking servers that are silent for much longer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);

/// The addresses of a name, or of an address.
pub(crate) async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port));
    match tokio::time::timeout(LOOKUP_TIMEOUT, found).await {
        Ok(found) => Ok(found?.collect()),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the name was not resolved in time",
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::Device;

    #[test]
    fn a_device_waits_for_no_resolver_that_does_not_answer() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true);
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        // Names are resolved in a thread that others have, and the only one is taken.
        let (_until_the_end, end) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || end.recv());
        runtime.block_on(async {
            let began = Instant::now();
            let connecting = tokio::spawn(Device::connect("tombolo://node.test:1", "token"));
            while !connecting.is_finished() && began.elapsed() < Duration::from_secs(11) {
                advance(Duration::from_millis(50)).await;
            }
            assert!(connecting.is_finished(), "it waits");
            let error = connecting.await.unwrap().unwrap_err();
            assert!(error.is_unreachable(), "{error}");
        });
    }
}
