use tombolo_stun::{Key, Message, MessageWriter, Nonce, Realm, Username};

/// The long-term credentials and the server's last challenge. See RFC 8489 §9.2.
pub(super) struct Credentials {
    username: String,
    password: String,
    /// `None` until the server has told its realm and a nonce.
    challenge: Option<Challenge>,
}

struct Challenge {
    realm: String,
    nonce: String,
    key: Key,
}

/// Why a challenge cannot be used.
pub(super) struct NotAChallenge;

impl Credentials {
    pub(super) fn new(username: String, password: String) -> Self {
        Self {
            username,
            password,
            challenge: None,
        }
    }

    /// Uses another user name and password from now on, with the same realm and nonce.
    pub(super) fn replace(&mut self, username: String, password: String) {
        self.username = username;
        self.password = password;
        if let Some(challenge) = &mut self.challenge {
            challenge.key = Key::long_term(&self.username, &challenge.realm, &self.password);
        }
    }

    /// Takes realm and nonce from an error reply with code 401 or 438.
    pub(super) fn handle_challenge(&mut self, reply: &Message<'_>) -> Result<(), NotAChallenge> {
        let nonce = reply
            .attribute::<Nonce<'_>>()
            .ok()
            .flatten()
            .ok_or(NotAChallenge)?;
        let realm = reply.attribute::<Realm<'_>>().ok().flatten();
        let realm = match (&realm, &self.challenge) {
            (Some(realm), _) => realm.as_str().to_owned(),
            (None, Some(challenge)) => challenge.realm.clone(),
            (None, None) => return Err(NotAChallenge),
        };
        self.challenge = Some(Challenge {
            key: Key::long_term(&self.username, &realm, &self.password),
            realm,
            nonce: nonce.as_str().to_owned(),
        });
        Ok(())
    }

    /// Ends a request with the attributes that prove who sends it, as far as that is known, and
    /// returns the key that the reply must be protected with.
    pub(super) fn sign(&self, writer: &mut MessageWriter<'_>) -> Option<Key> {
        let challenge = self.challenge.as_ref()?;
        // A user name that no message can carry leaves the request unsigned, and so refused.
        let username = Username::new(&self.username).ok()?;
        let realm = Realm::new(&challenge.realm).ok()?;
        let nonce = Nonce::new(&challenge.nonce).ok()?;
        writer
            .attribute(&username)
            .attribute(&realm)
            .attribute(&nonce)
            .integrity(&challenge.key);
        Some(challenge.key.clone())
    }

    /// Whether a request signed with `key` was signed with what is current.
    pub(super) fn is_current(&self, key: &Key) -> bool {
        self.challenge
            .as_ref()
            .is_some_and(|challenge| challenge.key == *key)
    }
}
