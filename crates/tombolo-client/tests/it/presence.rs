//! Who is online, as the SDK shows it.

use tombolo_client::{ErrorCode, PresenceStatus, PresenceWatch};

use crate::lab::{device, node, soon, user};

#[tokio::test]
async fn a_device_is_told_who_comes_and_is_away_and_can_follow_again() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let mut watch = alice.presence().watch().unwrap();
    let twice = alice.presence().watch().unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    watch.follow([user("bob"), user("carol")]).await.unwrap();
    assert_eq!(watch.statuses()[&user("bob")], PresenceStatus::Offline);

    let bob = device(&node, "bob").await;
    assert_eq!(next(&mut watch).await, "bob Online");
    bob.presence().set_away(true).await.unwrap();
    assert_eq!(next(&mut watch).await, "bob Away");
    assert_eq!(watch.statuses()[&user("bob")], PresenceStatus::Away);
    let counts = alice.presence().counts().await.unwrap();
    assert_eq!((counts.online, counts.away), (1, 1));

    watch.unfollow([user("bob")]).await.unwrap();
    bob.presence().set_away(false).await.unwrap();
    let carol = device(&node, "carol").await;
    assert_eq!(next(&mut watch).await, "carol Online");
    let too_many = (0..1_001).map(|number| user(&format!("user-{number}")));
    let refused = watch.follow(too_many).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::TooLarge));

    drop(watch);
    let mut watch = alice.presence().watch().unwrap();
    watch.follow([user("bob"), user("carol")]).await.unwrap();
    for name in ["bob", "carol"] {
        assert_eq!(watch.statuses()[&user(name)], PresenceStatus::Online);
    }
    alice.close().await;
    assert_eq!(soon(watch.next_changes()).await.unwrap(), None);
    drop((bob, carol));
    node.shutdown().await;
}

async fn next(watch: &mut PresenceWatch) -> String {
    let changes = soon(watch.next_changes()).await.unwrap();
    let changes = changes.expect("the session goes on");
    let words = changes
        .iter()
        .map(|(user, status)| format!("{user} {status:?}"));
    words.collect::<Vec<_>>().join(", ")
}
