//! An answer of several messages, which counts only as a whole.

use async_nats::{HeaderMap, Message};

use super::messages::{LAST_SEQUENCE, Stored, stored};
use crate::Unavailable;

/// What of an answer has come. Each message says which one was before it, so that it is noticed when one was lost on
/// the way: by a connection that broke, or by a client that had no place for it.
#[derive(Debug, Default)]
pub(super) struct Batch {
    found: Vec<Stored>,
}

impl Batch {
    /// Takes its next message in; says whether that was the end.
    pub(super) fn take(&mut self, message: Message) -> Result<bool, Unavailable> {
        match message.status.map(|status| status.as_u16()) {
            Some(NOT_FOUND) if self.found.is_empty() => Ok(true),
            Some(END_OF_BATCH) => {
                self.check(message.headers.as_ref())?;
                Ok(true)
            }
            Some(_) => Err(Unavailable),
            None => {
                self.check(message.headers.as_ref())?;
                let stored = stored(message).ok_or(Unavailable)?;
                if self.found.len() >= BATCH_MAX {
                    return Err(Unavailable);
                }
                self.found.push(stored);
                Ok(false)
            }
        }
    }

    /// All that it was.
    pub(super) fn found(self) -> Vec<Stored> {
        self.found
    }

    /// Whether nothing is missing in front of a message with these headers.
    fn check(&self, headers: Option<&HeaderMap>) -> Result<(), Unavailable> {
        let before = headers.and_then(|headers| headers.get(LAST_SEQUENCE));
        let before = before.and_then(|before| before.as_str().parse().ok());
        match before == Some(self.found.last().map_or(0, |last| last.seq)) {
            true => Ok(()),
            false => Err(Unavailable),
        }
    }
}

/// Most messages of one answer.
pub(super) const BATCH_MAX: usize = 256;

const END_OF_BATCH: u16 = 204;
const NOT_FOUND: u16 = 404;

#[cfg(test)]
mod tests {
    use async_nats::StatusCode;

    use super::super::messages::{SEQUENCE, SUBJECT};
    use super::*;

    #[test]
    fn an_answer_of_which_something_is_missing_is_none() {
        let whole = || [stored(3, 0), stored(7, 3), stored(8, 7), end(8)];
        assert_eq!(seqs(whole()), Ok(vec![3, 7, 8]));
        for missing in 0..3 {
            let mut some = whole().to_vec();
            some.remove(missing);
            assert_eq!(seqs(some), Err(Unavailable), "number {missing}");
        }
        assert_eq!(seqs([status(404, None)]), Ok(Vec::new()));
        assert_eq!(seqs([stored(3, 0), status(404, None)]), Err(Unavailable));
        assert_eq!(seqs([status(408, None)]), Err(Unavailable));
        assert_eq!(seqs([status(204, None)]), Err(Unavailable));
    }

    #[test]
    fn more_than_was_asked_for_is_no_answer() {
        let many = (1..).map(|seq| stored(seq, seq - 1));
        assert_eq!(seqs(many.take(BATCH_MAX + 1)), Err(Unavailable));
    }

    fn seqs(messages: impl IntoIterator<Item = Message>) -> Result<Vec<u64>, Unavailable> {
        let mut batch = Batch::default();
        for message in messages {
            if batch.take(message)? {
                return Ok(batch.found().iter().map(|stored| stored.seq).collect());
            }
        }
        panic!("it has no end")
    }

    fn stored(seq: u64, before: u64) -> Message {
        let mut message = message(Some(before));
        let headers = message.headers.get_or_insert_default();
        headers.insert(SUBJECT, "log");
        headers.insert(SEQUENCE, seq.to_string().as_str());
        message
    }

    fn end(before: u64) -> Message {
        status(204, Some(before))
    }

    fn status(code: u16, before: Option<u64>) -> Message {
        Message {
            status: Some(StatusCode::from_u16(code).unwrap()),
            ..message(before)
        }
    }

    fn message(before: Option<u64>) -> Message {
        let headers = before.map(|before| {
            let mut headers = HeaderMap::new();
            headers.insert(LAST_SEQUENCE, before.to_string().as_str());
            headers
        });
        Message {
            subject: "inbox".into(),
            reply: None,
            payload: "".into(),
            headers,
            status: None,
            description: None,
            length: 0,
        }
    }
}
