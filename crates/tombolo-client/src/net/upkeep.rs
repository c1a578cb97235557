//! Keeps a relayed address: allocates, notices its loss, allocates again.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tombolo_path::probe::{NatProbe, ProbeConfig};
use tombolo_turn::client::{Client, Config as TurnConfig, Family, Patience};
use tombolo_turn::server::Transport;

use super::interfaces::host_addresses;
use super::relay::{Carrier, Relays, Stream};
use super::{GATHER_TIMEOUT, Net, Relayed, has_route, lock, seed, stream};
use crate::ice::{IceConfig, TlsServer};

/// Pause before a lost allocation is asked for again; doubles up to sixteen times that.
const RELAY_RETRY: Duration = Duration::from_millis(500);
/// How often the TURN server is asked from where it sees us; keeps the NAT's mapping, too.
const PULSE: Duration = Duration::from_secs(5);
/// With no STUN answer by then, TLS is tried beside UDP.
const UDP_PATIENCE: Duration = Duration::from_millis(400);
/// Pause before an allocation is tried again that is to take the place of another; what there is, is
/// used meanwhile.
const SUCCESSOR_RETRY: Duration = Duration::from_secs(1);

/// Keeps the allocation alive; dropping it gives the allocation up.
#[derive(Debug)]
pub(crate) struct RelayKeeper {
    task: tokio::task::JoinHandle<()>,
    ice: watch::Sender<IceConfig>,
}

impl RelayKeeper {
    pub(super) fn new(net: &Arc<Net>, ice: IceConfig) -> Self {
        let (ice, servers) = watch::channel(ice);
        let task = tokio::spawn(keep_relay(Arc::downgrade(net), servers));
        Self { task, ice }
    }

    /// Goes to other servers: allocates there before the allocation here is given up.
    pub(crate) fn go_to(&self, ice: IceConfig) {
        self.ice.send_replace(ice);
    }
}

impl Drop for RelayKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Allocates, waits for the loss, and allocates again.
async fn keep_relay(net: Weak<Net>, mut servers: watch::Receiver<IceConfig>) {
    let _stop = StopRelays(net.clone());
    let mut failures = 0;
    loop {
        let Some(strong) = net.upgrade() else { return };
        let ice = servers.borrow_and_update().clone();
        let mut relayed = strong.watch_relayed();
        // An allocation that was given up may have come after all.
        if strong.relayed().is_none() {
            strong.stop_relays();
            strong.allocate(&ice, failures).await;
        }
        if strong.relayed().is_some() {
            failures = 0;
        }
        let lost = async { relayed.wait_for(Option::is_none).await.is_ok() };
        let moved = async {
            loop {
                tokio::time::sleep(PULSE).await;
                if strong.has_moved().await {
                    return strong.on_moved(&ice);
                }
            }
        };
        tokio::select! {
            is_running = lost => if !is_running { return },
            () = moved => {}
            () = strong.go_to(&ice) => continue,
            changed = servers.changed() => if changed.is_ok() { continue } else { return },
        }
        drop(strong);
        let doublings = u32::try_from(failures.min(4)).unwrap_or(0);
        tokio::time::sleep(RELAY_RETRY * 2u32.pow(doublings)).await;
        failures += 1;
    }
}

/// Gives allocations up when the task that keeps them ends.
struct StopRelays(Weak<Net>);

impl Drop for StopRelays {
    fn drop(&mut self) {
        if let Some(net) = self.0.upgrade() {
            net.stop_relays();
        }
    }
}

impl Net {
    fn stop_relays(&self) {
        self.drive(|state, now| state.relays.stop(now));
    }

    /// The number of the next stream.
    pub(super) fn next_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Asks the TURN server whether it still sees us where it allocated for us. A NAT that was
    /// restarted, or another network, gives us another address, and the allocation is not ours
    /// any more, though nobody says so.
    async fn has_moved(&self) -> bool {
        let Some((server, mapped)) = self.lock().relays.mapped() else {
            return false;
        };
        let Ok(seed) = seed() else { return false };
        let mut seen = self.seen.subscribe();
        let probe = NatProbe::new(ProbeConfig::new(vec![server]), seed, Instant::now());
        self.drive(|state, _| state.pulse = Some(probe));
        if seen.changed().await.is_err() {
            return false;
        }
        // Silence tells nothing: the server may be gone, or UDP be blocked for a while.
        let now = *seen.borrow();
        now.is_some_and(|now| now != mapped)
    }

    /// Begins anew at another public address.
    fn on_moved(&self, ice: &IceConfig) {
        tracing::info!("the public address has changed: allocating and checking anew");
        self.start_probe(ice);
        self.drive(|state, now| {
            state.relays.forget_udp();
            state.agent.handle_network_changed(now);
        });
    }

    /// Allocates on these servers, if the allocation in use is on another one, and over UDP as soon as that may pass;
    /// returns when it has taken that one's place.
    async fn go_to(self: &Arc<Self>, ice: &IceConfig) {
        let servers: Vec<_> = self.servers_udp(ice).map(|at| (Carrier::Udp, at)).collect();
        let streams = servers_tls(ice).map(|server| (Carrier::Stream, server.address));
        let servers: Vec<_> = servers.into_iter().chain(streams).collect();
        let is_elsewhere = || self.lock().relays.is_elsewhere(&servers);
        for tries in 0.. {
            if servers.is_empty() || !is_elsewhere() {
                break;
            }
            self.allocate_next(ice, tries).await;
            if !is_elsewhere() {
                return self.start_probe(ice);
            }
            self.drive(|state, now| state.relays.stop_next(now));
            tokio::time::sleep(SUCCESSOR_RETRY).await;
        }
        self.go_to_udp(ice).await;
    }

    /// Goes from TLS to UDP, which is tried whenever the device's addresses are others, since it may be in another
    /// network by then; returns when it has.
    async fn go_to_udp(self: &Arc<Self>, ice: &IceConfig) {
        loop {
            self.hosts_change().await;
            let relayed = self.relayed();
            let Some(relayed) = relayed.filter(|it| it.carrier == Carrier::Stream) else {
                continue;
            };
            let Some(server) = pick(self.servers_udp(ice), 0) else {
                continue;
            };
            self.start(Relays::start_next, ice, Carrier::Udp, server, None);
            if self.is_replaced(relayed, GATHER_TIMEOUT).await {
                return self.start_probe(ice);
            }
            self.drive(|state, now| state.relays.stop_next(now));
        }
    }

    /// Waits until this machine has other addresses.
    async fn hosts_change(&self) {
        let mut hosts = self.hosts.subscribe();
        // It ends only with `self`.
        while tokio::time::timeout(PULSE, hosts.changed()).await.is_err() {
            let now = host_addresses(self.with_loopback);
            self.hosts
                .send_if_modified(|hosts| std::mem::replace(hosts, now.clone()) != now);
        }
    }

    /// Allocates beside the allocation in use, over UDP or, when that does not answer, over TLS.
    async fn allocate_next(self: &Arc<Self>, ice: &IceConfig, tries: usize) {
        let Some(relayed) = self.relayed() else {
            return;
        };
        if let Some(server) = pick(self.servers_udp(ice), tries) {
            self.start(Relays::start_next, ice, Carrier::Udp, server, None);
            let patience = match relayed.carrier {
                Carrier::Udp => GATHER_TIMEOUT,
                Carrier::Stream => UDP_PATIENCE,
            };
            if self.is_replaced(relayed, patience).await {
                return;
            }
        }
        let Some(server) = pick(servers_tls(ice), tries) else {
            return;
        };
        match stream::connect(self, server, &ice.tls).await {
            Ok(stream) => self.start(
                Relays::start_next,
                ice,
                Carrier::Stream,
                server.address,
                Some(stream),
            ),
            Err(error) => {
                tracing::info!(server = %server.address, %error, "TURN over TLS failed");
                return;
            }
        }
        self.is_replaced(relayed, GATHER_TIMEOUT).await;
    }

    /// Waits until another relayed address is in use than this one.
    async fn is_replaced(&self, before: Relayed, at_most: Duration) -> bool {
        let mut relayed = self.watch_relayed();
        let replaced = relayed.wait_for(|now| *now != Some(before));
        tokio::time::timeout(at_most, replaced).await.is_ok()
    }

    /// Allocates over UDP, and over TLS when UDP does not answer. Each failure moves on to the
    /// next servers.
    async fn allocate(self: &Arc<Self>, ice: &IceConfig, failures: usize) {
        let mut relayed = self.watch_relayed();
        if let Some(server) = pick(self.servers_udp(ice), failures) {
            self.start(Relays::start, ice, Carrier::Udp, server, None);
            let patience = tokio::time::timeout(UDP_PATIENCE, relayed.wait_for(Option::is_some));
            if patience.await.is_ok() {
                return;
            }
        }
        let Some(server) = pick(servers_tls(ice), failures) else {
            tracing::warn!("no relay: UDP does not answer, and the node offers no TURN over TLS");
            _ = tokio::time::timeout(GATHER_TIMEOUT, relayed.wait_for(Option::is_some)).await;
            return;
        };
        tracing::info!(server = %server.address, "UDP does not answer: TURN over TLS");
        match stream::connect(self, server, &ice.tls).await {
            Ok(stream) => self.start(
                Relays::start,
                ice,
                Carrier::Stream,
                server.address,
                Some(stream),
            ),
            Err(error) => {
                tracing::warn!(server = %server.address, %error, "TURN over TLS failed");
                return;
            }
        }
        _ = tokio::time::timeout(GATHER_TIMEOUT, relayed.wait_for(Option::is_some)).await;
    }

    fn servers_udp(&self, ice: &IceConfig) -> impl Iterator<Item = SocketAddr> + Clone {
        let servers = ice.turn_udp.iter().copied();
        servers.filter(|server| self.can_reach(*server))
    }

    /// Begins an allocation: [`Relays::start`], or [`Relays::start_next`] beside the one in use.
    fn start(
        &self,
        start: fn(&mut Relays, Instant, Client, Option<Stream>),
        ice: &IceConfig,
        carrier: Carrier,
        server: SocketAddr,
        stream: Option<Stream>,
    ) {
        let Ok(seed) = seed() else { return };
        let config = self.turn_config(ice, carrier, server);
        self.drive(|state, now| {
            let client = Client::new(config, seed, now);
            start(&mut state.relays, now, client, stream);
        });
    }

    fn turn_config(&self, ice: &IceConfig, carrier: Carrier, server: SocketAddr) -> TurnConfig {
        let transport = match carrier {
            Carrier::Udp => Transport::Udp,
            Carrier::Stream => Transport::Tls,
        };
        // Relayed addresses exchange packets only within a family, so all devices ask for IPv4
        // where the relay has it.
        let family = if ice.relays_v4 {
            Family::V4
        } else {
            Family::V6
        };
        let renewed = lock(&self.credentials).clone();
        let (username, password) =
            renewed.unwrap_or_else(|| (ice.username.clone(), ice.password.clone()));
        TurnConfig {
            server,
            transport,
            username,
            password,
            family,
            lifetime: Duration::ZERO,
            patience: Patience::default(),
        }
    }
}

/// The servers that can be reached over TLS.
fn servers_tls(ice: &IceConfig) -> impl Iterator<Item = &TlsServer> + Clone {
    let servers = ice.turn_tls.iter();
    servers.filter(|server| has_route(server.address))
}

/// One of them, and another one at each try.
fn pick<T>(servers: impl Iterator<Item = T> + Clone, tries: usize) -> Option<T> {
    let count = servers.clone().count().max(1);
    servers.into_iter().nth(tries % count)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::net::{TcpListener, TcpStream, UdpSocket};
    use tokio::task::JoinSet;
    use tombolo_node::Node;
    use tombolo_wire::CertificatePin;
    use tombolo_wire::v1::{RefreshIceServers, request, response};

    use super::*;
    use crate::device::bind_endpoint;
    use crate::keys::{Accepted, Keys};
    use crate::{Device, tls};

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn node() -> Node {
        let node = Node::builder().dev().listen([127, 0, 0, 1].into());
        let node = node.port(0).turn_port(0).turns_port(0).start();
        node.await.unwrap()
    }

    /// A device's socket, and what reads it.
    async fn net() -> (Arc<Net>, noq::Endpoint) {
        let net = Net::bind(true).await.unwrap();
        let keys = Keys::generate().unwrap();
        let endpoint = bind_endpoint(&net, &keys, Accepted::default()).unwrap();
        (net, endpoint)
    }

    /// Waits until the relay in use is reached so.
    async fn reached(net: &Net, carrier: Carrier) {
        let mut relayed = net.watch_relayed();
        let is_so = |relayed: &Option<Relayed>| relayed.is_some_and(|it| it.carrier == carrier);
        let reached = relayed.wait_for(is_so);
        _ = tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }

    /// A device of a node, for which these servers are.
    async fn offered(node: &Node) -> (Device, IceConfig) {
        let url = &node.ready().url;
        let device = Device::builder(&url.to_string()).development_user("alice");
        let device = device.connect().await.unwrap();
        let ask = request::Kind::IceServers(RefreshIceServers::default());
        let answer = device.0.session.request(ask).await.unwrap();
        let response::Result::IceServers(servers) = answer else {
            panic!("{answer:?}");
        };
        let tls = tls::client_config(url.pin.as_ref(), None).unwrap();
        let ice = IceConfig::resolve(&servers, Arc::new(tls)).await;
        (device, ice)
    }

    #[tokio::test]
    async fn a_relay_over_tls_goes_to_udp_when_the_device_comes_where_that_passes() {
        let node = node().await;
        let (_device, ice) = offered(&node).await;
        let (net, _endpoint) = net().await;
        // It has given UDP up.
        let without = IceConfig {
            turn_udp: Vec::new(),
            ..ice.clone()
        };
        let keeper = net.gather(without).await;
        reached(&net, Carrier::Stream).await;
        keeper.go_to(ice);
        net.hosts.send_replace(Vec::new());
        reached(&net, Carrier::Udp).await;
        node.shutdown().await;
    }

    #[tokio::test]
    async fn the_relay_is_reached_over_udp_and_over_tls_where_nothing_comes_back() {
        let node = node().await;
        let (_device, ice) = offered(&node).await;
        let (net, _endpoint) = net().await;
        let keeper = net.gather(ice.clone()).await;
        assert_eq!(net.relayed().unwrap().carrier, Carrier::Udp);
        drop(keeper);
        let silent = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let blocked = IceConfig {
            turn_udp: vec![silent.local_addr().unwrap()],
            ..ice
        };
        let _keeper = net.gather(blocked).await;
        reached(&net, Carrier::Stream).await;
        node.shutdown().await;
    }

    #[tokio::test]
    async fn a_relay_with_another_certificate_gets_no_connection() {
        let node = node().await;
        let (_device, ice) = offered(&node).await;
        let (net, _endpoint) = net().await;
        let server = &ice.turn_tls[0];
        stream::connect(&net, server, &ice.tls).await.unwrap();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let other = CertificatePin::of(made.cert.der());
        for pin in [Some(&other), None] {
            let tls = tls::client_config(pin, None).unwrap();
            let refused = stream::connect(&net, server, &Arc::new(tls)).await;
            let error = refused.map(|_| ()).unwrap_err();
            assert!(error.get_ref().unwrap().is::<rustls::Error>(), "{error}");
        }
        node.shutdown().await;
    }

    /// What stands between a device and a server; when it is dropped, so is the connection.
    async fn between(
        listener: &TcpListener,
        server: SocketAddr,
    ) -> JoinSet<io::Result<(u64, u64)>> {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(server).await.unwrap();
        let mut between = JoinSet::new();
        between.spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        between
    }

    #[tokio::test]
    async fn a_stream_that_is_given_up_is_reset() {
        let node = node().await;
        let (_device, ice) = offered(&node).await;
        let (net, _endpoint) = net().await;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let server = TlsServer {
            address: listener.local_addr().unwrap(),
            ..ice.turn_tls[0].clone()
        };
        for is_given_up in [false, true] {
            let connecting = stream::connect(&net, &server, &ice.tls);
            let between = between(&listener, ice.turn_tls[0].address);
            let (stream, mut between) = tokio::join!(connecting, between);
            let stream = stream.unwrap();
            if is_given_up {
                stream.frames.send(Vec::new()).await.unwrap();
            }
            drop(stream);
            let end = tokio::time::timeout(PATIENCE, between.join_next());
            let end = end.await.unwrap().unwrap().unwrap();
            let error = end.err().map(|error| error.kind());
            let reset = is_given_up.then_some(io::ErrorKind::ConnectionReset);
            assert_eq!(error, reset);
        }
        node.shutdown().await;
    }

    #[tokio::test]
    async fn a_stream_stays_as_long_as_its_allocation_and_when_it_breaks_another_one_is_made() {
        let node = node().await;
        let (_device, mut ice) = offered(&node).await;
        let (net, _endpoint) = net().await;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let server = ice.turn_tls.swap_remove(0);
        ice.turn_udp.clear();
        ice.turn_tls = vec![TlsServer {
            address: listener.local_addr().unwrap(),
            ..server.clone()
        }];
        let first = between(&listener, server.address);
        let (_keeper, mut first) = tokio::join!(net.gather(ice), first);
        reached(&net, Carrier::Stream).await;
        assert!(first.try_join_next().is_none(), "it stays");
        let before = net.relayed();
        drop(first);
        let second = between(&listener, server.address);
        let second = tokio::time::timeout(PATIENCE, second).await.unwrap();
        let mut relayed = net.watch_relayed();
        let is_new = |now: &Option<Relayed>| now.is_some() && *now != before;
        let again = relayed.wait_for(is_new);
        _ = tokio::time::timeout(PATIENCE, again).await.unwrap();
        drop(second);
        node.shutdown().await;
    }
}
