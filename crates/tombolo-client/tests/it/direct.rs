//! Direct messages, as the SDK shows them.

use bytes::Bytes;
use tombolo_client::{ErrorCode, Inbox, InboxEvent, MessageId};
use tombolo_wire::v1::{
    self, Request, direct_event, direct_request, direct_response, request, response, server_frame,
    social_event, social_request, social_response,
};

use crate::lab::{device, node, soon, user};
use crate::script::Script;

#[tokio::test]
async fn messages_reach_a_user_that_is_here_and_wait_for_one_that_is_away() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let to_bob = alice.direct(&user("bob"));
    let refused = to_bob.send("too early").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NoSuchUser));

    let mut inbox = bob.inbox(None).await.unwrap();
    let twice = bob.inbox(None).await.unwrap_err();
    assert!(twice.to_string().contains("already"), "{twice}");
    assert!(!to_bob.send("one").await.unwrap().is_repeated);
    assert_eq!(message(&mut inbox).await, (1, "one".to_owned()));
    let place = inbox.place().unwrap();
    drop(inbox);
    bob.close().await;

    let id = MessageId([7; 16]);
    assert!(!to_bob.send_as(id, "two").await.unwrap().is_repeated);
    assert!(to_bob.send_as(id, "two").await.unwrap().is_repeated);

    let bob = device(&node, "bob").await;
    let mut inbox = bob.inbox(Some(place)).await.unwrap();
    assert!(inbox.is_recovered());
    assert_eq!(message(&mut inbox).await, (2, "two".to_owned()));
    inbox.mark_read(2).await.unwrap();
    assert_eq!(event(&mut inbox).await, InboxEvent::Read(2));
    let history = inbox.history(None, 10).await.unwrap();
    let numbers: Vec<_> = history
        .messages
        .iter()
        .map(|message| message.number)
        .collect();
    assert_eq!((numbers, history.more), (vec![2, 1], false));
    node.shutdown().await;
}

#[tokio::test]
async fn what_may_be_kept_is_sent_again_under_its_id_until_it_is_known() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let to_bob = device.direct(&user("bob"));
    let perhaps = async {
        let request = line.request().await;
        let first = id_of(&request);
        line.refuse(&request, ErrorCode::Unsure).await;
        let request = line.request().await;
        assert_eq!(id_of(&request), first);
        line.refuse(&request, ErrorCode::Unavailable).await;
        let request = line.request().await;
        assert_eq!(id_of(&request), first);
        let sent = v1::DirectSent {
            repeated: true,
            ..v1::DirectSent::default()
        };
        line.answer(&request, answer(direct_response::Result::Sent(sent)))
            .await;
    };
    let (sent, ()) = soon(async { tokio::join!(to_bob.send("gg"), perhaps) }).await;
    assert!(sent.unwrap().is_repeated);

    // Who is refused later does not know of the first time.
    let perhaps = async {
        for code in [ErrorCode::Unsure, ErrorCode::Blocked] {
            let request = line.request().await;
            line.refuse(&request, code).await;
        }
    };
    let (sent, ()) = soon(async { tokio::join!(to_bob.send("gg"), perhaps) }).await;
    assert!(sent.unwrap_err().is_unsure());
    let never = async {
        let request = line.request().await;
        line.refuse(&request, ErrorCode::Unavailable).await;
    };
    let (sent, ()) = soon(async { tokio::join!(to_bob.send("gg"), never) }).await;
    let error = sent.unwrap_err();
    assert!(error.is_temporary() && !error.is_unsure(), "{error}");
}

#[tokio::test]
async fn an_inbox_goes_on_when_the_engine_was_away_for_a_moment() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let opened = || answer(direct_response::Result::Opened(v1::InboxOpened::default()));
    let opening = async {
        let open = line.request().await;
        line.answer(&open, opened()).await;
        script.forget(line).await
    };
    let (inbox, mut line) = soon(async { tokio::join!(device.inbox(None), opening) }).await;
    let mut inbox = inbox.unwrap();
    let telling = async {
        let open = line.request().await;
        line.refuse(&open, ErrorCode::Unavailable).await;
        let open = line.request().await;
        line.answer(&open, opened()).await;
        let read = direct_event::Kind::Read(v1::ReadInbox { offset: 2 });
        let told = social_event::Kind::Direct(v1::DirectEvent { kind: Some(read) });
        line.tell(server_frame::Body::Social(v1::SocialEvent {
            kind: Some(told),
        }))
        .await;
    };
    let (told, ()) = tokio::join!(event(&mut inbox), telling);
    assert_eq!(told, InboxEvent::Read(2));
}

/// By which a message is known when it is sent again.
fn id_of(request: &Request) -> Bytes {
    let Some(request::Kind::Social(social)) = &request.kind else {
        panic!("a message should have come, not {request:?}");
    };
    let Some(social_request::Kind::Direct(direct)) = &social.kind else {
        panic!("a message should have come, not {request:?}");
    };
    let Some(direct_request::Kind::Send(send)) = &direct.kind else {
        panic!("a message should have come, not {request:?}");
    };
    assert_eq!(send.id.len(), 16);
    send.id.clone()
}

fn answer(result: direct_response::Result) -> response::Result {
    let direct = v1::DirectResponse {
        result: Some(result),
    };
    response::Result::Social(v1::SocialResponse {
        result: Some(social_response::Result::Direct(direct)),
    })
}

#[tokio::test]
async fn what_a_user_sends_is_told_to_all_its_devices() {
    let node = node().await;
    let (phone, laptop) = (device(&node, "alice").await, device(&node, "alice").await);
    let bob = device(&node, "bob").await;
    let mut his = bob.inbox(None).await.unwrap();
    let mut hers = laptop.inbox(None).await.unwrap();
    let to_bob = phone.direct(&user("bob"));
    to_bob.send("one").await.unwrap();
    to_bob.clone().without_copies().send("two").await.unwrap();
    let id = MessageId([3; 16]);
    for _ in 0..2 {
        to_bob.send_as(id, "three").await.unwrap();
    }
    for (number, text) in [(1, "one"), (2, "three")] {
        let InboxEvent::Sent(copy) = event(&mut hers).await else {
            panic!("a copy is waited for");
        };
        assert_eq!((copy.number, &copy.payload[..]), (number, text.as_bytes()));
        assert_eq!((copy.from, copy.to), (user("alice"), Some(user("bob"))));
    }
    bob.direct(&user("alice")).send("four").await.unwrap();
    assert_eq!(message(&mut hers).await, (3, "four".to_owned()));
    for (number, text) in [(1, "one"), (2, "two"), (3, "three")] {
        assert_eq!(message(&mut his).await, (number, text.to_owned()));
    }
    node.shutdown().await;
}

#[tokio::test]
async fn a_user_takes_nothing_from_whom_it_blocks() {
    let node = node().await;
    let alice = device(&node, "alice").await;
    let bob = device(&node, "bob").await;
    let mut inbox = bob.inbox(None).await.unwrap();
    bob.direct(&user("alice")).block().await.unwrap();
    assert_eq!(
        event(&mut inbox).await,
        InboxEvent::Blocked([user("alice")].into())
    );
    assert!(inbox.blocked().contains(&user("alice")));
    let refused = alice.direct(&user("bob")).send("hi").await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Blocked));
    bob.direct(&user("alice")).unblock().await.unwrap();
    alice.direct(&user("bob")).send("hi").await.unwrap();
    assert_eq!(event(&mut inbox).await, InboxEvent::Blocked([].into()));
    assert_eq!(message(&mut inbox).await, (1, "hi".to_owned()));
    node.shutdown().await;
}

async fn event(inbox: &mut Inbox) -> InboxEvent {
    soon(inbox.next_event())
        .await
        .unwrap()
        .expect("the session goes on")
}

async fn message(inbox: &mut Inbox) -> (u64, String) {
    let event = event(inbox).await;
    let InboxEvent::Message(message) = event else {
        panic!("a message is waited for, not {event:?}");
    };
    let text = String::from_utf8_lossy(&message.payload).into_owned();
    (message.number, text)
}
