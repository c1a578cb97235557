//! Readiness: epoll for the shard, eventfd for whoever wants to wake it.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// How many ready sources one wait reports; the kernel hands out the others on the next, in turn.
const EVENTS: usize = 64;

/// Tells which sources can be read. Level-triggered: what was not read is reported again, behind the
/// others, so that no source starves the rest.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: [libc::epoll_event; EVENTS],
    ready: usize,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a system call without pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self {
            // SAFETY: the kernel just gave us this descriptor, nobody else has it.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            events: [libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            ready: 0,
        })
    }

    /// Watches `source` for input from now on, until it is closed.
    ///
    /// # Errors
    /// The kernel's: too many watches, out of memory.
    pub(crate) fn add(&self, source: &impl AsRawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        // SAFETY: `event` lives for the call.
        check(unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                source.as_raw_fd(),
                &raw mut event,
            )
        })?;
        Ok(())
    }

    /// Sleeps until a source is ready or `timeout` has passed (rounded up to milliseconds).
    ///
    /// # Errors
    /// The kernel's, but for "interrupted", which is an early return.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let millis = timeout.map_or(-1, |timeout| {
            let micros = timeout.as_micros().div_ceil(1000);
            i32::try_from(micros).unwrap_or(i32::MAX)
        });
        self.ready = 0;
        // SAFETY: the kernel writes at most `EVENTS` entries of the array.
        let ready = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS as i32,
                millis,
            )
        };
        match check(ready) {
            Ok(ready) => self.ready = usize::try_from(ready).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How many sources the last [`Self::wait`] found ready.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// The token of the `i`-th source that is ready.
    pub(crate) fn token(&self, i: usize) -> u64 {
        self.events[..self.ready][i].u64
    }
}

/// Wakes a [`Poller`] from another thread.
pub(crate) struct Waker {
    eventfd: OwnedFd,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a system call without pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self {
            // SAFETY: the kernel just gave us this descriptor, nobody else has it.
            eventfd: unsafe { OwnedFd::from_raw_fd(fd) },
        })
    }

    /// Makes the poller's wait return. Several calls before it does are one.
    pub(crate) fn wake(&self) {
        let one = 1u64;
        // SAFETY: the kernel reads eight bytes of `one`. A failure can only be an overflow of the
        // counter: then the poller has been woken already.
        unsafe {
            libc::write(
                self.eventfd.as_raw_fd(),
                (&raw const one).cast(),
                size_of::<u64>(),
            )
        };
    }

    /// Forgets the wake-ups so far.
    pub(crate) fn reset(&self) {
        let mut count = 0u64;
        // SAFETY: the kernel writes eight bytes to `count`. A failure means that none was pending.
        unsafe {
            libc::read(
                self.eventfd.as_raw_fd(),
                (&raw mut count).cast(),
                size_of::<u64>(),
            )
        };
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> i32 {
        self.eventfd.as_raw_fd()
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_reported_until_it_is_reset() {
        let mut poller = Poller::new().expect("epoll is there");
        let waker = Waker::new().expect("eventfd is there");
        poller.add(&waker, 7).expect("it can be watched");

        waker.wake();
        waker.wake();
        poller.wait(None).expect("it works");
        assert_eq!((poller.ready(), poller.token(0)), (1, 7));

        waker.reset();
        poller.wait(Some(Duration::ZERO)).expect("it works");
        assert_eq!(poller.ready(), 0);
    }
}
