use std::collections::BTreeSet;
use std::time::Instant;

use tombolo_stun::{AttributeType, Class, Message, Method};

use super::Server;
use super::address::FiveTuple;
use super::allocate::Pending;
use super::auth::{Identity, Parked, Parking, RealmId, Verdict};
use super::forward::Forward;
use super::mobility::is_move;
use super::output::Command;
use super::reply::{Ask, Rejection};
use super::stats::Refusal;
use super::table::AllocationId;

impl Server {
    /// Returns the clients that wait for answers: some of their requests wait themselves, until the driver
    /// has said who a user is or what became of a port or of connecting to a peer.
    pub fn clients_waiting(&self) -> BTreeSet<FiveTuple> {
        let parked = self.authority.hook.parked().map(|one| one.ask.from);
        let allocating = self.pending.values().filter_map(Pending::client);
        let connecting = self.connections.connecting();
        parked.chain(allocating).chain(connecting).collect()
    }

    /// Handles a STUN message.
    pub(super) fn on_message(
        &mut self,
        now: Instant,
        from: FiveTuple,
        data: &[u8],
    ) -> Result<Option<Forward>, Refusal> {
        let message = Message::decode(data).map_err(|_| Refusal::Malformed)?;
        if message.has(AttributeType::FINGERPRINT) && message.check_fingerprint().is_err() {
            return Err(Refusal::FingerprintWrong);
        }
        self.stats.messages += 1;
        match (message.class(), message.method()) {
            (Class::Indication, Method::SEND) => self.forward_send(now, from, &message).map(Some),
            // Binding indications keep NAT mappings alive and say nothing.
            (Class::Indication, Method::BINDING) => Ok(None),
            (Class::Request, _) => {
                let ask = self.ask(from, &message);
                self.on_request(now, ask, &message);
                Ok(None)
            }
            (Class::Indication | Class::Success | Class::Error, _) => Err(Refusal::ClassUnexpected),
        }
    }

    fn on_request(&mut self, now: Instant, ask: Ask, message: &Message<'_>) {
        if ask.method == Method::BINDING {
            if let Err(rejection) = self.on_binding(now, ask, message) {
                self.reject(now, ask, None, &rejection);
            }
            return;
        }
        let identity = match self.identify(now, ask, message) {
            Ok(Verdict::Known(identity)) => {
                self.budget.prove(now, ask.from.client);
                identity
            }
            Ok(Verdict::Ask(realm, username)) => {
                if let Err(refusal) = self.park(now, ask, (realm, username), message) {
                    self.reject(now, ask, None, &refusal.into());
                }
                return;
            }
            Err(refusal) => return self.reject(now, ask, None, &refusal.into()),
        };
        if let Err(rejection) = self.on_authorised(now, ask, &identity, message) {
            self.reject(now, ask, Some(&identity), &rejection);
        }
    }

    /// Decides who sent a TURN request. What cannot succeed whoever sent it is refused without a
    /// challenge, which keeps the reply short.
    fn identify(&self, now: Instant, ask: Ask, message: &Message<'_>) -> Result<Verdict, Refusal> {
        let is_challenged = message.has_integrity();
        match ask.method {
            Method::ALLOCATE if !is_challenged => {
                if !message.has(AttributeType::REQUESTED_TRANSPORT) {
                    return Err(Refusal::RequestBad);
                }
                // Nobody needs credentials to be told that there is no room. To be sent to another
                // server one does: RFC 8489 §14.8 wants that to be proven.
                if !message.has(AttributeType::RESERVATION_TOKEN)
                    && self.check_drain(ask.from) == Err(Refusal::Draining)
                {
                    return Err(Refusal::Draining);
                }
            }
            Method::ALLOCATE | Method::CONNECTION_BIND => {}
            // See RFC 8656 §5.
            Method::REFRESH
            | Method::CREATE_PERMISSION
            | Method::CHANNEL_BIND
            | Method::CONNECT => {
                let is_elsewhere = self.allocations.by_client(&ask.from).is_none();
                if !is_challenged && is_elsewhere && !is_move(message) {
                    return Err(Refusal::AllocationMissing);
                }
            }
            _ => return Err(Refusal::MethodUnknown),
        }
        let found = self.allocations.by_client(&ask.from);
        let session = found.and_then(|(_, allocation)| allocation.session.as_deref());
        self.authority
            .authorise(now, ask.from, message, session, self.clock.unix(now))
    }

    /// Lets a request wait until the driver has answered about its user.
    fn park(
        &mut self,
        now: Instant,
        ask: Ask,
        (realm, username): (RealmId, String),
        message: &Message<'_>,
    ) -> Result<(), Refusal> {
        let parked = Parked {
            ask,
            bytes: message.as_bytes().to_vec(),
        };
        let parking = self.authority.hook.park(now, (realm, &username), parked)?;
        if let Parking::Ask(id) = parking {
            self.commands.push_back(Command::Authenticate {
                id,
                realm: self.authority.realm_name(realm).to_owned(),
                username,
                client: ask.from,
            });
        }
        Ok(())
    }

    /// Goes on with a request that waited. Its parts were checked when it came.
    pub(super) fn on_answered(&mut self, now: Instant, parked: &Parked) {
        if let Ok(message) = Message::decode(&parked.bytes) {
            self.on_request(now, parked.ask, &message);
        }
    }

    fn on_authorised(
        &mut self,
        now: Instant,
        ask: Ask,
        identity: &Identity,
        message: &Message<'_>,
    ) -> Result<(), Rejection> {
        Rejection::check_known(message)?;
        match ask.method {
            Method::ALLOCATE => return self.on_allocate(now, ask, identity, message),
            Method::CONNECTION_BIND => return self.on_connection_bind(now, ask, identity, message),
            Method::REFRESH if is_move(message) => {
                return self.on_move(now, ask, identity, message);
            }
            _ => {}
        }
        let id = self.own_allocation(ask, identity)?;
        self.on_heard(now, id, ask.from);
        // Whoever sets up peers from an address wants to hear from them there. RFC 8016 §3.2.2 speaks
        // of data alone, but some clients (coturn's) only listen at first.
        if ask.method != Method::REFRESH {
            self.on_arrived(ask.from);
        }
        match ask.method {
            Method::REFRESH => self.on_refresh(now, ask, identity, message, id),
            Method::CREATE_PERMISSION => self.on_create_permission(now, ask, identity, message, id),
            Method::CONNECT => self.on_connect(now, ask, identity, message, id),
            _ => self.on_channel_bind(now, ask, identity, message, id),
        }
    }

    /// Finds the allocation of a request and checks whose it is. See RFC 8656 §5.
    ///
    /// The user counts, not the whole username: time-limited credentials are renewed while an
    /// allocation lives.
    pub(super) fn own_allocation(
        &self,
        ask: Ask,
        identity: &Identity,
    ) -> Result<AllocationId, Refusal> {
        let found = self.allocations.by_client(&ask.from);
        let (id, allocation) = found.ok_or(Refusal::AllocationMissing)?;
        if !identity.user.may_act_for(&allocation.user) {
            return Err(Refusal::UserWrong);
        }
        Ok(id)
    }
}

/// Attributes that must be understood and that the server does understand, in whichever message they
/// belong. In another one they are ignored. See RFC 8489 §6.3.
pub(super) const KNOWN_ATTRIBUTES: [AttributeType; 24] = [
    AttributeType::MAPPED_ADDRESS,
    AttributeType::CHANGE_REQUEST,
    AttributeType::USERNAME,
    AttributeType::ERROR_CODE,
    AttributeType::UNKNOWN_ATTRIBUTES,
    AttributeType::CHANNEL_NUMBER,
    AttributeType::LIFETIME,
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::XOR_RELAYED_ADDRESS,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::DONT_FRAGMENT,
    AttributeType::ACCESS_TOKEN,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::USERHASH,
    AttributeType::XOR_MAPPED_ADDRESS,
    AttributeType::RESERVATION_TOKEN,
    AttributeType::PADDING,
    AttributeType::RESPONSE_PORT,
    AttributeType::CONNECTION_ID,
];
