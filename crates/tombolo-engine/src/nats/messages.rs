//! Reading what streams hold: from the leader, where it must be the newest, or from any replica.

use std::str::FromStr as _;
use std::time::Duration;

use async_nats::header::{HeaderName, HeaderValue};
use async_nats::{HeaderMap, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::api::{self, AskError, Get, GotMessage};
use super::batch::{BATCH_MAX, Batch};
use super::connection::Connection;
use crate::Unavailable;

/// A message of a stream.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) subject: String,
    pub(super) seq: u64,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Stored {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(HeaderValue::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }

    /// By which operation it was written.
    pub(super) fn id(&self) -> Option<&str> {
        self.header(MESSAGE_ID)
    }

    /// Whether it was written by that operation.
    pub(super) fn is_of(&self, operation: &str) -> bool {
        self.id() == Some(operation)
    }

    /// The entry after which it ended its log's use, if it did.
    pub(super) fn retired(&self) -> Option<u64> {
        self.number(RETIRED)
    }

    /// Whether it says that a value was deleted, or has ended.
    pub(super) fn is_deletion(&self) -> bool {
        is_deletion(&self.headers)
    }
}

pub(super) fn is_deletion(headers: &HeaderMap) -> bool {
    headers.get(VALUE_OPERATION).is_some() || headers.get(MARKER).is_some()
}

/// The last message of a subject, as the leader knows it.
pub(super) async fn last(
    connection: &Connection,
    stream: &str,
    subject: &str,
) -> Result<Option<Stored>, Unavailable> {
    let get = Get {
        last_by_subj: Some(subject.to_owned()),
        ..Get::default()
    };
    one(connection, stream, get).await
}

/// The first message of a subject that is at `seq` or later, as the leader knows it.
pub(super) async fn next(
    connection: &Connection,
    stream: &str,
    subject: &str,
    seq: u64,
) -> Result<Option<Stored>, Unavailable> {
    let get = Get {
        seq: Some(seq),
        next_by_subj: Some(subject.to_owned()),
        ..Get::default()
    };
    one(connection, stream, get).await
}

async fn one(
    connection: &Connection,
    stream: &str,
    get: Get,
) -> Result<Option<Stored>, Unavailable> {
    let subject = format!("$JS.API.STREAM.MSG.GET.{stream}");
    match connection.ask::<GotMessage>(subject, &get).await {
        Ok(GotMessage { message }) => {
            let payload = STANDARD.decode(&message.data).map_err(|_| Unavailable)?;
            let headers = STANDARD.decode(&message.hdrs).map_err(|_| Unavailable)?;
            Ok(Some(Stored {
                subject: message.subject,
                seq: message.seq,
                headers: parse_headers(&headers),
                payload: payload.into(),
            }))
        }
        Err(error) if error.code() == Some(api::NO_MESSAGE) => Ok(None),
        Err(AskError::Unavailable | AskError::Refused { .. }) => Err(Unavailable),
    }
}

/// What follows on a subject from `seq` on, from any replica: maybe not the newest, maybe not all.
pub(super) async fn following(
    connection: &Connection,
    stream: &str,
    subject: &str,
    seq: u64,
) -> Result<Vec<Stored>, Unavailable> {
    if !connection.has_batches() {
        // The first one has mostly been read.
        let Some(first) = next(connection, stream, subject, seq).await? else {
            return Ok(Vec::new());
        };
        let second = next(connection, stream, subject, first.seq + 1).await?;
        return Ok([first].into_iter().chain(second).collect());
    }
    let get = Get {
        seq: Some(seq),
        next_by_subj: Some(subject.to_owned()),
        batch: Some(BATCH_MAX),
        max_bytes: Some(BATCH_BYTES_MAX),
        ..Get::default()
    };
    batch(connection, stream, &get).await
}

/// The last messages of several subjects, from any replica: maybe not the newest.
pub(super) async fn last_of(
    connection: &Connection,
    stream: &str,
    subjects: &[String],
) -> Result<Vec<Stored>, Unavailable> {
    if !connection.has_batches() {
        let mut found = Vec::new();
        for subject in subjects {
            found.extend(last(connection, stream, subject).await?);
        }
        return Ok(found);
    }
    let get = Get {
        multi_last: Some(subjects.to_vec()),
        batch: Some(subjects.len()),
        ..Get::default()
    };
    batch(connection, stream, &get).await
}

/// Asks once and collects the answers.
async fn batch(
    connection: &Connection,
    stream: &str,
    get: &Get,
) -> Result<Vec<Stored>, Unavailable> {
    connection.check()?;
    let mut answer = connection.expect_answer();
    let body = serde_json::to_vec(get).expect("it has only texts and numbers");
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let client = connection.client();
    let asked = client.publish_with_reply(subject, answer.subject.clone(), body.into());
    connection.within(asked).await?;
    let mut batch = Batch::default();
    loop {
        let next = tokio::time::timeout(connection.request_timeout, answer.next()).await;
        let Ok(Some(message)) = next else {
            return Err(Unavailable);
        };
        if batch.take(message)? {
            return Ok(batch.found());
        }
    }
}

/// A message that tells in its headers where it is: one got from a replica, or a republished one.
pub(super) fn stored(message: Message) -> Option<Stored> {
    let headers = message.headers?;
    let subject = headers.get(SUBJECT)?.as_str().to_owned();
    let seq = headers.get(SEQUENCE)?.as_str().parse().ok()?;
    Some(Stored {
        subject,
        seq,
        headers,
        payload: message.payload,
    })
}

/// Reads headers as they are stored; those that are none are left out.
fn parse_headers(bytes: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = String::from_utf8_lossy(bytes);
    for line in text.split("\r\n").skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_str(name),
            HeaderValue::from_str(value.trim()),
        ) {
            headers.append(name, value);
        }
    }
    headers
}

pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
pub(super) const STREAM: &str = "Nats-Stream";
pub(super) const SUBJECT: &str = "Nats-Subject";
pub(super) const SEQUENCE: &str = "Nats-Sequence";
pub(super) const LAST_SEQUENCE: &str = "Nats-Last-Sequence";
pub(super) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
pub(super) const EXPECTED_STREAM: &str = "Nats-Expected-Stream";
pub(super) const TIME_TO_LIVE: &str = "Nats-TTL";
pub(super) const VALUE_OPERATION: &str = "KV-Operation";
/// The server's own word that a value has ended.
const MARKER: &str = "Nats-Marker-Reason";
/// Ours: the last entry of a log that was retired.
pub(super) const RETIRED: &str = "Tombolo-Retired";

/// About how much they hold.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Between two attempts to read what a replica does not have yet, at first and at last.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(20);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_headers_are_read_and_what_is_none_is_left_out() {
        let text = "NATS/1.0\r\nNats-Msg-Id: a/b:c\r\nnone\r\nTombolo-Retired:7\r\n\r\n";
        let headers = parse_headers(text.as_bytes());
        assert_eq!(
            headers.get(MESSAGE_ID).map(HeaderValue::as_str),
            Some("a/b:c")
        );
        assert_eq!(headers.get(RETIRED).map(HeaderValue::as_str), Some("7"));
        assert_eq!(headers.len(), 2);
        assert!(parse_headers(&[0xff, b'\r', b'\n', 0xff, b':']).len() <= 1);
        assert!(parse_headers(b"").is_empty());
    }
}
