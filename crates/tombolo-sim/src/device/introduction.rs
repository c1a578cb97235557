//! Introductions: what a device tells others about itself, and what it does when it hears of one.

use std::net::SocketAddr;
use std::time::Instant;

use tombolo_path::{Candidate, CandidateKind, PeerConfig, PeerId};

use super::{DeviceHost, Peer};
use crate::{HostId, Introduction, Signal};

impl DeviceHost {
    /// Tells a peer all about this device, for the first time or because it changed.
    pub(super) fn introduce(&mut self, now: Instant, to: HostId) {
        let peer = self
            .peer_by_host
            .entry(to)
            .or_insert_with(|| Peer::new(&mut self.rng, now));
        peer.has_introduced = true;
        let introduction = Introduction {
            from: self.config.host,
            credentials: peer.local.clone(),
            candidates: self.candidates(),
            nat: self.nat.unwrap_or_else(|| self.probe.report().behaviour()),
        };
        self.messages
            .push_back((self.config.node, Signal::Introduce { to, introduction }));
    }

    pub(super) fn introduce_again(&mut self, now: Instant) {
        let introduced: Vec<HostId> = self
            .peer_by_host
            .iter()
            .filter(|(_, peer)| peer.has_introduced)
            .map(|(host, _)| *host)
            .collect();
        for host in introduced {
            self.introduce(now, host);
        }
    }

    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let (port, config) = (self.config.port, &self.config);
        let host = config.addresses.iter().map(|ip| SocketAddr::new(*ip, port));
        let host: Vec<SocketAddr> = host.collect();
        let reflexive = self.public.iter().filter(|address| !host.contains(address));
        let reflexive =
            reflexive.map(|address| Candidate::new(CandidateKind::ServerReflexive, *address));
        let relayed = self.turn.client.relayed();
        let relayed = relayed.map(|address| Candidate::new(CandidateKind::Relayed, address));
        let host = host
            .iter()
            .map(|address| Candidate::new(CandidateKind::Host, *address));
        host.chain(reflexive).chain(relayed).collect()
    }

    pub(super) fn on_introduction(&mut self, now: Instant, introduction: Introduction) {
        let Introduction {
            from,
            credentials,
            candidates,
            nat,
        } = introduction;
        let id = PeerId(from.0 as u64);
        let peer = self
            .peer_by_host
            .entry(from)
            .or_insert_with(|| Peer::new(&mut self.rng, now));
        let relayed = candidates
            .iter()
            .find(|candidate| candidate.kind == CandidateKind::Relayed);
        let relayed = relayed.map(|candidate| candidate.address);
        // A peer between two allocations is reached at the old one for as long as that lives.
        if let Some(new) = relayed.filter(|new| peer.relayed != Some(*new)) {
            if let Some(old) = peer.relayed.replace(new) {
                self.turn.client.release_peer(now, old);
            }
            self.turn.client.connect_peer(now, new);
        }
        let direct = candidates
            .into_iter()
            .filter(|it| it.kind != CandidateKind::Relayed);
        if peer.record.introduced.is_some() {
            self.agent.set_remote_nat(id, Some(nat));
            for candidate in direct {
                self.agent.add_remote_candidate(now, id, candidate);
            }
            return;
        }
        peer.record.introduced = Some(now);
        if let Some(stream) = &mut peer.stream {
            stream.next = now;
        }
        let is_controlling = self.config.host < from;
        let mut config = PeerConfig::new(peer.local.clone(), credentials, is_controlling);
        config.policy = self.config.policy;
        config.candidates = direct.collect();
        config.remote_nat = Some(nat);
        let added = self.agent.add_peer(now, id, config);
        assert!(added.is_ok(), "the agent refuses a fresh peer: {added:?}");
        if !peer.has_introduced {
            self.introduce(now, from);
        }
    }
}
