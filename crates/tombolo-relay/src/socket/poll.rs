//! Readiness: epoll for the shard, eventfd for whoever wants to wake it, and a timer among the sources.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
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

    /// Sleeps until a source is ready.
    ///
    /// # Errors
    /// The kernel's, but for "interrupted", which is an early return.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.poll(-1)
    }

    /// Finds the sources that are ready now.
    ///
    /// # Errors
    /// Like [`Self::wait`].
    pub(crate) fn look(&mut self) -> io::Result<()> {
        self.poll(0)
    }

    fn poll(&mut self, millis: i32) -> io::Result<()> {
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

    /// Whether the `i`-th source that is ready has an error to tell of.
    pub(crate) fn has_error(&self, i: usize) -> bool {
        self.events[..self.ready][i].events & libc::EPOLLERR as u32 != 0
    }

    /// Whether the `i`-th source that is ready has input.
    pub(crate) fn has_input(&self, i: usize) -> bool {
        self.events[..self.ready][i].events & libc::EPOLLIN as u32 != 0
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
        read_count(&self.eventfd);
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> i32 {
        self.eventfd.as_raw_fd()
    }
}

/// A source that gets ready when a time has come. Set seldom, it makes waiting cheaper than a timeout
/// that the kernel would have to start and stop each time.
pub(crate) struct Alarm {
    timerfd: OwnedFd,
    /// When it goes off; `None` while it is not set.
    set_to: Option<Instant>,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: a system call without pointers.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        Ok(Self {
            // SAFETY: the kernel just gave us this descriptor, nobody else has it.
            timerfd: unsafe { OwnedFd::from_raw_fd(fd) },
            set_to: None,
        })
    }

    /// Makes sure that it goes off at `deadline`, or earlier: an alarm that is set is not put off, as
    /// most deadlines move away long before they come.
    pub(crate) fn set(&mut self, now: Instant, deadline: Instant) -> io::Result<()> {
        if self.set_to.is_some_and(|at| at <= deadline) {
            return Ok(());
        }
        // Zero would unset it.
        let left = deadline
            .saturating_duration_since(now)
            .max(Duration::from_nanos(1));
        let never = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::itimerspec {
            it_interval: never,
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: left.subsec_nanos().into(),
            },
        };
        // SAFETY: the kernel reads one itimerspec and writes nothing.
        check(unsafe {
            libc::timerfd_settime(
                self.timerfd.as_raw_fd(),
                0,
                &raw const value,
                std::ptr::null_mut(),
            )
        })?;
        self.set_to = Some(deadline);
        Ok(())
    }

    /// Takes notice that it went off.
    pub(crate) fn reset(&mut self) {
        read_count(&self.timerfd);
        self.set_to = None;
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> i32 {
        self.timerfd.as_raw_fd()
    }
}

/// Reads what makes an eventfd or a timerfd ready.
fn read_count(fd: &OwnedFd) {
    let mut count = 0u64;
    // SAFETY: the kernel writes eight bytes to `count`. A failure means that nothing was pending.
    unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
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
        poller.wait().expect("it works");
        assert_eq!((poller.ready(), poller.token(0)), (1, 7));

        waker.reset();
        poller.look().expect("it works");
        assert_eq!(poller.ready(), 0);
    }

    #[test]
    fn an_alarm_goes_off_at_the_earliest_of_its_times() {
        let mut poller = Poller::new().expect("epoll is there");
        let mut alarm = Alarm::new().expect("timerfd is there");
        poller.add(&alarm, 3).expect("it can be watched");
        let now = Instant::now();
        alarm
            .set(now, now + Duration::from_secs(3600))
            .expect("it works");
        poller.look().expect("it works");
        assert_eq!(poller.ready(), 0);

        alarm.set(now, now).expect("it works");
        alarm
            .set(now, now + Duration::from_secs(60))
            .expect("it works");
        poller.wait().expect("it works");
        assert_eq!((poller.ready(), poller.token(0)), (1, 3));

        alarm.reset();
        poller.look().expect("it works");
        assert_eq!(poller.ready(), 0);
    }
}
