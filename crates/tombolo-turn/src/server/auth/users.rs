use std::collections::BTreeMap;

use tombolo_stun::{Key, PasswordAlgorithm, UserHash};

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
    pub(super) fn new(realm: &str, password_by_user: &BTreeMap<String, String>) -> Self {
        let keys =
            |(user, password): (&String, &String)| (user.clone(), Keys::new(user, realm, password));
        let hash = |user: &String| (UserHash::new(user, realm), user.clone());
        Self {
            keys_by_user: password_by_user.iter().map(keys).collect(),
            user_by_hash: password_by_user.keys().map(hash).collect(),
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
