//! Two agents, a virtual clock, and a network between them with delay, loss, jitter and NATs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};
use tombolo_path::{
    Agent, Candidate, CandidateKind, Cause, Config, Credentials, Event, PeerConfig, PeerId, Policy,
    Route,
};

pub(crate) const MS: Duration = Duration::from_millis(1);
/// Each agent knows the other by this number.
pub(crate) const PEER: PeerId = PeerId(7);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

/// The NATs that the tests need, by their old names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    None,
    FullCone,
    Restricted,
    PortRestricted,
    Symmetric,
    /// Maps anew for every destination, and lets everybody in.
    SymmetricOpen,
}

/// A device with its agent behind its NAT.
pub(crate) struct Device {
    pub(crate) agent: Agent,
    pub(crate) host: SocketAddr,
    nat: Nat,
    public_ip: [u8; 4],
    /// Public port by destination ("0.0.0.0:0" for NATs that do not look at it).
    ports: BTreeMap<SocketAddr, u16>,
    sent_to: BTreeSet<SocketAddr>,
    /// The device's addresses in networks without NAT; it sends from one to its own network.
    pub(crate) extra: Vec<SocketAddr>,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) data_received: u64,
    pub(crate) checks_sent: u64,
}

impl Device {
    /// The public source address of a packet to `to`; opens the filter.
    fn translate_out(&mut self, to: SocketAddr) -> SocketAddr {
        self.sent_to.insert(to);
        let is_near = |ip: IpAddr, to: IpAddr| match (ip, to) {
            (IpAddr::V4(ip), IpAddr::V4(to)) => ip.octets()[..3] == to.octets()[..3],
            _ => false,
        };
        if let Some(extra) = self.extra.iter().find(|extra| is_near(extra.ip(), to.ip())) {
            return *extra;
        }
        if self.nat == Nat::None {
            return self.host;
        }
        let key = if matches!(self.nat, Nat::Symmetric | Nat::SymmetricOpen) {
            to
        } else {
            ([0, 0, 0, 0], 0).into()
        };
        let next = 40_000 + u16::try_from(self.ports.len()).unwrap();
        let port = *self.ports.entry(key).or_insert(next);
        (self.public_ip, port).into()
    }

    fn lets_in(&self, from: SocketAddr, to: SocketAddr) -> bool {
        if self.extra.contains(&to) {
            return true;
        }
        if self.nat == Nat::None {
            return to == self.host;
        }
        let Some((mapped_for, _)) = self
            .ports
            .iter()
            .find(|(_, port)| to == (self.public_ip, **port).into())
        else {
            return false;
        };
        match self.nat {
            Nat::None | Nat::FullCone | Nat::SymmetricOpen => true,
            Nat::Restricted => self.sent_to.iter().any(|sent| sent.ip() == from.ip()),
            Nat::PortRestricted => self.sent_to.contains(&from),
            Nat::Symmetric => *mapped_for == from,
        }
    }
}

enum Payload {
    Stun(Vec<u8>),
    Data,
}

struct Packet {
    at: Duration,
    order: u64,
    to_side: Side,
    from: SocketAddr,
    to: SocketAddr,
    payload: Payload,
}

/// The world: call `run_for` and look at the devices.
pub(crate) struct World {
    start: Instant,
    pub(crate) elapsed: Duration,
    pub(crate) devices: [Device; 2],
    packets: Vec<Packet>,
    order: u64,
    rng: ChaCha12Rng,
    /// One way.
    pub(crate) delay: Duration,
    /// Added at random, up to this.
    pub(crate) jitter: Duration,
    /// In percent, per packet.
    pub(crate) loss: u32,
    /// Nothing passes.
    pub(crate) is_cut: bool,
    /// Nothing passes towards this side.
    pub(crate) is_deaf: Option<Side>,
    /// One-way delay towards an address, instead of the usual one.
    pub(crate) delay_to: BTreeMap<SocketAddr, Duration>,
    /// Data is sent on the direct route this often; `None` for never.
    pub(crate) data_every: Option<Duration>,
    next_data: Duration,
    /// Everything on the wire, for tests that replay it; bounded.
    pub(crate) seen: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl World {
    pub(crate) fn new(seed: u8, nat_a: Nat, nat_b: Nat) -> Self {
        Self::with_config(seed, nat_a, nat_b, Config::default())
    }

    pub(crate) fn with_config(seed: u8, nat_a: Nat, nat_b: Nat, config: Config) -> Self {
        let start = Instant::now();
        let device = |nat, net: u8| {
            let private = [10, 0, net, 2];
            let public_ip = [192, 0, 2, net];
            let host = (if nat == Nat::None { public_ip } else { private }, 5000).into();
            Device {
                agent: Agent::new(config.clone(), [seed ^ net; 32], start),
                host,
                nat,
                public_ip,
                ports: BTreeMap::new(),
                sent_to: BTreeSet::new(),
                extra: Vec::new(),
                events: Vec::new(),
                data_received: 0,
                checks_sent: 0,
            }
        };
        Self {
            start,
            elapsed: Duration::ZERO,
            devices: [device(nat_a, 1), device(nat_b, 2)],
            packets: Vec::new(),
            order: 0,
            rng: ChaCha12Rng::from_seed([seed; 32]),
            delay: MS * 25,
            jitter: Duration::ZERO,
            loss: 0,
            is_cut: false,
            is_deaf: None,
            delay_to: BTreeMap::new(),
            data_every: None,
            next_data: Duration::ZERO,
            seen: VecDeque::new(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    pub(crate) fn device(&mut self, side: Side) -> &mut Device {
        &mut self.devices[side.index()]
    }

    /// What a device announces: its host address, and what two STUN servers would tell it.
    pub(crate) fn candidates(&mut self, side: Side) -> Vec<Candidate> {
        let device = self.device(side);
        let mut candidates = vec![Candidate::new(CandidateKind::Host, device.host)];
        if device.nat != Nat::None {
            for server in ["203.0.113.1:3478", "203.0.113.1:3479"] {
                let public = device.translate_out(server.parse().unwrap());
                let candidate = Candidate::new(CandidateKind::ServerReflexive, public);
                if !candidates.contains(&candidate) {
                    candidates.push(candidate);
                }
            }
        }
        candidates
    }

    /// The configuration of the other side, for `side`'s agent.
    pub(crate) fn peer_config(&mut self, side: Side) -> PeerConfig {
        let credentials = |side: Side| Credentials::from_seed([side.index() as u8 + 1; 32]);
        let mut config = PeerConfig::new(
            credentials(side),
            credentials(side.other()),
            side == Side::A,
        );
        config.candidates = self.candidates(side.other());
        config
    }

    /// Introduces both to each other at this moment.
    pub(crate) fn introduce(&mut self) {
        for side in [Side::A, Side::B] {
            let config = self.peer_config(side);
            self.introduce_with(side, config);
        }
    }

    pub(crate) fn introduce_with(&mut self, side: Side, config: PeerConfig) {
        let now = self.now();
        self.device(side).agent.add_peer(now, PEER, config).unwrap();
        self.drain(side);
    }

    pub(crate) fn introduce_with_policies(&mut self, a: Policy, b: Policy) {
        for (side, policy) in [(Side::A, a), (Side::B, b)] {
            let config = PeerConfig {
                policy,
                ..self.peer_config(side)
            };
            self.introduce_with(side, config);
        }
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Runs until `done` or for at most `limit`; returns how long it took, `None` if not done.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let (from, end) = (self.elapsed, self.elapsed + limit);
        loop {
            if done(self) {
                return Some(self.elapsed - from);
            }
            let next = self.next_moment();
            if next > end {
                self.elapsed = end;
                return None;
            }
            self.elapsed = next.max(self.elapsed);
            self.step();
        }
    }

    pub(crate) fn route(&self, side: Side) -> Route {
        self.devices[side.index()].agent.route(PEER).unwrap()
    }

    pub(crate) fn both_direct(&self) -> bool {
        [Side::A, Side::B]
            .into_iter()
            .all(|side| self.route(side) != Route::Relay)
    }

    pub(crate) fn any_direct(&self) -> bool {
        [Side::A, Side::B]
            .into_iter()
            .any(|side| self.route(side) != Route::Relay)
    }

    /// When the route changed for this cause, on this side.
    pub(crate) fn changes(&self, side: Side, of: Cause) -> Vec<Duration> {
        let events = self.devices[side.index()].events.iter();
        events
            .filter_map(|(at, event)| match event {
                Event::Route { cause, .. } if *cause == of => Some(*at),
                _ => None,
            })
            .collect()
    }

    /// Injects a datagram as if it came from `from`, past all NATs.
    pub(crate) fn inject(&mut self, side: Side, from: SocketAddr, data: &[u8]) {
        let now = self.now();
        self.device(side).agent.handle_stun(now, from, data);
        self.drain(side);
    }

    /// Takes what the agent wants sent, onto the wire.
    pub(crate) fn drain(&mut self, side: Side) {
        let elapsed = self.elapsed;
        while let Some(transmit) = self.device(side).agent.poll_transmit() {
            self.device(side).checks_sent += 1;
            self.send(side, transmit.to, Payload::Stun(transmit.bytes));
        }
        let device = self.device(side);
        while let Some(event) = device.agent.poll_event() {
            device.events.push((elapsed, event));
        }
    }

    fn next_moment(&self) -> Duration {
        let packet = self.packets.iter().map(|packet| packet.at).min();
        let timers = self
            .devices
            .iter()
            .filter_map(|device| device.agent.poll_timeout());
        let timer = timers
            .map(|(at, _)| at.saturating_duration_since(self.start))
            .min();
        let data = self.data_every.map(|_| self.next_data);
        [packet, timer, data]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Duration::MAX)
    }

    fn step(&mut self) {
        while let Some(index) = self
            .packets
            .iter()
            .enumerate()
            .filter(|(_, packet)| packet.at <= self.elapsed)
            .min_by_key(|(_, packet)| (packet.at, packet.order))
            .map(|(index, _)| index)
        {
            let packet = self.packets.swap_remove(index);
            self.deliver(packet);
        }
        if let Some(every) = self.data_every
            && self.next_data <= self.elapsed
        {
            self.next_data = self.elapsed + every;
            self.send_data();
        }
        for side in [Side::A, Side::B] {
            let now = self.now();
            let agent = &mut self.device(side).agent;
            if agent.poll_timeout().is_some_and(|(at, _)| at <= now) {
                agent.handle_timeout(now);
            }
            self.drain(side);
        }
    }

    fn send_data(&mut self) {
        for side in [Side::A, Side::B] {
            if let Some(Route::Direct(to)) = self.device(side).agent.route(PEER) {
                let now = self.now();
                self.device(side).agent.handle_sent(now, PEER, to);
                self.send(side, to, Payload::Data);
                self.drain(side);
            }
        }
    }

    fn send(&mut self, side: Side, to: SocketAddr, payload: Payload) {
        let from = self.device(side).translate_out(to);
        if let Payload::Stun(bytes) = &payload {
            self.seen.push_back((from, to, bytes.clone()));
            self.seen.truncate(10_000);
        }
        let is_lost = self.rng.next_u32() % 100 < self.loss;
        if is_lost || self.is_cut || self.is_deaf == Some(side.other()) {
            return;
        }
        let jitter_us = u64::try_from(self.jitter.as_micros()).unwrap();
        let jitter = Duration::from_micros(self.rng.next_u64() % (jitter_us + 1));
        let delay = self.delay_to.get(&to).or_else(|| self.delay_to.get(&from));
        let at = self.elapsed + delay.copied().unwrap_or(self.delay) + jitter;
        self.order += 1;
        let (order, to_side) = (self.order, side.other());
        self.packets.push(Packet {
            at,
            order,
            to_side,
            from,
            to,
            payload,
        });
    }

    fn deliver(&mut self, packet: Packet) {
        let now = self.now();
        let side = packet.to_side;
        if self.is_cut || !self.device(side).lets_in(packet.from, packet.to) {
            return;
        }
        match packet.payload {
            Payload::Stun(bytes) => {
                self.device(side)
                    .agent
                    .handle_stun(now, packet.from, &bytes);
            }
            Payload::Data => {
                let device = self.device(side);
                device.data_received += 1;
                device.agent.handle_received(now, PEER, packet.from);
            }
        }
        self.drain(side);
    }
}
