//! Who sent a request: the long-term mechanism of RFC 8489 §9.2 over several sources of
//! credentials, one file each.

use std::collections::BTreeMap;
use std::time::Instant;

use tombolo_stun::{
    AttributeType, Key, Message, Nonce, NonceCookie, Origin, PasswordAlgorithm, PasswordAlgorithms,
    UserHash, Username,
};

mod hook;
mod realm;
mod secrets;
mod users;

pub use hook::{AuthError, AuthId, Credential, Proof};
pub use realm::{HookMode, Realm};
pub use secrets::password_of;

pub(super) use hook::{Hook, Parked, Parking};
pub(super) use realm::RealmId;

use super::address::FiveTuple;
use super::config::Config;
use super::nonce::Nonces;
use super::stats::Refusal;
use realm::{Chamber, RealmNames};

/// Decides who sent a request.
pub(super) struct Authority {
    /// The first one is for clients that no other one is for.
    chambers: Vec<Chamber>,
    index_by_name: BTreeMap<String, usize>,
    names: RealmNames,
    nonces: Nonces,
    offers_sha256: bool,
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

    pub(super) fn into_name(self) -> String {
        self.name
    }
}

/// Which integrity attribute the client used; the reply uses the same. See RFC 8489 §9.2.4.
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
            nonces: Nonces::new(config.nonce_key, config.nonce_lifetime.as_secs(), None),
            offers_sha256: config.offer_sha256,
            hook: Hook::new(&config.limits, config.auth_timeout),
        };
        authority.reconfigure(config);
        authority
    }

    /// Takes other credentials; whoever is known already stays the same user.
    pub(super) fn reconfigure(&mut self, config: &Config) {
        let cookie = config.offer_sha256.then_some(NonceCookie {
            password_algorithms: true,
            username_anonymity: false,
        });
        self.nonces = Nonces::new(config.nonce_key, config.nonce_lifetime.as_secs(), cookie);
        self.offers_sha256 = config.offer_sha256;
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

    /// Checks a request as RFC 8489 §9.2.4 orders it.
    pub(super) fn authorise(
        &self,
        now: Instant,
        from: FiveTuple,
        message: &Message<'_>,
        unix_now: u64,
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
        let algorithm = self.algorithm(message)?;
        // 4. The user exists, here and now, and the proof matches.
        let chamber = self.chamber(realm.as_str()).ok_or(Refusal::RealmWrong)?;
        let username = name.resolve(chamber)?;
        let is_fresh = self.nonces.is_valid(nonce.as_str(), from, unix_now);
        let proof = (message, algorithm);
        let Some((user, expiry, key)) = self.prove(now, chamber, username, proof, unix_now)? else {
            // Nobody outside is bothered before the nonce has shown that the address is real.
            return if is_fresh {
                Ok(Verdict::Ask(chamber.id, username.to_owned()))
            } else {
                Err(Refusal::NonceStale)
            };
        };
        // 5. The nonce is ours, recent, and this client's.
        if !is_fresh {
            return Err(Refusal::NonceStale);
        }
        Ok(Verdict::Known(Identity {
            user,
            expiry,
            key,
            seal: Seal::of(message),
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

    pub(super) fn make_nonce(&self, from: FiveTuple, unix_now: u64) -> String {
        self.nonces.make(from, unix_now)
    }

    /// Returns the password algorithms to offer, the preferred one first.
    pub(super) fn offer(&self) -> Option<PasswordAlgorithms<'static>> {
        self.offers_sha256.then(|| PasswordAlgorithms::new(OFFER))
    }

    fn chamber(&self, name: &str) -> Option<&Chamber> {
        self.chambers.get(*self.index_by_name.get(name)?)
    }

    fn algorithm(&self, message: &Message<'_>) -> Result<PasswordAlgorithm, Refusal> {
        let list = message.attribute::<PasswordAlgorithms<'_>>();
        let list = list.map_err(|_| Refusal::AlgorithmWrong)?;
        let choice = message.attribute::<PasswordAlgorithm>();
        let choice = choice.map_err(|_| Refusal::AlgorithmWrong)?;
        match (list, choice) {
            (None, None) => Ok(PasswordAlgorithm::Md5),
            (Some(list), Some(choice))
                if self.offers_sha256 && list.is(OFFER) && OFFER.contains(&choice) =>
            {
                Ok(choice)
            }
            (_, _) => Err(Refusal::AlgorithmWrong),
        }
    }

    /// Finds the user in the sources of a realm and checks the proof. `None` where the driver must
    /// be asked first.
    fn prove(
        &self,
        now: Instant,
        chamber: &Chamber,
        username: &str,
        (message, algorithm): (&Message<'_>, PasswordAlgorithm),
        unix_now: u64,
    ) -> Result<Option<(User, Option<u64>, Key)>, Refusal> {
        let user = |source, name: &str| User {
            realm: chamber.id,
            source,
            name: name.to_owned(),
        };
        if let Some(keys) = chamber.users.keys_of(username) {
            let key = check(message, keys.of(algorithm))?;
            return Ok(Some((user(Source::Fixed, username), None, key)));
        }
        if let Some(named) = chamber.secrets.read(username) {
            named.check_time(unix_now)?;
            let key_of = |password: String| match algorithm {
                PasswordAlgorithm::Sha256 => {
                    Key::long_term_sha256(username, &chamber.name, &password)
                }
                PasswordAlgorithm::Md5 | _ => Key::long_term(username, &chamber.name, &password),
            };
            let mut keys = chamber.secrets.passwords(username).map(key_of);
            let key = keys.find(|key| message.check_integrity(key).is_ok());
            let key = key.ok_or(Refusal::IntegrityWrong)?;
            let user = user(Source::TimeLimited, named.user);
            return Ok(Some((user, Some(named.expiry), key)));
        }
        if chamber.hook == HookMode::Off {
            return Err(Refusal::UserUnknown);
        }
        match self.hook.recall(now, chamber.id, username) {
            Some(Ok(keys)) => {
                let key = check(message, keys.of(algorithm))?;
                Ok(Some((user(Source::Hook, username), None, key)))
            }
            Some(Err(AuthError::Refused)) => Err(Refusal::UserUnknown),
            Some(Err(AuthError::Unavailable)) => Err(Refusal::AuthUnavailable),
            None => Ok(None),
        }
    }
}

impl Seal {
    fn of(message: &Message<'_>) -> Self {
        if message.has_integrity_sha256() {
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

/// Returns the key if it is the one that the message proves itself with.
fn check(message: &Message<'_>, key: Option<&Key>) -> Result<Key, Refusal> {
    let key = key.ok_or(Refusal::AlgorithmWrong)?;
    let result = message.check_integrity(key);
    result
        .map(|()| key.clone())
        .map_err(|_| Refusal::IntegrityWrong)
}

fn incomplete(_: tombolo_stun::AttributeError) -> Refusal {
    Refusal::CredentialsIncomplete
}

/// Attributes that a request with credentials may carry besides its own.
pub(super) const CREDENTIAL_ATTRIBUTES: [AttributeType; 5] = [
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
];

const OFFER: &[PasswordAlgorithm] = &[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
