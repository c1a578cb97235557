//! Groups, on one node and on several.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{
    Expect, Key, Kv as _, Local, LocalConfig, Log as _, OperationId, Purpose, TailEvent,
};
use tombolo_services::Outgoing;
use tombolo_social::Time;
use tombolo_social::inbox::{Body, Entry};
use tombolo_social::segment::{self, PAYLOAD_BYTES_MAX, POSTS_MAX};
use tombolo_wire::v1::{
    self, ErrorCode, Place, direct_request, group_event, group_request, group_response, request,
    response, server_frame, social_event, social_request, social_response,
};

use crate::cluster::cluster;
use crate::lab::{Device, Lab};

#[tokio::test(start_paused = true)]
async fn members_on_every_node_hear_what_is_said_and_others_do_not() {
    let (nodes, _) = cluster::<3>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    let mut carol = Talker::new(&nodes[2].lab, "carol").await;
    alice.create(true).await.unwrap();
    assert_eq!(bob.open(None).await.unwrap_err(), ErrorCode::NotAMember);
    bob.done(join()).await.unwrap();
    let opened = bob.open(None).await.unwrap();
    assert_eq!((opened.role.as_str(), opened.members_about), ("member", 2));
    assert_eq!(alice.open(None).await.unwrap().role, "owner");
    assert_eq!(alice.post(1, b"hello").await.unwrap().number, 1);
    for member in [&mut alice, &mut bob] {
        assert_eq!(member.heard().await, ["1 alice hello"]);
    }
    assert_eq!(
        carol.post(1, b"me too").await.unwrap_err(),
        ErrorCode::NotAMember
    );
    assert_eq!(
        carol.history(0, 0).await.unwrap_err(),
        ErrorCode::NotAMember
    );
    assert_eq!(nodes[0].lab.services.stats().posts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_user_is_told_which_groups_it_is_in_on_whatever_node() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    assert_eq!(bob.list("").await, (vec![], String::new()));
    bob.done(join()).await.unwrap();
    assert_eq!(alice.list("").await.0, ["guild owner"]);
    assert_eq!(bob.list("").await.0, ["guild member"]);
    assert!(bob.list("guild").await.0.is_empty(), "it begins after that");

    // What a node that died has not written down is written by who opens the group.
    let key = Key::new(["groups-of", "bob", "guild"]).unwrap();
    let entry = local.get(&key).await.unwrap().unwrap();
    local.cas(&key, Some(entry.revision), None).await.unwrap();
    assert!(bob.list("").await.0.is_empty());
    bob.open(None).await.unwrap();
    assert_eq!(bob.list("").await.0, ["guild member"]);

    // What was not taken away is taken away by who lists.
    bob.done(Kind::Leave(v1::LeaveGroup {})).await.unwrap();
    assert!(local.get(&key).await.unwrap().is_none());
    local.cas(&key, None, Some(entry.value)).await.unwrap();
    bob.told.clear();
    assert!(bob.list("").await.0.is_empty());
    assert!(local.get(&key).await.unwrap().is_none());
    alice.done(Kind::End(v1::EndGroup {})).await.unwrap();
    assert!(alice.list("").await.0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_post_that_is_sent_again_at_a_node_that_has_not_read_it_is_said_once_over_the_turn() {
    let (nodes, _) = cluster::<2>().await;
    let mut here = Talker::new(&nodes[0].lab, "alice").await;
    let mut there = Talker::new(&nodes[1].lab, "alice").await;
    here.create(true).await.unwrap();
    let last = there.open(None).await.unwrap().last.unwrap();
    let full = POSTS_MAX as u128;
    for id in 1..full {
        here.post(id, b"x").await.unwrap();
    }
    there.heard().await;
    *nodes[1].wire.slow_log.lock().unwrap() = Some(log("posts", &last.epoch, "0"));
    here.post(full, b"last").await.unwrap();
    here.post(full + 1, b"turns").await.unwrap();
    let wire = Arc::clone(&nodes[1].wire);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        *wire.slow_log.lock().unwrap() = None;
    });
    let again = there.post(full, b"last").await.unwrap();
    assert_eq!((u128::from(again.number), again.repeated), (full, true));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_is_told_all_across_segments_once_and_in_order() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done(join()).await.unwrap();
    let last = bob.open(None).await.unwrap().last.unwrap();
    drop(bob);
    let count = 2 * POSTS_MAX as u128 + 3;
    for id in 1..=count {
        let posted = alice.post(id, b"x").await.unwrap();
        assert_eq!((u128::from(posted.number), posted.repeated), (id, false));
        // Sent again over the turn from one segment to the next, too.
        let again = alice.post(id, b"x").await.unwrap();
        assert_eq!((u128::from(again.number), again.repeated), (id, true));
        if id % 40 == 0 {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }

    nodes[0].lab.services.kill();
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    assert!(bob.open(Some(last.clone())).await.unwrap().recovered);
    let expected: Vec<_> = (1..=count)
        .map(|number| format!("{number} alice x"))
        .collect();
    assert_eq!(bob.heard().await, expected);
    let future = Place {
        offset: 10_000,
        ..last.clone()
    };
    // Another node might have told so much; this one gives the log some time.
    let after = Some(future);
    let open = bob.ask(Kind::Open(v1::OpenGroup { after }));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let group_response::Result::Opened(opened) = bob.response(open).await.unwrap() else {
        panic!("it is opened");
    };
    assert!(!opened.recovered);
    let foreign = Place {
        epoch: vec![7; 16].into(),
        ..last
    };
    assert!(!bob.open(Some(foreign)).await.unwrap().recovered);

    let (mut before, mut numbers) = (0, Vec::new());
    loop {
        let page = bob.history(before, 100).await.unwrap();
        numbers.extend(
            page.messages
                .iter()
                .map(|message| u128::from(message.number)),
        );
        before = page.messages.last().unwrap().number;
        if !page.more {
            break;
        }
    }
    assert_eq!(numbers, (1..=count).rev().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_behind_goes_on_from_where_another_one_has_told() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done(join()).await.unwrap();
    let begun = bob.open(None).await.unwrap().last.unwrap();

    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    for id in 0..=POSTS_MAX as u128 {
        alice.post(id, b"one of many").await.unwrap();
    }
    let offset = POSTS_MAX as u64 + 1;
    let open = v1::OpenGroup {
        after: Some(Place { offset, ..begun }),
    };
    let open = bob.ask(Kind::Open(open));
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes[1].wire.is_slow.store(false, Ordering::Relaxed);
    let group_response::Result::Opened(opened) = bob.response(open).await.unwrap() else {
        panic!("it is opened");
    };
    assert!(opened.recovered);
    assert_eq!(opened.last.unwrap().offset, offset);
    alice.post(1000, b"hello").await.unwrap();
    assert_eq!(bob.heard().await, ["258 alice hello"]);
}

#[tokio::test(start_paused = true)]
async fn roles_say_who_may_do_what() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    let mut carol = Talker::new(&nodes[1].lab, "carol").await;
    bob.open_inbox().await;
    carol.open_inbox().await;
    alice.create(false).await.unwrap();
    assert_eq!(bob.done(join()).await, Err(ErrorCode::NotPermitted));
    alice.done(add("bob")).await.unwrap();
    assert_eq!(alice.done(add("bob")).await, Err(ErrorCode::Conflict));
    assert_eq!(bob.done(add("carol")).await, Err(ErrorCode::NotPermitted));
    bob.open(None).await.unwrap();
    alice.done(role("bob", "admin")).await.unwrap();
    assert_eq!(bob.heard().await, ["role admin"]);
    bob.done(add("carol")).await.unwrap();
    carol.open(None).await.unwrap();
    assert_eq!(
        bob.done(role("carol", "admin")).await,
        Err(ErrorCode::NotPermitted)
    );
    assert_eq!(
        bob.done(role("carol", "king")).await,
        Err(ErrorCode::NoSuchThing)
    );
    assert_eq!(
        bob.done(remove("alice", false)).await,
        Err(ErrorCode::NotPermitted)
    );
    assert_eq!(
        bob.done(Kind::End(v1::EndGroup {})).await,
        Err(ErrorCode::NotPermitted)
    );
    assert_eq!(
        bob.done(remove("nobody", false)).await,
        Err(ErrorCode::NoSuchMember)
    );

    bob.done(remove("carol", true)).await.unwrap();
    assert_eq!(carol.heard().await, ["over gone"]);
    assert_eq!(
        carol.post(1, b"x").await.unwrap_err(),
        ErrorCode::NotAMember
    );
    assert_eq!(alice.done(add("carol")).await, Err(ErrorCode::Banned));
    let user = "carol".to_owned();
    alice
        .done(Kind::Unban(v1::UnbanMember { user }))
        .await
        .unwrap();
    alice.done(add("carol")).await.unwrap();
    assert_eq!(
        alice.done(leave()).await,
        Err(ErrorCode::NotPermitted),
        "an owner"
    );
    bob.done(leave()).await.unwrap();
    assert_eq!(bob.heard().await, ["over gone"]);
    alice.done(Kind::End(v1::EndGroup {})).await.unwrap();
    assert_eq!(carol.open(None).await.unwrap_err(), ErrorCode::NoSuchGroup);
    assert_eq!(bob.create(true).await, Err(ErrorCode::GroupExists));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_added_who_does_not_exist_or_has_blocked_who_adds() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(false).await.unwrap();
    assert_eq!(alice.done(add("nobody")).await, Err(ErrorCode::NoSuchUser));
    bob.open_inbox().await;
    bob.block("alice", true).await;
    assert_eq!(alice.done(add("bob")).await, Err(ErrorCode::Blocked));
    for user in ["nobody", "bob"] {
        let key = Key::new(["groups-of", user, "guild"]).unwrap();
        assert!(local.get(&key).await.unwrap().is_none(), "{user}");
    }
    bob.block("alice", false).await;
    alice.done(add("bob")).await.unwrap();
    bob.open(None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn settings_change_for_all_and_a_group_ends_for_all() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    assert_eq!(bob.create(true).await, Err(ErrorCode::GroupExists));
    bob.done(join()).await.unwrap();
    bob.done(join()).await.unwrap();
    bob.open(None).await.unwrap();
    let closed = v1::GroupSettings {
        title: "closed".to_owned(),
        ..v1::GroupSettings::default()
    };
    assert_eq!(
        bob.done(Kind::Configure(closed.clone())).await,
        Err(ErrorCode::NotPermitted)
    );
    alice.done(Kind::Configure(closed)).await.unwrap();
    assert_eq!(bob.heard().await, ["settings closed"]);
    alice.done(Kind::End(v1::EndGroup {})).await.unwrap();
    assert_eq!(bob.heard().await, ["over ended"]);
}

#[tokio::test(start_paused = true)]
async fn a_post_that_is_repeated_after_many_others_is_there_once() {
    let lab = Lab::with(|config| config.directs.burst = 10_000);
    let mut alice = Talker::new(&lab, "alice").await;
    alice.create(true).await.unwrap();
    for id in 1..=3 * POSTS_MAX as u128 + 1 {
        alice.post(id, b"x").await.unwrap();
    }
    let again = alice.post(1, b"x").await.unwrap();
    assert_eq!((again.number, again.repeated), (1, true));
}

#[tokio::test(start_paused = true)]
async fn of_a_group_that_has_ended_neither_posts_nor_members_are_kept() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done(join()).await.unwrap();
    let epoch = bob.open(None).await.unwrap().last.unwrap().epoch;
    for id in 0..=POSTS_MAX as u128 {
        alice.post(id, b"x").await.unwrap();
    }
    alice.done(Kind::End(v1::EndGroup {})).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (kind, part) in [("posts", "0"), ("posts", "1"), ("roster", "r")] {
        let log = log(kind, &epoch, part);
        let mut tail = local.tail(&log, None).await.unwrap();
        let found = tail.next().await;
        assert!(
            matches!(found, Some(TailEvent::Retired { .. })),
            "{log}: {found:?}"
        );
        assert_eq!(tail.next().await, Some(TailEvent::Synced));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_know_that_posts_were_given_up_puts_none_among_them() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done(join()).await.unwrap();
    alice.post(1, b"x").await.unwrap();
    let posts = log(
        "posts",
        &alice.open(None).await.unwrap().last.unwrap().epoch,
        "0",
    );
    let mut tail = local.tail(&posts, None).await.unwrap();
    let Some(TailEvent::Entry { at, .. }) = tail.next().await else {
        panic!("it was posted");
    };
    local.retire(&posts, at).await.unwrap();
    let posted = bob.post(2, b"lost").await;
    assert_eq!(posted.unwrap_err(), ErrorCode::Unavailable);
    // Nor when it finds out after it has written.
    let entry = segment::Entry {
        operation: tombolo_social::OperationId([1; 16]),
        time: Time::from_millis(1),
        from: None,
        id: tombolo_social::MessageId([3; 16]),
        payload: "lost".into(),
    };
    let late = local.append(
        &posts,
        entry.encode(),
        Purpose::More,
        Expect::Any,
        OperationId([1; 16]),
    );
    late.await.unwrap();
    assert!(bob.history(0, 0).await.unwrap().messages.is_empty());
}

#[tokio::test(start_paused = true)]
async fn reading_groups_has_a_pace() {
    let lab = Lab::with(|config| config.group_reads.burst = 5);
    let mut alice = Talker::new(&lab, "alice").await;
    alice.create(true).await.unwrap();
    alice.open(None).await.unwrap();
    for _ in 0..4 {
        alice.history(0, 0).await.unwrap();
    }
    assert_eq!(alice.history(0, 0).await.unwrap_err(), ErrorCode::Limit);
    alice.post(1, b"posts are others").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    alice.history(0, 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_many_large_posts_does_not_fill_the_node() {
    let lab = Lab::with(|config| {
        config.directs.burst = 10_000;
        config.direct_bytes.burst = u32::MAX;
        config.group_bytes_max = u64::MAX;
        config.rate.bytes_burst = u32::MAX;
    });
    let mut alice = Talker::new(&lab, "alice").await;
    alice.create(true).await.unwrap();
    let segments = 12;
    let post = [0; PAYLOAD_BYTES_MAX];
    for id in 0..segments * POSTS_MAX as u128 {
        alice.post(id, &post).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(lab.services.stats().logs, 0);
    for segment in 1..=segments as u64 {
        let before = segment * POSTS_MAX as u64;
        assert!(alice.history(before, 1).await.unwrap().more);
    }
    // 32 MiB of them, the group and a roster.
    let logs = lab.services.stats().logs;
    assert!(logs <= 9, "{logs}");
}

#[tokio::test(start_paused = true)]
async fn only_an_owner_says_what_roles_may_do() {
    let lab = Lab::new();
    let mut alice = Talker::new(&lab, "alice").await;
    let mut bob = Talker::new(&lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done(join()).await.unwrap();
    alice.done(role("bob", "admin")).await.unwrap();
    let named = |name: &str, is_owner| v1::GroupRole {
        name: name.to_owned(),
        close: is_owner,
        configure: true,
        ..v1::GroupRole::default()
    };
    let usurping = v1::GroupSettings {
        open: true,
        roles: vec![
            named("owner", true),
            named("admin", true),
            named("member", false),
        ],
        ..v1::GroupSettings::default()
    };
    let usurped = bob.done(Kind::Configure(usurping.clone())).await;
    assert_eq!(usurped, Err(ErrorCode::NotPermitted));
    let titled = v1::GroupSettings {
        title: "ours".to_owned(),
        ..v1::GroupSettings::default()
    };
    bob.done(Kind::Configure(titled)).await.unwrap();
    alice.done(Kind::Configure(usurping)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_group_grows_beyond_one_roster_and_names_every_member() {
    let local = Arc::new(Local::new(LocalConfig::default()));
    let lab = Lab::on(local.clone(), |config| {
        config.directs.burst = 20_000;
        config.rate.frames_burst = 20_000;
    });
    let mut alice = Talker::new(&lab, "alice").await;
    alice.create(false).await.unwrap();
    alice.open(None).await.unwrap();
    let count = 4500;
    for number in 0..count {
        let user = format!("user-{number}");
        give_inbox(&local, &user).await;
        alice.done(add(&user)).await.unwrap();
    }
    assert_eq!(alice.post(1, b"many").await.unwrap().number, 1);
    assert_eq!(
        alice.heard().await,
        ["1 alice many"],
        "the split is not noticed"
    );
    let about = alice.open(None).await.unwrap().members_about;
    assert!((2250..9000).contains(&about), "about {about}");
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let members = v1::GroupMembers { after, limit: 0 };
        let id = alice.ask(Kind::Members(members));
        let group_response::Result::Members(page) = alice.response(id).await.unwrap() else {
            panic!("a page is waited for");
        };
        names.extend(page.members.into_iter().map(|member| member.user));
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    names.sort();
    let mut expected: Vec<_> = (0..count).map(|number| format!("user-{number}")).collect();
    expected.push("alice".to_owned());
    expected.sort();
    assert_eq!(names, expected);
    alice.done(remove("user-7", false)).await.unwrap();
    assert_eq!(
        alice.done(remove("user-7", false)).await,
        Err(ErrorCode::NoSuchMember)
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_that_does_not_keep_up_is_told_the_rest_later() {
    let lab = Lab::with(|config| {
        config.directs.burst = 1000;
        config.outbox.frames_max = 16;
    });
    let mut alice = Talker::new(&lab, "alice").await;
    let mut bob = Talker::new(&lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done(join()).await.unwrap();
    bob.open(None).await.unwrap();
    for id in 1..=60 {
        alice.post(id, b"x").await.unwrap();
    }
    let mut heard = Vec::new();
    while heard.len() < 60 {
        heard.extend(bob.heard().await);
        let ack = v1::client_frame::Body::Acknowledge(v1::Ack {});
        bob.device.send_unreliably(ack).unwrap();
    }
    let expected: Vec<_> = (1..=60).map(|number| format!("{number} alice x")).collect();
    assert_eq!(heard, expected);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_not_in_order_say_what_is_wrong() {
    let lab = Lab::with(|config| config.groups.burst = 2);
    let mut alice = Talker::new(&lab, "alice").await;
    let post = |id: &[u8], payload: usize| {
        Kind::Post(v1::GroupPost {
            id: Bytes::copy_from_slice(id),
            payload: vec![0; payload].into(),
        })
    };
    let members = |after: &str| {
        Kind::Members(v1::GroupMembers {
            after: after.into(),
            limit: 0,
        })
    };
    let place = Place {
        epoch: "short".into(),
        offset: 0,
    };
    let long = v1::GroupSettings {
        title: "x".repeat(1000),
        ..v1::GroupSettings::default()
    };
    let roles = v1::GroupSettings {
        roles: vec![v1::GroupRole::default(); 2],
        ..v1::GroupSettings::default()
    };
    let cases = [
        (post(&[0; 15], 0), ErrorCode::BadFrame),
        (post(&[0; 16], PAYLOAD_BYTES_MAX + 1), ErrorCode::TooLarge),
        (post(&[0; 16], 0), ErrorCode::NoSuchGroup),
        (members("no page"), ErrorCode::BadFrame),
        (add("bad name"), ErrorCode::BadName),
        (
            Kind::Open(v1::OpenGroup { after: Some(place) }),
            ErrorCode::BadFrame,
        ),
        (Kind::Configure(long), ErrorCode::TooLarge),
        (Kind::Configure(roles), ErrorCode::BadFrame),
    ];
    for (kind, code) in cases {
        let id = alice.ask(kind.clone());
        assert_eq!(alice.response(id).await, Err(code), "{kind:?}");
    }
    let nothing = v1::GroupRequest {
        group: "guild".into(),
        kind: None,
    };
    let id = alice.ask_group(nothing);
    assert_eq!(alice.response(id).await, Err(ErrorCode::BadFrame));
    let nameless = v1::GroupRequest {
        group: "x".repeat(65),
        kind: Some(join()),
    };
    let id = alice.ask_group(nameless);
    assert_eq!(alice.response(id).await, Err(ErrorCode::BadName));
    alice.create(true).await.unwrap();
    assert_eq!(alice.create(true).await, Err(ErrorCode::GroupExists));
    assert_eq!(alice.create(true).await, Err(ErrorCode::Limit));
}

pub(crate) type Kind = group_request::Kind;

/// A device, and what it was told of the group before an answer came.
pub(crate) struct Talker {
    pub(crate) device: Device,
    told: VecDeque<String>,
}

impl Talker {
    pub(crate) async fn new(lab: &Lab, user: &str) -> Self {
        Self {
            device: lab.device(user).await,
            told: VecDeque::new(),
        }
    }

    pub(crate) async fn create(&mut self, open: bool) -> Result<(), ErrorCode> {
        let settings = Some(v1::GroupSettings {
            open,
            ..v1::GroupSettings::default()
        });
        self.done(Kind::Create(v1::CreateGroup { settings })).await
    }

    pub(crate) async fn open(
        &mut self,
        after: Option<Place>,
    ) -> Result<v1::GroupOpened, ErrorCode> {
        let id = self.ask(Kind::Open(v1::OpenGroup { after }));
        match self.response(id).await? {
            group_response::Result::Opened(opened) => Ok(opened),
            other => panic!("an opening is not answered by {other:?}"),
        }
    }

    pub(crate) fn ask_post(&mut self, id: u128, payload: &[u8]) -> u64 {
        self.ask(Kind::Post(v1::GroupPost {
            id: Bytes::copy_from_slice(&id.to_be_bytes()),
            payload: Bytes::copy_from_slice(payload),
        }))
    }

    /// Waits for a moment when the user has said too much.
    pub(crate) async fn post(
        &mut self,
        id: u128,
        payload: &[u8],
    ) -> Result<v1::GroupPosted, ErrorCode> {
        loop {
            let post = self.ask_post(id, payload);
            match self.response(post).await {
                Ok(group_response::Result::Posted(posted)) => return Ok(posted),
                Ok(other) => panic!("a post is not answered by {other:?}"),
                Err(ErrorCode::Limit) => tokio::time::sleep(Duration::from_secs(1)).await,
                Err(code) => return Err(code),
            }
        }
    }

    pub(crate) async fn history(
        &mut self,
        before: u64,
        limit: u32,
    ) -> Result<v1::GroupPage, ErrorCode> {
        let id = self.ask(Kind::History(v1::GroupHistory { before, limit }));
        match self.response(id).await? {
            group_response::Result::History(page) => Ok(page),
            other => panic!("a question for history is not answered by {other:?}"),
        }
    }

    /// The user's groups and its role in each, after a name, and where the next page begins.
    async fn list(&mut self, after: &str) -> (Vec<String>, String) {
        let list = v1::ListGroups {
            after: after.to_owned(),
            limit: 0,
        };
        let id = self.ask_group(v1::GroupRequest {
            group: String::new(),
            kind: Some(Kind::List(list)),
        });
        loop {
            let body = self.device.next().await;
            if let server_frame::Body::Response(response) = &body
                && response.id == id
                && let Some(response::Result::Social(social)) = &response.result
                && let Some(social_response::Result::Group(response)) = &social.result
                && let Some(group_response::Result::List(list)) = &response.result
            {
                let groups = list.groups.iter();
                let groups = groups.map(|group| format!("{} {}", group.group, group.role));
                return (groups.collect(), list.next.clone());
            }
        }
    }

    async fn done(&mut self, kind: Kind) -> Result<(), ErrorCode> {
        let id = self.ask(kind);
        match self.response(id).await? {
            group_response::Result::Done(v1::GroupDone {}) => Ok(()),
            other => panic!("it is not answered by {other:?}"),
        }
    }

    pub(crate) fn ask(&mut self, kind: Kind) -> u64 {
        self.ask_of("guild", kind)
    }

    fn ask_of(&mut self, group: &str, kind: Kind) -> u64 {
        self.ask_group(v1::GroupRequest {
            group: group.to_owned(),
            kind: Some(kind),
        })
    }

    /// Does something in a group of another name; what is told meanwhile is passed over.
    pub(crate) async fn done_in(&mut self, group: &str, kind: Kind) -> Result<(), v1::Failure> {
        let id = self.ask_of(group, kind);
        loop {
            if let server_frame::Body::Response(response) = self.device.next().await {
                assert_eq!(response.id, id);
                return match response.result.unwrap() {
                    response::Result::Failure(failure) => Err(failure),
                    _ => Ok(()),
                };
            }
        }
    }

    fn ask_group(&mut self, group: v1::GroupRequest) -> u64 {
        let kind = Some(social_request::Kind::Group(group));
        let social = v1::SocialRequest { kind };
        self.device.request(Some(request::Kind::Social(social)))
    }

    pub(crate) async fn response(&mut self, id: u64) -> Result<group_response::Result, ErrorCode> {
        loop {
            let body = self.device.next().await;
            let server_frame::Body::Response(response) = body else {
                self.told.push_back(told(&body));
                continue;
            };
            assert_eq!(response.id, id);
            return match response.result.unwrap() {
                response::Result::Social(v1::SocialResponse {
                    result: Some(social_response::Result::Group(response)),
                }) => {
                    assert_eq!(response.group, "guild");
                    Ok(response.result.unwrap())
                }
                response::Result::Failure(failure) => Err(failure.code()),
                other => panic!("a request is not answered by {other:?}"),
            };
        }
    }

    /// From now on it is somebody for others.
    pub(crate) async fn open_inbox(&mut self) {
        let open = v1::OpenInbox { after: None };
        self.ask_direct(direct_request::Kind::Open(open)).await;
        self.ask_direct(direct_request::Kind::Close(v1::CloseInbox {}))
            .await;
    }

    pub(crate) async fn block(&mut self, user: &str, blocked: bool) {
        let user = user.to_owned();
        let block = v1::SetBlocked { user, blocked };
        self.ask_direct(direct_request::Kind::Block(block)).await;
    }

    pub(crate) fn request_direct(&mut self, kind: direct_request::Kind) -> u64 {
        let direct = v1::DirectRequest { kind: Some(kind) };
        let kind = Some(social_request::Kind::Direct(direct));
        let social = request::Kind::Social(v1::SocialRequest { kind });
        self.device.request(Some(social))
    }

    async fn ask_direct(&mut self, kind: direct_request::Kind) {
        let id = self.request_direct(kind);
        let body = self.device.next().await;
        let server_frame::Body::Response(response) = body else {
            panic!("a request is not answered by {body:?}");
        };
        assert_eq!(response.id, id);
        assert!(
            matches!(response.result, Some(response::Result::Social(_))),
            "{response:?}"
        );
    }

    /// All that is told of the group until nothing comes for a while.
    pub(crate) async fn heard(&mut self) -> Vec<String> {
        let mut heard = Vec::from_iter(self.told.drain(..));
        while let Some(outgoing) = self.device.next_frame().await {
            let Outgoing::Reliable(frame) = outgoing else {
                panic!("{outgoing:?} is not about a group");
            };
            heard.push(told(&frame.body.unwrap()));
        }
        heard
    }
}

/// A user that has opened its inbox once.
async fn give_inbox(local: &Local, user: &str) {
    let entry = Entry {
        operation: tombolo_social::OperationId([1; 16]),
        time: Time::from_millis(1),
        body: Body::Opened,
    };
    let key = Key::new(["inbox", user]).unwrap();
    let id = OperationId([1; 16]);
    let append = local.append(&key, entry.encode(), Purpose::More, Expect::Empty, id);
    append.await.unwrap();
}

/// A log of a group's life.
fn log(kind: &str, epoch: &[u8], part: &str) -> Key {
    let tag = epoch.iter().take(8).map(|byte| format!("{byte:02x}"));
    Key::new([kind, "guild", &tag.collect::<String>(), part]).unwrap()
}

pub(crate) fn join() -> Kind {
    Kind::Join(v1::JoinGroup {})
}

pub(crate) fn leave() -> Kind {
    Kind::Leave(v1::LeaveGroup {})
}

fn add(user: &str) -> Kind {
    let user = user.to_owned();
    Kind::Add(v1::AddMember { user })
}

fn remove(user: &str, ban: bool) -> Kind {
    let user = user.to_owned();
    Kind::Remove(v1::RemoveMember { user, ban })
}

fn role(user: &str, role: &str) -> Kind {
    Kind::SetRole(v1::SetRole {
        user: user.to_owned(),
        role: role.to_owned(),
    })
}

fn told(body: &server_frame::Body) -> String {
    let server_frame::Body::Social(v1::SocialEvent {
        kind: Some(social_event::Kind::Group(event)),
    }) = body
    else {
        panic!("{body:?} is not about a group");
    };
    match event.kind.as_ref().unwrap() {
        group_event::Kind::Message(message) => format!(
            "{} {} {}",
            message.number,
            message.from,
            String::from_utf8_lossy(&message.payload)
        ),
        group_event::Kind::Settings(settings) => format!("settings {}", settings.title),
        group_event::Kind::Role(role) => format!("role {role}"),
        group_event::Kind::Over(over) => format!("over {}", over.reason),
        group_event::Kind::Place(place) => format!("place lost {}", place.lost),
    }
}
