//! What a session needs from the connection under it; QUIC and WebSocket provide it.

use std::future::Future;

use tombolo_wire::frame::{DecodeError, EncodeError};
use tombolo_wire::v1::{ClientFrame, ErrorCode, ServerFrame};

/// The half that brings frames from the device.
pub(crate) trait FrameReceiver: Send {
    /// Waits for the next frame, reliable or not. Safe to cancel: no frame gets lost.
    fn receive(&mut self) -> impl Future<Output = Result<Received, ReceiveError>> + Send;

    /// Takes in and forgets what still comes, until the device has closed its side. A stream
    /// closed with bytes unread may lose the farewell on its way.
    fn drain(&mut self) -> impl Future<Output = ()> + Send;
}

/// The half that takes frames to the device.
pub(crate) trait FrameSender: Send {
    /// Sends a frame in order, waiting for room. Not safe to cancel, except to give up.
    fn send(&mut self, frame: &ServerFrame) -> impl Future<Output = Result<(), SendError>> + Send;

    /// Sends a frame that may get lost or overtaken, where the transport can do so.
    fn send_unreliable(
        &mut self,
        frame: &ServerFrame,
    ) -> impl Future<Output = Result<(), SendError>> + Send;

    /// Makes a silent device answer, unless the transport does that by itself.
    fn keep_alive(&mut self) -> impl Future<Output = Result<(), SendError>> + Send;

    /// Closes the connection once what was sent before has arrived. Safe to cancel.
    fn close(&mut self, farewell: Farewell) -> impl Future<Output = ()> + Send;
}

/// A frame, and how it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Received {
    InOrder(ClientFrame),
    Datagram(ClientFrame),
}

/// Why no further frame comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiveError {
    /// The connection ended, broke or fell silent.
    Lost,
    /// What came is no frame.
    Offence(DecodeError),
}

/// Why a frame could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// The connection is gone.
    Lost,
    /// The frame is none that the contract allows: a bug of the node.
    Encode(EncodeError),
}

/// What a connection is closed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// The device said goodbye.
    Done,
    /// The node leaves; a `GoAway` went before.
    GoingAway,
    /// The device is refused; a `Reject` with this code went before.
    Rejected(ErrorCode),
}

impl Farewell {
    /// For the QUIC `CONNECTION_CLOSE`: 0, or the contract's error code.
    pub(crate) fn quic_code(self) -> noq::VarInt {
        match self {
            Self::Done => noq::VarInt::from_u32(0),
            Self::GoingAway => noq::VarInt::from_u32(ErrorCode::Unavailable as u32),
            Self::Rejected(code) => noq::VarInt::from_u32(code as u32),
        }
    }

    /// For the WebSocket close frame (RFC 6455 §7.4): 1000, 1001, or 4000 plus the contract's
    /// error code.
    pub(crate) fn websocket_code(self) -> u16 {
        match self {
            Self::Done => 1000,
            Self::GoingAway => 1001,
            Self::Rejected(code) => WEBSOCKET_CODE_BASE + code as u16,
        }
    }

    /// The same in a word, for whoever reads packet traces.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Done => "",
            Self::GoingAway => "going away",
            Self::Rejected(code) => code.as_str_name(),
        }
    }
}

/// Codes from 4000 on belong to the application (RFC 6455 §7.4.2).
const WEBSOCKET_CODE_BASE: u16 = 4000;
