//! What a peer's checks and answers do. See RFC 8445 §7.2.5 and §7.3.

use std::net::SocketAddr;
use std::time::Instant;

use tombolo_stun::{ErrorCode, IntegrityError, Message};

use crate::check::{Failure, Request, Role, Seal, Success, write_error, write_success};
use crate::peer::Peer;
use crate::shared::Shared;
use crate::transaction::Transaction;
use crate::{Event, PairError, PairState, Policy, Route};

impl Peer {
    /// Handles a check for our username fragment. Returns whether it is the peer's.
    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &Request<'_>,
        shared: &mut Shared,
    ) -> bool {
        // 1. Under the policy Relay nobody learns an address of ours.
        if self.policy == Policy::Relay {
            shared.stats.refused_by_policy += 1;
            return false;
        }
        // 2. Authenticate. See RFC 8489 §9.1.3.
        if let Err(code) = self.authenticate(request) {
            shared.stats.unauthenticated += 1;
            self.answer_error(now, from, &request.message, code, shared);
            return false;
        }
        shared.stats.checks_received += 1;
        self.on_peer_heard(now);
        // 3. Refuse what cannot be understood (400, 420).
        let body = match request.body() {
            Ok(body) => body,
            Err(code) => {
                self.answer_error(now, from, &request.message, code, shared);
                return true;
            }
        };
        // 4. Repair a role conflict. See RFC 8445 §7.3.1.1.
        if self.keeps_contested_role(body.role, shared) {
            let code = ErrorCode::ROLE_CONFLICT;
            self.answer_error(now, from, &request.message, code, shared);
            return true;
        }
        // 5. Answer with the address that the check came from. See RFC 8445 §7.3.1.2.
        let id = request.message.transaction_id();
        let seal = Seal::of(&request.message);
        if shared.transmit(from, write_success(id, from, seal, &self.local_key)) {
            shared.stats.answers_sent += 1;
        }
        // 6. Learn a peer-reflexive candidate; check back at once. See RFC 8445 §7.3.1.3, §7.3.1.4.
        let (peer, is_controlled) = (self.id, !self.is_controlling());
        let Some(pair) = self.find_or_learn(now, from, Some(body.priority), shared) else {
            return true;
        };
        let is_news = !pair.is_heard && pair.state != PairState::Valid;
        let is_triggering = pair.on_heard(now);
        if is_news {
            shared.event(Event::Heard { peer, from });
        }
        if is_triggering {
            self.trigger(from, shared);
        }
        // 7. Follow a nomination, now or once the pair works. See RFC 8445 §7.3.1.5.
        if body.nominates && is_controlled {
            for (address, pair) in &mut self.pairs {
                pair.is_nominated = *address == from;
            }
            self.consider(now, from, shared);
        }
        true
    }

    /// Handles a success answer to a check of ours. Returns whether it is the peer's.
    pub(crate) fn on_success(
        &mut self,
        now: Instant,
        from: SocketAddr,
        answer: &Success<'_>,
        transaction: Transaction,
        shared: &mut Shared,
    ) -> bool {
        if !self.is_authentic(from, &answer.message, &transaction, shared) {
            return false;
        }
        // Anybody on the way can send a copy of an answer from elsewhere; the answer still counts.
        if from == transaction.to {
            shared.transactions.remove(answer.id);
        }
        self.on_peer_heard(now);
        let Some(pair) = self.pairs.get_mut(&transaction.to) else {
            return true;
        };
        if pair.attempt != transaction.attempt {
            shared.stats.unknown_transaction += 1;
            return true;
        }
        // The answer comes from where the check went. See RFC 8445 §7.2.5.2.1.
        if from != transaction.to {
            shared.stats.asymmetric += 1;
            pair.on_asymmetric_answer(now, from);
            return true;
        }
        shared.stats.checks_answered += 1;
        let took = now.saturating_duration_since(transaction.sent_at);
        pair.on_answer(now, took, answer.mapped);
        if self.route == Route::Direct(from) {
            self.watch.on_consent(now);
        }
        self.consider(now, from, shared);
        true
    }

    /// Handles an error answer to a check of ours. Returns whether it is the peer's.
    pub(crate) fn on_failure(
        &mut self,
        from: SocketAddr,
        answer: &Failure<'_>,
        transaction: Transaction,
        shared: &mut Shared,
    ) -> bool {
        let is_current = self
            .pairs
            .get(&transaction.to)
            .is_some_and(|pair| pair.attempt == transaction.attempt);
        if from != transaction.to || !is_current {
            shared.stats.unknown_transaction += 1;
            return false;
        }
        shared.stats.errors_received += 1;
        if let Some(pair) = self.pairs.get_mut(&from) {
            pair.last_error = Some(PairError::Answered(answer.code));
        }
        // A role conflict is only believed when signed; other errors change nothing but the
        // explanation, since the peer may know us a moment later.
        if answer.code != ErrorCode::ROLE_CONFLICT {
            return false;
        }
        if !self.is_authentic(from, &answer.message, &transaction, shared) {
            return false;
        }
        shared.transactions.remove(answer.id);
        if transaction.controlling == self.is_controlling() {
            self.switch_role(shared);
        }
        self.trigger(from, shared);
        true
    }

    fn authenticate(&self, request: &Request<'_>) -> Result<(), u16> {
        match request.message.check_integrity(&self.local_key) {
            Ok(()) if request.remote_ufrag == self.remote.ufrag => Ok(()),
            Err(IntegrityError::Missing) => Err(ErrorCode::BAD_REQUEST),
            Ok(()) | Err(_) => Err(ErrorCode::UNAUTHENTICATED),
        }
    }

    fn is_authentic(
        &mut self,
        from: SocketAddr,
        message: &Message<'_>,
        transaction: &Transaction,
        shared: &mut Shared,
    ) -> bool {
        if message.check_integrity(&self.remote_key).is_ok() {
            return true;
        }
        shared.stats.unauthenticated += 1;
        if let Some(pair) = self.pairs.get_mut(&transaction.to)
            && from == transaction.to
        {
            pair.last_error = Some(PairError::Unauthenticated);
        }
        false
    }

    /// Resolves two equal roles. True when the sender has to switch, false when we did or nobody
    /// has to.
    fn keeps_contested_role(&mut self, theirs: Role, shared: &mut Shared) -> bool {
        let keeps = match (self.role, theirs) {
            (Role::Controlling(ours), Role::Controlling(theirs)) => ours >= theirs,
            (Role::Controlled(ours), Role::Controlled(theirs)) => ours < theirs,
            (Role::Controlling(_), Role::Controlled(_))
            | (Role::Controlled(_), Role::Controlling(_)) => return false,
        };
        if !keeps {
            self.switch_role(shared);
        }
        keeps
    }

    fn answer_error(
        &self,
        now: Instant,
        to: SocketAddr,
        request: &Message<'_>,
        code: u16,
        shared: &mut Shared,
    ) {
        if !shared.may_answer_error(now) {
            return;
        }
        // 400 and 401 answer what was not authenticated, so they cannot be signed.
        let is_signed = request.check_integrity(&self.local_key).is_ok();
        let proof = is_signed.then(|| (Seal::of(request), &self.local_key));
        if shared.transmit(to, write_error(request, code, proof)) {
            shared.stats.errors_sent += 1;
        }
    }
}
