//! How far a log was read, and whether it is still the log that was read.
//!
//! Servers that come back with what they had earlier, as after a loss of power or from a backup, give numbers
//! again that they gave before. So a reader remembers not only the number of the last message, but also which
//! message that was.

use super::messages::Stored;

/// The last message of a log that was read, marks included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Its number; 0 when none was read.
    pub(super) seq: u64,
    /// Its id, if that is known.
    id: Option<String>,
    /// Whether it is the mark of a retired log, which goes away by itself.
    pub(super) is_mark: bool,
}

impl Cursor {
    pub(super) fn at(seq: u64) -> Self {
        Self {
            seq,
            ..Self::default()
        }
    }

    pub(super) fn of(stored: &Stored) -> Self {
        Self {
            seq: stored.seq,
            id: stored.id().map(str::to_owned),
            is_mark: stored.retired().is_some(),
        }
    }

    /// Takes in which message it is, if that was not known.
    pub(super) fn learn(&mut self, found: &Stored) {
        if found.seq == self.seq && self.id.is_none() {
            *self = Self::of(found);
        }
    }

    /// Whether a message with its number is another one.
    pub(super) fn is_other(&self, found: &Stored) -> bool {
        self.id.as_deref().is_some_and(|id| found.id() != Some(id))
    }

    /// Whether the log is void although there is no snapshot of it that was not read, since the first message from
    /// the cursor on is this one.
    pub(super) fn is_void(&self, found: &Stored) -> bool {
        if found.seq == self.seq {
            return self.is_other(found);
        }
        // Marks go, and let everything go that was before them.
        self.seq != 0 && !self.is_mark && found.retired().is_none()
    }
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::super::messages::{MESSAGE_ID, RETIRED};
    use super::*;

    #[test]
    fn a_log_is_void_when_what_was_read_is_gone_or_another_without_a_mark() {
        let read = Cursor::of(&stored(7, "a", None));
        for (seq, id, retired, is_void) in [
            (7, "a", None, false),
            (7, "b", None, true),
            (8, "b", None, true),
            (8, "b", Some("7"), false),
        ] {
            let found = stored(seq, id, retired);
            assert_eq!(read.is_void(&found), is_void, "{seq} {id}");
        }
        let unknown = Cursor::at(7);
        assert!(!unknown.is_void(&stored(7, "b", None)));
        assert!(unknown.is_void(&stored(8, "b", None)));
        let mark = Cursor::of(&stored(8, "a", Some("7")));
        assert!(!mark.is_void(&stored(9, "b", None)));
        assert!(!Cursor::default().is_void(&stored(3, "a", None)));
    }

    fn stored(seq: u64, id: &str, retired: Option<&str>) -> Stored {
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, id);
        if let Some(retired) = retired {
            headers.insert(RETIRED, retired);
        }
        Stored {
            subject: String::new(),
            seq,
            headers,
            payload: "".into(),
        }
    }
}
