use std::io;
use std::ops::{Deref, DerefMut};
use std::process::{self, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process inside the lab. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Child(process::Child);

impl Child {
    pub(crate) fn new(child: process::Child) -> Self {
        Self(child)
    }

    /// Asks the process to end (SIGTERM). Harmless when it has ended.
    ///
    /// # Errors
    /// What the system said.
    pub fn terminate(&mut self) -> io::Result<()> {
        if self.0.try_wait()?.is_some() {
            return Ok(());
        }
        // Its number cannot have been given to another: it has not been waited for.
        let pid = i32::try_from(self.0.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), Signal::SIGTERM)?)
    }

    /// Waits for the process's end, at most `timeout`. `None` when it still runs then.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait_at_most(&mut self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Deref for Child {
    type Target = process::Child;

    fn deref(&self) -> &process::Child {
        &self.0
    }
}

impl DerefMut for Child {
    fn deref_mut(&mut self) -> &mut process::Child {
        &mut self.0
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
