use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use tombolo_wire::token::KeySet;

use super::super::bandwidth::Bandwidth;
use super::super::ledger::Quota;
use super::oauth::{OAuth, Opener};
use super::secrets::Secrets;
use super::tokens::Tokens;
use super::users::Users;

/// A realm: who may come in under its name, and with which clients it is used.
///
/// Credentials of one realm are nothing in another one. Start from [`Realm::new`] and set what
/// differs; without any source of credentials nobody comes in.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Realm {
    /// Its name on the wire. Every byte of it is in each challenge, so keep it short; at most 127
    /// characters (RFC 8489 §14.9).
    pub name: String,
    /// Users with passwords that do not expire, password by username.
    pub users: BTreeMap<String, String>,
    /// Users of whom only the key is known: the MD5 over username, realm and password (RFC 8489
    /// §18.5.1.1), key by username. They cannot use SHA-256; a password of `users` goes first.
    pub users_by_key: BTreeMap<String, [u8; 16]>,
    /// Secrets of time-limited credentials; the first that fits counts, so that a secret can be
    /// replaced while credentials of the old one are still around. None: no such credentials.
    pub secrets: Vec<Vec<u8>>,
    /// What stands between expiry and user in a username of time-limited credentials. `None`: a colon.
    pub secrets_separator: Option<char>,
    /// Keys of device tokens. A token is used as username `HEADER.PAYLOAD` with its signature as
    /// password; only HS256 keys can serve here. None: no such credentials.
    pub device_keys: KeySet,
    /// An authorization server whose tokens are good here. See RFC 7635.
    pub oauth: Option<OAuth>,
    /// Whether the driver is asked about users that no other source knows.
    pub hook: HookMode,
    /// What all of its users together may have in the shard.
    pub quota: Quota,
    /// What each of its users may have. Where it has no bound,
    /// [`Limits::per_user`](super::super::Limits::per_user) holds.
    pub per_user: Quota,
    /// Payload through each allocation of its users, in place of
    /// [`Limits::bandwidth`](super::super::Limits::bandwidth).
    pub bandwidth: Option<Bandwidth>,
    /// TCP connections to peers of all of its users together that are being made or wait for their
    /// client. `None`: no bound but that of the shard.
    pub connections_waiting_max: Option<usize>,
    /// Values of the ORIGIN attribute whose senders are challenged with this realm, such as
    /// `https://example.org`.
    pub origins: Vec<String>,
    /// Addresses of the server whose clients are challenged with this realm; the port 0 stands
    /// for every port.
    pub listen: Vec<SocketAddr>,
}

/// Whether the driver is asked about users. See [`Command::Authenticate`].
///
/// [`Command::Authenticate`]: super::super::Command::Authenticate
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HookMode {
    /// Never: whom no other source knows is refused.
    #[default]
    Off,
    /// About every user whom no other source knows.
    Unknown,
}

impl Realm {
    /// The longest name with which a challenge over UDP has at most 2.2 times the bytes of what a usual
    /// client sends first: an Allocate with REQUESTED-TRANSPORT and nothing else.
    pub const NAME_BYTES_BRIEF: usize = 8;

    /// Makes a realm in which nobody has credentials yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// Shows no secret.
impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Realm")
            .field("name", &self.name)
            .field("users", &(self.users.len() + self.users_by_key.len()))
            .field("secrets", &self.secrets.len())
            .field("device_keys", &self.device_keys)
            .field("oauth", &self.oauth)
            .field("hook", &self.hook)
            .field("origins", &self.origins)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// A realm with its keys made.
pub(super) struct Chamber {
    pub(super) id: RealmId,
    pub(super) name: String,
    pub(super) users: Users,
    pub(super) secrets: Secrets,
    pub(super) tokens: Tokens,
    pub(super) oauth: Option<Opener>,
    pub(super) hook: HookMode,
    pub(super) quota: Quota,
    pub(super) per_user: Quota,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) connections_waiting_max: Option<usize>,
    origins: Vec<String>,
    listen: Vec<SocketAddr>,
}

impl Chamber {
    pub(super) fn new(id: RealmId, realm: &Realm) -> Self {
        Self {
            id,
            name: realm.name.clone(),
            users: Users::new(realm),
            secrets: Secrets::new(&realm.secrets, realm.secrets_separator),
            tokens: Tokens::new(&realm.device_keys),
            oauth: realm.oauth.as_ref().map(Opener::new),
            hook: realm.hook,
            quota: realm.quota,
            per_user: realm.per_user,
            bandwidth: realm.bandwidth,
            connections_waiting_max: realm.connections_waiting_max,
            origins: realm.origins.clone(),
            listen: realm.listen.clone(),
        }
    }

    /// Tells whether every user of the realm can be found by the hash of its name. Then clients may
    /// be told to hide their names.
    pub(super) fn lists_all_users(&self) -> bool {
        self.secrets.is_empty()
            && self.tokens.is_empty()
            && self.oauth.is_none()
            && self.hook == HookMode::Off
    }

    pub(super) fn is_for_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|one| one == origin)
    }

    pub(super) fn is_for_listener(&self, server: SocketAddr) -> bool {
        self.listen
            .iter()
            .any(|one| one.ip() == server.ip() && (one.port() == 0 || one.port() == server.port()))
    }
}

/// Names a realm inside one server, over all of its configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RealmId(u16);

/// The names that realms have had, so that a realm is the same one after a new configuration.
#[derive(Debug, Default)]
pub(super) struct RealmNames(Vec<String>);

impl RealmNames {
    /// Returns the identifier of a name; `None` once there have been 65,536 of them.
    pub(super) fn id_of(&mut self, name: &str) -> Option<RealmId> {
        let known = self.0.iter().position(|one| one == name);
        let index = known.unwrap_or(self.0.len());
        let id = RealmId(u16::try_from(index).ok()?);
        if known.is_none() {
            self.0.push(name.to_owned());
        }
        Some(id)
    }

    pub(super) fn name_of(&self, id: RealmId) -> &str {
        self.0.get(usize::from(id.0)).map_or("", String::as_str)
    }
}
