//! What a pool has of a node's life is over, and the node does not know that yet.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_node_whose_life_is_over_by_the_log_does_not_say_without_end_that_its_device_is_there() {
    let local = Local::new(LocalConfig::default());
    let node = patient(&local, "node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&node, "alice").await;
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 60)
        .await
        .unwrap();
    let key = pool_key(&local, "pool").await;
    let mut devices = Vec::new();
    for body in entries(&local, &key).await {
        if let Body::Submitted(ticket) = body {
            devices.extend(
                ticket
                    .players
                    .into_iter()
                    .filter_map(|player| player.device),
            );
        }
    }
    let device = devices.pop().unwrap();
    let body = Body::NodeLost {
        node: device.node,
        incarnation: device.incarnation,
    };
    let time = tombolo_match::Time::from_millis(0);
    let operation = [9; 16];
    let entry = Entry { time, body }.encode(tombolo_match::OperationId(operation));
    let operation = tombolo_engine::OperationId(operation);
    let appended = local.append(&key, entry, Purpose::End, Expect::Any, operation);
    appended.await.unwrap();
    // Nothing here waits for time to pass.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    let said = entries(&local, &key).await.into_iter();
    let said = said.filter(|body| matches!(body, Body::Returned { .. }));
    assert_eq!(said.count(), 1);
}

async fn entries(local: &Local, key: &Key) -> Vec<Body> {
    let mut bodies = Vec::new();
    let mut tail = local.tail(key, None).await.unwrap();
    while let TailEvent::Entry { entry, .. } = tail.next().await.unwrap() {
        bodies.push(Entry::decode(&entry).unwrap().1.body);
    }
    bodies
}
