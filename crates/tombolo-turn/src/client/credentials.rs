use tombolo_stun::{
    AttributeType, Key, Message, MessageWriter, Nonce, NonceCookie, PasswordAlgorithm,
    PasswordAlgorithms, RawAttribute, Realm, UserHash, Username,
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
    /// Whether the server wants the hash of the user name in its place.
    hides_username: bool,
    /// `None` for servers older than RFC 8489, and others that do not ask.
    offer: Option<Offer>,
    key: Key,
}

/// The password algorithms that a server offers, and the one chosen from them.
struct Offer {
    /// As they came, those included that nobody here knows.
    list: Vec<u8>,
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
        let cookie = NonceCookie::of(&nonce);
        let offer = Offer::of(reply, cookie)?;
        let key = key_of(offer.as_ref(), &self.username, &realm, &self.password);
        self.challenge = Some(Challenge {
            realm,
            nonce,
            hides_username: cookie.is_some_and(|cookie| cookie.username_anonymity),
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
        match challenge.hides_username {
            true => writer.attribute(&UserHash::new(username.as_str(), &challenge.realm)),
            false => writer.attribute(&username),
        };
        // What the server said goes back as it came.
        let echo = |kind, value| RawAttribute { kind, value };
        writer
            .attribute(&echo(AttributeType::REALM, challenge.realm.as_bytes()))
            .attribute(&echo(AttributeType::NONCE, challenge.nonce.as_bytes()));
        match &challenge.offer {
            None => writer.integrity(&challenge.key),
            Some(offer) => writer
                .attribute(&echo(AttributeType::PASSWORD_ALGORITHMS, &offer.list))
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
    /// Reads what a challenge offers, and chooses the first algorithm that is known. A nonce that
    /// announces a choice without one in the message was tampered with, to bid the algorithm down.
    /// A list that is so long that its request might fit into no message is no offer.
    /// See RFC 8489 §9.2.5.
    fn of(reply: &Message<'_>, cookie: Option<NonceCookie>) -> Result<Option<Self>, NotAChallenge> {
        let offered = reply.attribute::<PasswordAlgorithms<'_>>();
        let Some(offered) = offered.map_err(|_| NotAChallenge)? else {
            return match is_bid_down(reply, cookie) {
                true => Err(NotAChallenge),
                false => Ok(None),
            };
        };
        let choice = offered.algorithms().flatten().next().ok_or(NotAChallenge)?;
        let range = reply.value_range(AttributeType::PASSWORD_ALGORITHMS);
        let list = range.and_then(|range| reply.as_bytes().get(range));
        let list = list.filter(|list| list.len() <= LIST_BYTES_MAX);
        let list = list.ok_or(NotAChallenge)?.to_vec();
        Ok(Some(Self { list, choice }))
    }
}

/// Tells whether a reply announces password algorithms in its nonce and then has none. See RFC 8489
/// §9.2.5.
pub(super) fn is_bid_down(reply: &Message<'_>, cookie: Option<NonceCookie>) -> bool {
    cookie.is_some_and(|cookie| cookie.password_algorithms)
        && !reply.has(AttributeType::PASSWORD_ALGORITHMS)
}

/// See RFC 8489 §18.5.1.
fn key_of(offer: Option<&Offer>, username: &str, realm: &str, password: &str) -> Key {
    match offer.map(|offer| offer.choice) {
        Some(PasswordAlgorithm::Sha256) => Key::long_term_sha256(username, realm, password),
        _ => Key::long_term(username, realm, password),
    }
}

/// Room for many more algorithms than there are. See RFC 8489 §18.5.
const LIST_BYTES_MAX: usize = 256;
