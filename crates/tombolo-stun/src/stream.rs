//! Framing of STUN messages and ChannelData in a byte stream (TCP, TLS). See RFC 8656 §12.5.

use thiserror::Error;

use crate::{CHANNEL_HEADER_BYTES, HEADER_BYTES, MAGIC_COOKIE};

/// Returns the length in bytes of the frame that `bytes` begin with, padding included, or `None`
/// while too little has arrived to tell. It may be more than `bytes.len()`.
///
/// # Errors
/// What begins here is neither; the stream cannot be followed further and must be closed.
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    match first {
        0x00..=0x3f => stun_len(bytes),
        0x40..=0x7f => {
            Ok(length_field(bytes).map(|length| CHANNEL_HEADER_BYTES + length.next_multiple_of(4)))
        }
        _ => Err(FrameError::NeitherStunNorChannelData),
    }
}

/// Why a byte stream cannot be cut into frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first byte belongs to neither kind of frame.
    #[error("neither STUN nor channel data")]
    NeitherStunNorChannelData,
    /// The magic cookie is not in its place.
    #[error("no magic cookie")]
    NoMagicCookie,
    /// The length of a STUN message is not a multiple of four.
    #[error("length is not a multiple of four")]
    UnalignedLength,
}

fn stun_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let cookie = bytes.get(4..).unwrap_or(&[]);
    let cookie = cookie.get(..MAGIC_COOKIE.len()).unwrap_or(cookie);
    if !MAGIC_COOKIE.starts_with(cookie) {
        return Err(FrameError::NoMagicCookie);
    }
    let Some(length) = length_field(bytes) else {
        return Ok(None);
    };
    if !length.is_multiple_of(4) {
        return Err(FrameError::UnalignedLength);
    }
    Ok(Some(HEADER_BYTES + length))
}

/// Both kinds of frame carry their length in the same place.
fn length_field(bytes: &[u8]) -> Option<usize> {
    let [_, _, a, b] = bytes.first_chunk()?;
    Some(usize::from(u16::from_be_bytes([*a, *b])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_counts_its_padding() {
        assert_eq!(frame_len(&[0x40, 0, 0, 5]), Ok(Some(12)));
        assert_eq!(frame_len(&[0x40, 0, 0, 0]), Ok(Some(4)));
        assert_eq!(frame_len(&[0x7f, 0xfe, 0, 5]), Ok(Some(12)));
        assert_eq!(frame_len(&[0x40, 0, 0]), Ok(None));
    }

    #[test]
    fn a_stun_message_is_its_header_and_its_length() {
        assert_eq!(
            frame_len(&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42]),
            Ok(Some(28))
        );
        assert_eq!(frame_len(&[0, 1, 0, 8]), Ok(Some(28)));
        assert_eq!(frame_len(&[]), Ok(None));
    }

    #[test]
    fn garbage_ends_the_stream_as_early_as_it_shows() {
        assert_eq!(
            frame_len(b"\x80"),
            Err(FrameError::NeitherStunNorChannelData)
        );
        assert_eq!(
            frame_len(b"\xffSMB"),
            Err(FrameError::NeitherStunNorChannelData)
        );
        assert_eq!(
            frame_len(&[0, 1, 0, 0, 0x22]),
            Err(FrameError::NoMagicCookie)
        );
        assert_eq!(frame_len(&[0, 1, 0, 2]), Err(FrameError::UnalignedLength));
    }
}
