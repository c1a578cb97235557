//! What devices rely on that look for others in a pool.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_engine::{
    Engine, Expect, Key, Leases as _, Local, LocalConfig, Log as _, Purpose, TailEvent, WatchEvent,
};
use tombolo_match::{Body, Entry};
use tombolo_services::{
    Admission, Config, HookSet, Hooks, MatchName, MatchPool, MatchTicket, Reject,
};
use tombolo_wire::v1::{
    self, ErrorCode, JoinMode, match_attribute, match_event, match_request, match_response,
    request, response, server_frame,
};
use tombolo_wire::{NodeId, UserId};

use crate::lab::{Device, Lab, UNIX_NOW};
use crate::wire::Wire;

mod anew;
mod large;
mod lost;
mod odds;
mod parties;
mod running;
mod seats;
mod standing;
mod unsure;

const DUEL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
rules = [{ kind = "distance", attribute = "skill", max = 100, relax = [{ after = "20s", value = 500 }] }]
[[attributes]]
name = "skill"
kind = "number"
default = 0
"#;

const READY: &str = r#"
name = "ready"
players = { min = 2, max = 2 }
ready = "10s"
"#;

const TEAMS: &str = r#"
name = "teams"
[[teams]]
name = "red"
min = 1
max = 2
roles = [{ name = "healer" }, { name = "fighter" }]
[[teams]]
name = "blue"
min = 1
max = 2
roles = [{ name = "healer" }, { name = "fighter" }]
"#;

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
async fn two_who_fit_find_each_other_and_a_room_that_nobody_else_gets_into() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    let mut carol = seeker(&lab, "carol").await;
    let status = submit(&mut alice, "duel", 1, &[("alice", 1000.0)]).await;
    assert_eq!(status.unwrap().waiting, 1);
    submit(&mut carol, "duel", 3, &[("carol", 5000.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 1050.0)])
        .await
        .unwrap();
    let for_alice = found(&mut alice).await;
    let for_bob = found(&mut bob).await;
    assert_eq!(for_alice, for_bob);
    assert_eq!(users(&for_alice), ["alice", "bob"]);

    // Neither in it nor before it.
    let room = for_alice.room.as_str();
    assert_eq!(
        carol.join(room, JoinMode::Join).await,
        Err(ErrorCode::RoomFull)
    );
    for (mode, code) in [
        (JoinMode::Create, ErrorCode::NotPermitted),
        (JoinMode::JoinOrCreate, ErrorCode::NoSuchRoom),
    ] {
        assert_eq!(carol.join("tombolo-match-x", mode).await, Err(code));
    }
    assert!(alice.join(room, JoinMode::Join).await.is_ok());
    let joined = bob.join(room, JoinMode::Join).await.unwrap();
    assert_eq!(crate::lab::members(&joined), ["alice", "bob"]);
    assert_eq!(lab.services.stats().matched, 1);
}

#[tokio::test(start_paused = true)]
async fn devices_on_different_nodes_find_each_other() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = seeker(&nodes[0], "alice").await;
    let mut bob = seeker(&nodes[1], "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 1000.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 1050.0)])
        .await
        .unwrap();
    let room = found(&mut alice).await.room;
    assert_eq!(found(&mut bob).await.room, room);
    assert!(alice.join(&room, JoinMode::Join).await.is_ok());
    let joined = bob.join(&room, JoinMode::Join).await.unwrap();
    assert_eq!(crate::lab::members(&joined), ["alice", "bob"]);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_relaxes_lets_those_meet_who_wait() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 1000.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 1400.0)])
        .await
        .unwrap();
    let why = ask(&mut alice, "duel", why(1)).await;
    let Ok(match_response::Result::Why(why)) = why else {
        panic!("{why:?}");
    };
    assert_eq!((why.looked_at, why.fit), (1, 0));
    assert_eq!(why.obstacles[0].what, "rule:skill");
    assert!(why.relaxed_after_ms.is_some_and(|after| after <= 20_000));
    let before = Instant::now();
    found(&mut alice).await;
    assert!(before.elapsed() > Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn those_who_are_asked_and_accept_begin_and_who_declines_drops_out() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut alice, "ready", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "ready", 2, &[("bob", 0.0)]).await.unwrap();
    let number = proposed(&mut alice).await;
    assert_eq!(proposed(&mut bob).await, number);
    assert_eq!(
        ask(&mut carol, "ready", accept(number)).await,
        Err(ErrorCode::NoSuchThing)
    );
    ask(&mut alice, "ready", accept(number)).await.unwrap();
    ask(&mut bob, "ready", decline(number)).await.unwrap();
    assert_eq!(ended(&mut bob).await, "declined");
    submit(&mut carol, "ready", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    let number = proposed(&mut alice).await;
    proposed(&mut carol).await;
    ask(&mut alice, "ready", accept(number)).await.unwrap();
    ask(&mut carol, "ready", accept(number)).await.unwrap();
    assert_eq!(users(&found(&mut alice).await), ["alice", "carol"]);
    assert_eq!(users(&found(&mut carol).await), ["alice", "carol"]);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_say_whether_it_is_ready_drops_out() {
    let lab = lab();
    let ([mut alice, mut bob], number) = both_asked(&lab).await;
    ask(&mut alice, "ready", accept(number)).await.unwrap();
    assert_eq!(ended(&mut bob).await, "unanswered");
    let status = event(&mut alice, |kind| match kind {
        match_event::Kind::Failed(failed) => Some(failed.number),
        _ => None,
    });
    assert_eq!(status.await, number);
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
async fn a_node_that_comes_late_reads_the_pool_from_a_snapshot() {
    let local = Local::new(LocalConfig::default());
    let start = |name| patient(&local, name);
    let first = start("node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&first, "alice").await;
    let mut bob = seeker(&first, "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    for number in 0..4_200 {
        submit(&mut bob, "duel", 10 + number, &[("bob", 9000.0)])
            .await
            .unwrap();
        ask(&mut bob, "duel", cancel(10 + number)).await.unwrap();
    }
    let key = pool_key(&local, "pool").await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let begin = tail.next().await.unwrap();
    assert!(matches!(begin, TailEvent::Snapshot { .. }), "{begin:?}");

    let second = start("node-1");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut carol = seeker(&second, "carol").await;
    let status = submit(&mut carol, "duel", 2, &[("carol", 0.0)]).await;
    assert_eq!(status.unwrap().waiting, 2);
    assert_eq!(
        found(&mut carol).await.room,
        found(&mut alice).await.room,
        "who waited before the snapshot is found"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_more_than_a_hundred_thousand_tickets_is_kept_in_a_snapshot_and_read_again() {
    const COUNT: u32 = 101_000;
    let text = DUEL.replace("name = \"duel\"", "name = \"duel\"\ntickets = 200000");
    let start = |local: &Local, name: &str| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            config.unix_now = now;
            config.pools.push(MatchPool::parse(&text).unwrap());
            config.node = NodeId::parse(name).unwrap();
        })
    };
    let (local, key) = filled(&start, COUNT).await;
    let first = start(&local, "node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&first, "alice").await;
    let status = submit(&mut alice, "duel", COUNT + 1, &[("alice", -1e9)]).await;
    assert_eq!(status.unwrap().waiting, COUNT + 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let begin = tail.next().await.unwrap();
    let TailEvent::Snapshot { state, .. } = begin else {
        panic!("{begin:?}");
    };
    assert!(state.len() > 8 * 1024 * 1024, "{}", state.len());

    let second = start(&local, "node-1");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut bob = seeker(&second, "bob").await;
    let near_the_last = f64::from(COUNT - 1) * 1e6 + 50.0;
    let status = submit(&mut bob, "duel", COUNT + 2, &[("bob", near_the_last)]).await;
    assert_eq!(status.unwrap().waiting, COUNT + 2);
    let found = found(&mut bob).await;
    let last = format!("waits-{:040}", COUNT - 1);
    assert!(
        users(&found).contains(&last.as_str()),
        "{:?}",
        users(&found)
    );
}

/// A pool in which so many wait, each far from all others.
async fn filled(start: &impl Fn(&Local, &str) -> Lab, count: u32) -> (Local, Key) {
    // The rules' digest is the same wherever they are served.
    let elsewhere = Local::new(LocalConfig::default());
    let scout = start(&elsewhere, "scout");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let key = pool_key(&elsewhere, "pool").await;
    scout.services.kill();

    let mut config = LocalConfig::default();
    config.log_entries_max = 200_000;
    let local = Local::new(config);
    let time = tombolo_match::Time::from_millis(now().as_millis() as u64);
    for number in 0..count {
        let name = tombolo_match::Name::parse("skill").unwrap();
        let user = UserId::parse(&format!("waits-{number:040}")).unwrap();
        let skill = tombolo_match::Value::Number(f64::from(number) * 1e6);
        let player = tombolo_match::Player::new(user).with(name, skill);
        let id = tombolo_match::TicketId(u128::from(number).to_be_bytes());
        let body = Body::Submitted(tombolo_match::Ticket::new(id, vec![player]));
        let operation = tombolo_match::OperationId(u128::from(number).to_be_bytes());
        let entry = Entry { time, body }.encode(operation);
        let operation = tombolo_engine::OperationId(operation.0);
        let appended = local.append(&key, entry, Purpose::More, Expect::Any, operation);
        appended.await.unwrap();
    }
    (local, key)
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_why_the_pool_goes_on() {
    let start = |local: &Local, name: &str| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            config.unix_now = now;
            config.pools.push(MatchPool::parse(DUEL).unwrap());
            config.node = NodeId::parse(name).unwrap();
            config.tickets.burst = 1_000;
        })
    };
    let (local, _) = filled(&start, 1_500).await;
    let lab = start(&local, "node-0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 2_000, &[("alice", -1e9)])
        .await
        .unwrap();
    let mut ask_often = async || {
        let mut answered = 0;
        for _ in 0..200 {
            match ask(&mut alice, "duel", why(2_000)).await {
                Ok(_) => answered += 1,
                Err(code) => assert_eq!(code, ErrorCode::Limit),
            }
        }
        answered
    };
    let answered = ask_often().await;
    assert!((1..150).contains(&answered), "{answered}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(ask_often().await > 0, "later there is more to be had");
}

#[tokio::test(start_paused = true)]
async fn a_party_of_a_room_plays_together_and_each_of_its_devices_is_told() {
    let lab = lab();
    let mut party = lab.members("party-1", ["alice", "bob"]).await;
    let mut carol = seeker(&lab, "carol").await;
    let [alice, bob] = &mut party;
    let both = [("alice", 0.0), ("bob", 0.0)];
    let id = ask_submit(alice, "teams", 1, &both, 0, "party-1");
    assert!(status(alice.response_among(id).await).is_ok());
    event(bob, |kind| match kind {
        match_event::Kind::Status(status) => Some(status.waiting),
        _ => None,
    })
    .await;
    submit(&mut carol, "teams", 2, &[("carol", 0.0)])
        .await
        .unwrap();
    let seen = [
        found(alice).await,
        found(bob).await,
        found(&mut carol).await,
    ];
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    let teams: Vec<_> = seen[0]
        .teams
        .iter()
        .map(|team| team.members.len())
        .collect();
    assert_eq!(teams.iter().sum::<usize>(), 3);
    let party = seen[0].teams.iter().find(|team| team.members.len() == 2);
    let party = party.unwrap().members.iter();
    let mut party: Vec<_> = party.map(|member| member.user.as_str()).collect();
    party.sort_unstable();
    assert_eq!(party, ["alice", "bob"]);
    let mut roles = seen[0].teams.iter().flat_map(|team| &team.members);
    assert!(roles.all(|member| !member.role.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_drawn_into_a_party_who_is_not_in_its_room() {
    let lab = lab();
    let [mut alice, mut bob] = lab.members("party-1", ["alice", "bob"]).await;
    let _carol = seeker(&lab, "carol").await;
    for (players, room) in [
        (&[("alice", 0.0), ("carol", 0.0)][..], "party-1"),
        (&[("alice", 0.0), ("bob", 0.0)], ""),
        (&[("alice", 0.0), ("bob", 0.0)], "elsewhere"),
        (&[("bob", 0.0)], "party-1"),
    ] {
        let id = ask_submit(&mut alice, "teams", 1, players, 0, room);
        assert_eq!(
            status(alice.response_among(id).await),
            Err(ErrorCode::NotPermitted),
            "{players:?} in {room:?}"
        );
    }
    // A party that changes keeps its ticket, and whoever is in it may end it.
    submit(&mut alice, "teams", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    let change = match_request::Kind::Change(v1::ChangeTicket {
        id: id(1),
        players: players(&[("alice", 0.0), ("bob", 0.0)]),
        party: "party-1".into(),
    });
    let changed = status(ask(&mut alice, "teams", change).await.map(Some));
    assert_eq!(changed.unwrap().revision, 1);
    ask(&mut bob, "teams", cancel(1)).await.unwrap();
    assert_eq!(ended(&mut alice).await, "cancelled");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_drawn_into_a_party_who_has_not_joined_its_owners_room_for_that() {
    let lab = lab_with(|config| config.tickets_per_user_max = 1);
    let both = [("alice", 0.0), ("mallory", 0.0)];
    let [mut mallory, _] = lab.members("lobby", ["mallory", "alice"]).await;
    let request = ask_submit(&mut mallory, "teams", 1, &both, 0, "lobby");
    let drawn_in = status(mallory.response_among(request).await);
    assert_eq!(drawn_in, Err(ErrorCode::NotPermitted), "it is no party's");
    let [mut alice, mut mallory] = lab.members("party-1", ["alice", "mallory"]).await;
    let request = ask_submit(&mut mallory, "teams", 1, &both, 0, "party-1");
    let drawn_in = status(mallory.response_among(request).await);
    assert_eq!(
        drawn_in,
        Err(ErrorCode::NotPermitted),
        "it is another's party"
    );
    submit(&mut mallory, "duel", 2, &[("mallory", 0.0)])
        .await
        .unwrap();
    let request = ask_submit(&mut alice, "teams", 3, &both, 0, "party-1");
    let drawn_in = status(alice.response_among(request).await);
    assert_eq!(
        drawn_in,
        Err(ErrorCode::Limit),
        "who has as many tickets as it may"
    );
    submit(&mut alice, "teams", 4, &[("alice", 0.0)])
        .await
        .unwrap();
    // Nor by another way.
    let change = match_request::Kind::Change(v1::ChangeTicket {
        id: id(4),
        players: players(&both),
        party: "party-1".into(),
    });
    let drawn_in = ask(&mut alice, "teams", change).await;
    assert_eq!(drawn_in.map(drop), Err(ErrorCode::Limit));
}

#[tokio::test(start_paused = true)]
async fn of_who_has_not_agreed_neither_the_game_is_asked_nor_its_tickets_are_told() {
    let lab = lab_with(|config| {
        config.tickets_per_user_max = 1;
        config.hooks = HookSet::new(Doorman);
    });
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    let mut banned = seeker(&lab, "banned").await;
    let both = [("banned", 0.0), ("alice", 0.0)];
    let id = ask_submit(&mut banned, "teams", 2, &both, 0, "party-1");
    let drawn_in = banned.refusal_among(id).await;
    assert!(
        drawn_in.message.contains("alice is in no room"),
        "{drawn_in:?}"
    );
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

#[tokio::test(start_paused = true)]
async fn who_has_more_priority_comes_first_and_a_device_has_as_much_as_the_pool_takes_from_it() {
    let ranked = DUEL.replace("\"duel\"", "\"ranked\"\npriority = 2");
    let lab = lab_with(|config| config.pools.push(MatchPool::parse(&ranked).unwrap()));
    let submit = |user: &str, pool: &str, skill: f64, priority: i32| {
        request::Kind::Matchmaker(v1::MatchRequest {
            pool: pool.to_owned(),
            kind: Some(match_request::Kind::Submit(v1::SubmitTicket {
                id: id(u32::from(user.as_bytes()[0])),
                players: players(&[(user, skill)]),
                priority,
                ..v1::SubmitTicket::default()
            })),
        })
    };
    let mut devices = BTreeMap::new();
    for (user, pool, skill, priority, expected) in [
        ("alice", "duel", 0.0, 1, Err(ErrorCode::BadTicket)),
        ("alice", "ranked", 0.0, 3, Err(ErrorCode::BadTicket)),
        ("alice", "ranked", 0.0, -200, Err(ErrorCode::BadTicket)),
        ("alice", "ranked", 0.0, -1, Ok(())),
        ("bob", "ranked", 180.0, 2, Ok(())),
        ("carol", "ranked", 90.0, 0, Ok(())),
    ] {
        if !devices.contains_key(user) {
            devices.insert(user, seeker(&lab, user).await);
        }
        let device = devices.get_mut(user).unwrap();
        let request = device.request(Some(submit(user, pool, skill, priority)));
        let answer = status(device.response_among(request).await);
        assert_eq!(answer.map(drop), expected, "{user} {priority}");
    }
    let found = found(devices.get_mut("carol").unwrap()).await;
    assert_eq!(users(&found), ["bob", "carol"]);
}

/// Lets nobody in who is banned, and those first who have paid.
struct Doorman;

impl Hooks for Doorman {
    fn authorize_ticket(&self, user: UserId, _: MatchName, mut ticket: MatchTicket) -> Admission {
        Box::pin(async move {
            if user.as_str() == "banned" {
                return Err(Reject {
                    code: ErrorCode::NotPermitted,
                    message: "not here".to_owned(),
                    nodes: Vec::new(),
                });
            }
            ticket.priority = i8::from(user.as_str() == "vip");
            Ok(ticket)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn the_games_own_code_refuses_tickets_and_gives_them_their_priority() {
    let lab = lab_with(|config| config.hooks = HookSet::new(Doorman));
    let mut banned = seeker(&lab, "banned").await;
    let refused = submit(&mut banned, "duel", 1, &[("banned", 0.0)]).await;
    assert_eq!(refused, Err(ErrorCode::NotPermitted));
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 2, &[("alice", 0.0)])
        .await
        .unwrap();
    let mut vip = seeker(&lab, "vip").await;
    submit(&mut vip, "duel", 3, &[("vip", 180.0)])
        .await
        .unwrap();
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "duel", 4, &[("carol", 90.0)])
        .await
        .unwrap();
    assert_eq!(users(&found(&mut carol).await), ["carol", "vip"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_more_users_hears_of_them_over_the_node_to_which_it_has_moved() {
    let (nodes, _) = cluster::<2>().await;
    let (mut alice, _bob, first) = running_on(&nodes[0]).await;
    let opened = ask(&mut alice, "teams", asks_for_more(&first)).await;
    assert!(opened.is_ok(), "{opened:?}");
    alice.connection = None;
    assert!(alice.connect(&nodes[1]).await.unwrap().resumed);
    // By then nothing is sent after it from where it was.
    tokio::time::sleep(Duration::from_secs(45)).await;
    let renew = match_request::Kind::Renew(v1::RenewBackfill {
        id: first.id.clone(),
        lease_ms: 60_000,
    });
    let renewed = ask(&mut alice, "teams", renew).await;
    let Ok(match_response::Result::Backfill(renewed)) = renewed else {
        panic!("{renewed:?}");
    };
    assert_eq!(renewed.generation, 1);
    let mut carol = seeker(&nodes[0], "carol").await;
    submit(&mut carol, "teams", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    found(&mut carol).await;
    assert_eq!(grown(&mut alice).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_running_match_is_filled_up_and_newcomers_get_a_seat_in_its_room() {
    let (mut alice, mut bob, first, lab) = running().await;

    let open = asks_for_more(&first);
    assert_eq!(
        ask(&mut bob, "teams", open.clone()).await,
        Err(ErrorCode::NotOwner)
    );
    let opened = ask(&mut alice, "teams", open.clone()).await;
    let Ok(match_response::Result::Backfill(opened)) = opened else {
        panic!("{opened:?}");
    };
    assert_eq!(opened.generation, 1);
    assert_eq!(
        ask(&mut alice, "teams", open).await,
        Err(ErrorCode::Conflict),
        "of a generation that is over"
    );
    let mut carol = seeker(&lab, "carol").await;
    submit(&mut carol, "teams", 3, &[("carol", 0.0)])
        .await
        .unwrap();
    let joins = found(&mut carol).await;
    assert!(joins.running);
    assert_eq!(joins.room, first.room);
    assert_eq!(users(&joins), ["carol"]);
    assert!(carol.join(&joins.room, JoinMode::Join).await.is_ok());
    assert_eq!(grown(&mut alice).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_killed_matchers_pool_goes_on_at_another_node_with_each_ticket() {
    let (nodes, local) = cluster::<3>().await;
    let mut acknowledged = BTreeSet::new();
    let mut dead = BTreeSet::new();
    let mut devices = Vec::new();
    for round in 0..2_u32 {
        let leader = leader(&dead, &local).await;
        for at in 0..24_u32 {
            let number = round * 100 + at;
            let node = (0..nodes.len()).filter(|node| !dead.contains(node));
            let node = node.cycle().nth(at as usize).unwrap();
            let user = format!("u{number}");
            let mut device = seeker(&nodes[node], &user).await;
            // Some in the middle of the matcher's death: those are not acknowledged, or kept.
            let id = ask_submit(&mut device, "duel", number, &[(&user, 0.0)], 60, "");
            if at == 17 {
                nodes[leader].services.kill();
                dead.insert(leader);
            }
            if node != leader || at < 17 {
                assert!(status(device.response_among(id).await).is_ok(), "{number}");
                acknowledged.insert(number);
                devices.push((node, device));
            }
        }
        let died = Instant::now();
        let next = self::leader(&dead, &local).await;
        assert_ne!(next, leader);
        assert!(
            died.elapsed() < Duration::from_secs(2),
            "{:?}",
            died.elapsed()
        );
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    let log = Reader::read(&local).await;
    assert_eq!(log.claimed_twice, 0);
    for number in acknowledged {
        assert!(log.submitted.contains(&number), "{number} is lost");
    }
    for (node, mut device) in devices {
        if dead.contains(&node) {
            continue;
        }
        // Whose partner died waits for another; the last one may be alone.
        let number: u32 = device.user[1..].parse().unwrap();
        if log.matched.contains(&number) {
            found(&mut device).await;
        } else {
            assert!(log.waits.contains(&number), "{number}");
        }
    }
    assert!(log.matched.len() > 30, "{}", log.matched.len());
}

#[tokio::test(start_paused = true)]
async fn what_breaks_a_limit_is_refused_with_a_reason_and_counted() {
    let lab = lab();
    let mut alice = seeker(&lab, "alice").await;
    let good = || v1::SubmitTicket {
        id: id(1),
        players: players(&[("alice", 0.0)]),
        ..v1::SubmitTicket::default()
    };
    let number = |number| Some(match_attribute::Value::Number(number));
    let with = |value| {
        let mut ticket = good();
        ticket.players[0].attributes[0].value = value;
        ticket
    };
    let many = |count: usize| {
        let mut ticket = good();
        ticket.players[0].attributes = (0..count)
            .map(|at| v1::MatchAttribute {
                name: format!("a{at}"),
                value: Some(match_attribute::Value::Text("t".repeat(128))),
            })
            .collect();
        ticket
    };
    let list = |count: usize| {
        let texts = (0..count).map(|at| format!("{at}")).collect();
        with(Some(match_attribute::Value::List(v1::MatchTexts { texts })))
    };
    let heavy = |count: usize| {
        let mut ticket = good();
        let texts: Vec<_> = (0..64).map(|at| format!("{at:0128}")).collect();
        ticket.players[0].attributes = (0..count)
            .map(|at| v1::MatchAttribute {
                name: format!("a{at}"),
                value: Some(match_attribute::Value::List(v1::MatchTexts {
                    texts: texts.clone(),
                })),
            })
            .collect();
        ticket
    };
    let asking = |query: &str| v1::SubmitTicket {
        query: query.to_owned(),
        ..good()
    };
    let cases = [
        (with(number(f64::NAN)), ErrorCode::BadTicket),
        (with(number(f64::INFINITY)), ErrorCode::BadTicket),
        (with(number(1e300)), ErrorCode::BadTicket),
        (with(None), ErrorCode::BadTicket),
        (
            with(Some(match_attribute::Value::Text("x".into()))),
            ErrorCode::BadTicket,
        ),
        (many(33), ErrorCode::BadTicket),
        (list(65), ErrorCode::BadTicket),
        (heavy(4), ErrorCode::TooLarge),
        (asking("+skill:>=x"), ErrorCode::BadTicket),
        (asking(&"a:b ".repeat(33)), ErrorCode::BadTicket),
        (
            v1::SubmitTicket {
                id: Bytes::from_static(b"short"),
                ..good()
            },
            ErrorCode::BadFrame,
        ),
        (
            v1::SubmitTicket {
                grace_ms: u32::MAX,
                ..good()
            },
            ErrorCode::BadTicket,
        ),
        (
            v1::SubmitTicket {
                tags: (0..33).map(|at| at.to_string()).collect(),
                ..good()
            },
            ErrorCode::BadTicket,
        ),
        (
            v1::SubmitTicket {
                players: Vec::new(),
                ..good()
            },
            // That is to come back to one.
            ErrorCode::NoSuchThing,
        ),
        (
            v1::SubmitTicket {
                players: players(&[("alice", 0.0), ("alice", 0.0)]),
                ..good()
            },
            ErrorCode::BadTicket,
        ),
    ];
    let mut counts: BTreeMap<ErrorCode, u64> = BTreeMap::new();
    for (ticket, code) in cases {
        let kind = match_request::Kind::Submit(ticket.clone());
        assert_eq!(ask(&mut alice, "duel", kind).await, Err(code), "{ticket:?}");
        *counts.entry(code).or_default() += 1;
    }
    assert_eq!(
        ask(&mut alice, "nowhere", cancel(1)).await,
        Err(ErrorCode::NoSuchPool)
    );
    assert_eq!(
        ask(&mut alice, "duel", cancel(1)).await,
        Err(ErrorCode::NoSuchThing)
    );
    *counts.entry(ErrorCode::NoSuchThing).or_default() += 1;
    for (code, count) in counts {
        assert_eq!(lab.refused(code), count, "{code:?}");
    }
    // Nothing else is disturbed.
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "duel", 2, &[("bob", 0.0)]).await.unwrap();
    found(&mut alice).await;
}

#[tokio::test(start_paused = true)]
async fn a_user_may_not_fill_pools_nor_ask_without_end() {
    let lab = lab_with(|config| {
        config.tickets_per_user_max = 1;
        config.tickets.burst = 10;
    });
    let mut alice = seeker(&lab, "alice").await;
    submit(&mut alice, "duel", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    assert_eq!(
        submit(&mut alice, "teams", 2, &[("alice", 0.0)]).await,
        Err(ErrorCode::Limit)
    );
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(ask(&mut alice, "duel", why(1)).await == Err(ErrorCode::Limit));
    }
    assert!(refused >= 10, "{refused}");
    // What it has must come to an end all the same.
    let cancelled = ask(&mut alice, "duel", cancel(1)).await;
    assert!(
        matches!(cancelled, Ok(match_response::Result::Done(_))),
        "{cancelled:?}"
    );
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(ask(&mut alice, "duel", cancel(1)).await == Err(ErrorCode::Limit));
    }
    assert!(refused >= 10, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_says_so() {
    let lab = lab_with(|config| {
        let text = DUEL.replace("name = \"duel\"", "name = \"small\"\ntickets = 1");
        config.pools.push(MatchPool::parse(&text).unwrap());
    });
    let mut alice = seeker(&lab, "alice").await;
    let mut bob = seeker(&lab, "bob").await;
    submit(&mut alice, "small", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    assert_eq!(
        submit(&mut bob, "small", 2, &[("bob", 9000.0)]).await,
        Err(ErrorCode::PoolFull)
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_users_find_one_match_and_meet_in_its_room() {
    const COUNT: u32 = 1000;
    let lab = lab_with(|config| {
        let crowd = "name = \"crowd\"\nplayers = { min = 1000, max = 1000 }";
        config.pools.push(MatchPool::parse(crowd).unwrap());
    });
    let mut devices = Vec::new();
    for number in 0..COUNT {
        // The longest names that there may be.
        let user = format!("{number:04}-{:059}", 0);
        let mut device = seeker(&lab, &user).await;
        submit(&mut device, "crowd", number, &[(&user, 0.0)])
            .await
            .unwrap();
        devices.push(device);
    }
    let mut rooms = BTreeSet::new();
    for device in &mut devices {
        let found = found(device).await;
        assert_eq!(users(&found).len(), COUNT as usize);
        rooms.insert(found.room);
    }
    assert_eq!(rooms.len(), 1);
    let room = rooms.first().unwrap();
    let mut joined = Vec::new();
    for device in &mut devices {
        joined.push(
            device
                .join(room, JoinMode::Join)
                .await
                .unwrap()
                .members
                .len(),
        );
    }
    assert_eq!(joined, (1..=COUNT as usize).collect::<Vec<_>>());
}

/// Reads a pool's log by itself, and counts.
#[derive(Default)]
struct Reader {
    submitted: BTreeSet<u32>,
    matched: BTreeSet<u32>,
    waits: BTreeSet<u32>,
    claimed_twice: usize,
}

impl Reader {
    /// By the log's entries alone: a claim counts if all of its tickets wait, and nobody of them is away.
    async fn read(local: &Local) -> Self {
        let mut found = Self::default();
        let mut away: BTreeSet<u32> = BTreeSet::new();
        let mut revisions: BTreeMap<u32, u32> = BTreeMap::new();
        let number = |ticket: &tombolo_match::TicketId| {
            u32::try_from(u128::from_be_bytes(ticket.0)).unwrap()
        };
        let mut next = 1;
        let key = pool_key(local, "pool").await;
        let mut tail = local.tail(&key, None).await.unwrap();
        loop {
            let entry = match tail.next().await.unwrap() {
                TailEvent::Entry { entry, .. } => entry,
                TailEvent::Synced => return found,
                other => panic!("the log is whole, and not {other:?}"),
            };
            let (_, Entry { body, .. }) = Entry::decode(&entry).unwrap();
            match body {
                Body::Submitted(ticket) => {
                    let number = number(&ticket.id);
                    if found.submitted.insert(number) {
                        found.waits.insert(number);
                        revisions.insert(number, 0);
                    }
                }
                Body::Dropped { ticket, .. } => {
                    away.insert(number(&ticket));
                }
                Body::Returned { ticket, .. } => {
                    away.remove(&number(&ticket));
                }
                Body::Claimed(matches) => {
                    for formed in matches {
                        let is_next = formed.id.0 == next;
                        next += u64::from(is_next);
                        let tickets = formed.parties().map(|party| number(&party.ticket));
                        let tickets: Vec<_> = tickets.collect();
                        let is_good =
                            |ticket: &u32| found.waits.contains(ticket) && !away.contains(ticket);
                        if !is_next || !tickets.iter().all(is_good) {
                            continue;
                        }
                        for ticket in tickets {
                            found.waits.remove(&ticket);
                            found.claimed_twice += usize::from(!found.matched.insert(ticket));
                        }
                    }
                }
                Body::NodeLost { .. } | Body::Seated(_) | Body::Ticked => {}
                other => panic!("nobody wanted {other:?}"),
            }
        }
    }
}

/// A log's or a lease's key, by what it begins with.
async fn pool_key(local: &Local, kind: &str) -> Key {
    let digest = lease(local).await.0;
    Key::new([kind, "duel", &digest]).unwrap()
}

/// The digest of the pool's rules, and who is its matcher.
async fn lease(local: &Local) -> (String, String) {
    let prefix = Key::new(["matcher", "duel"]).unwrap();
    let mut watch = local.leases().watch(&prefix).await.unwrap();
    loop {
        match watch.next().await.unwrap() {
            WatchEvent::Put { key, entry } => {
                let digest = key.as_str().rsplit('.').next().unwrap().to_owned();
                return (digest, String::from_utf8(entry.value.to_vec()).unwrap());
            }
            WatchEvent::Synced | WatchEvent::Deleted { .. } | WatchEvent::Reset => {}
        }
    }
}

/// Which of the nodes that live is the matcher, once one is.
async fn leader(dead: &BTreeSet<usize>, local: &Local) -> usize {
    loop {
        let (_, name) = lease(local).await;
        let number: usize = name.strip_prefix("node-").unwrap().parse().unwrap();
        if !dead.contains(&number) {
            return number;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn lab() -> Lab {
    lab_with(|_| {})
}

fn lab_with(change: impl FnOnce(&mut Config)) -> Lab {
    Lab::with(|config| {
        serve_pools(config);
        change(config);
    })
}

async fn cluster<const N: usize>() -> ([Lab; N], Local) {
    let local = Local::new(LocalConfig::default());
    let nodes = (0..N).map(|number| {
        let engine: Arc<dyn Engine> = Arc::new(local.clone());
        Lab::on(engine, |config| {
            serve_pools(config);
            config.node = NodeId::parse(&format!("node-{number}")).unwrap();
        })
    });
    let nodes: Vec<_> = nodes.collect();
    tokio::time::sleep(Duration::from_secs(10)).await;
    (nodes.try_into().ok().unwrap(), local)
}

/// A node that takes many tickets of one device.
fn patient(local: &Local, name: &str) -> Lab {
    let engine: Arc<dyn Engine> = Arc::new(local.clone());
    Lab::on(engine, |config| {
        serve_pools(config);
        config.tickets.burst = 100_000;
        config.rate.frames_burst = 100_000;
        config.node = NodeId::parse(name).unwrap();
    })
}

fn serve_pools(config: &mut Config) {
    config.unix_now = now;
    for text in [DUEL, READY, TEAMS] {
        config.pools.push(MatchPool::parse(text).unwrap());
    }
}

/// A clock that goes with the test's.
fn now() -> Duration {
    thread_local!(static START: OnceCell<Instant> = const { OnceCell::new() });
    let start = START.with(|start| *start.get_or_init(Instant::now));
    UNIX_NOW + start.elapsed()
}

async fn seeker(lab: &Lab, user: &str) -> Device {
    let mut device = Device::new(user);
    device.token_expires = UNIX_NOW + Duration::from_secs(86_400);
    device.connect(lab).await.unwrap();
    device
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

/// Alice and bob, who are asked whether they are ready, and for which match.
async fn both_asked(lab: &Lab) -> ([Device; 2], u64) {
    let mut alice = seeker(lab, "alice").await;
    let mut bob = seeker(lab, "bob").await;
    let alone = [("alice", 0.0)];
    submit(&mut alice, "ready", 1, &alone).await.unwrap();
    submit(&mut bob, "ready", 2, &[("bob", 0.0)]).await.unwrap();
    let number = proposed(&mut bob).await;
    ([alice, bob], number)
}

async fn submit(
    device: &mut Device,
    pool: &str,
    number: u32,
    party: &[(&str, f64)],
) -> Result<v1::TicketStatus, ErrorCode> {
    submit_for(device, pool, number, party, 0).await
}

async fn submit_for(
    device: &mut Device,
    pool: &str,
    number: u32,
    party: &[(&str, f64)],
    grace_s: u32,
) -> Result<v1::TicketStatus, ErrorCode> {
    let id = ask_submit(device, pool, number, party, grace_s, "");
    status(device.response_among(id).await)
}

fn ask_submit(
    device: &mut Device,
    pool: &str,
    number: u32,
    party: &[(&str, f64)],
    grace_s: u32,
    room: &str,
) -> u64 {
    let submit = match_request::Kind::Submit(v1::SubmitTicket {
        id: id(number),
        players: players(party),
        party: room.to_owned(),
        grace_ms: grace_s * 1000,
        ..v1::SubmitTicket::default()
    });
    device.request(Some(request::Kind::Matchmaker(v1::MatchRequest {
        pool: pool.to_owned(),
        kind: Some(submit),
    })))
}

fn status(
    answer: Result<Option<match_response::Result>, ErrorCode>,
) -> Result<v1::TicketStatus, ErrorCode> {
    match answer? {
        Some(match_response::Result::Status(status)) => Ok(status),
        other => panic!("a ticket is not answered by {other:?}"),
    }
}

async fn ask(
    device: &mut Device,
    pool: &str,
    kind: match_request::Kind,
) -> Result<match_response::Result, ErrorCode> {
    let id = device.request(Some(request::Kind::Matchmaker(v1::MatchRequest {
        pool: pool.to_owned(),
        kind: Some(kind),
    })));
    device.response_among(id).await.map(Option::unwrap)
}

impl Device {
    /// The answer to a request, whatever is told before it.
    async fn response_among(
        &mut self,
        id: u64,
    ) -> Result<Option<match_response::Result>, ErrorCode> {
        loop {
            if let server_frame::Body::Response(response) = self.next().await
                && response.id == id
            {
                return match response.result.unwrap() {
                    response::Result::Matchmaker(response) => Ok(response.result),
                    response::Result::Failure(failure) => Err(failure.code()),
                    other => panic!("{other:?}"),
                };
            }
        }
    }

    /// Why a request is refused.
    async fn refusal_among(&mut self, id: u64) -> v1::Failure {
        loop {
            if let server_frame::Body::Response(response) = self.next().await
                && response.id == id
            {
                return match response.result.unwrap() {
                    response::Result::Failure(failure) => failure,
                    other => panic!("{other:?}"),
                };
            }
        }
    }

    /// Nothing but how tickets stand is heard for a while.
    async fn is_quiet_of_matches(&mut self) {
        while let Some(frame) = self.next_frame().await {
            let text = format!("{frame:?}");
            assert!(text.contains("Status"), "{text}");
        }
    }
}

/// The next thing of a kind that is told of tickets, whatever else is told before it.
async fn event<T>(device: &mut Device, pick: impl Fn(match_event::Kind) -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < end, "{} hears nothing of it", device.user);
        let Some(tombolo_services::Outgoing::Reliable(frame)) = device.next_frame().await else {
            continue;
        };
        if let Some(server_frame::Body::Matchmaker(v1::MatchEvent {
            kind: Some(kind), ..
        })) = frame.body
            && let Some(found) = pick(kind)
        {
            return found;
        }
    }
}

async fn found(device: &mut Device) -> v1::MatchFound {
    event(device, |kind| match kind {
        match_event::Kind::Found(found) => Some(found),
        _ => None,
    })
    .await
}

async fn proposed(device: &mut Device) -> u64 {
    event(device, |kind| match kind {
        match_event::Kind::Proposed(proposed) => Some(proposed.number),
        _ => None,
    })
    .await
}

async fn ended(device: &mut Device) -> String {
    event(device, |kind| match kind {
        match_event::Kind::Ended(ended) => Some(ended.reason),
        _ => None,
    })
    .await
}

fn users(found: &v1::MatchFound) -> Vec<&str> {
    let members = found.teams.iter().flat_map(|team| &team.members);
    let mut users: Vec<_> = members.map(|member| member.user.as_str()).collect();
    users.sort_unstable();
    users
}

fn players(party: &[(&str, f64)]) -> Vec<v1::MatchPlayer> {
    let party = party.iter().map(|(user, skill)| v1::MatchPlayer {
        user: (*user).to_owned(),
        attributes: vec![v1::MatchAttribute {
            name: "skill".to_owned(),
            value: Some(match_attribute::Value::Number(*skill)),
        }],
        ..v1::MatchPlayer::default()
    });
    party.collect()
}

fn id(number: u32) -> Bytes {
    Bytes::copy_from_slice(&u128::from(number).to_be_bytes())
}

fn cancel(number: u32) -> match_request::Kind {
    match_request::Kind::Cancel(v1::CancelTicket { id: id(number) })
}

fn why(number: u32) -> match_request::Kind {
    match_request::Kind::Why(v1::WhyNoMatch { id: id(number) })
}

fn accept(number: u64) -> match_request::Kind {
    let accept = true;
    match_request::Kind::Answer(v1::AnswerMatch { number, accept })
}

fn decline(number: u64) -> match_request::Kind {
    let accept = false;
    match_request::Kind::Answer(v1::AnswerMatch { number, accept })
}

/// The generation of a running match that has changed.
async fn grown(device: &mut Device) -> u32 {
    event(device, |kind| match kind {
        match_event::Kind::Backfill(status) => Some(status.generation),
        _ => None,
    })
    .await
}

/// A match of two asks for others.
fn asks_for_more(found: &v1::MatchFound) -> match_request::Kind {
    let teams = found.teams.iter().map(|team| v1::BackfillTeam {
        name: team.name.clone(),
        parties: vec![v1::BackfillParty {
            players: players(&[(team.members[0].user.as_str(), 0.0)]),
        }],
    });
    match_request::Kind::Backfill(v1::OpenBackfill {
        id: found.id.clone(),
        after: 0,
        teams: teams.collect(),
        lease_ms: 60_000,
        venue: None,
    })
}

/// Two in the room of their match, which has place for two more; the first owns it.
async fn running() -> (Device, Device, v1::MatchFound, Lab) {
    let lab = lab();
    let (alice, bob, found) = running_on(&lab).await;
    (alice, bob, found, lab)
}

async fn running_on(lab: &Lab) -> (Device, Device, v1::MatchFound) {
    let mut alice = seeker(lab, "alice").await;
    let mut bob = seeker(lab, "bob").await;
    submit(&mut alice, "teams", 1, &[("alice", 0.0)])
        .await
        .unwrap();
    submit(&mut bob, "teams", 2, &[("bob", 0.0)]).await.unwrap();
    let first = found(&mut alice).await;
    found(&mut bob).await;
    alice.join(&first.room, JoinMode::Join).await.unwrap();
    bob.join(&first.room, JoinMode::Join).await.unwrap();
    (alice, bob, first)
}
