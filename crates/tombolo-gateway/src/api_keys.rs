//! Who may use the HTTP API for game servers, for what, and how often.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scope {
    /// List rooms, and see one with its members.
    RoomsRead,
    /// Read what was said durably in rooms, whoever it is for.
    MessagesRead,
    /// Open and close rooms.
    RoomsCreate,
    /// Say something in rooms.
    RoomsSend,
    /// Change properties of rooms and their members.
    RoomsSet,
    /// Send members away.
    RoomsKick,
    /// Tell users something.
    NoticesSend,
    /// Look at pools of the matchmaker.
    PoolsRead,
    /// Put things into fields, move them, and take them away.
    FieldsPut,
    /// List groups, and see how one is.
    GroupsRead,
    /// End groups.
    GroupsEnd,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::RoomsRead,
        Self::MessagesRead,
        Self::RoomsCreate,
        Self::RoomsSend,
        Self::RoomsSet,
        Self::RoomsKick,
        Self::NoticesSend,
        Self::PoolsRead,
        Self::FieldsPut,
        Self::GroupsRead,
        Self::GroupsEnd,
    ];

    /// The word that configurations use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoomsRead => "rooms:read",
            Self::MessagesRead => "messages:read",
            Self::RoomsCreate => "rooms:create",
            Self::RoomsSend => "rooms:send",
            Self::RoomsSet => "rooms:set",
            Self::RoomsKick => "rooms:kick",
            Self::NoticesSend => "notices:send",
            Self::PoolsRead => "pools:read",
            Self::FieldsPut => "fields:put",
            Self::GroupsRead => "groups:read",
            Self::GroupsEnd => "groups:end",
        }
    }

    /// Reads that word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// A key, known by its hash.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ApiKey {
    /// What logs call it.
    pub name: String,
    /// SHA-256 of the key, which nobody but its holder has.
    pub sha256: [u8; 32],
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// Requests in a second; twice as many at once.
    pub requests_per_second: u32,
}

impl ApiKey {
    /// A key that allows nothing yet, 100 times a second.
    pub fn new(name: &str, sha256: [u8; 32]) -> Self {
        Self {
            name: name.to_owned(),
            sha256,
            scopes: BTreeSet::new(),
            requests_per_second: 100,
        }
    }

    /// The hash of a key.
    pub fn hash(key: &str) -> [u8; 32] {
        Sha256::digest(key.as_bytes()).into()
    }
}

/// The keys that are accepted now.
#[derive(Debug, Default)]
pub(crate) struct ApiKeys(Vec<Arc<Known>>);

/// A key, and what is left to it for now.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) key: ApiKey,
    left: Mutex<Left>,
}

#[derive(Debug)]
struct Left {
    requests: f64,
    filled: Instant,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRefusal {
    Unknown,
    Scope(Scope),
    Rate,
}

impl ApiKeys {
    pub(crate) fn new(keys: Vec<ApiKey>, now: Instant) -> Self {
        let known = keys.into_iter().map(|key| {
            let requests = burst(&key);
            let left = Mutex::new(Left {
                requests,
                filled: now,
            });
            Arc::new(Known { key, left })
        });
        Self(known.collect())
    }

    /// Whose request it is, if it may be made now.
    ///
    /// # Errors
    /// The key is unknown, does not allow it, or was used too often.
    pub(crate) fn check(
        &self,
        presented: &str,
        scope: Scope,
        now: Instant,
    ) -> Result<Arc<Known>, KeyRefusal> {
        let hash = ApiKey::hash(presented);
        let mut found = None;
        // All are compared, all of each: the time that it takes tells nothing.
        for known in &self.0 {
            if bool::from(known.key.sha256.ct_eq(&hash)) {
                found = Some(known);
            }
        }
        let known = found.ok_or(KeyRefusal::Unknown)?;
        if !known.take(now) {
            return Err(KeyRefusal::Rate);
        }
        if !known.key.scopes.contains(&scope) {
            return Err(KeyRefusal::Scope(scope));
        }
        Ok(Arc::clone(known))
    }
}

impl Known {
    fn take(&self, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = now.saturating_duration_since(left.filled).as_secs_f64();
        left.filled = left.filled.max(now);
        left.requests += seconds * f64::from(self.key.requests_per_second);
        left.requests = left.requests.min(burst(&self.key));
        let has = left.requests >= 1.0;
        if has {
            left.requests -= 1.0;
        }
        has
    }
}

fn burst(key: &ApiKey) -> f64 {
    2.0 * f64::from(key.requests_per_second)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keys(now: Instant) -> ApiKeys {
        let mut one = ApiKey::new("one", ApiKey::hash("first key"));
        one.scopes.insert(Scope::RoomsRead);
        one.requests_per_second = 1;
        let other = ApiKey::new("other", ApiKey::hash("second key"));
        ApiKeys::new(vec![one, other], now)
    }

    #[test]
    fn a_key_allows_what_its_scopes_say_and_nothing_else() {
        let now = Instant::now();
        let keys = keys(now);
        let known = keys
            .check("first key", Scope::RoomsRead, now)
            .expect("it may");
        assert_eq!(known.key.name, "one");
        let other = keys.check("first key", Scope::RoomsKick, now);
        assert_eq!(other.err(), Some(KeyRefusal::Scope(Scope::RoomsKick)));
        let none = keys.check("second key", Scope::RoomsRead, now);
        assert_eq!(none.err(), Some(KeyRefusal::Scope(Scope::RoomsRead)));
        let unknown = keys.check("third key", Scope::RoomsRead, now);
        assert_eq!(unknown.err(), Some(KeyRefusal::Unknown));
    }

    #[test]
    fn a_key_is_good_for_so_many_requests_in_a_second() {
        let mut now = Instant::now();
        let keys = keys(now);
        let is_taken = |now| keys.check("first key", Scope::RoomsRead, now).is_ok();
        assert!(is_taken(now) && is_taken(now) && !is_taken(now));
        now += Duration::from_secs(1);
        assert!(is_taken(now) && !is_taken(now));
    }

    #[test]
    fn every_scope_is_read_as_it_is_written() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::parse("rooms:*"), None);
    }
}
