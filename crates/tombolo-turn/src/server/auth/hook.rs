//! Users that only somebody outside knows: the question goes to the driver, the request waits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::super::address::{FiveTuple, canonical};
use super::super::config::Limits;
use super::super::ledger::Network;
use super::super::reply::Ask;
use super::super::stats::Refusal;
use super::realm::RealmId;
use super::users::Keys;

/// What somebody outside knows of a user. Answers a [`Command::Authenticate`].
///
/// [`Command::Authenticate`]: super::super::Command::Authenticate
#[derive(Clone)]
pub struct Credential {
    /// What the user proves itself with.
    pub proof: Proof,
    /// How long the answer may be used without asking again; no longer than a day.
    pub lifetime: Duration,
}

impl Credential {
    /// Makes the credential of a user with a password.
    pub fn password(password: impl Into<String>, lifetime: Duration) -> Self {
        Self {
            proof: Proof::Password(password.into()),
            lifetime,
        }
    }
}

/// Shows no secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

/// What a user proves itself with.
#[derive(Clone)]
pub enum Proof {
    /// The password; all password algorithms can be used.
    Password(String),
    /// The MD5 over username, realm and password (RFC 8489 §18.5.1.1), for stores that keep no
    /// password; SHA-256 cannot be used then.
    Md5Key([u8; 16]),
}

/// Shows no secret.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proof(..)")
    }
}

/// Why there is no credential for a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum AuthError {
    /// There is no such user, or it may not come in.
    #[error("user refused")]
    Refused,
    /// Nobody could be asked, or nobody answered in time. The user does not come in.
    #[error("credentials not available")]
    Unavailable,
}

/// Names a [`Command::Authenticate`] and its answer.
///
/// [`Command::Authenticate`]: super::super::Command::Authenticate
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuthId(pub(in crate::server) u64);

/// Requests that wait for answers, and the answers of late. All of it is bounded; what does not
/// fit, or is not answered, fails.
pub(in crate::server) struct Hook {
    bounds: Bounds,
    next_id: u64,
    waiting: BTreeMap<AuthId, Waiting>,
    id_by_user: BTreeMap<UserKey, AuthId>,
    deadlines: BTreeSet<(Instant, AuthId)>,
    parked: usize,
    parked_bytes: usize,
    parked_by_source: BTreeMap<IpAddr, usize>,
    parked_by_network: BTreeMap<Network, usize>,
    /// Users that were found.
    known: Cache<Keys>,
    /// Users that were refused, or could not be asked about. A cache of its own, so that names
    /// made up by somebody do not push out those that are real.
    unknown: Cache<AuthError>,
}

/// Realm and username.
type UserKey = (RealmId, String);

/// What the hook keeps at most.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    parked_max: usize,
    parked_per_source_max: usize,
    parked_bytes_max: usize,
    timeout: Duration,
}

struct Waiting {
    user: UserKey,
    deadline: Instant,
    requests: Vec<Parked>,
}

/// A request that waits for the answer about its user.
pub(in crate::server) struct Parked {
    pub(in crate::server) ask: Ask,
    pub(in crate::server) bytes: Vec<u8>,
}

/// What came of parking a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Parking {
    /// The driver is to be asked.
    Ask(AuthId),
    /// The driver has been asked already.
    Wait,
}

impl Hook {
    pub(in crate::server) fn new(limits: &Limits, timeout: Duration) -> Self {
        Self {
            bounds: Bounds::new(limits, timeout),
            next_id: 0,
            waiting: BTreeMap::new(),
            id_by_user: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            parked: 0,
            parked_bytes: 0,
            parked_by_source: BTreeMap::new(),
            parked_by_network: BTreeMap::new(),
            known: Cache::new(limits.auth_cache_max),
            unknown: Cache::new(limits.auth_cache_max),
        }
    }

    /// Takes new bounds and forgets the answers, which may be others now.
    pub(in crate::server) fn reconfigure(&mut self, limits: &Limits, timeout: Duration) {
        self.bounds = Bounds::new(limits, timeout);
        self.known = Cache::new(limits.auth_cache_max);
        self.unknown = Cache::new(limits.auth_cache_max);
    }

    /// Returns what is known of a user; `None` where the driver must be asked.
    pub(super) fn recall(
        &self,
        now: Instant,
        realm: RealmId,
        username: &str,
    ) -> Option<Result<&Keys, AuthError>> {
        let user = (realm, username.to_owned());
        let known = self.known.get(now, &user).map(Ok);
        known.or_else(|| self.unknown.get(now, &user).map(|error| Err(*error)))
    }

    /// Keeps a request until the driver has answered about its user.
    pub(in crate::server) fn park(
        &mut self,
        now: Instant,
        (realm, username): (RealmId, &str),
        request: Parked,
    ) -> Result<Parking, Refusal> {
        let user = (realm, username.to_owned());
        let asked = self.id_by_user.get(&user).copied();
        let waiting = asked.and_then(|id| self.waiting.get(&id));
        let is_again = |one: &Parked| one.ask.is_again(&request.ask);
        if waiting.is_some_and(|waiting| waiting.requests.iter().any(is_again)) {
            return Ok(Parking::Wait);
        }
        let source = source_of(&request.ask.from);
        let of_source = self.parked_by_source.get(&source).copied().unwrap_or(0);
        let network = Network::of(request.ask.from.client);
        let of_network = self.parked_by_network.get(&network).copied().unwrap_or(0);
        if self.parked.max(self.waiting.len()) >= self.bounds.parked_max
            || self.parked_bytes + request.bytes.len() > self.bounds.parked_bytes_max
            || of_source >= self.bounds.parked_per_source_max
            || of_network >= self.bounds.parked_per_source_max * SOURCES_OF_NETWORK
        {
            return Err(Refusal::AuthBusy);
        }
        self.parked += 1;
        self.parked_bytes += request.bytes.len();
        self.parked_by_source.insert(source, of_source + 1);
        self.parked_by_network.insert(network, of_network + 1);
        if let Some(waiting) = asked.and_then(|id| self.waiting.get_mut(&id)) {
            waiting.requests.push(request);
            return Ok(Parking::Wait);
        }
        let id = AuthId(self.next_id);
        self.next_id += 1;
        self.id_by_user.insert(user.clone(), id);
        let requests = vec![request];
        let deadline = now + self.bounds.timeout;
        self.deadlines.insert((deadline, id));
        let waiting = Waiting {
            user,
            deadline,
            requests,
        };
        self.waiting.insert(id, waiting);
        Ok(Parking::Ask(id))
    }

    /// Takes an answer and returns the requests that waited for it. `realm_name` tells under which
    /// name the keys of a realm are made.
    pub(in crate::server) fn answer(
        &mut self,
        now: Instant,
        id: AuthId,
        realm_name: impl FnOnce(RealmId) -> String,
        result: Result<Credential, AuthError>,
    ) -> Vec<Parked> {
        let Some(waiting) = self.waiting.remove(&id) else {
            return Vec::new();
        };
        self.deadlines.remove(&(waiting.deadline, id));
        let Waiting { user, requests, .. } = waiting;
        self.id_by_user.remove(&user);
        requests.iter().for_each(|request| self.unpark(request));
        match result {
            Ok(credential) => {
                let (realm, username) = &user;
                let keys = match &credential.proof {
                    Proof::Password(password) => Keys::new(username, &realm_name(*realm), password),
                    Proof::Md5Key(key) => Keys::of_md5(*key),
                };
                let expires = now + credential.lifetime.min(LIFETIME_MAX);
                self.unknown.remove(&user);
                self.known.insert(user, expires, keys);
            }
            Err(error) => {
                let lifetime = match error {
                    AuthError::Refused => REFUSED_LIFETIME,
                    AuthError::Unavailable => UNAVAILABLE_LIFETIME,
                };
                self.unknown.insert(user, now + lifetime, error);
            }
        }
        requests
    }

    /// Lists the requests that wait.
    pub(in crate::server) fn parked(&self) -> impl Iterator<Item = &Parked> {
        self.waiting.values().flat_map(|waiting| &waiting.requests)
    }

    /// Forgets the requests of a client that is gone.
    pub(in crate::server) fn forget(&mut self, client: FiveTuple) {
        let mut forgotten = Vec::new();
        for waiting in self.waiting.values_mut() {
            let is_of_client = |one: &mut Parked| one.ask.from == client;
            forgotten.extend(waiting.requests.extract_if(.., is_of_client));
        }
        forgotten.iter().for_each(|request| self.unpark(request));
    }

    /// Returns the next question to be answered by force, and when.
    pub(in crate::server) fn next_deadline(&self) -> Option<(Instant, AuthId)> {
        self.deadlines.first().copied()
    }

    fn unpark(&mut self, request: &Parked) {
        self.parked -= 1;
        self.parked_bytes -= request.bytes.len();
        let client = request.ask.from;
        give_back(&mut self.parked_by_source, &source_of(&client));
        give_back(&mut self.parked_by_network, &Network::of(client.client));
    }
}

impl Bounds {
    fn new(limits: &Limits, timeout: Duration) -> Self {
        Self {
            parked_max: limits.auth_pending_max,
            parked_per_source_max: limits.auth_pending_per_source_max,
            parked_bytes_max: limits.auth_pending_bytes_max,
            timeout,
        }
    }
}

/// Values that are good for a while, by user. When there are too many, those whose time is over
/// first go first.
struct Cache<T> {
    entries: BTreeMap<UserKey, (Instant, T)>,
    deadlines: BTreeSet<(Instant, UserKey)>,
    entries_max: usize,
}

impl<T> Cache<T> {
    fn new(entries_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            // The answer that just came must have a place until its requests are done.
            entries_max: entries_max.max(1),
        }
    }

    /// An answer without a lifetime is still good for the requests that wait for it now.
    fn get(&self, now: Instant, user: &UserKey) -> Option<&T> {
        let (expires, value) = self.entries.get(user)?;
        (now <= *expires).then_some(value)
    }

    fn insert(&mut self, user: UserKey, expires: Instant, value: T) {
        self.remove(&user);
        while self.entries.len() >= self.entries_max
            && let Some((_, oldest)) = self.deadlines.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.deadlines.insert((expires, user.clone()));
        self.entries.insert(user, (expires, value));
    }

    fn remove(&mut self, user: &UserKey) {
        if let Some((expires, _)) = self.entries.remove(user) {
            self.deadlines.remove(&(expires, user.clone()));
        }
    }
}

fn give_back<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Returns what counts as one source: an IPv4 address or an IPv6 /64.
fn source_of(from: &FiveTuple) -> IpAddr {
    match canonical(from.client).ip() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// As many sources may have all their requests waiting in one network (IPv4 /24, IPv6 /48), so that none
/// has all that may wait.
const SOURCES_OF_NETWORK: usize = 4;
/// Longest use of an answer.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a refused user is not asked about again.
const REFUSED_LIFETIME: Duration = Duration::from_secs(5);
/// How long nothing is asked about a user after nobody answered.
const UNAVAILABLE_LIFETIME: Duration = Duration::from_secs(1);
