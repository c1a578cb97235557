//! The STUN codec: whatever is decoded can be iterated, checked, and written again unchanged.

use std::fmt::Debug;

use tombolo_stun::*;

/// Decodes `data` in every way that there is.
pub fn run(data: &[u8]) {
    match Kind::of(data) {
        Kind::ChannelData => channel_data(data),
        Kind::Stun => message(data),
        Kind::Other => assert!(
            Message::decode(data).is_err(),
            "other things are no messages"
        ),
    }
    if let Ok(Some(length)) = stream::frame_len(data) {
        assert!(
            (4..=65_555).contains(&length),
            "a frame is neither empty nor endless"
        );
    }
}

fn channel_data(data: &[u8]) {
    let Ok(decoded) = ChannelData::decode(data) else {
        return;
    };
    let header = decoded
        .number
        .header(decoded.data.len())
        .expect("came from a header");
    let again = [&header, decoded.data].concat();
    assert!(data.starts_with(&again));
    assert_eq!(ChannelData::decode(&again), Ok(decoded));
    let length = stream::frame_len(data)
        .expect("is a frame")
        .expect("is whole");
    assert_eq!(length, again.len().next_multiple_of(4));
}

fn message(data: &[u8]) {
    let Ok(message) = Message::decode(data) else {
        return;
    };
    assert_eq!(message.as_bytes(), data);
    assert_eq!(stream::frame_len(data), Ok(Some(data.len())));

    let mut bytes = Vec::new();
    let mut writer = MessageWriter::new(
        &mut bytes,
        message.class(),
        message.method(),
        message.transaction_id(),
    );
    for attribute in message.attributes() {
        writer.attribute(&attribute);
        let range = message.value_range(attribute.kind).expect("is there");
        assert!(range.end <= data.len());
    }
    let again = Message::decode(&bytes).expect("what was read can be written");
    assert_eq!(again.class(), message.class());
    assert_eq!(again.method(), message.method());
    assert!(again.attributes().eq(message.attributes()));
    assert!(bytes.len() <= data.len());

    let _ = message.check_fingerprint();
    let keys = [
        Key::short_term("password"),
        Key::long_term_sha256("user", "realm", "password"),
    ];
    for key in keys {
        assert!(
            message.check_integrity(&key).is_err(),
            "nobody guesses a key"
        );
        let _ = message.check_integrity_truncated(&key, 16);
    }
    let _ = message.unknown_required(&[AttributeType::USERNAME]).count();
    typed(&message);
}

/// Every attribute that can be read comes back the same when it is written and read again.
fn typed(message: &Message<'_>) {
    macro_rules! check {
        ($($attribute:ty),* $(,)?) => {
            $(if let Ok(Some(attribute)) = message.attribute::<$attribute>() {
                let mut bytes = Vec::new();
                rewrite(message, &attribute, &mut bytes);
                let again = Message::decode(&bytes).expect("is well formed");
                same(&attribute, &again.required::<$attribute>().expect("is there"));
            })*
        };
    }
    check!(
        MappedAddress,
        XorMappedAddress,
        XorPeerAddress,
        XorRelayedAddress,
        AlternateServer,
        ResponseOrigin,
        OtherAddress,
        ChannelNumber,
        Lifetime,
        RequestedTransport,
        EvenPort,
        ReservationToken,
        DontFragment,
        Icmp,
        RequestedAddressFamily,
        AdditionalAddressFamily,
        Priority,
        UseCandidate,
        IceControlled,
        IceControlling,
        ChangeRequest,
        Padding,
        ResponsePort,
        CacheTimeout,
        ConnectionId,
        TransactionTransmitCounter,
        MobilityTicket<'_>,
        AccessToken<'_>,
        ThirdPartyAuthorization<'_>,
        Origin<'_>,
        UserHash,
        PasswordAlgorithm,
        Username<'_>,
        Realm<'_>,
        Nonce<'_>,
        Software<'_>,
        AlternateDomain<'_>,
        Data<'_>,
        ErrorCode<'_>,
        AddressErrorCode<'_>,
    );
    if let Ok(Some(list)) = message.attribute::<UnknownAttributes<'_>>() {
        let types: Vec<AttributeType> = list.types().collect();
        assert!(UnknownAttributes::new(&types).types().eq(list.types()));
    }
    if let Ok(Some(list)) = message.attribute::<PasswordAlgorithms<'_>>() {
        let known: Option<Vec<PasswordAlgorithm>> = list.algorithms().collect();
        if let Some(known) = known {
            assert!(list.is(&known));
        }
    }
    if let Ok(Some(nonce)) = message.attribute::<Nonce<'_>>()
        && let Some(cookie) = NonceCookie::of(nonce.as_str())
    {
        let text = cookie.to_ascii();
        let text = std::str::from_utf8(&text).expect("is ASCII");
        assert_eq!(NonceCookie::of(text), Some(cookie));
    }
}

fn rewrite(message: &Message<'_>, attribute: &impl WriteAttribute, bytes: &mut Vec<u8>) {
    MessageWriter::new(
        bytes,
        message.class(),
        message.method(),
        message.transaction_id(),
    )
    .attribute(attribute)
    .fingerprint();
    let again = Message::decode(bytes).expect("is well formed");
    again.check_fingerprint().expect("was just written");
}

fn same<A: PartialEq + Debug>(one: &A, other: &A) {
    assert_eq!(one, other);
}
