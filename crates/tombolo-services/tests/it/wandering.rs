//! Members that wander from node to node while everything goes wrong that may.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_services::Outgoing;
use tombolo_wire::v1::{JoinMode, server_frame};

use crate::cluster::{Member, cluster, members};
use crate::handover::push;
use crate::lab::{Device, members as names, message};

/// Three members say numbers to each other and wander among three nodes, with and without their old
/// connections; the bus loses frames, and loses, repeats and delays what nodes ask each other.
#[tokio::test(start_paused = true)]
async fn whoever_wanders_loses_repeats_and_confuses_nothing() {
    for seed in 0..24 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (nodes, _) = cluster::<3>().await;
        let users = [("alice", 0), ("bob", 1), ("carol", 2)];
        let mut ends = members(&nodes, "r", users).await.map(End::new);
        confuse(&nodes, 10, 30);
        let mut moves = 0;
        for _ in 0..250 {
            let end = &mut ends[random.random_range(0..3)];
            match random.random_range(0..100) {
                0..45 => end.say(&mut random),
                45..75 => end.hear(&mut random).await,
                75..90 => {
                    let pause = random.random_range(0..60);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                _ => {
                    moves += 1;
                    end.wander(&nodes, &mut random).await;
                }
            }
        }
        confuse(&nodes, 0, 0);
        for end in &mut ends {
            end.device.connection = None;
            let node = &nodes[random.random_range(0..3)];
            let welcome = end.device.connect(&node.lab).await.unwrap();
            assert!(welcome.resumed, "seed {seed}");
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        for end in &mut ends {
            while let Some(outgoing) = end.device.next_frame().await {
                end.note(outgoing);
            }
        }
        assert!(moves > 10, "seed {seed}");
        let said = ends
            .each_ref()
            .map(|end| (end.device.user.clone(), end.said));
        for end in &ends {
            for (from, said) in said.iter().filter(|(user, _)| *user != end.device.user) {
                let heard = end.heard.get(from).cloned().unwrap_or_default();
                let all: Vec<_> = (0..*said).collect();
                assert_eq!(heard, all, "seed {seed}: {} from {from}", end.device.user);
            }
            assert!(end.device.outbox.is_empty(), "seed {seed}");
            assert_eq!(end.refused, 0, "seed {seed}");
        }
    }
}

/// A node dies at some moment of a hand-over: the one that gives, or the one that takes. The device
/// has its session, or a new one and its seat; nobody hears anything twice or in another order, and
/// nobody is left behind in the room.
#[tokio::test(start_paused = true)]
async fn a_node_may_die_at_any_moment_of_a_hand_over() {
    let (mut resumed, mut begun_anew) = (0, 0);
    for seed in 0..60 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (nodes, _) = cluster::<3>().await;
        let users = [("bob", 2), ("alice", 0)];
        let [bob, alice] = members(&nodes, "r", users).await;
        let (mut bob, mut alice) = (End::new(bob), End::new(alice));
        confuse(&nodes, 10, 30);
        for _ in 0..5 {
            bob.say(&mut random);
            alice.say(&mut random);
        }
        let victim = random.random_range(0..2);
        let moment = Duration::from_millis(random.random_range(0..700));
        let services = nodes[victim].lab.services.clone();
        let death = tokio::spawn(async move {
            tokio::time::sleep(moment).await;
            services.kill();
        });
        let mut was_resumed = true;
        let mut at = 1;
        alice.device.connection = None;
        loop {
            match alice.device.connect(&nodes[at].lab).await {
                Ok(welcome) => was_resumed &= welcome.resumed,
                // What was asked got no answer in time.
                Err(reject) => tracing::debug!(%reject, "not yet"),
            }
            let is_alive = death.is_finished() && at != victim;
            if is_alive && alice.device.connection.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            if death.is_finished() {
                at = 1 - victim;
            }
        }
        confuse(&nodes, 0, 0);
        if was_resumed {
            resumed += 1;
        } else {
            begun_anew += 1;
            let joined = alice.device.join("r", JoinMode::Join).await.unwrap();
            let member = joined.members.iter().find(|member| member.user == "alice");
            assert_eq!(member.unwrap().seat, 1, "seed {seed}");
        }
        bob.device.connection = None;
        assert!(bob.device.connect(&nodes[2].lab).await.unwrap().resumed);
        bob.device
            .send(message("r", &[], &bob.said.to_be_bytes()))
            .unwrap();
        bob.said += 1;
        tokio::time::sleep(Duration::from_secs(40)).await;
        for end in [&mut alice, &mut bob] {
            while let Some(outgoing) = end.device.next_frame().await {
                end.note(outgoing);
            }
            for heard in end.heard.values() {
                assert!(heard.is_sorted_by(|a, b| a < b), "seed {seed}: {heard:?}");
            }
        }
        let heard = &alice.heard["bob"];
        assert_eq!(heard.last(), Some(&(bob.said - 1)), "seed {seed}");
        // What was for the node that died may have been refused.
        if was_resumed && bob.refused == 0 {
            assert_eq!(*heard, (0..bob.said).collect::<Vec<_>>(), "seed {seed}");
        }
        let mut carol = nodes[2].lab.device("carol").await;
        let joined = carol.join("r", JoinMode::Join).await.unwrap();
        assert_eq!(names(&joined), ["bob", "alice", "carol"], "seed {seed}");
        assert!(
            joined.members.iter().all(|member| !member.dropped),
            "seed {seed}"
        );
    }
    assert!(
        resumed > 0 && begun_anew > 0,
        "{resumed} resumed, {begun_anew} begun anew"
    );
}

/// How many of a hundred frames and questions go wrong.
fn confuse(nodes: &[Member], frames: u64, questions: u64) {
    for node in nodes {
        node.wire.lose_percent.store(frames, Ordering::Relaxed);
        node.wire
            .confuse_percent
            .store(questions, Ordering::Relaxed);
    }
}

struct End {
    device: Device,
    said: u64,
    heard: BTreeMap<String, Vec<u64>>,
    refused: u64,
}

impl End {
    fn new(device: Device) -> Self {
        Self {
            device,
            said: 0,
            heard: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Says the next number; sometimes it gets lost on the way, with the connection.
    fn say(&mut self, random: &mut ChaCha8Rng) {
        push(
            &mut self.device,
            message("r", &[], &self.said.to_be_bytes()),
        );
        self.said += 1;
        if self.device.connection.is_none() {
        } else if random.random_bool(0.05) {
            let _ = self.device.outbox.poll_frame();
            self.device.connection = None;
        } else if self.device.transmit().is_err() {
            self.device.connection = None;
        }
    }

    /// Takes what the node sends; sometimes it gets lost on the way, with the connection.
    async fn hear(&mut self, random: &mut ChaCha8Rng) {
        for outgoing in self.device.take_some(5, 0.03, random).await {
            self.note(outgoing);
        }
    }

    fn note(&mut self, outgoing: Outgoing) {
        let Outgoing::Reliable(frame) = outgoing else {
            panic!("not {outgoing:?}");
        };
        match frame.body {
            Some(server_frame::Body::Delivery(delivery)) => {
                let number = u64::from_be_bytes(delivery.payload.as_ref().try_into().unwrap());
                self.heard.entry(delivery.from).or_default().push(number);
            }
            Some(server_frame::Body::Refused(_)) => self.refused += 1,
            _ => {}
        }
    }

    /// Connects to some node until one has the session.
    async fn wander(&mut self, nodes: &[Member], random: &mut ChaCha8Rng) {
        // The old connection may live until the new one does.
        let old = self.device.connection.take();
        let old = old.filter(|_| random.random_bool(0.5));
        for _ in 0..20 {
            let node = &nodes[random.random_range(0..nodes.len())];
            if random.random_bool(0.2) {
                // The welcome gets lost.
                let hello = self.device.hello();
                drop(node.lab.attach(hello).await);
            }
            match self.device.connect(&node.lab).await {
                Ok(welcome) => {
                    let stats = nodes.iter().map(|node| node.lab.services.stats());
                    let why: Vec<_> = stats.map(|stats| stats.resumes_refused).collect();
                    assert!(
                        welcome.resumed,
                        "{} at {}: {why:?}",
                        welcome.user, welcome.node
                    );
                    drop(old);
                    return;
                }
                // What was asked got no answer in time.
                Err(reject) => tracing::debug!(%reject, "not yet"),
            }
        }
        panic!("the session is found nowhere");
    }
}
