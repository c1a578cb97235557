//! How fields are on a node, as its file says.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tombolo_node::{
    FIELD_SIGHT_RULES_MAX, FieldClass, FieldClassUse, FieldConfig, FieldDimensions,
    FieldSettingsError, FieldSight,
};

use super::file::{self, Fields};
use super::source::Source;

/// What the file says of fields, checked; what it does not say is as it is without a file.
pub(super) fn config(table: &Fields, source: &Source) -> anyhow::Result<FieldConfig> {
    let mut config = FieldConfig::default();
    let place = |key: &str| source.place(&["fields", key]);
    config.dimensions = match table.dimensions {
        None => None,
        Some(2) => Some(FieldDimensions::Two),
        Some(3) => Some(FieldDimensions::Three),
        Some(_) => bail!("{}: 2 or 3", place("dimensions")),
    };
    if let Some(rate) = table.batches_per_second {
        ensure!(
            (1..=BATCHES_PER_SECOND_MAX).contains(&rate),
            "{}: 1 to {BATCHES_PER_SECOND_MAX}",
            place("batches-per-second")
        );
        config.tick = Duration::from_secs(1) / rate;
    }
    if let Some(budget) = table.budget {
        // By default it is as much as a datagram takes.
        let most = config.budget;
        ensure!(
            (BUDGET_MIN..=most).contains(&budget),
            "{}: {BUDGET_MIN} to {most} bytes",
            place("budget")
        );
        config.budget = budget;
    }
    if let Some(silence) = table.silence {
        ensure!(
            (SILENCE_MIN..=SILENCE_MAX).contains(&silence),
            "{}: {SILENCE_MIN} to {SILENCE_MAX} seconds",
            place("silence")
        );
        config.settings.silence = Duration::from_secs(silence);
    }
    if let Some(rate) = table.reports_per_second {
        ensure!(rate > 0, "{}: at least 1", place("reports-per-second"));
        config.reports.per_second = rate;
        config.reports.burst = rate.saturating_mul(REPORTS_BURST_SECONDS);
    }
    for (limit, given, key) in [
        (&mut config.fields_max, table.fields, "fields"),
        (
            &mut config.per_session_max,
            table.per_session,
            "per-session",
        ),
        (&mut config.own_max, table.per_device, "per-device"),
        (&mut config.things_max, table.things, "things"),
    ] {
        if let Some(given) = given {
            ensure!(given <= COUNT_MAX, "{}: at most {COUNT_MAX}", place(key));
            *limit = given;
        }
    }
    config.sight = sight(table).with_context(|| place("sight"))?;
    config.devices = devices(table).with_context(|| place("class"))?;
    settings(table, &mut config);
    let checked = config.settings.check();
    checked.map_err(|error| anyhow::Error::new(error).context(place(key_of(error))))?;
    Ok(config)
}

fn sight(table: &Fields) -> anyhow::Result<Vec<FieldSight>> {
    let rules = &table.sight;
    ensure!(
        rules.len() <= FIELD_SIGHT_RULES_MAX,
        "{FIELD_SIGHT_RULES_MAX} rules at most"
    );
    let rules = rules.iter().map(|rule| {
        let rule = FieldSight {
            of: rule.of,
            same: rule.same,
            at_least: rule.at_least,
            by: rule.by,
        };
        // It would hide everything from everybody.
        ensure!(rule != FieldSight::default(), "a rule names some marks");
        Ok(rule)
    });
    rules.collect()
}

fn devices(table: &Fields) -> anyhow::Result<Vec<FieldClassUse>> {
    let devices = table.classes.iter().map(|class| match class.devices {
        None | Some(file::FieldClassUse::Enter) => FieldClassUse::Enter,
        Some(file::FieldClassUse::Put) => FieldClassUse::Put,
        Some(file::FieldClassUse::Any) => FieldClassUse::Any,
        Some(file::FieldClassUse::None) => FieldClassUse::None,
    });
    let devices: Vec<_> = devices.collect();
    let lets_in =
        |given: &FieldClassUse| matches!(given, FieldClassUse::Enter | FieldClassUse::Any);
    ensure!(
        devices.is_empty() || devices.iter().any(lets_in),
        "devices come in as one of the classes"
    );
    Ok(devices)
}

fn settings(table: &Fields, config: &mut FieldConfig) {
    let settings = &mut config.settings;
    if !table.classes.is_empty() {
        let class = table.classes.iter().map(|class| FieldClass {
            range: class.range,
            weight: class.weight.unwrap_or(1.0),
            linked_within: class.linked_within,
        });
        settings.classes = class.collect();
        let ranges = settings.classes.iter().map(|class| class.range);
        settings.cell = ranges.fold(0.0, f64::max);
    }
    settings.cell = table.cell.unwrap_or(settings.cell);
    settings.hysteresis = table.hysteresis.unwrap_or(settings.hysteresis);
    settings.split_above = table.split_above.unwrap_or(settings.split_above);
    settings.entities_max = table.entities.unwrap_or(settings.entities_max);
}

/// The key that is to blame.
fn key_of(error: FieldSettingsError) -> &'static str {
    match error {
        FieldSettingsError::Hysteresis => "hysteresis",
        FieldSettingsError::Cell => "cell",
        FieldSettingsError::Counts => "entities",
        FieldSettingsError::Classes
        | FieldSettingsError::Range
        | FieldSettingsError::Weight
        | _ => "class",
    }
}

/// A field makes no more than one tick in five milliseconds.
const BATCHES_PER_SECOND_MAX: u32 = 200;

/// The longest record must fit.
const BUDGET_MIN: usize = 256;

/// In seconds: what says nothing new is said again every three.
const SILENCE_MIN: u64 = 5;
const SILENCE_MAX: u64 = 3600;

/// Reports may come late, and then at once.
const REPORTS_BURST_SECONDS: u32 = 5;

/// Of what a node, a session or a device has.
const COUNT_MAX: usize = 1_000_000;
