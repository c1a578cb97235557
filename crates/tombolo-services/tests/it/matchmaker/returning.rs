//! Devices that lose their sessions, come back, or go to another node.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_an_earlier_session_asked_for_that_comes_late_takes_no_ticket_from_the_later_one() {
    let lab = lab();
    let [_earlier, mut alice, mut bob] = submitted_twice(&lab).await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    assert_eq!(found(&mut alice).await, found(&mut bob).await);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_waits_for_the_session_that_is_there_and_not_for_the_one_that_came_late() {
    let lab = lab();
    let [earlier, mut alice, mut bob] = submitted_twice(&lab).await;
    drop(earlier);
    tokio::time::sleep(Duration::from_secs(2)).await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    assert_eq!(found(&mut alice).await, found(&mut bob).await);
}

#[tokio::test(start_paused = true)]
async fn a_device_may_be_away_for_its_grace_and_comes_back_to_its_ticket() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 20)
        .await
        .unwrap();
    alice.connection = None;
    tokio::time::sleep(Duration::from_secs(3)).await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    bob.is_quiet_of_matches().await;
    assert!(alice.connect(&lab).await.unwrap().resumed);
    assert_eq!(users(&found(&mut bob).await), ["alice", "bob"]);
    assert_eq!(users(&found(&mut alice).await), ["alice", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_begins_a_new_session_comes_back_to_its_ticket_by_its_id() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 60)
        .await
        .unwrap();
    drop(alice);
    tokio::time::sleep(Duration::from_secs(40)).await;
    let mut alice = seeker(&lab, "alice").await;
    assert_eq!(
        submit(&mut alice, "duel", 9, &[("alice", 0.0)]).await,
        Err(ErrorCode::WaitsAlready)
    );
    let status = submit(&mut alice, "duel", 1, &[("alice", 0.0)]).await;
    assert!(status.unwrap().away.is_empty());
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    assert_eq!(users(&found(&mut alice).await), ["alice", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_come_back_is_not_waited_for() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 5)
        .await
        .unwrap();
    alice.connection = None;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut bob = seeker(&lab, "bob").await;
    let status = submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await;
    assert_eq!(status.unwrap().waiting, 1);
    alice.connect(&lab).await.unwrap();
    assert_eq!(ended(&mut alice).await, "gone");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_goes_with_its_device_to_another_node() {
    let (nodes, _) = cluster::<2>().await;
    for wait in [0, 10, 3000] {
        let names = [format!("alice-{wait}"), format!("bob-{wait}")];
        let [ours, theirs] = [0, 1].map(|at| [(names[at].as_str(), 0.0)]);
        let mut alice = seeker(&nodes[0], &names[0]).await;
        let mut bob = seeker(&nodes[0], &names[1]).await;
        let number = 10 + wait;
        submit_for(&mut alice, "duel", number, &ours, 60)
            .await
            .unwrap();
        alice.connection = None;
        assert!(alice.connect(&nodes[1]).await.unwrap().resumed);
        tokio::time::sleep(Duration::from_millis(wait.into())).await;
        submit(&mut bob, "duel", number + 1, &theirs).await.unwrap();
        let room = found(&mut alice).await.room;
        assert_eq!(found(&mut bob).await.room, room, "after {wait} ms");
        assert!(alice.join(&room, JoinMode::Join).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_was_written_for_where_its_device_was_follows_it() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = seeker(&nodes[0], "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    let key = pool_key(&local, "pool").await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let mut ticket = loop {
        if let TailEvent::Entry { entry, .. } = tail.next().await.unwrap()
            && let Ok((_, entry)) = Entry::decode(&entry)
            && let Body::Submitted(ticket) = entry.body
        {
            break ticket;
        }
    };
    ask(&mut alice, "duel", cancel(1)).await.unwrap();
    alice.connection = None;
    assert!(alice.connect(&nodes[1]).await.unwrap().resumed);
    // Whoever has her in its party has not read yet that she has moved.
    ticket.id = tombolo_match::TicketId([2; 16]);
    let time = tombolo_match::Time::from_millis(now().as_millis() as u64);
    let operation = tombolo_match::OperationId([2; 16]);
    let body = Body::Submitted(ticket);
    let entry = Entry { time, body }.encode(operation);
    let operation = tombolo_engine::OperationId(operation.0);
    let appended = local.append(&key, entry, Purpose::More, Expect::Any, operation);
    appended.await.unwrap();
    // The node that she has left tells her of it only as long as her session might be on its way.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut bob = seeker(&nodes[0], "bob").await;
    submit(&mut bob, "duel", 3, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut bob).await.room;
    assert_eq!(found(&mut alice).await.room, room);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_waits_for_nobody_who_is_away_outlives_a_move_to_another_node() {
    let (nodes, _) = cluster::<2>().await;
    for (round, wait) in [0, 10, 1500, 5000].into_iter().enumerate() {
        let names = [format!("alice-{wait}"), format!("bob-{wait}")];
        let [ours, theirs] = [0, 1].map(|at| [(names[at].as_str(), 0.0)]);
        let mut alice = seeker(&nodes[0], &names[0]).await;
        let number = 10 * u32::try_from(round).unwrap() + 1;
        // If the node that it leaves took it for gone, even for a moment, that would be its end.
        submit_for(&mut alice, "duel", number, &ours, 0)
            .await
            .unwrap();
        alice.connection = None;
        assert!(alice.connect(&nodes[1]).await.unwrap().resumed);
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let mut bob = seeker(&nodes[0], &names[1]).await;
        submit(&mut bob, "duel", number + 1, &theirs).await.unwrap();
        let room = found(&mut alice).await.room;
        assert_eq!(found(&mut bob).await.room, room, "after {wait} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn the_node_that_a_device_leaves_does_not_take_it_for_gone() {
    let local = Local::new(LocalConfig::default());
    let wire = Wire::new(&local);
    let start = |name: &str, engine: Arc<dyn Engine>| {
        Lab::on(engine, |config| {
            serve_pools(config);
            config.node = NodeId::parse(name).unwrap();
        })
    };
    let left = start("node-0", Arc::new(local.clone()));
    let next = start("node-1", Arc::clone(&wire) as Arc<dyn Engine>);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&left, "alice").await;
    // One that waits for nobody who is away.
    submit_for(&mut alice, "duel", 1, &[("alice", 0.0)], 0)
        .await
        .unwrap();
    // The node that it goes to cannot say for a while that it is there.
    wire.are_pools_closed.store(true, Ordering::Relaxed);
    alice.connection = None;
    assert!(alice.connect(&next).await.unwrap().resumed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    wire.are_pools_closed.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut bob = seeker(&left, "bob").await;
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut alice).await.room;
    assert_eq!(found(&mut bob).await.room, room);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_lost_its_session_while_it_was_asked_is_asked_again() {
    let lab = lab();
    let ([alice, mut bob], number) = both_asked(&lab).await;
    ask(&mut bob, "ready", accept(number)).await.unwrap();
    drop(alice);
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "ready", 1, &[]).await.unwrap();
    assert_eq!(proposed(&mut alice).await, number);
    ask(&mut alice, "ready", accept(number)).await.unwrap();
    let room = found(&mut alice).await.room;
    assert_eq!(found(&mut bob).await.room, room);
}

/// Two sessions of alice's that have submitted one ticket, the earlier one last, and bob.
async fn submitted_twice(lab: &Lab) -> [Device; 3] {
    let mut earlier = seeker(lab, "alice").await;
    let mut alice = seeker(lab, "alice").await;
    let bob = seeker(lab, "bob").await;
    let alone = [("alice", 0.0)];
    for turn in 0..3 {
        let device = if turn == 1 { &mut alice } else { &mut earlier };
        submit_for(device, "duel", 1, &alone, 60).await.unwrap();
    }
    [earlier, alice, bob]
}
