//! What is only lent: the device's token, and its credentials at the relay.
//!
//! Both are renewed by one question to the node, which carries the token: before the first of the two
//! expires, and at once when the application has given another token.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tombolo_wire::v1::{ErrorCode, IceServers, RefreshIceServers, request, response};

use crate::device::Shared;

/// What is lent is renewed after this part of the time.
const RENEW_AFTER: f64 = 0.8;
/// No sooner, however short that is.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Before the node is asked again that did not answer, or did not say how long.
const RETRY: Duration = Duration::from_secs(30);

/// Renews the token and the relay's credentials before they expire, until the session is over.
pub(crate) async fn renew(shared: Weak<Shared>, lent: IceServers) {
    let Some(mut given) = shared.upgrade().map(|shared| shared.tokens.watch_given()) else {
        return;
    };
    let mut next = Some(Next::after(&lent));
    drop(lent);
    loop {
        let is_due = wait(next.as_ref(), &mut given).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        if is_due && next.as_ref().is_some_and(|next| next.is_for_token) {
            shared.tokens.handle_expiring();
        }
        next = match ask(shared).await {
            Ok(next) => next,
            Err(Over) => return,
        };
    }
}

/// When to renew.
struct Next {
    after: Duration,
    /// It is the token that would expire else.
    is_for_token: bool,
}

impl Next {
    fn after(lent: &IceServers) -> Self {
        let after = |ttl_s: u32| {
            let ttl = Duration::from_secs(ttl_s.into());
            (ttl_s > 0).then(|| ttl.mul_f64(RENEW_AFTER).max(PAUSE_MIN))
        };
        let credentials = after(lent.ttl_s).unwrap_or(RETRY);
        let token = after(lent.token_ttl_s).filter(|token| *token <= credentials);
        Self {
            after: token.unwrap_or(credentials),
            is_for_token: token.is_some(),
        }
    }

    fn retry() -> Self {
        Self {
            after: RETRY,
            is_for_token: false,
        }
    }
}

/// The session has come to its end.
struct Over;

/// Waits until it is time; false when the application has given another token before.
async fn wait(next: Option<&Next>, given: &mut watch::Receiver<u64>) -> bool {
    let due = async {
        match next {
            Some(next) => tokio::time::sleep(next.after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = due => true,
        // The device keeps the sender.
        _ = given.changed() => false,
    }
}

/// Asks the node; returns when to ask again, `None` when only another token would help.
async fn ask(shared: Arc<Shared>) -> Result<Option<Next>, Over> {
    let (tokens, session, url) = (shared.tokens.clone(), shared.session.clone(), shared.url());
    let weak = Arc::downgrade(&shared);
    // Whoever waits for an answer must not keep the device.
    drop(shared);
    let token = tokens.token_for(&url).await;
    let token = token
        .inspect_err(|error| tracing::warn!(%error, "no newer token yet"))
        .unwrap_or_default();
    let asked = RefreshIceServers {
        token: token.clone(),
    };
    match session.request(request::Kind::IceServers(asked)).await {
        Ok(response::Result::IceServers(servers)) => {
            tokens.handle_acceptance(&token);
            let shared = weak.upgrade().ok_or(Over)?;
            shared.renew_credentials(&servers);
            Ok(Some(Next::after(&servers)))
        }
        Ok(_) => Ok(Some(Next::retry())),
        Err(error) if error.is_closed() => Err(Over),
        Err(error) => {
            tracing::warn!(%error, "relay credentials not renewed yet");
            let is_refused = matches!(
                error.code(),
                Some(ErrorCode::TokenExpired | ErrorCode::TokenInvalid)
            );
            if is_refused {
                tokens.handle_refusal(&token);
            }
            Ok((!is_refused || tokens.has_issuer()).then(Next::retry))
        }
    }
}
