//! Teams.

use std::time::Duration;

use super::Relax;
use crate::word::Name;

/// The most users of one match.
pub const PLAYERS_MAX: u32 = 1000;

/// The most teams of one match.
pub const TEAMS_MAX: usize = 128;

/// The most roles of one team.
pub const TEAM_ROLES_MAX: usize = 16;

/// Which teams a match has.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// At least one; those that a quantity asked for have a number behind their name.
    pub teams: Vec<Team>,
    /// The number of users is a multiple of this.
    pub multiple: u32,
}

/// One team.
#[derive(Clone, Debug, PartialEq)]
pub struct Team {
    /// What it is called.
    pub name: Name,
    /// The fewest users.
    pub min: u32,
    /// The most users.
    pub max: u32,
    /// How the fewest become fewer with the wait of the longest waiting ticket.
    pub relax: Relax,
    /// Roles of which each user must have one; none when there are none.
    pub roles: Vec<Role>,
}

/// What a user is in its team.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// What it is called.
    pub name: Name,
    /// The fewest that must be it.
    pub min: u32,
    /// The most that may be it.
    pub max: u32,
}

impl Shape {
    /// The most users of a match.
    #[must_use]
    pub fn players_max(&self) -> u32 {
        self.teams.iter().map(|team| team.max).sum()
    }

    /// The same, as a multiple of what it must be.
    pub(crate) fn players_most(&self) -> u32 {
        self.players_max() / self.multiple * self.multiple
    }

    /// The fewest users of a match whose oldest ticket has waited so long.
    #[must_use]
    pub fn players_min(&self, waited: Duration) -> u32 {
        self.teams.iter().map(|team| team.min_at(waited)).sum()
    }

    /// The fewest users that a match may ever have.
    pub(crate) fn players_least(&self) -> u32 {
        self.players_min(Duration::MAX).max(2)
    }

    /// The most users of one team.
    #[must_use]
    pub fn team_max(&self) -> u32 {
        self.teams.iter().map(|team| team.max).max().unwrap_or(0)
    }
}

impl Team {
    /// The fewest users of the team when the oldest ticket has waited so long.
    #[must_use]
    pub fn min_at(&self, waited: Duration) -> u32 {
        // Checked when it was read: whole, and at least 1.
        self.relax
            .at(f64::from(self.min), waited)
            .map_or(1, |min| min as u32)
    }
}
