//! Clients that the kernel brings to one shard and whose allocations are on another one.

use std::{net::UdpSocket, time::Duration};

use tombolo_relay::{Relay, RelayConfig};
use tombolo_stun::{
    ChannelNumber, EvenPort, Lifetime, Method, RequestedTransport, ReservationToken, XorPeerAddress,
};

use crate::asker::{Asker, code, message};
use crate::device::{Link, relay_config, v4};

#[test]
fn requests_that_name_one_shard_after_the_other_do_not_go_round_between_them() {
    let relay = Relay::bind(two_shards()).expect("there are free ports");
    let over_tcp = Asker::over(Link::tcp(relay.addrs().turn[0]));
    for mut client in [Asker::udp(&relay), over_tcp] {
        for shard in [0, 1, 0, 1, 0, 1] {
            let unknown = ReservationToken([7, 7, 7, 7, 7, 7, 7, shard]);
            let reply = client.ask(Method::ALLOCATE, |writer| {
                writer
                    .attribute(&RequestedTransport::UDP)
                    .attribute(&unknown);
            });
            assert_eq!(code(&reply), Some(508));
        }
    }
}

#[test]
fn a_burst_of_a_client_whose_allocation_is_elsewhere_arrives_whole() {
    let relay = Relay::bind(two_shards()).expect("there are free ports");
    let peer = UdpSocket::bind("127.0.0.2:0").expect("loopback is there");
    peer.set_read_timeout(Some(PATIENCE))
        .expect("it is not zero");
    let address = peer.local_addr().expect("it is bound");
    let mut client = passed_on(&relay);
    let number = ChannelNumber::new(0x4000).expect("it is in range");
    let reply = client.ask(Method::CHANNEL_BIND, |writer| {
        writer
            .attribute(&number)
            .attribute(&XorPeerAddress(address));
    });
    assert_eq!(code(&reply), None);

    let payloads: Vec<Vec<u8>> = (0..5).map(|i| vec![i; 200]).collect();
    let frames = payloads.iter().map(|payload| {
        let header = number.header(payload.len()).expect("it is short");
        [&header[..], payload].concat()
    });
    let frames: Vec<Vec<u8>> = frames.collect();
    client.link.send_burst(&frames);
    for payload in &payloads {
        let mut buffer = [0; 2048];
        let (len, _) = peer.recv_from(&mut buffer).expect("it arrives");
        assert_eq!(&buffer[..len], payload);
    }
}

#[test]
fn a_client_that_sends_nothing_more_gets_its_answer_from_whichever_shard() {
    let relay = Relay::bind(two_shards()).expect("there are free ports");
    // Each comes to some one of the shards.
    for shard in [0, 1].repeat(12) {
        let mut client = Asker::over(Link::tcp(relay.addrs().turn[0]));
        let unknown = ReservationToken([7, 7, 7, 7, 7, 7, 7, shard]);
        client.ask_last(Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&unknown);
        });
        assert_eq!(code(&client.receive()), Some(508));
        client.link.wait_for_end();
    }
    let shards = relay.stats().shards;
    let passed_on: u64 = shards.iter().map(|shard| shard.io.passed_on).sum();
    assert!(passed_on > 0, "one of them came to the other shard");
}

fn two_shards() -> RelayConfig {
    RelayConfig {
        shards: Some(2),
        ..relay_config(v4())
    }
}

/// A client with an allocation on another shard than the one its packets come to: the kernel spreads
/// clients by their addresses, so it is some one of a few.
fn passed_on(relay: &Relay) -> Asker {
    for _ in 0..32 {
        let mut first = Asker::udp(relay);
        let reply = first.ask(Method::ALLOCATE, |writer| {
            let even = EvenPort { reserve_next: true };
            writer.attribute(&RequestedTransport::UDP).attribute(&even);
        });
        let token: ReservationToken = message(&reply).required().expect("a port is reserved");
        let mut second = Asker::udp(relay);
        let reply = second.ask(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).attribute(&token);
        });
        assert_eq!(code(&reply), None);
        let shards = relay.stats().shards;
        if shards.iter().any(|shard| shard.io.passed_on > 0) {
            return second;
        }
        for client in [&mut first, &mut second] {
            let reply = client.ask(Method::REFRESH, |writer| {
                writer.attribute(&Lifetime(0));
            });
            assert_eq!(code(&reply), None);
        }
    }
    panic!("all clients came to one shard");
}

const PATIENCE: Duration = Duration::from_secs(20);
