//! More of what is allowed than is good.

use tombolo_stun::{ChannelNumber, Method, XorPeerAddress};

use super::raw::{Raw, udp};
use super::victim::{ALL_WAYS, Victim, attacker};
use crate::caller::Caller;
use crate::interop::Echo;

const PERMISSIONS: u16 = 10_000;
/// In one request.
const BATCH: u16 = 50;
const PERMISSIONS_MAX: u64 = 256;

#[tokio::test]
async fn guesses_at_a_password_are_refused_and_not_answered_at_length() {
    let victim = Victim::start("guesses").await;
    let (mut sent, mut answered) = (0, 0);
    victim.stays_flat_under(|| {
        for network in 0..20 {
            let mut raw = Raw::new(attacker(network, 1), victim.plain, "a guess");
            raw.is_challenged();
            for _ in 0..500 {
                let request = raw.request(Method::ALLOCATE, &udp);
                sent += request.len();
                raw.send(&request);
                answered += raw.answered_bytes();
            }
            answered += raw.answered_bytes();
        }
    });
    victim.serves(&ALL_WAYS);
    assert!(answered <= sent, "{answered} bytes for {sent}");
    assert!(victim.refused("message integrity does not match") > 0);
    assert_eq!(
        victim.metric("tombolo_turn_allocations_created_total"),
        ALL_WAYS.len() as u64
    );
    victim.ends().await;
}

#[tokio::test]
async fn ten_thousand_permissions_are_not_given() {
    let victim = Victim::start("permissions").await;
    victim.stays_flat_under(|| {
        let mut raw = Raw::allocated(attacker(0, 1), victim.plain);
        let mut given = 0;
        for batch in 0..PERMISSIONS / BATCH {
            let first = batch * BATCH;
            let code = raw.ask(Method::CREATE_PERMISSION, &|writer| {
                for index in first..first + BATCH {
                    let [high, low] = index.to_be_bytes();
                    let peer = ([127, 2, high, low], 9).into();
                    writer.attribute(&XorPeerAddress(peer));
                }
            });
            match code {
                0 => given += u64::from(BATCH),
                code => assert_eq!(code, 508),
            }
        }
        assert!(given > 0 && given <= PERMISSIONS_MAX, "{given} permissions");
        let ended = raw.ask(Method::REFRESH, &|writer| {
            writer.attribute(&tombolo_stun::Lifetime(0));
        });
        assert_eq!(ended, 0);
    });
    victim.serves(&ALL_WAYS);
    assert!(victim.refused("no room for another permission") > 0);
    victim.ends().await;
}

#[tokio::test]
async fn a_channel_for_each_number_is_not_given_and_those_that_are_work() {
    let victim = Victim::start("channels").await;
    let echo = Echo::start("127.0.0.9");
    let mut raw = Raw::allocated(attacker(0, 1), victim.plain);
    let mut caller = Caller::new(victim.plain, super::victim::USER, super::victim::PASSWORD);
    assert!(caller.allocates());
    assert_eq!(caller.connect(echo.address), Ok(()));
    let mut given = 0;
    for number in 0x4000..0x4fff {
        let channel = ChannelNumber::new(number).unwrap();
        let [high, low] = number.to_be_bytes();
        let code = raw.ask(Method::CHANNEL_BIND, &|writer| {
            writer
                .attribute(&channel)
                .attribute(&XorPeerAddress(([127, 2, high, low], 9).into()));
        });
        match code {
            0 => given += 1,
            code => assert_eq!(code, 508),
        }
    }
    assert!(given > 0 && given <= PERMISSIONS_MAX, "{given} channels");
    caller.echoes(echo.address, b"another one's channel");
    victim.serves(&ALL_WAYS);
    assert!(
        victim.refused("no room for another channel")
            + victim.refused("no room for another permission")
            > 0
    );
    victim.ends().await;
}

#[tokio::test]
async fn one_user_has_as_many_allocations_as_it_may_and_another_goes_on() {
    let victim = Victim::start("allocations").await;
    let mut codes = Vec::new();
    let mut held = Vec::new();
    for host in 1..=40 {
        let mut raw = Raw::new(attacker(0, host), victim.plain, super::victim::PASSWORD);
        codes.push(raw.ask(Method::ALLOCATE, &udp));
        held.push(raw);
    }
    let given = codes.iter().filter(|code| **code == 0).count();
    assert!((16..=18).contains(&given), "{codes:?}");
    assert!(
        codes.iter().all(|code| [0, 486].contains(code)),
        "{codes:?}"
    );
    for mut raw in held {
        raw.ask(Method::REFRESH, &|writer| {
            writer.attribute(&tombolo_stun::Lifetime(0));
        });
    }
    victim.serves(&ALL_WAYS);
    assert!(victim.refused("allocation quota reached for this user") > 0);
    victim.ends().await;
}
