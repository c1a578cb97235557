//! Who is online, as the SDK shows it.

use tombolo_client::{ErrorCode, PresenceStatus, PresenceWatch};
use tombolo_wire::v1::{
    Presence, PresenceResponse, SocialResponse, UserStatus, UserStatuses, presence_request,
    presence_response, request, response, social_request, social_response,
};

use crate::lab::{device, node, soon, user};
use crate::script::{Line, Script, given_up};

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

#[tokio::test]
async fn whoever_gave_up_while_a_node_was_told_anew_still_hears_of_changes() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut watch = device.presence().watch().unwrap();
    let bob = || [user("bob")];
    tokio::join!(watch.follow(bob()), answer(&mut line, &[]))
        .0
        .unwrap();
    let mut line = script.forget(line).await;
    let first = given_up(watch.next_changes(), &mut line).await;
    line.refuse(&first, ErrorCode::Unavailable).await;
    let telling = answer(&mut line, &["bob"]);
    assert_eq!(tokio::join!(next(&mut watch), telling).0, "bob Online");
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_not_taken_for_another() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut watch = device.presence().watch().unwrap();
    let first = given_up(watch.follow([user("bob")]), &mut line).await;
    let telling = async {
        line.answer(&first, online(&["bob"])).await;
        answer(&mut line, &["carol"]).await;
    };
    let (followed, ()) = tokio::join!(soon(watch.follow([user("carol")])), telling);
    followed.unwrap();
    assert_eq!(watch.statuses()[&user("carol")], PresenceStatus::Online);
}

#[tokio::test]
async fn an_answer_to_a_watch_that_is_gone_is_not_taken_for_that_of_the_next() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let mut watch = device.presence().watch().unwrap();
    let first = given_up(watch.follow([user("bob")]), &mut line).await;
    drop(watch);
    assert_eq!(unfollowed(&mut line).await, ["bob"]);
    let mut watch = device.presence().watch().unwrap();
    let telling = async {
        line.answer(&first, online(&["bob"])).await;
        answer(&mut line, &["carol"]).await;
    };
    let (followed, ()) = tokio::join!(soon(watch.follow([user("carol")])), telling);
    followed.unwrap();
    assert_eq!(watch.statuses()[&user("carol")], PresenceStatus::Online);
}

/// Whom the device asks next to follow no more.
async fn unfollowed(line: &mut Line) -> Vec<String> {
    let request = line.request().await;
    if let Some(request::Kind::Social(social)) = &request.kind
        && let Some(social_request::Kind::Presence(presence)) = &social.kind
        && let Some(presence_request::Kind::Unfollow(unfollow)) = &presence.kind
    {
        return unfollow.users.clone();
    }
    panic!("users should not have been followed any more, not {request:?}");
}

/// Says who of those that the device asks about is online.
async fn answer(line: &mut Line, users: &[&str]) {
    let request = line.request().await;
    let is_about_users = matches!(request.kind, Some(request::Kind::Social(_)));
    assert!(is_about_users, "{request:?}");
    line.answer(&request, online(users)).await;
}

fn online(users: &[&str]) -> response::Result {
    let users = users.iter().map(|user| UserStatus {
        user: (*user).to_owned(),
        presence: Presence::Online.into(),
    });
    let statuses = UserStatuses {
        users: users.collect(),
    };
    let following = PresenceResponse {
        result: Some(presence_response::Result::Following(statuses)),
    };
    response::Result::Social(SocialResponse {
        result: Some(social_response::Result::Presence(following)),
    })
}

async fn next(watch: &mut PresenceWatch) -> String {
    let changes = soon(watch.next_changes()).await.unwrap();
    let changes = changes.expect("the session goes on");
    let words = changes
        .iter()
        .map(|(user, status)| format!("{user} {status:?}"));
    words.collect::<Vec<_>>().join(", ")
}
