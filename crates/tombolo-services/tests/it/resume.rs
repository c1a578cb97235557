use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_services::Outgoing;
use tombolo_wire::v1::server_frame;

use crate::lab::{Device, Lab, message};

/// Two members send each other numbers while their connections break at random: on the way to the
/// node, on the way back, with a welcome lost, with frames sent twice.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_repeated_wherever_connections_break() {
    for seed in 0..40 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let lab = Lab::new();
        let [alice, bob] = lab.members("r", ["alice", "bob"]).await;
        let mut ends = [End::new(alice), End::new(bob)];
        let mut breaks = 0;
        for _ in 0..600 {
            let end = &mut ends[random.random_range(0..2)];
            match random.random_range(0..100) {
                0..40 => end.send(&mut random),
                40..80 => end.receive(&mut random).await,
                80..90 => {
                    let pause = random.random_range(0..200);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                _ => {
                    breaks += 1;
                    end.reconnect(&lab, &mut random).await;
                }
            }
        }
        for end in &mut ends {
            end.device.connection = None;
            assert!(
                end.device.connect(&lab).await.unwrap().resumed,
                "seed {seed}"
            );
        }
        for end in &mut ends {
            while let Some(outgoing) = end.device.next_frame().await {
                end.note(outgoing);
            }
        }
        assert!(breaks > 20, "seed {seed}");
        let [alice, bob] = ends;
        assert_eq!(
            alice.received,
            (0..bob.sent).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert_eq!(
            bob.received,
            (0..alice.sent).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert!(
            alice.device.outbox.is_empty() && bob.device.outbox.is_empty(),
            "seed {seed}"
        );
    }
}

struct End {
    device: Device,
    sent: u64,
    received: Vec<u64>,
}

impl End {
    fn new(device: Device) -> Self {
        Self {
            device,
            sent: 0,
            received: Vec::new(),
        }
    }

    /// Sends a number; sometimes the connection is broken already and nobody knows.
    fn send(&mut self, random: &mut ChaCha8Rng) {
        let body = message("r", &[], &self.sent.to_be_bytes());
        self.sent += 1;
        if random.random_bool(0.1) {
            let frame = tombolo_wire::v1::ClientFrame {
                body: Some(body),
                ..Default::default()
            };
            self.device.outbox.push(frame).unwrap();
            let _ = self.device.outbox.poll_frame();
            self.device.connection = None;
        } else if self.device.connection.is_some() {
            self.device.send(body).unwrap();
        } else {
            let frame = tombolo_wire::v1::ClientFrame {
                body: Some(body),
                ..Default::default()
            };
            self.device.outbox.push(frame).unwrap();
        }
    }

    /// Takes what the node sends; sometimes it gets lost on the way, with all that follows.
    async fn receive(&mut self, random: &mut ChaCha8Rng) {
        for outgoing in self.device.take_some(4, 0.05, random).await {
            self.note(outgoing);
        }
    }

    fn note(&mut self, outgoing: Outgoing) {
        let Outgoing::Reliable(frame) = outgoing else {
            panic!("not {outgoing:?}")
        };
        if let Some(server_frame::Body::Delivery(delivery)) = frame.body {
            let number = u64::from_be_bytes(delivery.payload.as_ref().try_into().unwrap());
            self.received.push(number);
        }
    }

    async fn reconnect(&mut self, lab: &Lab, random: &mut ChaCha8Rng) {
        if random.random_bool(0.5) {
            self.device.connection = None;
        }
        // A connection whose welcome gets lost.
        while random.random_bool(0.3) {
            let hello = self.device.hello();
            drop(lab.attach(hello).await.unwrap());
        }
        assert!(self.device.connect(lab).await.unwrap().resumed);
    }
}
