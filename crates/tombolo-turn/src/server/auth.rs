use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use tombolo_stun::{
    AttributeType, IntegrityError, Key, Message, Nonce, NonceCookie, PasswordAlgorithm,
    PasswordAlgorithms, Realm, UserHash, Username,
};

use super::address::FiveTuple;
use super::config::Config;
use super::nonce::Nonces;
use super::stats::Refusal;

/// Decides who sent a request, by the long-term mechanism of RFC 8489 §9.2.
pub(super) struct Authority {
    realm: String,
    nonces: Nonces,
    password_by_user: BTreeMap<String, String>,
    user_by_hash: BTreeMap<UserHash, String>,
    secrets: Vec<Vec<u8>>,
    offers_sha256: bool,
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

/// Whose allocation something is. Users of the two kinds may have one name without being one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    /// One of the configuration.
    Fixed(String),
    /// One whose credentials expire; the username without its expiry.
    TimeLimited(String),
}

impl User {
    pub(super) fn into_name(self) -> String {
        match self {
            Self::Fixed(name) | Self::TimeLimited(name) => name,
        }
    }
}

/// Which integrity attribute the client used; the reply uses the same. See RFC 8489 §9.2.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    Sha1,
    Sha256,
}

impl Authority {
    pub(super) fn new(config: &Config) -> Self {
        let cookie = config.offer_sha256.then_some(NonceCookie {
            password_algorithms: true,
            username_anonymity: false,
        });
        let by_hash = |user: &String| (UserHash::new(user, &config.realm), user.clone());
        Self {
            realm: config.realm.clone(),
            nonces: Nonces::new(config.nonce_key, config.nonce_lifetime.as_secs(), cookie),
            password_by_user: config.users.clone(),
            user_by_hash: config.users.keys().map(by_hash).collect(),
            secrets: config.secrets.clone(),
            offers_sha256: config.offer_sha256,
        }
    }

    /// Checks a request as RFC 8489 §9.2.4 orders it.
    pub(super) fn authorise(
        &self,
        from: FiveTuple,
        message: &Message<'_>,
        unix_now: u64,
    ) -> Result<Identity, Refusal> {
        // 1. Without proof the client is challenged.
        if !message.has_integrity() {
            return Err(Refusal::Unauthenticated);
        }
        // 2. Proof without what it refers to is malformed.
        let username = self.username(message)?;
        let realm = message.required::<Realm<'_>>().map_err(incomplete)?;
        let nonce = message.required::<Nonce<'_>>().map_err(incomplete)?;
        // 3. The algorithm is one that was offered, and the offer came back unchanged.
        let algorithm = self.algorithm(message)?;
        // 4. The user exists, here and now.
        if realm.as_str() != self.realm {
            return Err(Refusal::RealmWrong);
        }
        let account = self.account(username, unix_now)?;
        // 5. The proof matches.
        let key = self.check(message, username, algorithm, &account)?;
        // 6. The nonce is ours, recent, and this client's.
        if !self.nonces.is_valid(nonce.as_str(), from, unix_now) {
            return Err(Refusal::NonceStale);
        }
        let seal = if message.has_integrity_sha256() {
            Seal::Sha256
        } else {
            Seal::Sha1
        };
        let (user, expiry) = match account {
            Account::Fixed { .. } => (User::Fixed(username.to_owned()), None),
            Account::TimeLimited { user, expiry } => {
                (User::TimeLimited(user.to_owned()), Some(expiry))
            }
        };
        Ok(Identity {
            user,
            expiry,
            key,
            seal,
        })
    }

    pub(super) fn realm(&self) -> &str {
        &self.realm
    }

    pub(super) fn make_nonce(&self, from: FiveTuple, unix_now: u64) -> String {
        self.nonces.make(from, unix_now)
    }

    /// Returns the password algorithms to offer, the preferred one first.
    pub(super) fn offer(&self) -> Option<PasswordAlgorithms<'static>> {
        self.offers_sha256.then(|| PasswordAlgorithms::new(OFFER))
    }

    fn username<'s: 'r, 'm: 'r, 'r>(&'s self, message: &Message<'m>) -> Result<&'r str, Refusal> {
        if let Some(username) = message.attribute::<Username<'_>>().map_err(incomplete)? {
            return Ok(username.as_str());
        }
        let hash = message.required::<UserHash>().map_err(incomplete)?;
        self.user_by_hash
            .get(&hash)
            .map(String::as_str)
            .ok_or(Refusal::UserUnknown)
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

    fn account<'a>(&'a self, username: &'a str, unix_now: u64) -> Result<Account<'a>, Refusal> {
        if let Some(password) = self.password_by_user.get(username) {
            return Ok(Account::Fixed { password });
        }
        if self.secrets.is_empty() {
            return Err(Refusal::UserUnknown);
        }
        let (expiry, user) = username.split_once(':').ok_or(Refusal::UserUnknown)?;
        let expiry = expiry.parse().map_err(|_| Refusal::UserUnknown)?;
        if expiry <= unix_now {
            return Err(Refusal::CredentialsExpired);
        }
        Ok(Account::TimeLimited { user, expiry })
    }

    /// Returns the key under which the message proves itself.
    fn check(
        &self,
        message: &Message<'_>,
        username: &str,
        algorithm: PasswordAlgorithm,
        account: &Account<'_>,
    ) -> Result<Key, Refusal> {
        let prove = |password: &str| {
            let key = match algorithm {
                PasswordAlgorithm::Sha256 => Key::long_term_sha256(username, &self.realm, password),
                PasswordAlgorithm::Md5 | _ => Key::long_term(username, &self.realm, password),
            };
            message.check_integrity(&key).map(|()| key)
        };
        let proven = match account {
            Account::Fixed { password } => prove(password),
            Account::TimeLimited { .. } => {
                let mut keys = self
                    .secrets
                    .iter()
                    .map(|one| prove(&password_of(one, username)));
                keys.find(Result::is_ok)
                    .unwrap_or(Err(IntegrityError::Mismatch))
            }
        };
        proven.map_err(|_| Refusal::IntegrityWrong)
    }
}

/// What a username stands for.
enum Account<'a> {
    Fixed { password: &'a str },
    TimeLimited { user: &'a str, expiry: u64 },
}

/// Returns the password that belongs to a time-limited username (`EXPIRY:USER`) under a secret:
/// the Base64 of its HMAC-SHA1.
pub fn password_of(secret: &[u8], username: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
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
