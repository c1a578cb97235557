//! A device: one session with the cluster, one socket for all peers.

mod builder;
mod rooms;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tombolo_field::EntityId;
use tombolo_path::Candidate;
use tombolo_path::probe::NatReport;
use tombolo_wire::v1::{self, response, server_frame};
use tombolo_wire::{PublicKeys, RoomId, ServerUrl, UserId};

use crate::error::Error;
use crate::field::Fields;
use crate::ice::IceConfig;
use crate::keys::{Accepted, Keys};
use crate::link::{Introduction, Lane, Peer, Rouser, Shop, transport_config};
use crate::links::{self, HANDSHAKES_MAX, Links, Meeting, Target};
use crate::matchmaker::{Seeking, follow_reach};
use crate::net::{DeviceSocket, Dropped, Lookup, Net, RelayKeeper, measure_nat};
use crate::renewal::renew;
use crate::room::{RoomEvent, RoomState, Rooms, Unnamed};
use crate::seldom::Seldom;
use crate::session::{self, Credential, Event, Patience, TokenState, Tokens, Transport};
use crate::social::Social;
use crate::tls;

pub use builder::DeviceBuilder;

/// A device in the cluster; cheap to clone. Its links end with its last clone; [`Device::close`]
/// lets them deliver first, and takes leave of the cluster.
#[derive(Clone, Debug)]
pub struct Device(pub(crate) Arc<Shared>);

/// What is true of the present connection.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// The node's name.
    pub node: String,
    /// The user that the token proved.
    pub user: UserId,
    /// How the node is reached.
    pub transport: Transport,
    /// Whether this connection continued a session.
    pub resumed: bool,
}

/// What all handles of a device share.
pub(crate) struct Shared {
    /// Of the present node.
    url: Mutex<ServerUrl>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) session: session::Handle,
    shop: Shop,
    rooms: Mutex<HashMap<RoomId, Arc<RoomState>>>,
    /// Those that are being joined without a name.
    pub(crate) unnamed: Unnamed,
    /// How many messages this device has sent to rooms.
    pub(crate) messages: AtomicU64,
    /// Rooms that are being joined again since the session was lost.
    rejoining: Mutex<JoinSet<()>>,
    links: Arc<Links>,
    pub(crate) social: Social,
    pub(crate) matchmaker: Seeking,
    pub(crate) fields: Fields,
    info: watch::Sender<Option<SessionInfo>>,
    stun: Mutex<Vec<SocketAddr>>,
    keeper: Mutex<Option<RelayKeeper>>,
    changing_relay: Mutex<JoinSet<()>>,
    /// Warnings of refused messages, of which there may be many.
    refusals: Seldom,
    /// What comes of rooms that the application is not in.
    pub(crate) strays: Seldom,
    /// Why the session ended, once it has.
    over: OnceLock<String>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The session says goodbye and then closes the endpoint, unless it is over already.
        if !self.session.close_aside() {
            self.shop.endpoint.close(0u8.into(), b"device dropped");
        }
    }
}

impl Device {
    /// Connects with a token; see [`Device::builder`] for more choices.
    ///
    /// # Errors
    /// As [`DeviceBuilder::connect`].
    pub async fn connect(url: &str, token: impl Into<String>) -> Result<Self, Error> {
        Self::builder(url).token(token).connect().await
    }

    /// Begins to connect to the node at `url`, which is what `tombolo serve` prints.
    #[must_use]
    pub fn builder(url: &str) -> DeviceBuilder {
        DeviceBuilder::new(url)
    }

    async fn open(
        url: ServerUrl,
        credential: Credential,
        patience: Patience,
        nearer_within: Option<Duration>,
    ) -> Result<Self, Error> {
        let keys = Arc::new(Keys::generate().map_err(Error::local)?);
        let accepted = Accepted::default();
        // Held until the device is open: its first connection is to the same name, and mostly its relay.
        let name = Lookup::of(url.host());
        let addresses = name
            .addresses(url.port)
            .await
            .map_err(|error| Error::unreachable(&url, &error.to_string()))?;
        let is_local = addresses.iter().any(|address| address.ip().is_loopback());
        let net = Net::bind(is_local).await.map_err(Error::local)?;
        let endpoint = bind_endpoint(&net, &keys, accepted.clone())?;
        let tokens = Arc::new(Tokens::new(credential));
        let config = session::Config {
            url: url.clone(),
            tokens: Arc::clone(&tokens),
            keys: (&keys.public()).into(),
            agent: format!("tombolo-client/{}", env!("CARGO_PKG_VERSION")),
            patience,
            nearer_within,
        };
        let (session, events) = session::open(endpoint.clone(), config).await?;
        let shop = Shop {
            net,
            rouser: Arc::new(Rouser::new(endpoint.clone())),
            endpoint,
            keys,
            accepted,
            session: session.clone(),
        };
        let shared = Arc::new(Shared {
            url: Mutex::new(url),
            tokens,
            session,
            rooms: Mutex::default(),
            unnamed: Unnamed::default(),
            messages: AtomicU64::default(),
            rejoining: Mutex::default(),
            links: Links::new(shop.clone()),
            social: Social::default(),
            matchmaker: Seeking::default(),
            fields: Fields::default(),
            shop,
            info: watch::Sender::new(None),
            stun: Mutex::default(),
            keeper: Mutex::new(None),
            changing_relay: Mutex::default(),
            refusals: Seldom::default(),
            strays: Seldom::default(),
            over: OnceLock::new(),
        });
        tokio::spawn(links::accept(
            Arc::downgrade(&shared.links),
            shared.shop.endpoint.clone(),
        ));
        tokio::spawn(follow_reach(
            Arc::downgrade(&shared),
            shared.shop.net.watch_nat(),
        ));
        let (gathered_tx, gathered) = oneshot::channel();
        tokio::spawn(dispatch(Arc::downgrade(&shared), events, gathered_tx));
        // Gathering may fail in part; the session stands, so the device does.
        _ = gathered.await;
        Ok(Self(shared))
    }

    /// The present, or last, connection to the cluster.
    ///
    /// # Panics
    /// Never: a device exists only with a session.
    #[must_use]
    pub fn session(&self) -> SessionInfo {
        self.0
            .info
            .borrow()
            .clone()
            .expect("a device has been welcomed")
    }

    /// Why the session with the cluster has ended; `None` while it goes on. It ends when this device closes it, when
    /// the cluster does not take it any more, and when no node can be reached for a minute. Another one takes
    /// another device.
    #[must_use]
    pub fn ended(&self) -> Option<&str> {
        self.0.over.get().map(String::as_str)
    }

    /// Tells of every new connection to the cluster.
    #[must_use]
    pub fn watch_session(&self) -> watch::Receiver<Option<SessionInfo>> {
        self.0.info.subscribe()
    }

    /// Gives the device its next token, which must be of the same user: before the one that it has
    /// expires, or when [`Self::watch_token`] says that it is needed.
    pub fn set_token(&self, token: impl Into<String>) {
        self.0.tokens.give(token.into());
    }

    /// Tells whether the token is good. A session whose token has expired goes on, but not over another
    /// connection: then it ends after a minute. The relay forgets the device five minutes after that.
    #[must_use]
    pub fn watch_token(&self) -> watch::Receiver<TokenState> {
        self.0.tokens.watch()
    }

    /// Access to rooms.
    #[must_use]
    pub fn rooms(&self) -> Rooms<'_> {
        Rooms(self)
    }

    /// The addresses that peers are told.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        self.0.shop.net.candidates()
    }

    /// Where the relay receives for this device; `None` while there is no allocation.
    #[must_use]
    pub fn relayed_address(&self) -> Option<SocketAddr> {
        self.0.shop.net.relayed().map(|relayed| relayed.address)
    }

    /// How the NAT maps the device's own socket; `None` until measured.
    #[must_use]
    pub fn nat(&self) -> Option<NatReport> {
        self.0.shop.net.nat()
    }

    /// Measures mapping and filtering of the NAT, from a socket of its own. Takes up to a few
    /// seconds.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn measure_nat(&self) -> Result<NatReport, Error> {
        let servers = lock(&self.0.stun).clone();
        measure_nat(&servers).await.map_err(Error::local)
    }

    /// How many packets the device's socket has dropped, and why.
    #[must_use]
    pub fn dropped(&self) -> Dropped {
        self.0.shop.net.dropped()
    }

    /// Drops all packets that peers exchange with this device directly, or lets them pass again:
    /// shows how an application fares when its direct paths die.
    pub fn block_direct(&self, is_blocked: bool) {
        self.0.shop.net.block_direct(is_blocked);
    }

    /// Breaks the connection with the node, as when a network goes, and goes on with the session over another one: shows how
    /// an application fares when that happens. [`Self::watch_session`] tells when it is there.
    pub fn break_connection(&self) {
        self.0.session.break_connection();
    }

    /// Closes all links and leaves the cluster; returns when the goodbyes have arrived, or after a
    /// few seconds.
    pub async fn close(self) {
        self.0.links.close().await;
        self.0.session.close().await;
        _ = self.0.over.set("the device was closed".to_owned());
        drop(lock(&self.0.keeper).take());
        let endpoint = &self.0.shop.endpoint;
        endpoint.close(0u8.into(), b"device closed");
        _ = tokio::time::timeout(Duration::from_secs(1), endpoint.wait_idle()).await;
    }
}

pub(crate) fn bind_endpoint(
    net: &Arc<Net>,
    keys: &Keys,
    accepted: Accepted,
) -> Result<noq::Endpoint, Error> {
    let crypto = keys.server_config(accepted).map_err(Error::local)?;
    let mut server = noq::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(transport_config()));
    server.max_incoming(HANDSHAKES_MAX);
    let runtime = noq::default_runtime().ok_or_else(|| Error::local("no tokio runtime"))?;
    let mut config = noq::EndpointConfig::default();
    // The first byte tells QUIC from STUN, TURN and envelopes.
    config.grease_quic_bit(false);
    noq::Endpoint::new_with_abstract_socket(
        config,
        Some(server),
        Box::new(DeviceSocket(net.clone())),
        runtime,
    )
    .map_err(Error::local)
}

impl Shared {
    /// The device's user, once the node has said so.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.info.borrow().as_ref().map(|info| info.user.clone())
    }

    #[cfg(test)]
    pub(crate) fn net(&self) -> &Net {
        &self.shop.net
    }

    #[cfg(test)]
    pub(crate) fn links(&self) -> &Arc<Links> {
        &self.links
    }

    fn is_own(&self, user: &UserId) -> bool {
        let info = self.info.borrow();
        info.as_ref().is_some_and(|info| info.user == *user)
    }

    /// Opens a link to a member of a room.
    pub(crate) fn open_link(
        &self,
        room: &RoomId,
        state: &RoomState,
        user: UserId,
        first: Vec<(Lane, Bytes)>,
    ) -> Result<Peer, Error> {
        let Some(keys) = state.keys_of(&user) else {
            return Err(Error::closed(&format!("{user} is not in room {room}")));
        };
        self.open_link_to(target(room.clone(), user, state), keys, first)
    }

    /// Opens a link to another device, wherever the two meet.
    pub(crate) fn open_link_to(
        &self,
        target: Target,
        keys: PublicKeys,
        first: Vec<(Lane, Bytes)>,
    ) -> Result<Peer, Error> {
        if keys == self.shop.keys.public() || self.is_own_in_room(&target) {
            return Err(Error::local("a device has no link to itself"));
        }
        self.links.open(target, keys, first)
    }

    /// Whether it is this device's user in a room, where each user is once.
    fn is_own_in_room(&self, target: &Target) -> bool {
        matches!(target.meeting, Meeting::Room(_)) && self.is_own(&target.user)
    }

    /// Deals with a peer's introduction: the answer to ours, or the beginning of a link.
    fn on_introduced(&self, introduced: v1::Introduced) {
        let Ok(user) = UserId::parse(&introduced.from) else {
            return;
        };
        let Some(introduction) = introduced.introduction.and_then(Introduction::parse) else {
            tracing::warn!(%user, "introduction breaks the contract: ignored");
            return;
        };
        if let Some(field) = self.fields.get(&introduced.field) {
            let entity = EntityId(introduced.entity);
            let target = field.target(user, entity);
            if let Some(peer) = self.links.on_introduced(target, introduction) {
                field.on_peer(entity, peer);
            }
            return;
        }
        let Some((room, state)) = self.room(&introduced.room) else {
            return;
        };
        let started = self
            .links
            .on_introduced(target(room, user, &state), introduction);
        if let Some(peer) = started {
            state.tell(RoomEvent::Peer(peer));
        }
    }

    fn on_frame(self: &Arc<Self>, body: server_frame::Body) {
        match body {
            server_frame::Body::RoomEvent(event) => self.on_room_event(event),
            server_frame::Body::Introduced(introduced) => self.on_introduced(introduced),
            server_frame::Body::Delivery(mut delivery) => {
                let more = std::mem::take(&mut delivery.more);
                for delivery in std::iter::once(delivery).chain(more) {
                    match self.room(&delivery.room) {
                        Some((_, state)) => state.on_delivery(delivery),
                        None => self.on_stray(&delivery.room),
                    }
                }
            }
            server_frame::Body::Refused(refused) => {
                let error = Error::refused(refused.code, &refused.message);
                if let Some(unsaid) = self.refusals.is_due(Instant::now()) {
                    tracing::warn!(%error, frame = refused.seq, unsaid, "message refused");
                }
                self.fields.on_refused(&refused);
            }
            server_frame::Body::Social(event) => self.social.on_event(event),
            server_frame::Body::Matchmaker(event) => {
                self.matchmaker.on_event(event, &self.session);
            }
            server_frame::Body::FieldBatch(batch) => self.fields.on_batch(&batch),
            server_frame::Body::IceServers(servers) => self.renew_credentials(&servers),
            // The session deals with these itself.
            server_frame::Body::Welcome(_)
            | server_frame::Body::Reject(_)
            | server_frame::Body::Pong(_)
            | server_frame::Body::Response(_)
            | server_frame::Body::GoAway(_)
            | server_frame::Body::OtherNodes(_)
            | server_frame::Body::Acknowledge(_) => {}
        }
    }

    /// Learns the servers of a new connection; the first time, gathers.
    async fn on_connected(
        self: &Arc<Self>,
        welcome: v1::Welcome,
        user: UserId,
        transport: Transport,
        url: &ServerUrl,
    ) {
        let before = self.info.borrow().as_ref().map(|info| info.node.clone());
        let is_first = before.is_none();
        let has_changed_node = before.is_some_and(|node| node != welcome.node);
        if is_first || has_changed_node || !welcome.resumed {
            self.social.on_forgotten(&self.session);
            self.fields.on_forgotten();
        }
        lock(&self.url).clone_from(url);
        let info = SessionInfo {
            node: welcome.node,
            user,
            transport,
            resumed: welcome.resumed,
        };
        self.info.send_replace(Some(info));
        let servers = welcome.ice_servers.unwrap_or_default();
        if is_first {
            let Ok(tls) = tls::client_config(url.pin.as_ref(), None) else {
                return;
            };
            let ice = IceConfig::resolve(&servers, Arc::new(tls)).await;
            lock(&self.stun).clone_from(&ice.stun);
            let keeper = self.shop.net.gather(ice).await;
            *lock(&self.keeper) = Some(keeper);
            tokio::spawn(renew(Arc::downgrade(self), servers));
            return;
        }
        if has_changed_node || !welcome.resumed {
            self.matchmaker.on_forgotten(&self.session);
        }
        if !welcome.resumed {
            self.rejoin();
        }
        if has_changed_node {
            self.change_relay(servers, url);
        } else {
            self.renew_credentials(&servers);
        }
    }

    /// Goes to the relay of another node: peers keep the one here until they know that one. Nothing else
    /// waits until its name is resolved.
    fn change_relay(self: &Arc<Self>, servers: v1::IceServers, url: &ServerUrl) {
        let Ok(tls) = tls::client_config(url.pin.as_ref(), None) else {
            return;
        };
        let shared = Arc::downgrade(self);
        let mut change = JoinSet::new();
        change.spawn(async move {
            let ice = IceConfig::resolve(&servers, Arc::new(tls)).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            lock(&shared.stun).clone_from(&ice.stun);
            shared.shop.net.forget_turn_credentials();
            if let Some(keeper) = &*lock(&shared.keeper) {
                keeper.go_to(ice);
            }
        });
        // A change to yet another node is over.
        *lock(&self.changing_relay) = change;
    }

    /// Where the present node is.
    pub(crate) fn url(&self) -> ServerUrl {
        lock(&self.url).clone()
    }

    pub(crate) fn renew_credentials(&self, servers: &v1::IceServers) {
        for server in servers
            .servers
            .iter()
            .filter(|server| !server.username.is_empty())
            .take(1)
        {
            self.shop
                .net
                .set_turn_credentials(&server.username, &server.credential);
        }
    }
}

fn target(room: RoomId, user: UserId, state: &RoomState) -> Target {
    Target {
        meeting: Meeting::Room(room),
        user,
        policy: state.options.policy,
    }
}

/// Takes the session's events to rooms and links.
async fn dispatch(
    shared: Weak<Shared>,
    mut events: mpsc::Receiver<Event>,
    gathered: oneshot::Sender<()>,
) {
    let mut gathered = Some(gathered);
    while let Some(event) = events.recv().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match event {
            Event::Connected {
                welcome,
                user,
                transport,
                url,
            } => {
                shared.on_connected(welcome, user, transport, &url).await;
                if let Some(gathered) = gathered.take() {
                    _ = gathered.send(());
                }
            }
            Event::Frame(body) => shared.on_frame(body),
            Event::Unsent(unsent) => shared.on_unsent(unsent),
            Event::IntroductionRefused { to, error } => {
                let rooms = shared.rooms_with(&to.user);
                shared.links.on_refused(&to, &error, &rooms);
            }
            Event::Response { result, reply } => {
                if let Ok(response::Result::Joined(joined)) = &result {
                    shared.on_members(joined);
                }
                if let Ok(response::Result::Social(response)) = &result {
                    shared.social.on_response(response);
                }
                if let Ok(response::Result::Field(response)) = &result {
                    shared.on_field_response(response);
                }
                // Whoever asked may have gone.
                _ = reply.send(result);
            }
            Event::Closed(error) => {
                tracing::warn!(%error, "session over: rooms end, links go on");
                // The first reason is the one that counts.
                _ = shared.over.set(error.to_string());
                break;
            }
        }
    }
    if let Some(shared) = shared.upgrade() {
        for (_, state) in lock(&shared.rooms).drain() {
            state.end();
        }
        shared.social.end();
        shared.matchmaker.end();
        shared.fields.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
