//! Sans-IO TURN client: one allocation on one server, its channels and permissions. No sockets,
//! clock, entropy or tasks. See RFC 8656.
//!
//! [`Client::new`] starts to allocate. Feed it with `handle_*`; after each call drain
//! [`Client::poll_transmit`] and [`Client::poll_event`] until `None`, then sleep until
//! [`Client::poll_timeout`]. `now` must not go backwards; equal is fine. Late timeouts are harmless.
//!
//! Packets to peers do not pass through the queue: [`Client::send`] returns the bytes to put in
//! front of the payload, and the driver sends both with one gathering write. Over streams the
//! driver cuts frames with [`tombolo_stun::stream::frame_len`] and hands them in one by one.
//!
//! A peer that was [connected](Client::connect_peer) gets a channel, and with it a permission. Until
//! the server has confirmed the channel, packets travel as Send indications, which arrive if the
//! server has a permission for another reason.
//!
//! Left out on purpose: TCP allocations (RFC 6062), EVEN-PORT and reservations, several address
//! families on one allocation (make two clients).

mod credentials;
mod event;
mod header;
mod peer;
mod reply;
mod timer;
mod transaction;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::ChaCha12Rng};
use tombolo_stun::{
    AddressFamily, AttributeType, ChannelData, Class, Data, Kind, Lifetime, Message, MessageWriter,
    Method, RequestedAddressFamily, RequestedTransport, TransactionId, XorPeerAddress,
};

use self::{
    credentials::Credentials,
    peer::{Peers, Want},
    timer::Timers,
    transaction::{Request, Retry, Transaction, Transactions},
};

use crate::server::Transport;

pub use self::{
    event::{AllocateError, Event, SendError},
    header::Header,
    timer::Timer,
    transaction::Patience,
};

/// What a client needs to know to allocate.
#[derive(Clone)]
pub struct Config {
    /// The server's address, as the driver's socket reaches it. Only kept for the driver.
    pub server: SocketAddr,
    /// How packets get to the server. Over TCP and TLS nothing is sent twice.
    pub transport: Transport,
    /// User name of the long-term credentials, at most 508 bytes.
    pub username: String,
    /// Password of the long-term credentials.
    pub password: String,
    /// Address family of the relayed address, and so of the peers.
    pub family: Family,
    /// Lifetime to ask for. The server decides; zero leaves it to the server altogether.
    pub lifetime: Duration,
    /// How long replies are waited for.
    pub patience: Patience,
}

/// Address family of a relayed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A packet from a peer: where it came from, and where it is in the bytes that were handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it to the relayed address.
    pub peer: SocketAddr,
    /// The payload's place in the handed-in bytes.
    pub range: Range<usize>,
}

/// What a client has seen; all counts since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Datagrams that are neither STUN nor ChannelData, or malformed.
    pub malformed: u64,
    /// Replies to no request, and packets on channels that nobody asked for.
    pub unexpected: u64,
    /// Replies dropped because the user's password does not protect them.
    pub unauthenticated: u64,
    /// Requests sent again for lack of a reply.
    pub retransmissions: u64,
    /// Requests that were never answered.
    pub timeouts: u64,
    /// Requests repeated with a new nonce.
    pub challenges: u64,
}

/// One allocation on one TURN server. See the [module](self) for how to drive it.
pub struct Client {
    config: Config,
    rng: ChaCha12Rng,
    credentials: Credentials,
    state: State,
    transactions: Transactions,
    peers: Peers,
    /// Peers for which something is to be asked once fewer requests are in flight.
    waiting: VecDeque<SocketAddr>,
    timers: Timers,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    stats: Stats,
}

enum State {
    /// Waits for the reply to Allocate.
    Allocating,
    /// Closed while the reply to Allocate was still awaited: what it brings is given back.
    Abandoning,
    Allocated(Allocation),
    /// Waits for the reply to Refresh with lifetime zero, and then tells this.
    Closing(Event),
    /// Nothing more will happen.
    Over,
}

struct Allocation {
    relayed: SocketAddr,
    /// Whether the server has refused the credentials since they were set.
    are_credentials_refused: bool,
}

impl Client {
    /// Starts to allocate. `seed` must be unpredictable: transaction ids are made from it.
    #[must_use]
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Self {
        let credentials = Credentials::new(config.username.clone(), config.password.clone());
        let mut client = Self {
            config,
            rng: ChaCha12Rng::from_seed(seed),
            credentials,
            state: State::Allocating,
            transactions: Transactions::default(),
            peers: Peers::default(),
            waiting: VecDeque::new(),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        };
        client.request(now, Request::Allocate, 0);
        client
    }

    /// Handles one datagram, or one frame of a stream, from the server.
    ///
    /// Returns the packet from a peer that it carries, if any; replies are consumed.
    pub fn handle_datagram(&mut self, now: Instant, data: &[u8]) -> Option<Received> {
        match Kind::of(data) {
            Kind::ChannelData => self.on_channel_data(data),
            Kind::Stun => self.on_stun(now, data),
            Kind::Other => {
                self.stats.malformed += 1;
                None
            }
        }
    }

    /// Wants packets to and from `peer`: makes a channel and a permission and keeps them until
    /// [`Self::release_peer`]. Waits for the allocation if there is none yet. Harmless to repeat.
    pub fn connect_peer(&mut self, now: Instant, peer: SocketAddr) {
        if self.is_over() || self.is_closing() {
            return;
        }
        if !self.is_reachable(peer) {
            self.events.push_back(Event::PeerRefused {
                peer,
                code: FAMILY_MISMATCH,
            });
            return;
        }
        if let Some(known) = self.peers.get_mut(peer) {
            if known.want != Want::Nothing {
                return;
            }
            known.want = Want::Channel;
        } else if self.peers.insert(peer).is_none() {
            self.events.push_back(Event::PeerRefused {
                peer,
                code: INSUFFICIENT_CAPACITY,
            });
            return;
        }
        if matches!(self.state, State::Allocated(_)) {
            self.on_peer_due(now, peer);
        }
    }

    /// Lets go of `peer`: nothing is refreshed for it any more. Its channel is kept in mind until
    /// the server has surely forgotten it.
    pub fn release_peer(&mut self, now: Instant, peer: SocketAddr) {
        let Some(known) = self.peers.get_mut(peer) else {
            return;
        };
        known.want = Want::Nothing;
        match known.held_until {
            Some(until) if until > now => self.timers.set(Timer::Peer(peer), until),
            _ => self.forget_peer(peer),
        }
        self.send_waiting(now);
    }

    /// Uses other credentials from now on. For a user name with an expiry inside: call it before
    /// the old one expires.
    pub fn set_credentials(&mut self, now: Instant, username: String, password: String) {
        self.credentials.replace(username, password);
        let State::Allocated(allocation) = &mut self.state else {
            return;
        };
        if !std::mem::replace(&mut allocation.are_credentials_refused, false) {
            return;
        }
        self.request(now, Request::Refresh, 0);
        for peer in self.peers.addresses() {
            self.on_peer_due(now, peer);
        }
    }

    /// Asks the server now for what it is asked for from time to time: to keep the allocation. Its
    /// reply shows that it is there.
    pub fn refresh(&mut self, now: Instant) {
        if matches!(self.state, State::Allocated(_)) {
            self.request(now, Request::Refresh, 0);
        }
    }

    /// Gives the allocation back. [`Event::Closed`] tells when the server has taken it.
    pub fn close(&mut self, now: Instant) {
        match self.state {
            State::Allocating => self.state = State::Abandoning,
            State::Allocated(_) => self.request_close(now, Event::Closed),
            State::Abandoning | State::Closing(_) | State::Over => {}
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Retransmit(id) => self.on_reply_overdue(now, id),
                Timer::Refresh => self.request(now, Request::Refresh, 0),
                Timer::Expire => self.end(Event::Expired),
                Timer::Peer(peer) => self.on_peer_due(now, peer),
            }
        }
    }

    /// Returns what goes in front of `payload_len` bytes for `peer`; [`Header::padding`] zero bytes
    /// go behind them.
    ///
    /// # Errors
    /// There is no allocation, or the packet does not fit it.
    pub fn send(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        payload_len: usize,
    ) -> Result<Header, SendError> {
        if !matches!(self.state, State::Allocated(_)) {
            return Err(SendError::NotAllocated);
        }
        if let Some(known) = self.peers.get(peer)
            && known.is_bound(now)
        {
            let is_stream = self.is_stream();
            return Header::channel(known.channel, payload_len, is_stream)
                .ok_or(SendError::TooLong);
        }
        if !self.is_reachable(peer) {
            return Err(SendError::WrongFamily);
        }
        let id = self.transaction_id();
        Header::send_indication(id, peer, payload_len).ok_or(SendError::TooLong)
    }

    /// Returns the next message for the server.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// Returns the next thing that the driver should know.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns when to call [`Self::handle_timeout`], and what for; `None` when all is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.next()
    }

    /// The relayed address; `None` without an allocation.
    #[must_use]
    pub fn relayed(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Allocated(allocation) => Some(allocation.relayed),
            State::Allocating | State::Abandoning | State::Closing(_) | State::Over => None,
        }
    }

    /// Whether packets to `peer` go out as ChannelData at `now`.
    #[must_use]
    pub fn is_bound(&self, now: Instant, peer: SocketAddr) -> bool {
        self.relayed().is_some() && self.peers.get(peer).is_some_and(|peer| peer.is_bound(now))
    }

    /// Whether nothing more will happen: the client can be dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// What it was made with, but for later credentials.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns what has been counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn on_channel_data(&mut self, data: &[u8]) -> Option<Received> {
        let Ok(packet) = ChannelData::decode(data) else {
            self.stats.malformed += 1;
            return None;
        };
        let is_allocated = self.relayed().is_some();
        // A binding holds for the server before its reply arrives here.
        let Some(peer) = self
            .peers
            .address_of(packet.number)
            .filter(|_| is_allocated)
        else {
            self.stats.unexpected += 1;
            return None;
        };
        Some(Received {
            peer,
            range: range_in(data, packet.data),
        })
    }

    fn on_stun(&mut self, now: Instant, data: &[u8]) -> Option<Received> {
        let Ok(message) = Message::decode(data) else {
            self.stats.malformed += 1;
            return None;
        };
        if message.has(AttributeType::FINGERPRINT) && message.check_fingerprint().is_err() {
            self.stats.malformed += 1;
            return None;
        }
        match (message.class(), message.method()) {
            (Class::Indication, Method::DATA) => return self.on_data(data, &message),
            (Class::Success | Class::Error, _) => {
                self.on_reply(now, &message);
                self.send_waiting(now);
            }
            (Class::Request | Class::Indication, _) => self.stats.unexpected += 1,
        }
        None
    }

    /// See RFC 8656 §11.4.
    fn on_data(&mut self, data: &[u8], message: &Message<'_>) -> Option<Received> {
        let mut unknown = message.unknown_required(AttributeType::ALL);
        if unknown.next().is_some() {
            self.stats.malformed += 1;
            return None;
        }
        let peer = message.attribute::<XorPeerAddress>();
        let payload = message.attribute::<Data<'_>>();
        // A DATA attribute is missing where an ICMP attribute is in its place: nothing to deliver.
        let (Ok(Some(XorPeerAddress(peer))), Ok(Some(Data(payload)))) = (peer, payload) else {
            self.stats.malformed += 1;
            return None;
        };
        if self.relayed().is_none() {
            self.stats.unexpected += 1;
            return None;
        }
        Some(Received {
            peer,
            range: range_in(data, payload),
        })
    }

    fn on_reply_overdue(&mut self, now: Instant, id: TransactionId) {
        let is_stream = self.is_stream();
        let Some(transaction) = self.transactions.get_mut(id) else {
            return;
        };
        match transaction.on_timeout(now, is_stream, self.config.patience) {
            Retry::Send(bytes, next) => {
                self.stats.retransmissions += 1;
                self.transmits.push_back(bytes);
                self.timers.set(Timer::Retransmit(id), next);
            }
            Retry::TimedOut => {
                self.stats.timeouts += 1;
                let Some(transaction) = self.transactions.remove(id) else {
                    return;
                };
                self.on_no_reply(now, &transaction);
                self.send_waiting(now);
            }
        }
    }

    /// A request has failed without a usable reply.
    fn on_no_reply(&mut self, now: Instant, transaction: &Transaction) {
        match transaction.request {
            Request::Allocate if matches!(self.state, State::Abandoning) => self.end(Event::Closed),
            Request::Allocate if transaction.saw_unauthenticated => {
                self.end(Event::Failed(AllocateError::Unauthenticated));
            }
            Request::Allocate => self.end(Event::Failed(AllocateError::TimedOut)),
            Request::Refresh => self.timers.set(Timer::Refresh, now + RETRY_PAUSE),
            Request::Close => self.end_closing(),
            Request::BindChannel(peer) | Request::Permit(peer) => {
                self.timers.set(Timer::Peer(peer), now + RETRY_PAUSE);
            }
        }
    }

    fn on_peer_due(&mut self, now: Instant, address: SocketAddr) {
        let is_full = self.transactions.len() >= IN_FLIGHT_MAX;
        let Some(peer) = self.peers.get_mut(address) else {
            return;
        };
        match peer.want {
            Want::Channel | Want::Permission if is_full => {
                if !self.waiting.contains(&address) {
                    self.waiting.push_back(address);
                }
            }
            Want::Channel => {
                peer.on_bind_sent(now);
                self.request(now, Request::BindChannel(address), 0);
            }
            Want::Permission => self.request(now, Request::Permit(address), 0),
            Want::Nothing => match peer.held_until {
                Some(until) if until > now => self.timers.set(Timer::Peer(address), until),
                _ => self.forget_peer(address),
            },
        }
    }

    /// Asks for what waited until fewer requests were in flight.
    fn send_waiting(&mut self, now: Instant) {
        while self.transactions.len() < IN_FLIGHT_MAX
            && let Some(peer) = self.waiting.pop_front()
        {
            self.on_peer_due(now, peer);
        }
    }

    /// Gives the allocation back and then tells `event`.
    fn request_close(&mut self, now: Instant, event: Event) {
        self.timers.clear();
        self.transactions.clear();
        self.waiting.clear();
        self.state = State::Closing(event);
        self.request(now, Request::Close, 0);
    }

    fn end_closing(&mut self) {
        let event = match &self.state {
            State::Closing(event) => event.clone(),
            State::Allocating | State::Abandoning | State::Allocated(_) | State::Over => {
                Event::Closed
            }
        };
        self.end(event);
    }

    /// Sends a request unless it is in flight already.
    fn request(&mut self, now: Instant, request: Request, challenges: u8) {
        if self.transactions.id_of(request).is_some() {
            return;
        }
        let id = self.transaction_id();
        let mut bytes = Vec::with_capacity(REQUEST_BYTES_TYPICAL);
        let method = match request {
            Request::Allocate => Method::ALLOCATE,
            Request::Refresh | Request::Close => Method::REFRESH,
            Request::BindChannel(_) => Method::CHANNEL_BIND,
            Request::Permit(_) => Method::CREATE_PERMISSION,
        };
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
        self.write_attributes(&mut writer, request);
        let key = self.credentials.sign(&mut writer);
        writer.fingerprint();
        self.transmits.push_back(bytes.clone());
        let transaction = Transaction::new(request, bytes, key, challenges);
        let timeout = transaction.timeout(self.is_stream(), self.config.patience);
        self.timers.set(Timer::Retransmit(id), now + timeout);
        self.transactions.insert(id, transaction);
    }

    fn write_attributes(&self, writer: &mut MessageWriter<'_>, request: Request) {
        let lifetime = Lifetime(u32::try_from(self.config.lifetime.as_secs()).unwrap_or(u32::MAX));
        match request {
            Request::Allocate => {
                writer.attribute(&RequestedTransport::UDP);
                if lifetime.0 > 0 {
                    writer.attribute(&lifetime);
                }
                // IPv4 is what a server gives that was not asked. See RFC 8656 §7.1.
                if self.config.family == Family::V6 {
                    writer.attribute(&RequestedAddressFamily(AddressFamily::V6));
                }
            }
            // Without a LIFETIME the server would take its default. See RFC 8656 §8.2.
            Request::Refresh if lifetime.0 == 0 => {}
            Request::Refresh => {
                writer.attribute(&lifetime);
            }
            Request::Close => {
                writer.attribute(&Lifetime(0));
            }
            Request::BindChannel(address) => {
                if let Some(peer) = self.peers.get(address) {
                    writer.attribute(&peer.channel);
                }
                writer.attribute(&XorPeerAddress(address));
            }
            Request::Permit(address) => {
                writer.attribute(&XorPeerAddress(address));
            }
        }
    }

    fn forget_peer(&mut self, peer: SocketAddr) {
        for request in [Request::BindChannel(peer), Request::Permit(peer)] {
            if let Some(id) = self.transactions.id_of(request) {
                self.transactions.remove(id);
                self.timers.cancel(Timer::Retransmit(id));
            }
        }
        self.timers.cancel(Timer::Peer(peer));
        self.peers.remove(peer);
    }

    fn end(&mut self, event: Event) {
        self.timers.clear();
        self.transactions.clear();
        self.waiting.clear();
        self.state = State::Over;
        self.events.push_back(event);
    }

    fn is_closing(&self) -> bool {
        matches!(self.state, State::Abandoning | State::Closing(_))
    }

    fn is_reachable(&self, peer: SocketAddr) -> bool {
        peer.is_ipv4() == (self.config.family == Family::V4)
    }

    fn is_stream(&self) -> bool {
        self.config.transport.is_stream()
    }

    fn transaction_id(&mut self) -> TransactionId {
        let mut id = [0; 12];
        self.rng.fill_bytes(&mut id);
        TransactionId(id)
    }
}

/// Where `part`, which was cut out of `whole`, lies in it.
fn range_in(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    debug_assert!(
        start + part.len() <= whole.len(),
        "the codec returns views of its input"
    );
    start..start + part.len()
}

/// Room for a request with its credentials.
const REQUEST_BYTES_TYPICAL: usize = 256;
/// Requests about peers go out as long as fewer are in flight. See RFC 8489 §6.2.
const IN_FLIGHT_MAX: usize = 10;
/// Pause after a request that was never answered, before the next of its kind.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const FAMILY_MISMATCH: u16 = tombolo_stun::ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH;
const INSUFFICIENT_CAPACITY: u16 = tombolo_stun::ErrorCode::INSUFFICIENT_CAPACITY;
