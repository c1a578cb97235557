//! What reaches the user wherever it is: direct messages.

mod direct;
mod feed;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_wire::v1::{self, direct_response, social_event, social_request, social_response};

use direct::InboxState;
pub use direct::{Direct, DirectHistory, DirectMessage, DirectSent, Inbox, InboxEvent};

use crate::error::Error;
use crate::session;

/// What a device is told of.
#[derive(Debug, Default)]
pub(crate) struct Social {
    inbox: Mutex<Option<Arc<InboxState>>>,
}

impl Social {
    /// Takes in what the node tells.
    pub(crate) fn on_event(&self, event: v1::SocialEvent) {
        match event.kind {
            Some(social_event::Kind::Direct(event)) => {
                if let Some(inbox) = &*self.inbox() {
                    inbox.on_event(event);
                }
            }
            None => {}
        }
    }

    /// Takes in an answer, in order with what is told.
    pub(crate) fn on_response(&self, response: &v1::SocialResponse) {
        if let Some(social_response::Result::Direct(response)) = &response.result
            && let Some(direct_response::Result::Opened(opened)) = &response.result
            && let Some(inbox) = &*self.inbox()
        {
            inbox.on_opened(opened);
        }
    }

    /// Another session, or another node, knows nothing of what this device wants to be told.
    pub(crate) fn on_forgotten(&self) {
        if let Some(inbox) = &*self.inbox() {
            inbox.on_forgotten();
        }
    }

    /// The session is over for good.
    pub(crate) fn end(&self) {
        if let Some(inbox) = self.inbox().take() {
            inbox.end();
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Option<Arc<InboxState>>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the node for something.
async fn ask(
    session: &session::Handle,
    kind: social_request::Kind,
) -> Result<social_response::Result, Error> {
    let request = v1::SocialRequest { kind: Some(kind) };
    let answer = session.request(v1::request::Kind::Social(request)).await?;
    let v1::response::Result::Social(response) = answer else {
        return Err(other_question());
    };
    response.result.ok_or_else(other_question)
}

fn other_question() -> Error {
    Error::local("the node answered another question")
}
