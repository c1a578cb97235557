//! The members of a group, or of a part of it.
//!
//! A roster takes [`MEMBERS_MAX`] users and then splits, once, into [`PARTS`] rosters with logs of their
//! own, and so on: a tree in which every user has one path, by the hash of its name. What a split roster
//! held is settled from then on, so whoever first needs a part of it can fill that part from there
//! ([`Body::Seeded`]), and of several who do, all say the same. A join costs as much in a group of
//! millions as in one of ten, and no snapshot is larger than one roster.
//!
//! Who acts on a member must have a more powerful role; that is looked at here, where the member's
//! role is. Whether the actor's role allows such an act at all its node has looked up before.

mod entry;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use tombolo_wire::UserId;

use crate::word::{OperationId, Time, hash};

/// The most members and banned users of a roster.
pub const MEMBERS_MAX: usize = 4096;

/// Into how many parts a roster splits.
pub const PARTS: u8 = 16;

/// How often there can be a split on a user's path.
pub const DEPTH_MAX: usize = 15;

/// One entry of a roster's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Finds an entry again that somebody waits for.
    pub operation: OperationId,
    /// The clock of the node that appended it.
    pub time: Time,
    /// Whose role allows it; `None` for what a user does to itself, and what nodes do.
    pub by: Option<Actor>,
    /// What is to change.
    pub body: Body,
}

/// A member that acts on others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Who.
    pub user: UserId,
    /// Its role's number.
    pub role: u32,
}

/// What an entry wants to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// What is in it from the beginning.
    Seeded(Seed),
    /// A user becomes a member.
    Joined {
        /// Who.
        user: UserId,
        /// As what.
        role: u32,
    },
    /// A member goes.
    Left(UserId),
    /// A member is sent away.
    Removed(UserId),
    /// A user is sent away if it is here, and does not get in again.
    Banned(UserId),
    /// A user may get in again.
    Unbanned(UserId),
    /// A member has another role.
    RoleSet {
        /// Who.
        user: UserId,
        /// Which.
        role: u32,
    },
    /// Its members are in its parts from now on.
    Split,
}

/// What a roster begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seed {
    /// Its members.
    pub members: BTreeMap<UserId, Member>,
    /// Who does not get in.
    pub banned: BTreeSet<UserId>,
}

/// How a user is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The role's number: smaller ones are more powerful.
    pub role: u32,
    /// Since when.
    pub since: Time,
}

/// Why an entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// It is not known yet what is in it.
    #[error("roster has not begun")]
    Unseeded,
    /// The users of this roster are in its parts.
    #[error("roster has been split")]
    Split,
    /// It must be split first.
    #[error("roster is full")]
    Full,
    /// It is too small to be split.
    #[error("roster has room")]
    Small,
    /// The user is a member.
    #[error("user is a member already")]
    Member,
    /// The user is no member.
    #[error("user is no member")]
    NotMember,
    /// The user may not get in.
    #[error("user is banned from the group")]
    Banned,
    /// The member's role is as powerful as the actor's, or the new one would be.
    #[error("member's role is too powerful for that")]
    Rank,
    /// The owner cannot leave as such.
    #[error("owner must hand the group over before it leaves")]
    Owner,
}

/// The members of a group, or of a part of it; see the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    is_seeded: bool,
    is_split: bool,
    clock: Time,
    seed: Seed,
    revision: u64,
}

impl Roster {
    /// A roster whose log has no entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies the log's next entry.
    ///
    /// # Errors
    /// When it changes nothing.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Illegal> {
        self.clock = self.clock.max(entry.time);
        if let Body::Seeded(seed) = &entry.body {
            if !self.is_seeded {
                self.is_seeded = true;
                self.seed = seed.clone();
                self.revision += 1;
            }
            return Ok(());
        }
        if !self.is_seeded {
            return Err(Illegal::Unseeded);
        }
        if self.is_split {
            return if entry.body == Body::Split {
                Ok(())
            } else {
                Err(Illegal::Split)
            };
        }
        let before = self.revision;
        self.revision += 1;
        self.act(entry.by.as_ref(), &entry.body)
            .inspect_err(|_| self.revision = before)
    }

    /// Whether it is known what is in it.
    #[must_use]
    pub fn is_seeded(&self) -> bool {
        self.is_seeded
    }

    /// Whether its users are in its parts.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.is_split
    }

    /// How a user is a member.
    #[must_use]
    pub fn member(&self, user: &UserId) -> Option<Member> {
        self.seed.members.get(user).copied()
    }

    /// Whether a user may not get in.
    #[must_use]
    pub fn is_banned(&self, user: &UserId) -> bool {
        self.seed.banned.contains(user)
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seed.members.len()
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seed.members.is_empty()
    }

    /// The members in the order of their names, after one or from the first.
    pub fn members_after<'a>(
        &'a self,
        after: Option<&UserId>,
    ) -> impl Iterator<Item = (&'a UserId, Member)> + use<'a> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.clone()));
        let members = self.seed.members.range((from, Bound::Unbounded));
        members.map(|(user, member)| (user, *member))
    }

    /// How often it has changed.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What one of its parts begins with, `depth` splits from the root.
    #[must_use]
    pub fn part(&self, depth: usize, number: u8) -> Seed {
        let is_in = |user: &UserId| part_of(user, depth) == number;
        let members = self.seed.members.iter().filter(|(user, _)| is_in(user));
        let banned = self.seed.banned.iter().filter(|user| is_in(user));
        Seed {
            members: members
                .map(|(user, member)| (user.clone(), *member))
                .collect(),
            banned: banned.cloned().collect(),
        }
    }

    fn act(&mut self, by: Option<&Actor>, body: &Body) -> Result<(), Illegal> {
        match body {
            Body::Joined { user, role } => self.join(user, *role),
            Body::Left(user) => {
                let member = self.member(user).ok_or(Illegal::NotMember)?;
                if member.role == OWNER {
                    return Err(Illegal::Owner);
                }
                self.seed.members.remove(user);
                Ok(())
            }
            Body::Removed(user) => {
                self.outranks(by, self.member(user).ok_or(Illegal::NotMember)?)?;
                self.seed.members.remove(user);
                Ok(())
            }
            Body::Banned(user) => {
                match self.member(user) {
                    Some(member) => self.outranks(by, member)?,
                    None if self.is_full() && !self.is_banned(user) => return Err(Illegal::Full),
                    None => {}
                }
                self.seed.members.remove(user);
                self.seed.banned.insert(user.clone());
                Ok(())
            }
            Body::Unbanned(user) => {
                self.seed.banned.remove(user);
                Ok(())
            }
            Body::RoleSet { user, role } => self.set_role(by, user, *role),
            Body::Split if self.is_full() => {
                self.is_split = true;
                Ok(())
            }
            Body::Split => Err(Illegal::Small),
            Body::Seeded(_) => Ok(()),
        }
    }

    fn join(&mut self, user: &UserId, role: u32) -> Result<(), Illegal> {
        if self.seed.members.contains_key(user) {
            return Err(Illegal::Member);
        }
        if self.is_banned(user) {
            return Err(Illegal::Banned);
        }
        if self.is_full() {
            return Err(Illegal::Full);
        }
        let since = self.clock;
        self.seed
            .members
            .insert(user.clone(), Member { role, since });
        Ok(())
    }

    fn set_role(&mut self, by: Option<&Actor>, user: &UserId, role: u32) -> Result<(), Illegal> {
        let member = self.member(user).ok_or(Illegal::NotMember)?;
        if let Some(by) = by {
            let steps_down = by.user == *user && role >= member.role;
            if !steps_down {
                self.outranks(Some(by), member)?;
                // Only owners make others as powerful as they are.
                if role <= by.role && by.role != OWNER {
                    return Err(Illegal::Rank);
                }
            }
        }
        self.seed
            .members
            .insert(user.clone(), Member { role, ..member });
        Ok(())
    }

    fn outranks(&self, by: Option<&Actor>, member: Member) -> Result<(), Illegal> {
        match by {
            Some(by) if by.role >= member.role => Err(Illegal::Rank),
            Some(_) | None => Ok(()),
        }
    }

    fn is_full(&self) -> bool {
        self.seed.members.len() + self.seed.banned.len() >= MEMBERS_MAX
    }
}

/// In which part of a roster a user is, `depth` splits from the root.
#[must_use]
pub fn part_of(user: &UserId, depth: usize) -> u8 {
    let hash = hash(user.as_str());
    ((hash >> (4 * (depth % 16))) & 0xf) as u8
}

/// The number of the owner's role.
const OWNER: u32 = 0;
