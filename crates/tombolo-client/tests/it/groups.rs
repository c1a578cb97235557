//! Groups, as the SDK shows them.

use tombolo_client::{ErrorCode, Group, GroupEvent, GroupSettings};
use tombolo_wire::v1::{
    GroupOpened, GroupResponse, Request, SocialResponse, group_request, group_response, request,
    response, social_request, social_response,
};

use crate::lab::{device, node, soon, user};
use crate::script::Script;

#[tokio::test]
async fn what_is_said_in_a_group_reaches_members_and_waits_for_those_who_are_away() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let mut hers = alice
        .groups()
        .create("guild", &GroupSettings::default())
        .await
        .unwrap();
    assert_eq!((hers.role(), hers.members_about()), ("owner", 1));
    let refused = bob.groups().join("guild").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotPermitted));
    let refused = hers.add(&user("bob")).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NoSuchUser));
    drop(bob.inbox(None).await.unwrap());
    hers.add(&user("bob")).await.unwrap();
    let mut his = bob.groups().open("guild", None).await.unwrap();
    let twice = bob.groups().open("guild", None).await.unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");

    hers.post("one").await.unwrap();
    for group in [&mut hers, &mut his] {
        assert_eq!(message(group).await, (1, "one".to_owned()));
    }
    let place = his.place();
    drop(his);
    hers.post("two").await.unwrap();
    let mut his = bob.groups().open("guild", place).await.unwrap();
    assert!(his.is_recovered());
    assert_eq!(message(&mut his).await, (2, "two".to_owned()));
    let history = his.history(None, 1).await.unwrap();
    assert_eq!((history.messages[0].number, history.more), (2, true));
    let page = his.members(None, 0).await.unwrap();
    let names: Vec<_> = page
        .members
        .iter()
        .map(|member| member.user.as_str())
        .collect();
    assert_eq!((names, page.next), (vec!["alice", "bob"], None));

    hers.set_role(&user("bob"), "admin").await.unwrap();
    assert_eq!(event(&mut his).await, GroupEvent::Role);
    assert_eq!(his.role(), "admin");
    hers.end().await.unwrap();
    assert_eq!(event(&mut his).await, GroupEvent::Over { has_ended: true });
    assert_eq!(soon(his.next_event()).await.unwrap(), None);
    node.shutdown().await;
}

#[tokio::test]
async fn a_group_that_may_have_been_made_is_asked_for_again_until_that_is_known() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let settings = GroupSettings::default();
    for role in ["owner", "member"] {
        let making = async {
            for code in [ErrorCode::Unsure, ErrorCode::GroupExists] {
                let create = line.request().await;
                assert!(matches!(asked(&create), group_request::Kind::Create(_)));
                line.refuse(&create, code).await;
            }
            let open = line.request().await;
            assert!(matches!(asked(&open), group_request::Kind::Open(_)));
            line.answer(&open, opened(role)).await;
        };
        let groups = device.groups();
        let created = groups.create("guild", &settings);
        let (made, ()) = soon(async { tokio::join!(created, making) }).await;
        match made {
            Ok(group) => assert_eq!(group.role(), role),
            Err(error) => assert!(role == "member" && error.is_unsure(), "{error}"),
        }
        let close = line.request().await;
        assert!(matches!(asked(&close), group_request::Kind::Close(_)));
    }
}

/// What the device wants to do with a group.
fn asked(request: &Request) -> &group_request::Kind {
    if let Some(request::Kind::Social(social)) = &request.kind
        && let Some(social_request::Kind::Group(group)) = &social.kind
        && let Some(kind) = &group.kind
    {
        return kind;
    }
    panic!("not about a group: {request:?}");
}

/// A group with the usual roles, of which the user has this one.
fn opened(role: &str) -> response::Result {
    let opened = GroupOpened {
        settings: Some((&GroupSettings::default()).into()),
        role: role.to_owned(),
        ..GroupOpened::default()
    };
    let group = GroupResponse {
        group: "guild".to_owned(),
        result: Some(group_response::Result::Opened(opened)),
    };
    response::Result::Social(SocialResponse {
        result: Some(social_response::Result::Group(group)),
    })
}

async fn event(group: &mut Group) -> GroupEvent {
    soon(group.next_event())
        .await
        .unwrap()
        .expect("the group goes on")
}

async fn message(group: &mut Group) -> (u64, String) {
    let event = event(group).await;
    let GroupEvent::Message(message) = event else {
        panic!("a post is waited for, not {event:?}");
    };
    let text = String::from_utf8_lossy(&message.payload).into_owned();
    (message.number, text)
}
