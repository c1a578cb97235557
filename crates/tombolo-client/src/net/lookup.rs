//! What addresses a name has.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A name that is not resolved by then is not resolved: systems go on asking servers that are silent for much longer,
/// a second one after 5 s.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(9);

/// The addresses of a name, or of an address.
pub(crate) async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    lookup_within(LOOKUP_TIMEOUT, host, port).await
}

/// The same, where so much is not waited for.
pub(crate) async fn lookup_within(
    time: Duration,
    host: &str,
    port: u16,
) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host((host, port));
    match tokio::time::timeout(time, found).await {
        Ok(found) => Ok(found?.collect()),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the name was not resolved in time",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use tokio::runtime::Runtime;
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::Device;

    /// Names are resolved in a thread that others have: the only one is taken until something is sent.
    fn silent() -> (Runtime, Sender<()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true);
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        let (answer, silence) = channel();
        runtime.spawn_blocking(move || silence.recv());
        (runtime, answer)
    }

    #[test]
    fn a_name_is_waited_for_until_the_system_has_asked_a_second_server() {
        let (runtime, answer) = silent();
        runtime.block_on(async {
            let looking = tokio::spawn(lookup("localhost", 1));
            for _ in 0..60 {
                advance(Duration::from_millis(100)).await;
            }
            answer.send(()).unwrap();
            let found = looking.await.unwrap().unwrap();
            assert!(found.iter().all(|address| address.ip().is_loopback()));
        });
    }

    #[test]
    fn a_device_waits_for_no_resolver_that_does_not_answer() {
        let (runtime, _until_the_end) = silent();
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
