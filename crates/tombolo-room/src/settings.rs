//! How a room behaves.

use std::time::Duration;

use crate::message::HISTORY_MAX;

/// The most members that any room takes.
pub const MEMBERS_MAX: u32 = 4096;

/// Longest time that anything in a room can be told to last.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// How a room behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many members it takes, 1 to [`MEMBERS_MAX`].
    pub members_max: u32,
    /// What those who come in must show; `None` when everybody may. Members see [`Password::UNTOLD`].
    pub password: Option<Password>,
    /// Nobody comes in who has no seat kept.
    pub is_locked: bool,
    /// Those who look for rooms don't find it.
    pub is_hidden: bool,
    /// How long the seat of a member whose connection broke is kept; with zero it leaves at once.
    pub seat_kept: Duration,
    /// How long the room outlives its last member.
    pub empty_kept: Duration,
    /// How an owner is found.
    pub owner_policy: OwnerPolicy,
    /// Who may change the room's properties.
    pub writers: Writers,
    /// How many durable messages are kept for those who come later, up to
    /// [`HISTORY_MAX`].
    pub history_max: u32,
}

/// What is to become different about the settings; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    /// See [`Settings::members_max`]; members that are there already stay.
    pub members_max: Option<u32>,
    /// See [`Settings::password`]; `Some(None)` takes it away, and [`Password::UNTOLD`] leaves it.
    pub password: Option<Option<Password>>,
    /// See [`Settings::is_locked`].
    pub is_locked: Option<bool>,
    /// See [`Settings::is_hidden`].
    pub is_hidden: Option<bool>,
    /// See [`Settings::seat_kept`]; seats that are kept already are not touched.
    pub seat_kept: Option<Duration>,
    /// See [`Settings::empty_kept`]; a room that is empty already closes when it has been so for that long.
    pub empty_kept: Option<Duration>,
    /// See [`Settings::owner_policy`].
    pub owner_policy: Option<OwnerPolicy>,
    /// See [`Settings::writers`].
    pub writers: Option<Writers>,
    /// See [`Settings::history_max`].
    pub history_max: Option<u32>,
}

/// A password's SHA-256 under the room's name: the log does not hold the password itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password(pub [u8; 32]);

impl Password {
    /// What members see in place of a room's password: with that itself, whoever is sent away could come back.
    pub const UNTOLD: Self = Self([0; 32]);
}

/// How an owner is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerPolicy {
    /// A present member: when there is none, or it drops or leaves, whoever is reached best, among
    /// equals who came first.
    Automatic,
    /// Who made the room, until it gives it to another. When the owner has gone, or where a server made the
    /// room, whoever claims it.
    Manual,
    /// Nobody.
    None,
}

/// Who may change the room's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Every member, and servers.
    Everybody,
    /// The owner, and servers.
    Owner,
    /// Servers only.
    Server,
}

impl Default for Settings {
    /// 64 members, open to all, seats kept for 30 s, closes with its last member, an owner elected,
    /// properties for everybody, 100 messages.
    fn default() -> Self {
        Self {
            members_max: 64,
            password: None,
            is_locked: false,
            is_hidden: false,
            seat_kept: Duration::from_secs(30),
            empty_kept: Duration::ZERO,
            owner_policy: OwnerPolicy::Automatic,
            writers: Writers::Everybody,
            history_max: 100,
        }
    }
}

impl Settings {
    /// Whether all numbers are within their bounds.
    pub(crate) fn is_good(&self) -> bool {
        (1..=MEMBERS_MAX).contains(&self.members_max)
            && self.seat_kept <= DURATION_MAX
            && self.empty_kept <= DURATION_MAX
            && self.history_max as usize <= HISTORY_MAX
    }

    /// The settings as they are after a change.
    pub(crate) fn changed(&self, change: &SettingsChange) -> Self {
        Self {
            members_max: change.members_max.unwrap_or(self.members_max),
            password: change.password.unwrap_or(self.password),
            is_locked: change.is_locked.unwrap_or(self.is_locked),
            is_hidden: change.is_hidden.unwrap_or(self.is_hidden),
            seat_kept: change.seat_kept.unwrap_or(self.seat_kept),
            empty_kept: change.empty_kept.unwrap_or(self.empty_kept),
            owner_policy: change.owner_policy.unwrap_or(self.owner_policy),
            writers: change.writers.unwrap_or(self.writers),
            history_max: change.history_max.unwrap_or(self.history_max),
        }
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}
