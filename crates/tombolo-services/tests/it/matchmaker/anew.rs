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

#[tokio::test(start_paused = true)]
async fn whoever_leaves_a_node_that_has_not_read_of_its_match_is_told_over_the_next_one() {
    let local = Local::new(LocalConfig::default());
    let [(next, _), (slow, wire)] = nodes(&local).await;
    let mut alice = seeker(&slow, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    wire.is_slow.store(true, Ordering::Relaxed);
    let mut bob = seeker(&next, "bob").await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut bob).await.room;
    assert!(alice.connect(&next).await.unwrap().resumed);
    let status = submit(&mut alice, "duel", 1, &[]).await;
    assert!(status.is_ok(), "{status:?}");
    assert_eq!(found(&mut alice).await.room, room);
    // The node that it has left has something to tell, too.
    wire.is_slow.store(false, Ordering::Relaxed);
    assert!(alice.join(&room, JoinMode::Join).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_not_read_of_a_ticket_does_not_say_that_there_is_none() {
    let local = Local::new(LocalConfig::default());
    let [(first, _), (slow, wire)] = nodes(&local).await;
    wire.is_slow.store(true, Ordering::Relaxed);
    let mut alice = seeker(&first, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    assert!(alice.connect(&slow).await.unwrap().resumed);
    let back = ask_submit(&mut alice, "duel", 1, &[], 0, "");
    tokio::time::sleep(Duration::from_millis(500)).await;
    wire.is_slow.store(false, Ordering::Relaxed);
    let status = status(alice.response_among(back).await);
    assert_eq!(status.map(|status| status.waiting), Ok(1));
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
