//! A match.

use tombolo_wire::UserId;

use crate::word::{BackfillId, MatchId, Name, TicketId};

/// A match that the matcher proposes, or that was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formed {
    /// Which; also where it stands among the pool's claims.
    pub id: MatchId,
    /// The running match that these users join, and at which of its generations.
    pub backfill: Option<(BackfillId, u32)>,
    /// The teams, in the order of the rules; of a running match only who is new.
    pub sides: Vec<Side>,
    /// Where it is best played; `None` without a rule of latency.
    pub region: Option<Name>,
    /// Who reaches most others directly; `None` when nobody reaches anybody.
    pub host: Option<UserId>,
    /// How good it is by the rules, from 0 to 1000.
    pub quality: u16,
    /// Whether its tickets are remembered until it is said whether its users have their seats; not those of logs
    /// from before this could be said.
    pub awaits_seats: bool,
}

/// A team of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// What it is called.
    pub team: Name,
    /// Its parties.
    pub parties: Vec<Party>,
}

/// A ticket that has found its match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Which.
    pub ticket: TicketId,
    /// How often its party had changed when it was matched.
    pub revision: u32,
    /// Its users, in order, and the role of each.
    pub users: Vec<(UserId, Option<Name>)>,
}

impl Formed {
    /// All parties.
    pub fn parties(&self) -> impl Iterator<Item = &Party> {
        self.sides.iter().flat_map(|side| &side.parties)
    }

    /// All users.
    pub fn users(&self) -> impl Iterator<Item = &UserId> {
        let users = self.parties().flat_map(|party| &party.users);
        users.map(|(user, _)| user)
    }
}
