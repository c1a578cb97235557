//! Anything, in any order: what holds then.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};
use tombolo_path::{
    Agent, Candidate, CandidateKind, Config, Credentials, Event, NatBehaviour, PeerConfig, PeerId,
    Policy, Route,
};

/// Two agents that hear each other's datagrams at random, altered at random, and whose drivers
/// call anything at any time.
struct Chaos {
    rng: ChaCha12Rng,
    now: Instant,
    agents: [Agent; 2],
    wire: Vec<(usize, SocketAddr, Vec<u8>)>,
    routes: [[Route; 4]; 2],
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let now = Instant::now();
        let mut config = Config::default();
        config.peers_max = 3;
        config.candidates_per_peer_max = 6;
        config.queue_max = 64;
        let mut agent = || {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            Agent::new(config.clone(), seed, now)
        };
        let agents = [agent(), agent()];
        Self {
            rng,
            now,
            agents,
            wire: Vec::new(),
            routes: [[Route::Relay; 4]; 2],
        }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.rng.next_u32() % bound
    }

    fn sleep(&mut self, below_ms: u32) {
        let ms = self.below(below_ms);
        self.now += Duration::from_millis(ms.into());
    }

    fn address(&mut self) -> SocketAddr {
        match self.below(8) {
            0 => "0.0.0.0:0".parse().unwrap(),
            1 => "[::ffff:192.0.2.1]:1".parse().unwrap(),
            2 => "[2001:db8::1]:1".parse().unwrap(),
            n => ([192, 0, 2, 1], n as u16).into(),
        }
    }

    fn peer_config(&mut self, side: usize, peer: u64) -> PeerConfig {
        let credentials = |side: u64| Credentials::from_seed([(peer * 2 + side) as u8; 32]);
        let (local, remote) = (credentials(side as u64), credentials(1 - side as u64));
        let mut config = PeerConfig::new(local, remote, self.below(2) == 0);
        let policies = [Policy::Any, Policy::Any, Policy::Direct, Policy::Relay];
        config.policy = policies[self.below(4) as usize];
        for _ in 0..self.below(10) {
            let address = self.address();
            config
                .candidates
                .push(Candidate::new(CandidateKind::Host, address));
        }
        config
    }

    fn step(&mut self) {
        let side = self.below(2) as usize;
        let peer = PeerId(u64::from(self.below(4)));
        let (address, now) = (self.address(), self.now);
        match self.below(40) {
            0..2 => {
                let config = self.peer_config(side, peer.0);
                if self.agents[side].add_peer(now, peer, config).is_ok() {
                    self.routes[side][peer.0 as usize] = Route::Relay;
                }
            }
            2 if self.below(10) == 0 => self.agents[side].remove_peer(now, peer),
            3 => {
                let candidate = Candidate::new(CandidateKind::ServerReflexive, address);
                self.agents[side].add_remote_candidate(now, peer, candidate);
            }
            4..8 => self.agents[side].handle_sent(now, peer, address),
            8..10 => self.agents[side].handle_received(now, peer, address),
            10 => self.agents[side].handle_adopted(now, peer, address),
            11 => self.agents[side].handle_abandoned(now, peer, address),
            12 if self.below(10) == 0 => self.agents[side].handle_network_changed(now),
            13 => {
                let nat = NatBehaviour::new(Default::default(), Default::default());
                self.agents[side].set_local_nat(Some(nat));
                let explained = self.agents[side].explain(now, peer);
                assert!(explained.is_none_or(|explained| !explained.to_string().is_empty()));
            }
            14..30 => self.deliver(),
            30..32 => self.sleep(3000),
            _ => self.sleep(20),
        }
        self.wake(side);
        if self.below(10) > 0 {
            self.collect(side);
        }
    }

    /// Delivers, repeats, misdelivers or damages a datagram.
    fn deliver(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let index = self.below(self.wire.len() as u32) as usize;
        let (from_side, to, mut bytes) = self.wire[index].clone();
        if self.below(4) > 0 {
            self.wire.swap_remove(index);
        }
        let from = if self.below(5) > 0 {
            to
        } else {
            self.address()
        };
        let side = if self.below(20) > 0 {
            1 - from_side
        } else {
            from_side
        };
        if self.below(5) == 0 && !bytes.is_empty() {
            let at = self.below(bytes.len() as u32) as usize;
            bytes[at] ^= self.below(256) as u8;
        }
        if self.below(20) == 0 {
            let length = self.below(bytes.len() as u32 + 1) as usize;
            bytes.truncate(length);
        }
        self.agents[side].handle_stun(self.now, from, &bytes);
    }

    /// Wakes an agent that is due; afterwards it wants to sleep.
    fn wake(&mut self, side: usize) {
        let agent = &mut self.agents[side];
        if agent.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
            agent.handle_timeout(self.now);
            let next = agent.poll_timeout();
            assert!(
                next.is_none_or(|(at, _)| at > self.now),
                "{next:?} does not advance"
            );
        }
    }

    fn collect(&mut self, side: usize) {
        let agent = &mut self.agents[side];
        while let Some(transmit) = agent.poll_transmit() {
            if self.wire.len() < 200 {
                self.wire.push((side, transmit.to, transmit.bytes));
            }
        }
        let mut is_complete = agent.stats().events_dropped == 0;
        while let Some(event) = agent.poll_event() {
            if let Event::Route { peer, route, .. } = event {
                let last = &mut self.routes[side][peer.0 as usize];
                *last = route;
            }
            is_complete &= agent.stats().events_dropped == 0;
        }
        let is_inspected = self.rng.next_u32().is_multiple_of(8);
        for peer in 0..4 {
            let Some(route) = agent.route(PeerId(peer)) else {
                continue;
            };
            if is_complete {
                assert_eq!(
                    self.routes[side][peer as usize], route,
                    "events tell every change"
                );
            }
            if !is_inspected {
                continue;
            }
            let explained = agent.explain(self.now, PeerId(peer)).unwrap();
            assert!(explained.pairs.len() <= 6 && explained.refused.len() <= 6);
            assert!(explained.policy != Policy::Relay || route == Route::Relay);
        }
    }
}

#[test]
fn no_order_of_calls_and_datagrams_breaks_an_agent() {
    let mut routes_found = 0;
    for seed in 0..8 {
        println!("seed {seed}");
        let mut chaos = Chaos::new(seed);
        for _ in 0..2000 {
            chaos.step();
        }
        let answered: u64 = chaos
            .agents
            .iter()
            .map(|agent| agent.stats().checks_answered)
            .sum();
        routes_found += u32::from(answered > 0);
    }
    assert!(
        routes_found > 2,
        "chaos lets checks succeed: {routes_found} of 8 seeds"
    );
}
