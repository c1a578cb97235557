//! The test vectors of RFC 5769, and one of our own for SHA-256.

use std::net::SocketAddr;

use tombolo_stun::{
    Class, IceControlled, IntegrityError, Key, Message, MessageWriter, Method, Nonce,
    PasswordAlgorithm, Priority, Realm, Software, TransactionId, UserHash, Username,
    XorMappedAddress,
};

#[test]
fn the_sample_request_decodes_and_proves_itself() {
    let message = Message::decode(REQUEST).expect("is well formed");
    assert_eq!(message.class(), Class::Request);
    assert_eq!(message.method(), Method::BINDING);
    assert_eq!(message.transaction_id(), TRANSACTION);
    assert_eq!(
        message.required::<Software<'_>>().map(|s| s.as_str()),
        Ok("STUN test client")
    );
    assert_eq!(message.required::<Priority>(), Ok(Priority(0x6e00_01ff)));
    assert_eq!(
        message.required::<IceControlled>(),
        Ok(IceControlled(0x932f_f9b1_5126_3b36))
    );
    assert_eq!(
        message.required::<Username<'_>>().map(|s| s.as_str()),
        Ok("evtj:h6vY")
    );
    assert_eq!(message.check_integrity(&Key::short_term(PASSWORD)), Ok(()));
    assert_eq!(message.check_fingerprint(), Ok(()));
}

#[test]
fn the_sample_ipv4_response_decodes_and_proves_itself() {
    check_response(
        RESPONSE_V4,
        "192.0.2.1:32853".parse().expect("is an address"),
    );
}

#[test]
fn the_sample_ipv6_response_decodes_and_proves_itself() {
    let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";
    check_response(RESPONSE_V6, address.parse().expect("is an address"));
}

#[test]
fn the_sample_request_with_long_term_credentials_decodes_and_proves_itself() {
    let message = Message::decode(LONG_TERM).expect("is well formed");
    assert_eq!(
        message.required::<Username<'_>>().map(|s| s.as_str()),
        Ok("マトリックス")
    );
    assert_eq!(
        message.required::<Realm<'_>>().map(|s| s.as_str()),
        Ok("example.org")
    );
    let nonce = message.required::<Nonce<'_>>().map(|s| s.as_str());
    assert_eq!(nonce, Ok("f//499k954d6OL34oL9FSTvy64sA"));
    let key = Key::long_term("マトリックス", "example.org", "TheMatrIX");
    assert_eq!(message.check_integrity(&key), Ok(()));
    let wrong = Key::long_term("マトリックス", "example.org", "TheMatrix");
    assert_eq!(
        message.check_integrity(&wrong),
        Err(IntegrityError::Mismatch)
    );
}

#[test]
fn the_sample_request_of_rfc_8489_decodes_and_proves_itself() {
    let message = Message::decode(SHA256_LONG_TERM).expect("is well formed");
    let hash = message.required::<UserHash>();
    assert_eq!(hash, Ok(UserHash::new("マトリックス", "example.org")));
    assert_eq!(
        message.required::<PasswordAlgorithm>(),
        Ok(PasswordAlgorithm::Sha256)
    );
    let key = Key::long_term_sha256("マトリックス", "example.org", "TheMatrIX");
    assert_eq!(message.check_integrity(&key), Ok(()));
    let md5 = Key::long_term("マトリックス", "example.org", "TheMatrIX");
    assert_eq!(message.check_integrity(&md5), Err(IntegrityError::Mismatch));
}

#[test]
fn every_truncation_of_every_vector_is_refused() {
    for vector in VECTORS {
        for end in 0..vector.len() {
            assert!(
                Message::decode(&vector[..end]).is_err(),
                "{end} bytes were accepted"
            );
        }
    }
}

#[test]
fn every_vector_with_a_byte_too_many_is_refused() {
    for vector in VECTORS {
        let longer = [vector, &[0]].concat();
        assert!(Message::decode(&longer).is_err());
    }
}

/// A truncation that also mends the header's length is a message again, but no longer a proof.
#[test]
fn a_truncation_that_mends_the_length_proves_nothing() {
    for vector in VECTORS {
        for end in (20..vector.len()).step_by(4) {
            let mut bytes = vector[..end].to_vec();
            bytes[2..4].copy_from_slice(&u16::try_from(end - 20).expect("short").to_be_bytes());
            let Ok(message) = Message::decode(&bytes) else {
                continue;
            };
            assert!(message.check_fingerprint().is_err());
            let key = Key::long_term("マトリックス", "example.org", "TheMatrIX");
            let is_whole = vector[end..].starts_with(&[0x80, 0x28]);
            assert!(message.check_integrity(&key).is_err());
            let short_term = message.check_integrity(&Key::short_term(PASSWORD));
            assert_eq!(short_term.is_ok(), is_whole, "cut at {end}");
        }
    }
}

#[test]
fn every_flipped_bit_of_the_sample_request_is_noticed() {
    for bit in 0..REQUEST.len() * 8 {
        let mut bytes = REQUEST.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let is_proven = Message::decode(&bytes).is_ok_and(|message| {
            message.check_fingerprint().is_ok()
                && message.check_integrity(&Key::short_term(PASSWORD)).is_ok()
        });
        assert!(!is_proven, "bit {bit} went unnoticed");
    }
}

#[test]
fn sha256_integrity_proves_itself_and_is_preferred() {
    let right = Key::long_term_sha256("user", "example.org", "secret");
    let other = Key::long_term("user", "example.org", "secret");
    let mut bytes = Vec::new();
    MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TRANSACTION)
        .integrity(&other)
        .integrity_sha256(&right)
        .fingerprint();
    let message = Message::decode(&bytes).expect("is well formed");
    assert_eq!(message.check_integrity(&right), Ok(()));
    assert_eq!(
        message.check_integrity(&other),
        Err(IntegrityError::Mismatch)
    );
    assert_eq!(message.check_fingerprint(), Ok(()));
}

#[test]
fn truncated_sha256_integrity_is_refused_unless_the_usage_allows_it() {
    let key = Key::short_term("secret");
    for bytes in [16, 20, 24, 28, 32] {
        let mut buffer = Vec::new();
        MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TRANSACTION)
            .integrity_sha256_truncated(&key, bytes);
        let message = Message::decode(&buffer).expect("is well formed");
        assert_eq!(message.check_integrity(&key).is_ok(), bytes == 32);
        assert_eq!(message.check_integrity_truncated(&key, bytes), Ok(()));
        let stricter = message.check_integrity_truncated(&key, bytes + 4);
        assert_eq!(
            stricter.is_ok(),
            bytes == 32,
            "32 is the most that can be asked for"
        );
    }
}

fn check_response(bytes: &[u8], address: SocketAddr) {
    let message = Message::decode(bytes).expect("is well formed");
    assert_eq!(message.class(), Class::Success);
    assert_eq!(message.method(), Method::BINDING);
    assert_eq!(message.transaction_id(), TRANSACTION);
    assert_eq!(
        message.required::<Software<'_>>().map(|s| s.as_str()),
        Ok("test vector")
    );
    assert_eq!(
        message.required::<XorMappedAddress>(),
        Ok(XorMappedAddress(address))
    );
    assert_eq!(message.check_integrity(&Key::short_term(PASSWORD)), Ok(()));
    assert_eq!(message.check_fingerprint(), Ok(()));
}

pub(crate) const VECTORS: [&[u8]; 5] = [
    REQUEST,
    RESPONSE_V4,
    RESPONSE_V6,
    LONG_TERM,
    SHA256_LONG_TERM,
];

const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

const TRANSACTION: TransactionId = TransactionId([
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
]);

/// RFC 5769 §2.1.
const REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\
    \xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x10STUN test client\
    \x00\x24\x00\x04\x6e\x00\x01\xff\
    \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
    \x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\
    \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
    \x80\x28\x00\x04\xe5\x7a\x3b\xcf";

/// RFC 5769 §2.2.
const RESPONSE_V4: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\
    \xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0btest vector\x20\
    \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
    \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
    \x80\x28\x00\x04\xc0\x7d\x4c\x96";

/// RFC 5769 §2.3.
const RESPONSE_V6: &[u8] = b"\x01\x01\x00\x48\x21\x12\xa4\x42\
    \xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0btest vector\x20\
    \x00\x20\x00\x14\x00\x02\xa1\x47\
    \x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
    \x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
    \x80\x28\x00\x04\xc8\xfb\x0b\x4c";

/// RFC 5769 §2.4.
const LONG_TERM: &[u8] = b"\x00\x01\x00\x60\x21\x12\xa4\x42\
    \x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
    \x00\x06\x00\x12\
    \xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00\
    \x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\
    \x00\x14\x00\x0bexample.org\x00\
    \x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66";

/// RFC 8489 appendix B.1, as corrected by erratum 6268.
const SHA256_LONG_TERM: &[u8] = b"\x00\x01\x00\x90\x21\x12\xa4\x42\
    \x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
    \x00\x1e\x00\x20\
    \x4a\x3c\xf3\x8f\xef\x69\x92\xbd\xa9\x52\xc6\x78\x04\x17\xda\x0f\
    \x24\x81\x94\x15\x56\x9e\x60\xb2\x05\xc4\x6e\x41\x40\x7f\x17\x04\
    \x00\x15\x00\x29obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA\x00\x00\x00\
    \x00\x14\x00\x0bexample.org\x00\
    \x00\x1d\x00\x04\x00\x02\x00\x00\
    \x00\x1c\x00\x20\
    \xb5\xc7\xbf\x00\x5b\x6c\x52\xa2\x1c\x51\xc5\xe8\x92\xf8\x19\x24\
    \x13\x62\x96\xcb\x92\x7c\x43\x14\x93\x09\x27\x8c\xc6\x51\x8e\x65";
