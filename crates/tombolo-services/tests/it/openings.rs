//! Who is told that rooms open and close, and what is said in them.

use std::time::Duration;

use tokio::sync::broadcast;
use tombolo_engine::{Local, LocalConfig};
use tombolo_room::{Act, Audience, Settings};
use tombolo_services::{Change, NamedOperation, NewRoom, RoomEvent};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, JoinMode, client_frame, room_act};

use crate::changes::next_room_change;
use crate::cluster::{Member, cluster};
use crate::engine::{Flaky, Mood};
use crate::lab::Lab;

#[tokio::test(start_paused = true)]
async fn that_a_room_opens_and_closes_is_told_once_by_whoever_brings_it_about() {
    let (nodes, _) = cluster::<2>().await;
    let mut told = listen(&nodes);
    let mut alice = nodes[0].lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    let mut bob = nodes[1].lab.device("bob").await;
    bob.join("r", JoinMode::Join).await.unwrap();
    alice.drain().await;
    alice.leave("r").await.unwrap();
    bob.drain().await;
    assert_eq!(heard(&mut told), [vec!["opened by alice"], vec![]]);
    bob.leave("r").await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(heard(&mut told), [vec![], vec!["closed"]]);
}

#[tokio::test(start_paused = true)]
async fn that_a_lost_nodes_room_closes_is_told_by_another() {
    let (nodes, _) = cluster::<2>().await;
    let mut told = listen(&nodes);
    let mut alice = nodes[0].lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    assert_eq!(heard(&mut told), [vec!["opened by alice"], vec![]]);
    nodes[0].lab.services.kill();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(heard(&mut told), [vec![], vec!["closed"]]);
}

#[tokio::test(start_paused = true)]
async fn that_a_servers_room_is_over_is_told_although_nobody_closes_it() {
    let (nodes, _) = cluster::<2>().await;
    let mut told = listen(&nodes);
    let room = RoomId::parse("r").unwrap();
    let services = &nodes[0].lab.services;
    services.create_room(&room, kept(), None).await.unwrap();
    // The other one reads it, too.
    nodes[1].lab.services.view_room(&room).await.unwrap();
    assert_eq!(heard(&mut told), [vec!["opened"], vec![]]);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let told = heard(&mut told).concat();
    assert_eq!(told, ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_asks_of_two_nodes_at_once_is_told_by_one() {
    let (nodes, _) = cluster::<2>().await;
    let mut told = listen(&nodes);
    let room = RoomId::parse("r").unwrap();
    let [here, there] = [0, 1].map(|node: usize| &nodes[node].lab.services);
    let once = |id| {
        let wanted_for = Duration::ZERO;
        Some(NamedOperation { id, wanted_for })
    };
    let (first, again) = tokio::join!(
        here.create_room(&room, kept(), once([1; 16])),
        there.create_room(&room, kept(), once([1; 16])),
    );
    assert!(first.is_ok() && again.is_ok(), "{first:?} {again:?}");
    assert_eq!(heard(&mut told).concat(), ["opened"]);
    let (first, again) = tokio::join!(
        here.act_for_server(&room, Act::Close, once([2; 16])),
        there.act_for_server(&room, Act::Close, once([2; 16])),
    );
    assert!(first.is_ok() && again.is_ok(), "{first:?} {again:?}");
    assert_eq!(heard(&mut told).concat(), ["closed"]);
}

#[tokio::test(start_paused = true)]
async fn that_a_room_closes_is_told_when_many_leave_at_once_while_the_engine_is_away() {
    let engine = Flaky::on(Local::new(LocalConfig::default()));
    let lab = Lab::on(engine.clone(), |_| {});
    let mut devices = Vec::new();
    for number in 0..200 {
        let mut device = lab.device(&format!("user-{number}")).await;
        let joined = device.join_up_to("r", JoinMode::JoinOrCreate, 200).await;
        joined.unwrap();
        devices.push(device);
    }
    let mut told = lab.services.changes();
    engine.set(Mood::Roomless);
    // The first to go is the last of whom it is written.
    for (number, device) in devices.iter_mut().enumerate() {
        let goodbye = client_frame::Body::Goodbye(v1::Goodbye {});
        device.send(goodbye).unwrap();
        let pause = if number == 0 { 2 } else { 0 };
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    engine.set(Mood::Fine);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(heard_on(&mut told), ["closed"]);
}

/// A room that is kept for a minute when nobody is in it.
fn kept() -> NewRoom {
    NewRoom {
        settings: Settings {
            empty_kept: Duration::from_secs(60),
            ..Settings::default()
        },
        ..NewRoom::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_durable_message_is_told_once_by_the_node_of_whoever_said_it() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    let mut bob = nodes[1].lab.device("bob").await;
    bob.join("r", JoinMode::Join).await.unwrap();
    let mut told = [0, 1].map(|node: usize| nodes[node].lab.services.changes_and_messages());
    let mut others = listen(&nodes);
    let say = |text: &'static str| {
        room_act::Kind::Say(v1::Say {
            audience: None,
            payload: text.into(),
        })
    };
    bob.act("r", say("one")).await.unwrap();
    alice.act("r", say("two")).await.unwrap();
    let act = Act::Say {
        audience: Audience::All,
        payload: "three".into(),
    };
    let room = RoomId::parse("r").unwrap();
    let services = &nodes[1].lab.services;
    services.act_for_server(&room, act, None).await.unwrap();
    alice.act("r", say("four")).await.unwrap();
    bob.drain().await;
    let said = told.each_mut().map(|told| {
        let changes = std::iter::from_fn(|| next_room_change(told));
        let said = changes.map(|change| match change.event {
            RoomEvent::Said(message) => {
                let by = change.user.map(|user| format!(" by {user}"));
                let text = String::from_utf8_lossy(&message.payload).into_owned();
                format!("{} {text}{}", message.number, by.unwrap_or_default())
            }
            other => panic!("{other:?} was told"),
        });
        said.collect::<Vec<_>>()
    });
    let expected = [
        vec!["2 two by alice", "4 four by alice"],
        vec!["1 one by bob", "3 three"],
    ];
    assert_eq!(said, expected);
    for others in &mut others {
        assert!(
            next_room_change(others).is_none(),
            "who does not ask hears no messages"
        );
    }
}

fn listen(nodes: &[Member; 2]) -> [broadcast::Receiver<Change>; 2] {
    [0, 1].map(|node: usize| nodes[node].lab.services.changes())
}

/// What each node has told of the room since it was asked last.
fn heard(told: &mut [broadcast::Receiver<Change>; 2]) -> [Vec<String>; 2] {
    told.each_mut().map(heard_on)
}

fn heard_on(told: &mut broadcast::Receiver<Change>) -> Vec<String> {
    let mut heard = Vec::new();
    while let Some(change) = next_room_change(told) {
        assert_eq!(change.room.as_str(), "r");
        let word = match change.event {
            RoomEvent::Opened => "opened",
            RoomEvent::Closed => "closed",
            _ => continue,
        };
        let user = change.user.map(|user| format!(" by {user}"));
        heard.push(format!("{word}{}", user.unwrap_or_default()));
    }
    heard
}
