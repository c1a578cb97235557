//! The frames of a session: however a stream is cut, the same frames come out, and each can be
//! encoded again.

use std::fmt::Debug;

use bytes::Bytes;
use tombolo_wire::frame::{self, DecodeError, Decoder, Frame};
use tombolo_wire::v1::{ClientFrame, ServerFrame};

/// Decodes `data` as both directions' frames. Its first byte says into which pieces it is cut.
pub fn run(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else {
        return;
    };
    check::<ClientFrame>(usize::from(*cut) + 1, data);
    check::<ServerFrame>(usize::from(*cut) + 1, data);
}

fn check<F: Frame + PartialEq + Debug>(piece: usize, data: &[u8]) {
    let whole = decode_all::<F>(data.len().max(1), data);
    assert_eq!(
        decode_all::<F>(piece, data),
        whole,
        "cut into pieces of {piece}"
    );

    let alone: Result<F, _> = frame::decode(Bytes::copy_from_slice(data));
    if let Ok(one) = &alone {
        again(one);
    }
    if let Ok(one) = frame::decode_datagram::<F>(Bytes::copy_from_slice(data)) {
        assert_eq!(one.seq(), 0, "datagrams carry nothing reliable");
        assert_eq!(alone, Ok(one));
    }
}

/// Returns the frames up to the end or the first error, which ends the stream.
fn decode_all<F: Frame + PartialEq>(piece: usize, data: &[u8]) -> (Vec<F>, Option<DecodeError>) {
    let mut decoder = Decoder::new();
    let mut frames = Vec::new();
    for piece in data.chunks(piece) {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode::<F>(&mut input) {
                Ok(Some(one)) => {
                    again(&one);
                    frames.push(one);
                }
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(input.is_empty(), "what is no frame yet is kept");
    }
    (frames, None)
}

/// Encodes what was decoded. Unknown fields are lost, so it may get shorter, not longer.
fn again<F: Frame + PartialEq>(one: &F) {
    let Ok(encoded) = frame::encode(one) else {
        return;
    };
    let decoded: F = frame::decode(encoded.clone()).expect("was just encoded");
    assert_eq!(frame::encode(&decoded).expect("fits as before"), encoded);
}
