//! What can go wrong, as an application sees it.

use std::fmt;
use std::time::Duration;

use tombolo_wire::ServerUrl;
use tombolo_wire::v1::ErrorCode;

/// An operation failed. Ask the `is_*` methods what to do about it; the text is for people.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Unreachable,
    Token,
    Refused(ErrorCode),
    /// As much waits for the node as may.
    Full,
    Closed,
}

impl Error {
    /// The node could not be reached; trying again later may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        self.kind == Kind::Unreachable
    }

    /// The token was refused, or none could be had.
    #[must_use]
    pub fn is_token(&self) -> bool {
        matches!(
            self.kind,
            Kind::Token | Kind::Refused(ErrorCode::TokenInvalid | ErrorCode::TokenExpired)
        )
    }

    /// The session, room or link is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.kind == Kind::Closed
    }

    /// The node's reason, when it refused.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self.kind {
            Kind::Refused(code) => Some(code),
            Kind::Local | Kind::Unreachable | Kind::Token | Kind::Full | Kind::Closed => None,
        }
    }

    /// Whether the same may succeed later: the node is away, busy, or being left, or has much to take in.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.retry_after().is_some()
    }

    /// When to try again at the soonest; `None` when the same will fail again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            Kind::Unreachable => Some(Duration::from_secs(1)),
            Kind::Refused(ErrorCode::Unavailable) => Some(Duration::from_millis(500)),
            Kind::Refused(ErrorCode::Limit) => Some(Duration::from_secs(1)),
            Kind::Full => Some(Duration::from_millis(100)),
            Kind::Refused(_) | Kind::Local | Kind::Token | Kind::Closed => None,
        }
    }

    pub(crate) fn local(what: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Local,
            message: what.to_string(),
        }
    }

    pub(crate) fn full(what: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Full,
            message: format!("too much waits for the node: {what}"),
        }
    }

    pub(crate) fn unreachable(url: &ServerUrl, why: &str) -> Self {
        let hint = if url.pin.is_none() && why.contains(UNKNOWN_ISSUER) {
            "; the URL pins no certificate, and the node's is none that the web knows: use the URL \
             that the node prints, with ?pin="
        } else {
            ""
        };
        let message = format!("cannot reach the node at {}: {why}{hint}", url.authority());
        Self {
            kind: Kind::Unreachable,
            message,
        }
    }

    /// The node began a new session before it answered.
    pub(crate) fn forgotten() -> Self {
        Self {
            kind: Kind::Unreachable,
            message: "the node forgot the session before it answered: try again".to_owned(),
        }
    }

    pub(crate) fn token(why: &str) -> Self {
        Self {
            kind: Kind::Token,
            message: format!("no device token: {why}"),
        }
    }

    pub(crate) fn refused(code: i32, message: &str) -> Self {
        let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Unspecified);
        let name = code
            .as_str_name()
            .trim_start_matches("ERROR_CODE_")
            .to_lowercase();
        Self {
            kind: Kind::Refused(code),
            message: format!("the node refused ({name}): {message}"),
        }
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self {
            kind: Kind::Closed,
            message: what.to_owned(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// How TLS calls a certificate that nobody known vouches for. Only text comes through QUIC and WebSocket.
const UNKNOWN_ISSUER: &str = "UnknownIssuer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_the_web_does_not_know_is_explained_unless_one_was_pinned() {
        let why = "WebSocket: invalid peer certificate: UnknownIssuer";
        let plain: ServerUrl = "tombolo://192.0.2.1:8443".parse().unwrap();
        let told = Error::unreachable(&plain, why).to_string();
        assert!(told.contains("the URL pins no certificate"), "{told}");
        let told = Error::unreachable(&plain, "no answer").to_string();
        assert!(!told.contains("pin"), "{told}");
        let pin = "A".repeat(43);
        let pinned: ServerUrl = format!("tombolo://192.0.2.1:8443?pin={pin}")
            .parse()
            .unwrap();
        let told = Error::unreachable(&pinned, why).to_string();
        assert!(!told.contains("pins"), "{told}");
    }
}
