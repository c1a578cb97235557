//! One introduced peer: its pairs, its route, and what is due when.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::Rng;
use tombolo_stun::{Key, Username};

use crate::candidate::accept;
use crate::check::{Role, write_check};
use crate::liveness::{Finding, Watch};
use crate::pair::{Pair, Queue, Situation};
use crate::route::Losses;
use crate::rtt::Rtt;
use crate::shared::Shared;
use crate::transaction::Transaction;
use crate::{
    Candidate, CandidateKind, CandidateRefusal, Cause, Credentials, NatBehaviour, PairState,
    PeerConfig, PeerId, Policy, RefusedCandidate, Route, Timer, canonical, priority,
};

/// A peer and everything about the ways to it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) local: Credentials,
    pub(crate) remote: Credentials,
    pub(crate) local_key: Key,
    pub(crate) remote_key: Key,
    pub(crate) role: Role,
    pub(crate) policy: Policy,
    pub(crate) pairs: BTreeMap<SocketAddr, Pair>,
    pub(crate) refused: Vec<RefusedCandidate>,
    pub(crate) route: Route,
    /// Of the direct route; meaningless while relayed.
    pub(crate) watch: Watch,
    /// The remote end chose the route, and goes on choosing until it is lost.
    pub(crate) is_following: bool,
    pub(crate) losses: Losses,
    /// What is left of the leave to learn peer-reflexive candidates, and when it grew last.
    learnable: (u32, Instant),
    /// Checks that may still be sent before anything authentic is heard of the peer; `None` since
    /// something was.
    checks_unheard: Option<u32>,
    /// Since when a direct route has been looked for.
    pub(crate) trying_since: Instant,
    pub(crate) remote_nat: Option<NatBehaviour>,
    /// The agent's entry for this peer in its schedule.
    pub(crate) scheduled: Option<(Instant, Timer)>,
}

impl Peer {
    pub(crate) fn new(now: Instant, id: PeerId, config: PeerConfig, shared: &mut Shared) -> Self {
        let tie_breaker = shared.rng.next_u64();
        let mut peer = Self {
            id,
            local_key: Key::short_term(&config.local.password),
            remote_key: Key::short_term(&config.remote.password),
            local: config.local,
            remote: config.remote,
            role: if config.controlling {
                Role::Controlling(tie_breaker)
            } else {
                Role::Controlled(tie_breaker)
            },
            policy: config.policy,
            pairs: BTreeMap::new(),
            refused: Vec::new(),
            route: Route::Relay,
            watch: Watch::new(now),
            is_following: false,
            losses: Losses::default(),
            learnable: (LEARNED_AT_ONCE_MAX, now),
            checks_unheard: Some(shared.config.checks_unheard_max),
            trying_since: now,
            remote_nat: config.remote_nat,
            scheduled: None,
        };
        for candidate in config.candidates {
            peer.add_candidate(now, candidate, shared);
        }
        peer
    }

    /// Adds an announced candidate. One that was learned from a check becomes what was announced.
    pub(crate) fn add_candidate(
        &mut self,
        now: Instant,
        candidate: Candidate,
        shared: &mut Shared,
    ) {
        let address = canonical(candidate.address);
        let candidate = Candidate {
            address,
            ..candidate
        };
        if candidate.kind == CandidateKind::Relayed {
            // The relay route leads there already.
            return;
        }
        if let Some(pair) = self.pairs.get_mut(&address) {
            if candidate.kind.rank() < pair.candidate.kind.rank() {
                pair.candidate = candidate;
            }
            return;
        }
        let accepted = accept(address, shared.config.loopback);
        let accepted = accepted.and_then(|()| {
            if self.announced_at(address.ip()) >= shared.config.candidates_per_ip_max {
                return Err(CandidateRefusal::TooManyOfIp);
            }
            match self.make_room(now, shared) {
                true => Ok(()),
                false => Err(CandidateRefusal::TooMany),
            }
        });
        if let Err(reason) = accepted {
            shared.stats.candidates_refused += 1;
            if self.refused.len() < shared.config.candidates_per_peer_max {
                self.refused.push(RefusedCandidate { address, reason });
            }
            return;
        }
        let pair = Pair::new(now, candidate, shared.new_attempt());
        self.pairs.insert(address, pair);
    }

    /// Finds the pair that a packet came from, or makes it with a peer-reflexive candidate. `None`
    /// when there is no room. See RFC 8445 §7.3.1.3.
    pub(crate) fn find_or_learn(
        &mut self,
        now: Instant,
        from: SocketAddr,
        announced_priority: Option<u32>,
        shared: &mut Shared,
    ) -> Option<&mut Pair> {
        if !self.pairs.contains_key(&from) {
            if accept(from, shared.config.loopback).is_err() {
                shared.stats.candidates_refused += 1;
                return None;
            }
            if !self.may_learn(now) || !self.make_room(now, shared) {
                shared.stats.prflx_dropped += 1;
                return None;
            }
            let kind = CandidateKind::PeerReflexive;
            let priority = announced_priority.unwrap_or_else(|| priority(kind, from));
            let candidate = Candidate {
                kind,
                address: from,
                priority,
            };
            let pair = Pair::new(now, candidate, shared.new_attempt());
            self.pairs.insert(from, pair);
        }
        self.pairs.get_mut(&from)
    }

    /// Notes that something authentic came from the peer, wherever it came from.
    pub(crate) fn on_peer_heard(&mut self, now: Instant) {
        if self.checks_unheard.take() == Some(0) {
            for pair in self.pairs.values_mut() {
                pair.hasten(now);
            }
        }
    }

    /// Notes that the device's network changed.
    pub(crate) fn on_network_changed(&mut self, now: Instant, shared: &mut Shared) {
        if self.policy == Policy::Relay {
            return;
        }
        // 1. Forget what was learned from checks and leads nowhere.
        self.pairs.retain(|_, pair| {
            let is_learned = pair.candidate.kind == CandidateKind::PeerReflexive;
            !is_learned || pair.state == PairState::Valid
        });
        // 2. Try everything again; answers to checks from the old network prove nothing.
        self.trying_since = now;
        let route = self.route;
        for (address, pair) in &mut self.pairs {
            let is_route = route == Route::Direct(*address);
            pair.restart(now, shared.new_attempt());
            pair.forgive();
            pair.rtt = Rtt::default();
            if is_route {
                pair.trust(now);
            }
        }
        // 3. The route stays if it answers soon: its silence begins now.
        if matches!(route, Route::Direct(_)) {
            self.watch.on_received();
            self.watch.on_sent(now);
        }
    }

    /// Does what is due: the route first, then the pairs in the order of their priority.
    pub(crate) fn on_timeout(&mut self, now: Instant, shared: &mut Shared) {
        if self.policy == Policy::Relay {
            return;
        }
        self.watch_route(now, shared);
        let route = self.route;
        let mut due = Vec::new();
        for (address, pair) in &mut self.pairs {
            let is_route = route == Route::Direct(*address);
            if !is_route {
                pair.expire(now);
            }
            if pair.take_due(now) {
                due.push((pair.candidate.priority, *address, is_route));
            }
        }
        due.sort_by_key(|&(priority, address, _)| (std::cmp::Reverse(priority), address));
        for (_, address, is_route) in due {
            if is_route {
                self.send_check(now, address, shared);
            } else if let Some(pair) = self.pairs.get_mut(&address)
                && pair.queued.is_none()
            {
                pair.queued = Some(Queue::Ordinary);
                shared.pacer.push_ordinary((self.id, address));
            }
        }
    }

    /// Sends the check that waited in the pacer. Returns false when it is not wanted any more.
    pub(crate) fn on_turn(
        &mut self,
        now: Instant,
        address: SocketAddr,
        shared: &mut Shared,
    ) -> bool {
        let is_wanted = self
            .pairs
            .get(&address)
            .is_some_and(|pair| pair.queued.is_some());
        if is_wanted {
            self.send_check(now, address, shared);
        }
        is_wanted
    }

    /// Queues a check before all ordinary ones.
    pub(crate) fn trigger(&mut self, address: SocketAddr, shared: &mut Shared) {
        if let Some(pair) = self.pairs.get_mut(&address)
            && pair.queued != Some(Queue::Triggered)
        {
            pair.queued = Some(Queue::Triggered);
            shared.pacer.push_triggered((self.id, address));
        }
    }

    /// When to call [`on_timeout`](Self::on_timeout), and why.
    pub(crate) fn deadline(&self, shared: &Shared) -> Option<(Instant, Timer)> {
        if self.policy == Policy::Relay {
            return None;
        }
        let checks = self.pairs.iter().filter_map(|(address, pair)| {
            let timer = match pair.state {
                PairState::Valid if self.route == Route::Direct(*address) => Timer::Consent,
                PairState::Valid => Timer::Standby,
                PairState::Checking | PairState::Suspected | PairState::Dormant => Timer::Retry,
            };
            pair.next_check().map(|at| (at, timer))
        });
        let watched = self.route_pair().into_iter().flat_map(|pair| {
            let silence = self.watch.silence_deadline(&pair.rtt, &shared.config);
            let consent = self.watch.consent_deadline(&shared.config);
            silence
                .map(|at| (at, Timer::Silence))
                .into_iter()
                .chain([(consent, Timer::Consent)])
        });
        checks.chain(watched).min()
    }

    pub(crate) fn route_pair(&self) -> Option<&Pair> {
        match self.route {
            Route::Direct(address) => self.pairs.get(&address),
            Route::Relay => None,
        }
    }

    pub(crate) fn is_controlling(&self) -> bool {
        matches!(self.role, Role::Controlling(_))
    }

    /// Takes the other role, with a new tie-breaker. See RFC 8445 §7.2.5.1 and §7.3.1.1.
    pub(crate) fn switch_role(&mut self, shared: &mut Shared) {
        let tie_breaker = shared.rng.next_u64();
        self.role = match self.role {
            Role::Controlling(_) => Role::Controlled(tie_breaker),
            Role::Controlled(_) => Role::Controlling(tie_breaker),
        };
        shared.stats.role_conflicts += 1;
    }

    /// Sends a check to a pair now, and plans the next.
    fn send_check(&mut self, now: Instant, address: SocketAddr, shared: &mut Shared) {
        let is_route = self.route == Route::Direct(address);
        let Some(pair) = self.pairs.get_mut(&address) else {
            return;
        };
        if let Some(left) = &mut self.checks_unheard {
            *left = left.saturating_sub(1);
        }
        let at = Situation {
            is_route,
            is_direct: self.route != Route::Relay,
            trying_since: self.trying_since,
            is_unheard: self.checks_unheard == Some(0),
        };
        let attempt = pair.attempt;
        pair.on_check_sent(now, at, shared);
        if is_route {
            self.watch.on_sent(now);
        }
        self.transmit_check(now, address, attempt, shared);
    }

    fn transmit_check(&mut self, now: Instant, to: SocketAddr, attempt: u64, shared: &mut Shared) {
        let id = shared.new_transaction_id();
        let username = format!("{}:{}", self.remote.ufrag, self.local.ufrag);
        let username = Username::new(&username).expect("fragments are bounded so that two fit");
        // The candidate that this check would reveal is peer-reflexive. See RFC 8445 §7.1.1.
        let priority = priority(CandidateKind::PeerReflexive, to);
        let bytes = write_check(id, username, priority, self.role, &self.remote_key);
        shared.pacer.charge(now);
        if !shared.transmit(to, bytes) {
            return;
        }
        shared.stats.checks_sent += 1;
        let controlling = self.is_controlling();
        let transaction = Transaction {
            peer: self.id,
            to,
            sent_at: now,
            attempt,
            controlling,
        };
        shared.transactions.insert(id, transaction);
    }

    /// Probes the silent route, or gives it up.
    fn watch_route(&mut self, now: Instant, shared: &mut Shared) {
        let Some(pair) = self.route_pair() else {
            return;
        };
        let address = pair.candidate.address;
        match self.watch.finding(now, &pair.rtt, &shared.config) {
            Finding::Fine => {}
            Finding::Probe => {
                self.send_check(now, address, shared);
                self.watch.on_probe(now);
            }
            Finding::Suspect => self.lose_route(now, Cause::Suspected, shared),
            Finding::ConsentExpired => self.lose_route(now, Cause::ConsentExpired, shared),
        }
    }

    /// Takes leave to learn another address: many at once, then few.
    ///
    /// Two NATs that both map anew for every destination and let everybody in make each check look
    /// like a new address, which is worth a check, which makes a new mapping, without an end.
    fn may_learn(&mut self, now: Instant) -> bool {
        let (left, grew) = &mut self.learnable;
        let passed = now.saturating_duration_since(*grew).as_secs();
        if passed > 0 {
            let passed = u32::try_from(passed).unwrap_or(LEARNED_AT_ONCE_MAX);
            (*left, *grew) = (left.saturating_add(passed).min(LEARNED_AT_ONCE_MAX), now);
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    /// Counts the announced addresses of an IP.
    fn announced_at(&self, ip: IpAddr) -> usize {
        let announced = self.pairs.values().map(|pair| pair.candidate);
        announced
            .filter(|one| one.kind != CandidateKind::PeerReflexive && one.address.ip() == ip)
            .count()
    }

    /// Says whether another pair fits, after forgetting the least useful peer-reflexive one when
    /// all places are taken.
    fn make_room(&mut self, now: Instant, shared: &Shared) -> bool {
        if self.pairs.len() < shared.config.candidates_per_peer_max {
            return true;
        }
        let useless = self.pairs.iter().filter_map(|(address, pair)| {
            let is_route = self.route == Route::Direct(*address);
            pair.useless_since(now)
                .filter(|_| !is_route)
                .map(|since| (since, *address))
        });
        match useless.min() {
            Some((_, address)) => self.pairs.remove(&address).is_some(),
            None => false,
        }
    }
}

/// Peer-reflexive candidates learned in a burst; afterwards one a second.
const LEARNED_AT_ONCE_MAX: u32 = 32;
