//! How much users may say that is kept, as a node's file says.

use tombolo_node::SocialConfig;

use super::bounds::set;
use super::file::Social;
use super::source::Source;

/// What the file says, checked; what it does not say is as it is without a file.
pub(super) fn config(table: &Social, source: &Source) -> anyhow::Result<SocialConfig> {
    let mut config = SocialConfig::default();
    let place = |key: &'static str| move || source.place(&["social", key]);
    set(
        &mut config.groups_per_user_max,
        table.groups_per_user,
        0..=GROUPS_MAX,
        place("groups-per-user"),
    )?;
    set(
        &mut config.group_bytes_max,
        table.group_bytes,
        GROUP_BYTES_MIN..=GROUP_BYTES_MAX,
        place("group-bytes"),
    )?;
    set(
        &mut config.messages_per_second,
        table.messages_per_second,
        1..=MESSAGES_PER_SECOND_MAX,
        place("messages-per-second"),
    )?;
    set(
        &mut config.message_bytes_per_second,
        table.message_bytes_per_second,
        MESSAGE_BYTES_PER_SECOND_MIN..=MESSAGE_BYTES_PER_SECOND_MAX,
        place("message-bytes-per-second"),
    )?;
    Ok(config)
}

/// A node looks into all of a user's groups when it has as many as it may.
const GROUPS_MAX: usize = 256;

/// What is written to is turned at some four mebibytes.
const GROUP_BYTES_MIN: u64 = 1024 * 1024;

/// As the groups have it.
const GROUP_BYTES_MAX: u64 = 64 * 1024 * 1024;

const MESSAGES_PER_SECOND_MAX: u32 = 100_000;

/// The largest message, with its copy, fits into what may come at once.
const MESSAGE_BYTES_PER_SECOND_MIN: u32 = 1024;
const MESSAGE_BYTES_PER_SECOND_MAX: u32 = 64 * 1024 * 1024;
