//! The world: hosts with actors on a network, under one clock and one queue of events.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::{RngExt as _, rngs::ChaCha12Rng};

use crate::network::{InFlight, Network, Place, Scene};
use crate::{
    Actor, Clock, EventLog, HostId, LinkConfig, RealmId, RouterConfig, RouterId, Seed, UdpPolicy,
};

/// A deterministic world.
///
/// Build it with [`add_router`](Self::add_router) and [`add_host`](Self::add_host), let time pass with
/// [`run_for`](Self::run_for) or [`run_until`](Self::run_until), reach into it between with
/// [`actor`](Self::actor) and [`with_actor`](Self::with_actor). Two worlds with the same seed to which
/// the same is done have equal event logs, byte for byte.
#[derive(Debug)]
pub struct World<A: Actor> {
    clock: Clock,
    rng: ChaCha12Rng,
    network: Network,
    actors: Vec<Runner<A>>,
    queue: BinaryHeap<Reverse<Queued<A::Message>>>,
    sequence: u64,
    packets: u64,
    log: EventLog,
}

#[derive(Debug)]
struct Runner<A> {
    actor: A,
    /// The deadline that is in the queue, so that others found there are known to be stale.
    wakes: Option<Instant>,
    /// Wake-ups without the clock moving, to catch an actor that asks for the past for ever.
    idle_wakes: u32,
    last_wake: Option<Instant>,
}

/// An event in the queue, ordered by time and, within a moment, by when it was queued.
#[derive(Debug)]
struct Queued<M> {
    at: Instant,
    sequence: u64,
    /// Boxed, since the queue moves its entries often.
    event: Box<Event<M>>,
}

#[derive(Debug)]
enum Event<M> {
    Arrive {
        place: Place,
        flight: InFlight,
    },
    Deliver {
        from: HostId,
        to: HostId,
        message: M,
    },
    Wake {
        host: HostId,
    },
}

impl<A: Actor> World<A> {
    /// An empty Internet at time zero.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        let mut rng = seed.rng();
        let network = Network::new(rand::SeedableRng::from_seed(rng.random()));
        Self {
            clock: Clock::new(),
            rng,
            network,
            actors: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            packets: 0,
            log: EventLog::new(seed),
        }
    }

    /// Adds a router between the realm `outer` and a new one behind it.
    ///
    /// # Panics
    /// If one of its external addresses is taken.
    pub fn add_router(&mut self, name: &str, outer: RealmId, config: RouterConfig) -> RouterId {
        self.note(format_args!("{name} is a router: {config:?}"));
        let nat_seed = self.rng.random();
        self.network.add_router(name, outer, config, nat_seed)
    }

    /// Adds a host with its addresses to a realm and starts an actor on it; `start` is given the time,
    /// the host's id and a seed.
    ///
    /// # Panics
    /// If one of the addresses is taken.
    pub fn add_host(
        &mut self,
        name: &str,
        realm: RealmId,
        addresses: &[IpAddr],
        link: LinkConfig,
        start: impl FnOnce(Instant, HostId, [u8; 32]) -> A,
    ) -> HostId {
        self.note(format_args!("{name} is a host: {addresses:?} {link:?}"));
        let host = self.network.add_host(name, realm, addresses, link);
        let actor = start(self.clock.now(), host, self.rng.random());
        self.actors.push(Runner {
            actor,
            wakes: None,
            idle_wakes: 0,
            last_wake: None,
        });
        self.drain(host);
        host
    }

    /// The realm behind a router.
    #[must_use]
    pub fn inside(&self, router: RouterId) -> RealmId {
        self.network.inside(router)
    }

    /// The actor on a host, to look at.
    #[must_use]
    pub fn actor(&self, host: HostId) -> &A {
        &self.actors[host.0].actor
    }

    /// Does something with the actor on a host, now.
    pub fn with_actor<R>(&mut self, host: HostId, act: impl FnOnce(Instant, &mut A) -> R) -> R {
        let result = act(self.clock.now(), &mut self.actors[host.0].actor);
        self.drain(host);
        result
    }

    /// Lets this much time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.clock.now() + time;
        while self.step(end) {}
        self.clock.advance_to(end);
    }

    /// Lets time pass until `done` says so and returns how long that took; `None` if it did not within
    /// `limit`.
    pub fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.clock.now();
        let end = start + limit;
        while !done(self) {
            if !self.step(end) {
                self.clock.advance_to(end);
                return None;
            }
        }
        Some(self.clock.now() - start)
    }

    /// Drops every packet between two hosts, wherever their path leads; packets that each exchanges with
    /// others, relays included, go on.
    pub fn cut(&mut self, a: HostId, b: HostId) {
        self.note_pair("the path is cut", a, b);
        self.network.cut(a, b);
    }

    /// Ends a [`cut`](Self::cut).
    pub fn heal(&mut self, a: HostId, b: HostId) {
        self.note_pair("the path is healed", a, b);
        self.network.heal(a, b);
    }

    /// Makes a router forget all mappings, filters and flows.
    pub fn reboot(&mut self, router: RouterId) {
        let Self {
            network,
            log,
            clock,
            ..
        } = self;
        log.record(
            clock.elapsed(),
            format_args!("{} reboots", network.router_name(router)),
        );
        self.network.reboot(router);
    }

    /// Changes whether a router lets UDP through.
    pub fn set_udp(&mut self, router: RouterId, udp: UdpPolicy) {
        self.network.set_udp(router, udp);
    }

    /// Changes the link of a host.
    pub fn set_host_link(&mut self, host: HostId, link: LinkConfig) {
        self.network.set_host_link(host, link);
    }

    /// Changes the link between a router and its outer realm.
    pub fn set_uplink(&mut self, router: RouterId, link: LinkConfig) {
        self.network.set_uplink(router, link);
    }

    /// The delay from one host to another without jitter, one way.
    #[must_use]
    pub fn delay(&self, a: HostId, b: HostId) -> Duration {
        self.network.delay(a, b)
    }

    /// The addresses of a host in its own realm.
    #[must_use]
    pub fn addresses(&self, host: HostId) -> &[IpAddr] {
        self.network.addresses(host)
    }

    /// Virtual time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// What happened so far.
    #[must_use]
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// Writes a line of the test's own into the event log.
    pub fn note(&mut self, event: fmt::Arguments<'_>) {
        self.log.record(self.clock.elapsed(), event);
    }

    fn note_pair(&mut self, what: &str, a: HostId, b: HostId) {
        let Self {
            network,
            log,
            clock,
            ..
        } = self;
        let (a, b) = (network.host_name(a), network.host_name(b));
        log.record(clock.elapsed(), format_args!("{what} between {a} and {b}"));
    }

    /// Lets the next event happen, if that is before `end`.
    fn step(&mut self, end: Instant) -> bool {
        if self
            .queue
            .peek()
            .is_none_or(|Reverse(queued)| queued.at > end)
        {
            return false;
        }
        let Some(Reverse(Queued { at, event, .. })) = self.queue.pop() else {
            return false;
        };
        self.clock.advance_to(at);
        match *event {
            Event::Arrive {
                place: Place::Host(host),
                flight,
            } => self.on_delivery(host, &flight),
            Event::Arrive { place, flight } => {
                let mut scene = Scene {
                    clock: &self.clock,
                    log: &mut self.log,
                };
                let next = self.network.forward(&mut scene, place, flight);
                self.queue_arrivals(next);
            }
            Event::Deliver { from, to, message } => {
                let (sender, receiver) = (self.network.host_name(from), self.network.host_name(to));
                let event = format_args!("{receiver} hears {message:?} from {sender}");
                self.log.record(self.clock.elapsed(), event);
                self.actors[to.0].actor.handle_message(at, from, message);
                self.drain(to);
            }
            Event::Wake { host } => self.on_wake(host, at),
        }
        true
    }

    fn on_delivery(&mut self, host: HostId, flight: &InFlight) {
        let name = self.network.host_name(host);
        let event = format_args!("{name} receives #{} {}", flight.id, flight.packet);
        self.log.record(self.clock.elapsed(), event);
        self.actors[host.0]
            .actor
            .handle_packet(self.clock.now(), &flight.packet);
        self.drain(host);
    }

    fn on_wake(&mut self, host: HostId, at: Instant) {
        let runner = &mut self.actors[host.0];
        if runner.wakes != Some(at) {
            return;
        }
        runner.wakes = None;
        let now = self.clock.now();
        runner.idle_wakes = if runner.last_wake == Some(now) {
            runner.idle_wakes + 1
        } else {
            0
        };
        runner.last_wake = Some(now);
        let name = self.network.host_name(host);
        assert!(
            runner.idle_wakes < IDLE_WAKES_MAX,
            "{name} keeps asking for a timeout that is due"
        );
        runner.actor.handle_timeout(now);
        self.drain(host);
    }

    /// Carries out all that an actor wants after it was called.
    fn drain(&mut self, host: HostId) {
        while let Some(note) = self.actors[host.0].actor.poll_note() {
            let name = self.network.host_name(host);
            self.log
                .record(self.clock.elapsed(), format_args!("{name}: {note}"));
        }
        while let Some(packet) = self.actors[host.0].actor.poll_transmit() {
            let flight = InFlight {
                packet,
                origin: host,
                id: self.packets,
            };
            self.packets += 1;
            let mut scene = Scene {
                clock: &self.clock,
                log: &mut self.log,
            };
            let arrivals = self.network.send(&mut scene, flight);
            self.queue_arrivals(arrivals);
        }
        while let Some((to, message)) = self.actors[host.0].actor.poll_message() {
            let at = self.clock.now() + self.network.delay(host, to);
            self.push(
                at,
                Event::Deliver {
                    from: host,
                    to,
                    message,
                },
            );
        }
        let now = self.clock.now();
        let runner = &mut self.actors[host.0];
        let wakes = runner.actor.poll_timeout().map(|at| at.max(now));
        if wakes != runner.wakes {
            runner.wakes = wakes;
            if let Some(at) = wakes {
                self.push(at, Event::Wake { host });
            }
        }
    }

    fn queue_arrivals(&mut self, arrivals: Vec<(Instant, Place, InFlight)>) {
        for (at, place, flight) in arrivals {
            self.push(at, Event::Arrive { place, flight });
        }
    }

    fn push(&mut self, at: Instant, event: Event<A::Message>) {
        assert!(
            self.queue.len() < QUEUE_MAX,
            "the world is flooded: {QUEUE_MAX} events are queued"
        );
        self.sequence += 1;
        self.queue.push(Reverse(Queued {
            at,
            sequence: self.sequence,
            event: Box::new(event),
        }));
    }
}

impl<M> PartialEq for Queued<M> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<M> Eq for Queued<M> {}

impl<M> PartialOrd for Queued<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for Queued<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

const QUEUE_MAX: usize = 1_000_000;
const IDLE_WAKES_MAX: u32 = 1000;
