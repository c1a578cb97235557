use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use rand::rngs::ChaCha8Rng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use tombolo_wire::frame::{
    DATAGRAM_BYTES_MAX, DecodeError, Decoder, EncodeError, FRAME_BYTES_MAX, decode,
    decode_datagram, encode, encode_datagram, write,
};
use tombolo_wire::v1::{self, client_frame, server_frame};

#[test]
fn frames_come_back_however_the_stream_is_cut() {
    let frames = frames();
    let mut stream = BytesMut::new();
    for frame in &frames {
        write(frame, &mut stream).unwrap();
    }
    let stream = stream.freeze();

    for seed in 0..200 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut decoder = Decoder::new();
        let mut received = Vec::new();
        let mut rest = stream.clone();
        while !rest.is_empty() {
            let mut piece = rest.split_to(random.random_range(1..=rest.len().min(400)));
            while let Some(frame) = decoder.decode::<v1::ClientFrame>(&mut piece).unwrap() {
                received.push(frame);
            }
        }
        assert_eq!(received, frames, "seed {seed}");
        assert!(decoder.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_stream_that_ends_early_gives_the_whole_frames_and_no_more() {
    let frames = frames();
    let mut stream = BytesMut::new();
    let mut ends = Vec::new();
    for frame in &frames {
        write(frame, &mut stream).unwrap();
        ends.push(stream.len());
    }
    let stream = stream.freeze();

    for end in 0..stream.len() {
        let mut decoder = Decoder::new();
        let mut input = stream.slice(..end);
        let mut count = 0;
        while decoder
            .decode::<v1::ClientFrame>(&mut input)
            .unwrap()
            .is_some()
        {
            count += 1;
        }
        assert_eq!(
            count,
            ends.iter().filter(|&&whole| whole <= end).count(),
            "cut at {end}"
        );
        assert_eq!(
            decoder.is_empty(),
            end == 0 || ends.contains(&end),
            "cut at {end}"
        );
    }
}

#[test]
fn a_hostile_length_is_refused_before_any_of_it_is_kept() {
    for length in [
        FRAME_BYTES_MAX as u32 + 1,
        0x7fff_ffff,
        u32::MAX,
        0x4745_5420,
    ] {
        let mut input = BytesMut::new();
        input.put_u32(length);
        input.put_bytes(0, 64);
        let result = Decoder::new().decode::<v1::ClientFrame>(&mut input.freeze());
        assert_eq!(result, Err(DecodeError::TooLarge), "length {length}");
    }
}

#[test]
fn a_node_may_say_more_in_one_frame_than_a_device() {
    let name = "u".repeat(FRAME_BYTES_MAX);
    let welcome = v1::ServerFrame {
        body: Some(server_frame::Body::Response(v1::Response {
            result: Some(v1::response::Result::Left(v1::Left { room: name })),
            ..v1::Response::default()
        })),
        ..v1::ServerFrame::default()
    };
    let bytes = encode(&welcome).unwrap();
    assert_eq!(decode(bytes.clone()), Ok(welcome));
    let as_device = decode::<v1::ClientFrame>(bytes);
    assert_eq!(as_device, Err(DecodeError::TooLarge));
}

#[test]
fn every_truncation_of_a_frame_is_a_frame_or_an_error_but_never_a_panic() {
    for frame in frames() {
        let bytes = encode(&frame).unwrap();
        for end in 0..bytes.len() {
            let _ = decode::<v1::ClientFrame>(bytes.slice(..end));
            let _ = decode::<v1::ServerFrame>(bytes.slice(..end));
        }
    }
}

#[test]
fn garbage_is_a_frame_or_an_error_but_never_a_panic() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..20_000 {
        let mut garbage = vec![0; random.random_range(0..300)];
        random.fill_bytes(&mut garbage);
        let garbage = Bytes::from(garbage);
        let _ = decode::<v1::ClientFrame>(garbage.clone());
        let _ = decode_datagram::<v1::ServerFrame>(garbage.clone());
        let mut input = garbage;
        let mut decoder = Decoder::new();
        while let Ok(Some(_)) = decoder.decode::<v1::ClientFrame>(&mut input) {}
    }
}

#[test]
fn a_frame_above_the_limit_is_neither_written_nor_read() {
    let frame = send(FRAME_BYTES_MAX);
    let mut stream = BytesMut::new();
    let too_large = EncodeError::TooLarge {
        bytes: frame.encoded_len(),
        bytes_max: FRAME_BYTES_MAX,
    };
    assert_eq!(write(&frame, &mut stream), Err(too_large));
    assert!(stream.is_empty());
    assert_eq!(encode(&frame), Err(too_large));
    let bytes = Bytes::from(frame.encode_to_vec());
    assert_eq!(decode::<v1::ClientFrame>(bytes), Err(DecodeError::TooLarge));
}

#[test]
fn the_largest_payloads_with_the_longest_names_fit() {
    let delivery = |bytes| v1::ServerFrame {
        seq: 0,
        ack: u64::MAX,
        body: Some(server_frame::Body::Delivery(v1::Delivery {
            room: "r".repeat(tombolo_wire::ROOM_BYTES_MAX),
            from: "u".repeat(tombolo_wire::USER_BYTES_MAX),
            payload: Bytes::from(vec![0; bytes]),
            ..v1::Delivery::default()
        })),
    };
    assert!(encode(&delivery(tombolo_wire::RELIABLE_BYTES_MAX)).is_ok());
    assert!(encode_datagram(&delivery(tombolo_wire::UNRELIABLE_BYTES_MAX)).is_ok());
}

#[test]
fn a_datagram_holds_one_small_unreliable_frame() {
    let mut frame = send(100);
    let bytes = encode_datagram(&frame).unwrap();
    assert_eq!(decode_datagram(bytes), Ok(frame.clone()));

    frame.seq = 1;
    assert_eq!(encode_datagram(&frame), Err(EncodeError::Reliable));
    let reliable = encode(&frame).unwrap();
    assert_eq!(
        decode_datagram::<v1::ClientFrame>(reliable),
        Err(DecodeError::Reliable)
    );

    let frame = send(DATAGRAM_BYTES_MAX);
    assert!(encode_datagram(&frame).is_err());
    let large = encode(&frame).unwrap();
    assert_eq!(
        decode_datagram::<v1::ClientFrame>(large),
        Err(DecodeError::TooLarge)
    );
}

fn frames() -> Vec<v1::ClientFrame> {
    let hello = v1::Hello {
        version: 1,
        token: "a.b.c".into(),
        keys: Some(v1::DeviceKeys {
            identity: Bytes::from_static(&[1; 32]),
            seal: Bytes::from_static(&[2; 32]),
        }),
        resume: Some(v1::Resume {
            token: Bytes::from_static(&[3; 32]),
        }),
        agent: "test".into(),
        life: 0,
        sent_here: false,
        comes_nearer: false,
    };
    vec![
        v1::ClientFrame {
            body: Some(client_frame::Body::Hello(hello)),
            ..Default::default()
        },
        v1::ClientFrame::default(),
        send(1000),
        v1::ClientFrame {
            seq: u64::MAX,
            ack: u64::MAX,
            body: None,
        },
    ]
}

fn send(bytes: usize) -> v1::ClientFrame {
    v1::ClientFrame {
        seq: 0,
        ack: 3,
        body: Some(client_frame::Body::Send(v1::Send {
            room: "lobby".into(),
            to: vec!["bob".into()],
            payload: Bytes::from(vec![7; bytes]),
            ..v1::Send::default()
        })),
    }
}
