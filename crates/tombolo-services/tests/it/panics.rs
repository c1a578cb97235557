//! Tasks of a node that panic: who trusts that the engine answers falls into a trap that it has laid.

use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tombolo_engine::{Local, LocalConfig};
use tombolo_field::{Sight, Subject};
use tombolo_services::{Config, Entropy, HookSet, Hooks, MatchPool, Outgoing};
use tombolo_wire::v1::{self, ErrorCode, JoinMode, client_frame, match_request, request, room_act};
use tombolo_wire::{FieldId, NodeId};

use crate::cluster::{cluster, members, start_with};
use crate::groups::{Talker, join};
use crate::lab::{Device, Lab, message};
use crate::nodes::events;
use crate::walker::Walker;
use crate::wire::Wire;

#[tokio::test(start_paused = true)]
async fn a_node_is_broken_when_a_task_panics_that_it_cannot_do_without() {
    for (trap, task) in [
        ("subscribe node.n.inbox", "what other nodes say"),
        ("serve node.n.sessions", "sessions for other nodes"),
        ("serve node.n.fields", "questions about fields"),
        ("watch nodes", "records of nodes"),
        ("subscribe beat", "heartbeats of nodes"),
        ("subscribe presence-beat", "who is online"),
        ("subscribe user-sessions", "users' sessions on other nodes"),
    ] {
        let lab = trapped(trap, |_| {});
        assert_eq!(broken(&lab).await, task, "{trap}");
    }
    let lab = trapped("nothing", |config| {
        config.hooks = HookSet::new(Wild);
    });
    assert_eq!(broken(&lab).await, "rooms' ticks");
    let lab = trapped("nothing", |config| config.cpu_time = || panic!("no clock"));
    assert_eq!(broken(&lab).await, "its part in the cluster");

    let lab = trapped("watch open", |_| {});
    let mut alice = lab.device("alice").await;
    alice.request(Some(find()));
    assert_eq!(broken(&lab).await, "the directory of rooms");
}

/// A game whose code panics when it is asked how often its rooms tick.
struct Wild;

impl Hooks for Wild {
    fn tick_interval(&self) -> Option<Duration> {
        panic!("a trap was laid")
    }
}

fn trapped(trap: &'static str, change: impl FnOnce(&mut Config)) -> Lab {
    let wire = Wire::new(&Local::new(LocalConfig::default()));
    wire.lay(trap, 1);
    Lab::on(wire, |config| {
        config.node = NodeId::parse("n").unwrap();
        config.pools.push(MatchPool::parse(POOL).unwrap());
        change(config);
    })
}

/// The task by whose panic it is; within a moment the node takes nobody in, and says why.
async fn broken(lab: &Lab) -> &'static str {
    let broken = timeout(Duration::from_secs(3), lab.services.vitals().broken());
    let broken = broken.await.expect("the node has a task that panics");
    let why = lab.services.in_cluster().await.unwrap_err().message;
    assert_eq!(why, broken.to_string());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let hello = Device::new("newcomer").hello();
    let turned_away = lab.attach(hello).await.err();
    let code = turned_away.map(|reject| reject.code);
    assert_eq!(code, Some(ErrorCode::Elsewhere));
    broken.task()
}

#[tokio::test(start_paused = true)]
async fn a_broken_node_lets_its_devices_go_and_its_heir_takes_on() {
    static IS_WILD: AtomicBool = AtomicBool::new(false);
    for is_driver in [false, true] {
        IS_WILD.store(false, Ordering::Relaxed);
        let (nodes, local) = cluster::<2>().await;
        let wild = start_with(&local, 2, |config| {
            config.cpu_time = || match IS_WILD.load(Ordering::Relaxed) {
                true => panic!("no clock"),
                false => None,
            };
        });
        wild.wire.lay("watch open", 1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let [mut bob] = members(&nodes, "r", [("bob", 0)]).await;
        let [mut alice] = wild.lab.members("r", ["alice"]).await;
        bob.drain().await;

        if is_driver {
            IS_WILD.store(true, Ordering::Relaxed);
        } else {
            alice.request(Some(find()));
        }
        assert_eq!(alice.next_close().await, Some(ErrorCode::Elsewhere));
        tokio::time::sleep(Duration::from_secs(2)).await;
        let heard = events(&mut bob).await;
        assert!(heard.contains(&"?alice".to_owned()), "{heard:?}");
        alice.connect(&nodes[1].lab).await.unwrap();
        alice.join("r", JoinMode::Join).await.unwrap();
        alice.send(message("r", &[], b"back")).unwrap();
        bob.drain().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_reader_panics_is_read_anew_and_its_members_begin_anew_at_their_seats() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 0), ("carol", 1)];
    let [mut alice, mut bob, mut carol] = members(&nodes, "r", users).await;
    let [mut dave] = members(&nodes, "other", [("dave", 0)]).await;
    nodes[0].wire.lay("read room.r", 1);
    alice.ask_act("r", say("whatever"));
    for device in [&mut alice, &mut bob] {
        assert_eq!(closed(device).await, Some(ErrorCode::NotResumable));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(nodes[0].lab.services.stats().logs_panicked, 1);
    assert!(nodes[0].lab.services.vitals().check().is_ok());

    for device in [&mut alice, &mut bob] {
        let welcome = device.connect(&nodes[0].lab).await.unwrap();
        assert!(!welcome.resumed);
        let joined = device.join("r", JoinMode::Join).await.unwrap();
        assert_eq!(joined.members.len(), 3, "{joined:?}");
    }
    alice.drain().await;
    bob.drain().await;
    carol.drain().await;
    alice.send(message("r", &[], b"back")).unwrap();
    for device in [&mut bob, &mut carol] {
        assert_eq!(device.next_delivery().await.1, "back");
    }
    dave.is_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_panics_again_and_again_is_read_seldomer_and_seldomer() {
    let (nodes, _) = cluster::<1>().await;
    let [_alice] = members(&nodes, "r", [("alice", 0)]).await;
    let mut bob = nodes[0].lab.device("bob").await;
    nodes[0].wire.lay("read room.r", u64::MAX);
    let lab = &nodes[0].lab;
    assert_eq!(
        bob.join("r", JoinMode::Join).await,
        Err(ErrorCode::Unavailable)
    );
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let panicked = lab.services.stats().logs_panicked;
    assert!((2..100).contains(&panicked), "{panicked} times in an hour");
}

#[tokio::test(start_paused = true)]
async fn a_groups_log_whose_reader_panics_is_read_anew_and_nothing_is_missed() {
    let (nodes, _) = cluster::<1>().await;
    let lab = &nodes[0].lab;
    let mut alice = Talker::new(lab, "alice").await;
    let mut bob = Talker::new(lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done_in("guild", join()).await.unwrap();
    bob.open(None).await.unwrap();
    alice.post(1, b"first").await.unwrap();
    bob.heard().await;
    nodes[0].wire.lay("read posts.guild", 1);
    alice.post(2, b"second").await.unwrap();
    alice.post(3, b"third").await.unwrap();
    let heard = bob.heard().await.join(" ");
    assert!(
        heard.contains("second") && heard.contains("third"),
        "{heard}"
    );
    assert_eq!(lab.services.stats().logs_panicked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_about_which_something_panics_goes_on_and_so_does_its_node() {
    for trap in ["tail pool.duel", "read pool.duel", "lease matcher.duel"] {
        let lab = trapped(trap, |_| {});
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(lab.services.stats().logs_panicked, 1, "{trap}");
        lab.services.in_cluster().await.unwrap();
        let mut found = Vec::new();
        for user in ["alice", "bob"] {
            let mut device = lab.device(user).await;
            submit(&mut device);
            found.push(device);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(lab.services.stats().matched > 0, "{trap}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_request_panics_ends_and_its_device_begins_anew() {
    let (nodes, _) = cluster::<1>().await;
    let users = [("alice", 0), ("bob", 0)];
    let [mut alice, mut bob] = members(&nodes, "r", users).await;
    nodes[0].wire.lay("append room.r", 1);
    alice.ask_act("r", say("whatever"));
    assert_eq!(closed(&mut alice).await, Some(ErrorCode::NotResumable));
    let stats = nodes[0].lab.services.stats();
    assert_eq!((stats.sessions_panicked, stats.sessions), (1, 1));
    assert_eq!(bob.next_event().await, "?alice");
    alice.connect(&nodes[0].lab).await.unwrap();
    let joined = alice.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(joined.members.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_sessions_in_a_field_whose_task_panics_end_and_their_devices_enter_again() {
    let lab = trapped("nothing", |config| {
        config.hooks = HookSet::new(Mined(Arc::new(AtomicBool::new(true))));
    });
    let mut carol = lab.device("carol").await;
    let mut alice = Walker::new(&lab, "alice", &[0.0, 0.0]).await;
    let mut bob = Walker::new(&lab, "bob", &[1.0, 0.0]).await;
    for walker in [&mut alice, &mut bob] {
        let code = closed(&mut walker.device).await;
        assert_eq!(code, Some(ErrorCode::NotResumable));
    }
    let stats = lab.services.stats();
    assert_eq!((stats.fields.panicked, stats.fields.fields), (1, 0));
    carol.is_quiet().await;

    for (walker, at) in [(&mut alice, [0.0, 0.0]), (&mut bob, [1.0, 0.0])] {
        walker.device.connect(&lab).await.unwrap();
        walker.enter(&at).await.unwrap();
    }
    alice.hear().await;
    assert_eq!(alice.seen(), [bob.entity]);
}

/// A game whose filter fails once, with what fails again when it is put away.
struct Mined(Arc<AtomicBool>);

impl Hooks for Mined {
    fn sight(&self, _field: &FieldId) -> Option<Box<dyn Sight + Send + Sync>> {
        let is_armed = Arc::clone(&self.0);
        Some(Box::new(move |_: &Subject, _: &Subject| {
            if is_armed.swap(false, Ordering::Relaxed) {
                panic_any(Mine);
            }
            true
        }))
    }
}

struct Mine;

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("a trap was laid")
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_frame_panics_ends_and_its_device_begins_anew() {
    let (nodes, _) = cluster::<1>().await;
    let users = [("alice", 0), ("bob", 0)];
    let [mut alice, mut bob] = members(&nodes, "r", users).await;
    *nodes[0].lab.relay.trap.lock().unwrap() = Some("bob");
    let ended = alice.send(introduce("bob")).unwrap_err();
    assert_eq!(ended.code, ErrorCode::NotResumable);
    let stats = nodes[0].lab.services.stats();
    assert_eq!((stats.sessions_panicked, stats.sessions), (1, 1));
    assert_eq!(bob.next_event().await, "?alice");
    let welcome = alice.connect(&nodes[0].lab).await.unwrap();
    assert!(!welcome.resumed);
    let joined = alice.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(joined.members.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_another_node_says_and_panics_is_refused_and_the_node_goes_on() {
    let (nodes, _) = cluster::<2>().await;
    let users = [("alice", 0), ("bob", 1)];
    let [mut alice, mut bob] = members(&nodes, "r", users).await;
    *nodes[1].lab.relay.trap.lock().unwrap() = Some("bob");
    for count in 1..3 {
        alice.send(introduce("bob")).unwrap();
        assert_eq!(alice.next_refused().await.1, ErrorCode::Unavailable);
        assert_eq!(nodes[1].lab.services.stats().items_panicked, count);
    }
    assert!(nodes[1].lab.services.vitals().check().is_ok());
    alice.send(message("r", &[], b"still there")).unwrap();
    assert_eq!(bob.next_delivery().await.1, "still there");
}

#[tokio::test(start_paused = true)]
async fn a_question_for_a_session_that_panics_is_refused_and_the_node_goes_on() {
    static IS_WILD: AtomicBool = AtomicBool::new(false);
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let (nodes, local) = cluster::<1>().await;
    let wild = start_with(&local, 1, |config| {
        config.entropy = Entropy::simulated(|bytes| {
            assert!(!IS_WILD.load(Ordering::Relaxed), "a trap was laid");
            bytes.fill(NEXT.fetch_add(1, Ordering::Relaxed));
        });
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = wild.lab.device("alice").await;
    let mut bob = wild.lab.device("bob").await;
    IS_WILD.store(true, Ordering::Relaxed);
    assert!(!alice.connect(&nodes[0].lab).await.unwrap().resumed);
    assert!(wild.lab.services.stats().items_panicked > 0);
    assert!(wild.lab.services.vitals().check().is_ok());
    IS_WILD.store(false, Ordering::Relaxed);
    assert!(bob.connect(&nodes[0].lab).await.unwrap().resumed);
}

fn introduce(to: &str) -> client_frame::Body {
    client_frame::Body::Introduce(v1::Introduce {
        room: "r".into(),
        to: to.into(),
        introduction: Some(v1::Introduction {
            attempt: 1,
            ..v1::Introduction::default()
        }),
        ..v1::Introduce::default()
    })
}

#[tokio::test(start_paused = true)]
async fn members_of_a_lost_node_are_dropped_although_the_first_attempt_panics() {
    let (nodes, _) = cluster::<2>().await;
    let [mut bob, _alice] = members(&nodes, "r", [("bob", 1), ("alice", 0)]).await;
    nodes[1].wire.lay("append room.r", 1);
    nodes[0].lab.services.kill();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let heard = events(&mut bob).await;
    assert!(heard.contains(&"?alice".to_owned()), "{heard:?}");
    assert!(nodes[1].lab.services.vitals().check().is_ok());
}

fn find() -> request::Kind {
    request::Kind::Find(v1::FindRooms {
        query: Some(v1::RoomQuery::default()),
        ..v1::FindRooms::default()
    })
}

/// Has a ticket in the pool.
fn submit(device: &mut Device) {
    let submit = match_request::Kind::Submit(v1::SubmitTicket {
        id: Bytes::copy_from_slice(&[device.user.as_bytes()[0]; 16]),
        players: vec![v1::MatchPlayer {
            user: device.user.clone(),
            ..v1::MatchPlayer::default()
        }],
        ..v1::SubmitTicket::default()
    });
    device.request(Some(request::Kind::Matchmaker(v1::MatchRequest {
        pool: "duel".into(),
        kind: Some(submit),
    })));
}

fn say(payload: &'static str) -> room_act::Kind {
    room_act::Kind::Say(v1::Say {
        payload: payload.into(),
        ..v1::Say::default()
    })
}

/// Why a device's connection is closed, whatever it is told before.
async fn closed(device: &mut Device) -> Option<ErrorCode> {
    loop {
        match device.next_frame().await {
            Some(Outgoing::Close(reject)) => return reject.map(|reject| reject.code),
            Some(_) => {}
            None => panic!("{} goes on", device.user),
        }
    }
}

const POOL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
"#;
