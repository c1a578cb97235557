//! Leaving fields for good: a seat of which the application has no handle any more would be told what is near it for
//! as long as its session lasts.

use std::sync::{Arc, Weak};

use tombolo_wire::FieldId;
use tombolo_wire::v1::{self, ErrorCode, field_request, request};

use super::request_of;
use crate::device::Shared;
use crate::error::Error;
use crate::retry::{aside, go_on};
use crate::session::{Answer, Handle};

impl Shared {
    /// Asks to leave a field; what is returned asks again until that is done.
    pub(super) async fn begin_leaving_field(
        self: &Arc<Self>,
        id: FieldId,
    ) -> Result<impl Future<Output = Result<(), Error>> + Send + use<>, Error> {
        let asked = self.session.ask(leave(&id)).await?;
        let (shared, session) = (Arc::downgrade(self), self.session.clone());
        Ok(go_on_leaving(shared, session, id, asked))
    }

    /// Leaves a field without waiting.
    pub(super) fn leave_field_aside(self: &Arc<Self>, id: FieldId) {
        let asked = self.session.ask_soon(leave(&id));
        let (shared, session) = (Arc::downgrade(self), self.session.clone());
        aside(go_on_leaving(shared, session, id, asked));
    }

    /// Takes in an answer, in order with the batches.
    pub(crate) fn on_field_response(self: &Arc<Self>, response: &v1::FieldResponse) {
        // Nobody waits any more.
        if !self.fields.on_response(response)
            && let Ok(id) = FieldId::parse(&response.field)
        {
            self.leave_field_aside(id);
        }
    }
}

/// Ends when the device is not in the field, or is there again.
async fn go_on_leaving(
    shared: Weak<Shared>,
    session: Handle,
    id: FieldId,
    asked: Answer,
) -> Result<(), Error> {
    let left = go_on(session, asked, || {
        let shared = shared.upgrade();
        let is_back = shared.is_some_and(|shared| shared.fields.get(id.as_str()).is_some());
        (!is_back).then(|| leave(&id))
    });
    match left.await {
        // By this, or by the end of its session.
        Err(error) if error.code() == Some(ErrorCode::NotInField) => Ok(()),
        left => left,
    }
}

fn leave(id: &FieldId) -> request::Kind {
    request_of(id, field_request::Kind::Leave(v1::LeaveField {}))
}
