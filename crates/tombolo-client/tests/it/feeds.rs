//! What is told to a user wherever it is, to applications that stop to wait for it and begin anew.

use std::collections::BTreeMap;

use bytes::Bytes;
use tombolo_client::{GroupEvent, InboxEvent, Notification};
use tombolo_wire::v1::{
    DirectEvent, DirectMessage, DirectResponse, GroupMessage, GroupOpened, GroupResponse,
    InboxOpened, InboxPlace, Notice, NoticeEvent, NoticePlace, NoticeResponse, NoticesOpened,
    Place, Request, SocialEvent, SocialResponse, direct_event, direct_response, group_event,
    group_response, notice_event, notice_response, response, server_frame, social_event,
    social_response,
};

use crate::lab::soon;
use crate::script::{Line, Script, given_up};

#[tokio::test]
async fn a_message_comes_once_however_often_the_inbox_was_opened_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let opened = |recovered| {
        let opened = InboxOpened {
            last: Some(place(2)),
            recovered,
            read: 2,
            ..InboxOpened::default()
        };
        social_response::Result::Direct(DirectResponse {
            result: Some(direct_response::Result::Opened(opened)),
        })
    };
    let (inbox, ()) = tokio::join!(device.inbox(None), open(&mut line, opened(false)));
    let mut inbox = inbox.unwrap();
    let mut line = script.forget(line).await;
    let first = given_up(inbox.next_event(), &mut line).await;
    let message = |number| {
        let message = DirectMessage {
            number,
            from: "bob".into(),
            id: id(),
            ..DirectMessage::default()
        };
        social_event::Kind::Direct(DirectEvent {
            kind: Some(direct_event::Kind::Message(message)),
        })
    };
    let telling = tell_twice(&mut line, &first, opened(true), message);
    let (event, ()) = tokio::join!(soon(inbox.next_event()), telling);
    for (event, number) in [(event, 3), (soon(inbox.next_event()).await, 4)] {
        let event = event.unwrap();
        let is_it = matches!(&event, Some(InboxEvent::Message(it)) if it.number == number);
        assert!(is_it, "{number} and not {event:?}");
    }
}

#[tokio::test]
async fn messages_that_come_under_the_numbers_of_lost_ones_are_told() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let opened = social_response::Result::Direct(DirectResponse {
        result: Some(direct_response::Result::Opened(InboxOpened {
            last: Some(place(5)),
            read: 5,
            ..InboxOpened::default()
        })),
    });
    let (inbox, ()) = tokio::join!(device.inbox(None), open(&mut line, opened));
    let mut inbox = inbox.unwrap();
    let goes_back = |at: Option<Place>| {
        let lost = at.is_none();
        direct_event::Kind::Place(InboxPlace { at, lost })
    };
    let message = DirectMessage {
        number: 3,
        from: "bob".into(),
        id: id(),
        ..DirectMessage::default()
    };
    for kind in [
        goes_back(None),
        goes_back(Some(place(2))),
        direct_event::Kind::Message(message),
    ] {
        let kind = social_event::Kind::Direct(DirectEvent { kind: Some(kind) });
        line.tell(server_frame::Body::Social(SocialEvent { kind: Some(kind) }))
            .await;
    }
    let lost = soon(inbox.next_event()).await.unwrap();
    assert_eq!(lost, Some(InboxEvent::Lost));
    let event = soon(inbox.next_event()).await.unwrap();
    let is_it = matches!(&event, Some(InboxEvent::Message(it)) if it.number == 3);
    assert!(is_it, "{event:?}");
    assert_eq!(inbox.place().map(|place| place.offset), Some(3));
}

#[tokio::test]
async fn a_post_comes_once_however_often_the_group_was_opened_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let opened = |recovered| {
        let opened = GroupOpened {
            last: Some(place(2)),
            recovered,
            ..GroupOpened::default()
        };
        social_response::Result::Group(GroupResponse {
            group: "guild".into(),
            result: Some(group_response::Result::Opened(opened)),
        })
    };
    let groups = device.groups();
    let opening = groups.open("guild", None);
    let (group, ()) = tokio::join!(opening, open(&mut line, opened(false)));
    let mut group = group.unwrap();
    let mut line = script.forget(line).await;
    let first = given_up(group.next_event(), &mut line).await;
    let post = |number| {
        let post = GroupMessage {
            number,
            id: id(),
            ..GroupMessage::default()
        };
        social_event::Kind::Group(tombolo_wire::v1::GroupEvent {
            group: "guild".into(),
            kind: Some(group_event::Kind::Message(post)),
        })
    };
    let telling = tell_twice(&mut line, &first, opened(true), post);
    let (event, ()) = tokio::join!(soon(group.next_event()), telling);
    for (event, number) in [(event, 3), (soon(group.next_event()).await, 4)] {
        let event = event.unwrap();
        let is_it = matches!(&event, Some(GroupEvent::Message(it)) if it.number == number);
        assert!(is_it, "{number} and not {event:?}");
    }
}

#[tokio::test]
async fn a_notice_comes_once_however_often_the_notices_were_opened_again() {
    let script = Script::new().await;
    let (device, mut line) = script.device().await;
    let opened = || {
        social_response::Result::Notices(NoticeResponse {
            result: Some(notice_response::Result::Opened(NoticesOpened::default())),
        })
    };
    let opening = device.notifications(BTreeMap::new());
    let (notices, ()) = tokio::join!(opening, open(&mut line, opened()));
    let mut notices = notices.unwrap();
    let mut line = script.forget(line).await;
    let first = given_up(notices.next(), &mut line).await;
    let notice = |number| {
        let notice = Notice {
            id: id(),
            ..Notice::default()
        };
        social_event::Kind::Notice(NoticeEvent {
            at: Some(NoticePlace {
                board: "all".into(),
                at: Some(place(number)),
            }),
            kind: Some(notice_event::Kind::Notice(notice)),
        })
    };
    let telling = tell_twice(&mut line, &first, opened(), notice);
    let (told, ()) = tokio::join!(soon(notices.next()), telling);
    for (told, number) in [(told, 3), (soon(notices.next()).await, 4)] {
        let told = told.unwrap();
        let is_it = matches!(&told, Some(Notification::Notice(it)) if it.number == number);
        assert!(is_it, "{number} and not {told:?}");
    }
}

async fn open(line: &mut Line, opened: social_response::Result) {
    let open = line.request().await;
    line.answer(&open, social(opened)).await;
}

/// Carries out an opening that nobody waits for any more, and then the one that followed it: what is told
/// because of the one is told again because of the other.
async fn tell_twice(
    line: &mut Line,
    first: &Request,
    opened: social_response::Result,
    event: impl Fn(u64) -> social_event::Kind,
) {
    let second = line.request().await;
    for (open, last) in [(first, 3), (&second, 4)] {
        line.answer(open, social(opened.clone())).await;
        for number in 3..=last {
            let kind = Some(event(number));
            line.tell(server_frame::Body::Social(SocialEvent { kind }))
                .await;
        }
    }
}

fn social(result: social_response::Result) -> response::Result {
    let result = Some(result);
    response::Result::Social(SocialResponse { result })
}

fn place(offset: u64) -> Place {
    Place {
        epoch: id(),
        offset,
    }
}

fn id() -> Bytes {
    Bytes::from_static(&[7; 16])
}
