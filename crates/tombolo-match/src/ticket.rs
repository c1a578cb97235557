//! Who looks for a match.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tombolo_wire::{NodeId, UserId};

use crate::query::Query;
use crate::value::{Value, ValueError};
use crate::word::{Name, SessionId, TicketId};

/// The most users of one party.
pub const PARTY_MAX: usize = 64;

/// The most attributes of one user.
pub const ATTRIBUTES_MAX: usize = 32;

/// The most tags of one ticket.
pub const TAGS_MAX: usize = 32;

/// What a query sees a ticket's tags as: no attribute is called so.
pub(crate) const TAGS: &str = "tags";

/// The most roles that one user says it plays.
pub const ROLES_MAX: usize = 16;

/// The most users that one user does not want to meet.
pub const BLOCKS_MAX: usize = 256;

/// The longest time for which a user may be away from its ticket.
pub const GRACE_MAX: Duration = Duration::from_secs(10 * 60);

/// One party that looks for a match.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    /// Which.
    pub id: TicketId,
    /// Its users, the leader first; 1 to [`PARTY_MAX`], all in one team.
    pub players: Vec<Player>,
    /// What the ticket is marked with; a query sees them as the list `tags`.
    pub tags: BTreeSet<Name>,
    /// What the others must be like, beside the pool's rules.
    pub query: Query,
    /// Those with more come first.
    pub priority: i8,
    /// How long a user whose connection broke may be away; the ticket waits on, but is not matched
    /// meanwhile.
    pub grace: Duration,
}

/// One user of a party.
#[derive(Clone, Debug, PartialEq)]
pub struct Player {
    /// Who.
    pub user: UserId,
    /// What it is like.
    pub attributes: BTreeMap<Name, Value>,
    /// The roles that it plays, the dearest first; any when there are none.
    pub roles: Vec<Name>,
    /// What is known of its network.
    pub reach: Reach,
    /// Whom it does not want to meet.
    pub blocks: Vec<UserId>,
    /// Which of its devices is told; `None` when nobody is.
    pub device: Option<Device>,
}

/// Where a user's device is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its session.
    pub session: SessionId,
    /// The node that holds the session.
    pub node: NodeId,
    /// Which of the node's lives; later ones are greater.
    pub incarnation: u64,
}

/// How a device is reached by others, from the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// No NAT, or one that lets everybody in.
    Open,
    /// A NAT with one mapping for all, that lets in addresses that were sent to.
    Restricted,
    /// The same, but it lets in only ports that were sent to.
    PortRestricted,
    /// A NAT with another mapping for each peer.
    Symmetric,
    /// Nothing but the relay works.
    Relayed,
    /// Nobody has measured it; it is treated as [`Reach::Symmetric`].
    #[default]
    Unknown,
}

/// Why a ticket is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// None, or more than [`PARTY_MAX`], or more than a team of the pool takes.
    #[error("a party has 1 to {max} users here")]
    Party {
        /// The most.
        max: usize,
    },
    /// One user twice.
    #[error("{user} is in the party twice")]
    Twice {
        /// Who.
        user: UserId,
    },
    /// More attributes, tags, roles or blocks than are allowed.
    #[error("a ticket has too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
    /// An attribute's value breaks a limit.
    #[error("attribute {attribute}: {error}")]
    Value {
        /// Which.
        attribute: Name,
        /// How.
        error: ValueError,
    },
    /// An attribute is not of the kind that the pool, or another user of the party, has.
    #[error("attribute {attribute} is to be a {expected}")]
    Kind {
        /// Which.
        attribute: Name,
        /// What it is to be.
        expected: &'static str,
    },
    /// A rule of the pool needs an attribute, and there is no default.
    #[error("attribute {attribute} is missing")]
    Missing {
        /// Which.
        attribute: Name,
    },
    /// A role that no team of the pool has.
    #[error("nobody plays {role} here")]
    Role {
        /// Which.
        role: Name,
    },
    /// There is no team in which all of the party have a role.
    #[error("no team has a role for each of the party")]
    Cast,
    /// A longer grace than [`GRACE_MAX`].
    #[error("the grace period is longer than 10 minutes")]
    Grace,
}

impl Ticket {
    /// A ticket of users without tags, query, priority or grace.
    #[must_use]
    pub fn new(id: TicketId, players: Vec<Player>) -> Self {
        Self {
            id,
            players,
            tags: BTreeSet::new(),
            query: Query::default(),
            priority: 0,
            grace: Duration::ZERO,
        }
    }

    /// Whether a user is in its party.
    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.players.iter().any(|player| player.user == *user)
    }

    /// How one of its users is reached.
    #[must_use]
    pub fn reach_of(&self, user: &UserId) -> Reach {
        let player = self.players.iter().find(|player| player.user == *user);
        player.map_or(Reach::Unknown, |player| player.reach)
    }

    /// The devices of its users.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &Device> {
        let players = self.players.iter();
        players.filter_map(|player| player.device.as_ref())
    }

    /// About how many bytes it has when it is kept, rather more than less.
    #[must_use]
    pub fn weight(&self) -> usize {
        let tags = self.tags.iter().map(|tag| tag.as_str().len() + 2);
        let players = self.players.iter().map(Player::weight);
        TICKET_BYTES + self.query.as_str().len() + tags.sum::<usize>() + players.sum::<usize>()
    }

    /// Whether it keeps the limits that all pools have.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self) -> Result<(), TicketError> {
        if self.tags.len() > TAGS_MAX {
            return Err(TicketError::TooMany { what: "tags" });
        }
        if self.grace > GRACE_MAX {
            return Err(TicketError::Grace);
        }
        check_party(&self.players)
    }
}

impl Player {
    /// A user of whom nothing is known.
    #[must_use]
    pub fn new(user: UserId) -> Self {
        Self {
            user,
            attributes: BTreeMap::new(),
            roles: Vec::new(),
            reach: Reach::Unknown,
            blocks: Vec::new(),
            device: None,
        }
    }

    /// See [`Ticket::weight`].
    pub(crate) fn weight(&self) -> usize {
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(name, value)| name.as_str().len() + value.weight() + 6);
        let roles = self.roles.iter().map(|role| role.as_str().len() + 2);
        let blocks = self.blocks.iter().map(|user| user.as_str().len() + 2);
        let device = self.device.as_ref();
        PLAYER_BYTES
            + self.user.as_str().len()
            + attributes.sum::<usize>()
            + roles.sum::<usize>()
            + blocks.sum::<usize>()
            + device.map_or(0, |device| DEVICE_BYTES + device.node.as_str().len())
    }

    /// The user with an attribute more.
    #[must_use]
    pub fn with(mut self, attribute: Name, value: Value) -> Self {
        self.attributes.insert(attribute, value);
        self
    }
}

impl Reach {
    /// All, from the best.
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Relayed,
        Self::Unknown,
    ];

    /// The property of a member of a party's room in which its device says how it is reached.
    pub const PROPERTY: &'static str = "tombolo-reach";

    /// What it is called.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Restricted => "restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Relayed => "relayed",
            Self::Unknown => "unknown",
        }
    }

    /// What is called so; what is called otherwise nobody knows.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        let all = Self::ALL.into_iter();
        let mut named = all.filter(|reach| reach.as_str() == name);
        named.next().unwrap_or_default()
    }

    /// Whether two devices will have a direct path. A mapping for each peer cannot be guessed by a
    /// peer whose NAT asks for the right port.
    #[must_use]
    pub fn is_direct_with(self, other: Self) -> bool {
        let (best, worst) = {
            let (a, b) = (self.rank(), other.rank());
            (a.min(b), a.max(b))
        };
        match worst {
            0..=2 => true,
            3 => best <= 1,
            _ => false,
        }
    }

    /// Where it stands, from the best; what is unknown is as good as symmetric.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Restricted => 1,
            Self::PortRestricted => 2,
            Self::Symmetric | Self::Unknown => 3,
            Self::Relayed => 4,
        }
    }
}

pub(crate) fn check_party(players: &[Player]) -> Result<(), TicketError> {
    if players.is_empty() || players.len() > PARTY_MAX {
        return Err(TicketError::Party { max: PARTY_MAX });
    }
    let mut users = BTreeSet::new();
    for player in players {
        if !users.insert(&player.user) {
            let user = player.user.clone();
            return Err(TicketError::Twice { user });
        }
        check_player(player)?;
    }
    Ok(())
}

fn check_player(player: &Player) -> Result<(), TicketError> {
    let counts = [
        (player.attributes.len(), ATTRIBUTES_MAX, "attributes"),
        (player.roles.len(), ROLES_MAX, "roles"),
        (player.blocks.len(), BLOCKS_MAX, "blocked users"),
    ];
    for (count, max, what) in counts {
        if count > max {
            return Err(TicketError::TooMany { what });
        }
    }
    for (attribute, value) in &player.attributes {
        value.check().map_err(|error| TicketError::Value {
            attribute: attribute.clone(),
            error,
        })?;
    }
    Ok(())
}

/// What the encoding of a ticket, a user and a device has beside what varies.
const TICKET_BYTES: usize = 80;
const PLAYER_BYTES: usize = 12;
const DEVICE_BYTES: usize = 34;
