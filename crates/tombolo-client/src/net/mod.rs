//! The device's one UDP socket, and the cores that run on it.
//!
//! A [`Net`] outlives sessions: links between peers go on while the device changes its node.

mod address;
mod book;
mod interfaces;
mod lookup;
mod nat;
mod packet;
mod relay;
mod ring;
mod socket;
mod state;
mod stream;
mod upkeep;

use std::convert::Infallible;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use noq::udp::RecvMeta;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot, watch};
use tombolo_path::probe::{NatProbe, NatReport, ProbeConfig};
use tombolo_path::{
    AddPeerError, Agent, Candidate, CandidateKind, Explanation, PeerConfig, PeerId,
};

pub(crate) use address::{canonical, virtual_of};
pub(crate) use interfaces::has_route;
pub(crate) use lookup::{Lookup, lookup, lookup_within};
pub use nat::measure_nat;
pub(crate) use relay::Carrier;
use relay::Outcome;
pub(crate) use socket::{DeviceSocket, mapped};
pub(crate) use state::RouteNow;
use state::State;
pub use state::{Dropped, Via};
pub(crate) use upkeep::RelayKeeper;

use crate::ice::IceConfig;
use crate::keys::PublicKey;

/// Bytes asked of the kernel for each direction; it may give less.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Gathering ends by then, with what there is.
const GATHER_TIMEOUT: Duration = Duration::from_secs(4);

/// The allocation in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relayed {
    pub(crate) address: SocketAddr,
    pub(crate) carrier: Carrier,
}

pub(crate) struct Net {
    udp: UdpSocket,
    is_dual_stack: bool,
    state: Mutex<State>,
    /// Wakes the timer task when a deadline may have come nearer.
    sooner: Notify,
    /// Wakes QUIC when packets wait in the inbox.
    receiver: Mutex<Option<Waker>>,
    relayed: watch::Sender<Option<Relayed>>,
    nat: watch::Sender<Option<NatReport>>,
    /// From where the TURN server saw us, each time it was asked.
    seen: watch::Sender<Option<SocketAddr>>,
    /// The addresses of this machine, as of when they were looked at last.
    hosts: watch::Sender<Vec<IpAddr>>,
    with_loopback: bool,
    /// How many streams to TURN servers there were.
    streams: AtomicU64,
    /// User name and password for the relay, once renewed.
    credentials: Mutex<Option<(String, String)>>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("udp", &self.udp)
            .finish_non_exhaustive()
    }
}

impl Net {
    /// Binds the socket and starts its timers.
    ///
    /// `with_loopback` is for a server on this very machine.
    pub(crate) async fn bind(with_loopback: bool) -> io::Result<Arc<Self>> {
        let (socket, is_dual_stack) = bind_socket()?;
        let udp = UdpSocket::from_std(socket.into())?;
        udp.writable().await?;
        let mut config = tombolo_path::Config::default();
        config.loopback = with_loopback;
        let agent = Agent::new(config, seed()?, Instant::now());
        let net = Arc::new(Self {
            udp,
            is_dual_stack,
            state: Mutex::new(State::new(agent)),
            sooner: Notify::new(),
            receiver: Mutex::new(None),
            relayed: watch::Sender::new(None),
            nat: watch::Sender::new(None),
            seen: watch::Sender::new(None),
            hosts: watch::Sender::new(interfaces::host_addresses(with_loopback)),
            with_loopback,
            streams: AtomicU64::new(0),
            credentials: Mutex::new(None),
        });
        tokio::spawn(run_timers(Arc::downgrade(&net)));
        Ok(net)
    }

    /// The port of the socket.
    pub(crate) fn port(&self) -> u16 {
        self.udp.local_addr().map_or(0, |address| address.port())
    }

    /// Finds out public addresses and allocates a relayed one; returns when both are known, or
    /// cannot be had for now. The allocation is renewed, and asked for again when lost, as long as
    /// the returned guard lives.
    pub(crate) async fn gather(self: &Arc<Self>, ice: IceConfig) -> RelayKeeper {
        self.start_probe(&ice);
        let has_stun = !ice.stun.is_empty();
        let has_relay = !ice.turn_udp.is_empty() || !ice.turn_tls.is_empty();
        let keeper = RelayKeeper::new(self, ice);
        let gathered = async {
            let mut relayed = self.relayed.subscribe();
            let mut nat = self.nat.subscribe();
            // Both fail only when `self` is gone.
            if has_relay {
                _ = relayed.wait_for(Option::is_some).await;
            }
            if has_stun {
                _ = nat.wait_for(Option::is_some).await;
            }
        };
        if tokio::time::timeout(GATHER_TIMEOUT, gathered)
            .await
            .is_err()
        {
            tracing::info!("gathering goes on in the background: {:?}", self.relayed());
        }
        keeper
    }

    /// The device's own candidates, as known by now.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let port = self.port();
        let hosts = interfaces::host_addresses(self.with_loopback)
            .into_iter()
            .filter(|ip| self.is_dual_stack || ip.is_ipv4())
            .map(|ip| Candidate::new(CandidateKind::Host, SocketAddr::new(ip, port)));
        let mut candidates: Vec<_> = hosts.collect();
        for public in self
            .lock()
            .probe
            .iter()
            .flat_map(|probe| probe.report().public())
        {
            if candidates.iter().all(|known| known.address != public) {
                candidates.push(Candidate::new(CandidateKind::ServerReflexive, public));
            }
        }
        if let Some(relayed) = self.relayed() {
            candidates.push(Candidate::new(CandidateKind::Relayed, relayed.address));
        }
        candidates
    }

    /// The socket's own address on the way to `remote`, before any NAT.
    pub(crate) fn local_address_towards(&self, remote: SocketAddr) -> Option<SocketAddr> {
        Some(SocketAddr::new(
            interfaces::source_towards(remote)?,
            self.port(),
        ))
    }

    pub(crate) fn relayed(&self) -> Option<Relayed> {
        *self.relayed.borrow()
    }

    pub(crate) fn watch_relayed(&self) -> watch::Receiver<Option<Relayed>> {
        self.relayed.subscribe()
    }

    /// Tells of what is measured of the NAT.
    pub(crate) fn watch_nat(&self) -> watch::Receiver<Option<NatReport>> {
        self.nat.subscribe()
    }

    #[cfg(test)]
    pub(crate) fn pretend_nat(&self, report: NatReport) {
        self.nat.send_replace(Some(report));
    }

    /// How the NAT in front of the socket maps; `None` until measured.
    pub(crate) fn nat(&self) -> Option<NatReport> {
        self.nat.borrow().clone()
    }

    /// From now on servers are asked with what comes with them.
    pub(crate) fn forget_turn_credentials(&self) {
        *lock(&self.credentials) = None;
    }

    pub(crate) fn set_turn_credentials(&self, username: &str, password: &str) {
        *lock(&self.credentials) = Some((username.to_owned(), password.to_owned()));
        self.drive(|state, now| state.relays.set_credentials(now, username, password));
    }

    /// Gives an introduced peer its place; its virtual address is [`virtual_of`] the result.
    pub(crate) fn add_peer(
        &self,
        identity: PublicKey,
        config: PeerConfig,
        first_id: Option<noq::ConnectionId>,
    ) -> Result<(PeerId, watch::Receiver<RouteNow>), AddPeerError> {
        self.drive(|state, now| state.add_peer(now, identity, config, first_id))
    }

    /// As [`State::begin_handshake`].
    pub(crate) fn begin_handshake(
        &self,
        at: SocketAddr,
        first_id: noq::ConnectionId,
    ) -> Option<oneshot::Receiver<Infallible>> {
        self.lock().begin_handshake(at, first_id)
    }

    pub(crate) fn remove_peer(&self, id: PeerId) {
        self.drive(|state, now| state.remove_peer(now, id));
    }

    pub(crate) fn add_candidate(&self, id: PeerId, candidate: Candidate) {
        self.drive(|state, now| state.add_candidate(now, id, candidate));
    }

    pub(crate) fn block_direct(&self, is_blocked: bool) {
        self.lock().is_direct_blocked = is_blocked;
    }

    pub(crate) fn set_path(&self, id: PeerId, path: SocketAddr) {
        self.drive(|state, now| state.set_path(now, id, path));
    }

    /// Tells that QUIC's direct path was closed, by either end.
    pub(crate) fn abandon_path(&self, id: PeerId, path: SocketAddr) {
        self.drive(|state, now| state.abandon_path(now, id, path));
    }

    pub(crate) fn reinject(&self, id: PeerId) {
        self.drive(|state, now| state.reinject(now, id));
    }

    pub(crate) fn dropped(&self) -> Dropped {
        self.lock().dropped
    }

    pub(crate) fn last_via(&self, id: PeerId) -> Via {
        self.lock().last_via(id)
    }

    pub(crate) fn relayed_of(&self, id: PeerId) -> Option<SocketAddr> {
        self.lock().relayed_of(id)
    }

    pub(crate) fn explain(&self, id: PeerId) -> Option<Explanation> {
        self.lock().agent.explain(Instant::now(), id)
    }

    /// Sends one packet of QUIC's; false when the kernel's buffer is full and the packet was lost.
    fn send(&self, to: SocketAddr, packet: &[u8]) -> bool {
        let mut state = self.lock();
        let before = state.next_timeout();
        state.send(Instant::now(), canonical(to), packet);
        self.finish(&mut state, before)
    }

    /// Lets `f` work on the cores, then sends what they want sent.
    fn drive<R>(&self, f: impl FnOnce(&mut State, Instant) -> R) -> R {
        let mut state = self.lock();
        let before = state.next_timeout();
        let result = f(&mut state, Instant::now());
        state.collect();
        self.finish(&mut state, before);
        result
    }

    fn finish(&self, state: &mut State, timeout_before: Option<Instant>) -> bool {
        let sent_all = self.flush(state);
        for outcome in state.relays.take_outcomes() {
            self.on_relay_outcome(state, &outcome);
        }
        if let Some(report) = state.probe.as_mut().and_then(finished_report) {
            state.agent.set_local_nat(Some(report.behaviour()));
            self.nat.send_replace(Some(report));
        }
        if let Some(report) = state.pulse.as_mut().and_then(finished_report) {
            self.seen.send_replace(report.public().first().copied());
            state.pulse = None;
        }
        if !state.inbox.is_empty()
            && let Some(waker) = lock(&self.receiver).take()
        {
            waker.wake();
        }
        let timeout = state.next_timeout();
        if timeout.is_some_and(|at| timeout_before.is_none_or(|before| at < before)) {
            self.sooner.notify_one();
        }
        sent_all
    }

    fn flush(&self, state: &mut State) -> bool {
        let mut sent_all = true;
        let mut out = std::mem::take(&mut state.out);
        for (to, bytes) in out.drain(..) {
            let to = if self.is_dual_stack { mapped(to) } else { to };
            match self.udp.try_send_to(&bytes, to) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.dropped.overflow += 1;
                    sent_all = false;
                }
                // No route, or an ICMP report: a check or a repetition finds out.
                Err(error) => tracing::trace!(%to, %error, "datagram not sent"),
            }
        }
        // The vector's memory is kept for the next packets.
        state.out = out;
        sent_all
    }

    fn on_relay_outcome(&self, state: &State, outcome: &Outcome) {
        match outcome {
            Outcome::Allocated { carrier, relayed } => {
                tracing::info!(%relayed, ?carrier, "relayed address allocated");
            }
            Outcome::Failed { carrier, error } => {
                tracing::info!(?carrier, ?error, "no relayed address");
            }
        }
        let now = state
            .relays
            .relayed()
            .map(|(address, carrier)| Relayed { address, carrier });
        self.relayed
            .send_if_modified(|relayed| std::mem::replace(relayed, now) != now);
    }

    fn take_inbox(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> usize {
        let mut state = self.lock();
        let mut taken = 0;
        while taken < bufs.len().min(meta.len()) {
            let Some((from, packet)) = state.inbox.pop_front() else {
                break;
            };
            let Some(place) = bufs[taken].get_mut(..packet.len()) else {
                continue;
            };
            place.copy_from_slice(&packet);
            meta[taken] = socket::meta_of(from, packet.len());
            taken += 1;
        }
        if taken == 0 {
            *lock(&self.receiver) = Some(cx.waker().clone());
        }
        taken
    }

    fn start_probe(&self, ice: &IceConfig) {
        let servers = ice
            .stun
            .iter()
            .copied()
            .filter(|server| self.can_reach(*server))
            .collect();
        let mut config = ProbeConfig::new(servers);
        config.local = interfaces::host_addresses(self.with_loopback)
            .into_iter()
            .map(|ip| SocketAddr::new(ip, self.port()))
            .collect();
        let Ok(seed) = seed() else { return };
        self.drive(|state, now| state.probe = Some(NatProbe::new(config, seed, now)));
    }

    fn can_reach(&self, server: SocketAddr) -> bool {
        (self.is_dual_stack || server.is_ipv4()) && has_route(server)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }
}

async fn run_timers(net: Weak<Net>) {
    loop {
        let Some(strong) = net.upgrade() else { return };
        let timeout = strong.lock().next_timeout();
        let sooner = async { strong.sooner.notified().await };
        match timeout {
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {
                        strong.drive(State::handle_timeout);
                    }
                    () = sooner => {}
                    () = idle() => {}
                }
            }
            None => {
                tokio::select! {
                    () = sooner => {}
                    () = idle() => {}
                }
            }
        }
    }
}

/// Lets the timer task look whether its socket still exists.
async fn idle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn finished_report(probe: &mut NatProbe) -> Option<NatReport> {
    use tombolo_path::probe::ProbeEvent;
    let mut done = None;
    while let Some(event) = probe.poll_event() {
        if let ProbeEvent::Done(report) = event {
            done = Some(report);
        }
    }
    done
}

/// A dual-stack socket where there is IPv6, else an IPv4 one.
fn bind_socket() -> io::Result<(socket2::Socket, bool)> {
    let bind = |domain, address: SocketAddr| {
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Smaller buffers than wished for only cost throughput.
        _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    match bind(socket2::Domain::IPV6, (Ipv6Addr::UNSPECIFIED, 0).into()) {
        Ok(socket) => Ok((socket, true)),
        Err(_) => {
            bind(socket2::Domain::IPV4, (Ipv4Addr::UNSPECIFIED, 0).into()).map(|s| (s, false))
        }
    }
}

fn seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    Ok(seed)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
