//! Writing to streams, until it is known how it ended.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use tokio::time::Instant;

use super::api::{self, PublishAnswer};
use super::connection::{Connection, count};
use super::messages::{self, EXPECTED_LAST, EXPECTED_STREAM, MESSAGE_ID};
use super::streams::Shard;
use crate::Unavailable;

/// A message for a stream.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) subject: String,
    pub(super) payload: Bytes,
    pub(super) headers: HeaderMap,
    /// By which it is recognised among all messages of the stream.
    pub(super) operation: String,
    /// The subject's last message; 0 when there is none.
    pub(super) expected: Option<u64>,
    pub(super) to: To,
}

/// What the subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// A log, of which all messages stay for a while.
    Log,
    /// A value, of which only the last message stays.
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteError {
    Conflict,
    Full,
    TooLarge,
    Unavailable,
    Unknown,
}

/// How one attempt ended.
#[derive(Debug)]
enum Attempt {
    Stored(u64),
    /// It lost the race, or the server thinks so.
    Lost,
    /// There is no leader.
    NoLeader,
    /// It may have been stored.
    Unknown,
    Refused(WriteError),
}

/// What a lost race looks like afterwards.
enum Found {
    /// It was won by an attempt of ours whose answer was lost.
    Own(u64),
    Other,
    /// The expectation still holds, as far as the leader knows.
    Nothing,
    /// What was expected was followed by a mark only: this is to be expected instead.
    Mark(u64),
    /// The leader knows less than what was expected: it is new, or none any more, or the servers have lost that.
    Behind,
}

/// Writes; returns the sequence number.
pub(super) async fn write(
    connection: &Connection,
    shard: &Shard,
    mut write: Write,
    hold_max: Duration,
) -> Result<u64, WriteError> {
    let deadline = Instant::now() + hold_max;
    // Whether an attempt may have been stored although no answer came.
    let mut is_unsure = false;
    let failed = |is_unsure| {
        if is_unsure {
            WriteError::Unknown
        } else {
            WriteError::Unavailable
        }
    };
    loop {
        let Ok(pass) = shard.hold.pass(deadline).await else {
            return Err(failed(is_unsure));
        };
        if connection.check().is_err() {
            // Nothing was sent. A connection that is lost for moments is waited for, no longer.
            drop(pass);
            if !is_up_by(connection, deadline.min(Instant::now() + LINK_WAIT)).await {
                return Err(failed(is_unsure));
            }
            continue;
        }
        match attempt(connection, shard, &write).await {
            Attempt::Stored(seq) => {
                shard.hold.open();
                connection.is_well();
                return Ok(seq);
            }
            Attempt::Refused(error) => {
                shard.hold.open();
                return Err(if is_unsure {
                    WriteError::Unknown
                } else {
                    error
                });
            }
            Attempt::NoLeader => {
                count(&connection.counters().no_leader);
                shard.hold.close();
                drop(pass);
                shard.look(connection).await;
                connection.is_in_trouble().await;
            }
            Attempt::Unknown => {
                count(&connection.counters().unknown);
                is_unsure = true;
                drop(pass);
                connection.is_in_trouble().await;
                // Often it is the last attempt that is still being stored.
                tokio::time::sleep(UNKNOWN_PAUSE).await;
            }
            Attempt::Lost => {
                shard.hold.open();
                drop(pass);
                if let Some(end) = on_lost(connection, shard, &mut write, is_unsure, deadline).await
                {
                    return end;
                }
            }
        }
    }
}

/// Finds out how a race was lost; `None` when the write is to be tried again.
async fn on_lost(
    connection: &Connection,
    shard: &Shard,
    write: &mut Write,
    is_unsure: bool,
    deadline: Instant,
) -> Option<Result<u64, WriteError>> {
    let found = find(connection, shard, write).await;
    if let Ok(Found::Behind) = found
        && connection.leader_stale_max.is_some()
        && Instant::now() + BEHIND_PAUSE < deadline
    {
        connection.is_in_trouble().await;
        tokio::time::sleep(BEHIND_PAUSE).await;
        return None;
    }
    connection.is_well();
    match found {
        Ok(Found::Own(seq)) => {
            count(&connection.counters().resolved);
            return Some(Ok(seq));
        }
        // Somebody else has written since, maybe over what we wrote.
        Ok(Found::Other | Found::Behind) if is_unsure => return Some(Err(WriteError::Unknown)),
        Ok(Found::Other | Found::Behind) => return Some(Err(WriteError::Conflict)),
        Ok(Found::Mark(seq)) => write.expected = Some(seq),
        Ok(Found::Nothing) | Err(Unavailable) => tokio::time::sleep(LOST_PAUSE).await,
    }
    None
}

async fn is_up_by(connection: &Connection, deadline: Instant) -> bool {
    let mut link = connection.link();
    let up = link.wait_for(|link| matches!(link, super::connection::Link::Up(_)));
    matches!(tokio::time::timeout_at(deadline, up).await, Ok(Ok(_)))
}

async fn attempt(connection: &Connection, shard: &Shard, write: &Write) -> Attempt {
    let mut headers = write.headers.clone();
    headers.insert(MESSAGE_ID, write.operation.as_str());
    headers.insert(EXPECTED_STREAM, shard.name.as_str());
    if let Some(expected) = write.expected {
        headers.insert(EXPECTED_LAST, expected.to_string().as_str());
    }
    let request = connection.client().request_with_headers(
        write.subject.clone(),
        headers,
        write.payload.clone(),
    );
    let answer = match tokio::time::timeout(connection.request_timeout, request).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return match error.kind() {
                RequestErrorKind::NoResponders => Attempt::NoLeader,
                RequestErrorKind::MaxPayloadExceeded => Attempt::Refused(WriteError::TooLarge),
                RequestErrorKind::InvalidSubject => Attempt::Refused(WriteError::Unavailable),
                RequestErrorKind::TimedOut | RequestErrorKind::Other => Attempt::Unknown,
            };
        }
        Err(_) => return Attempt::Unknown,
    };
    let Ok(answer) = serde_json::from_slice::<PublishAnswer>(&answer.payload) else {
        return Attempt::Unknown;
    };
    let Some(error) = answer.error else {
        // A repetition is answered with the first one's sequence number.
        let is_ours = answer.stream == shard.name && answer.seq > 0;
        return if is_ours {
            Attempt::Stored(answer.seq)
        } else {
            Attempt::Unknown
        };
    };
    match error.err_code {
        api::WRONG_LAST | api::WRONG_LAST_NOW => Attempt::Lost,
        api::ID_IN_PROCESS => Attempt::Unknown,
        api::TOO_LARGE => Attempt::Refused(WriteError::TooLarge),
        code if api::FULL.contains(&code) => Attempt::Refused(WriteError::Full),
        _ if error.code == 503 => Attempt::NoLeader,
        code => {
            let description = error.description;
            tracing::warn!(stream = %shard.name, code, description, "write was refused");
            Attempt::Refused(WriteError::Unavailable)
        }
    }
}

/// Looks at what the leader has in the place of what was lost.
async fn find(connection: &Connection, shard: &Shard, write: &Write) -> Result<Found, Unavailable> {
    let expected = write.expected.unwrap_or_default();
    let (stream, subject) = (shard.name.as_str(), write.subject.as_str());
    if write.to == To::Log
        && let Some(next) = messages::next(connection, stream, subject, expected + 1).await?
    {
        return Ok(if next.is_of(&write.operation) {
            Found::Own(next.seq)
        } else if expected > 0 && next.retired() == Some(expected) {
            Found::Mark(next.seq)
        } else {
            Found::Other
        });
    }
    let last = messages::last(connection, stream, subject).await?;
    let Some(last) = last else {
        return Ok(match write.to {
            _ if expected == 0 => Found::Nothing,
            To::Log => Found::Behind,
            // They end by themselves.
            To::Value => Found::Other,
        });
    };
    Ok(if last.is_of(&write.operation) {
        Found::Own(last.seq)
    } else if last.seq == expected {
        Found::Nothing
    } else if last.seq < expected {
        Found::Behind
    } else if write.to == To::Value && expected == 0 && last.is_deletion() {
        Found::Mark(last.seq)
    } else {
        Found::Other
    })
}

/// Before a write is repeated of which nobody knows how it ended.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);

/// Before a write is repeated whose loss cannot be understood.
const LOST_PAUSE: Duration = Duration::from_millis(20);

/// Before a write is repeated whose leader is behind.
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// How long a write waits for a connection.
const LINK_WAIT: Duration = Duration::from_secs(1);
