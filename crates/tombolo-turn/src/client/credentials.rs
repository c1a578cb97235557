use tombolo_stun::{
    Key, Message, MessageWriter, Nonce, NonceCookie, PasswordAlgorithm, PasswordAlgorithms, Realm,
    Username,
};

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
    /// `None` for servers older than RFC 8489, and others that do not ask.
    offer: Option<Offer>,
    key: Key,
}

/// The password algorithms that a server offers, and the one chosen from them.
struct Offer {
    algorithms: Vec<PasswordAlgorithm>,
    choice: PasswordAlgorithm,
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
            let offer = challenge.offer.as_ref();
            challenge.key = key_of(offer, &self.username, &challenge.realm, &self.password);
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
        let nonce = nonce.as_str().to_owned();
        let offer = Offer::of(reply, &nonce)?;
        let key = key_of(offer.as_ref(), &self.username, &realm, &self.password);
        self.challenge = Some(Challenge {
            realm,
            nonce,
            offer,
            key,
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
            .attribute(&nonce);
        match &challenge.offer {
            None => writer.integrity(&challenge.key),
            Some(offer) => writer
                .attribute(&PasswordAlgorithms::new(&offer.algorithms))
                .attribute(&offer.choice)
                .integrity_sha256(&challenge.key),
        };
        Some(challenge.key.clone())
    }

    /// Whether a request signed with `key` was signed with what is current.
    pub(super) fn is_current(&self, key: &Key) -> bool {
        self.challenge
            .as_ref()
            .is_some_and(|challenge| challenge.key == *key)
    }
}

impl Offer {
    /// Reads what a challenge offers. A nonce that announces a choice without one in the message was
    /// tampered with, to bid the algorithm down. See RFC 8489 §9.2.5.
    fn of(reply: &Message<'_>, nonce: &str) -> Result<Option<Self>, NotAChallenge> {
        let is_announced = NonceCookie::of(nonce).is_some_and(|cookie| cookie.password_algorithms);
        if !is_announced {
            return Ok(None);
        }
        let offered = reply.attribute::<PasswordAlgorithms<'_>>().ok().flatten();
        let offered = offered.ok_or(NotAChallenge)?;
        // The list goes back as it came, so all of it must be known; MD5 needs no list.
        let algorithms: Option<Vec<_>> = offered.algorithms().collect();
        Ok(algorithms.and_then(|algorithms| {
            let choice = *algorithms.first()?;
            Some(Self { algorithms, choice })
        }))
    }
}

/// See RFC 8489 §18.5.1.
fn key_of(offer: Option<&Offer>, username: &str, realm: &str, password: &str) -> Key {
    match offer.map(|offer| offer.choice) {
        Some(PasswordAlgorithm::Sha256) => Key::long_term_sha256(username, realm, password),
        _ => Key::long_term(username, realm, password),
    }
}
