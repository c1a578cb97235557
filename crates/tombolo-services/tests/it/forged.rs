//! Somebody who can speak on the bus between nodes, but is none.

use std::sync::Arc;
use std::time::Duration;

use tombolo_engine::{
    Bus as _, BusEvent, Engine, Key, Local, LocalConfig, Message, Pattern, RequestError, SealKey,
    SealStats, Sealed, Subscription,
};
use tombolo_wire::NodeId;
use tombolo_wire::v1::JoinMode;

use crate::lab::{Device, Lab, message};

/// Nodes with the same key, on what everybody reaches.
struct World {
    local: Local,
    sealed: Vec<Arc<Sealed>>,
    nodes: Vec<Lab>,
}

impl World {
    async fn new() -> Self {
        let local = Local::new(LocalConfig::default());
        let (mut sealed, mut nodes) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let key = SealKey::new(&[1; 32]).unwrap();
            let engine = Arc::new(Sealed::new(Arc::new(local.clone()), &[key]).unwrap());
            let of_node = Arc::clone(&engine) as Arc<dyn Engine>;
            nodes.push(node(of_node, number));
            sealed.push(engine);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        Self {
            local,
            sealed,
            nodes,
        }
    }

    async fn pair(&self) -> (Device, Device) {
        pair(&self.nodes).await
    }

    fn refused(&self, count: impl Fn(SealStats) -> u64) -> u64 {
        self.sealed.iter().map(|node| count(node.stats())).sum()
    }
}

fn node(engine: Arc<dyn Engine>, number: usize) -> Lab {
    Lab::on(engine, |config| {
        config.node = NodeId::parse(&format!("node-{number}")).unwrap();
    })
}

/// Alice on the first node, and bob on the second, in a room.
async fn pair(nodes: &[Lab]) -> (Device, Device) {
    let mut devices = Vec::new();
    for (node, user) in nodes.iter().zip(["alice", "bob"]) {
        let mut device = node.device(user).await;
        device.join("r", JoinMode::JoinOrCreate).await.unwrap();
        devices.push(device);
    }
    for device in &mut devices {
        device.drain().await;
    }
    let [alice, bob] = devices.try_into().ok().unwrap();
    (alice, bob)
}

async fn eavesdrop(local: &Local) -> [Subscription; 2] {
    let under = |name| Pattern::Under(Key::new([name]).unwrap());
    [
        local.subscribe(&under("node"), 4096).await.unwrap(),
        local.subscribe(&under("beat"), 4096).await.unwrap(),
    ]
}

/// The next message that nodes exchange on a subject that ends like this.
async fn overhear(heard: &mut Subscription, end: &str) -> Message {
    loop {
        match heard.next().await {
            Some(BusEvent::Message(message)) if message.subject.as_str().ends_with(end) => {
                return message;
            }
            Some(_) => {}
            None => panic!("the engine is there"),
        }
    }
}

/// A message for bob in a frame to his node, and a heartbeat of alice's, as nodes without a key say them.
async fn unsealed() -> [Message; 2] {
    let local = Local::new(LocalConfig::default());
    let nodes = [0, 1].map(|number| node(Arc::new(local.clone()), number));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (mut alice, mut bob) = pair(&nodes).await;
    let [mut frames, mut beats] = eavesdrop(&local).await;
    alice.send(message("r", &["bob"], b"forged")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "forged");
    [
        overhear(&mut frames, "node-1.inbox").await,
        overhear(&mut beats, "node-0").await,
    ]
}

#[tokio::test(start_paused = true)]
async fn frames_and_heartbeats_without_the_key_are_refused_and_counted() {
    let world = World::new().await;
    let (mut alice, mut bob) = world.pair().await;
    let [frame, beat] = unsealed().await;
    for forged in [&frame, &beat] {
        let payload = forged.payload.clone();
        world.local.publish(&forged.subject, payload).await.unwrap();
    }
    alice.send(message("r", &[], b"true")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "true");
    bob.is_quiet().await;
    // The frame by the node that it was for, the heartbeat by both.
    assert_eq!(world.refused(|stats| stats.unsealed), 3);
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_said_again_or_to_another_node_are_refused_and_counted() {
    let world = World::new().await;
    let (mut alice, mut bob) = world.pair().await;
    let [mut frames, _] = eavesdrop(&world.local).await;
    alice.send(message("r", &["bob"], b"once")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "once");
    let frame = overhear(&mut frames, "node-1.inbox").await;
    let sealed = frame.payload.clone();
    world.local.publish(&frame.subject, sealed).await.unwrap();
    let other = Key::new(["node", "node-0", "inbox"]).unwrap();
    let mut changed = frame.payload.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    for payload in [frame.payload, changed.into()] {
        world.local.publish(&other, payload).await.unwrap();
    }
    bob.is_quiet().await;
    alice.is_quiet().await;
    assert_eq!(world.refused(|stats| stats.replayed), 1);
    assert_eq!(world.refused(|stats| stats.forged), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_nodes_heartbeats_that_are_said_again_do_not_keep_it_in_the_cluster() {
    let world = World::new().await;
    let (alice, _bob) = world.pair().await;
    let [_, mut beats] = eavesdrop(&world.local).await;
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.push(overhear(&mut beats, "node-0").await);
    }
    world.nodes[0].services.kill();
    drop(alice);
    for beat in kept {
        let payload = beat.payload.clone();
        world.local.publish(&beat.subject, payload).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stats = world.nodes[1].services.stats();
    assert_eq!(stats.cluster.inherited, 1, "it was fenced all the same");
    assert_eq!(world.sealed[1].stats().replayed, 20);
}

#[tokio::test(start_paused = true)]
async fn questions_for_sessions_without_the_key_are_not_answered() {
    let world = World::new().await;
    let _pair = world.pair().await;
    let subject = Key::new(["node", "node-0", "sessions"]).unwrap();
    // A question that is in order, if nobody looked who asks.
    let question = [8, 1, 18, 0].to_vec();
    let asked = world
        .local
        .request(&subject, question.into(), Duration::from_secs(1));
    assert_eq!(asked.await, Err(RequestError::Refused));
    assert_eq!(world.refused(|stats| stats.unsealed), 1);
    let stats = world.nodes[0].services.stats();
    assert_eq!(stats.cluster.items_refused, 0, "it was not even read");
}
