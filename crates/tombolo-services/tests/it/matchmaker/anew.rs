//! A pool's log that is read anew.

use super::*;

#[tokio::test(start_paused = true)]
async fn tickets_wait_on_and_no_match_begins_twice_when_the_log_begins_anew() {
    let local = Local::new(LocalConfig::default());
    let [(lab, wire)] = nodes(&local).await;
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    wire.is_slow.store(true, Ordering::Relaxed);
    wire.restore(&local);
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.is_quiet_of_matches().await;
    wire.is_slow.store(false, Ordering::Relaxed);
    alice.is_quiet_of_matches().await;

    let mut bob = seeker(&lab, "bob").await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut alice).await.room;
    assert_eq!(found(&mut bob).await.room, room);
    wire.restore(&local);
    for device in [&mut alice, &mut bob] {
        device.is_quiet_of_matches().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_match_that_began_while_the_log_was_read_anew_is_told() {
    let local = Local::new(LocalConfig::default());
    let [(first, _), (second, wire)] = nodes(&local).await;
    let mut alice = seeker(&second, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    wire.is_slow.store(true, Ordering::Relaxed);
    wire.restore(&local);
    let mut bob = seeker(&first, "bob").await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut bob).await.room;
    wire.is_slow.store(false, Ordering::Relaxed);
    assert_eq!(found(&mut alice).await.room, room);
}

/// Nodes of a cluster, of which the first is the matcher, each with its way to the engine.
async fn nodes<const N: usize>(local: &Local) -> [(Lab, Arc<Wire>); N] {
    let mut nodes = Vec::new();
    for number in 0..N {
        let wire = Wire::new(local);
        let lab = Lab::on(wire.clone(), |config| {
            serve_pools(config);
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
        });
        nodes.push((lab, wire));
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    nodes.try_into().ok().unwrap()
}
