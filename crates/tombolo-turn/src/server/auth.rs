//! Who sent a request: the long-term mechanism of RFC 8489 §9.2 over several sources of
//! credentials, one file each.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tombolo_stun::{
    AccessToken, AttributeType, Key, Message, Nonce, NonceCookie, Origin, PasswordAlgorithm,
    PasswordAlgorithms, ThirdPartyAuthorization, UserHash, Username,
};

mod hook;
mod oauth;
mod realm;
mod secrets;
mod tokens;
mod users;

pub use hook::{AuthError, AuthId, Credential, Proof};
pub use oauth::{OAuth, TokenKey};
pub use realm::{HookMode, Realm};
pub use secrets::password_of;

pub(super) use hook::{Hook, Parked, Parking};
pub(super) use oauth::TokenSession;
pub use realm::RealmId;

use super::address::FiveTuple;
use super::bandwidth::Bandwidth;
use super::config::Config;
use super::ledger::Quota;
use super::nonce::Nonces;
use super::stats::Refusal;
use oauth::Opener;
use realm::{Chamber, RealmNames};
use secrets::TimeLimited;

/// Decides who sent a request.
pub(super) struct Authority {
    /// The first one is for clients that no other one is for.
    chambers: Vec<Chamber>,
    index_by_name: BTreeMap<String, usize>,
    names: RealmNames,
    nonces: Nonces,
    offer: Sha256Offer,
    pub(super) hook: Hook,
}

/// Who sent a request, and how the reply proves itself.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) user: User,
    /// End of the credentials in Unix seconds; `None` for those that do not expire.
    pub(super) expiry: Option<u64>,
    pub(super) key: Key,
    pub(super) seal: Seal,
    /// How long ago the client was given the nonce that it used.
    pub(super) nonce_age: Duration,
    /// What further requests are checked against, where this one came with a token.
    pub(super) session: Option<Box<TokenSession>>,
}

/// To whom SHA-256 is offered as password algorithm, besides MD5. See RFC 8489 §9.2.
///
/// The offer makes a challenge half as long again, so over UDP it goes beyond 2.2 times the length
/// of a short first request. Clients older than RFC 8489 ignore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sha256Offer {
    /// To nobody.
    Never,
    /// To clients whose transport has shown that their address is theirs: all but plain UDP.
    #[default]
    WhereProven,
    /// To all clients.
    Always,
}

/// Whose allocation something is. Users of two sources or realms may have one name without being
/// one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct User {
    pub(super) realm: RealmId,
    source: Source,
    name: String,
}

/// Who vouches for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The configuration.
    Fixed,
    /// The fleet's secrets, for a while. The name is that without its expiry.
    TimeLimited,
    /// An authorization server. The name is that of its key and a trace of the token's.
    OAuth,
    /// Somebody whom the driver asks.
    Hook,
}

impl User {
    /// Names a user of time-limited credentials.
    pub(super) fn time_limited(realm: RealmId, name: &str) -> Self {
        Self {
            realm,
            source: Source::TimeLimited,
            name: name.to_owned(),
        }
    }

    /// Tells whether this user, who asks from the address of `owner`'s client, may do something about
    /// its allocation: whether they are one, or both have a token of the authorization server. A
    /// token does not say whose it is, and the next one of the same client has another key (RFC 7635
    /// §4); the nonce binds it to the client's address. Elsewhere, ask
    /// [`Allocation::is_held_by`](super::allocation::Allocation::is_held_by).
    pub(super) fn may_act_for(&self, owner: &Self) -> bool {
        let has_token = |one: &Self| one.source == Source::OAuth;
        self == owner || (self.realm == owner.realm && has_token(self) && has_token(owner))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn into_name(self) -> String {
        self.name
    }
}

/// Which integrity attribute the reply has: the newer one for whoever has chosen an algorithm, and so
/// knows it. See RFC 8489 §9.2.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    Sha1,
    Sha256,
}

/// What is known about the sender of a request.
pub(super) enum Verdict {
    Known(Identity),
    /// The driver must be asked about this user before anything can be said.
    Ask(RealmId, String),
}

impl Authority {
    pub(super) fn new(config: &Config) -> Self {
        let mut authority = Self {
            chambers: Vec::new(),
            index_by_name: BTreeMap::new(),
            names: RealmNames::default(),
            nonces: Nonces::new(config.nonce_key, config.nonce_lifetime),
            offer: config.offer_sha256,
            hook: Hook::new(&config.limits, config.auth_timeout),
        };
        authority.reconfigure(config);
        authority
    }

    /// Takes other credentials; whoever is known already stays the same user.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        self.nonces = Nonces::new(config.nonce_key, config.nonce_lifetime);
        self.offer = config.offer_sha256;
        self.hook.reconfigure(&config.limits, config.auth_timeout);
        self.chambers.clear();
        self.index_by_name.clear();
        for realm in std::iter::once(&config.realm).chain(&config.realms) {
            let Some(id) = self.names.id_of(&realm.name) else {
                continue;
            };
            let index = self.chambers.len();
            // The first realm of a name counts.
            if self.index_by_name.contains_key(&realm.name) {
                continue;
            }
            self.index_by_name.insert(realm.name.clone(), index);
            self.chambers.push(Chamber::new(id, realm));
        }
    }

    /// Checks a request as RFC 8489 §9.2.4 orders it. `session` is what the allocation of this
    /// client keeps of a token.
    pub(super) fn authorise(
        &self,
        now: Instant,
        from: FiveTuple,
        message: &Message<'_>,
        session: Option<&TokenSession>,
        unix_now: Duration,
    ) -> Result<Verdict, Refusal> {
        // 1. Without proof the client is challenged.
        if !message.has_integrity() {
            return Err(Refusal::Unauthenticated);
        }
        // 2. Proof without what it refers to is malformed.
        let name = RequestName::of(message)?;
        let realm = message.required::<tombolo_stun::Realm<'_>>();
        let realm = realm.map_err(incomplete)?;
        let nonce = message.required::<Nonce<'_>>().map_err(incomplete)?;
        // 3. The algorithm is one that was offered, and the offer came back unchanged.
        let algorithm = algorithm_of(message, nonce.as_str())?;
        // 4. The user exists, here and now, and the proof matches.
        let chamber = self.chamber(realm.as_str()).ok_or(Refusal::RealmWrong)?;
        // A token that nobody asked for is not known here. See RFC 7635 §7.
        if chamber.oauth.is_none() && message.has(AttributeType::ACCESS_TOKEN) {
            return Err(Refusal::TokenUnexpected);
        }
        let username = name.resolve(chamber)?;
        let evidence = Evidence {
            now,
            unix_now: unix_now.as_secs(),
            message,
            algorithm,
            session,
        };
        let proven = self.prove(chamber, username, &evidence)?;
        // 5. The nonce is ours, recent, and this client's. Nobody outside is asked before.
        let nonce_age = self.nonces.age_of(nonce.as_str(), from, unix_now);
        let nonce_age = nonce_age.ok_or(Refusal::NonceStale)?;
        let Some(proven) = proven else {
            return Ok(Verdict::Ask(chamber.id, username.to_owned()));
        };
        Ok(Verdict::Known(Identity {
            user: proven.user,
            expiry: proven.expiry,
            key: proven.key,
            seal: Seal::of(message),
            nonce_age,
            session: proven.session,
        }))
    }

    /// Returns the realm that a message is about: the one it names, else the one that is meant for
    /// its origin or for the address it came to.
    pub(super) fn realm_for(&self, from: FiveTuple, message: &Message<'_>) -> RealmId {
        if self.chambers.len() < 2 {
            return self.default_realm();
        }
        let named = message
            .attribute::<tombolo_stun::Realm<'_>>()
            .ok()
            .flatten();
        let named = named.and_then(|realm| self.chamber(realm.as_str()));
        let origin = message.attribute::<Origin<'_>>().ok().flatten();
        let by_origin = || {
            let origin = origin?;
            let is_meant = |one: &&Chamber| one.is_for_origin(origin.as_str());
            self.chambers.iter().find(is_meant)
        };
        let by_listener = || {
            let is_meant = |one: &&Chamber| one.is_for_listener(from.server);
            self.chambers.iter().find(is_meant)
        };
        let found = named.or_else(by_origin).or_else(by_listener);
        found.map_or_else(|| self.default_realm(), |chamber| chamber.id)
    }

    pub(super) fn default_realm(&self) -> RealmId {
        self.chambers
            .first()
            .map(|chamber| chamber.id)
            .unwrap_or_default()
    }

    /// Returns what a realm may have, and each of its users.
    pub(super) fn quotas_of(&self, realm: RealmId) -> (Quota, Quota) {
        let mut chambers = self.chambers.iter();
        let chamber = chambers.find(|chamber| chamber.id == realm);
        chamber.map_or_else(Default::default, |chamber| {
            (chamber.quota, chamber.per_user)
        })
    }

    /// Returns what goes through each allocation of a realm at most, if the realm says so.
    pub(super) fn bandwidth_of(&self, realm: RealmId) -> Option<Bandwidth> {
        let mut chambers = self.chambers.iter();
        chambers.find(|chamber| chamber.id == realm)?.bandwidth
    }

    /// Returns how many connections to peers of a realm may wait for their clients.
    pub(super) fn waiting_max_of(&self, realm: RealmId) -> Option<usize> {
        let mut chambers = self.chambers.iter();
        let chamber = chambers.find(|chamber| chamber.id == realm)?;
        chamber.connections_waiting_max
    }

    pub(super) fn realm_name(&self, id: RealmId) -> &str {
        self.names.name_of(id)
    }

    /// Takes the driver's answer about a user, and returns the requests that waited for it.
    pub(super) fn on_answer(
        &mut self,
        now: Instant,
        id: AuthId,
        result: Result<Credential, AuthError>,
    ) -> Vec<Parked> {
        let names = &self.names;
        let name = |realm| names.name_of(realm).to_owned();
        self.hook.answer(now, id, name, result)
    }

    /// Makes what a client needs to try again with credentials.
    pub(super) fn challenge(
        &self,
        from: FiveTuple,
        realm: RealmId,
        unix_now: Duration,
    ) -> Challenge<'_> {
        let chamber = self.chambers.iter().find(|chamber| chamber.id == realm);
        let offers = match self.offer {
            Sha256Offer::Never => false,
            Sha256Offer::WhereProven => from.transport.is_proven(),
            Sha256Offer::Always => true,
        };
        let cookie = offers.then_some(NonceCookie {
            password_algorithms: true,
            username_anonymity: chamber.is_some_and(Chamber::lists_all_users),
        });
        let oauth = chamber.and_then(|chamber| chamber.oauth.as_ref());
        Challenge {
            realm: self.names.name_of(realm),
            nonce: self.nonces.make(from, cookie, unix_now),
            offer: offers.then(|| PasswordAlgorithms::new(OFFER)),
            third_party: oauth.and_then(|one| ThirdPartyAuthorization::new(one.server_name()).ok()),
        }
    }

    fn chamber(&self, name: &str) -> Option<&Chamber> {
        self.chambers.get(*self.index_by_name.get(name)?)
    }

    /// Finds the user in the sources of a realm and checks the proof. `None` where the driver must
    /// be asked first.
    fn prove(
        &self,
        chamber: &Chamber,
        username: &str,
        evidence: &Evidence<'_>,
    ) -> Result<Option<Proven>, Refusal> {
        let user = |source, name: &str| User {
            realm: chamber.id,
            source,
            name: name.to_owned(),
        };
        if let Some(oauth) = &chamber.oauth
            && let Some(proven) = evidence.by_token(chamber.id, oauth, username)?
        {
            return Ok(Some(proven));
        }
        if let Some(keys) = chamber.users.keys_of(username) {
            let key = evidence.check(keys.of(evidence.algorithm))?;
            return Ok(Some(Proven::new(user(Source::Fixed, username), None, key)));
        }
        if let Some(token) = chamber.tokens.read(username, evidence.unix_now) {
            let token = token?;
            let key = evidence.key_of(username, &chamber.name, &token.signature);
            let key = evidence.check(Some(&key))?;
            let user = user(Source::TimeLimited, token.user.as_str());
            return Ok(Some(Proven::new(user, Some(token.expiry), key)));
        }
        if let Some(named) = chamber.secrets.read(username) {
            let proven = evidence.by_secret(chamber, username, &named);
            // Whoever has such a name without credentials of a secret may still be known elsewhere.
            if proven.is_ok() || named.is_certain || chamber.hook == HookMode::Off {
                let expiry = Some(named.expiry);
                let user = user(Source::TimeLimited, named.user);
                return proven.map(|key| Some(Proven::new(user, expiry, key)));
            }
        }
        if chamber.hook == HookMode::Off {
            return Err(Refusal::UserUnknown);
        }
        match self.hook.recall(evidence.now, chamber.id, username) {
            Some(Ok(keys)) => {
                let key = evidence.check(keys.of(evidence.algorithm))?;
                Ok(Some(Proven::new(user(Source::Hook, username), None, key)))
            }
            Some(Err(AuthError::Refused)) => Err(Refusal::UserUnknown),
            Some(Err(AuthError::Unavailable)) => Err(Refusal::AuthUnavailable),
            None => Ok(None),
        }
    }
}

/// What a client needs to try again with credentials. See RFC 8489 §9.2.4.
pub(super) struct Challenge<'a> {
    pub(super) realm: &'a str,
    pub(super) nonce: String,
    /// The password algorithms, the preferred one first.
    pub(super) offer: Option<PasswordAlgorithms<'static>>,
    /// For whom a token has to be made out.
    pub(super) third_party: Option<ThirdPartyAuthorization<'a>>,
}

/// What a request brings to prove who sent it.
struct Evidence<'a> {
    now: Instant,
    unix_now: u64,
    message: &'a Message<'a>,
    algorithm: PasswordAlgorithm,
    session: Option<&'a TokenSession>,
}

/// Who sent a request.
struct Proven {
    user: User,
    expiry: Option<u64>,
    key: Key,
    session: Option<Box<TokenSession>>,
}

impl Evidence<'_> {
    /// Makes the key that belongs to a password.
    fn key_of(&self, username: &str, realm: &str, password: &str) -> Key {
        match self.algorithm {
            PasswordAlgorithm::Sha256 => Key::long_term_sha256(username, realm, password),
            PasswordAlgorithm::Md5 | _ => Key::long_term(username, realm, password),
        }
    }

    /// Returns the key if it is the one that the message proves itself with.
    fn check(&self, key: Option<&Key>) -> Result<Key, Refusal> {
        let key = key.ok_or(Refusal::AlgorithmWrong)?;
        let result = self.message.check_integrity(key);
        result
            .map(|()| key.clone())
            .map_err(|_| Refusal::IntegrityWrong)
    }

    /// Checks a time-limited username, and returns the key of the secret that it is of.
    fn by_secret(
        &self,
        chamber: &Chamber,
        username: &str,
        named: &TimeLimited<'_>,
    ) -> Result<Key, Refusal> {
        named.check_time(self.unix_now)?;
        let key_of = |password: String| self.key_of(username, &chamber.name, &password);
        let mut keys = chamber.secrets.passwords(username).map(key_of);
        let key = keys.find(|key| self.message.check_integrity(key).is_ok());
        key.ok_or(Refusal::IntegrityWrong)
    }

    /// Looks for a token in the request, or for the one that made the allocation. `None` where
    /// there is neither.
    fn by_token(
        &self,
        realm: RealmId,
        oauth: &Opener,
        kid: &str,
    ) -> Result<Option<Proven>, Refusal> {
        let token = self.message.attribute::<AccessToken<'_>>();
        let session = match token.map_err(|_| Refusal::TokenWrong)? {
            Some(token) => {
                let mut opened = oauth.open(kid, token.as_bytes(), self.unix_now)?;
                let name = format!("{kid}#{:08x}", opened.key.trace());
                if self.message.check_integrity(&opened.key).is_err() {
                    opened.key = opened.head.clone();
                }
                let source = Source::OAuth;
                let user = User {
                    realm,
                    source,
                    name,
                };
                TokenSession::new(kid, user, opened)
            }
            None => match self.session {
                Some(session) if session.is_of(realm, kid) => session.clone(),
                Some(_) | None => return Ok(None),
            },
        };
        session.check_time(self.unix_now)?;
        let key = self.check(Some(&session.key))?;
        Ok(Some(Proven {
            user: session.user.clone(),
            expiry: Some(session.expiry),
            key,
            session: Some(Box::new(session)),
        }))
    }
}

impl Proven {
    fn new(user: User, expiry: Option<u64>, key: Key) -> Self {
        Self {
            user,
            expiry,
            key,
            session: None,
        }
    }
}

/// Returns the password algorithm of a request, which the client may choose where the nonce says
/// that there is a choice. See RFC 8489 §9.2.4.
fn algorithm_of(message: &Message<'_>, nonce: &str) -> Result<PasswordAlgorithm, Refusal> {
    let list = message.attribute::<PasswordAlgorithms<'_>>();
    let list = list.map_err(|_| Refusal::AlgorithmWrong)?;
    let choice = message.attribute::<PasswordAlgorithm>();
    let choice = choice.map_err(|_| Refusal::AlgorithmWrong)?;
    let is_offered = NonceCookie::of(nonce).is_some_and(|cookie| cookie.password_algorithms);
    match (list, choice) {
        (None, None) => Ok(PasswordAlgorithm::Md5),
        (Some(list), Some(choice)) if is_offered && list.is(OFFER) && OFFER.contains(&choice) => {
            Ok(choice)
        }
        (_, _) => Err(Refusal::AlgorithmWrong),
    }
}

impl Seal {
    fn of(message: &Message<'_>) -> Self {
        if message.has(AttributeType::PASSWORD_ALGORITHM) {
            Self::Sha256
        } else {
            Self::Sha1
        }
    }
}

/// How a request names its user.
enum RequestName<'m> {
    Clear(Username<'m>),
    Hash(UserHash),
}

impl<'m> RequestName<'m> {
    fn of(message: &Message<'m>) -> Result<Self, Refusal> {
        if let Some(username) = message.attribute::<Username<'_>>().map_err(incomplete)? {
            return Ok(Self::Clear(username));
        }
        message.required().map(Self::Hash).map_err(incomplete)
    }

    /// Returns the username in clear. Only users that are listed can be found by their hash.
    fn resolve<'r>(&'r self, chamber: &'r Chamber) -> Result<&'r str, Refusal> {
        match self {
            Self::Clear(username) => Ok(username.as_str()),
            Self::Hash(hash) => chamber.users.user_of(hash).ok_or(Refusal::UserUnknown),
        }
    }
}

fn incomplete(_: tombolo_stun::AttributeError) -> Refusal {
    Refusal::CredentialsIncomplete
}

const OFFER: &[PasswordAlgorithm] = &[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
