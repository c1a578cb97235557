//! Why a device is turned away.

use tombolo_wire::v1::{self, ErrorCode};

/// A connection is refused, or ended by the node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Reject {
    /// What devices and scripts go by.
    pub code: ErrorCode,
    /// What a person reads.
    pub message: String,
    /// URLs of nodes to connect to instead, the best first.
    pub nodes: Vec<String>,
}

impl Reject {
    pub(crate) fn new(code: ErrorCode, message: impl ToString) -> Self {
        Self {
            code,
            message: message.to_string(),
            nodes: Vec::new(),
        }
    }
}

impl From<&Reject> for v1::Reject {
    fn from(reject: &Reject) -> Self {
        Self {
            code: reject.code.into(),
            message: reject.message.clone(),
            nodes: reject.nodes.clone(),
        }
    }
}

impl From<&Reject> for v1::ServerFrame {
    /// The last frame on the connection.
    fn from(reject: &Reject) -> Self {
        let body = v1::server_frame::Body::Reject(reject.into());
        Self {
            body: Some(body),
            ..Self::default()
        }
    }
}
