//! How messages lie on a connection.
//!
//! In a byte stream each frame follows its length (32 bits, big endian): [`write()`], [`Decoder`].
//! In a WebSocket message or a datagram it stands alone: [`encode`], [`decode`],
//! [`encode_datagram`], [`decode_datagram`].

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

use crate::v1::{ClientFrame, ErrorCode, ServerFrame};

/// Largest encoded frame of a device, in bytes, without its length.
pub const FRAME_BYTES_MAX: usize = 96 * 1024;

/// The same of a node: it names all members of a large room in one.
pub const SERVER_FRAME_BYTES_MAX: usize = 160 * 1024;

/// Largest encoded frame in a datagram, in bytes.
pub const DATAGRAM_BYTES_MAX: usize = 1360;

/// What both directions' frames have in common.
pub trait Frame: Message + Default + Clone {
    /// Largest encoded one, in bytes, without its length.
    const BYTES_MAX: usize;

    /// Position in the sender's reliable sequence; 0 when never repeated.
    fn seq(&self) -> u64;
    /// Gives the frame its position.
    fn set_seq(&mut self, seq: u64);
    /// Highest contiguous reliable frame that the sender has received.
    fn ack(&self) -> u64;
    /// Tells the receiver what has been received from it.
    fn set_ack(&mut self, ack: u64);
}

macro_rules! frame {
    ($name:ident, $bytes_max:ident) => {
        impl Frame for $name {
            const BYTES_MAX: usize = $bytes_max;

            fn seq(&self) -> u64 {
                self.seq
            }

            fn set_seq(&mut self, seq: u64) {
                self.seq = seq;
            }

            fn ack(&self) -> u64 {
                self.ack
            }

            fn set_ack(&mut self, ack: u64) {
                self.ack = ack;
            }
        }
    };
}

frame!(ClientFrame, FRAME_BYTES_MAX);
frame!(ServerFrame, SERVER_FRAME_BYTES_MAX);

/// Appends the frame with its length.
///
/// # Errors
/// When the frame is larger than [`Frame::BYTES_MAX`]; nothing is appended then.
pub fn write<F: Frame>(frame: &F, stream: &mut BytesMut) -> Result<(), EncodeError> {
    let bytes = fitting(frame, F::BYTES_MAX)?;
    stream.reserve(LENGTH_BYTES + bytes);
    // Nothing is cut: `BYTES_MAX` is far below 4 GiB.
    stream.put_u32(bytes as u32);
    frame.encode_raw(stream);
    Ok(())
}

/// Encodes the frame to stand alone, as in a WebSocket message.
///
/// # Errors
/// When the frame is larger than [`Frame::BYTES_MAX`].
pub fn encode<F: Frame>(frame: &F) -> Result<Bytes, EncodeError> {
    fitting(frame, F::BYTES_MAX)?;
    Ok(Bytes::from(frame.encode_to_vec()))
}

/// Encodes the frame for a datagram.
///
/// # Errors
/// When the frame is larger than [`DATAGRAM_BYTES_MAX`] or reliable.
pub fn encode_datagram<F: Frame>(frame: &F) -> Result<Bytes, EncodeError> {
    if frame.seq() != 0 {
        return Err(EncodeError::Reliable);
    }
    fitting(frame, DATAGRAM_BYTES_MAX)?;
    Ok(Bytes::from(frame.encode_to_vec()))
}

/// Decodes a frame that stands alone. The payloads in it share `bytes`' memory.
///
/// # Errors
/// When it is larger than [`Frame::BYTES_MAX`] or no such frame.
pub fn decode<F: Frame>(bytes: Bytes) -> Result<F, DecodeError> {
    if bytes.len() > F::BYTES_MAX {
        return Err(DecodeError::TooLarge);
    }
    F::decode(bytes).map_err(|_| DecodeError::Malformed)
}

/// Decodes a frame from a datagram.
///
/// # Errors
/// When it is larger than [`DATAGRAM_BYTES_MAX`], no such frame, or reliable: a datagram may be
/// lost, so reliable frames don't come in one.
pub fn decode_datagram<F: Frame>(bytes: Bytes) -> Result<F, DecodeError> {
    if bytes.len() > DATAGRAM_BYTES_MAX {
        return Err(DecodeError::TooLarge);
    }
    let frame: F = decode(bytes)?;
    if frame.seq() != 0 {
        Err(DecodeError::Reliable)
    } else {
        Ok(frame)
    }
}

/// Takes frames out of a byte stream, however it was cut into pieces.
///
/// Holds at most one unfinished frame. After an error the stream has no meaning any more.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The length and bytes of the frame that has begun.
    unfinished: BytesMut,
}

impl Decoder {
    /// Starts at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes off the front of `input` until they complete a frame; `None` when all of `input`
    /// was taken and more is needed.
    ///
    /// # Errors
    /// When a length is above [`Frame::BYTES_MAX`] or the bytes are no such frame.
    pub fn decode<F: Frame>(&mut self, input: &mut Bytes) -> Result<Option<F>, DecodeError> {
        if !self.take(input, LENGTH_BYTES) {
            return Ok(None);
        }
        let length = (&self.unfinished[..LENGTH_BYTES]).get_u32() as usize;
        if length > F::BYTES_MAX {
            return Err(DecodeError::TooLarge);
        }

        // The usual case: the frame is complete in this piece and is not copied.
        if self.unfinished.len() == LENGTH_BYTES && input.len() >= length {
            self.unfinished.clear();
            return decode(input.split_to(length)).map(Some);
        }
        if !self.take(input, LENGTH_BYTES + length) {
            return Ok(None);
        }
        let mut bytes = std::mem::take(&mut self.unfinished).freeze();
        bytes.advance(LENGTH_BYTES);
        decode(bytes).map(Some)
    }

    /// Whether the stream may end here without cutting a frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unfinished.is_empty()
    }

    /// Fills up to `total` bytes; false when `input` did not have enough.
    fn take(&mut self, input: &mut Bytes, total: usize) -> bool {
        let missing = total.saturating_sub(self.unfinished.len());
        self.unfinished
            .extend_from_slice(&input.split_to(missing.min(input.len())));
        self.unfinished.len() >= total
    }
}

/// Why a frame cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The frame is larger than the connection carries.
    #[error("frame of {bytes} bytes is above the limit of {bytes_max}")]
    TooLarge {
        /// The frame's size.
        bytes: usize,
        /// The largest size.
        bytes_max: usize,
    },
    /// A reliable frame was to go into a datagram.
    #[error("a reliable frame does not go into a datagram")]
    Reliable,
}

/// Why received bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame is, or says to be, larger than the limit.
    #[error("frame is larger than the limit")]
    TooLarge,
    /// The bytes are no such message.
    #[error("frame is malformed")]
    Malformed,
    /// A reliable frame came in a datagram.
    #[error("a reliable frame came in a datagram")]
    Reliable,
}

impl DecodeError {
    /// What the sender is told.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::TooLarge => ErrorCode::TooLarge,
            Self::Malformed | Self::Reliable => ErrorCode::BadFrame,
        }
    }
}

fn fitting<F: Frame>(frame: &F, bytes_max: usize) -> Result<usize, EncodeError> {
    let bytes = frame.encoded_len();
    if bytes > bytes_max {
        Err(EncodeError::TooLarge { bytes, bytes_max })
    } else {
        Ok(bytes)
    }
}

const LENGTH_BYTES: usize = 4;
