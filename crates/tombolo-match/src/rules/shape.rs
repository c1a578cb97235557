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
    /// How that falls away with the wait of the longest waiting ticket.
    pub multiple_relax: Relax,
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
    /// How the most become more with it.
    pub grow: Relax,
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
    /// How the fewest become fewer with the wait of the longest waiting ticket.
    pub relax: Relax,
}

impl Shape {
    /// The most users that a match may ever have.
    #[must_use]
    pub fn players_max(&self) -> u32 {
        self.teams.iter().map(Team::max_ever).sum()
    }

    /// The users of a match in which nobody is missing: teams that may be larger by now need not be.
    pub(crate) fn players_full(&self) -> u32 {
        self.teams.iter().map(|team| team.max).sum()
    }

    /// Whether nobody is missing in teams of so many: that one has grown fills no other.
    pub(crate) fn is_full(&self, mut sizes: impl Iterator<Item = u32>) -> bool {
        let mut teams = self.teams.iter();
        teams.all(|team| sizes.next().unwrap_or_default() >= team.max)
    }

    /// The users of a match in which nobody is missing, as a multiple of what it must be.
    pub(crate) fn players_most(&self) -> u32 {
        self.players_full() / self.multiple * self.multiple
    }

    /// Whether so many users are the multiple that they must be when the oldest ticket has waited so long.
    pub(crate) fn is_multiple(&self, users: u32, waited: Duration) -> bool {
        let multiple = f64::from(self.multiple);
        self.multiple_relax.at(multiple, waited).is_none() || users.is_multiple_of(self.multiple)
    }

    /// The wait after which less is asked of a match next, whoever is in it.
    pub(crate) fn next_change(&self, waited: Duration) -> Option<Duration> {
        let teams = self.teams.iter().flat_map(|team| {
            let own = [(&team.relax, team.min), (&team.grow, team.max)];
            let roles = team.roles.iter().map(|role| (&role.relax, role.min));
            own.into_iter().chain(roles)
        });
        let all = teams.chain([(&self.multiple_relax, self.multiple)]);
        let changes = all.filter_map(|(relax, base)| relax.next_change(base.into(), waited));
        changes.min()
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

    /// The most users that one team may ever have.
    #[must_use]
    pub fn team_max(&self) -> u32 {
        self.teams.iter().map(Team::max_ever).max().unwrap_or(0)
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

    /// The most users of the team when the oldest ticket has waited so long.
    #[must_use]
    pub fn max_at(&self, waited: Duration) -> u32 {
        // Checked when it was read: whole, and never without a limit.
        let max = self.grow.at(f64::from(self.max), waited);
        max.map_or(self.max, |max| max as u32)
    }

    /// The most users that the team may ever have.
    #[must_use]
    pub fn max_ever(&self) -> u32 {
        self.max_at(Duration::MAX)
    }

    /// Whether what its roles need, or how many it takes, changes with the wait.
    pub(crate) fn relaxes(&self) -> bool {
        let mut roles = self.roles.iter();
        !self.grow.is_never() || roles.any(|role| !role.relax.is_never())
    }
}

impl Role {
    /// The fewest that must be it when the oldest ticket has waited so long.
    #[must_use]
    pub fn min_at(&self, waited: Duration) -> u32 {
        let min = self.relax.at(f64::from(self.min), waited);
        min.map_or(0, |min| min as u32)
    }
}
