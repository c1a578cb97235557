//! The client against a scripted server: each reply is written by the test.

mod script;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tombolo_stun::{
    AttributeType, ChannelData, ChannelNumber, Class, Data, ErrorCode, Lifetime, Message, Method,
    Nonce, PasswordAlgorithm, RequestedTransport, UserHash, XorPeerAddress,
};
use tombolo_turn::client::{AllocateError, Client, Config, Event, Family, SendError, Timer};
use tombolo_turn::server::Transport;

use self::script::{Script, config};

#[test]
fn a_challenge_is_answered_with_credentials() {
    let mut lab = Lab::new();

    let first = lab.request(Method::ALLOCATE);
    assert!(
        !lab.script.is_signed(&first),
        "nothing is known to sign with"
    );
    lab.reply(lab.script.challenge(&first, ErrorCode::UNAUTHENTICATED));
    let second = lab.request(Method::ALLOCATE);
    assert!(lab.script.is_signed(&second));
    lab.reply(lab.script.allocated(&second, 600));

    let allocated = Event::Allocated {
        relayed: script::relayed(),
        mapped: script::mapped(),
    };
    assert_eq!(lab.client.poll_event(), Some(allocated));
    assert_eq!(lab.client.relayed(), Some(script::relayed()));
}

#[test]
fn an_allocate_asks_for_udp_and_one_family_and_nothing_else() {
    for family in [Family::V4, Family::V6] {
        for lifetime in [0, 600] {
            let mut config = config(Transport::Udp);
            config.family = family;
            config.lifetime = Duration::from_secs(lifetime);
            let mut lab = Lab::with(config);
            let first = lab.request(Method::ALLOCATE);
            lab.reply(lab.script.challenge(&first, ErrorCode::UNAUTHENTICATED));
            let signed = lab.request(Method::ALLOCATE);
            for bytes in [&first, &signed] {
                let message = script::message(bytes);
                assert_eq!(message.required(), Ok(RequestedTransport::UDP));
                let mut own: Vec<_> = message.attributes().map(|one| one.kind).collect();
                own.retain(|kind| !PROOF.contains(kind));
                let mut wanted = vec![AttributeType::REQUESTED_TRANSPORT];
                wanted.extend((lifetime > 0).then_some(AttributeType::LIFETIME));
                let is_v6 = family == Family::V6;
                wanted.extend(is_v6.then_some(AttributeType::REQUESTED_ADDRESS_FAMILY));
                assert_eq!(own, wanted);
            }
        }
    }
}

#[test]
fn a_refresh_names_no_family() {
    let mut lab = Lab::allocated();
    lab.advance(Duration::from_secs(540));
    let refresh = lab.request(Method::REFRESH);
    let message = script::message(&refresh);
    let mut own: Vec<_> = message.attributes().map(|one| one.kind).collect();
    own.retain(|kind| !PROOF.contains(kind));
    assert_eq!(own, [AttributeType::LIFETIME]);
}

#[test]
fn an_icmp_error_is_nothing_to_deliver() {
    let mut lab = Lab::allocated();
    let bytes = lab.script.icmp_indication(peer());
    assert_eq!(lab.client.handle_datagram(lab.now, &bytes), None);
    assert_eq!(lab.client.poll_event(), None);
    assert_eq!(lab.client.relayed(), Some(script::relayed()));
}

#[test]
fn refused_credentials_end_the_attempt_at_once() {
    let mut lab = Lab::new();
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.challenge(&signed, ErrorCode::UNAUTHENTICATED));
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::Failed(AllocateError::Unauthorized))
    );
    lab.assert_over();
}

#[test]
fn a_server_that_calls_every_nonce_stale_is_given_up() {
    let mut lab = Lab::new();
    lab.answer_challenge();
    let mut requests = 0;
    while let Some(request) = lab.client.poll_transmit() {
        requests += 1;
        assert!(requests < 10, "the client asks for ever");
        lab.script.rotate_nonce();
        lab.reply(lab.script.challenge(&request, ErrorCode::STALE_NONCE));
    }
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::Failed(AllocateError::NonceLoop))
    );
    lab.assert_over();
}

#[test]
fn a_user_name_that_no_message_can_carry_is_refused_credentials() {
    let mut config = config(Transport::Udp);
    config.username = "u".repeat(509);
    let mut lab = Lab::with(config);
    lab.answer_challenge();
    let unsigned = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.challenge(&unsigned, ErrorCode::UNAUTHENTICATED));
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::Failed(AllocateError::Unauthorized))
    );
}

#[test]
fn an_unanswered_request_is_repeated_ever_more_rarely_and_then_given_up() {
    let mut lab = Lab::new();
    let first = lab.request(Method::ALLOCATE);
    let start = lab.now;
    let mut sent_after = Vec::new();
    while let Some((deadline, Timer::Retransmit(_))) = lab.client.poll_timeout() {
        lab.advance_to(deadline);
        if let Some(again) = lab.client.poll_transmit() {
            assert_eq!(again, first);
            sent_after.push((lab.now - start).as_millis());
        }
    }
    assert_eq!(sent_after, [100, 300, 700, 1_500, 3_100, 6_300]);
    assert_eq!((lab.now - start).as_millis(), 7_900);
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::Failed(AllocateError::TimedOut))
    );
    lab.assert_over();
}

#[test]
fn how_long_replies_are_waited_for_is_the_drivers_choice() {
    for (transport, sends, waited) in [
        (Transport::Udp, 3, &[500, 1_500, 2_500][..]),
        (Transport::Udp, 1, &[1_000]),
        (Transport::Tcp, 3, &[20_000]),
    ] {
        let mut config = config(transport);
        config.patience.first_wait = Duration::from_millis(500);
        config.patience.sends = sends;
        config.patience.last_wait_times = 2;
        config.patience.stream_wait = Duration::from_secs(20);
        let mut lab = Lab::with(config);
        lab.request(Method::ALLOCATE);
        let start = lab.now;
        let mut ended = Vec::new();
        while let Some((deadline, Timer::Retransmit(_))) = lab.client.poll_timeout() {
            lab.advance_to(deadline);
            _ = lab.client.poll_transmit();
            ended.push((lab.now - start).as_millis());
        }
        assert_eq!(ended, waited, "{transport:?}");
    }
}

#[test]
fn every_request_has_a_transaction_id_of_its_own() {
    let mut lab = Lab::allocated();
    let mut ids = std::collections::BTreeSet::new();
    for port in 1..=200 {
        lab.client
            .connect_peer(lab.now, ([203, 0, 113, 9], port).into());
        ids.insert(script::message(&lab.packet(b"x")).transaction_id());
        let bind = lab.request(Method::CHANNEL_BIND);
        ids.insert(script::message(&bind).transaction_id());
        lab.reply(lab.script.success(&bind));
    }
    assert_eq!(ids.len(), 400, "an indication and a request each");
    // Each bit is set in about half of them.
    for bit in 0..96 {
        let is_set = |id: &&tombolo_stun::TransactionId| id.0[bit / 8] >> (bit % 8) & 1 == 1;
        let set = ids.iter().filter(is_set).count();
        assert!((120..280).contains(&set), "bit {bit}: {set}");
    }
}

#[test]
fn a_request_with_usual_credentials_fits_576_bytes() {
    let mut config = config(Transport::Udp);
    config.username = "u".repeat(200);
    config.family = Family::V6;
    let mut lab = Lab::with(config);
    lab.script.set_credentials(&"u".repeat(200), "secret");
    let v6: SocketAddr = "[2001:db8::1]:9".parse().expect("a literal");
    lab.client.connect_peer(lab.now, v6);
    let first = lab.request(Method::ALLOCATE);
    let nonce = format!("obMatJos2AAAB{}", "n".repeat(47));
    let list = &[0, 2, 0, 0, 0, 1, 0, 0];
    lab.reply(lab.script.offer(&first, &nonce, Some(list)));
    let signed = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.allocated_for_sha256(&signed, v6));
    let bind = lab.request(Method::CHANNEL_BIND);
    for bytes in [&signed, &bind] {
        // Headers of IPv4 and UDP come on top.
        assert!(bytes.len() + 28 <= 576, "{}", bytes.len());
        assert!(bytes.len() > 350, "{}", bytes.len());
    }
}

#[test]
fn nothing_is_sent_twice_over_a_stream() {
    let mut lab = Lab::with(config(Transport::Tcp));
    lab.request(Method::ALLOCATE);
    lab.advance(Duration::from_secs(39));
    assert_eq!(lab.client.poll_transmit(), None);
    lab.advance(Duration::from_secs(1));
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::Failed(AllocateError::TimedOut))
    );
}

#[test]
fn replies_that_the_password_does_not_protect_are_ignored() {
    let mut lab = Lab::new();
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    let forger = Script::with_password("guess");
    lab.reply(forger.allocated(&signed, 600));
    lab.reply(forger.refusal(&signed, ErrorCode::FORBIDDEN));
    lab.reply(lab.script.unsigned_refusal(&signed, ErrorCode::FORBIDDEN));
    assert_eq!(lab.client.poll_event(), None);
    assert_eq!(lab.client.stats().unauthenticated, 3);

    lab.reply(lab.script.allocated(&signed, 600));
    assert!(matches!(
        lab.client.poll_event(),
        Some(Event::Allocated { .. })
    ));
}

#[test]
fn a_server_without_authentic_replies_is_named_as_such() {
    for transport in [Transport::Udp, Transport::Tls] {
        let mut lab = Lab::with(config(transport));
        lab.answer_challenge();
        let signed = lab.request(Method::ALLOCATE);
        lab.reply(
            lab.script
                .unsigned_refusal(&signed, ErrorCode::SERVER_ERROR),
        );
        if transport == Transport::Udp {
            lab.advance(Duration::from_secs(8));
        }
        let failed = Event::Failed(AllocateError::Unauthenticated);
        assert_eq!(lab.client.poll_event(), Some(failed), "{transport:?}");
    }
}

#[test]
fn refusals_to_allocate_are_told_apart() {
    let cases = [
        (ErrorCode::ALLOCATION_MISMATCH, AllocateError::Mismatch),
        (
            ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED,
            AllocateError::FamilyNotSupported,
        ),
        (ErrorCode::WRONG_CREDENTIALS, AllocateError::Unauthorized),
        (
            ErrorCode::ALLOCATION_QUOTA_REACHED,
            AllocateError::QuotaReached,
        ),
        (
            ErrorCode::INSUFFICIENT_CAPACITY,
            AllocateError::InsufficientCapacity,
        ),
        (ErrorCode::FORBIDDEN, AllocateError::Refused { code: 403 }),
    ];
    for (code, error) in cases {
        let mut lab = Lab::new();
        lab.answer_challenge();
        let signed = lab.request(Method::ALLOCATE);
        lab.reply(lab.script.refusal(&signed, code));
        assert_eq!(lab.client.poll_event(), Some(Event::Failed(error)));
        lab.assert_over();
    }
}

#[test]
fn a_redirection_names_the_other_server() {
    let mut lab = Lab::new();
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    lab.reply(
        lab.script
            .redirection(&signed, "192.0.2.99:3478", "other.example"),
    );
    let error = AllocateError::TryAlternate {
        server: "192.0.2.99:3478".parse().expect("a literal"),
        domain: Some("other.example".to_owned()),
    };
    assert_eq!(lab.client.poll_event(), Some(Event::Failed(error)));
}

#[test]
fn a_redirection_that_nothing_proves_leads_nowhere() {
    for transport in [Transport::Udp, Transport::Tls] {
        let mut lab = Lab::with(config(transport));
        let first = lab.request(Method::ALLOCATE);
        lab.reply(lab.script.redirection(&first, "192.0.2.99:3478", "evil"));
        if transport == Transport::Udp {
            assert_eq!(lab.client.stats().unauthenticated, 1);
            lab.reply(lab.script.challenge(&first, ErrorCode::UNAUTHENTICATED));
            let signed = lab.request(Method::ALLOCATE);
            let forger = Script::with_password("guess");
            lab.reply(forger.redirection(&signed, "192.0.2.99:3478", "evil"));
            assert_eq!(lab.client.poll_event(), None);
        } else {
            let failed = Event::Failed(AllocateError::Unauthenticated);
            assert_eq!(lab.client.poll_event(), Some(failed));
        }
    }
}

#[test]
fn a_first_request_is_not_given_up_because_somebody_calls_it_malformed() {
    let mut lab = Lab::new();
    let first = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.unsigned_refusal(&first, ErrorCode::BAD_REQUEST));
    assert_eq!(lab.client.poll_event(), None);
    lab.advance(Duration::from_millis(100));
    assert_eq!(lab.request(Method::ALLOCATE), first, "is repeated");
    lab.advance(Duration::from_secs(8));
    let failed = Event::Failed(AllocateError::Unauthenticated);
    assert_eq!(lab.client.poll_event(), Some(failed));
}

#[test]
fn the_first_algorithm_that_is_known_is_chosen_and_the_whole_list_goes_back() {
    for (list, choice) in [
        (
            &[0, 9, 0, 2, 1, 2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0][..],
            Some(PasswordAlgorithm::Sha256),
        ),
        (&[0, 1, 0, 0, 0, 2, 0, 0], Some(PasswordAlgorithm::Md5)),
        (&[0, 9, 0, 0], None),
        (&[], None),
    ] {
        for cookie in ["obMatJos2AAAB", ""] {
            let mut lab = Lab::new();
            let first = lab.request(Method::ALLOCATE);
            let nonce = format!("{cookie}nonce");
            lab.reply(lab.script.offer(&first, &nonce, Some(list)));
            let Some(choice) = choice else {
                assert_eq!(lab.client.poll_transmit(), None, "there is none to try");
                let failed = Event::Failed(AllocateError::Unauthorized);
                assert_eq!(lab.client.poll_event(), Some(failed));
                continue;
            };
            let signed = lab.request(Method::ALLOCATE);
            let message = script::message(&signed);
            assert_eq!(message.required(), Ok(choice));
            let range = message.value_range(AttributeType::PASSWORD_ALGORITHMS);
            assert_eq!(range.map(|range| &signed[range]), Some(list));
            assert_eq!(message.check_integrity(&lab.script.key_of(choice)), Ok(()));
            assert!(message.has_integrity_sha256());
            assert!(!message.has(AttributeType::MESSAGE_INTEGRITY));
        }
    }
}

#[test]
fn a_list_of_algorithms_that_would_fill_the_request_is_not_answered() {
    // One algorithm that is known and one with very many parameters.
    let mut list = vec![0, 2, 0, 0, 0, 9, 0xff, 0x80];
    list.resize(list.len() + 0xff80, 1);
    let mut lab = Lab::new();
    let first = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.offer(&first, "nonce", Some(&list)));
    assert_eq!(lab.client.poll_transmit(), None);
    let failed = Event::Failed(AllocateError::Unauthorized);
    assert_eq!(lab.client.poll_event(), Some(failed));
}

#[test]
fn a_choice_that_is_announced_and_then_missing_is_not_answered() {
    let announced = "obMatJos2AAABnonce";
    let mut lab = Lab::new();
    let first = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.offer(&first, announced, None));
    assert_eq!(lab.client.poll_transmit(), None);
    let failed = Event::Failed(AllocateError::Unauthorized);
    assert_eq!(lab.client.poll_event(), Some(failed));
    // In all other replies it makes them worth nothing.
    let mut lab = Lab::new();
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.refusal_with_nonce(&signed, announced));
    assert_eq!(lab.client.poll_event(), None);
    assert_eq!(lab.client.stats().malformed, 1);
    lab.reply(lab.script.allocated(&signed, 600));
    assert!(lab.client.relayed().is_some());
}

#[test]
fn the_user_name_is_hashed_where_the_server_wants_it() {
    for (cookie, is_hidden) in [
        ("obMatJos2AAAD", true),
        ("obMatJos2AAAC", true),
        ("obMatJos2AAAB", false),
    ] {
        let mut lab = Lab::new();
        let first = lab.request(Method::ALLOCATE);
        let nonce = format!("{cookie}nonce");
        let list = (cookie != "obMatJos2AAAC").then_some(&[0, 2, 0, 0][..]);
        lab.reply(lab.script.offer(&first, &nonce, list));
        let signed = lab.request(Method::ALLOCATE);
        let message = script::message(&signed);
        assert_eq!(message.has(AttributeType::USERHASH), is_hidden);
        assert_eq!(message.has(AttributeType::USERNAME), !is_hidden);
        if is_hidden {
            assert_eq!(message.required(), Ok(UserHash::new("alice", "tombolo")));
        }
    }
}

#[test]
fn realm_and_nonce_go_back_as_they_came_however_long_they_are() {
    let nonce = "n".repeat(700);
    let mut lab = Lab::new();
    let first = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.offer(&first, &nonce, None));
    let signed = lab.request(Method::ALLOCATE);
    let message = script::message(&signed);
    assert_eq!(
        message.required().map(|one: Nonce<'_>| one.as_str()),
        Ok(&*nonce)
    );
}

#[test]
fn an_address_of_the_wrong_family_is_given_back() {
    let mut lab = Lab::new();
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    let v6 = "[2001:db8::1]:50000".parse().expect("a literal");
    lab.reply(lab.script.allocated_at(&signed, v6));
    let refresh = lab.request(Method::REFRESH);
    let lifetime = script::message(&refresh).required::<Lifetime>();
    assert_eq!(lifetime, Ok(Lifetime(0)));
    assert_eq!(lab.client.poll_event(), None);
    lab.reply(lab.script.refreshed(&refresh, 0));
    let failed = Event::Failed(AllocateError::FamilyNotSupported);
    assert_eq!(lab.client.poll_event(), Some(failed));
    lab.assert_over();
}

#[test]
fn what_must_be_understood_and_is_not_makes_a_message_worthless() {
    let mut lab = Lab::new();
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.allocated_with_unknown(&signed));
    // There may be an allocation, which is given back.
    let refresh = lab.request(Method::REFRESH);
    lab.reply(lab.script.refreshed(&refresh, 0));
    let failed = Event::Failed(AllocateError::Malformed);
    assert_eq!(lab.client.poll_event(), Some(failed));

    let mut lab = Lab::allocated();
    let mut bytes = lab.script.data_indication(peer(), b"four");
    bytes.extend_from_slice(&[0x7f, 0, 0, 0]);
    bytes[3] += 4;
    assert_eq!(lab.client.handle_datagram(lab.now, &bytes), None);
    assert_eq!(lab.client.stats().malformed, 1);
}

#[test]
fn a_wrong_fingerprint_makes_a_message_worthless() {
    let mut lab = Lab::allocated();
    let mut bytes = lab.script.data_indication(peer(), b"four");
    bytes.extend_from_slice(&[0x80, 0x28, 0, 4, 1, 2, 3, 4]);
    bytes[3] += 8;
    assert_eq!(lab.client.handle_datagram(lab.now, &bytes), None);
    assert_eq!(lab.client.stats().malformed, 1);
}

#[test]
fn a_refresh_that_is_refused_for_a_while_is_tried_four_times() {
    let mut lab = Lab::allocated();
    lab.advance(Duration::from_secs(540));
    let mut tries = 0;
    while let Some(refresh) = lab.client.poll_transmit() {
        tries += 1;
        lab.reply(lab.script.refusal(&refresh, ErrorCode::SERVER_ERROR));
        lab.advance(Duration::from_secs(16));
    }
    assert_eq!(tries, 4);
    assert_eq!(lab.client.poll_event(), Some(Event::Expired));
}

/// See RFC 8489 §14.8.
#[test]
fn a_refresh_that_is_called_malformed_is_not_repeated() {
    let mut lab = Lab::allocated();
    lab.advance(Duration::from_secs(540));
    let refresh = lab.request(Method::REFRESH);
    lab.reply(lab.script.refusal(&refresh, ErrorCode::BAD_REQUEST));
    lab.advance(Duration::from_secs(59));
    assert_eq!(lab.client.poll_transmit(), None);
    assert_eq!(
        lab.client.poll_event(),
        None,
        "it lives as long as it was given"
    );
    lab.advance(Duration::from_secs(1));
    assert_eq!(lab.client.poll_event(), Some(Event::Expired));
}

#[test]
fn an_allocation_is_refreshed_a_minute_before_its_end() {
    let mut lab = Lab::allocated();
    for _ in 0..3 {
        lab.advance(Duration::from_secs(539));
        assert_eq!(lab.client.poll_transmit(), None);
        lab.advance(Duration::from_secs(1));
        let refresh = lab.request(Method::REFRESH);
        lab.reply(lab.script.refreshed(&refresh, 600));
    }
    assert_eq!(lab.client.poll_event(), None);
    assert!(lab.client.relayed().is_some());
}

#[test]
fn a_refresh_with_a_stale_nonce_is_repeated_with_the_new_one() {
    let mut lab = Lab::allocated();
    lab.advance(Duration::from_secs(540));
    let refresh = lab.request(Method::REFRESH);
    lab.script.rotate_nonce();
    lab.reply(lab.script.challenge(&refresh, ErrorCode::STALE_NONCE));
    let refresh = lab.request(Method::REFRESH);
    assert!(lab.script.is_signed(&refresh));
    assert_eq!(lab.client.poll_event(), None);
}

#[test]
fn an_allocation_whose_server_is_silent_expires() {
    let mut lab = Lab::allocated();
    lab.advance(Duration::from_secs(600));
    assert_eq!(lab.client.poll_event(), Some(Event::Expired));
    let sent = std::iter::from_fn(|| lab.client.poll_transmit()).count();
    assert!(
        (14..80).contains(&sent),
        "it was tried again and again, not for ever: {sent}"
    );
    lab.assert_over();
}

#[test]
fn an_allocation_that_the_server_does_not_know_is_expired() {
    let mut lab = Lab::allocated();
    lab.client.connect_peer(lab.now, peer());
    let bind = lab.request(Method::CHANNEL_BIND);
    lab.reply(lab.script.refusal(&bind, ErrorCode::ALLOCATION_MISMATCH));
    assert_eq!(lab.client.poll_event(), Some(Event::Expired));
    lab.assert_over();
}

#[test]
fn packets_are_send_indications_until_the_channel_is_bound() {
    let mut lab = Lab::allocated();
    lab.client.connect_peer(lab.now, peer());
    let bind = lab.request(Method::CHANNEL_BIND);

    let packet = lab.packet(b"early");
    let indication = Message::decode(&packet).expect("it is STUN");
    assert_eq!(
        (indication.class(), indication.method()),
        (Class::Indication, Method::SEND)
    );
    assert_eq!(
        indication.required::<XorPeerAddress>(),
        Ok(XorPeerAddress(peer()))
    );
    assert_eq!(indication.required::<Data<'_>>(), Ok(Data(b"early")));

    lab.reply(lab.script.success(&bind));
    assert_eq!(lab.client.poll_event(), Some(Event::ChannelBound(peer())));
    let packet = lab.packet(b"late");
    let channel_data = ChannelData {
        number: ChannelNumber::MIN,
        data: b"late",
    };
    assert_eq!(ChannelData::decode(&packet), Ok(channel_data));
}

#[test]
fn packets_from_peers_are_found_in_the_datagram() {
    let mut lab = Lab::allocated();
    lab.client.connect_peer(lab.now, peer());

    let indication = lab.script.data_indication(peer(), b"one");
    let received = lab
        .client
        .handle_datagram(lab.now, &indication)
        .expect("it carries a packet");
    assert_eq!(
        (received.peer, &indication[received.range]),
        (peer(), &b"one"[..])
    );

    // The server may use the channel before its reply arrives.
    let channel_data = [&[0x40, 0x00, 0x00, 0x03][..], b"two"].concat();
    let received = lab
        .client
        .handle_datagram(lab.now, &channel_data)
        .expect("it carries a packet");
    assert_eq!(
        (received.peer, &channel_data[received.range]),
        (peer(), &b"two"[..])
    );
}

#[test]
fn packets_on_a_channel_of_nobody_are_counted_and_dropped() {
    let mut lab = Lab::allocated();
    assert_eq!(
        lab.client.handle_datagram(lab.now, &[0x40, 0x07, 0, 1, 9]),
        None
    );
    assert_eq!(lab.client.stats().unexpected, 1);
}

#[test]
fn a_channel_is_refreshed_every_four_minutes_until_the_peer_is_released() {
    let mut lab = Lab::allocated();
    lab.client.connect_peer(lab.now, peer());
    let bind = lab.request(Method::CHANNEL_BIND);
    lab.reply(lab.script.success(&bind));
    lab.advance(Duration::from_secs(240));
    let again = lab.request(Method::CHANNEL_BIND);
    lab.reply(lab.script.success(&again));

    lab.client.release_peer(lab.now, peer());
    lab.advance(Duration::from_secs(250));
    assert_eq!(lab.client.poll_transmit(), None);
    assert_eq!(
        lab.client.poll_timeout().map(|(_, timer)| timer),
        Some(Timer::Refresh)
    );
}

#[test]
fn a_released_channel_keeps_its_number_while_the_server_may_know_it() {
    let mut lab = Lab::allocated();
    lab.client.connect_peer(lab.now, peer());
    lab.request(Method::CHANNEL_BIND);
    lab.client.release_peer(lab.now, peer());

    let other: SocketAddr = "198.51.100.7:7".parse().expect("a literal");
    lab.client.connect_peer(lab.now, other);
    let bind = lab.request(Method::CHANNEL_BIND);
    let number = script::message(&bind).required::<ChannelNumber>();
    assert_eq!(number.map(ChannelNumber::number), Ok(0x4001));
    lab.client.connect_peer(lab.now, peer());
    assert_eq!(
        lab.client.poll_transmit(),
        None,
        "the first request is still in flight"
    );
}

#[test]
fn a_peer_without_a_channel_gets_a_permission() {
    let mut lab = Lab::allocated();
    lab.client.connect_peer(lab.now, peer());
    let bind = lab.request(Method::CHANNEL_BIND);
    lab.reply(lab.script.refusal(&bind, ErrorCode::INSUFFICIENT_CAPACITY));
    let permit = lab.request(Method::CREATE_PERMISSION);
    lab.reply(lab.script.success(&permit));
    lab.advance(Duration::from_secs(240));
    let permit = lab.request(Method::CREATE_PERMISSION);
    lab.reply(lab.script.refusal(&permit, ErrorCode::FORBIDDEN));
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::PeerRefused {
            peer: peer(),
            code: 403
        })
    );
}

#[test]
fn a_forbidden_peer_is_refused_and_forgotten() {
    let mut lab = Lab::allocated();
    lab.client.connect_peer(lab.now, peer());
    let bind = lab.request(Method::CHANNEL_BIND);
    lab.reply(lab.script.refusal(&bind, ErrorCode::FORBIDDEN));
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::PeerRefused {
            peer: peer(),
            code: 403
        })
    );
    assert_eq!(lab.client.poll_transmit(), None);
}

#[test]
fn peers_of_the_other_family_are_refused_locally() {
    let mut lab = Lab::allocated();
    let v6: SocketAddr = "[2001:db8::1]:9".parse().expect("a literal");
    lab.client.connect_peer(lab.now, v6);
    assert_eq!(
        lab.client.poll_event(),
        Some(Event::PeerRefused {
            peer: v6,
            code: 443
        })
    );
    assert_eq!(lab.client.send(lab.now, v6, 1), Err(SendError::WrongFamily));
}

#[test]
fn the_number_of_peers_is_bounded() {
    let mut lab = Lab::allocated();
    for port in 1..=257 {
        lab.client
            .connect_peer(lab.now, ([203, 0, 113, 9], port).into());
    }
    let refused = Event::PeerRefused {
        peer: ([203, 0, 113, 9], 257).into(),
        code: 508,
    };
    assert_eq!(lab.client.poll_event(), Some(refused));
    let mut bound = 0;
    while let Some(bind) = lab.client.poll_transmit() {
        bound += 1;
        lab.reply(lab.script.success(&bind));
    }
    assert_eq!(bound, 256);
}

#[test]
fn ten_requests_at_most_are_in_flight_and_the_others_follow() {
    let mut lab = Lab::allocated();
    for port in 1..=40 {
        lab.client
            .connect_peer(lab.now, ([203, 0, 113, 9], port).into());
    }
    let drain =
        |lab: &mut Lab| -> Vec<_> { std::iter::from_fn(|| lab.client.poll_transmit()).collect() };
    let first = drain(&mut lab);
    assert_eq!(first.len(), 10);
    // One that is answered makes room for one, and so does one that is let go.
    lab.reply(lab.script.success(&first[0]));
    assert_eq!(drain(&mut lab).len(), 1);
    // What nobody answers makes room once it is given up.
    let mut others = 0;
    for _ in 0..4 {
        lab.advance(Duration::from_secs(8));
        others += drain(&mut lab).len();
    }
    assert!(others > 10 * 6, "{others}");
    assert!(lab.client.relayed().is_some());
}

#[test]
fn peers_connected_early_are_bound_once_there_is_an_allocation() {
    let mut lab = Lab::new();
    lab.client.connect_peer(lab.now, peer());
    assert_eq!(
        lab.client.send(lab.now, peer(), 1),
        Err(SendError::NotAllocated)
    );
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    lab.reply(lab.script.allocated(&signed, 600));
    lab.request(Method::CHANNEL_BIND);
}

#[test]
fn new_credentials_revive_what_the_old_ones_could_not_refresh() {
    let mut lab = Lab::allocated();
    lab.advance(Duration::from_secs(540));
    let refresh = lab.request(Method::REFRESH);
    lab.reply(lab.script.challenge(&refresh, ErrorCode::UNAUTHENTICATED));
    assert_eq!(lab.client.poll_event(), Some(Event::CredentialsRefused));
    assert_eq!(lab.client.poll_transmit(), None);

    lab.client
        .set_credentials(lab.now, "bob".to_owned(), "other".to_owned());
    lab.script.set_credentials("bob", "other");
    let refresh = lab.request(Method::REFRESH);
    assert!(lab.script.is_signed(&refresh));
    lab.reply(lab.script.refreshed(&refresh, 600));
    lab.advance(Duration::from_secs(500));
    assert_eq!(lab.client.poll_event(), None);
}

#[test]
fn closing_gives_the_allocation_back() {
    let mut lab = Lab::allocated();
    lab.client.close(lab.now);
    let refresh = lab.request(Method::REFRESH);
    assert_eq!(
        script::message(&refresh).required::<Lifetime>(),
        Ok(Lifetime(0))
    );
    assert_eq!(
        lab.client.send(lab.now, peer(), 1),
        Err(SendError::NotAllocated)
    );
    lab.reply(lab.script.refreshed(&refresh, 0));
    assert_eq!(lab.client.poll_event(), Some(Event::Closed));
    lab.assert_over();
}

#[test]
fn closing_while_allocating_gives_back_what_comes() {
    let mut lab = Lab::new();
    lab.answer_challenge();
    let signed = lab.request(Method::ALLOCATE);
    lab.client.close(lab.now);
    lab.reply(lab.script.allocated(&signed, 600));
    let refresh = lab.request(Method::REFRESH);
    assert_eq!(
        script::message(&refresh).required::<Lifetime>(),
        Ok(Lifetime(0))
    );
    assert_eq!(lab.client.poll_event(), None);

    let mut lab = Lab::new();
    let unsigned = lab.request(Method::ALLOCATE);
    lab.client.close(lab.now);
    lab.reply(lab.script.challenge(&unsigned, ErrorCode::UNAUTHENTICATED));
    assert_eq!(lab.client.poll_event(), Some(Event::Closed));
    lab.assert_over();
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    let run = || {
        let mut lab = Lab::allocated();
        lab.client.connect_peer(lab.now, peer());
        (lab.client.poll_transmit(), lab.packet(b"payload"))
    };
    assert_eq!(run(), run());
}

#[test]
fn bytes_that_are_no_message_are_counted_and_dropped() {
    let mut lab = Lab::allocated();
    let whole = lab.script.data_indication(peer(), b"payload");
    for end in 0..whole.len() {
        assert_eq!(lab.client.handle_datagram(lab.now, &whole[..end]), None);
    }
    assert_eq!(lab.client.stats().malformed, whole.len() as u64);
}

#[test]
fn replies_with_any_bit_flipped_never_pass_for_the_servers() {
    let pristine = || {
        let mut lab = Lab::new();
        lab.answer_challenge();
        let signed = lab.request(Method::ALLOCATE);
        let reply = lab.script.allocated(&signed, 600);
        (lab, reply)
    };
    let (_, reply) = pristine();
    for bit in 0..reply.len() * 8 {
        let (mut lab, mut reply) = pristine();
        reply[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            lab.client.handle_datagram(lab.now, &reply),
            None,
            "bit {bit}"
        );
        let event = lab.client.poll_event();
        assert!(
            !matches!(event, Some(Event::Allocated { .. })),
            "bit {bit}: {event:?}"
        );
    }
}

#[test]
fn challenges_with_any_bit_flipped_do_no_harm() {
    let mut probe = Lab::new();
    let first = probe.request(Method::ALLOCATE);
    let bits = probe
        .script
        .challenge(&first, ErrorCode::UNAUTHENTICATED)
        .len()
        * 8;
    for bit in 0..bits {
        let mut lab = Lab::new();
        let first = lab.request(Method::ALLOCATE);
        let mut reply = lab.script.challenge(&first, ErrorCode::UNAUTHENTICATED);
        reply[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            lab.client.handle_datagram(lab.now, &reply),
            None,
            "bit {bit}"
        );
        // Whatever it took that for, it sends one request at most and is not stuck.
        assert!(std::iter::from_fn(|| lab.client.poll_transmit()).count() <= 1);
        assert!(
            lab.client.is_over() || lab.client.poll_timeout().is_some(),
            "bit {bit}"
        );
    }
}

/// What proves who sends a request, and that it came whole.
const PROOF: [AttributeType; 5] = [
    AttributeType::USERNAME,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::FINGERPRINT,
];

fn peer() -> SocketAddr {
    "203.0.113.5:5000".parse().expect("a literal")
}

/// A client, its clock and the server that the test plays.
struct Lab {
    client: Client,
    script: Script,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self::with(config(Transport::Udp))
    }

    fn with(config: Config) -> Self {
        let now = Instant::now();
        Self {
            client: Client::new(config, [7; 32], now),
            script: Script::new(),
            now,
        }
    }

    fn allocated() -> Self {
        let mut lab = Self::new();
        lab.answer_challenge();
        let signed = lab.request(Method::ALLOCATE);
        lab.reply(lab.script.allocated(&signed, 600));
        assert!(matches!(
            lab.client.poll_event(),
            Some(Event::Allocated { .. })
        ));
        lab
    }

    fn answer_challenge(&mut self) {
        let first = self.request(Method::ALLOCATE);
        self.reply(self.script.challenge(&first, ErrorCode::UNAUTHENTICATED));
    }

    /// The next message to the server, which must be a request of `method`.
    #[track_caller]
    fn request(&mut self, method: Method) -> Vec<u8> {
        let bytes = self.client.poll_transmit().expect("a request was expected");
        let message = script::message(&bytes);
        assert_eq!(
            (message.class(), message.method()),
            (Class::Request, method)
        );
        assert_eq!(message.check_fingerprint(), Ok(()));
        bytes
    }

    #[track_caller]
    fn reply(&mut self, bytes: Vec<u8>) {
        assert_eq!(self.client.handle_datagram(self.now, &bytes), None);
    }

    fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        let header = self
            .client
            .send(self.now, peer(), payload.len())
            .expect("it can be sent");
        let mut bytes = [&*header, payload].concat();
        bytes.resize(bytes.len() + header.padding(), 0);
        bytes
    }

    fn advance(&mut self, by: Duration) {
        self.advance_to(self.now + by);
    }

    fn advance_to(&mut self, end: Instant) {
        while let Some((deadline, _)) = self.client.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = deadline;
            self.client.handle_timeout(self.now);
        }
        self.now = end;
    }

    #[track_caller]
    fn assert_over(&self) {
        assert!(self.client.is_over());
        assert_eq!(self.client.poll_timeout(), None);
    }
}
