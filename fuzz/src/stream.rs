//! The framing of STUN and ChannelData in a byte stream: wherever a stream is cut, the same frames
//! come out of it, and the server survives them.

use std::time::{Duration, Instant};

use tombolo_stun::stream::frame_len;
use tombolo_stun::{ChannelData, Kind, Message};
use tombolo_turn::server::{Config, FiveTuple, Server, Transport};

/// Cuts `data` into frames. Its first byte says into which pieces it arrives.
pub fn run(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else {
        return;
    };
    let whole = frames(data.len().max(1), data);
    assert_eq!(frames(usize::from(*cut) + 1, data), whole);
    for frame in &whole {
        check_growing(frame);
    }
    serve(&whole);
}

/// Returns the frames up to the end or to the first byte that begins none.
fn frames(piece: usize, data: &[u8]) -> Vec<Vec<u8>> {
    let mut buffer = Vec::new();
    let mut frames = Vec::new();
    for piece in data.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match frame_len(&buffer) {
                Ok(Some(length)) if length <= buffer.len() => {
                    frames.push(buffer.drain(..length).collect());
                }
                Ok(Some(length)) => {
                    assert!(length <= FRAME_BYTES_MAX);
                    break;
                }
                Ok(None) => {
                    assert!(buffer.len() < 4, "four bytes tell the length");
                    break;
                }
                Err(_) => return frames,
            }
        }
    }
    frames
}

/// What is known of a frame stays true while more of it arrives.
fn check_growing(frame: &[u8]) {
    let mut known = None;
    for end in 0..=frame.len().min(HEAD_BYTES) {
        let length = frame_len(&frame[..end]).expect("is the beginning of a frame");
        assert!(known.is_none() || known == length);
        known = length;
    }
    assert_eq!(known, Some(frame.len()));
    match Kind::of(frame) {
        Kind::ChannelData => {
            // The last number of the range is reserved; its frames can be skipped.
            let Ok(decoded) = ChannelData::decode(frame) else {
                assert!(frame.starts_with(&[0x7f, 0xff]));
                return;
            };
            assert_eq!((4 + decoded.data.len()).next_multiple_of(4), frame.len());
        }
        Kind::Stun => {
            if let Ok(message) = Message::decode(frame) {
                assert_eq!(message.as_bytes(), frame);
            }
        }
        Kind::Other => {
            assert!(Message::decode(frame).is_err());
        }
    }
}

fn serve(frames: &[Vec<u8>]) {
    let now = Instant::now();
    let config = Config::new([3; 32]);
    let mut server = Server::new(config, [1; 32], now, Duration::from_secs(1_800_000_000));
    let client = FiveTuple {
        transport: Transport::Tcp,
        client: ([8, 8, 8, 8], 1000).into(),
        server: ([9, 9, 9, 9], 3478).into(),
    };
    for frame in frames {
        assert_eq!(server.handle_client(now, client, frame), None);
        while let Some(reply) = server.poll_transmit() {
            assert_eq!(frame_len(&reply.bytes), Ok(Some(reply.bytes.len())));
        }
    }
    server.handle_client_gone(now, client);
    assert_eq!(server.poll_timeout(), None);
}

/// Header, and the longest length that it can say.
const FRAME_BYTES_MAX: usize = 20 + 65_536;
/// Length and cookie are in the first bytes.
const HEAD_BYTES: usize = 24;
