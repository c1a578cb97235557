//! Devices that together see into more cells than a node listens to one by one.

use std::time::Duration;

use tombolo_engine::{Local, LocalConfig};
use tombolo_field::Change;
use tombolo_services::FieldClass;

use crate::cluster::start_with;
use crate::walker::Walker;

#[tokio::test(start_paused = true)]
async fn who_comes_where_its_node_begins_to_hear_all_or_does_is_told_of_who_stands_there() {
    let local = Local::new(LocalConfig::default());
    let node = |number| {
        start_with(&local, number, |config| {
            config.fields.settings.classes = vec![FieldClass::seen_from(450.0)];
        })
    };
    let nodes = [node(0), node(1)];
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Each sees into some 900 cells. They stand there for a while, and have just said so.
    let place = |number: u32| [f64::from(number) * 10_000.0, 0.0, 0.0];
    let mut standing = Vec::new();
    for number in 0..5 {
        let user = format!("stands-{number}");
        standing.push(Walker::new(&nodes[1].lab, &user, &place(number)).await);
    }
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let mut come = Vec::new();
    for number in 0..4 {
        let user = format!("comes-{number}");
        let mut walker = Walker::new(&nodes[0].lab, &user, &place(number)).await;
        let there = standing[number as usize].entity;
        assert_eq!(walker.hear().await, [Change::Entered(there)], "{number}");
        come.push(walker);
    }
    // Those who stand say so again, where nobody looks.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let there = standing[4].entity;
    come[0].go(&place(4));
    let told = come[0].hear().await;
    assert!(told.contains(&Change::Entered(there)), "{told:?}");
}
