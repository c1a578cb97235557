use std::sync::Arc;
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_wire::v1::{self, JoinMode, client_frame, request};

use crate::lab::{Device, Lab, message};

/// Many devices at once on several threads, none of which ever reads: outboxes run over, sessions
/// end in the middle of everything, users replace themselves. Afterwards nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_storm_on_many_threads_ends_and_leaves_nothing_behind() {
    let lab = Arc::new(Lab::with(|config| {
        config.outbox.frames_max = 150;
        config.resume_window = Duration::from_millis(20);
        config.hellos.burst = 10_000;
    }));
    let mut storm = tokio::task::JoinSet::new();
    for seed in 0..16 {
        let lab = Arc::clone(&lab);
        storm.spawn(async move { rage(&lab, seed).await });
    }
    while let Some(done) = storm.join_next().await {
        done.unwrap();
    }

    let mut stats = lab.services.stats();
    for _ in 0..5_000 {
        if stats.sessions == 0 && stats.rooms == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        stats = lab.services.stats();
    }
    assert_eq!((stats.sessions, stats.rooms), (0, 0), "{stats:?}");
    assert!(stats.delivered > 0 && stats.introduced > 0, "{stats:?}");
}

async fn rage(lab: &Lab, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Two devices for each user.
    let user = |number: u64| format!("user-{}", number / 2);
    let mut device = lab.device(&user(seed)).await;
    for _ in 0..500 {
        let room = format!("r{}", random.random_range(0..3));
        let result = match random.random_range(0..20) {
            0..5 => {
                let mode = JoinMode::JoinOrCreate.into();
                let join = v1::Join {
                    room,
                    mode,
                    ..v1::Join::default()
                };
                device.send(ask(request::Kind::Join(join)))
            }
            5..7 => device.send(ask(request::Kind::Leave(v1::Leave { room }))),
            7..14 => device.send(message(&room, &[], b"x")),
            14..16 => {
                let introduction = v1::Introduction {
                    attempt: 1,
                    ..Default::default()
                };
                let to = user(random.random_range(0..16));
                let introduction = Some(introduction);
                let introduce = v1::Introduce {
                    room,
                    to,
                    introduction,
                    ..v1::Introduce::default()
                };
                device.send(client_frame::Body::Introduce(introduce))
            }
            16 => device.send(client_frame::Body::Goodbye(v1::Goodbye {})),
            17 => {
                device.connection = None;
                device.connect(lab).await.map(|_| ())
            }
            _ => {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            }
        };
        if result.is_err() {
            device = Device::new(&device.user);
            device.connect(lab).await.unwrap();
        }
    }
}

fn ask(kind: request::Kind) -> client_frame::Body {
    client_frame::Body::Request(v1::Request {
        id: 1,
        kind: Some(kind),
    })
}
