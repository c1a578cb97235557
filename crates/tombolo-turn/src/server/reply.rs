use std::net::SocketAddr;
use std::time::Instant;

use tombolo_stun::{
    AlternateServer, AttributeType, Class, ErrorCode, Message, MessageWriter, Method, Nonce, Realm,
    Software, TransactionId, TransactionTransmitCounter, UnknownAttributes,
};

use super::address::FiveTuple;
use super::auth::{Identity, RealmId, Seal};
use super::budget::Unproven;
use super::policy::Denial;
use super::request::KNOWN_ATTRIBUTES;
use super::stats::Refusal;
use super::{Server, Transmit};

/// What a reply must know about its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) from: FiveTuple,
    pub(super) method: Method,
    pub(super) transaction: TransactionId,
    /// The realm that its reply names, if any.
    realm: RealmId,
    /// What the reply says about transmissions, where the request counts them.
    counter: Option<TransactionTransmitCounter>,
    /// Length of the request in bytes.
    bytes: usize,
}

impl Ask {
    fn of(from: FiveTuple, message: &Message<'_>, realm: RealmId) -> Self {
        Self {
            from,
            method: message.method(),
            transaction: message.transaction_id(),
            realm,
            counter: None,
            bytes: message.as_bytes().len(),
        }
    }

    /// Tells whether this is the same request as another one, sent again.
    pub(super) fn is_again(&self, other: &Self) -> bool {
        self.from == other.from && self.transaction == other.transaction
    }

    /// Appends the counts of transmissions, where the request has such.
    pub(super) fn write_counter(&self, writer: &mut MessageWriter<'_>) {
        if let Some(counter) = &self.counter {
            writer.attribute(counter);
        }
    }
}

impl Server {
    /// Notes what a reply must know about its request, and counts the request where it says which
    /// transmission it is. See RFC 7982 §3.1.
    pub(super) fn ask(&mut self, from: FiveTuple, message: &Message<'_>) -> Ask {
        let realm = self.authority.realm_for(from, message);
        let mut ask = Ask::of(from, message, realm);
        let counter = message.attribute::<TransactionTransmitCounter>();
        let Some(counter) = counter.ok().flatten() else {
            return ask;
        };
        let counted = self.counters.count(from, ask.transaction, counter);
        ask.counter = counted.map(|counted| counted.reply);
        let Some(sent) = counted.map(|counted| u64::from(counted.newly_sent)) else {
            return ask;
        };
        self.stats.counted_requests_sent += sent;
        self.stats.counted_requests_received += 1;
        if let Some(allocation) = self.allocations.by_client_mut(&from) {
            allocation.path.requests_sent += sent;
            allocation.path.requests_received += 1;
        }
        ask
    }
}

/// Why a request is refused, with what its reply tells beyond the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejection {
    refusal: Refusal,
    denial: Option<Denial>,
    unknown: Vec<AttributeType>,
    /// Where the client is to go.
    alternates: Vec<SocketAddr>,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        let is_token = refusal == Refusal::TokenUnexpected;
        let unknown = is_token.then_some(AttributeType::ACCESS_TOKEN);
        Self {
            refusal,
            denial: None,
            unknown: unknown.into_iter().collect(),
            alternates: Vec::new(),
        }
    }
}

impl From<Denial> for Rejection {
    fn from(denial: Denial) -> Self {
        Self {
            denial: Some(denial),
            ..Self::from(Refusal::PeerForbidden)
        }
    }
}

impl Rejection {
    /// Refuses a message for attributes the server does not know.
    pub(super) fn unknown(types: impl Iterator<Item = AttributeType>) -> Self {
        let unknown = types.take(UNKNOWN_MAX).collect();
        Self {
            unknown,
            ..Self::from(Refusal::AttributeUnknown)
        }
    }

    /// Refuses a ticket of another node, and says where the client reaches that, if it can.
    pub(super) fn ticket_elsewhere(alternates: Vec<SocketAddr>) -> Self {
        let refusal = match alternates[..] {
            [] => Refusal::TicketElsewhere,
            [_, ..] => Refusal::TicketRedirected,
        };
        Self {
            alternates,
            ..Self::from(refusal)
        }
    }

    /// Checks that every comprehension-required attribute is known. See RFC 8489 §6.3.1.
    pub(super) fn check_known(message: &Message<'_>) -> Result<(), Self> {
        let mut unknown = message.unknown_required(&KNOWN_ATTRIBUTES).peekable();
        if unknown.peek().is_some() {
            return Err(Self::unknown(unknown));
        }
        Ok(())
    }
}

impl Server {
    /// Queues a success reply that proves itself to its client.
    pub(super) fn accept(
        &mut self,
        ask: Ask,
        identity: &Identity,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) {
        let bytes = self.success(ask, identity, write);
        self.transmit(ask.from, bytes);
    }

    /// Makes a success reply that proves itself to its client.
    pub(super) fn success(
        &self,
        ask: Ask,
        identity: &Identity,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REPLY_BYTES);
        let mut writer =
            MessageWriter::new(&mut bytes, Class::Success, ask.method, ask.transaction);
        write(&mut writer);
        ask.write_counter(&mut writer);
        self.seal(&mut writer, identity);
        bytes
    }

    /// Counts a refusal and, where its reason has a code, queues the reply.
    ///
    /// Whoever has proven an identity gets the reason in words. Others get the shortest reply
    /// that the RFCs allow, and only out of the budget of their network.
    pub(super) fn reject(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: Option<&Identity>,
        rejection: &Rejection,
    ) {
        self.stats.refuse(rejection.refusal);
        let Some(code) = rejection.refusal.code() else {
            return;
        };
        tracing::debug!(from = ?ask.from, method = ?ask.method, code, reason = %rejection.refusal,
            denial = rejection.denial.map(tracing::field::display), "rejected");
        let mut bytes = Vec::with_capacity(REPLY_BYTES);
        let mut writer = MessageWriter::new(&mut bytes, Class::Error, ask.method, ask.transaction);
        let reason = match (identity, rejection.denial) {
            (None, _) => String::new(),
            (Some(_), Some(denial)) => denial.to_string(),
            (Some(_), None) => rejection.refusal.to_string(),
        };
        ask.write_counter(&mut writer);
        writer.attribute(&ErrorCode::new(code, &reason).expect("codes and reasons are our own"));
        if !rejection.unknown.is_empty() {
            writer.attribute(&UnknownAttributes::new(&rejection.unknown));
        }
        for alternate in &rejection.alternates {
            writer.attribute(&AlternateServer(*alternate));
        }
        if rejection.refusal == Refusal::Redirected {
            self.write_alternate(ask, &mut writer);
        }
        let what = match code {
            ErrorCode::UNAUTHENTICATED | ErrorCode::STALE_NONCE => Unproven::Challenge,
            _ => Unproven::Answer,
        };
        if what == Unproven::Challenge {
            self.challenge(now, ask, &mut writer);
        }
        match identity {
            Some(identity) => {
                self.seal(&mut writer, identity);
                self.transmit(ask.from, bytes);
            }
            None => self.transmit_unproven(now, ask, ask.from, (what, bytes)),
        }
    }

    /// Queues a reply to a source that has proven nothing, if its network's budget has room.
    pub(super) fn transmit_unproven(
        &mut self,
        now: Instant,
        ask: Ask,
        to: FiveTuple,
        (what, bytes): (Unproven, Vec<u8>),
    ) {
        let is_proven = ask.from.transport.is_proven();
        if is_proven
            || self
                .budget
                .spend(now, ask.from.client, ask.bytes, (what, bytes.len()))
        {
            self.transmit(to, bytes);
        } else {
            self.stats.refuse(Refusal::BudgetSpent);
        }
    }

    /// Queues a reply.
    pub(super) fn transmit(&mut self, to: FiveTuple, bytes: Vec<u8>) {
        if self.transmits.len() >= self.limits.transmits_max {
            self.stats.refuse(Refusal::QueueFull);
            return;
        }
        self.stats.replies += 1;
        self.transmits.push_back(Transmit { to, bytes });
    }

    /// Appends what a client needs to try again with credentials. See RFC 8489 §9.2.4.
    fn challenge(&self, now: Instant, ask: Ask, writer: &mut MessageWriter<'_>) {
        let unix_now = self.clock.unix(now);
        let challenge = self.authority.challenge(ask.from, ask.realm, unix_now);
        if let Ok(realm) = Realm::new(challenge.realm) {
            writer.attribute(&realm);
        }
        if let Ok(nonce) = Nonce::new(&challenge.nonce) {
            writer.attribute(&nonce);
        }
        if let Some(offer) = &challenge.offer {
            writer.attribute(offer);
        }
        if let Some(third_party) = &challenge.third_party {
            writer.attribute(third_party);
        }
    }

    fn seal(&self, writer: &mut MessageWriter<'_>, identity: &Identity) {
        let software = self
            .software
            .as_deref()
            .and_then(|text| Software::new(text).ok());
        if let Some(software) = software {
            writer.attribute(&software);
        }
        match identity.seal {
            Seal::Sha1 => writer.integrity(&identity.key),
            Seal::Sha256 => writer.integrity_sha256(&identity.key),
        };
    }
}

/// Room for the longest usual reply.
const REPLY_BYTES: usize = 160;
/// Unknown attributes named in a reply; more would make the reply longer than the request.
const UNKNOWN_MAX: usize = 8;
