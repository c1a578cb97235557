//! Cancelling tickets for good: while the node cannot do it, it is asked again. Else the user would wait with a
//! ticket of which its application has no handle any more, and others for a user that does not come.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tombolo_match::TicketId;
use tombolo_wire::v1::{self, ErrorCode, match_event, match_request, request};

use super::ticket::TicketState;
use super::{Seeking, about, ask};
use crate::error::Error;
use crate::retry::{aside, go_on, persistently};
use crate::session::{Answer, Handle};

impl TicketState {
    /// Asks to cancel the ticket; what is returned asks again until that is done.
    pub(super) async fn begin_to_cancel(
        self: &Arc<Self>,
        session: &Handle,
    ) -> Result<impl Future<Output = Result<(), Error>> + Send + use<>, Error> {
        let asked = session.ask(cancel(&self.pool, self.id)).await?;
        Ok(Arc::clone(self).go_on_cancelling(session.clone(), asked))
    }

    /// Cancels the ticket without waiting.
    pub(super) fn cancel_aside(self: &Arc<Self>, session: &Handle) {
        let asked = session.ask_soon(cancel(&self.pool, self.id));
        aside(Arc::clone(self).go_on_cancelling(session.clone(), asked));
    }

    /// Declines the match for which the ticket is held; when another has done so, the ticket looks on, and is cancelled
    /// once more.
    async fn go_on_cancelling(
        self: Arc<Self>,
        session: Handle,
        mut asked: Answer,
    ) -> Result<(), Error> {
        let mut before = None;
        loop {
            let cancelled = cancel_for_good(&session, &self.pool, self.id, asked).await;
            let proposed = self.proposed();
            if !is_refused(&cancelled, ErrorCode::Conflict) || before == Some(proposed) {
                return cancelled;
            }
            if let Some(number) = proposed {
                let declined = decline(&session, &self.pool, number).await;
                if !is_refused(&declined, ErrorCode::NoSuchThing) {
                    return declined;
                }
            }
            before = Some(proposed);
            asked = session.ask_soon(cancel(&self.pool, self.id));
        }
    }
}

impl Seeking {
    /// Something is told of a ticket that was dropped: it waits all the same.
    pub(super) fn on_stray(
        &self,
        session: &Handle,
        pool: String,
        id: TicketId,
        kind: &match_event::Kind,
    ) {
        let session = session.clone();
        match kind {
            match_event::Kind::Proposed(proposed) => {
                let number = proposed.number;
                aside(async move { decline(&session, &pool, number).await });
            }
            // How it stands goes on to be told until the node knows that it was dropped.
            match_event::Kind::Status(_) if self.strays.is_due(Instant::now()).is_none() => {}
            match_event::Kind::Status(_) | match_event::Kind::Failed(_) => {
                let asked = session.ask_soon(cancel(&pool, id));
                aside(async move { cancel_for_good(&session, &pool, id, asked).await });
            }
            match_event::Kind::Accepted(_)
            | match_event::Kind::Found(_)
            | match_event::Kind::Ended(_)
            | match_event::Kind::Backfill(_) => {}
        }
    }
}

/// Ends when the ticket is not in the pool any more, or its users are asked whether they are ready.
async fn cancel_for_good(
    session: &Handle,
    pool: &str,
    id: TicketId,
    asked: Answer,
) -> Result<(), Error> {
    let mut is_repeated = false;
    let cancelled = go_on(session.clone(), asked, || {
        is_repeated = true;
        Some(cancel(pool, id))
    });
    match cancelled.await {
        // By one of those before.
        Err(error) if is_repeated && error.code() == Some(ErrorCode::NoSuchThing) => Ok(()),
        cancelled => cancelled,
    }
}

/// Says that the user is not ready, with which its ticket ends.
async fn decline(session: &Handle, pool: &str, number: u64) -> Result<(), Error> {
    let accept = false;
    let answer = match_request::Kind::Answer(v1::AnswerMatch { number, accept });
    let declined = persistently(|| ask(session, pool, answer.clone()));
    declined.await.map(drop)
}

fn is_refused(answer: &Result<(), Error>, code: ErrorCode) -> bool {
    let error = answer.as_ref().err();
    error.is_some_and(|error| error.code() == Some(code))
}

fn cancel(pool: &str, id: TicketId) -> request::Kind {
    let id = Bytes::copy_from_slice(&id.0);
    about(pool, match_request::Kind::Cancel(v1::CancelTicket { id }))
}
