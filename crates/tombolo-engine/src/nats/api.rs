//! JetStream's questions and answers, as far as they are asked here.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::connection::Connection;
use crate::Unavailable;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// No answer came: what was asked for may have been done.
    #[error("no answer")]
    Unavailable,
    /// The server refused.
    #[error("{description} ({code})")]
    Refused {
        /// JetStream's own code.
        code: u32,
        description: String,
    },
}

impl From<Unavailable> for AskError {
    fn from(Unavailable: Unavailable) -> Self {
        Self::Unavailable
    }
}

impl AskError {
    pub(super) fn code(&self) -> Option<u32> {
        match self {
            Self::Unavailable => None,
            Self::Refused { code, .. } => Some(*code),
        }
    }
}

/// What an answer says when it is none.
#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    #[serde(default)]
    pub(super) code: u32,
    #[serde(default)]
    pub(super) err_code: u32,
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Debug, Deserialize)]
struct Failure {
    error: ErrorBody,
}

/// Asks, and reads the answer.
pub(super) async fn ask<T: DeserializeOwned>(
    connection: &Connection,
    subject: String,
    body: &impl Serialize,
) -> Result<T, AskError> {
    let body = serde_json::to_vec(body).expect("these bodies have only texts and numbers");
    // Some questions must say nothing.
    let body = if body == b"null" {
        Bytes::new()
    } else {
        Bytes::from(body)
    };
    let request = connection.client().request(subject, body);
    let answer = connection.within(request).await?;
    if let Ok(Failure { error }) = serde_json::from_slice(&answer.payload) {
        return Err(AskError::Refused {
            code: error.err_code,
            description: error.description,
        });
    }
    serde_json::from_slice(&answer.payload).map_err(|error| {
        connection
            .counters()
            .unreadable
            .fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, "NATS gave an answer that cannot be read");
        AskError::Unavailable
    })
}

/// How a stream is made.
#[derive(Debug, Default, Serialize)]
pub(super) struct StreamConfig {
    pub(super) name: String,
    pub(super) description: &'static str,
    pub(super) subjects: Vec<String>,
    pub(super) retention: &'static str,
    pub(super) storage: &'static str,
    pub(super) discard: &'static str,
    pub(super) num_replicas: usize,
    pub(super) max_msgs_per_subject: i64,
    /// In nanoseconds; 0 keeps for ever.
    pub(super) max_age: u64,
    pub(super) duplicate_window: u64,
    pub(super) allow_direct: bool,
    pub(super) allow_rollup_hdrs: bool,
    pub(super) deny_delete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) republish: Option<Republish>,
    /// Servers before 2.11 don't know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allow_msg_ttl: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject_delete_marker_ttl: Option<u64>,
}

/// What a stream tells of what it stores, and where.
#[derive(Debug, Serialize)]
pub(super) struct Republish {
    pub(super) src: String,
    pub(super) dest: String,
}

/// What is told of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct StreamInfo {
    pub(super) config: FoundConfig,
    #[serde(default)]
    pub(super) state: StreamState,
}

/// What a stream holds.
#[derive(Debug, Default, Deserialize)]
pub(super) struct StreamState {
    #[serde(default)]
    pub(super) bytes: u64,
}

/// How a stream was made, as far as it matters.
#[derive(Debug, Deserialize)]
pub(super) struct FoundConfig {
    #[serde(default)]
    pub(super) subjects: Vec<String>,
    #[serde(default)]
    pub(super) num_replicas: usize,
    #[serde(default)]
    pub(super) max_age: u64,
}

/// What nobody reads of an answer.
#[derive(Debug, Deserialize)]
pub(super) struct Ignored {}

/// Removes messages of a subject, older than `seq`.
#[derive(Debug, Serialize)]
pub(super) struct Purge {
    pub(super) filter: String,
    pub(super) seq: u64,
}

/// Asks for a message, or for several.
#[derive(Debug, Default, Serialize)]
pub(super) struct Get {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_by_subj: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_by_subj: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) multi_last: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_bytes: Option<usize>,
}

/// A message as a stream's leader gives it.
#[derive(Debug, Deserialize)]
pub(super) struct GotMessage {
    pub(super) message: Got,
}

/// Its parts; headers and payload in base64.
#[derive(Debug, Deserialize)]
pub(super) struct Got {
    pub(super) subject: String,
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) hdrs: String,
    #[serde(default)]
    pub(super) data: String,
}

/// The answer to a message for a stream.
#[derive(Debug, Deserialize)]
pub(super) struct PublishAnswer {
    pub(super) error: Option<ErrorBody>,
    #[serde(default)]
    pub(super) stream: String,
    #[serde(default)]
    pub(super) seq: u64,
}

/// Makes a consumer.
#[derive(Debug, Serialize)]
pub(super) struct CreateConsumer<'a> {
    pub(super) stream_name: &'a str,
    pub(super) config: ConsumerConfig<'a>,
}

/// One that pushes, keeps no state on disk and wants no acknowledgements.
#[derive(Debug, Serialize)]
pub(super) struct ConsumerConfig<'a> {
    pub(super) name: &'a str,
    pub(super) deliver_subject: &'a str,
    pub(super) deliver_policy: &'static str,
    pub(super) ack_policy: &'static str,
    pub(super) max_deliver: i64,
    pub(super) filter_subject: &'a str,
    pub(super) flow_control: bool,
    pub(super) idle_heartbeat: u64,
    pub(super) inactive_threshold: u64,
    pub(super) num_replicas: usize,
    pub(super) mem_storage: bool,
}

/// What is told of a consumer.
#[derive(Debug, Deserialize)]
pub(super) struct ConsumerInfo {
    #[serde(default)]
    pub(super) num_pending: u64,
}

/// There is no such message.
pub(super) const NO_MESSAGE: u32 = 10037;
/// There is no such stream.
pub(super) const NO_STREAM: u32 = 10059;
/// There is another stream of the name.
pub(super) const NAME_IN_USE: u32 = 10058;
/// The message would be too large.
pub(super) const TOO_LARGE: u32 = 10054;
/// The subject has another last message.
pub(super) const WRONG_LAST: u32 = 10071;
/// The same, or the subject is just being written, or the leader is new.
pub(super) const WRONG_LAST_NOW: u32 = 10164;
/// Another message with the same id is just being written.
pub(super) const ID_IN_PROCESS: u32 = 10158;
/// The stream holds as much as it may; the server holds as much as it may.
pub(super) const FULL: [u32; 3] = [10077, 10047, 10023];
