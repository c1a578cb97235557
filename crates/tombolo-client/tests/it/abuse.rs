//! Strangers who send to a device's socket.

use tokio::net::UdpSocket;
use tombolo_client::{CandidateKind, Lane, LinkState, RoomOptions};

use crate::lab::{Pair, node, reach, recv};

/// Packets such as a stranger, or a liar in the middle, would send.
fn forgeries() -> Vec<Vec<u8>> {
    let mut forgeries: Vec<Vec<u8>> = vec![Vec::new(), vec![0x08], vec![0x40], vec![0xc0; 1200]];
    // Envelopes around QUIC's short and long headers.
    forgeries.push([&[0x08, 0x40][..], &[7; 60]].concat());
    forgeries.push([&[0x08, 0xc3, 0, 0, 0, 1, 8][..], &[7; 1200]].concat());
    // A connectivity check without integrity, and ChannelData.
    forgeries.push([&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[9; 12]].concat());
    forgeries.push([&[0x40, 0, 0, 8][..], &[9; 8]].concat());
    for length in 0..64 {
        forgeries.push(vec![length; usize::from(length)]);
    }
    forgeries
}

#[tokio::test]
async fn forged_packets_never_reach_the_application_and_disturb_nothing() {
    let node = node().await;
    let pair = Pair::new(&node, RoomOptions::default()).await;
    reach(&pair.to_bob, LinkState::Direct).await;
    let stranger = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
    let targets: Vec<_> = pair
        .bob
        .candidates()
        .into_iter()
        .filter(|candidate| candidate.address.ip().is_loopback() && candidate.address.is_ipv4())
        .filter(|candidate| candidate.kind != CandidateKind::Relayed)
        .collect();
    assert!(!targets.is_empty(), "{:?}", pair.bob.candidates());
    for number in 0..20u8 {
        for target in &targets {
            for forgery in forgeries() {
                stranger.send_to(&forgery, target.address).await.unwrap();
            }
        }
        pair.to_bob.send(Lane::Reliable, vec![number]).unwrap();
        let message = recv(&pair.to_alice).await;
        assert_eq!(
            message.payload,
            vec![number],
            "nothing but alice's messages"
        );
    }
    assert!(pair.bob.dropped().unknown_envelope > 0, "and are counted");
    assert_eq!(pair.to_bob.status().state, LinkState::Direct);
    node.shutdown().await;
}
