//! Pools about which something panics: what was made of their logs may be half changed.

use super::*;

/// Whoever looks for matches has the pool half changed when it panics.
#[tokio::test(start_paused = true)]
async fn of_a_pool_whose_matcher_panics_nothing_is_answered_until_all_was_read_again() {
    let (lab, wire) = trapped(&Local::new(LocalConfig::default()), 0).await;
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    ask(&mut alice, "duel", why(1)).await.unwrap();

    wire.is_endless.store(true, Ordering::Relaxed);
    wire.lay("lease matcher.duel", 1);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(lab.services.stats().logs_panicked, 1);
    let id = alice.request(Some(request::Kind::Matchmaker(v1::MatchRequest {
        pool: "duel".to_owned(),
        kind: Some(why(1)),
    })));
    // For as long as the node waits for the engine.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let answer = alice.response_among(id).await;
    assert_eq!(answer, Err(ErrorCode::Unavailable));

    wire.is_endless.store(false, Ordering::Relaxed);
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    assert_eq!(users(&found(&mut alice).await), ["alice", "bob"]);
    assert_eq!(users(&found(&mut bob).await), ["alice", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_panics_whenever_it_reads_a_pool_leaves_its_matches_to_another() {
    let local = Local::new(LocalConfig::default());
    let (_broken, wire) = trapped(&local, 0).await;
    let (well, _) = trapped(&local, 1).await;
    assert_eq!(leader(&BTreeSet::new(), &local).await, 0);
    wire.lay("read pool.duel", u64::MAX);
    let mut devices = Vec::new();
    for (number, user) in [(1, "alice"), (2, "bob")] {
        let mut device = seeker(&well, user).await;
        submit(&mut device, "duel", number, &[(user, 0.0)])
            .await
            .unwrap();
        devices.push(device);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(well.services.stats().matched, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_kept_although_the_first_attempt_panics() {
    let mut config = LocalConfig::default();
    config.log_entries_max = 200_000;
    let local = Local::new(config);
    let (_lab, wire) = trapped(&local, 0).await;
    let key = pool_key(&local, "pool").await;
    wire.lay("snapshot pool.duel", 1);
    for number in 0..3 * 8192_u32 {
        let operation = tombolo_match::OperationId(u128::from(number).to_be_bytes());
        let time = tombolo_match::Time::from_millis(1);
        let body = Body::Ticked;
        let entry = Entry { time, body }.encode(operation);
        let operation = tombolo_engine::OperationId(operation.0);
        let appended = local.append(&key, entry, Purpose::End, Expect::Any, operation);
        appended.await.unwrap();
        if number % 1024 == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let first = tail.next().await;
    assert!(
        matches!(first, Some(TailEvent::Snapshot { .. })),
        "{first:?}"
    );
}

/// A node that serves the pools, and its access to the engine.
async fn trapped(local: &Local, number: usize) -> (Lab, Arc<Wire>) {
    let wire = Wire::new(local);
    let lab = Lab::on(Arc::clone(&wire) as Arc<dyn Engine>, |config| {
        serve_pools(config);
        config.node = NodeId::parse(&format!("node-{number}")).unwrap();
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    (lab, wire)
}
