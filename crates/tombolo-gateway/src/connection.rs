//! One device's connection from `Hello` to farewell, the same over both transports.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tombolo_services::{Connection, ConnectionInfo, Outgoing, Reject, TransportKind};
use tombolo_wire::v1::server_frame::Body;
use tombolo_wire::v1::{ErrorCode, GoAway, ServerFrame};
use tracing::{debug, error};

use crate::admission::Ticket;
use crate::shared::Shared;
use crate::transport::{Farewell, FrameReceiver, FrameSender, ReceiveError, Received, SendError};

/// Where a connection comes from, and until when it has to introduce itself.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) info: ConnectionInfo,
    pub(crate) ticket: &'a Ticket,
    pub(crate) hello_deadline: Instant,
}

/// Serves the connection to its end. Its session may outlive it.
pub(crate) async fn run<S: FrameSender, R: FrameReceiver>(
    caller: Caller<'_>,
    mut sender: S,
    mut receiver: R,
    shared: &Arc<Shared>,
) {
    let ending = match open(&mut receiver, &caller, shared).await {
        Ok(connection) => {
            shared.counters.attached.add();
            caller.ticket.settle();
            let _held = match caller.info.transport {
                TransportKind::Quic => shared.counters.sessions_quic.hold(),
                TransportKind::WebSocket => shared.counters.sessions_websocket.hold(),
            };
            converse(&mut sender, &mut receiver, &connection, shared).await
        }
        Err(ending) => ending,
    };
    debug!(addr = %caller.info.remote, transport = ?caller.info.transport, ?ending, "connection ends");
    part(ending, sender, receiver, shared).await;
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// The other end is gone; there is nobody to say anything to.
    Lost,
    /// The device said goodbye.
    Goodbye,
    /// The node leaves.
    GoingAway,
    /// The device is refused.
    Rejected(Reject),
}

impl Ending {
    fn rejected(code: ErrorCode, message: impl ToString) -> Self {
        Self::Rejected(Reject {
            code,
            message: message.to_string(),
            nodes: Vec::new(),
        })
    }
}

impl From<ReceiveError> for Ending {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Lost => Self::Lost,
            ReceiveError::Offence(error) => Self::rejected(error.code(), error),
        }
    }
}

impl From<SendError> for Ending {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Lost => Self::Lost,
            SendError::Encode(error) => {
                error!(%error, "a session made a frame that cannot be sent");
                Self::rejected(ErrorCode::Unavailable, "the node failed")
            }
        }
    }
}

/// Waits for the first frame and begins, or goes on with, a session.
async fn open<R: FrameReceiver>(
    receiver: &mut R,
    caller: &Caller<'_>,
    shared: &Shared,
) -> Result<Connection, Ending> {
    let Ok(received) = timeout_at(caller.hello_deadline, receiver.receive()).await else {
        shared.counters.hellos_late.add();
        return Err(Ending::rejected(ErrorCode::BadFrame, HELLO_LATE));
    };
    let received = received?;
    shared.counters.frames_received.add();
    let Received::InOrder(hello) = received else {
        return Err(Ending::rejected(
            ErrorCode::BadFrame,
            "hello came in a datagram",
        ));
    };
    if !shared.is_serving() {
        return Err(Ending::rejected(
            ErrorCode::Unavailable,
            "the node is starting or leaving",
        ));
    }
    shared
        .services
        .attach(hello, caller.info)
        .await
        .map_err(Ending::Rejected)
}

/// Carries frames both ways until something ends it; then no frame is half sent.
async fn converse<S: FrameSender, R: FrameReceiver>(
    sender: &mut S,
    receiver: &mut R,
    connection: &Connection,
    shared: &Shared,
) -> Ending {
    let (stop, stopped) = oneshot::channel();
    let mut phase = shared.phase();
    let mut sending = pin!(send_frames(sender, connection, stopped, shared));
    let ending = tokio::select! {
        ending = receive_frames(receiver, connection, shared) => ending,
        ending = &mut sending => return ending,
        () = phase.draining() => Ending::GoingAway,
    };
    drop(stop);
    if timeout(shared.limits.farewell_timeout, sending)
        .await
        .is_err()
    {
        // The device does not read, and what follows half a frame has no meaning.
        return Ending::Lost;
    }
    ending
}

async fn receive_frames<R: FrameReceiver>(
    receiver: &mut R,
    connection: &Connection,
    shared: &Shared,
) -> Ending {
    loop {
        let received = match receiver.receive().await {
            Ok(received) => received,
            Err(error) => return error.into(),
        };
        shared.counters.frames_received.add();
        let result = match received {
            Received::InOrder(frame) => connection.receive(frame, true),
            Received::Datagram(frame) => connection.receive(frame, false),
        };
        if let Err(reject) = result {
            return Ending::Rejected(reject);
        }
    }
}

async fn send_frames<S: FrameSender>(
    sender: &mut S,
    connection: &Connection,
    mut stopped: oneshot::Receiver<()>,
    shared: &Shared,
) -> Ending {
    let period = shared.limits.keep_alive_interval;
    let mut keep_alive = interval_at(Instant::now() + period, period);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Who takes nothing is silent, too, whatever it says.
    let patience = shared.limits.idle_timeout;
    loop {
        let sent = tokio::select! {
            biased;
            // Its other end was dropped: that is the signal.
            _ = &mut stopped => return Ending::Lost,
            outgoing = connection.next_outgoing() => match outgoing {
                Outgoing::Reliable(frame) => within(patience, sender.send(&frame)).await,
                Outgoing::Unreliable(frame) => within(patience, sender.send_unreliable(&frame)).await,
                Outgoing::Close(None) => return Ending::Goodbye,
                Outgoing::Close(Some(reject)) => return Ending::Rejected(reject),
            },
            _ = keep_alive.tick() => {
                if let Err(error) = within(patience, sender.keep_alive()).await {
                    return error.into();
                }
                continue;
            }
        };
        if let Err(error) = sent {
            return error.into();
        }
        shared.counters.frames_sent.add();
    }
}

/// Sends something, as long as the device takes it within the given time.
async fn within(
    patience: Duration,
    sending: impl Future<Output = Result<(), SendError>>,
) -> Result<(), SendError> {
    timeout(patience, sending)
        .await
        .unwrap_or(Err(SendError::Lost))
}

/// Says why, if there is anybody left, and closes.
async fn part<S: FrameSender, R: FrameReceiver>(
    ending: Ending,
    mut sender: S,
    mut receiver: R,
    shared: &Shared,
) {
    let (body, farewell) = match ending {
        Ending::Lost => return,
        Ending::Goodbye => (None, Farewell::Done),
        Ending::GoingAway => {
            let go_away = GoAway {
                reason: "the node is shutting down".to_owned(),
                ..GoAway::default()
            };
            (Some(Body::GoAway(go_away)), Farewell::GoingAway)
        }
        Ending::Rejected(reject) => {
            shared.counters.reject(reject.code);
            (
                Some(Body::Reject((&reject).into())),
                Farewell::Rejected(reject.code),
            )
        }
    };
    let farewell = async {
        if let Some(body) = body {
            let frame = ServerFrame {
                seq: 0,
                ack: 0,
                body: Some(body),
            };
            if sender.send(&frame).await.is_err() {
                return;
            }
            shared.counters.frames_sent.add();
        }
        sender.close(farewell).await;
        receiver.drain().await;
    };
    // A device that does not take it in loses it.
    let _ = timeout(shared.limits.farewell_timeout, farewell).await;
}

/// Also the reason of a close where no frame can be sent.
pub(crate) const HELLO_LATE: &str = "hello did not come in time";
