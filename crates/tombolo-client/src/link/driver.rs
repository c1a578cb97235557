//! The task behind a link: introduces, connects, then keeps the link on its best path.

mod introducing;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use noq::{ConnectionId, PathId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tombolo_path::{AddPeerError, Credentials, PeerConfig, PeerId, Policy};
use tombolo_wire::{PublicKeys, UserId};

use super::again::RelayNews;
use super::introduction::Introduction;
use super::pairing::{Heard, Pairing};
use super::paths::Paths;
use super::rouse::Rouser;
use super::window::{Window, window_beside};
use super::{
    Incoming, Lane, LinkState, LinkStatus, Outgoing, Over, Peer, Place, Received, Shared, pair,
    streams,
};
use crate::keys::{Accepted, Keys, PublicKey};
use crate::links::Meeting;
use crate::net::{Net, RouteNow, virtual_of};
use crate::session::Handle;

/// Why a link ends in whose place there is another one.
pub(crate) const REPLACED: &str = "replaced by a newer link";
/// Why a link ends that was closed, and whose peer did not take what was sent.
const UNDELIVERED: &str = "closed before all that was sent had been delivered";
/// QUIC says goodbye, and says it again to a peer that still talks, within this time.
const GOODBYE: Duration = Duration::from_millis(300);
/// A link that is replaced ends within this time.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_secs(1);
/// From the introductions to a working QUIC connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that may not have heard of this end is told after so long, unless its handshake shows that it has.
const UNHEARD: Duration = Duration::from_millis(250);
/// QUIC's first guess; the default of 333 ms makes a lost first packet cost a second.
const INITIAL_RTT: Duration = Duration::from_millis(100);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Keeps NAT mappings and relay permissions warm, on each path.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A path that answers nothing for so long is given up by QUIC itself; usually the path agent is
/// far quicker.
const PATH_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Paths at a time: the relay, the present direct one, and those on their way in and out.
const PATHS_MAX: u32 = 8;
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Unreliable messages that wait for congestion control; older ones give way.
const DATAGRAM_BUFFER_BYTES: usize = 64 * 1024;

/// What all links of a device share.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) net: Arc<Net>,
    pub(crate) endpoint: noq::Endpoint,
    pub(crate) rouser: Arc<Rouser>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) accepted: Accepted,
    pub(crate) session: Handle,
}

/// What a peer knows this end of a link by.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) attempt: u64,
    credentials: Credentials,
}

impl Standing {
    pub(crate) fn generate() -> std::io::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(std::io::Error::other)?;
        let mut attempt = [0; 8];
        getrandom::fill(&mut attempt).map_err(std::io::Error::other)?;
        Ok(Self {
            attempt: u64::from_be_bytes(attempt).max(1),
            credentials: Credentials::from_seed(seed),
        })
    }
}

/// What a link starts with.
pub(crate) struct LinkConfig {
    pub(crate) shop: Shop,
    pub(crate) standing: Standing,
    /// Where the two are introduced, which may become another.
    pub(crate) meeting: watch::Receiver<Meeting>,
    pub(crate) user: UserId,
    /// The peer's keys as the room's members know them: first messages are sealed for these.
    pub(crate) expected_keys: PublicKeys,
    pub(crate) policy: Policy,
    pub(crate) first: Vec<(Lane, Bytes)>,
    /// The introduction that this link answers.
    pub(crate) answers: Option<Introduction>,
    /// Links whose place this one takes: they give up the peer's addresses first.
    pub(crate) predecessors: Vec<Over>,
    /// Links that the application has closed, and which deliver before this one begins.
    pub(crate) delivering: Vec<Delivering>,
}

/// A link that was closed, and still has to deliver what was sent.
pub(crate) struct Delivering {
    pub(crate) over: Over,
    /// As [`Inputs::end`].
    pub(crate) end: mpsc::Sender<String>,
}

/// The driver's ends of the application's queues.
pub(super) struct Ends {
    pub(super) outgoing: mpsc::Receiver<Outgoing>,
    /// Ends when the application closes the link.
    pub(super) closing: oneshot::Receiver<Infallible>,
    pub(super) messages: mpsc::Sender<Received>,
    pub(super) status: watch::Sender<LinkStatus>,
    pub(super) changes: broadcast::Sender<LinkStatus>,
    pub(super) place: Arc<Place>,
}

/// How the device reaches a link's task.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) introductions: mpsc::Sender<Introduction>,
    pub(crate) connections: mpsc::Sender<noq::Connection>,
    /// The peer may not have what the link told it.
    pub(crate) untold: mpsc::Sender<()>,
    /// Ends the link, with the reason.
    pub(crate) end: mpsc::Sender<String>,
}

pub(crate) struct Driver {
    config: LinkConfig,
    pairing: Pairing,
    /// When the peer is told of this end, of which it may not have heard.
    unheard: Option<Instant>,
    /// Messages for the introduction.
    first: Vec<Outgoing>,
    /// What they were sealed to: told with each introduction until there is a connection, since the first may be lost.
    sealed: Bytes,
    ends: Ends,
    introductions: mpsc::Receiver<Introduction>,
    connections: mpsc::Receiver<noq::Connection>,
    news: RelayNews,
    end: mpsc::Receiver<String>,
}

/// Why a link ended before, or while, it worked.
type Reason = String;

/// What comes of a handshake.
enum Met {
    Connected(noq::Connection),
    /// The peer begins anew by this, or means another link.
    Anew(Introduction),
}

impl Driver {
    /// Makes a link: the handle for the application, the inputs for the device, and the driver to
    /// spawn.
    pub(crate) fn new(mut config: LinkConfig) -> std::io::Result<(Peer, Inputs, Self)> {
        let attempt = config.standing.attempt;
        let (introductions_tx, introductions) = mpsc::channel(16);
        let (connections_tx, connections) = mpsc::channel(2);
        let (untold_tx, untold) = mpsc::channel(1);
        let (end_tx, end) = mpsc::channel(1);
        let identity = config.expected_keys.identity;
        let net = config.shop.net.clone();
        let news = RelayNews::new(net.watch_relayed(), untold);
        let (shared, ends): (Shared, Ends) = pair(config.user.clone(), identity, net);
        let first = ends.place.share(std::mem::take(&mut config.first));
        let answers = config.answers.as_ref();
        let driver = Self {
            pairing: Pairing {
                own: attempt,
                remote: answers.map(|remote| remote.attempt),
            },
            unheard: None,
            first: first.map_err(std::io::Error::other)?,
            sealed: Bytes::new(),
            config,
            ends,
            introductions,
            connections,
            news,
            end,
        };
        let inputs = Inputs {
            introductions: introductions_tx,
            connections: connections_tx,
            untold: untold_tx,
            end: end_tx,
        };
        Ok((Peer(Arc::new(shared)), inputs, driver))
    }

    /// Does the link's work until it is over.
    pub(crate) async fn run(mut self) {
        let reason = match self.establish().await {
            Ok(()) => "closed".to_owned(),
            Err(reason) => reason,
        };
        tracing::info!(user = %self.config.user, %reason, "link over");
        let status = LinkStatus {
            state: LinkState::Lost,
            reason: Some(reason),
            ..LinkStatus::CONNECTING
        };
        set_status(&self.ends, status);
    }

    async fn establish(&mut self) -> Result<(), Reason> {
        _ = self.ends.changes.send(LinkStatus::CONNECTING);
        tokio::select! {
            () = Self::follow(&mut self.config) => {}
            Some(reason) = self.end.recv() => return Err(reason),
        }
        let sealed_for = self.introduce().await;
        let mut remote = self.remote_introduction().await?;
        let mut first = std::mem::take(&mut self.first);
        if sealed_for == Some(remote.keys) {
            first.iter_mut().for_each(Outgoing::give_back);
        }
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let (guard, connection) = loop {
            self.receive_first(&remote, deadline).await?;
            let identity = PublicKey(remote.keys.identity);
            if identity == self.config.shop.keys.identity {
                return Err("the peer claims this device's own key".to_owned());
            }
            let guard = Introduced::new(&self.config, &remote, identity)
                .map_err(|error| error.to_string())?;
            self.config_paths_status(guard.peer);
            match self.connect(&guard, identity, deadline).await? {
                Met::Connected(connection) => break (guard, connection),
                Met::Anew(introduction) => remote = introduction,
            }
        };
        self.sealed.clear();
        // First messages that were not sealed for this very peer go over the link instead.
        let unread = match sealed_for == Some(remote.keys) {
            true => Vec::new(),
            false => first,
        };
        self.work(guard, connection, unread).await
    }

    /// Waits for the links before: first for those that still deliver, which the peer ends when it is introduced
    /// anew, and then until all have given its addresses up, lest its handshake is taken for one of theirs.
    async fn follow(config: &mut LinkConfig) {
        let delivered = async {
            for before in &config.delivering {
                before.over.clone().wait().await;
            }
        };
        // What is not delivered by then is told by the end of its link.
        _ = tokio::time::timeout(streams::LINGER, delivered).await;
        for before in config.delivering.drain(..) {
            _ = before.end.try_send(REPLACED.to_owned());
            config.predecessors.push(before.over);
        }
        for predecessor in config.predecessors.drain(..) {
            // One that does not end in time loses its addresses to nobody: they are shared.
            _ = tokio::time::timeout(PREDECESSOR_TIMEOUT, predecessor.wait()).await;
        }
    }

    /// With both introductions known, the relay carries data.
    fn config_paths_status(&self, peer: PeerId) {
        self.ends.place.set_peer(peer);
        let net = &self.config.shop.net;
        if let (Some(local), Some(remote)) = (net.relayed(), net.relayed_of(peer))
            && self.config.policy != Policy::Direct
        {
            let status = LinkStatus {
                state: LinkState::Relayed,
                local: Some(local.address),
                remote: Some(remote),
                rtt: None,
                reason: None,
            };
            set_status(&self.ends, status);
        }
    }

    async fn connect(
        &mut self,
        introduced: &Introduced,
        identity: PublicKey,
        deadline: Instant,
    ) -> Result<Met, Reason> {
        let shop = self.config.shop.clone();
        let mut connections = std::mem::replace(&mut self.connections, mpsc::channel(1).1);
        // What there is by now was of a handshake before this one.
        while connections.try_recv().is_ok() {}
        let connecting = handshake(&shop, introduced, identity, &mut connections);
        let met = self
            .follow_handshake(introduced, connecting, deadline)
            .await;
        self.connections = connections;
        met
    }

    /// Waits for what comes of a handshake, and hears what the peer tells meanwhile.
    async fn follow_handshake(
        &mut self,
        introduced: &Introduced,
        connecting: impl Future<Output = Result<noq::Connection, Reason>>,
        deadline: Instant,
    ) -> Result<Met, Reason> {
        tokio::pin!(connecting);
        loop {
            let unheard = self.unheard;
            tokio::select! {
                connection = &mut connecting => return connection.map(Met::Connected),
                Some(introduction) = self.introductions.recv() => match self.hear(&introduction) {
                    Heard::Agreed | Heard::Unheard => introduced.update(introduction),
                    Heard::Anew => return Ok(Met::Anew(introduction)),
                },
                () = self.news.is_due() => self.tell_relay(),
                () = tokio::time::sleep_until(unheard.unwrap_or(deadline)), if unheard.is_some() => {
                    self.tell_relay();
                }
                Some(reason) = self.end.recv() => return Err(reason),
                () = tokio::time::sleep_until(deadline) => {
                    return Err("the peer cannot be reached, neither directly nor by the relay".to_owned());
                }
            }
        }
    }

    /// Takes in what the peer says; where it has to be told of this end, that is due.
    fn hear(&mut self, introduction: &Introduction) -> Heard {
        let heard = self
            .pairing
            .hear(introduction.attempt, introduction.answers);
        match heard {
            Heard::Agreed => {}
            Heard::Unheard => self.unheard = Some(Instant::now() + UNHEARD),
            Heard::Anew => self.unheard = Some(Instant::now()),
        }
        heard
    }

    /// Carries messages and follows the path agent until the link is over.
    async fn work(
        &mut self,
        introduced: Introduced,
        connection: noq::Connection,
        unread: Vec<Outgoing>,
    ) -> Result<(), Reason> {
        if let Some(relay) = connection.path(PathId::ZERO) {
            // The relay stands by for the link's whole life, even through an outage of its own.
            _ = relay.set_max_idle_timeout(None);
        }
        _ = self.ends.place.connection.set(connection.clone());
        let incoming = Incoming {
            messages: self.ends.messages.clone(),
            window: Window::new(connection.clone()),
            net: self.config.shop.net.clone(),
            peer: introduced.peer,
        };
        // It goes on by itself: what has arrived is delivered even after the link is over, as long
        // as the application holds its end.
        tokio::spawn(streams::read(connection.clone(), incoming));
        let outgoing = std::mem::replace(&mut self.ends.outgoing, mpsc::channel(1).1);
        let closing = std::mem::replace(&mut self.ends.closing, oneshot::channel().1);
        let writing = streams::write(connection.clone(), unread, outgoing, closing);
        let mut writing = tokio::spawn(writing);
        let mut paths = Paths::new(
            self.ends.place.clone(),
            connection.clone(),
            introduced.peer,
            introduced.is_client,
            self.config.policy,
        );
        let mut routes = introduced.routes.clone();
        // The guard of a watched value must not live on while others are locked.
        let route = *routes.borrow_and_update();
        self.report(&mut paths, &route);
        let mut relayed = route.relayed;
        let reason = loop {
            tokio::select! {
                Some(reason) = self.end.recv() => break Err(reason),
                reason = connection.closed() => break Err(reason.to_string()),
                delivered = &mut writing => break match (delivered, connection.close_reason()) {
                    (Ok(true), _) => Ok(()),
                    (_, Some(reason)) => Err(reason.to_string()),
                    (_, None) => Err(UNDELIVERED.to_owned()),
                },
                changed = routes.changed() => {
                    if changed.is_err() {
                        break Err("the device is closed".to_owned());
                    }
                    let route = *routes.borrow_and_update();
                    if std::mem::replace(&mut relayed, route.relayed) != route.relayed {
                        self.config.shop.rouser.rouse();
                    }
                    self.report(&mut paths, &route);
                }
                () = paths.step() => {
                    let route = *routes.borrow();
                    self.report(&mut paths, &route);
                }
                Some(introduction) = self.introductions.recv() => self.update(&introduced, introduction),
                () = self.news.is_due() => {
                    self.tell_relay();
                    self.config.shop.rouser.rouse();
                }
            }
        };
        connection.close(0u8.into(), b"closed");
        writing.abort();
        // The goodbye needs the peer's place in the socket a little longer.
        tokio::time::sleep(GOODBYE).await;
        reason
    }

    /// One of another attempt came too late to begin this link anew.
    fn update(&self, introduced: &Introduced, introduction: Introduction) {
        if Some(introduction.attempt) == self.pairing.remote {
            introduced.update(introduction);
        }
    }

    fn report(&self, paths: &mut Paths, route: &RouteNow) {
        paths.follow(route);
        if let Some(status) = paths.status(route) {
            set_status(&self.ends, status);
        }
    }
}

/// Begins the handshake, or waits for the peer's.
async fn handshake(
    shop: &Shop,
    introduced: &Introduced,
    identity: PublicKey,
    connections: &mut mpsc::Receiver<noq::Connection>,
) -> Result<noq::Connection, Reason> {
    if !introduced.is_client {
        let connection = connections.recv().await;
        return connection.ok_or_else(|| "the device is closed".to_owned());
    }
    let tls = shop.keys.client_config(identity);
    let tls = tls.map_err(|error| error.to_string())?;
    let mut config = noq::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport_config()));
    let first_id = introduced.first_id;
    config.initial_dst_cid_provider(Arc::new(move || first_id));
    let address = virtual_of(introduced.peer);
    let connecting = shop.endpoint.connect_with(config, address, "peer");
    let connecting = connecting.map_err(|error| error.to_string())?;
    connecting.await.map_err(|error| error.to_string())
}

fn set_status(ends: &Ends, status: LinkStatus) {
    let is_new = ends.status.send_if_modified(|now| {
        let is_new = *now != status;
        now.clone_from(&status);
        is_new
    });
    if is_new {
        _ = ends.changes.send(status);
    }
}

/// For what the first packet of a link is, by the attempts of QUIC's client and server: they are as random as QUIC
/// wants its first id.
fn first_id(of_client: u64, of_server: u64) -> ConnectionId {
    let both = u128::from(of_client) << 64 | u128::from(of_server);
    ConnectionId::new(&both.to_be_bytes())
}

/// A peer's places in the socket and among the accepted keys, given back at the end.
struct Introduced {
    net: Arc<Net>,
    accepted: Accepted,
    identity: PublicKey,
    peer: PeerId,
    /// Both sides agree by the order of their keys.
    is_client: bool,
    first_id: ConnectionId,
    routes: watch::Receiver<RouteNow>,
}

impl Introduced {
    fn new(
        config: &LinkConfig,
        remote: &Introduction,
        identity: PublicKey,
    ) -> Result<Self, AddPeerError> {
        let attempt = config.standing.attempt;
        let is_client = config.shop.keys.identity < identity;
        let first_id = match is_client {
            true => first_id(attempt, remote.attempt),
            false => first_id(remote.attempt, attempt),
        };
        let mut peer_config = PeerConfig::new(
            config.standing.credentials.clone(),
            remote.credentials.clone(),
            is_client,
        );
        peer_config.policy = config.policy;
        peer_config.candidates.clone_from(&remote.candidates);
        peer_config.remote_nat = remote.nat;
        // First, since the peer's handshake may be waiting for its place already.
        config.shop.accepted.insert(identity);
        let expected = (!is_client).then_some(first_id);
        let added = config.shop.net.add_peer(identity, peer_config, expected);
        let (peer, routes) = added.inspect_err(|_| config.shop.accepted.remove(identity))?;
        Ok(Self {
            net: config.shop.net.clone(),
            accepted: config.shop.accepted.clone(),
            identity,
            peer,
            is_client,
            first_id,
            routes,
        })
    }

    /// Takes candidates that the peer found later.
    fn update(&self, introduction: Introduction) {
        for candidate in introduction.candidates {
            self.net.add_candidate(self.peer, candidate);
        }
    }
}

impl Drop for Introduced {
    fn drop(&mut self) {
        self.accepted.remove(self.identity);
        self.net.remove_peer(self.peer);
    }
}

/// QUIC's settings for links; the server side uses the same.
pub(crate) fn transport_config() -> noq::TransportConfig {
    let mut config = noq::TransportConfig::default();
    config.max_concurrent_multipath_paths(PATHS_MAX);
    config.initial_rtt(INITIAL_RTT);
    config.max_idle_timeout(IDLE_TIMEOUT.try_into().ok());
    config.default_path_max_idle_timeout(Some(PATH_IDLE_TIMEOUT));
    config.default_path_keep_alive_interval(Some(KEEP_ALIVE));
    // A path through TURN carries less than the interface, and a standby path would not notice.
    config.mtu_discovery_config(None);
    config.stream_receive_window(STREAM_WINDOW_BYTES.into());
    config.receive_window(window_beside(0));
    config.datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES);
    config.max_concurrent_bidi_streams(0u8.into());
    config
}
