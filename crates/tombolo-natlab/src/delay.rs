//! Delay, jitter and loss between public networks, applied by a thread that holds every packet
//! which the internet namespace forwards until its time has come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::means;
use crate::nfqueue::{PacketId, Queue, Verdict};
use crate::plan::Prefix;

/// What the internet does to packets, each way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Link {
    /// One-way delay.
    pub delay: Duration,
    /// The delay of each packet varies by up to this, evenly, both ways.
    pub jitter: Duration,
    /// The part of packets that is lost, 0 to 1.
    pub loss: f64,
    /// Whether jitter may let one packet overtake another.
    pub reorder: bool,
}

impl Link {
    /// A link with a constant one-way delay.
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Lets the delay vary by up to `jitter`, both ways.
    #[must_use]
    pub fn with_jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Loses that part of the packets, 0 to 1.
    #[must_use]
    pub fn with_loss(mut self, loss: f64) -> Self {
        self.loss = loss;
        self
    }

    /// Lets jitter change the order of packets.
    #[must_use]
    pub fn with_reorder(mut self) -> Self {
        self.reorder = true;
        self
    }
}

/// Which link applies to which packets: the rule added last wins.
#[derive(Debug, Default)]
pub(crate) struct Links {
    everywhere: Link,
    between: Vec<(Vec<Prefix>, Vec<Prefix>, Link)>,
}

impl Links {
    /// Sets the link of all packets, and forgets those set for particular ones.
    pub(crate) fn set(&mut self, link: Link) {
        self.everywhere = link;
        self.between.clear();
    }

    /// Sets the link of packets from one network to another, that way only.
    pub(crate) fn set_between(&mut self, from: Vec<Prefix>, to: Vec<Prefix>, link: Link) {
        self.between
            .retain(|(source, target, _)| (source, target) != (&from, &to));
        self.between.push((from, to, link));
    }

    fn link(&self, (source, target): (IpAddr, IpAddr)) -> Link {
        let holds = |prefixes: &[Prefix], address| prefixes.iter().any(|p| p.contains(address));
        self.between
            .iter()
            .rev()
            .find(|(from, to, _)| holds(from, source) && holds(to, target))
            .map_or(self.everywhere, |(_, _, link)| *link)
    }
}

/// The thread that delays. Dropping it lets waiting packets go and ends the thread.
#[derive(Debug)]
pub(crate) struct Delayer {
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    stop: Option<UnixStream>,
}

impl Delayer {
    /// Starts delaying what `queue` announces, as `links` says at the time of each arrival.
    pub(crate) fn start(queue: Queue, links: Arc<Mutex<Links>>, seed: u64) -> io::Result<Self> {
        let (stop, stopped) = UnixStream::pair()?;
        let work = Work {
            queue,
            links,
            waiting: BinaryHeap::new(),
            arrivals: 0,
            last_due: BTreeMap::new(),
            random: seed,
        };
        let thread = thread::Builder::new()
            .name("natlab-delay".to_owned())
            .spawn(move || {
                prefer_this_thread();
                if let Err(error) = work.run(&stopped) {
                    tracing::error!(%error, "the delayer has stopped");
                }
            })?;
        Ok(Self {
            thread: Some(thread),
            stop: Some(stop),
        })
    }
}

impl Drop for Delayer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; packets pass without it.
            let _ = thread.join();
        }
    }
}

struct Work {
    queue: Queue,
    links: Arc<Mutex<Links>>,
    /// Packets by the time they go, and among equals by arrival.
    waiting: BinaryHeap<Reverse<(Instant, u64, PacketId)>>,
    arrivals: u64,
    /// When the last packet of each pair goes; none that comes later goes before.
    last_due: BTreeMap<(IpAddr, IpAddr), Instant>,
    random: u64,
}

impl Work {
    fn run(mut self, stopped: &UnixStream) -> io::Result<()> {
        loop {
            let now = Instant::now();
            self.release(now)?;
            let timeout = self.waiting.peek().map(|Reverse((due, ..))| {
                TimeSpec::from_duration(due.saturating_duration_since(now))
            });
            let mut ready = [
                PollFd::new(self.queue.as_fd(), PollFlags::POLLIN),
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut ready, timeout, None) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if ready[1].any() == Some(true) {
                return self.release_all();
            }
            if ready[0].any() == Some(true) {
                self.receive()?;
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut arrived = Vec::new();
        self.queue.receive(|packet| arrived.push(packet))?;
        let now = Instant::now();
        for packet in arrived {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            let link = packet
                .endpoints
                .map(|endpoints| links.link(endpoints))
                .unwrap_or_default();
            drop(links);
            if link.loss > 0.0 && self.random_part() < link.loss {
                self.queue.decide(packet.id, Verdict::Drop)?;
                continue;
            }
            let mut due = now + self.vary(link);
            if let Some(endpoints) = packet.endpoints
                && !link.reorder
            {
                let last = self.last_due.entry(endpoints).or_insert(due);
                due = due.max(*last);
                *last = due;
            }
            if due <= now {
                self.queue.decide(packet.id, Verdict::Accept)?;
            } else {
                self.waiting.push(Reverse((due, self.arrivals, packet.id)));
                self.arrivals += 1;
            }
        }
        Ok(())
    }

    fn release(&mut self, now: Instant) -> io::Result<()> {
        while let Some(Reverse((due, _, id))) = self.waiting.peek().copied() {
            if due > now {
                break;
            }
            self.waiting.pop();
            self.queue.decide(id, Verdict::Accept)?;
        }
        Ok(())
    }

    fn release_all(&mut self) -> io::Result<()> {
        while let Some(Reverse((.., id))) = self.waiting.pop() {
            self.queue.decide(id, Verdict::Accept)?;
        }
        Ok(())
    }

    /// The delay of one packet.
    fn vary(&mut self, link: Link) -> Duration {
        if link.jitter.is_zero() {
            return link.delay;
        }
        let shift = link.jitter.mul_f64(2.0 * self.random_part());
        (link.delay + shift).saturating_sub(link.jitter)
    }

    /// A number in 0..1, by splitmix64.
    fn random_part(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds")]
        let part = (z >> 11) as f64 / (1_u64 << 53) as f64;
        part
    }
}

/// Asks the scheduler to run this thread before others, so that a busy machine does not stretch
/// delays. Best effort: a user namespace is refused.
fn prefer_this_thread() {
    let thread = nix::unistd::gettid().to_string();
    let asked = Command::new(means::path_of("chrt"))
        .args(["--fifo", "--pid", "10", &thread])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !asked.is_ok_and(|status| status.success()) {
        tracing::debug!("delays are as exact as the machine is idle");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 2));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 2));

    fn only(address: IpAddr) -> Vec<Prefix> {
        vec![Prefix { address, bits: 32 }]
    }

    #[test]
    fn a_link_between_two_applies_one_way_and_before_the_general_one() {
        let slow = Link::delay(Duration::from_millis(50));
        let fast = Link::delay(Duration::from_millis(5));
        let mut links = Links::default();
        links.set(fast);
        links.set_between(only(A), only(B), slow);
        assert_eq!(links.link((A, B)), slow);
        assert_eq!(links.link((B, A)), fast);
    }

    #[test]
    fn a_general_link_replaces_what_was_set_before() {
        let mut links = Links::default();
        links.set_between(only(A), only(B), Link::delay(Duration::from_millis(50)));
        links.set(Link::default());
        assert_eq!(links.link((A, B)), Link::default());
    }
}
