//! `tombolo turn --import`: makes a configuration of coturn one of ours, and says of every line what
//! became of it. Values are never shown, since some are secrets.

mod draft;
mod line;
mod machine;
mod options;
mod peers;
mod range;

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use tombolo_relay::Certificates;

use super::file::File;
use crate::config_text::alike;
use crate::output::{Output, Style};
use draft::Draft;
use line::{Length, Line};
pub(crate) use machine::Machine;
use options::{Handling, Refused};

/// What became of a line.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fate", rename_all = "kebab-case")]
pub(crate) enum Fate {
    /// It says the same here under this key.
    Taken {
        r#as: &'static str,
        #[serde(skip_serializing_if = "str::is_empty")]
        note: &'static str,
    },
    /// It is so anyway, or of no use here.
    NotNeeded { because: &'static str },
    /// It asks for what cannot be had.
    NotSupported { because: &'static str },
    /// It makes no sense.
    Invalid { because: String },
}

/// A line of the file and its fate.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub(crate) line: usize,
    pub(crate) option: String,
    #[serde(flatten)]
    pub(crate) fate: Fate,
}

/// What a file of coturn became.
pub(crate) struct Import {
    pub(crate) entries: Vec<Entry>,
    /// What is to be said beyond single lines.
    pub(crate) notes: Vec<String>,
    pub(crate) file: File,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Line(&'a Entry),
    Note {
        text: &'a str,
    },
    Imported {
        taken: usize,
        not_needed: usize,
        not_supported: usize,
        invalid: usize,
    },
}

/// How many lines had each fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) taken: usize,
    pub(crate) not_needed: usize,
    pub(crate) not_supported: usize,
    pub(crate) invalid: usize,
}

impl Import {
    /// Reads a configuration of coturn.
    pub(crate) fn read(path: &Path, machine: &Machine) -> anyhow::Result<Self> {
        let cannot = || format!("{}: cannot read it", path.display());
        let bytes = fs::metadata(path).with_context(cannot)?.len();
        anyhow::ensure!(
            bytes <= FILE_BYTES_MAX,
            "{}: larger than {FILE_BYTES_MAX} bytes",
            path.display()
        );
        let bytes = fs::read(path).with_context(cannot)?;
        let mut import = Self::of(&String::from_utf8_lossy(&bytes), machine);
        // Relative paths are seen from where the file is, as coturn has it.
        let directory = std::path::absolute(path)?;
        let directory = directory.parent().unwrap_or_else(|| Path::new("/"));
        for file in [&mut import.file.tls.certificate, &mut import.file.tls.key] {
            *file = file.take().map(|path| directory.join(path));
        }
        import.look_at_key();
        Ok(import)
    }

    /// Says that there is no DTLS, which coturn has with any key.
    fn look_at_key(&mut self) {
        let tls = &self.file.tls;
        if let (Some(certificate), Some(key), None | Some(true)) =
            (&tls.certificate, &tls.key, tls.dtls)
            && let Ok(certificates) = Certificates::from_pem_files(certificate.clone(), key.clone())
            && !certificates.has_dtls()
        {
            self.notes.push(
                "no DTLS with this pkey: it needs a key on the curve P-256 or P-384".to_owned(),
            );
        }
    }

    pub(crate) fn of(text: &str, machine: &Machine) -> Self {
        let mut draft = Draft::default();
        let entries = line::lines(text)
            .map(|line| Entry {
                line: line.number,
                option: options::find(line.option)
                    .map_or(UNKNOWN, |_| line.option)
                    .to_owned(),
                fate: fate(&mut draft, &line),
            })
            .collect();
        let (file, notes) = draft.finish(machine);
        Self {
            entries,
            notes,
            file,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for entry in &self.entries {
            match entry.fate {
                Fate::Taken { .. } => counts.taken += 1,
                Fate::NotNeeded { .. } => counts.not_needed += 1,
                Fate::NotSupported { .. } => counts.not_supported += 1,
                Fate::Invalid { .. } => counts.invalid += 1,
            }
        }
        counts
    }

    /// Says what became of each line.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn tell(&self, style: Style, to: Output) -> anyhow::Result<()> {
        let json = |event: &Event<'_>| to.json(event);
        let line_of_text = |line: &str| to.line_of_text(line);
        let counts = self.counts();
        match style {
            Style::Json => {
                for entry in &self.entries {
                    json(&Event::Line(entry))?;
                }
                for text in &self.notes {
                    json(&Event::Note { text })?;
                }
                json(&Event::Imported {
                    taken: counts.taken,
                    not_needed: counts.not_needed,
                    not_supported: counts.not_supported,
                    invalid: counts.invalid,
                })?;
            }
            Style::Person => {
                for entry in &self.entries {
                    line_of_text(&entry.to_string())?;
                }
                for note in &self.notes {
                    line_of_text(&format!("note: {note}"))?;
                }
                line_of_text(&format!(
                    "{} taken, {} not needed, {} not supported, {} invalid",
                    counts.taken, counts.not_needed, counts.not_supported, counts.invalid
                ))?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}: ", self.line, self.option)?;
        match &self.fate {
            Fate::Taken { r#as, note: "" } => write!(f, "taken as {}", r#as),
            Fate::Taken { r#as, note } => write!(f, "taken as {}; {note}", r#as),
            Fate::NotNeeded { because } => write!(f, "not needed: {because}"),
            Fate::NotSupported { because } => write!(f, "not supported: {because}"),
            Fate::Invalid { because } => write!(f, "invalid: {because}"),
        }
    }
}

fn fate(draft: &mut Draft, line: &Line<'_>) -> Fate {
    let invalid = |because: &str| Fate::Invalid {
        because: because.to_owned(),
    };
    if line.length == Length::Cut {
        return invalid("the line is longer than 1023 bytes, and coturn would cut it");
    }
    let Some(handling) = options::find(line.option) else {
        let meant = alike(line.option, options::names());
        let meant = meant.map(|name| format!("; did you mean {name}?"));
        return invalid(&format!(
            "coturn has no such option{}",
            meant.unwrap_or_default()
        ));
    };
    match handling {
        Handling::Taken(take) => match take(draft, line.value) {
            Ok(taken) => Fate::Taken {
                r#as: taken.key,
                note: taken.note,
            },
            Err(Refused::Invalid(because)) => Fate::Invalid { because },
            Err(Refused::NotSupported(because)) => Fate::NotSupported { because },
        },
        Handling::NotNeeded(because) => Fate::NotNeeded { because },
        Handling::NotSupported(because) => Fate::NotSupported { because },
        Handling::Flag(_) | Handling::FlagNotSupported(_) => match (is_on(line.value), handling) {
            (Some(true), Handling::Flag(set)) => {
                let taken = set(draft);
                Fate::Taken {
                    r#as: taken.key,
                    note: taken.note,
                }
            }
            (Some(true), Handling::FlagNotSupported(because)) => Fate::NotSupported { because },
            (Some(_), _) => Fate::NotNeeded {
                because: "it is off",
            },
            (None, _) => invalid("neither on nor off"),
        },
    }
}

/// Whether a flag is on, by the rules of coturn; `None` where it would not start.
fn is_on(value: &str) -> Option<bool> {
    match value.bytes().next() {
        None | Some(b'1'..=b'9' | b'y' | b'Y' | b't' | b'T') => Some(true),
        Some(b'0' | b'n' | b'N' | b'f' | b'F') => Some(false),
        Some(_) if ["on", "On", "ON"].contains(&value) => Some(true),
        Some(_) if ["off", "Off", "OFF"].contains(&value) => Some(false),
        Some(_) => None,
    }
}

/// More than any configuration has.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Stands for what is no option, which may be a secret.
const UNKNOWN: &str = "?";

#[cfg(test)]
mod tests;
