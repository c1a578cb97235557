use tombolo_stun::{
    AdditionalAddressFamily, AddressErrorCode, AddressFamily, Attribute, AttributeError,
    AttributeType, ChangeRequest, ChannelData, ChannelNumber, Class, DecodeError, ErrorCode,
    EvenPort, FingerprintError, HEADER_BYTES, Icmp, IntegrityError, Key, MappedAddress, Message,
    MessageWriter, Method, Nonce, Priority, RawAttribute, Realm, RequestedAddressFamily,
    RequestedTransport, Software, TransactionId, TransactionTransmitCounter, UseCandidate,
    Username, WriteAttribute, XorMappedAddress, stream,
};

use crate::rfc5769::VECTORS;

#[test]
fn every_lie_in_a_length_field_is_refused_or_harmless() {
    for vector in VECTORS {
        for offset in (0..vector.len() - 1).step_by(2) {
            for lie in [0, 1, 3, 4, 5, 19, 20, 0x7fff, 0x8000, 0xfffc, 0xffff] {
                let mut bytes = vector.to_vec();
                bytes[offset..offset + 2].copy_from_slice(&u16::to_be_bytes(lie));
                exercise(&bytes);
            }
        }
    }
}

#[test]
fn an_attribute_that_reaches_one_byte_too_far_is_refused() {
    let mut bytes = request(|writer| {
        writer.attribute(&Software::new("abc").expect("short"));
    });
    bytes[23] = 4;
    assert!(Message::decode(&bytes).is_ok());
    bytes[23] = 5;
    assert_eq!(
        Message::decode(&bytes).err(),
        Some(DecodeError::AttributeTruncated)
    );
}

#[test]
fn an_attribute_header_cut_in_half_is_refused() {
    let mut bytes = request(|_| {});
    bytes.extend_from_slice(&[0, 6]);
    bytes[3] = 2;
    assert_eq!(
        Message::decode(&bytes).err(),
        Some(DecodeError::UnalignedLength)
    );
}

#[test]
fn each_rule_of_the_header_has_its_own_error() {
    let whole = request(|_| {});
    let with = |index: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[index] = value;
        Message::decode(&bytes).err()
    };
    assert_eq!(
        Message::decode(&whole[..19]).err(),
        Some(DecodeError::TooShort)
    );
    assert_eq!(with(0, 0x40), Some(DecodeError::NotStun));
    assert_eq!(with(4, 0x20), Some(DecodeError::NoMagicCookie));
    assert_eq!(with(3, 0x02), Some(DecodeError::UnalignedLength));
    assert_eq!(with(3, 0x04), Some(DecodeError::LengthMismatch));
}

#[test]
fn what_follows_message_integrity_is_ignored() {
    let key = Key::short_term("secret");
    let mut bytes = request(|writer| {
        writer
            .attribute(&Username::new("real").expect("short"))
            .integrity(&key);
    });
    append(&mut bytes, AttributeType::USERNAME, b"fake");
    append(&mut bytes, AttributeType::USE_CANDIDATE, b"");
    append(&mut bytes, AttributeType(0x7fff), b"");
    let message = Message::decode(&bytes).expect("is well formed");
    assert_eq!(message.check_integrity(&key), Ok(()));
    assert_eq!(message.all::<Username<'_>>().count(), 1);
    assert_eq!(message.attribute::<UseCandidate>(), Ok(None));
    assert_eq!(
        message.unknown_required(&[AttributeType::USERNAME]).count(),
        0
    );
}

#[test]
fn sha256_integrity_counts_behind_the_older_one_and_nothing_between_them_does() {
    let key = Key::short_term("secret");
    let bytes = request(|writer| {
        writer.integrity(&key).integrity_sha256(&key).fingerprint();
    });
    let message = Message::decode(&bytes).expect("is well formed");
    let kinds: Vec<_> = message
        .attributes()
        .map(|attribute| attribute.kind)
        .collect();
    assert_eq!(
        kinds,
        [
            AttributeType::MESSAGE_INTEGRITY,
            AttributeType::MESSAGE_INTEGRITY_SHA256,
            AttributeType::FINGERPRINT
        ]
    );

    let mut bytes = request(|writer| {
        writer.integrity_sha256(&key);
    });
    append(&mut bytes, AttributeType::MESSAGE_INTEGRITY, &[0; 20]);
    let message = Message::decode(&bytes).expect("is well formed");
    assert!(!message.has(AttributeType::MESSAGE_INTEGRITY));
    assert_eq!(message.check_integrity(&key), Ok(()));
}

#[test]
fn a_second_message_integrity_does_not_replace_the_first() {
    let key = Key::short_term("secret");
    let mut bytes = request(|writer| {
        writer.integrity(&key);
    });
    append(&mut bytes, AttributeType::MESSAGE_INTEGRITY, &[0; 20]);
    let message = Message::decode(&bytes).expect("is well formed");
    assert_eq!(message.check_integrity(&key), Ok(()));
}

#[test]
fn nothing_may_follow_the_fingerprint() {
    let mut bytes = request(|writer| {
        writer.fingerprint();
    });
    append(&mut bytes, AttributeType::USE_CANDIDATE, b"");
    assert_eq!(
        Message::decode(&bytes).err(),
        Some(DecodeError::AfterFingerprint)
    );
}

#[test]
fn integrity_of_a_wrong_length_is_refused_without_being_compared() {
    for (kind, lengths) in [
        (
            AttributeType::MESSAGE_INTEGRITY,
            &[0, 4, 16, 19, 21, 24, 32][..],
        ),
        (
            AttributeType::MESSAGE_INTEGRITY_SHA256,
            &[0, 4, 12, 15, 17, 31, 33, 36, 64][..],
        ),
    ] {
        for length in lengths {
            let mut bytes = request(|_| {});
            append(&mut bytes, kind, &vec![0; *length]);
            let message = Message::decode(&bytes).expect("is well formed");
            let error = message.check_integrity_truncated(&Key::short_term(""), 16);
            assert_eq!(error, Err(IntegrityError::Length), "{kind} of {length}");
        }
    }
}

#[test]
fn missing_proofs_are_told_apart_from_wrong_ones() {
    let bytes = request(|_| {});
    let message = Message::decode(&bytes).expect("is well formed");
    assert_eq!(message.check_fingerprint(), Err(FingerprintError::Missing));
    assert_eq!(
        message.check_integrity(&Key::short_term("")),
        Err(IntegrityError::Missing)
    );
    let mut bytes = bytes;
    append(&mut bytes, AttributeType::FINGERPRINT, &[0; 4]);
    let message = Message::decode(&bytes).expect("is well formed");
    assert_eq!(message.check_fingerprint(), Err(FingerprintError::Mismatch));
}

#[test]
fn the_first_of_repeated_attributes_counts() {
    let bytes = request(|writer| {
        writer.attribute(&Priority(1)).attribute(&Priority(2));
    });
    let message = Message::decode(&bytes).expect("is well formed");
    assert_eq!(message.attribute::<Priority>(), Ok(Some(Priority(1))));
}

#[test]
fn unknown_attributes_are_reported_when_they_must_be_understood() {
    let bytes = request(|writer| {
        for kind in [0x7ffe, 0x8001, 0x0024, 0xffff, 0x7fff] {
            writer.attribute(&RawAttribute {
                kind: AttributeType(kind),
                value: b"?",
            });
        }
    });
    let message = Message::decode(&bytes).expect("is well formed");
    let unknown: Vec<_> = message
        .unknown_required(&[AttributeType::PRIORITY])
        .collect();
    assert_eq!(unknown, [AttributeType(0x7ffe), AttributeType(0x7fff)]);
}

#[test]
fn values_of_wrong_length_are_refused_when_they_are_asked_for() {
    let bytes = request(|writer| {
        writer.attribute(&RawAttribute {
            kind: AttributeType::PRIORITY,
            value: b"12345",
        });
    });
    let message = Message::decode(&bytes).expect("is well formed");
    let error = message.attribute::<Priority>();
    assert_eq!(error, Err(AttributeError::Length(AttributeType::PRIORITY)));
    let error = message.required::<Username<'_>>();
    assert_eq!(
        error.err(),
        Some(AttributeError::Missing(AttributeType::USERNAME))
    );
}

#[test]
fn text_that_is_no_utf8_or_too_long_is_refused() {
    for value in [&b"\xff\xfe"[..], "x".repeat(764).as_bytes()] {
        let bytes = request(|writer| {
            writer.attribute(&RawAttribute {
                kind: AttributeType::USERNAME,
                value,
            });
        });
        let message = Message::decode(&bytes).expect("is well formed");
        assert!(message.attribute::<Username<'_>>().is_err());
    }
}

#[test]
fn longer_texts_are_read_than_are_written() {
    let bytes_max = "x".repeat(508);
    assert!(Username::new(&bytes_max).is_ok());
    assert!(Username::new(&format!("{bytes_max}x")).is_err());
    // Four bytes each.
    for (chars, is_ok) in [(127, true), (128, false)] {
        let text = "\u{1f600}".repeat(chars);
        assert_eq!(Realm::new(&text).is_ok(), is_ok);
        assert_eq!(Nonce::new(&text).is_ok(), is_ok);
        assert_eq!(Software::new(&text).is_ok(), is_ok);
        assert_eq!(ErrorCode::new(400, &text).is_ok(), is_ok);
    }
    let value = "x".repeat(763);
    for kind in [
        AttributeType::USERNAME,
        AttributeType::REALM,
        AttributeType::NONCE,
        AttributeType::SOFTWARE,
    ] {
        let value = value.as_bytes();
        let bytes = request(|writer| {
            writer.attribute(&RawAttribute { kind, value });
        });
        let message = Message::decode(&bytes).expect("is well formed");
        let read = match kind {
            AttributeType::USERNAME => message.required().map(|one: Username<'_>| one.as_str()),
            AttributeType::REALM => message.required().map(|one: Realm<'_>| one.as_str()),
            AttributeType::NONCE => message.required().map(|one: Nonce<'_>| one.as_str()),
            _ => message.required().map(|one: Software<'_>| one.as_str()),
        };
        assert_eq!(read.map(str::len), Ok(763), "{kind}");
    }
}

#[test]
fn reserved_bits_are_zero_when_written_and_ignored_when_read() {
    fn check<'a, A>(attribute: &A, reserved: &[(usize, u8)], bytes: &'a mut Vec<u8>)
    where
        A: Attribute<'a> + WriteAttribute + PartialEq + std::fmt::Debug,
    {
        *bytes = request(|writer| {
            writer.attribute(attribute);
        });
        for (index, bits) in reserved {
            let byte = &mut bytes[HEADER_BYTES + 4 + index];
            assert_eq!(*byte & bits, 0, "{attribute:?} byte {index}");
            *byte |= bits;
        }
        let message = Message::decode(bytes).expect("is well formed");
        assert_eq!(message.required::<A>().as_ref(), Ok(attribute));
    }
    let address = "192.0.2.1:7".parse().expect("a literal");
    let error = ErrorCode::new(420, "x").expect("is short");
    let family = AddressFamily::V6;
    let [mut a, mut b, mut c, mut d, mut e] = [const { Vec::new() }; 5];
    check(&MappedAddress(address), &[(0, 0xff)], &mut a);
    check(&XorMappedAddress(address), &[(0, 0xff)], &mut b);
    let number = ChannelNumber::new(0x4abc).expect("in range");
    check(&number, &[(2, 0xff), (3, 0xff)], &mut c);
    let three = [(1, 0xff), (2, 0xff), (3, 0xff)];
    check(&RequestedAddressFamily(family), &three, &mut d);
    check(&RequestedTransport::UDP, &three, &mut e);
    let [mut a, mut b, mut c, mut d, mut e] = [const { Vec::new() }; 5];
    check(&AdditionalAddressFamily(family), &three, &mut a);
    check(&error, &[(0, 0xff), (1, 0xff), (2, 0xf8)], &mut b);
    let error_of_family = AddressErrorCode { family, error };
    check(&error_of_family, &[(1, 0xff), (2, 0xf8)], &mut c);
    let even = EvenPort { reserve_next: true };
    check(&even, &[(0, 0x7f)], &mut d);
    let icmp = Icmp {
        icmp_type: 3,
        icmp_code: 4,
        error_data: [1, 2, 3, 4],
    };
    check(&icmp, &[(0, 0xff), (1, 0xff)], &mut e);
    let counter = TransactionTransmitCounter {
        requests: 3,
        responses: 2,
    };
    let [mut a, mut b] = [const { Vec::new() }; 2];
    check(&counter, &[(0, 0xff), (1, 0xff)], &mut a);
    let change = ChangeRequest {
        ip: true,
        port: false,
    };
    let reserved = [(0, 0xff), (1, 0xff), (2, 0xff), (3, 0xf9)];
    check(&change, &reserved, &mut b);
}

#[test]
fn an_error_code_outside_300_to_699_is_refused() {
    for code in [0, 299, 700, 65_535] {
        assert!(ErrorCode::new(code, "").is_err(), "{code}");
    }
    for (class, number) in [(0, 0), (2, 99), (7, 0), (4, 100), (4, 255)] {
        let bytes = request(|writer| {
            writer.attribute(&RawAttribute {
                kind: AttributeType::ERROR_CODE,
                value: &[0, 0, class, number],
            });
        });
        let message = Message::decode(&bytes).expect("is well formed");
        assert!(
            message.attribute::<ErrorCode<'_>>().is_err(),
            "{class} {number}"
        );
    }
}

#[test]
#[should_panic(expected = "attributes go before integrity")]
fn writing_an_attribute_where_no_reader_would_see_it_is_a_bug() {
    request(|writer| {
        writer
            .integrity(&Key::short_term("secret"))
            .attribute(&UseCandidate);
    });
}

/// Reads everything that can be read; the test is that nothing panics.
fn exercise(bytes: &[u8]) {
    let _ = ChannelData::decode(bytes);
    let _ = stream::frame_len(bytes);
    let Ok(message) = Message::decode(bytes) else {
        return;
    };
    let _ = (message.class(), message.method(), message.transaction_id());
    let _ = message.check_fingerprint();
    let _ = message.check_integrity_truncated(&Key::short_term("secret"), 0);
    let _ = message.unknown_required(&[]).count();
    let length: usize = message
        .attributes()
        .map(|attribute| attribute.value.len())
        .sum();
    assert!(length <= bytes.len());
}

fn request(write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let transaction = TransactionId([9; 12]);
    let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, transaction);
    write(&mut writer);
    writer.finish();
    bytes
}

/// Appends an attribute that the writer would refuse, and mends the header's length.
fn append(bytes: &mut Vec<u8>, kind: AttributeType, value: &[u8]) {
    bytes.extend_from_slice(&kind.0.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(value.len()).expect("short").to_be_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let length = u16::try_from(bytes.len() - 20).expect("short");
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
}
