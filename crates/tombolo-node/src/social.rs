//! How much users may say that is kept, and how many groups they may make.

use tombolo_services::Config;

/// How much users may say that is kept, and how many groups they may make; see
/// [`NodeBuilder::social`](crate::NodeBuilder::social).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SocialConfig {
    /// Groups that one user has made and that have not ended, over all nodes.
    pub groups_per_user_max: usize,
    /// How many bytes of posts a group keeps beside those of the last segment.
    pub group_bytes_max: u64,
    /// Messages of one user per second, directly and in groups; ten times that at once.
    pub messages_per_second: u32,
    /// Their payload bytes per second; 32 times that at once.
    pub message_bytes_per_second: u32,
}

impl SocialConfig {
    pub(crate) fn apply(&self, config: &mut Config) {
        config.groups_per_user_max = self.groups_per_user_max;
        config.group_bytes_max = self.group_bytes_max;
        config.directs.per_second = self.messages_per_second;
        config.directs.burst = self.messages_per_second.saturating_mul(10);
        config.direct_bytes.per_second = self.message_bytes_per_second;
        config.direct_bytes.burst = self.message_bytes_per_second.saturating_mul(32);
    }
}

impl Default for SocialConfig {
    fn default() -> Self {
        let config = Config::default();
        Self {
            groups_per_user_max: config.groups_per_user_max,
            group_bytes_max: config.group_bytes_max,
            messages_per_second: config.directs.per_second,
            message_bytes_per_second: config.direct_bytes.per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_the_services_have_it() {
        let (before, mut after) = (Config::default(), Config::default());
        SocialConfig::default().apply(&mut after);
        assert_eq!(format!("{before:?}"), format!("{after:?}"));
    }
}
