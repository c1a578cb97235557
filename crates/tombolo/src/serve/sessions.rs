//! How sessions are on a node, as its file says.

use std::time::Duration;

use anyhow::{bail, ensure};
use tombolo_node::{Duplicates, SessionConfig};

use super::bounds::set;
use super::file::Sessions;
use super::source::Source;

/// What the file says of sessions, checked; what it does not say is as it is without a file.
pub(super) fn config(table: &Sessions, source: &Source) -> anyhow::Result<SessionConfig> {
    let mut config = SessionConfig::default();
    set_bounds(&mut config, table, source)?;
    set_times(&mut config, table, source)?;
    config.duplicates = match table.duplicates.as_deref() {
        None => config.duplicates,
        Some("replace-disconnected") => Duplicates::ReplaceDisconnected,
        Some("replace-oldest") => Duplicates::ReplaceOldest,
        Some("refuse-newcomer") => Duplicates::RefuseNewcomer,
        Some(_) => bail!(
            "{}: \"replace-disconnected\", \"replace-oldest\" or \"refuse-newcomer\"",
            place(source, "duplicates")
        ),
    };
    Ok(config)
}

fn place(source: &Source, key: &str) -> String {
    source.place(&["sessions", key])
}

fn set_bounds(config: &mut SessionConfig, table: &Sessions, source: &Source) -> anyhow::Result<()> {
    let at = |key: &'static str| move || place(source, key);
    let (sessions, per_user) = (1..=SESSIONS_MAX, 1..=PER_USER_MAX);
    set(
        &mut config.sessions_max,
        table.sessions,
        sessions,
        at("sessions"),
    )?;
    set(
        &mut config.per_user_max,
        table.per_user,
        per_user,
        at("per-user"),
    )?;
    set(
        &mut config.rooms_max,
        table.rooms,
        1..=ROOMS_MAX,
        at("rooms"),
    )?;
    let frames = &mut config.frames_per_second;
    let range = 1..=FRAMES_PER_SECOND_MAX;
    set(
        frames,
        table.frames_per_second,
        range,
        at("frames-per-second"),
    )?;
    let bytes = &mut config.bytes_per_second;
    let range = BYTES_PER_SECOND_MIN..=u32::MAX / 2;
    set(bytes, table.bytes_per_second, range, at("bytes-per-second"))
}

fn set_times(config: &mut SessionConfig, table: &Sessions, source: &Source) -> anyhow::Result<()> {
    let window = seconds(
        table.resume_window,
        RESUME_WINDOW_MIN_S,
        source,
        "resume-window",
    )?;
    let drop_after = seconds(table.drop_after, 0.0, source, "drop-after")?;
    let grace = seconds(table.presence_grace, 0.0, source, "presence-grace")?;
    config.resume_window = window.unwrap_or(config.resume_window);
    config.drop_after = drop_after.unwrap_or(config.drop_after);
    config.presence_grace = grace.unwrap_or(config.presence_grace);
    ensure!(
        config.drop_after <= config.resume_window,
        "{}: at most as long as resume-window, {} seconds",
        place(source, "drop-after"),
        config.resume_window.as_secs_f64()
    );
    Ok(())
}

fn seconds(
    given: Option<f64>,
    least: f64,
    source: &Source,
    key: &str,
) -> anyhow::Result<Option<Duration>> {
    if let Some(given) = given {
        ensure!(
            (least..=TIME_MAX_S).contains(&given),
            "{}: {least} to {TIME_MAX_S} seconds",
            place(source, key)
        );
    }
    Ok(given.map(Duration::from_secs_f64))
}

/// Each takes some tens of kilobytes.
const SESSIONS_MAX: usize = 1_000_000;

/// Nodes tell each other all of a user's sessions at once.
const PER_USER_MAX: usize = 256;

const ROOMS_MAX: usize = 1024;
const FRAMES_PER_SECOND_MAX: u32 = 1_000_000;

/// The largest message fits.
const BYTES_PER_SECOND_MIN: u32 = 65_536;

/// Devices notice after some seconds that they have lost their connection.
const RESUME_WINDOW_MIN_S: f64 = 5.0;
const TIME_MAX_S: f64 = 3600.0;
