//! What the server's replies do to the client.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tombolo_stun::{
    AlternateDomain, AlternateServer, AttributeType, Class, ErrorCode, Lifetime, Message, Nonce,
    NonceCookie, XorMappedAddress, XorRelayedAddress,
};

use super::{
    AllocateError, Allocation, Client, Event, State, Timer,
    credentials::is_bid_down,
    peer::Want,
    transaction::{Request, Transaction},
};

impl Client {
    /// See RFC 8489 §6.3.3, §6.3.4 and §9.2.5.
    pub(super) fn on_reply(&mut self, now: Instant, reply: &Message<'_>) {
        let id = reply.transaction_id();
        let Some(transaction) = self.transactions.get_mut(id) else {
            self.stats.unexpected += 1;
            return;
        };
        // 1. A challenge needs no proof: the server cannot know the key, or not this nonce's.
        let code = error_code(reply);
        let is_challenge = matches!(
            code,
            Some(ErrorCode::UNAUTHENTICATED | ErrorCode::STALE_NONCE)
        );
        let nonce = reply.attribute::<Nonce<'_>>().ok().flatten();
        let cookie = nonce.and_then(|nonce| NonceCookie::of(nonce.as_str()));
        if !is_challenge && is_bid_down(reply, cookie) {
            self.stats.malformed += 1;
            return;
        }
        // 2. All else that answers a signed request is signed. What answers the first one cannot be;
        //    it may neither send the client elsewhere nor call its request malformed. In streams
        //    nothing is repeated, so waiting on would help nobody.
        let is_authentic = match &transaction.key {
            Some(key) => reply.check_integrity(key).is_ok(),
            None => !matches!(
                code,
                Some(ErrorCode::TRY_ALTERNATE | ErrorCode::BAD_REQUEST)
            ),
        };
        if !is_challenge && !is_authentic {
            self.stats.unauthenticated += 1;
            transaction.saw_unauthenticated = true;
            if !self.is_stream() {
                return;
            }
        }
        // 3. The transaction is over.
        self.timers.cancel(Timer::Retransmit(id));
        let Some(transaction) = self.transactions.remove(id) else {
            return;
        };
        let mut unknown = reply.unknown_required(AttributeType::ALL);
        match (reply.class(), code) {
            _ if !is_challenge && !is_authentic => self.on_no_reply(now, &transaction),
            _ if unknown.next().is_some() => {
                self.stats.malformed += 1;
                self.on_unusable(now, &transaction);
            }
            (Class::Error, Some(_)) if is_challenge => {
                self.on_challenge(now, &transaction, reply);
            }
            (Class::Error, Some(code)) => self.on_refusal(now, transaction.request, code, reply),
            (Class::Error, None) => {
                self.stats.malformed += 1;
                self.on_refusal(now, transaction.request, ErrorCode::BAD_REQUEST, reply);
            }
            (Class::Success | Class::Request | Class::Indication, _) => {
                self.on_success(now, transaction.request, reply);
            }
        }
    }

    /// A reply has something in it that must be understood and is not.
    fn on_unusable(&mut self, now: Instant, transaction: &Transaction) {
        if transaction.request == Request::Allocate && matches!(self.state, State::Allocating) {
            // There may be an allocation now.
            self.request_close(now, Event::Failed(AllocateError::Malformed));
            return;
        }
        self.on_no_reply(now, transaction);
    }

    /// Repeats the request with the server's nonce, unless that was tried. See RFC 8489 §9.2.5.
    fn on_challenge(&mut self, now: Instant, transaction: &Transaction, reply: &Message<'_>) {
        let code = error_code(reply).unwrap_or(ErrorCode::UNAUTHENTICATED);
        let was_stale = code == ErrorCode::STALE_NONCE;
        // What was signed with credentials that have been replaced since proves nothing about the
        // new ones; an unsigned request is challenged once.
        let was_refused = match &transaction.key {
            Some(key) => !was_stale && self.credentials.is_current(key),
            None => transaction.challenges > 0,
        };
        let is_usable = self.credentials.handle_challenge(reply).is_ok();
        let is_last = transaction.challenges >= CHALLENGES_MAX;
        if was_refused || is_last || !is_usable {
            let code = if was_refused {
                ErrorCode::UNAUTHENTICATED
            } else {
                code
            };
            self.on_refusal(now, transaction.request, code, reply);
            return;
        }
        if matches!(self.state, State::Abandoning) && transaction.key.is_none() {
            // An unsigned Allocate made nothing that would have to be given back.
            self.end(Event::Closed);
            return;
        }
        self.stats.challenges += 1;
        self.request(now, transaction.request, transaction.challenges + 1);
    }

    fn on_success(&mut self, now: Instant, request: Request, reply: &Message<'_>) {
        match request {
            Request::Allocate => self.on_allocated(now, reply),
            Request::Refresh => self.set_lifetime(now, lifetime_of(reply)),
            Request::Close => self.end_closing(),
            Request::BindChannel(address) => self.on_bound(now, address),
            Request::Permit(address) => {
                if self
                    .peers
                    .get(address)
                    .is_some_and(|peer| peer.want == Want::Permission)
                {
                    self.timers.set(Timer::Peer(address), now + PEER_REFRESH);
                }
            }
        }
    }

    /// See RFC 8656 §7.3.
    fn on_allocated(&mut self, now: Instant, reply: &Message<'_>) {
        let relayed = reply.attribute::<XorRelayedAddress>();
        let mapped = reply.attribute::<XorMappedAddress>();
        if matches!(self.state, State::Abandoning) {
            self.request_close(now, Event::Closed);
            return;
        }
        let (Ok(Some(XorRelayedAddress(relayed))), Ok(Some(XorMappedAddress(mapped)))) =
            (relayed, mapped)
        else {
            self.request_close(now, Event::Failed(AllocateError::Malformed));
            return;
        };
        // What cannot be used is given back.
        if !self.is_reachable(relayed) {
            let error = AllocateError::FamilyNotSupported;
            self.request_close(now, Event::Failed(error));
            return;
        }
        self.state = State::Allocated(Allocation {
            relayed,
            are_credentials_refused: false,
        });
        self.set_lifetime(now, lifetime_of(reply));
        self.events.push_back(Event::Allocated { relayed, mapped });
        for peer in self.peers.addresses() {
            self.on_peer_due(now, peer);
        }
    }

    fn on_bound(&mut self, now: Instant, address: SocketAddr) {
        let Some(peer) = self.peers.get_mut(address) else {
            return;
        };
        let is_news = !peer.is_bound(now);
        peer.on_bound(now);
        if peer.want == Want::Nothing {
            if let Some(until) = peer.held_until {
                self.timers.set(Timer::Peer(address), until);
            }
            return;
        }
        self.timers.set(Timer::Peer(address), now + PEER_REFRESH);
        if is_news {
            self.events.push_back(Event::ChannelBound(address));
        }
    }

    fn on_refusal(&mut self, now: Instant, request: Request, code: u16, reply: &Message<'_>) {
        match (request, code) {
            (Request::Allocate, _) if matches!(self.state, State::Abandoning) => {
                self.end(Event::Closed);
            }
            (Request::Allocate, ErrorCode::TRY_ALTERNATE) => {
                self.end(Event::Failed(alternate_of(reply)));
            }
            (Request::Allocate, code) => {
                self.end(Event::Failed(AllocateError::from_code(code)));
            }
            (Request::Close, _) => self.end_closing(),
            (_, ErrorCode::ALLOCATION_MISMATCH) => self.end(Event::Expired),
            (_, ErrorCode::UNAUTHENTICATED | ErrorCode::WRONG_CREDENTIALS) => {
                self.on_credentials_refused();
            }
            // What is called malformed is not repeated as it is (RFC 8489 §14.8): the allocation lasts as
            // long as it was given.
            (Request::Refresh, ErrorCode::BAD_REQUEST) => {}
            (Request::Refresh, _) => self.timers.set(Timer::Refresh, now + REFUSAL_PAUSE),
            (Request::BindChannel(peer), ErrorCode::STALE_NONCE) => {
                self.timers.set(Timer::Peer(peer), now + REFUSAL_PAUSE);
            }
            (Request::BindChannel(peer), code) => self.on_bind_refused(now, peer, code),
            (Request::Permit(peer), ErrorCode::STALE_NONCE) => {
                self.timers.set(Timer::Peer(peer), now + REFUSAL_PAUSE);
            }
            (Request::Permit(peer), code) => self.on_peer_refused(peer, code),
        }
    }

    /// Without a channel there may still be a permission.
    fn on_bind_refused(&mut self, now: Instant, address: SocketAddr, code: u16) {
        let is_final = matches!(
            code,
            ErrorCode::FORBIDDEN | ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH
        );
        match self.peers.get_mut(address) {
            Some(peer) if peer.want == Want::Channel && !is_final => {
                peer.want = Want::Permission;
                self.on_peer_due(now, address);
            }
            _ => self.on_peer_refused(address, code),
        }
    }

    fn on_peer_refused(&mut self, address: SocketAddr, code: u16) {
        let Some(peer) = self.peers.get(address) else {
            return;
        };
        let was_wanted = peer.want != Want::Nothing;
        self.forget_peer(address);
        if was_wanted {
            self.events.push_back(Event::PeerRefused {
                peer: address,
                code,
            });
        }
    }

    fn on_credentials_refused(&mut self) {
        if let State::Allocated(allocation) = &mut self.state
            && !std::mem::replace(&mut allocation.are_credentials_refused, true)
        {
            self.events.push_back(Event::CredentialsRefused);
        }
    }

    /// See RFC 8656 §8: refresh about a minute before the end.
    fn set_lifetime(&mut self, now: Instant, lifetime: Duration) {
        let expires = now.checked_add(lifetime).unwrap_or(now + LIFETIME_DEFAULT);
        let early = REFRESH_EARLY.min(lifetime / 2);
        self.timers.set(Timer::Expire, expires);
        self.timers.set(Timer::Refresh, expires - early);
    }
}

fn error_code(reply: &Message<'_>) -> Option<u16> {
    if reply.class() != Class::Error {
        return None;
    }
    Some(reply.attribute::<ErrorCode<'_>>().ok().flatten()?.code())
}

fn lifetime_of(reply: &Message<'_>) -> Duration {
    match reply.attribute::<Lifetime>() {
        Ok(Some(Lifetime(seconds))) => Duration::from_secs(u64::from(seconds)),
        Ok(None) | Err(_) => LIFETIME_DEFAULT,
    }
}

/// See RFC 8489 §10.
fn alternate_of(reply: &Message<'_>) -> AllocateError {
    let Ok(Some(AlternateServer(server))) = reply.attribute::<AlternateServer>() else {
        return AllocateError::Malformed;
    };
    let domain = reply.attribute::<AlternateDomain<'_>>().ok().flatten();
    AllocateError::TryAlternate {
        server,
        domain: domain.map(|name| name.as_str().to_owned()),
    }
}

/// How often one request is repeated with another nonce.
const CHALLENGES_MAX: u8 = 3;
/// A permission lives five minutes, a channel ten; a ChannelBind refreshes both.
/// See RFC 8656 §9 and §12.
const PEER_REFRESH: Duration = Duration::from_secs(240);
/// How long before its end an allocation is refreshed.
const REFRESH_EARLY: Duration = Duration::from_secs(60);
/// What RFC 8656 §3.2 gives to those who do not ask.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(600);
/// Pause after a refusal that may pass. From when an allocation is refreshed to its end there is time
/// for four tries, which are as many as RFC 8489 §6.3.4 proposes.
const REFUSAL_PAUSE: Duration = Duration::from_secs(16);
