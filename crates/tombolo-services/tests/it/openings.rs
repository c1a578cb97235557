//! Who is told that rooms open and close.

use std::time::Duration;

use tokio::sync::broadcast;
use tombolo_room::Settings;
use tombolo_services::{NewRoom, RoomChange, RoomEvent};
use tombolo_wire::RoomId;
use tombolo_wire::v1::JoinMode;

use crate::cluster::{Member, cluster};

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
    let new = NewRoom {
        settings: Settings {
            empty_kept: Duration::from_secs(60),
            ..Settings::default()
        },
        ..NewRoom::default()
    };
    let room = RoomId::parse("r").unwrap();
    let services = &nodes[0].lab.services;
    services.create_room(&room, new, None).await.unwrap();
    // The other one reads it, too.
    nodes[1].lab.services.view_room(&room).await.unwrap();
    assert_eq!(heard(&mut told), [vec!["opened"], vec![]]);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let told = heard(&mut told).concat();
    assert_eq!(told, ["closed"]);
}

fn listen(nodes: &[Member; 2]) -> [broadcast::Receiver<RoomChange>; 2] {
    [0, 1].map(|node: usize| nodes[node].lab.services.room_events())
}

/// What each node has told of the room since it was asked last.
fn heard(told: &mut [broadcast::Receiver<RoomChange>; 2]) -> [Vec<String>; 2] {
    told.each_mut().map(|told| {
        let mut heard = Vec::new();
        while let Ok(change) = told.try_recv() {
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
    })
}
