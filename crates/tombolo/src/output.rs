//! Standard output: events as JSON, or lines for people; standard error for complaints.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tombolo_client::ErrorCode;

/// How a command speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Json,
    Person,
}

impl Style {
    pub(crate) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Person }
    }
}

#[derive(Serialize)]
struct Line<'a, E> {
    t: f64,
    #[serde(flatten)]
    event: &'a E,
}

/// Where a command speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Standard,
    Error,
}

impl Output {
    /// Writes one event as a line of JSON, with the time.
    ///
    /// # Errors
    /// When it is closed.
    pub(crate) fn json<E: Serialize>(self, event: &E) -> io::Result<()> {
        let t = (unix_now().as_secs_f64() * 1e6).round() / 1e6;
        let line = serde_json::to_string(&Line { t, event })?;
        self.line_of_text(&line)
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When it is closed.
    pub(crate) fn line_of_text(self, line: &str) -> io::Result<()> {
        if self == Self::Error {
            return writeln!(io::stderr().lock(), "{line}");
        }
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        stdout.flush()
    }
}

/// Writes one event to standard output as a line of JSON, with the time.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn json<E: Serialize>(event: &E) -> io::Result<()> {
    Output::Standard.json(event)
}

/// Writes one line to standard output.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn line_of_text(line: &str) -> io::Result<()> {
    Output::Standard.line_of_text(line)
}

/// What others say must not control a terminal, nor begin lines that nobody has written.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || SEPARATORS.contains(&letter) || has_direction(letter) {
            printable.extend(letter.escape_debug());
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// Whether a letter turns the order around in which others are shown (UAX #9, explicit formatting and implicit marks).
fn has_direction(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Lines and paragraphs end there, which are no control characters.
const SEPARATORS: [char; 2] = ['\u{2028}', '\u{2029}'];

/// Writes why a command failed.
pub(crate) fn complain(error: &anyhow::Error) {
    complain_of(&format!("{error:#}"));
}

/// Writes what is wrong to standard error, in one line: nodes and peers may have said some of it.
pub(crate) fn complain_of(what: &str) {
    // With standard error closed there is nobody to tell.
    _ = writeln!(io::stderr().lock(), "{}", complaint(what));
}

fn complaint(what: &str) -> String {
    format!("tombolo: {}", printable(what))
}

/// Ends the process when standard output cannot be written to: whoever read it, as `head` does, has read enough.
pub(crate) fn end_unheard(error: io::Error) -> ! {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    complain(&anyhow::Error::new(error).context("standard output"));
    std::process::exit(1);
}

/// A code as the contract names it, in small letters.
pub(crate) fn code_word(code: ErrorCode) -> String {
    let name = code.as_str_name().trim_start_matches("ERROR_CODE_");
    name.to_lowercase()
}

/// So many of something, for people.
pub(crate) fn counted<N: Display + PartialEq + From<u8>>(number: N, what: &str) -> String {
    let ending = if number == N::from(1) { "" } else { "s" };
    format!("{number} {what}{ending}")
}

/// Time since 1970.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// Milliseconds with three decimals.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_controls_no_terminal_and_stays_readable() {
        let said = "\x1b]0;mine\x07\x1b[2J\u{9b}2J\r\n  1.0  forged \"καφές\" ไทย é";
        let printable = printable(said);
        assert!(!printable.chars().any(char::is_control), "{printable}");
        assert!(printable.ends_with("forged \"καφές\" ไทย é"), "{printable}");
    }

    #[test]
    fn what_others_say_turns_no_line_around_nor_begins_one() {
        for letter in "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2028}\u{2029}\u{2066}\u{2067}\u{2068}\u{2069}".chars() {
            let escaped = printable(&format!("user{letter}txt.exe"));
            assert_eq!(escaped, format!("user{}txt.exe", letter.escape_unicode()));
        }
        // Letters that are read from the right are shown so by themselves.
        assert_eq!(printable("שלום"), "שלום");
    }

    #[test]
    fn a_complaint_is_one_line() {
        let said = complaint("refused: no\ntombolo: all is well\r\n");
        assert_eq!(said, r"tombolo: refused: no\ntombolo: all is well\r\n");
    }
}
