//! Tests that want a network to themselves, without hosts and routers.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use crate::skip;

/// Runs `test` in a thread with a network namespace of its own, in which the loopback interface has an MTU
/// of 1500 bytes; skips it where that is not permitted. Programs that it starts are in there, too.
///
/// # Panics
/// As the test does, or without iproute2.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let probe = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    if let Err(error) = probe.expect("it does not panic") {
        skip(&format!("no network namespaces: {error}"));
        return;
    }
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("it was possible before");
        ip_command(&["link", "set", "lo", "up", "mtu", "1500"]);
        test();
    };
    // Named like the test, which is what failures are reported under.
    let name = thread::current().name().unwrap_or("test").to_owned();
    let thread = thread::Builder::new().name(name).spawn(run);
    if let Err(panic) = thread.expect("there are threads").join() {
        std::panic::resume_unwind(panic);
    }
}

/// Changes the network that the calling thread is in, as `ip` does.
///
/// # Panics
/// When that fails, or without iproute2.
pub fn ip_command(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status();
    assert!(
        status.expect("iproute2 is installed").success(),
        "{arguments:?}"
    );
}
