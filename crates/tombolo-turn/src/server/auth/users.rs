use std::collections::BTreeMap;

use tombolo_stun::{Key, PasswordAlgorithm, UserHash};

use super::realm::Realm;

/// The users of a realm whose passwords do not expire. Their keys are made once, since making one
/// costs as much as checking a message with it.
pub(super) struct Users {
    keys_by_user: BTreeMap<String, Keys>,
    user_by_hash: BTreeMap<UserHash, String>,
}

/// One user's keys, for each password algorithm.
#[derive(Clone)]
pub(super) struct Keys {
    md5: Key,
    /// `None` where only the MD5 key itself is known, and no password.
    sha256: Option<Key>,
}

impl Users {
    pub(super) fn new(realm: &Realm) -> Self {
        let of_key = |(user, key): (&String, &[u8; 16])| (user.clone(), Keys::of_md5(*key));
        let of_password = |(user, password): (&String, &String)| {
            (user.clone(), Keys::new(user, &realm.name, password))
        };
        let keys = realm.users_by_key.iter().map(of_key);
        let keys_by_user: BTreeMap<_, _> =
            keys.chain(realm.users.iter().map(of_password)).collect();
        let hash = |user: &String| (UserHash::new(user, &realm.name), user.clone());
        Self {
            user_by_hash: keys_by_user.keys().map(hash).collect(),
            keys_by_user,
        }
    }

    pub(super) fn keys_of(&self, user: &str) -> Option<&Keys> {
        self.keys_by_user.get(user)
    }

    pub(super) fn user_of(&self, hash: &UserHash) -> Option<&str> {
        self.user_by_hash.get(hash).map(String::as_str)
    }
}

impl Keys {
    pub(super) fn new(username: &str, realm: &str, password: &str) -> Self {
        Self {
            md5: Key::long_term(username, realm, password),
            sha256: Some(Key::long_term_sha256(username, realm, password)),
        }
    }

    /// Makes the keys of a user of whom only the MD5 key is known.
    pub(super) fn of_md5(key: [u8; 16]) -> Self {
        Self {
            md5: Key::from_bytes(&key),
            sha256: None,
        }
    }

    pub(super) fn of(&self, algorithm: PasswordAlgorithm) -> Option<&Key> {
        match algorithm {
            PasswordAlgorithm::Sha256 => self.sha256.as_ref(),
            PasswordAlgorithm::Md5 | _ => Some(&self.md5),
        }
    }
}
