//! Who says nothing in a field.

use std::time::Duration;

use tokio::time::Instant;
use tombolo_field::{Change, EntityId};

use crate::cluster::cluster;
use crate::walker::Walker;

/// Waits until somebody is told to have left, and says how long that has taken.
async fn leaves(walker: &mut Walker, at: &[f64], other: EntityId) -> Duration {
    let begin = Instant::now();
    loop {
        walker.go(at);
        let told = walker.hear_one(Duration::from_millis(50)).await;
        if told.is_some_and(|told| told.contains(&Change::Left(other))) {
            return begin.elapsed();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_falls_silent_is_gone_on_all_nodes_at_once_and_may_come_back() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Walker::new(&nodes[0].lab, "alice", &[0.0, 0.0]).await;
    let mut near = Walker::new(&nodes[0].lab, "near", &[1.0, 0.0]).await;
    let mut far = Walker::new(&nodes[1].lab, "far", &[2.0, 0.0]).await;
    let mut thing = alice.report(&[0.0, 1.0]);
    thing.own = 1;
    alice.tell(Some(thing));
    near.hear().await;
    far.hear().await;
    assert_eq!((near.seen().len(), far.seen().len()), (3, 3));
    // Its last word.
    alice.go(&[0.0, 0.0]);
    let gone = tokio::join!(
        leaves(&mut near, &[1.0, 0.0], alice.entity),
        leaves(&mut far, &[2.0, 0.0], alice.entity),
    );
    let silence = Duration::from_secs(10);
    // A tick on each node, and as long as nodes gather what they tell.
    let soon = silence + Duration::from_millis(150);
    assert!((silence..soon).contains(&gone.0), "{gone:?}");
    assert!((silence..soon).contains(&gone.1), "{gone:?}");
    assert_eq!(far.seen(), [near.entity], "nor is what it had put there");
    alice.go(&[0.0, 5.0]);
    for walker in [&mut near, &mut far] {
        assert_eq!(walker.hear().await, [Change::Entered(alice.entity)]);
    }
}
