use thiserror::Error;

/// What a server has done since it was made. Counters only grow; gauges say so.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Requests and indications that were decoded.
    pub messages: u64,
    /// Replies queued for clients.
    pub replies: u64,
    /// Binding requests answered.
    pub bindings: u64,
    /// Allocations made.
    pub allocations_created: u64,
    /// Allocations that exist now (a gauge).
    pub allocations: u64,
    /// Requests that clients say they have sent, as far as they count them (RFC 7982).
    pub counted_requests_sent: u64,
    /// Those of them that came. The others were lost, or are under way.
    pub counted_requests_received: u64,
    /// Whether the server is being drained: 1 or 0 (a gauge).
    pub draining: u64,
    /// Allocations that ended for lack of a refresh.
    pub allocations_expired: u64,
    /// Payloads sent on to peers in datagrams.
    pub to_peer_packets: u64,
    /// Bytes of payloads sent on to peers, over TCP too.
    pub to_peer_bytes: u64,
    /// Payloads sent on to clients that came in datagrams.
    pub to_client_packets: u64,
    /// Bytes of payloads sent on to clients, over TCP too.
    pub to_client_bytes: u64,
    /// Allocations whose client moved to another address.
    pub allocations_moved: u64,
    /// ICMP errors passed on to clients.
    pub icmp_errors: u64,
    refusals: Refusals,
    last_refusal: Option<Refusal>,
}

impl Stats {
    /// Returns how often something was refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals.0.get(refusal as usize).copied().unwrap_or(0)
    }

    /// Iterates over all reasons, with how often each applied.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.refusals.0)
    }

    pub(super) fn take_refusal(&mut self) -> Option<Refusal> {
        self.last_refusal.take()
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.last_refusal = Some(refusal);
        if let Some(count) = self.refusals.0.get_mut(refusal as usize) {
            *count += 1;
        }
    }
}

/// How often each reason applied, in the order of [`Refusal::ALL`].
#[derive(Debug, Clone)]
struct Refusals([u64; Refusal::COUNT]);

impl Default for Refusals {
    fn default() -> Self {
        Self([0; Refusal::COUNT])
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why the server refused something. Where a reply says so, its code is in front.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Error)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[$doc])* #[error($text)] $name,)*
        }

        impl Refusal {
            /// Every reason, in order.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name,)*];
            const COUNT: usize = [$($text,)*].len();

            /// Returns the error code of the reply, or `None` where there is no reply.
            pub fn code(self) -> Option<u16> {
                let code = match self { $(Self::$name => $code,)* };
                (code != 0).then_some(code)
            }
        }
    };
}

refusals! {
    /// Neither STUN nor ChannelData.
    NotStun = 0, "not stun";
    /// STUN or ChannelData that breaks the rules of its framing.
    Malformed = 0, "malformed";
    /// FINGERPRINT is there and wrong.
    FingerprintWrong = 0, "fingerprint does not match";
    /// A response, or an indication the server does not take.
    ClassUnexpected = 0, "class or method not for a server";
    /// A method the server does not know.
    MethodUnknown = 0, "unknown method";
    /// A comprehension-required attribute the server does not know.
    AttributeUnknown = 420, "unknown attribute";
    /// No proof of credentials yet; the reply is the challenge.
    Unauthenticated = 401, "credentials required";
    /// Proof without username, realm or nonce.
    CredentialsIncomplete = 400, "incomplete credentials";
    /// Password algorithms are not those that the server offered.
    AlgorithmWrong = 400, "password algorithms do not match";
    /// No such user, or a username without an expiry.
    UserUnknown = 401, "unknown user";
    /// A token that is malformed, of an unknown key, or for somebody else.
    TokenWrong = 401, "token not valid";
    /// A token in a realm that has no authorization server.
    TokenUnexpected = 420, "tokens are not taken in this realm";
    /// The realm is not the server's.
    RealmWrong = 401, "wrong realm";
    /// Time-limited credentials whose time is over.
    CredentialsExpired = 401, "credentials expired";
    /// Too many requests wait for an answer about their user.
    AuthBusy = 500, "too many users to ask about";
    /// Nobody answered about the user in time.
    AuthUnavailable = 500, "nobody to ask about the user";
    /// The proof does not match.
    IntegrityWrong = 401, "message integrity does not match";
    /// A nonce that expired, or that was given to another address.
    NonceStale = 438, "stale nonce";
    /// The allocation belongs to another user.
    UserWrong = 441, "allocation of another user";
    /// No allocation on this 5-tuple.
    AllocationMissing = 437, "no allocation";
    /// Already an allocation on this 5-tuple.
    AllocationExists = 437, "allocation exists";
    /// An attribute is missing, malformed, or contradicts another.
    RequestBad = 400, "bad request";
    /// A transport that is not relayed here: TCP where it is off, or another.
    TransportUnsupported = 442, "transport not relayed";
    /// No relay address of this family.
    FamilyUnsupported = 440, "address family not supported";
    /// The peer's family is not that of the allocation.
    FamilyMismatch = 443, "peer of another address family";
    /// The address policy denies the peer.
    PeerForbidden = 403, "peer address not allowed";
    /// The client is at the end of a tunnel, 6to4 or Teredo.
    ClientTunnelled = 403, "client at the end of a tunnel";
    /// The server makes no new allocations, and names another server.
    Redirected = 300, "try another server";
    /// The server makes no new allocations, and knows no other server.
    Draining = 508, "server makes no new allocations";
    /// The user's quota is used up.
    QuotaReached = 486, "allocation quota reached for this user";
    /// The realm's quota is used up.
    RealmFull = 486, "allocation quota reached for this realm";
    /// The shard holds as many allocations as it may.
    CapacityReached = 508, "no room for another allocation";
    /// No relay port could be bound.
    PortsExhausted = 508, "no relay port left";
    /// The reservation is unknown, expired, or another user's.
    ReservationUnknown = 508, "no such reservation";
    /// The allocation has as many permissions as it may.
    PermissionsFull = 508, "no room for another permission";
    /// The allocation has as many channels as it may.
    ChannelsFull = 508, "no room for another channel";
    /// A request or indication for allocations over UDP on one over TCP, or the other way round.
    CarrierWrong = 400, "not for an allocation of this transport";
    /// The allocation has a connection to this peer, or one is being made.
    ConnectionExists = 446, "connection to this peer exists";
    /// The peer could not be connected to.
    ConnectFailed = 447, "peer cannot be connected to";
    /// No such connection, or one that is joined already.
    ConnectionUnknown = 400, "no such connection";
    /// The allocation or the shard has as many connections as it may.
    ConnectionsFull = 508, "no room for another connection";
    /// Channel or peer are bound otherwise.
    ChannelConflict = 400, "channel or peer already bound";
    /// What is asked for is on a shard that the node does not have.
    ShardUnknown = 508, "no such shard";
    /// Too many clients of other shards come by this one.
    StraysFull = 508, "no room for another client of another shard";
    /// Allocations may not move here.
    MobilityForbidden = 405, "mobility is off";
    /// A mobility ticket of another node, which the client is sent to.
    TicketRedirected = 300, "allocation is on another server";
    /// A mobility ticket of another node, which is not known: the allocation cannot be moved from there.
    TicketElsewhere = 405, "ticket of another node";
    /// A mobility ticket that is none, or that has expired.
    TicketInvalid = 400, "invalid ticket";
    /// A mobility ticket that was followed by another one which the client has used.
    TicketUsed = 400, "ticket already used";
    /// The client's network has as many allocations as it may.
    NetworkFull = 486, "allocation quota reached for this network";
    /// The user has as many permissions, channels or connections as it may.
    UserPeersFull = 508, "no room for another peer of this user";
    /// The realm has as many permissions, channels or connections as it may.
    RealmPeersFull = 508, "no room for another peer of this realm";
    /// The client's network has as many permissions, channels or connections as it may.
    NetworkPeersFull = 508, "no room for another peer of this network";
    /// The shard has as many permissions, channels or connections as it may.
    PeersFull = 508, "no room for another peer";
    /// The user's allocations may have as much relayed as the user may.
    UserBandwidthFull = 486, "bandwidth quota reached for this user";
    /// The allocations of the realm may have as much relayed as the realm may.
    RealmBandwidthFull = 486, "bandwidth quota reached for this realm";
    /// The allocations of the client's network may have as much relayed as the network may.
    NetworkBandwidthFull = 486, "bandwidth quota reached for this network";
    /// The allocations of the shard may have as much relayed as there is.
    BandwidthFull = 508, "no bandwidth for another allocation";
    /// A payload beyond the allocation's bandwidth.
    BandwidthUsed = 0, "bandwidth of the allocation used up";
    /// ChannelData on a channel that is not bound.
    ChannelUnbound = 0, "channel not bound";
    /// A Send indication to a peer without permission.
    PermissionMissing = 0, "no permission for this peer";
    /// A packet from a peer without permission.
    PeerNotPermitted = 0, "packet from a peer without permission";
    /// A packet for a client whose connection is closed and that has not come back. What has its
    /// address now may be somebody else's connection.
    ClientAway = 0, "client is between two connections";
    /// A packet at an address without allocation.
    RelayIdle = 0, "packet at a relayed address without allocation";
    /// An ICMP error of a type that is not passed on.
    IcmpIrrelevant = 0, "icmp type not for clients";
    /// More ICMP errors in a second than clients are told of.
    IcmpTooMany = 0, "too many icmp errors";
    /// A payload longer than its header can say.
    PayloadTooLong = 0, "payload too long";
    /// No room for a reply in the queue.
    QueueFull = 0, "reply queue full";
    /// No room for an event in the queue.
    EventLost = 0, "event queue full";
    /// The source network was answered enough without proving anything.
    BudgetSpent = 0, "unproven source answered enough";
    /// A permission by introduction that the policy denies or that has no room.
    PermitRefused = 0, "introduction could not be permitted";
}
