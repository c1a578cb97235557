//! The TURN server: one shard's allocations, permissions and channels. No sockets, clock, entropy
//! or tasks.
//!
//! A packet's way: [`Server::handle_client`] tells ChannelData and Send indications (data) from
//! requests (control). Data is answered at once with a [`Forward`] that says which bytes of the
//! packet go where. A request is parsed, authorised, decided, applied, and its reply queued.
//!
//! Implemented are RFC 8489 (Binding, long-term credentials with MD5 and SHA-256), RFC 8656
//! (UDP relaying over IPv4 and IPv6, both at once too), RFC 6062 (TCP relaying), and the behaviour
//! discovery of RFC 5780.
//! Left out on purpose: USERHASH for time-limited users (they cannot be listed).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::ChaCha12Rng;
use rand::{CryptoRng, Rng, SeedableRng};
use tombolo_stun::{Kind, ReservationToken};

mod address;
mod allocate;
mod allocation;
mod auth;
mod bandwidth;
mod binding;
mod budget;
mod classic;
mod config;
mod connect;
mod connection;
mod counter;
mod data;
mod forward;
mod icmp;
mod info;
mod ledger;
mod mobility;
mod nonce;
mod operate;
mod output;
mod policy;
mod ports;
mod proven;
mod reply;
mod request;
mod session;
mod sorted;
mod stats;
mod stray;
mod table;
mod ticket;

pub use address::{FiveTuple, PeerAddr, RelayAddr, Transport};
pub use allocation::{Carrier, Path, Tally, Traffic};
pub use auth::{
    AuthError, AuthId, Credential, HookMode, OAuth, Proof, Realm, RealmId, Sha256Offer, TokenKey,
    password_of,
};
pub use bandwidth::Bandwidth;
pub use config::{Config, Limits};
pub use connect::{ConnectError, Spliced};
pub use connection::ConnectionId;
pub use forward::{Forward, Fragment, Header};
pub use icmp::PeerError;
pub use info::AllocationInfo;
pub use ledger::{Quota, Usage};
pub use operate::Drain;
pub use output::{CloseReason, Command, Event, PortError, RequestId, Timer, Transmit};
pub use policy::{AddressPolicy, Cidr, CidrError, Denial};
pub use proven::ProvenAddresses;
pub use stats::{Refusal, Stats};
pub use stray::ShardIndex;

use address::Aliases;
use allocate::{Pending, Reservation};
use auth::Authority;
use binding::Alternates;
use budget::Budget;
use connection::Connections;
use counter::Counters;
use icmp::IcmpTold;
use ledger::Ledger;
use operate::Draining;
use ports::Ports;
use stray::Strays;
use table::Allocations;
use ticket::Tickets;

/// One shard of a TURN server.
///
/// Feed it with `handle_*`. After each call that is not pure data, drain
/// [`poll_transmit`](Self::poll_transmit), [`poll_command`](Self::poll_command) and
/// [`poll_event`](Self::poll_event) until `None`, then sleep until
/// [`poll_timeout`](Self::poll_timeout). `now` must not go backwards; equal is fine. Late timeouts
/// are harmless.
pub struct Server {
    authority: Authority,
    policy: AddressPolicy,
    aliases: Aliases,
    alternates: Alternates,
    limits: Limits,
    lifetime_default: Duration,
    lifetime_max: Duration,
    relay_ip_v4: Option<Ipv4Addr>,
    relay_ip_v6: Option<Ipv6Addr>,
    relays_tcp: bool,
    node: [u8; 4],
    /// Where clients reach other nodes of the fleet.
    servers_by_node: BTreeMap<[u8; 4], Vec<SocketAddr>>,
    shard: ShardIndex,
    shards: u8,
    has_mobility: bool,
    tickets: Tickets,
    /// Of the next mobile allocation.
    next_serial: u32,
    software: Option<String>,
    clock: Clock,
    rng: ChaCha12Rng,
    budget: Budget,
    ports: Ports,
    allocations: Allocations,
    connections: Connections,
    strays: Strays,
    pending: BTreeMap<RequestId, Pending>,
    next_request: u64,
    reservations: BTreeMap<ReservationToken, Reservation>,
    reservation_deadlines: BTreeSet<(Instant, ReservationToken)>,
    ledger: Ledger,
    transmits: VecDeque<Transmit>,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
    draining: Option<Draining>,
    counters: Counters,
    icmp_told: IcmpTold,
    stats: Stats,
}

impl Server {
    /// Makes a shard. `unix_now` is the Unix time that belongs to `now`; `seed` must be secret
    /// and differ from shard to shard, since relay ports and tokens come from it.
    pub fn new(config: Config, seed: [u8; 32], now: Instant, unix_now: Duration) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let hash_keys = [rng.next_u64(), rng.next_u64()];
        let counter_keys = [rng.next_u64(), rng.next_u64()];
        let next_serial = rng.next_u32();
        let own_ports = config.all_own_ports();
        let aliases = Aliases::new(&config.public_ips);
        Self {
            authority: Authority::new(&config),
            policy: config.address_policy(),
            alternates: Alternates::new(&config.sockets, aliases.clone()),
            aliases,
            limits: config.limits,
            lifetime_default: config.lifetime_default,
            lifetime_max: config.lifetime_max,
            relay_ip_v4: config.relay_ip_v4,
            relay_ip_v6: config.relay_ip_v6,
            relays_tcp: config.relay_tcp,
            node: config.node,
            servers_by_node: BTreeMap::new(),
            shard: config.shard,
            shards: config.shards,
            has_mobility: config.mobility,
            tickets: Tickets::new(config.nonce_key),
            next_serial,
            software: config.software,
            clock: Clock {
                start: now,
                unix_start: unix_now,
            },
            rng,
            budget: Budget::new(now, secret, &config.limits, config.proven),
            ports: Ports::new(config.relay_ports, own_ports),
            allocations: Allocations::new(hash_keys),
            connections: Connections::default(),
            strays: Strays::new(),
            pending: BTreeMap::new(),
            next_request: 0,
            reservations: BTreeMap::new(),
            reservation_deadlines: BTreeSet::new(),
            ledger: Ledger::default(),
            transmits: VecDeque::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            draining: None,
            counters: Counters::new(counter_keys),
            icmp_told: IcmpTold::default(),
            stats: Stats::default(),
        }
    }

    /// Handles one datagram, or one frame of a stream, from a client. Returns where its payload
    /// goes; replies are queued.
    #[must_use]
    pub fn handle_client(&mut self, now: Instant, from: FiveTuple, data: &[u8]) -> Option<Forward> {
        if let Some(shard) = self.strays.shard_of(now, &from) {
            let client = from;
            return Some(Forward::ToShard { shard, client });
        }
        let result = match Kind::of(data) {
            Kind::ChannelData => self.forward_channel_data(now, from, data).map(Some),
            Kind::Stun => self.on_message(now, from, data),
            Kind::Other => Err(self.on_other(from, data)),
        };
        result.unwrap_or_else(|refusal| {
            self.stats.refuse(refusal);
            None
        })
    }

    /// Handles one datagram of a client that another shard has passed on, for good: the client is at home
    /// here, whatever this shard knew of it. So no packet goes round between shards.
    #[must_use]
    pub fn handle_passed_on(
        &mut self,
        now: Instant,
        from: FiveTuple,
        data: &[u8],
    ) -> Option<Forward> {
        self.strays.remove(&from);
        self.handle_client(now, from, data)
    }

    /// Handles one datagram that a peer sent to a relayed address. Returns where it goes.
    #[must_use]
    pub fn handle_peer(
        &mut self,
        now: Instant,
        at: RelayAddr,
        from: PeerAddr,
        data: &[u8],
    ) -> Option<Forward> {
        match self.forward_from_peer(now, at, from, data) {
            Ok(forward) => Some(forward),
            Err(refusal) => {
                self.stats.refuse(refusal);
                None
            }
        }
    }

    /// Handles an ICMP error about a datagram that went from a relayed address to a peer.
    pub fn handle_peer_error(
        &mut self,
        now: Instant,
        at: RelayAddr,
        peer: PeerAddr,
        error: PeerError,
    ) {
        if let Err(refusal) = self.on_peer_error(now, at, peer, error) {
            self.stats.refuse(refusal);
        }
    }

    /// Chooses an address for a [`Command::BindPort`] or [`Command::ListenPort`] that nobody else has,
    /// where the driver can tell at once: the one of the command, or another one at random. `None`
    /// if none is free; the answer is [`PortError::NoneFree`] then.
    #[must_use]
    pub fn choose_port(
        &mut self,
        now: Instant,
        id: RequestId,
        is_free: impl Fn(RelayAddr) -> bool,
    ) -> Option<RelayAddr> {
        self.choose_again(now, id, is_free)
    }

    /// Takes the answer to a [`Command::BindPort`] or [`Command::ListenPort`]: the address that is bound now, or why none is.
    pub fn handle_port(
        &mut self,
        now: Instant,
        id: RequestId,
        result: Result<RelayAddr, PortError>,
    ) {
        self.on_port(now, id, result);
    }

    /// Takes the answer to a [`Command::Authenticate`]: what is known of the user, or why nothing.
    /// The requests that waited for it go on.
    pub fn handle_auth(&mut self, now: Instant, id: AuthId, result: Result<Credential, AuthError>) {
        for parked in self.authority.on_answer(now, id, result) {
            self.on_answered(now, &parked);
        }
    }

    /// Takes the answer to a [`Command::ConnectPeer`].
    pub fn handle_connected(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        result: Result<(), ConnectError>,
    ) {
        self.on_connected(now, connection, result);
    }

    /// Decides about a connection that a peer has made to a relayed address. `None`: close it.
    #[must_use]
    pub fn handle_peer_accepted(
        &mut self,
        now: Instant,
        at: RelayAddr,
        from: PeerAddr,
    ) -> Option<ConnectionId> {
        match self.on_peer_accepted(now, at, from) {
            Ok(connection) => Some(connection),
            Err(refusal) => {
                self.stats.refuse(refusal);
                None
            }
        }
    }

    /// Forgets a connection to a peer that is over, before or after it was joined with a client's.
    pub fn handle_peer_gone(&mut self, now: Instant, connection: ConnectionId) {
        self.fail_connecting(now, connection);
    }

    /// Counts bytes that went between connections of the allocation of `owner` and their peers since
    /// this was called for them the last time. See [`Command::Splice`].
    ///
    /// Those that come after the allocation's end count for the node alone.
    pub fn handle_spliced(&mut self, owner: FiveTuple, spliced: Spliced) {
        self.on_spliced(owner, spliced);
    }

    /// Ends what belongs to a client whose connection is closed, or is another shard's from now on.
    pub fn handle_client_gone(&mut self, now: Instant, from: FiveTuple) {
        self.authority.hook.forget(from);
        self.cancel_pending(from);
        self.on_data_client_gone(from);
        self.on_client_gone(now, from);
    }

    /// Installs or refreshes a permission for `peer` on every allocation of `user`, as an
    /// introduction between two devices does. The user is the part of a time-limited username
    /// behind the expiry; users of the configuration are others, even of the same name. The
    /// address policy holds here too.
    pub fn permit(&mut self, now: Instant, user: &str, peer: IpAddr) {
        self.on_permit(now, user, peer);
    }

    /// Takes the Unix time that belongs to `now`. Call it now and then, since clocks are set and stand
    /// still while a machine sleeps: by them credentials end, and nonces.
    pub fn handle_clock(&mut self, now: Instant, unix_now: Duration) {
        self.clock.unix_start = unix_now.saturating_sub(self.clock.since_start(now));
    }

    /// Ends what is over. Call it when [`poll_timeout`](Self::poll_timeout) says.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((expires, id)) = self.allocations.next_expiry()
            && expires <= now
        {
            self.close(now, id, CloseReason::Expired);
        }
        while let Some(id) = self.allocations.take_clearing(now) {
            self.clear_expired(now, id);
        }
        while let Some((deadline, id)) = self.authority.hook.next_deadline()
            && deadline <= now
        {
            self.handle_auth(now, id, Err(AuthError::Unavailable));
        }
        self.expire_connections(now);
        self.strays.expire(now);
        self.on_drain_deadline(now);
        while let Some((expires, token)) = self.reservation_deadlines.first().copied()
            && expires <= now
        {
            self.reservation_deadlines.pop_first();
            if let Some(reservation) = self.reservations.remove(&token) {
                self.give_back_reservation(&reservation);
                self.release(now, reservation.relay);
            }
        }
    }

    /// Returns the next reply to send.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Returns the next thing for the driver to do.
    #[must_use]
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Returns the next thing that happened.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Tells whether nothing waits for [`poll_transmit`](Self::poll_transmit),
    /// [`poll_command`](Self::poll_command) and [`poll_event`](Self::poll_event).
    ///
    /// After a `handle_client` or `handle_peer` that returned a [`Forward`] and left nothing there,
    /// [`poll_timeout`](Self::poll_timeout) is no earlier than it was.
    pub fn is_drained(&self) -> bool {
        self.transmits.is_empty() && self.commands.is_empty() && self.events.is_empty()
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) has something to do, and what.
    /// The value may change after every `handle_*`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let allocation = self
            .allocations
            .next_expiry()
            .map(|(at, _)| (at, Timer::Allocation));
        let reservation = self.reservation_deadlines.first();
        let reservation = reservation.map(|(at, _)| (*at, Timer::Reservation));
        let authentication = self.authority.hook.next_deadline();
        let authentication = authentication.map(|(at, _)| (at, Timer::Authentication));
        let connection = self.connections.next_deadline();
        let connection = connection.map(|(at, _)| (at, Timer::Connection));
        let stray = self.strays.next_deadline().map(|at| (at, Timer::Stray));
        let drain = self.drain_deadline().map(|at| (at, Timer::Drain));
        let clearing = self.allocations.next_clearing();
        let clearing = clearing.map(|at| (at, Timer::Permission));
        let rare = [clearing, authentication, connection, stray, drain];
        let all = [allocation, reservation].into_iter().chain(rare);
        all.flatten().min()
    }

    /// Returns what was refused since this was asked the last time, the latest of several: for logs.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.stats.take_refusal()
    }

    /// Returns how fast bytes may go through one allocation of a realm in each direction; `None`: as
    /// fast as they come. Those of its TCP connections do not come by here, so there the driver
    /// sees to it. Only [`reconfigure`](Self::reconfigure) changes it.
    pub fn bandwidth(&self, realm: RealmId) -> Option<Bandwidth> {
        self.authority.bandwidth_of(realm).or(self.limits.bandwidth)
    }

    /// Returns the counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn tell(&mut self, event: Event) {
        // Whoever keeps connections learns from these which ones are of use. There are no more of them
        // than allocations.
        if self.events.len() >= self.limits.events_max && !event.is_about_stream() {
            self.stats.refuse(Refusal::EventLost);
            return;
        }
        self.events.push_back(event);
    }
}

/// Ports, tokens and names of connections come from it: none of them may be told from others, as by
/// CVE-2025-69217.
const _: fn(&Server) = |server| {
    fn is_secure(_: &impl CryptoRng) {}
    is_secure(&server.rng);
};

/// Ties the monotonic clock to Unix time, which credentials and nonces need.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
    unix_start: Duration,
}

impl Clock {
    fn unix(&self, now: Instant) -> Duration {
        self.unix_start + self.since_start(now)
    }

    fn since_start(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.start)
    }
}
