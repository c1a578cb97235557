use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use tombolo_stun::{
    AdditionalAddressFamily, AddressErrorCode, AddressFamily, Attribute, AttributeError,
    AttributeType, Class, ErrorCode, EvenPort, HEADER_BYTES, Lifetime, Message, MessageWriter,
    MobilityTicket, RequestedAddressFamily, RequestedTransport, ReservationToken, XorMappedAddress,
    XorRelayedAddress,
};

use super::address::{FiveTuple, RelayAddr, canonical};
use super::allocation::{Allocation, Carrier, Relays};
use super::auth::{Identity, User};
use super::ledger::{Holder, Network, Usage};
use super::ports::{Parity, port_after};
use super::reply::{Ask, Rejection};
use super::stats::Refusal;
use super::stray::ShardIndex;
use super::{Command, Event, PortError, RequestId, Server};

/// An Allocate request that waits for its ports.
pub(super) struct Pending {
    ask: Ask,
    identity: Identity,
    lifetime: Duration,
    kind: AllocationKind,
    /// What is still to be bound, in order.
    steps: VecDeque<Step>,
    /// The address that was asked for last.
    asked: RelayAddr,
    /// What has been bound.
    bound: Vec<RelayAddr>,
    /// The one family of two that could not be had.
    failed: Option<AddressFamily>,
    tries_left: u32,
    /// What the ledger has of it.
    booked: Usage,
    /// What the ledger has of the port that is to be reserved with it.
    booked_next: Usage,
    state: PendingState,
}

impl Pending {
    /// Whose it is; `None` if its client went away.
    pub(super) fn client(&self) -> Option<FiveTuple> {
        (self.state == PendingState::Wanted).then_some(self.ask.from)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PendingState {
    Wanted,
    /// The client went away; the port that comes is released.
    GivenUp,
}

/// A port that was kept for a later Allocate. See RFC 8656 §7.2.
pub(super) struct Reservation {
    pub(super) relay: RelayAddr,
    pub(super) user: User,
    pub(super) expires: Instant,
    /// What the ledger has of it.
    booked: Usage,
}

/// What kind of allocation a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AllocationKind {
    carrier: Carrier,
    is_mobile: bool,
}

/// What a client wants, free of contradictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    One(AddressFamily, Parity),
    EvenAndNext(AddressFamily),
    Both(Parity),
    Reserved(ReservationToken),
}

/// One port to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    One(AddressFamily, Parity),
    /// The port after the last one, to be reserved.
    Next,
}

impl Server {
    /// See RFC 8656 §7.2, whose steps the numbers are.
    pub(super) fn on_allocate(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
    ) -> Result<(), Rejection> {
        // 2. One allocation per 5-tuple; a retransmission gets the same answer again.
        if let Some((_, allocation)) = self.allocations.by_client(&ask.from) {
            if allocation.transaction != ask.transaction || allocation.user != identity.user {
                return Err(Refusal::AllocationExists.into());
            }
            let reply = allocation.reply.to_vec();
            self.accept(ask, identity, |writer| {
                writer.encoded(&reply);
            });
            return Ok(());
        }
        if let Some((_, pending)) = self.pending_of(ask.from) {
            let is_again = pending.ask.transaction == ask.transaction;
            return if is_again {
                Ok(())
            } else {
                Err(Refusal::AllocationExists.into())
            };
        }
        // 3. to 9. What the client wants.
        let carrier = self.requested_carrier(ask, message)?;
        let is_mobile = self.requested_mobility(message)? && carrier == Carrier::Udp;
        let wish = Wish::parse(message)?;
        check_fragments(ask, message, wish)?;
        self.check_tunnel(ask.from)?;
        if let Wish::Reserved(ReservationToken([.., shard])) = wish
            && ShardIndex(shard) != self.shard
        {
            let bytes = message.as_bytes();
            return Ok(self.redirect(now, ask, identity, ShardIndex(shard), bytes)?);
        }
        // What was reserved belongs to an allocation that goes on.
        if !matches!(wish, Wish::Reserved(_)) {
            self.check_drain(ask.from)?;
        }
        let lifetime = self.granted_lifetime(now, identity, requested_lifetime(message)?);
        // 10. and 11. Whether the user and the shard have room.
        self.check_allocations(holder_of(ask, &identity.user), wish.quota())?;
        let kind = AllocationKind { carrier, is_mobile };
        self.begin(now, ask, identity.clone(), lifetime, kind, wish)
    }

    /// Takes the driver's answer to [`Command::BindPort`].
    pub(super) fn on_port(
        &mut self,
        now: Instant,
        id: RequestId,
        result: Result<RelayAddr, PortError>,
    ) {
        let Some(mut pending) = self.pending.remove(&id) else {
            return;
        };
        match result {
            Ok(relay) => {
                if relay != pending.asked {
                    self.ports.untake(pending.asked);
                    self.ports.take(relay);
                }
                pending.bound.push(relay);
                pending.steps.pop_front();
            }
            Err(PortError::InUse) => {
                // Or it may be chosen again at once, and again, as long as there are tries.
                self.ports.rest(now, pending.asked);
                self.retry(now, &mut pending);
            }
            Err(PortError::Unavailable) => {
                self.ports.untake(pending.asked);
                self.retry(now, &mut pending);
            }
            Err(PortError::NoneFree) => {
                self.ports.untake(pending.asked);
                self.give_up_step(now, &mut pending);
            }
        }
        match pending.state {
            PendingState::Wanted => self.proceed(now, pending),
            PendingState::GivenUp => self.abandon(now, pending),
        }
    }

    /// Gives an Allocate up that waits; its port is released when it arrives.
    pub(super) fn cancel_pending(&mut self, client: FiveTuple) {
        let Some((id, _)) = self.pending_of(client) else {
            return;
        };
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.state = PendingState::GivenUp;
        }
    }

    pub(super) fn pending_of(&self, client: FiveTuple) -> Option<(RequestId, &Pending)> {
        let mut pending = self.pending.iter();
        let found = pending.find(|(_, one)| one.client() == Some(client));
        found.map(|(id, one)| (*id, one))
    }

    pub(super) fn granted_lifetime(
        &self,
        now: Instant,
        identity: &Identity,
        requested: Option<Duration>,
    ) -> Duration {
        let lifetime = requested
            .unwrap_or(self.lifetime_default)
            .min(self.lifetime_max)
            .max(self.lifetime_default);
        let unix_now = self.clock.unix(now);
        // Credentials that end must not live on in a long allocation.
        let Some(expiry) = identity.expiry else {
            return lifetime;
        };
        let left = Duration::from_secs(expiry).saturating_sub(unix_now);
        match &identity.session {
            // See RFC 7635 §4 and §9: no longer than the token.
            Some(session) => lifetime.min(left).min(session.lifetime()),
            None => lifetime.min(left + self.lifetime_default),
        }
    }

    /// 3. What is to be relayed: UDP, and TCP where it is switched on. See RFC 6062 §5.1 too.
    fn requested_carrier(&self, ask: Ask, message: &Message<'_>) -> Result<Carrier, Refusal> {
        match message.required::<RequestedTransport>().map_err(bad)? {
            RequestedTransport::UDP => Ok(Carrier::Udp),
            RequestedTransport::TCP if self.relays_tcp => {
                let is_of_udp = |kind: &AttributeType| message.has(*kind);
                if !ask.from.transport.is_stream() || UDP_ATTRIBUTES.iter().any(is_of_udp) {
                    return Err(Refusal::RequestBad);
                }
                Ok(Carrier::Tcp)
            }
            _ => Err(Refusal::TransportUnsupported),
        }
    }

    /// See RFC 8656 §21.4.
    pub(super) fn check_tunnel(&self, from: FiveTuple) -> Result<(), Refusal> {
        let judged = self.policy.check_client(from.client.ip());
        judged.map_err(|_| Refusal::ClientTunnelled)
    }

    fn begin(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: Identity,
        lifetime: Duration,
        kind: AllocationKind,
        wish: Wish,
    ) -> Result<(), Rejection> {
        let mut bound = Vec::new();
        let steps: VecDeque<Step> = match wish {
            Wish::One(family, parity) => [Step::One(family, parity)].into(),
            Wish::EvenAndNext(family) => {
                [Step::One(family, Parity::EvenAndNext), Step::Next].into()
            }
            Wish::Both(parity) => BOTH.map(|family| Step::One(family, parity)).into(),
            Wish::Reserved(token) => {
                bound.push(self.redeem(now, token, &identity)?);
                VecDeque::new()
            }
        };
        let mut families = steps.iter().filter_map(|step| step.family());
        let is_hopeless = families.all(|family| self.relay_ip(family).is_none());
        if !steps.is_empty() && is_hopeless {
            return Err(Refusal::FamilyUnsupported.into());
        }
        let booked = self.usage_of_new(&identity.user);
        self.ledger.take(holder_of(ask, &identity.user), booked);
        let booked_next = match wish {
            Wish::EvenAndNext(_) => booked,
            Wish::One(_, _) | Wish::Both(_) | Wish::Reserved(_) => Usage::default(),
        };
        self.ledger.take(owner(&identity.user), booked_next);
        let asked = RelayAddr(ask.from.server);
        let tries_left = BIND_TRIES;
        let (failed, state) = (None, PendingState::Wanted);
        let pending = Pending {
            ask,
            identity,
            lifetime,
            kind,
            steps,
            asked,
            bound,
            failed,
            tries_left,
            booked,
            booked_next,
            state,
        };
        self.proceed(now, pending);
        Ok(())
    }

    /// Asks for the next port, or completes the allocation when there is none left to ask for.
    fn proceed(&mut self, now: Instant, mut pending: Pending) {
        while let Some(step) = pending.steps.front().copied() {
            if let Some(asked) = self.choose(now, step, &pending) {
                pending.asked = asked;
                let id = RequestId(self.next_request);
                self.next_request += 1;
                let address = asked;
                self.commands.push_back(match pending.kind.carrier {
                    Carrier::Udp => Command::BindPort { id, address },
                    Carrier::Tcp => Command::ListenPort { id, address },
                });
                self.pending.insert(id, pending);
                return;
            }
            self.give_up_step(now, &mut pending);
        }
        if pending.bound.is_empty() {
            self.refuse_ports(now, pending);
        } else {
            self.complete(now, pending);
        }
    }

    fn choose(&mut self, now: Instant, step: Step, pending: &Pending) -> Option<RelayAddr> {
        let (family, parity) = match step {
            Step::Next => return self.ports.choose_next(*pending.bound.last()?),
            Step::One(family, parity) => (family, parity),
        };
        let ip = self.relay_ip(family)?;
        self.ports.choose(now, &mut self.rng, ip, parity, |_| true)
    }

    /// Keeps the port that was chosen for a request if it is free elsewhere too, or chooses another one.
    pub(super) fn choose_again(
        &mut self,
        now: Instant,
        id: RequestId,
        is_free: impl Fn(RelayAddr) -> bool,
    ) -> Option<RelayAddr> {
        let pending = self.pending.get(&id)?;
        let (asked, step) = (pending.asked, *pending.steps.front()?);
        let is_good = is_free(asked)
            && match step {
                Step::One(_, Parity::EvenAndNext) => port_after(asked).is_some_and(&is_free),
                Step::One(_, Parity::Any | Parity::Even) | Step::Next => true,
            };
        if is_good {
            return Some(asked);
        }
        // No other one than the next is of use.
        let Step::One(family, parity) = step else {
            return None;
        };
        let ip = self.relay_ip(family)?;
        let chosen = self.ports.choose(now, &mut self.rng, ip, parity, is_free)?;
        self.ports.untake(asked);
        self.pending.get_mut(&id)?.asked = chosen;
        Some(chosen)
    }

    /// Decides how to go on where no port is free for the first step. There may be other pairs.
    fn give_up_step(&mut self, now: Instant, pending: &mut Pending) {
        if let Some(Step::One(_, _)) = pending.steps.front() {
            pending.tries_left = 0;
        }
        self.retry(now, pending);
    }

    /// Decides how to go on after the first step failed: with another port, or without it.
    fn retry(&mut self, now: Instant, pending: &mut Pending) {
        if pending.tries_left > 0 {
            pending.tries_left -= 1;
            if pending.steps.front() == Some(&Step::Next)
                && let Some(even) = pending.bound.pop()
            {
                let family = AddressFamily::of(even.0.ip());
                let pair = Step::One(family, Parity::EvenAndNext);
                pending.steps.push_front(pair);
                self.release(now, even);
            }
            return;
        }
        match (pending.steps.pop_front(), pending.steps.front()) {
            // One family of two may be missing.
            (Some(Step::One(family, _)), None | Some(Step::One(_, _))) => {
                pending.failed = Some(family);
                pending.tries_left = BIND_TRIES;
            }
            (Some(Step::One(_, _)), Some(Step::Next)) | (Some(Step::Next) | None, _) => {
                pending.steps.clear();
                for relay in std::mem::take(&mut pending.bound) {
                    self.release(now, relay);
                }
            }
        }
    }

    fn refuse_ports(&mut self, now: Instant, pending: Pending) {
        let ask = pending.ask;
        let identity = pending.identity.clone();
        self.abandon(now, pending);
        self.reject(now, ask, Some(&identity), &Refusal::PortsExhausted.into());
    }

    fn abandon(&mut self, now: Instant, pending: Pending) {
        let holder = holder_of(pending.ask, &pending.identity.user);
        self.ledger.give_back(holder, pending.booked);
        let owner = owner(&pending.identity.user);
        self.ledger.give_back(owner, pending.booked_next);
        for relay in pending.bound {
            self.release(now, relay);
        }
        self.tell_if_drained();
    }

    /// Makes the allocation and answers.
    fn complete(&mut self, now: Instant, pending: Pending) {
        let Pending {
            ask,
            identity,
            lifetime,
            kind,
            bound,
            failed,
            booked,
            booked_next,
            ..
        } = pending;
        let mut relays = Relays::default();
        let mut reserved = None;
        for relay in bound {
            match relays.of(AddressFamily::of(relay.0.ip())) {
                None => relays.insert(relay),
                Some(_) => reserved = Some(self.reserve(now, relay, &identity, booked_next)),
            }
        }
        let expires = now + lifetime;
        let mut attributes = self.describe(ask, relays, lifetime, reserved, failed);
        let mut mobility = None;
        if kind.is_mobile {
            let (new, ticket) = self.new_mobility(now, &identity.user);
            mobility = Some(new);
            attributes.extend(encode(ask, |writer| {
                writer.attribute(&MobilityTicket(&ticket));
            }));
        }
        let reply = self.success(ask, &identity, |writer| {
            writer.encoded(&attributes);
        });
        let mut allocation = Allocation::new(
            ask.from,
            identity.user.clone(),
            relays,
            kind.carrier,
            now,
            expires,
            ask.transaction,
        );
        allocation.reply = attributes.into();
        allocation.mobility = mobility;
        allocation.session = identity.session;
        allocation.path.rtt = Some(identity.nonce_age).filter(|age| *age < RTT_MAX);
        allocation.set_limit(self.bandwidth(identity.user.realm));
        allocation.booked = booked;
        self.ledger.settle(&mut allocation);
        self.allocations.insert(allocation);
        self.stats.allocations_created += 1;
        self.stats.allocations = self.allocations.len() as u64;
        self.transmit(ask.from, reply);
        self.tell(Event::Allocated {
            client: ask.from,
            user: identity.user.into_name(),
            relays: relays.iter().collect(),
        });
    }

    /// Makes the attributes that say what a client got.
    fn describe(
        &self,
        ask: Ask,
        relays: Relays,
        lifetime: Duration,
        reserved: Option<ReservationToken>,
        failed: Option<AddressFamily>,
    ) -> Vec<u8> {
        encode(ask, |writer| {
            for relay in relays.iter() {
                writer.attribute(&XorRelayedAddress(self.aliases.to_public(relay.0)));
            }
            writer.attribute(&Lifetime(seconds(lifetime)));
            if let Some(token) = reserved {
                writer.attribute(&token);
            }
            writer.attribute(&XorMappedAddress(canonical(ask.from.client)));
            if let Some((family, error)) = failed.zip(self.address_error(failed)) {
                writer.attribute(&AddressErrorCode { family, error });
            }
        })
    }

    /// See RFC 8656 §7.2: why one of two families has no address.
    fn address_error(&self, failed: Option<AddressFamily>) -> Option<ErrorCode<'static>> {
        let code = match self.relay_ip(failed?) {
            Some(_) => ErrorCode::INSUFFICIENT_CAPACITY,
            None => ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED,
        };
        ErrorCode::new(code, "").ok()
    }

    fn relay_ip(&self, family: AddressFamily) -> Option<IpAddr> {
        match family {
            AddressFamily::V4 => self.relay_ip_v4.map(IpAddr::V4),
            AddressFamily::V6 => self.relay_ip_v6.map(IpAddr::V6),
        }
    }

    fn reserve(
        &mut self,
        now: Instant,
        relay: RelayAddr,
        identity: &Identity,
        booked: Usage,
    ) -> ReservationToken {
        let mut token = [0; 8];
        self.rng.fill_bytes(&mut token);
        // The client may come back to another shard, which then knows where to ask.
        token[7] = self.shard.0;
        let token = ReservationToken(token);
        let expires = now + RESERVATION_LIFETIME;
        let reservation = Reservation {
            relay,
            user: identity.user.clone(),
            expires,
            booked,
        };
        self.reservations.insert(token, reservation);
        self.reservation_deadlines.insert((expires, token));
        token
    }

    fn redeem(
        &mut self,
        now: Instant,
        token: ReservationToken,
        identity: &Identity,
    ) -> Result<RelayAddr, Refusal> {
        let reservation = self
            .reservations
            .get(&token)
            .ok_or(Refusal::ReservationUnknown)?;
        if reservation.user != identity.user || reservation.expires <= now {
            return Err(Refusal::ReservationUnknown);
        }
        let (relay, expires) = (reservation.relay, reservation.expires);
        self.reservation_deadlines.remove(&(expires, token));
        if let Some(reservation) = self.reservations.remove(&token) {
            self.give_back_reservation(&reservation);
        }
        Ok(relay)
    }

    /// Counts a reservation no more.
    pub(super) fn give_back_reservation(&mut self, reservation: &Reservation) {
        self.ledger
            .give_back(owner(&reservation.user), reservation.booked);
    }
}

impl Wish {
    /// See RFC 8656 §7.2, whose steps the numbers are.
    fn parse(message: &Message<'_>) -> Result<Self, Rejection> {
        // 5. A reservation says all; nothing may contradict it.
        let family = message
            .attribute::<RequestedAddressFamily>()
            .map_err(bad_family)?;
        let additional = message
            .attribute::<AdditionalAddressFamily>()
            .map_err(bad_family)?;
        let even = message.attribute::<EvenPort>().map_err(bad)?;
        let token = message.attribute::<ReservationToken>().map_err(bad)?;
        match (token, family, additional, even) {
            (Some(token), None, None, None) => Ok(Self::Reserved(token)),
            // 6. to 8. A second family is IPv6, besides the IPv4 that goes without saying, and
            // no port can be reserved then.
            (None, None, Some(AdditionalAddressFamily(AddressFamily::V6)), even)
                if even != Some(EvenPort { reserve_next: true }) =>
            {
                Ok(Self::Both(parity_of(even)))
            }
            (None, family, None, Some(EvenPort { reserve_next: true })) => {
                Ok(Self::EvenAndNext(family_or_v4(family)))
            }
            (None, family, None, even) => Ok(Self::One(family_or_v4(family), parity_of(even))),
            _ => Err(Refusal::RequestBad.into()),
        }
    }
}

impl Wish {
    /// Returns how much of the user's quota the wish takes beyond what it already has.
    fn quota(self) -> u32 {
        match self {
            Self::Reserved(_) => 0,
            Self::One(_, _) | Self::Both(_) => 1,
            Self::EvenAndNext(_) => 2,
        }
    }
}

impl Step {
    fn family(self) -> Option<AddressFamily> {
        match self {
            Self::One(family, _) => Some(family),
            Self::Next => None,
        }
    }
}

/// The fourth step. DONT-FRAGMENT asks for nothing now, since every driver can set the bit. But where
/// all that a client sends goes from IPv4 to IPv6 nobody sees the bit that it came with, and so it is
/// refused. See RFC 8656 §3.7.
fn check_fragments(ask: Ask, message: &Message<'_>, wish: Wish) -> Result<(), Rejection> {
    let is_v4 = canonical(ask.from.client).is_ipv4() && !ask.from.transport.is_stream();
    let is_to_v6 = match wish {
        Wish::One(family, _) | Wish::EvenAndNext(family) => family == AddressFamily::V6,
        Wish::Both(_) | Wish::Reserved(_) => false,
    };
    let kind = AttributeType::DONT_FRAGMENT;
    if is_v4 && is_to_v6 && message.has(kind) {
        return Err(Rejection::unknown([kind].into_iter()));
    }
    Ok(())
}

fn holder_of(ask: Ask, user: &User) -> Holder<'_> {
    let network = Some(Network::of(ask.from.client));
    Holder { user, network }
}

/// For whom a reserved port counts: like an allocation, or ports could be hoarded, but for no network.
fn owner(user: &User) -> Holder<'_> {
    Holder {
        user,
        network: None,
    }
}

/// Makes attributes of a success reply, without its header.
fn encode(ask: Ask, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ATTRIBUTES_BYTES);
    let mut writer = MessageWriter::new(&mut bytes, Class::Success, ask.method, ask.transaction);
    write(&mut writer);
    bytes.split_off(HEADER_BYTES)
}

/// Reads LIFETIME; `None` where the client leaves it to the server.
pub(super) fn requested_lifetime(message: &Message<'_>) -> Result<Option<Duration>, Refusal> {
    let lifetime = message.attribute::<Lifetime>().map_err(bad)?;
    Ok(lifetime.map(|Lifetime(secs)| Duration::from_secs(u64::from(secs))))
}

pub(super) fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

pub(super) fn bad(_: AttributeError) -> Refusal {
    Refusal::RequestBad
}

/// A family that nobody knows is well formed and unsupported.
pub(super) fn bad_family(error: AttributeError) -> Refusal {
    if error == AttributeError::Value(RequestedAddressFamily::TYPE) {
        return Refusal::FamilyUnsupported;
    }
    Refusal::RequestBad
}

fn family_or_v4(family: Option<RequestedAddressFamily>) -> AddressFamily {
    family.map_or(AddressFamily::V4, |RequestedAddressFamily(family)| family)
}

fn parity_of(even: Option<EvenPort>) -> Parity {
    even.map_or(Parity::Any, |_| Parity::Even)
}

/// Room for what a reply usually says, and its header.
const ATTRIBUTES_BYTES: usize = 96;
/// A nonce that is older was not sent back at once.
const RTT_MAX: Duration = Duration::from_secs(10);
/// What makes no sense for TCP. See RFC 6062 §5.1.
const UDP_ATTRIBUTES: [AttributeType; 3] = [
    AttributeType::DONT_FRAGMENT,
    AttributeType::EVEN_PORT,
    AttributeType::RESERVATION_TOKEN,
];

const BOTH: [AddressFamily; 2] = [AddressFamily::V4, AddressFamily::V6];
/// RFC 8656 §7.2 asks for at least 30 seconds.
const RESERVATION_LIFETIME: Duration = Duration::from_secs(30);
/// How often another port is tried when one is in use elsewhere on the host.
const BIND_TRIES: u32 = 8;
