//! Before anybody is told of a match, the pool's log says that its users have their seats.

use tombolo_services::RoomEvent;
use tombolo_wire::v1::room_act;

use super::*;
use crate::changes::next_room_change;
use crate::engine::{Flaky, Mood};

#[tokio::test(start_paused = true)]
async fn a_node_that_gets_no_room_does_not_take_back_a_match_of_which_others_were_told() {
    let ([first, late], [_, engine]) = two_nodes().await;
    let (mut alice, mut bob) = (seeker(&first, "alice").await, seeker(&first, "bob").await);
    submit(&mut alice, "some", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "some", 2, &[("bob", 0.0)]).await.unwrap();
    let running = found(&mut alice).await;
    found(&mut bob).await;
    alice.join(&running.room, JoinMode::Join).await.unwrap();
    bob.join(&running.room, JoinMode::Join).await.unwrap();

    let (mut carol, mut dave) = (seeker(&first, "carol").await, seeker(&late, "dave").await);
    carol.join("party-x", JoinMode::JoinOrCreate).await.unwrap();
    dave.join("party-x", JoinMode::Join).await.unwrap();
    let both = [("carol", 0.0), ("dave", 0.0)];
    let asked = ask_submit(&mut carol, "some", 3, &both, 0, "party-x");
    status(carol.response_among(asked).await).unwrap();
    engine.set(Mood::Roomless);
    let playing = [("alice", 0.0), ("bob", 0.0)];
    let teams = vec![v1::BackfillTeam {
        name: "players".to_owned(),
        parties: vec![v1::BackfillParty {
            players: players(&playing),
        }],
    }];
    let more = match_request::Kind::Backfill(v1::OpenBackfill {
        id: running.id.clone(),
        after: 0,
        teams,
        lease_ms: 60_000,
        venue: None,
    });
    ask(&mut alice, "some", more).await.unwrap();
    assert_eq!(found(&mut carol).await.room, running.room);

    assert_eq!(found(&mut dave).await.room, running.room);

    // The match is over before the other node gets into its room.
    let none = room_act::Kind::Reserve(v1::Reserve {
        users: vec!["carol".to_owned(), "dave".to_owned()],
        lasts_ms: 0,
    });
    alice.drain().await;
    alice.act(&running.room, none).await.unwrap();
    bob.drain().await;
    bob.leave(&running.room).await.unwrap();
    alice.drain().await;
    alice.leave(&running.room).await.unwrap();
    engine.set(Mood::Fine);
    tokio::time::sleep(Duration::from_secs(90)).await;
    dave.is_quiet_of_matches().await;
    carol.is_quiet_of_matches().await;
    let free = submit(&mut carol, "some", 4, &[("carol", 0.0)]).await;
    assert!(free.is_ok(), "the ticket came back: {free:?}");
}

#[tokio::test(start_paused = true)]
async fn tickets_of_a_match_for_which_no_node_gets_a_room_look_on() {
    let ([first, second], engines) = two_nodes().await;
    let mut alice = seeker(&first, "alice").await;
    let mut bob = seeker(&second, "bob").await;
    for engine in &engines {
        engine.set(Mood::Roomless);
    }
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    for device in [&mut alice, &mut bob] {
        let failed = event(device, |kind| match kind {
            match_event::Kind::Failed(failed) => Some(failed.number),
            match_event::Kind::Ended(ended) => panic!("{ended:?}"),
            _ => None,
        });
        assert_eq!(failed.await, 1);
    }
    for engine in &engines {
        engine.set(Mood::Fine);
    }
    let (one, other) = (found(&mut alice).await, found(&mut bob).await);
    assert_eq!(one.room, other.room);
    alice.join(&one.room, JoinMode::Join).await.unwrap();
    bob.join(&one.room, JoinMode::Join).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_over_does_not_take_the_ticket_of_a_match_that_has_no_room() {
    let ([node, _], [engine, _]) = two_nodes().await;
    let mut earlier = seeker(&node, "alice").await;
    let mut alice = seeker(&node, "alice").await;
    let mut bob = seeker(&node, "bob").await;
    for device in [&mut earlier, &mut alice] {
        submit_for(device, "duel", 1, &[("alice", 0.0)], 60)
            .await
            .unwrap();
    }
    drop(earlier);
    tokio::time::sleep(Duration::from_secs(120)).await;
    engine.set(Mood::Roomless);
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    for device in [&mut alice, &mut bob] {
        let failed = event(device, |kind| match kind {
            match_event::Kind::Failed(failed) => Some(failed.number),
            _ => None,
        });
        failed.await;
    }
    engine.set(Mood::Fine);
    assert_eq!(found(&mut alice).await, found(&mut bob).await);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_gets_a_room_late_tells_of_the_match_when_the_others_do() {
    let ([first, late], [_, engine]) = two_nodes().await;
    let mut alice = seeker(&first, "alice").await;
    let mut bob = seeker(&late, "bob").await;
    engine.set(Mood::Roomless);
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let told = found(&mut alice).await;
    alice.join(&told.room, JoinMode::Join).await.unwrap();
    assert_eq!(found(&mut bob).await.room, told.room);
    engine.set(Mood::Fine);
    bob.is_quiet_of_matches().await;
    bob.join(&told.room, JoinMode::Join).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn that_the_room_of_a_match_opens_and_closes_is_told_once() {
    let (nodes, _) = two_nodes().await;
    let mut told = nodes.each_ref().map(|node| node.services.changes());
    let mut alice = seeker(&nodes[0], "alice").await;
    let mut bob = seeker(&nodes[1], "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    let room = found(&mut alice).await.room;
    found(&mut bob).await;
    let mut heard = |event| {
        let all = told.iter_mut().map(|told| {
            let changes = std::iter::from_fn(|| next_room_change(told));
            let changes = changes.filter(|change| change.event == event);
            changes
                .inspect(|change| assert_eq!(change.room.as_str(), room))
                .count()
        });
        all.sum::<usize>()
    };
    assert_eq!(heard(RoomEvent::Opened), 1);
    // Nobody comes.
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert_eq!(heard(RoomEvent::Closed), 1);
}

#[tokio::test(start_paused = true)]
async fn that_a_room_opens_is_told_although_its_match_is_over_by_then() {
    let local = Local::new(LocalConfig::default());
    let engine = Flaky::on(local.clone());
    let node = Lab::on(engine.clone(), serve_pools);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut told = node.services.changes();
    let mut alice = seeker(&node, "alice").await;
    let mut bob = seeker(&node, "bob").await;
    engine.set(Mood::Roomless);
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    // As another node says that finds no place.
    let time = tombolo_match::Time::from_millis(0);
    let body = Body::Unseated(tombolo_match::MatchId(1));
    let entry = Entry { time, body }.encode(tombolo_match::OperationId([9; 16]));
    let pool = pool_key(&local, "pool").await;
    let id = tombolo_engine::OperationId([9; 16]);
    let appended = local.append(&pool, entry, Purpose::End, Expect::Any, id);
    appended.await.unwrap();
    engine.set(Mood::Fine);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    while let Some(change) = next_room_change(&mut told) {
        match change.event {
            RoomEvent::Opened => opened.push(change.room),
            RoomEvent::Closed => closed.push(change.room),
            _ => {}
        }
    }
    assert_eq!(opened.len(), 2, "that of the next match, too");
    opened.sort();
    closed.sort();
    assert_eq!(opened, closed);
}

/// Two nodes of a cluster, each with its way to the engine.
async fn two_nodes() -> ([Lab; 2], [Arc<Flaky>; 2]) {
    let mut config = LocalConfig::default();
    // Nothing is known of rooms that are over.
    config.retired_logs_max = 0;
    let local = Local::new(config);
    let engines = [Flaky::on(local.clone()), Flaky::on(local)];
    let nodes = [0, 1].map(|number| {
        let engine: Arc<dyn Engine> = engines[number].clone();
        Lab::on(engine, |config| {
            serve_pools(config);
            config.pools.push(MatchPool::parse(SOME).unwrap());
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
        })
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    (nodes, engines)
}

const SOME: &str = r#"
name = "some"
players = { min = 2, max = 4 }
"#;
