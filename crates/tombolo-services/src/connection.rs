//! A transport's handle on a session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::Notify;
use tokio::time::Instant;
use tombolo_room::LeftReason;
use tombolo_wire::UserId;
use tombolo_wire::resend::Receipt;
use tombolo_wire::v1::{ClientFrame, ErrorCode, ServerFrame, client_frame, server_frame};

use crate::field;
use crate::forward;
use crate::node::{Node, Parting};
use crate::reject::Reject;
use crate::requests;
use crate::session::Session;

/// A transport's handle on a session. Dropping it says that the connection broke, unless it was told
/// to close before.
pub struct Connection {
    node: Arc<Node>,
    session: Arc<Session>,
    /// Which of the session's connections this is.
    number: u64,
    wake: Arc<Notify>,
}

/// What a transport is to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Outgoing {
    /// Send the frame in order.
    Reliable(ServerFrame),
    /// Send the frame as a datagram where the transport has them; it may be dropped.
    Unreliable(ServerFrame),
    /// Send the reason, when there is one, as the last frame, and close.
    Close(Option<Reject>),
}

impl Connection {
    pub(crate) fn new(
        node: Arc<Node>,
        session: Arc<Session>,
        number: u64,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            node,
            session,
            number,
            wake,
        }
    }

    /// Who the device acts for.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.session.user
    }

    /// Takes in a frame after the first. Everything that can be done at once is done when it returns.
    /// `reliable` is false for frames that came in a datagram.
    ///
    /// # Errors
    /// When the device breaks the contract, or the session has gone on elsewhere or is over: send
    /// [`Reject`] and close.
    pub fn receive(&self, frame: ClientFrame, reliable: bool) -> Result<(), Reject> {
        let take_in = || self.take_in(frame, reliable);
        let taken_in = self.node.do_for(&self.session, take_in);
        taken_in.inspect_err(|reject| {
            self.node.counters.count_refused(reject.code);
            tracing::debug!(user = %self.session.user, %reject, "connection ended");
        })
    }

    /// Waits for what is to be done next; the first is the `Welcome`. Safe to cancel.
    /// After [`Outgoing::Close`] it says the same again.
    pub async fn next_outgoing(&self) -> Outgoing {
        loop {
            let now = Instant::now().into_std();
            let due = match self.session.lock().poll_outgoing(self.number, now) {
                Ok(outgoing) => return outgoing,
                Err(due) => due,
            };
            match due {
                Some(due) => {
                    let timeout = tokio::time::sleep_until(due.into());
                    tokio::select! {
                        biased;
                        () = self.wake.notified() => {}
                        () = timeout => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    fn take_in(&self, frame: ClientFrame, reliable: bool) -> Result<(), Reject> {
        let now = Instant::now().into_std();
        let (receipt, _busy) = self.take_note(now, &frame)?;
        let ClientFrame { seq, body, .. } = frame;
        // A body that a later version of the contract added is nothing to this one.
        let Some(body) = body.filter(|_| receipt == Receipt::Fresh) else {
            return Ok(());
        };
        let may_get_lost = matches!(
            body,
            client_frame::Body::Send(_)
                | client_frame::Body::FieldUpdate(_)
                | client_frame::Body::Ping(_)
                | client_frame::Body::Acknowledge(_)
        );
        if !reliable && !may_get_lost {
            return Err(self.break_off("such a frame must not get lost"));
        }
        let (node, session) = (&self.node, &self.session);
        match body {
            client_frame::Body::Hello(_) => return Err(self.break_off("hello came twice")),
            client_frame::Body::Ping(ping) => {
                session.lock().push_urgent(server_frame::Body::Pong(ping));
            }
            client_frame::Body::Request(request) => requests::handle(node, session, request, now),
            client_frame::Body::Send(send) => {
                forward::handle_send(node, session, seq, &send, now);
            }
            client_frame::Body::Introduce(introduce) if !introduce.field.is_empty() => {
                field::handle_introduce(node, session, seq, introduce, now);
            }
            client_frame::Body::FieldUpdate(update) => {
                field::handle_update(node, session, update, now);
            }
            client_frame::Body::Introduce(introduce) => {
                forward::handle_introduce(node, session, seq, introduce, now);
            }
            client_frame::Body::Goodbye(_) => {
                node.end(session, Parting::Leaves(LeftReason::Left), None);
            }
            client_frame::Body::Acknowledge(_) => {}
        }
        Ok(())
    }

    /// Takes note of a frame's numbers, if this connection is still the session's.
    fn take_note(
        &self,
        now: std::time::Instant,
        frame: &ClientFrame,
    ) -> Result<(Receipt, Busy<'_>), Reject> {
        let mut state = self.session.lock();
        if state.moved.is_some() {
            return Err(Reject::new(
                ErrorCode::Elsewhere,
                "the session goes on over another node",
            ));
        }
        if let Some(ended) = state.ended() {
            let over = || Reject::new(ErrorCode::NotResumable, "the session is over");
            return Err(ended.reject.clone().unwrap_or_else(over));
        }
        if state.connection != self.number {
            return Err(Reject::new(
                ErrorCode::Replaced,
                "the session goes on elsewhere",
            ));
        }
        let receipt = state.handle_numbers(now, frame);
        let busy = Busy::new(&self.session);
        drop(state);
        match receipt {
            Ok(receipt) => Ok((receipt, busy)),
            Err(broken) => Err(self.break_off(&broken)),
        }
    }

    /// Ends the session because the device breaks the contract.
    fn break_off(&self, broken: &str) -> Reject {
        let reject = Reject::new(ErrorCode::BadFrame, broken);
        self.node.end(
            &self.session,
            Parting::Leaves(LeftReason::Disconnected),
            Some(reject.clone()),
        );
        reject
    }
}

/// While something of the session's device is carried out the session does not go to another node.
struct Busy<'a>(&'a Session);

impl<'a> Busy<'a> {
    fn new(session: &'a Session) -> Self {
        session.pending.fetch_add(1, Ordering::Relaxed);
        Self(session)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.node.disconnect(&self.session, self.number);
    }
}
