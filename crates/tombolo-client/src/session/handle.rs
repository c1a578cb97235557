//! What the application's side asks of a session.

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{Introduce, Send, client_frame, request, response};

use super::{GOODBYE_TIMEOUT, closed};
use crate::error::Error;

/// Where the answer to a request goes.
pub(crate) type Reply = oneshot::Sender<Result<response::Result, Error>>;

/// What the application's side asks of the session.
pub(crate) enum Command {
    Request {
        kind: request::Kind,
        reply: Reply,
    },
    SendReliable {
        message: Send,
        /// By which the application is told what becomes of it.
        number: u64,
        done: oneshot::Sender<Result<(), Error>>,
    },
    SendUnreliable(client_frame::Body),
    Introduce(Introduce),
    /// The device is not in a room any more; answered by the numbers of messages that have waited for it.
    Forget {
        room: RoomId,
        done: oneshot::Sender<Vec<u64>>,
    },
    /// Breaks the connection, and goes on over another one.
    Break,
    /// Leaves the cluster; answered once the goodbye is on its way.
    Close(oneshot::Sender<()>),
}

/// How to reach the driver of a session.
#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(super) mpsc::Sender<Command>);

impl Handle {
    /// A handle, and where its commands go.
    #[cfg(test)]
    pub(crate) fn pair(commands_max: usize) -> (Self, mpsc::Receiver<Command>) {
        let (commands_tx, commands) = mpsc::channel(commands_max);
        (Self(commands_tx), commands)
    }

    pub(crate) async fn request(&self, kind: request::Kind) -> Result<response::Result, Error> {
        self.ask(kind).await?.answer().await
    }

    /// Sends a request; its answer can be waited for later, or not at all.
    pub(crate) async fn ask(&self, kind: request::Kind) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Request { kind, reply }).await?;
        Ok(Answer(answer))
    }

    /// Asks without waiting, and without hearing the answer.
    pub(crate) fn ask_aside(&self, kind: request::Kind) {
        self.ask_soon(kind);
    }

    /// Sends a request without waiting; its answer can be waited for later.
    pub(crate) fn ask_soon(&self, kind: request::Kind) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.command_aside(Command::Request { kind, reply });
        Answer(answer)
    }

    pub(crate) async fn send_reliable(&self, number: u64, message: Send) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.command(Command::SendReliable {
            message,
            number,
            done,
        })
        .await?;
        answer.await.map_err(|_| closed())?
    }

    /// The device is not in a room any more, which it does not leave by a request; returns the numbers of
    /// messages that have waited for it.
    pub(crate) async fn forget(&self, room: RoomId) -> Vec<u64> {
        let (done, waited) = oneshot::channel();
        _ = self.command(Command::Forget { room, done }).await;
        waited.await.unwrap_or_default()
    }

    /// The same without waiting.
    pub(crate) fn forget_aside(&self, room: RoomId) {
        let (done, _) = oneshot::channel();
        self.command_aside(Command::Forget { room, done });
    }

    /// Sends what may be lost; drops it rather than wait.
    pub(crate) fn send_unreliable(&self, body: client_frame::Body) {
        self.command_now(Command::SendUnreliable(body));
    }

    /// Breaks the connection, if there is one.
    pub(crate) fn break_connection(&self) {
        self.command_aside(Command::Break);
    }

    /// Takes leave of the cluster; returns when the node has the goodbye, or after a moment.
    pub(crate) async fn close(&self) {
        let (done, goodbye) = oneshot::channel();
        let farewell = async {
            if self.command(Command::Close(done)).await.is_ok() {
                _ = goodbye.await;
            }
        };
        // Without an answer the driver is stuck in a connection that is about to break.
        _ = tokio::time::timeout(GOODBYE_TIMEOUT, farewell).await;
    }

    /// Takes leave without waiting; false when the session is over already.
    pub(crate) fn close_aside(&self) -> bool {
        let (done, _) = oneshot::channel();
        self.command_aside(Command::Close(done))
    }

    /// Sends a command that must not be lost, without waiting; false when the session is over.
    fn command_aside(&self, command: Command) -> bool {
        match self.0.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Closed(_)) => false,
            Err(TrySendError::Full(command)) => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    let handle = self.clone();
                    runtime.spawn(async move { handle.command(command).await });
                }
                true
            }
        }
    }

    /// Hands over a command, unless the session has no place for it at this moment; whether it was taken.
    pub(crate) fn command_now(&self, command: Command) -> bool {
        self.0.try_send(command).is_ok()
    }

    pub(crate) async fn command(&self, command: Command) -> Result<(), Error> {
        self.0.send(command).await.map_err(|_| closed())
    }
}

/// The answer to a request, to come.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Receiver<Result<response::Result, Error>>);

impl Answer {
    pub(crate) async fn answer(self) -> Result<response::Result, Error> {
        self.0.await.map_err(|_| Error::unanswered())?
    }
}
