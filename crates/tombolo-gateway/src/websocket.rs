//! Sessions over WebSocket, for networks without UDP: one binary message per frame.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use tombolo_wire::frame::{self, DecodeError, FRAME_BYTES_MAX, SERVER_FRAME_BYTES_MAX};
use tombolo_wire::v1::ServerFrame;

use crate::transport::{Farewell, FrameReceiver, FrameSender, ReceiveError, Received, SendError};

/// Bounds what a device can make the codec buffer.
pub(crate) fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(WRITE_BYTES + 2 * SERVER_FRAME_BYTES_MAX)
}

pub(crate) fn split(
    socket: WebSocket,
    idle_timeout: Duration,
) -> (WebSocketSender, WebSocketReceiver) {
    let (sink, stream) = socket.split();
    (
        WebSocketSender { sink },
        WebSocketReceiver {
            stream,
            idle_timeout,
        },
    )
}

#[derive(Debug)]
pub(crate) struct WebSocketReceiver {
    stream: SplitStream<WebSocket>,
    idle_timeout: Duration,
}

impl FrameReceiver for WebSocketReceiver {
    async fn receive(&mut self) -> Result<Received, ReceiveError> {
        loop {
            let Ok(message) = timeout(self.idle_timeout, self.stream.next()).await else {
                return Err(ReceiveError::Lost);
            };
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let frame = frame::decode(bytes).map_err(ReceiveError::Offence)?;
                    return Ok(Received::InOrder(frame));
                }
                Some(Ok(Message::Text(_))) => {
                    return Err(ReceiveError::Offence(DecodeError::Malformed));
                }
                // The codec answers pings. Either shows that the device is there.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Err(error)) => return Err(blame(error)),
                Some(Ok(Message::Close(_))) | None => return Err(ReceiveError::Lost),
            }
        }
    }

    async fn drain(&mut self) {
        while let Some(Ok(_)) = self.stream.next().await {}
    }
}

#[derive(Debug)]
pub(crate) struct WebSocketSender {
    sink: SplitSink<WebSocket, Message>,
}

impl FrameSender for WebSocketSender {
    async fn send(&mut self, frame: &ServerFrame) -> Result<(), SendError> {
        let bytes = frame::encode(frame).map_err(SendError::Encode)?;
        self.sink
            .send(Message::Binary(bytes))
            .await
            .map_err(|_| SendError::Lost)
    }

    async fn send_unreliable(&mut self, frame: &ServerFrame) -> Result<(), SendError> {
        // The session has dropped what is too much; what it gives out goes in order.
        self.send(frame).await
    }

    async fn keep_alive(&mut self) -> Result<(), SendError> {
        self.sink
            .send(Message::Ping(Bytes::new()))
            .await
            .map_err(|_| SendError::Lost)
    }

    async fn close(&mut self, farewell: Farewell) {
        let close = CloseFrame {
            code: farewell.websocket_code(),
            reason: farewell.reason().into(),
        };
        // On an error there is nobody left to tell.
        let _ = self.sink.send(Message::Close(Some(close))).await;
    }
}

/// Tells a device that sends what is not allowed from a connection that broke.
fn blame(error: axum::Error) -> ReceiveError {
    use tungstenite::error::{Error, ProtocolError};

    let error = error.into_inner();
    let error = error.downcast_ref::<Error>();
    if let Some(Error::Capacity(_)) = error {
        ReceiveError::Offence(DecodeError::TooLarge)
    } else if let Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) = error {
        ReceiveError::Lost
    } else if let Some(Error::Protocol(_) | Error::Utf8(_)) = error {
        ReceiveError::Offence(DecodeError::Malformed)
    } else {
        ReceiveError::Lost
    }
}

/// Twice what is allowed: what is a little too large is then read to its end and refused in order.
const MESSAGE_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// Every connection has this from its beginning, and most frames are far smaller; larger ones make it grow.
const READ_BYTES: usize = 2 * 1024;
const WRITE_BYTES: usize = 16 * 1024;
