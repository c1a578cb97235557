use std::fmt::Debug;
use std::net::SocketAddr;

use tombolo_stun::*;

#[test]
fn every_address_attribute_comes_back_as_it_went_in() {
    for address in [
        "192.0.2.1:3478",
        "[2001:db8::1]:65535",
        "0.0.0.0:0",
        "[::]:0",
    ] {
        let address: SocketAddr = address.parse().expect("is an address");
        check(&MappedAddress(address));
        check(&XorMappedAddress(address));
        check(&XorPeerAddress(address));
        check(&XorRelayedAddress(address));
        check(&AlternateServer(address));
        check(&ResponseOrigin(address));
        check(&OtherAddress(address));
    }
}

#[test]
fn every_text_attribute_comes_back_as_it_went_in() {
    for text in ["", "x", "xy", "xyz", "wxyz", "マトリックス"] {
        check(&Username::new(text).expect("short"));
        check(&Realm::new(text).expect("short"));
        check(&Nonce::new(text).expect("short"));
        check(&Software::new(text).expect("short"));
        check(&AlternateDomain::new(text).expect("short"));
        check(&Origin::new(text).expect("short"));
        check(&ThirdPartyAuthorization::new(text).expect("short"));
        check(&AccessToken::new(text.as_bytes()).expect("short"));
    }
}

#[test]
fn every_turn_attribute_comes_back_as_it_went_in() {
    check(&ChannelNumber::MIN);
    check(&Lifetime(u32::MAX));
    check(&Data(b"payload"));
    check(&Data(b""));
    check(&RequestedTransport::UDP);
    check(&RequestedTransport::TCP);
    check(&ConnectionId(0x1234_5678));
    check(&MobilityTicket(b""));
    check(&MobilityTicket(b"a ticket"));
    check(&EvenPort { reserve_next: true });
    check(&EvenPort {
        reserve_next: false,
    });
    check(&ReservationToken([1, 2, 3, 4, 5, 6, 7, 8]));
    check(&DontFragment);
    check(&Icmp {
        icmp_type: 3,
        icmp_code: 4,
        error_data: [0, 0, 5, 0xdc],
    });
    check(&Icmp {
        icmp_type: 127,
        icmp_code: 511,
        error_data: [0xff; 4],
    });
    for family in [AddressFamily::V4, AddressFamily::V6] {
        check(&RequestedAddressFamily(family));
        check(&AdditionalAddressFamily(family));
        let error = ErrorCode::new(440, "no such family").expect("is valid");
        check(&AddressErrorCode { family, error });
    }
}

#[test]
fn every_ice_and_behaviour_discovery_attribute_comes_back_as_it_went_in() {
    check(&Priority(0x6e00_01ff));
    check(&UseCandidate);
    check(&IceControlled(u64::MAX));
    check(&IceControlling(1));
    for (ip, port) in [(false, false), (false, true), (true, false), (true, true)] {
        check(&ChangeRequest { ip, port });
    }
    check(&Padding::new(1500));
    check(&ResponsePort(3479));
    check(&CacheTimeout(60));
    check(&TransactionTransmitCounter {
        requests: 3,
        responses: 2,
    });
}

#[test]
fn every_credential_attribute_comes_back_as_it_went_in() {
    check(&UserHash::new("user", "realm"));
    check(&PasswordAlgorithm::Md5);
    check(&PasswordAlgorithm::Sha256);
    let both = [PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
    let bytes = message_with(&PasswordAlgorithms::new(&both));
    let message = Message::decode(&bytes).expect("is well formed");
    assert!(
        message
            .required::<PasswordAlgorithms<'_>>()
            .expect("is there")
            .is(&both)
    );
}

#[test]
fn error_codes_and_unknown_attributes_come_back_as_they_went_in() {
    for code in [300, 401, 438, 599, 699] {
        check(&ErrorCode::new(code, "because").expect("is valid"));
    }
    let types = [
        AttributeType(0x7fff),
        AttributeType::DONT_FRAGMENT,
        AttributeType(1),
    ];
    for count in 0..=types.len() {
        let bytes = message_with(&UnknownAttributes::new(&types[..count]));
        let message = Message::decode(&bytes).expect("is well formed");
        let read = message
            .required::<UnknownAttributes<'_>>()
            .expect("is there");
        assert!(read.types().eq(types[..count].iter().copied()));
    }
}

#[test]
fn every_class_and_method_comes_back_as_it_went_in() {
    for number in 0..=0x0fff {
        let method = Method::new(number).expect("twelve bits");
        for class in [
            Class::Request,
            Class::Indication,
            Class::Success,
            Class::Error,
        ] {
            let mut bytes = Vec::new();
            MessageWriter::new(&mut bytes, class, method, TRANSACTION).finish();
            let message = Message::decode(&bytes).expect("is well formed");
            assert_eq!((message.class(), message.method()), (class, method));
        }
    }
    assert_eq!(Method::new(0x1000), None);
}

#[test]
fn the_range_of_a_value_is_where_the_value_is() {
    let mut bytes = Vec::new();
    MessageWriter::new(&mut bytes, Class::Indication, Method::SEND, TRANSACTION)
        .attribute(&DontFragment)
        .attribute(&Data(b"hello"))
        .attribute(&UseCandidate);
    let message = Message::decode(&bytes).expect("is well formed");
    let range = message.value_range(AttributeType::DATA).expect("is there");
    assert_eq!(&bytes[range], b"hello");
    assert_eq!(
        message.value_range(AttributeType::DONT_FRAGMENT),
        Some(24..24)
    );
    assert_eq!(message.value_range(AttributeType::PRIORITY), None);
}

#[test]
fn a_message_is_appended_behind_what_the_buffer_holds() {
    let mut bytes = b"before".to_vec();
    let key = Key::short_term("secret");
    let length = MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TRANSACTION)
        .attribute(&UseCandidate)
        .integrity(&key)
        .fingerprint()
        .finish();
    let (before, after) = bytes.split_at(6);
    assert_eq!((before, after.len()), (&b"before"[..], length));
    let message = Message::decode(after).expect("is well formed");
    assert_eq!(message.check_integrity(&key), Ok(()));
    assert_eq!(message.check_fingerprint(), Ok(()));
}

#[test]
fn padding_is_zero_even_in_a_buffer_that_held_secrets() {
    let mut bytes = vec![0xaa; 64];
    bytes.clear();
    MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TRANSACTION)
        .attribute(&Software::new("x").expect("short"));
    assert_eq!(bytes[24..], [b'x', 0, 0, 0]);
}

#[test]
fn a_reserved_buffer_does_not_grow() {
    let mut bytes = Vec::with_capacity(256);
    let start = bytes.as_ptr();
    let address = "192.0.2.1:3478".parse().expect("is an address");
    MessageWriter::new(&mut bytes, Class::Success, Method::BINDING, TRANSACTION)
        .attribute(&XorMappedAddress(address))
        .integrity(&Key::short_term("secret"))
        .fingerprint();
    assert_eq!((bytes.as_ptr(), bytes.capacity()), (start, 256));
}

fn check<A>(attribute: &A)
where
    A: for<'a> ReadBack<'a> + WriteAttribute + PartialEq + Debug,
{
    let bytes = message_with(attribute);
    attribute.check_in(Message::decode(&bytes).expect("is well formed"));
}

/// Lets [`check`] take attributes that borrow and such that do not.
trait ReadBack<'a> {
    fn check_in(&self, message: Message<'a>);
}

macro_rules! read_back {
    ($($owned:ty),*; $($borrowed:ident),*) => {
        $(impl<'a> ReadBack<'a> for $owned {
            fn check_in(&self, message: Message<'a>) {
                assert_eq!(message.required::<Self>().as_ref(), Ok(self));
            }
        })*
        $(impl<'a> ReadBack<'a> for $borrowed<'_> {
            fn check_in(&self, message: Message<'a>) {
                assert_eq!(message.required::<$borrowed<'a>>().as_ref(), Ok(self));
            }
        })*
    };
}

read_back! {
    MappedAddress, XorMappedAddress, XorPeerAddress, XorRelayedAddress, AlternateServer,
    ResponseOrigin, OtherAddress, ChannelNumber, ConnectionId, Lifetime, RequestedTransport,
    EvenPort, ReservationToken, DontFragment, Icmp, RequestedAddressFamily, AdditionalAddressFamily,
    Priority, UseCandidate, IceControlled, IceControlling, ChangeRequest, Padding, ResponsePort,
    CacheTimeout, UserHash, PasswordAlgorithm, TransactionTransmitCounter;
    Username, Realm, Nonce, Software, AlternateDomain, Origin,
    ThirdPartyAuthorization, AccessToken, Data, MobilityTicket, ErrorCode, AddressErrorCode
}

fn message_with(attribute: &impl WriteAttribute) -> Vec<u8> {
    let mut bytes = Vec::new();
    MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TRANSACTION)
        .attribute(attribute)
        .fingerprint();
    bytes
}

const TRANSACTION: TransactionId = TransactionId([0x5a; 12]);
