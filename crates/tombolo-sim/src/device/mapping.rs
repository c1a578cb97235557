//! How the world sees a device: its allocation and its public addresses, which a NAT may change.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tombolo_path::NatBehaviour;
use tombolo_path::probe::{NatProbe, ProbeConfig};
use tombolo_turn::client;
use tombolo_turn::server::Transport;

use super::{DeviceConfig, DeviceHost};
use crate::{Protocol, signal};

/// The TURN client and the number of clients before it.
pub(super) struct Turn {
    pub(super) client: client::Client,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) generation: u16,
}

impl DeviceHost {
    /// Takes the first measurement of the NAT, against all servers.
    pub(super) fn on_measured(&mut self, nat: NatBehaviour, public: Vec<SocketAddr>) {
        self.agent.set_local_nat(Some(nat));
        self.nat = Some(nat);
        self.public = public;
    }

    /// Takes a later look, as the TURN server sees us. A NAT that gave us another mapping has cut our
    /// allocation off, which belongs to the old one, and peers must hear of the new address.
    pub(super) fn on_seen(&mut self, now: Instant, public: SocketAddr) {
        let is_udp = self.config.turn_protocol == Protocol::Udp;
        let is_turn_stale = is_udp && self.turn.mapped.is_some_and(|mapped| mapped != public);
        if !is_turn_stale && self.public.contains(&public) {
            return;
        }
        self.notes
            .push_back(format!("the NAT has moved us to {public}"));
        self.public = vec![public];
        if is_turn_stale {
            self.allocate_again(now);
        }
        self.agent.handle_network_changed(now);
        self.introduce_again(now);
    }

    pub(super) fn allocate_again(&mut self, now: Instant) {
        self.allocates_at = None;
        let generation = self.turn.generation + 1;
        assert!(generation < GENERATIONS_MAX, "allocations keep failing");
        self.turn = Turn::new(&self.config, self.rng.random(), now, generation);
        self.open_connection();
        for peer in self.peer_by_host.values() {
            if let Some(relayed) = peer.relayed {
                self.turn.client.connect_peer(now, relayed);
            }
        }
    }

    /// Over TCP, says that a new connection begins.
    pub(super) fn open_connection(&mut self) {
        if self.config.turn_protocol == Protocol::Tcp {
            self.transmit(Protocol::Tcp, self.config.turn, Vec::new());
        }
    }
}

impl Turn {
    pub(super) fn new(
        config: &DeviceConfig,
        seed: [u8; 32],
        now: Instant,
        generation: u16,
    ) -> Self {
        let config = client::Config {
            server: config.turn,
            transport: match config.turn_protocol {
                Protocol::Udp => Transport::Udp,
                Protocol::Tcp => Transport::Tcp,
            },
            username: signal::username_of(config.host),
            password: signal::password_of(config.host),
            family: match config.turn {
                SocketAddr::V4(_) => client::Family::V4,
                SocketAddr::V6(_) => client::Family::V6,
            },
            lifetime: Duration::from_secs(600),
            patience: client::Patience::default(),
        };
        let client = client::Client::new(config, seed, now);
        Self {
            client,
            mapped: None,
            generation,
        }
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turn")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Asks these servers how the NAT treats us.
pub(super) fn probe(
    config: &DeviceConfig,
    servers: Vec<SocketAddr>,
    seed: [u8; 32],
    now: Instant,
) -> NatProbe {
    let mut probe = ProbeConfig::new(servers);
    let local = config
        .addresses
        .iter()
        .map(|ip| SocketAddr::new(*ip, config.port));
    probe.local = local.collect();
    NatProbe::new(probe, seed, now)
}

/// A device that begins this many allocations has a fault.
const GENERATIONS_MAX: u16 = 100;
