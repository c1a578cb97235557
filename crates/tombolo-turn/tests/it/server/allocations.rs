//! What the data plane costs the allocator of memory: nothing.

use allocation_counter::measure;
use tombolo_stun::{Class, Data, Method, RequestedTransport, XorPeerAddress};
use tombolo_turn::server::{Command, FiveTuple, PeerAddr};

use super::lab::{Lab, PEER, address, alice, bob, channel, channel_header, client, tcp_client};

#[test]
fn data_is_forwarded_without_an_allocation_of_memory() {
    for from in [client(1), tcp_client(1)] {
        let mut lab = Lab::new();
        let at = lab.allocate(from, &alice());
        lab.bind(from, &alice(), 0x4000, PEER);
        let payload = [7; 1200];
        let on_channel = [channel_header(0x4000, &payload), payload.to_vec()].concat();
        let indication = send_indication(&mut lab, PEER, &payload);
        // On the permission of the channel's peer, from a port without a channel.
        let other_port = PeerAddr(address("8.8.4.4:5001"));
        assert_free(&mut lab, |lab| {
            let server = &mut lab.server;
            server.handle_client(lab.now, from, &on_channel).is_some()
                && server.handle_client(lab.now, from, &indication).is_some()
                && server
                    .handle_peer(lab.now, at, PeerAddr(address(PEER)), &payload)
                    .is_some()
                && server
                    .handle_peer(lab.now, at, other_port, &payload)
                    .is_some()
        });
    }
}

#[test]
fn data_is_refused_without_an_allocation_of_memory() {
    let mut lab = Lab::new();
    let at = lab.allocate(client(1), &alice());
    lab.allocate(client(2), &bob());
    lab.bind(client(1), &alice(), 0x4000, PEER);
    let payload = [7; 1200];
    let on_channel = [channel_header(0x4000, &payload), payload.to_vec()].concat();
    let indication = send_indication(&mut lab, "8.8.4.5:5000", &payload);
    let stranger = PeerAddr(address("8.8.4.5:5000"));
    let nobody: FiveTuple = client(3);
    assert_free(&mut lab, |lab| {
        let server = &mut lab.server;
        [client(2), nobody].iter().all(|from| {
            server.handle_client(lab.now, *from, &on_channel).is_none()
                && server.handle_client(lab.now, *from, &indication).is_none()
                && server.handle_client(lab.now, *from, &payload).is_none()
        }) && server
            .handle_peer(lab.now, at, stranger, &payload)
            .is_none()
    });
}

#[test]
fn an_idle_allocation_with_a_channel_keeps_less_than_a_kibibyte_of_memory() {
    const COUNT: u16 = 2000;
    let mut lab = Lab::with(|config| {
        config.limits.per_user.allocations = Some(usize::from(COUNT));
    });
    let user = alice();
    let requests: Vec<_> = (1..=COUNT)
        .map(|port| {
            // Over TCP, where no budget of challenges is in the way.
            let bytes = lab.sign(tcp_client(port), &user, Method::ALLOCATE, |writer| {
                writer.attribute(&RequestedTransport::UDP);
            });
            (tcp_client(port), bytes)
        })
        .collect();
    let channels: Vec<_> = (1..=COUNT)
        .map(|port| {
            let bytes = lab.sign(tcp_client(port), &user, Method::CHANNEL_BIND, |writer| {
                writer
                    .attribute(&channel(0x4000))
                    .attribute(&XorPeerAddress(address(PEER)));
            });
            (tcp_client(port), bytes)
        })
        .collect();
    let kept = measure(|| {
        for (from, bytes) in requests.iter().chain(&channels) {
            assert_eq!(lab.server.handle_client(lab.now, *from, bytes), None);
            while let Some(command) = lab.server.poll_command() {
                if let Command::BindPort { id, address } = command {
                    lab.server.handle_port(lab.now, id, Ok(address));
                }
            }
            while lab.server.poll_transmit().is_some() {}
            while lab.server.poll_event().is_some() {}
        }
    });
    assert_eq!(lab.server.stats().allocations, u64::from(COUNT));
    let infos = lab.server.allocations(lab.now);
    assert!(infos.into_iter().all(|info| info.channels == 1));
    let each = kept.bytes_current / i64::from(COUNT);
    assert!(each < 1024, "{each} bytes");
}

#[test]
fn a_reply_does_allocate_so_that_the_counter_is_known_to_count() {
    let mut lab = Lab::new();
    let request = lab.message(Class::Request, Method::BINDING, |_| {});
    let cost = measure(|| {
        let forward = lab.server.handle_client(lab.now, client(1), &request);
        assert_eq!(forward, None);
    });
    assert!(cost.count_total > 0);
}

/// Runs it again and again, and holds it to what it says.
#[track_caller]
fn assert_free(lab: &mut Lab, mut is_right: impl FnMut(&mut Lab) -> bool) {
    let mut rounds = 0;
    let cost = measure(|| {
        while rounds < 100 && is_right(lab) {
            rounds += 1;
        }
    });
    assert_eq!(rounds, 100, "each packet is treated as expected");
    assert_eq!(cost.count_total, 0, "{cost:?}");
}

fn send_indication(lab: &mut Lab, peer: &str, payload: &[u8]) -> Vec<u8> {
    lab.message(Class::Indication, Method::SEND, |writer| {
        writer
            .attribute(&XorPeerAddress(address(peer)))
            .attribute(&Data(payload));
    })
}
