//! Leaving rooms for good: while the node cannot do it, it is asked again. Else the user would stay in a
//! room of which its application has no handle any more.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, ErrorCode, request};

use crate::device::Shared;
use crate::error::Error;
use crate::retry::{aside, go_on};
use crate::session::{Answer, Handle};

/// The request that leaves a room.
fn leave(id: &RoomId) -> request::Kind {
    request::Kind::Leave(v1::Leave {
        room: id.to_string(),
    })
}

impl Shared {
    /// Asks to leave a room; what is returned asks again until that is done.
    pub(super) async fn begin_leaving(
        self: &Arc<Self>,
        id: RoomId,
    ) -> Result<impl Future<Output = Result<(), Error>> + Send + use<>, Error> {
        let asked = self.session.ask(leave(&id)).await?;
        let (shared, session) = (Arc::downgrade(self), self.session.clone());
        Ok(go_on_leaving(shared, session, id, asked))
    }

    /// Leaves a room that the application is not in, without waiting.
    pub(crate) fn leave_aside(self: &Arc<Self>, id: RoomId) {
        let asked = self.session.ask_soon(leave(&id));
        let (shared, session) = (Arc::downgrade(self), self.session.clone());
        aside(go_on_leaving(shared, session, id, asked));
    }

    /// Something came of a room that the application is not in: its join may have been told to have failed, and
    /// been done after all.
    pub(crate) fn on_stray(self: &Arc<Self>, room: &str) {
        // Whatever was left a moment ago goes on to be told of until the node knows.
        if let Ok(id) = RoomId::parse(room)
            && self.strays.is_due(Instant::now()).is_some()
        {
            tracing::debug!(%id, "told of a room that this device is not in: leaving it");
            self.leave_aside(id);
        }
    }
}

/// Ends when the user is not in the room, or is there again by a later join.
async fn go_on_leaving(
    shared: Weak<Shared>,
    session: Handle,
    id: RoomId,
    asked: Answer,
) -> Result<(), Error> {
    let left = go_on(session, asked, || {
        let is_back = shared.upgrade().is_some_and(|shared| shared.knows(&id));
        (!is_back).then(|| leave(&id))
    });
    match left.await {
        // Whether it left by this or by the end of its session.
        Err(error) if error.code() == Some(ErrorCode::NotAMember) => Ok(()),
        left => left,
    }
}
