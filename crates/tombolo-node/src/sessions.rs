//! How sessions are on a node.

use std::time::Duration;

use tombolo_services::{Config, Duplicates};

/// How sessions are on a node; see [`NodeBuilder::sessions`](crate::NodeBuilder::sessions).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SessionConfig {
    /// Sessions on this node.
    pub sessions_max: usize,
    /// Sessions of one user, over all nodes: one for each of its devices.
    pub per_user_max: usize,
    /// What becomes of a further session of a user that has as many as it may.
    pub duplicates: Duplicates,
    /// Rooms that a session may be a member of.
    pub rooms_max: usize,
    /// How long a session outlives its connection.
    pub resume_window: Duration,
    /// After how long without a connection its rooms are told that it is dropped.
    pub drop_after: Duration,
    /// How long a user has no connection before others see it as offline.
    pub presence_grace: Duration,
    /// Frames from one user per second, messages, introductions and requests alike; twice that at once.
    pub frames_per_second: u32,
    /// Their payload bytes per second; twice that at once.
    pub bytes_per_second: u32,
}

impl SessionConfig {
    pub(crate) fn apply(&self, config: &mut Config) {
        config.sessions_max = self.sessions_max;
        config.sessions_per_user_max = self.per_user_max;
        // All of a user's devices may come back at once, each after it was looked for in vain.
        let hellos = u32::try_from(self.per_user_max.saturating_mul(2)).unwrap_or(u32::MAX);
        config.hellos.burst = config.hellos.burst.max(hellos);
        config.moves.burst = config.moves.burst.max(hellos);
        config.duplicates = self.duplicates;
        config.rooms_per_session_max = self.rooms_max;
        config.resume_window = self.resume_window;
        config.drop_after = self.drop_after;
        config.presence_grace = self.presence_grace;
        config.rate.frames_per_second = self.frames_per_second;
        config.rate.frames_burst = self.frames_per_second.saturating_mul(2);
        config.rate.bytes_per_second = self.bytes_per_second;
        config.rate.bytes_burst = self.bytes_per_second.saturating_mul(2);
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        let config = Config::default();
        Self {
            sessions_max: config.sessions_max,
            per_user_max: config.sessions_per_user_max,
            duplicates: config.duplicates,
            rooms_max: config.rooms_per_session_max,
            resume_window: config.resume_window,
            drop_after: config.drop_after,
            presence_grace: config.presence_grace,
            frames_per_second: config.rate.frames_per_second,
            bytes_per_second: config.rate.bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_services_have_it() {
        let (before, mut after) = (Config::default(), Config::default());
        SessionConfig::default().apply(&mut after);
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }
}
