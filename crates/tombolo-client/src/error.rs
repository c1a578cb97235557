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
    /// What was asked for may have been done.
    is_unsure: bool,
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

    /// Nobody knows whether it was done: the answer did not come, and it may still be done later. Anything
    /// else says that it was not done.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        self.is_unsure
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

    /// Whether it was not done, and would not be if it was asked for again.
    pub(crate) fn is_final(&self) -> bool {
        !self.is_temporary() && !self.is_unsure
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
        Self::new(Kind::Local, what.to_string())
    }

    pub(crate) fn full(what: impl fmt::Display) -> Self {
        Self::new(Kind::Full, format!("too much waits for the node: {what}"))
    }

    pub(crate) fn unreachable(url: &ServerUrl, why: &str) -> Self {
        let hint = if url.pin.is_none()
            && UNKNOWN_CERTIFICATES.iter().any(|what| why.contains(what))
        {
            "; the URL pins no certificate, and the node's is none that the web knows: use the URL \
             that the node prints, with ?pin="
        } else {
            ""
        };
        let message = format!("cannot reach the node at {}: {why}{hint}", url.authority());
        Self::new(Kind::Unreachable, message)
    }

    /// The node began a new session before it answered.
    pub(crate) fn forgotten() -> Self {
        let message = "the node forgot the session before it answered: try again";
        Self {
            is_unsure: true,
            ..Self::new(Kind::Unreachable, message.to_owned())
        }
    }

    /// The session ended before the answer came.
    pub(crate) fn unanswered() -> Self {
        Self {
            is_unsure: true,
            ..Self::closed("the session is over")
        }
    }

    /// The end of something that must not be done twice and may have been done: the same is not to be tried again.
    pub(crate) fn into_unsure(self) -> Self {
        let kind = match self.kind {
            Kind::Closed => Kind::Closed,
            Kind::Local | Kind::Unreachable | Kind::Token | Kind::Refused(_) | Kind::Full => {
                Kind::Refused(ErrorCode::Unsure)
            }
        };
        Self {
            kind,
            message: format!("nobody knows whether it was done: {}", self.message),
            is_unsure: true,
        }
    }

    pub(crate) fn token(why: &str) -> Self {
        Self::new(Kind::Token, format!("no device token: {why}"))
    }

    pub(crate) fn refused(code: i32, message: &str) -> Self {
        let code = ErrorCode::try_from(code).unwrap_or(ErrorCode::Unspecified);
        let name = code
            .as_str_name()
            .trim_start_matches("ERROR_CODE_")
            .to_lowercase();
        Self {
            is_unsure: code == ErrorCode::Unsure,
            ..Self::new(
                Kind::Refused(code),
                format!("the node refused ({name}): {message}"),
            )
        }
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(Kind::Closed, what.to_owned())
    }

    fn new(kind: Kind, message: String) -> Self {
        Self {
            kind,
            message,
            is_unsure: false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// How TLS calls certificates that nobody known vouches for, also those that vouch for themselves. Only text comes
/// through QUIC and WebSocket.
const UNKNOWN_CERTIFICATES: [&str; 2] = ["UnknownIssuer", "CaUsedAsEndEntity"];

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
