use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use noq::ConnectionId;
use tokio::net::UdpSocket;
use tombolo_node::Node;
use tombolo_path::{Candidate, CandidateKind, Credentials, PeerConfig};

use super::*;
use crate::keys::Keys;
use crate::{Device, Room, RoomEvent, RoomOptions};

const MALLORY: PublicKey = PublicKey([9; 32]);

async fn node() -> Node {
    let node = Node::builder().dev().listen([127, 0, 0, 1].into());
    let node = node.allow_peer("127.0.0.0/8".parse().unwrap());
    let node = node.port(0).turn_port(0).turns_port(0).start();
    node.await.unwrap()
}

async fn device(node: &Node, user: &str) -> Device {
    let url = node.ready().url.to_string();
    let device = Device::builder(&url).development_user(user).connect();
    device.await.unwrap()
}

async fn join(device: &Device, policy: Policy) -> Room {
    let options = RoomOptions {
        policy,
        ..RoomOptions::default()
    };
    device.rooms().join_or_create("r", options).await.unwrap()
}

/// Links the two, and says something each way.
async fn link(alice: &Device, bob: &Device, policy: Policy) {
    let alice_room = join(alice, policy).await;
    let bob_room = join(bob, policy).await;
    let name = UserId::parse("bob").unwrap();
    while !alice_room.members().contains(&name) {
        tokio::task::yield_now().await;
    }
    let to_bob = alice_room.peer(&name).open().unwrap();
    let to_alice = loop {
        if let Some(RoomEvent::Peer(peer)) = bob_room.next_event().await {
            break peer;
        }
    };
    for (from, to) in [(&to_alice, &to_bob), (&to_bob, &to_alice)] {
        from.send(Lane::Reliable, "hello").unwrap();
        assert_eq!(to.recv().await.unwrap().payload, "hello");
    }
}

/// A member of a room that says to have these addresses.
fn liar(candidates: Vec<Candidate>) -> PeerConfig {
    let [own, theirs] = [1, 2].map(|seed| Credentials::from_seed([seed; 32]));
    let mut config = PeerConfig::new(own, theirs, true);
    config.candidates = candidates;
    config
}

/// The first packets of as many handshakes, none of which goes on.
async fn first_packets(count: usize) -> Vec<Vec<u8>> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = UdpSocket::bind(loopback).await.unwrap();
    let to = socket.local_addr().unwrap();
    let endpoint = noq::Endpoint::client(loopback).unwrap();
    let keys = Keys::generate().unwrap();
    let tls = keys.client_config(keys.identity).unwrap();
    let config = noq::ClientConfig::new(Arc::new(tls));
    let begin = |_| endpoint.connect_with(config.clone(), to, "peer").unwrap();
    let begun: Vec<_> = (0..count).map(begin).collect();
    let mut by_id = BTreeMap::new();
    while by_id.len() < begun.len() {
        let mut packet = vec![0; 2048];
        let bytes = socket.recv(&mut packet).await.unwrap();
        packet.truncate(bytes);
        let id = packet[6..][..usize::from(packet[5])].to_vec();
        by_id.entry(id).or_insert(packet);
    }
    by_id.into_values().collect()
}

#[tokio::test]
async fn whoever_claims_anothers_addresses_does_not_keep_a_link_from_coming_up() {
    let node = node().await;
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    for (policy, moves) in [
        (Policy::Relay, false),
        (Policy::Relay, true),
        (Policy::Any, true),
    ] {
        let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
        // Both were lied to, since either may be the one that begins the handshake.
        for (device, other) in [(&alice, &bob), (&bob, &alice)] {
            let net = device.0.net();
            let liar = liar(other.candidates());
            let (liar, _) = net.add_peer(MALLORY, liar, None).unwrap();
            if moves {
                let elsewhere = Candidate::new(CandidateKind::Relayed, elsewhere);
                net.add_candidate(liar, elsewhere);
            }
        }
        link(&alice, &bob, policy).await;
    }
    node.shutdown().await;
}

#[tokio::test]
async fn an_introduction_that_is_handed_over_again_begins_no_other_link() {
    let node = node().await;
    let bob = device(&node, "bob").await;
    let links = bob.0.links();
    let introduction = |attempt| {
        let message = v1::Introduction {
            attempt,
            keys: Some((&Keys::generate().unwrap().public()).into()),
            ..v1::Introduction::default()
        };
        Introduction::parse(message).unwrap()
    };
    let target = Target {
        meeting: Meeting::Room(RoomId::parse("r").unwrap()),
        user: UserId::parse("alice").unwrap(),
        policy: Policy::Any,
    };
    let first = introduction(1);
    let begin = |introduction| links.on_introduced(target.clone(), introduction);
    for introduction in [first.clone(), introduction(1)] {
        let peer = begin(introduction).expect("a link begins");
        links.lock().iter().for_each(|link| link.end("over"));
        peer.closed().await;
        while !links.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }
    assert!(begin(first.clone()).is_none());

    // One whose answer did not get across begins a link once more.
    let second = introduction(2);
    let peer = begin(second.clone()).expect("a link begins");
    let refused = Introduced {
        room: "r".to_owned(),
        user: "alice".to_owned(),
        attempt: links.lock()[0].pairing.own,
        is_update: false,
    };
    links.on_refused(&refused, &Error::closed("nothing is kept for it"), &[]);
    peer.closed().await;
    while !links.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let peer = begin(second.clone()).expect("a link begins once more");
    links.lock().iter().for_each(|link| link.end("over"));
    peer.closed().await;
    while !links.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(begin(second).is_none());
    node.shutdown().await;
}

#[tokio::test]
async fn an_introduced_peer_that_begins_many_handshakes_keeps_nobody_from_linking() {
    let node = node().await;
    let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
    let mallory = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = Candidate::new(CandidateKind::Host, mallory.local_addr().unwrap());
    // Either may be the one that awaits the other's handshake.
    let targets = [&alice, &bob].map(|device| {
        let net = device.0.net();
        let first_id = ConnectionId::new(&[7; 16]);
        net.add_peer(MALLORY, liar(vec![at]), Some(first_id))
            .unwrap();
        SocketAddr::from((Ipv4Addr::LOCALHOST, net.port()))
    });
    let packets = first_packets(2 * HANDSHAKES_MAX).await;
    let begin = async |packet: &[u8]| {
        let relayed_path = [&[0x08], packet].concat();
        for target in targets {
            mallory.send_to(&relayed_path, target).await.unwrap();
        }
    };
    for packet in &packets {
        begin(packet).await;
    }
    let begun = || [&alice, &bob].map(|device| device.dropped().unexpected_handshakes);
    let flood = async {
        for packet in packets.iter().cycle() {
            let before = begun();
            begin(packet).await;
            // Whatever else is on its way has its place in the sockets, too.
            while begun() == before {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        () = flood => {}
        () = link(&alice, &bob, Policy::Relay) => {}
    }
    for device in [&alice, &bob] {
        assert!(device.dropped().unexpected_handshakes > 0, "and is counted");
    }
    node.shutdown().await;
}
