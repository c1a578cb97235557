//! A transport's handle on a session.

use tombolo_wire::UserId;
use tombolo_wire::v1::{ClientFrame, ServerFrame};

use crate::reject::Reject;

/// A transport's handle on a session. Dropping it says that the connection broke, unless it was told
/// to close before.
pub struct Connection {
    user: UserId,
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
    /// Who the device acts for.
    #[must_use]
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Takes in a frame after the first. Everything that can be done at once is done when it returns.
    /// `reliable` is false for frames that came in a datagram.
    ///
    /// # Errors
    /// When the device breaks the contract: the session is over; send [`Reject`] and close.
    pub fn receive(&self, frame: ClientFrame, reliable: bool) -> Result<(), Reject> {
        let _ = (frame, reliable);
        unimplemented!()
    }

    /// Waits for what is to be done next; the first is the `Welcome`. Safe to cancel.
    /// After [`Outgoing::Close`] it says the same again.
    pub async fn next_outgoing(&self) -> Outgoing {
        unimplemented!()
    }
}
