//! Messages between peers, and how they are framed.
//!
//! * unreliable: one QUIC datagram;
//! * reliable, ordered: on one stream per direction, each message behind its length;
//! * reliable, unordered: a stream of its own.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::net::Via;

/// Longest message on a reliable lane, in bytes.
pub const RELIABLE_BYTES_MAX: usize = 512 * 1024;
/// Longest unreliable message that every path carries, in bytes; most carry a little more, see
/// [`Peer::unreliable_max`](crate::Peer::unreliable_max).
pub const UNRELIABLE_BYTES_ALWAYS: usize = 1100;
/// First byte of a stream.
pub(super) const STREAM_ORDERED: u8 = 1;
pub(super) const STREAM_UNORDERED: u8 = 2;
/// Bytes in front of a message on the ordered stream.
pub(super) const LENGTH_BYTES: usize = 4;
/// More first messages than that go over the link instead.
pub(super) const FIRST_MESSAGES_MAX: usize = 64;

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// May be lost, and may overtake; never waits. Up to the path's limit, about 1150 bytes.
    Unreliable,
    /// Arrives once, in order with the other messages of this lane. Up to 512 KiB.
    Reliable,
    /// Arrives once, and does not wait for other messages. Up to 512 KiB.
    ReliableUnordered,
}

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The lane on which it was sent.
    pub lane: Lane,
    /// What was sent.
    pub payload: Bytes,
    /// By which way the peer's packets came when this message was complete.
    pub via: Via,
}

/// Frames a message for the ordered stream.
pub(super) fn frame(payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + payload.len());
    bytes.put_u32(u32::try_from(payload.len()).expect("a message is at most 512 KiB"));
    bytes.extend_from_slice(payload);
    bytes.freeze()
}

/// Writes the first messages of an introduction, before they are sealed.
pub(super) fn encode_first<'a>(messages: impl Iterator<Item = (Lane, &'a Bytes)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (lane, payload) in messages {
        bytes.put_u8(match lane {
            Lane::Unreliable => 0,
            Lane::Reliable => 1,
            Lane::ReliableUnordered => 2,
        });
        bytes.put_u32(u32::try_from(payload.len()).expect("a message is at most 512 KiB"));
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// Reads the first messages; `None` when the peer wrote something else.
pub(super) fn decode_first(mut bytes: Bytes) -> Option<Vec<Message>> {
    let mut messages = Vec::new();
    while bytes.has_remaining() {
        if bytes.remaining() < 1 + LENGTH_BYTES || messages.len() == FIRST_MESSAGES_MAX {
            return None;
        }
        let lane = match bytes.get_u8() {
            0 => Lane::Unreliable,
            1 => Lane::Reliable,
            2 => Lane::ReliableUnordered,
            _ => return None,
        };
        let len = usize::try_from(bytes.get_u32()).ok()?;
        if len > bytes.remaining() {
            return None;
        }
        messages.push(Message {
            lane,
            payload: bytes.split_to(len),
            via: Via::Relay,
        });
    }
    Some(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_messages_come_back_and_their_truncations_are_refused() {
        let sent = [
            (Lane::Reliable, Bytes::from("hello")),
            (Lane::Unreliable, Bytes::from("x")),
        ];
        let bytes = encode_first(sent.iter().map(|(lane, payload)| (*lane, payload)));
        let read = decode_first(bytes.clone().into()).unwrap();
        let read: Vec<_> = read.into_iter().map(|m| (m.lane, m.payload)).collect();
        assert_eq!(read, sent);
        for len in 1..bytes.len() {
            let whole_first = len == 1 + LENGTH_BYTES + 5;
            let cut = decode_first(Bytes::copy_from_slice(&bytes[..len]));
            assert_eq!(cut.is_some(), whole_first, "cut at {len}");
        }
        assert_eq!(
            decode_first(Bytes::from_static(&[9, 0, 0, 0, 0])),
            None,
            "unknown lane"
        );
        let empty = Bytes::new();
        let flood = std::iter::repeat_n((Lane::Reliable, &empty), FIRST_MESSAGES_MAX + 1);
        let flood = encode_first(flood);
        assert_eq!(decode_first(flood.into()), None);
    }
}
