//! What one user can take of an engine by groups and by what it says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tombolo_engine::{
    Expect, Key, Kv as _, Local, LocalConfig, Log as _, OperationId, Purpose, TailEvent,
};
use tombolo_services::{Config, LOG_SHARES};
use tombolo_social::Time;
use tombolo_social::group::{Body, Entry};
use tombolo_social::inbox;
use tombolo_social::segment::POSTS_MAX;
use tombolo_wire::v1::{self, ErrorCode, JoinMode, direct_request};

use crate::cluster::{Member, start_with};
use crate::groups::{Kind, Talker, join, leave};
use crate::lab::{Lab, UNIX_NOW};

#[tokio::test(start_paused = true)]
async fn a_user_makes_so_many_groups_over_all_nodes_and_others_once_some_have_ended() {
    let local = Local::new(LocalConfig::default());
    let nodes = cluster(&local, |config| config.groups_per_user_max = 2).await;
    let mut here = Talker::new(&nodes[0].lab, "alice").await;
    let mut there = Talker::new(&nodes[1].lab, "alice").await;
    here.done_in("one", create()).await.unwrap();
    there.done_in("two", create()).await.unwrap();
    let refused = here.done_in("three", create()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Limit);
    assert!(refused.message.contains("2 groups"), "{}", refused.message);
    assert_eq!(nodes[0].lab.refused(ErrorCode::Limit), 1);

    let mut bob = Talker::new(&nodes[0].lab, "bob").await;
    bob.done_in("three", create()).await.unwrap();
    here.done_in("one", end()).await.unwrap();
    there.done_in("four", create()).await.unwrap();
    let refused = there.done_in("five", create()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Limit);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_was_not_made_takes_no_place() {
    let local = Local::new(LocalConfig::default());
    let [node, _] = cluster(&local, |config| config.groups_per_user_max = 1).await;
    let mut alice = Talker::new(&node.lab, "alice").await;
    let mut bob = Talker::new(&node.lab, "bob").await;
    bob.done_in("his", create()).await.unwrap();
    let taken = alice.done_in("his", create()).await.unwrap_err();
    assert_eq!(taken.code(), ErrorCode::GroupExists);
    alice.done_in("hers", create()).await.unwrap();
    // One that is there keeps its place, however often it is made.
    let taken = alice.done_in("hers", create()).await.unwrap_err();
    assert_eq!(taken.code(), ErrorCode::GroupExists);
    let refused = alice.done_in("more", create()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Limit);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_a_node_did_not_give_back_is_found_when_it_is_needed() {
    let local = Local::new(LocalConfig::default());
    let [node, _] = cluster(&local, |config| config.groups_per_user_max = 1).await;
    let mut alice = Talker::new(&node.lab, "alice").await;
    alice.done_in("one", create()).await.unwrap();
    let closed = Entry {
        operation: tombolo_social::OperationId([9; 16]),
        time: Time::from_millis(1),
        body: Body::Closed,
    };
    append(&local, &head("one"), closed.encode()).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    alice.done_in("two", create()).await.unwrap();
    let refused = alice.done_in("three", create()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Limit);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_has_ended_leaves_nothing_and_its_name_is_free_when_that_is_forgotten() {
    let mut config = LocalConfig::default();
    config.retired_logs_max = 3;
    let local = Local::new(config);
    let nodes = cluster(&local, |_| {}).await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    alice.post(1, b"x").await.unwrap();
    bob.done_in("guild", join()).await.unwrap();
    let epoch = bob.open(None).await.unwrap().last.unwrap().epoch;
    alice.done_in("guild", end()).await.unwrap();
    settle().await;
    assert!(matches!(
        first(&local, &head("guild")).await,
        TailEvent::Retired { .. }
    ));
    let made = Key::new(["groups-made", "alice"]).unwrap();
    assert_eq!(local.get(&made).await, Ok(None));
    // Nobody takes it for another's at once.
    for talker in [&mut alice, &mut bob] {
        let exists = talker.create(true).await;
        assert_eq!(exists, Err(ErrorCode::GroupExists));
    }

    for name in ["a", "b"] {
        bob.done_in(name, create()).await.unwrap();
        bob.done_in(name, end()).await.unwrap();
        settle().await;
    }
    assert_eq!(first(&local, &head("guild")).await, TailEvent::Synced);
    // Neither by who has known that one all the time.
    tokio::time::sleep(Duration::from_secs(20)).await;
    bob.create(true).await.unwrap();
    alice.done_in("guild", join()).await.unwrap();
    let opened = alice.open(None).await.unwrap().last.unwrap();
    assert_ne!(opened.epoch, epoch);
    assert_eq!(opened.offset, 0, "nothing of the other is there");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_reads_a_group_that_has_ended_goes_on_to_the_next_of_its_name() {
    let mut config = LocalConfig::default();
    config.retired_logs_max = 0;
    let local = Local::new(config);
    let nodes = cluster(&local, |_| {}).await;
    let mut alice = Talker::new(&nodes[0].lab, "alice").await;
    let mut bob = Talker::new(&nodes[1].lab, "bob").await;
    alice.create(true).await.unwrap();
    bob.done_in("guild", join()).await.unwrap();
    alice.done_in("guild", end()).await.unwrap();
    // Its node looks at it again and again, and so has read it all the time.
    for _ in 0..10 {
        let gone = bob.done_in("guild", join()).await.unwrap_err();
        assert_eq!(gone.code(), ErrorCode::NoSuchGroup);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    alice.create(true).await.unwrap();
    bob.done_in("guild", join()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_a_groups_posts_as_many_are_kept_as_the_node_says() {
    let lab = Lab::with(|config| {
        config.directs.burst = 10_000;
        config.group_bytes_max = 1_000;
    });
    let mut alice = Talker::new(&lab, "alice").await;
    alice.create(true).await.unwrap();
    let count = POSTS_MAX as u128 + 2;
    for id in 1..=count {
        alice.post(id, b"x").await.unwrap();
    }
    let page = alice.history(0, 0).await.unwrap();
    let numbers = page.messages.iter().map(|message| message.number);
    assert_eq!(numbers.collect::<Vec<_>>(), [258, 257]);
    assert!(!page.more);
}

#[tokio::test(start_paused = true)]
async fn the_sessions_of_a_user_have_no_more_than_its_share_of_groups_open() {
    let lab = Lab::with(|config| {
        config.sessions_max = 10;
        config.groups.burst = 1_000;
        config.directs.burst = 1_000;
        config.group_reads.burst = 1_000;
        config.groups_per_user_max = 100;
    });
    let mut alice = Talker::new(&lab, "alice").await;
    let mut anna = Talker::new(&lab, "alice").await;
    for group in 0..66 {
        let group = format!("group-{group}");
        alice.done_in(&group, create()).await.unwrap();
    }
    for group in 0..64 {
        open(&mut alice, group).await.unwrap();
    }
    // What another session of the user has open takes no further place.
    assert_eq!(open(&mut anna, 3).await, Ok(()));
    assert_eq!(open(&mut anna, 64).await, Err(ErrorCode::Limit));
    alice
        .done_in("group-7", Kind::Close(v1::CloseGroup {}))
        .await
        .unwrap();
    assert_eq!(open(&mut anna, 64).await, Ok(()));
    alice
        .done_in("group-3", Kind::Close(v1::CloseGroup {}))
        .await
        .unwrap();
    assert_eq!(open(&mut anna, 65).await, Err(ErrorCode::Limit));
    // They have no more open when their sessions are over.
    drop(anna);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(open(&mut alice, 65).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_a_user_says_that_is_kept_has_a_pace_in_bytes() {
    let lab = Lab::with(|config| {
        config.direct_bytes.per_second = 1_000;
        config.direct_bytes.burst = 5_000;
    });
    let mut alice = Talker::new(&lab, "alice").await;
    Talker::new(&lab, "bob").await.open_inbox().await;
    alice.create(true).await.unwrap();
    alice.post(1, &[0; 2_000]).await.unwrap();
    assert_eq!(direct(&mut alice, 1_000, true).await, Ok(()));
    assert_eq!(direct(&mut alice, 1_000, false).await, Ok(()));
    let post = v1::GroupPost {
        id: Bytes::from_static(&[2; 16]),
        payload: vec![0; 1_000].into(),
    };
    let refused = alice.done_in("guild", Kind::Post(post)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Limit);
    assert!(
        refused.message.contains("1000 bytes"),
        "{}",
        refused.message
    );
    let refused = direct(&mut alice, 1, true).await;
    assert_eq!(refused, Err(ErrorCode::Limit));
    assert_eq!(lab.refused(ErrorCode::Limit), 2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(direct(&mut alice, 1_000, false).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn posts_that_fill_a_node_leave_place_for_rooms_inboxes_and_other_groups() {
    let local = small(1_000_000);
    let lab = Lab::on(Arc::new(local), |config| {
        config.directs.burst = 10_000;
        config.direct_bytes.burst = u32::MAX;
    });
    let mut mallory = Talker::new(&lab, "mallory").await;
    let mut alice = Talker::new(&lab, "alice").await;
    let mut bob = Talker::new(&lab, "bob").await;
    mallory.create(true).await.unwrap();
    let mut id = 0;
    while mallory.post(id, &[0; 16_000]).await.is_ok() {
        id += 1;
    }
    assert!(id < 20, "{id} posts are too many");
    bob.open_inbox().await;
    assert_eq!(direct(&mut alice, 16_000, false).await, Ok(()));
    alice.done_in("club", create()).await.unwrap();
    alice.done_in("guild", join()).await.unwrap();
    alice.device.join("lobby", JoinMode::Create).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_there_is_is_read_left_and_ended_where_there_is_no_place_for_more() {
    let local = small(1_000_000);
    let lab = Lab::on(Arc::new(local.clone()), |_| {});
    let mut alice = Talker::new(&lab, "alice").await;
    let mut bob = Talker::new(&lab, "bob").await;
    bob.open_inbox().await;
    bob.block("carol", true).await;
    assert_eq!(direct(&mut alice, 1, false).await, Ok(()));
    alice.create(true).await.unwrap();
    bob.done_in("guild", join()).await.unwrap();
    for kind in ["inbox", "roster", "group"] {
        let log = Key::new([kind, "others"]).unwrap();
        for bytes in [0, 260_000] {
            append(&local, &log, vec![0; bytes].into()).await;
        }
    }

    let full = Err(ErrorCode::Unavailable);
    assert_eq!(direct(&mut alice, 1, false).await, full);
    let done = async |bob: &mut Talker, kind| {
        let id = bob.request_direct(kind);
        bob.device.next_response(id).await.map(drop)
    };
    let block = |user: &str, blocked| {
        let user = user.to_owned();
        direct_request::Kind::Block(v1::SetBlocked { user, blocked })
    };
    let read = || direct_request::Kind::Read(v1::ReadInbox { offset: 1 });
    assert_eq!(done(&mut bob, block("dave", true)).await, full);
    assert_eq!(done(&mut bob, block("carol", false)).await, Ok(()));
    assert_eq!(done(&mut bob, read()).await, Ok(()));
    // That is for what changes something.
    assert_eq!(done(&mut bob, block("carol", false)).await, full);
    assert_eq!(done(&mut bob, read()).await, full);
    bob.done_in("guild", leave()).await.unwrap();
    let refused = bob.done_in("guild", join()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unavailable);
    alice.done_in("guild", end()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn letters_that_are_due_expire_when_their_inbox_is_opened_and_give_their_place_back() {
    const DAY: Duration = Duration::from_secs(86_400);
    let local = small(4_000_000);
    let inbox = Key::new(["inbox", "bob"]).unwrap();
    let begun = UNIX_NOW - 30 * DAY - DAY / 24;
    let write = async |number: u8, time: Duration, body| {
        let entry = inbox::Entry {
            operation: tombolo_social::OperationId([number; 16]),
            time: Time::from_millis(u64::try_from(time.as_millis()).unwrap()),
            body,
        };
        append(&local, &inbox, entry.encode()).await;
    };
    write(0, begun, inbox::Body::Opened).await;
    for number in 1..=64 {
        let sent = inbox::Body::Sent {
            from: format!("user-{}", number % 8).parse().unwrap(),
            id: tombolo_social::MessageId([number; 16]),
            payload: vec![0; 16_000].into(),
            to: None,
        };
        write(number, begun, sent).await;
    }
    // Its clock comes near to when they end, and not there.
    for day in 1..=30 {
        write(
            100 + day,
            begun + u32::from(day) * DAY - DAY / 24,
            inbox::Body::Read(0),
        )
        .await;
    }
    let lab = Lab::on(Arc::new(local.clone()), |_| {});
    let mut alice = Talker::new(&lab, "alice").await;
    let full = Err(ErrorCode::Unavailable);
    assert_eq!(
        direct(&mut alice, 1, false).await,
        full,
        "the place is given back after that"
    );
    settle().await;
    let TailEvent::Snapshot { state, .. } = first(&local, &inbox).await else {
        panic!("it was kept as a snapshot");
    };
    assert!(state.len() < 16_000, "{} bytes", state.len());
    assert_eq!(direct(&mut alice, 1, false).await, Ok(()));
}

/// Of what users say there is a quarter of each kind.
fn small(log_bytes_max: usize) -> Local {
    let mut config = LocalConfig::default();
    config.log_bytes_max = log_bytes_max;
    config.shares = LOG_SHARES.to_vec();
    Local::new(config)
}

async fn open(talker: &mut Talker, group: usize) -> Result<(), ErrorCode> {
    let open = Kind::Open(v1::OpenGroup { after: None });
    let opened = talker.done_in(&format!("group-{group}"), open).await;
    opened.map_err(|failure| failure.code())
}

async fn cluster(local: &Local, change: fn(&mut Config)) -> [Member; 2] {
    let nodes = [0, 1].map(|number| start_with(local, number, change));
    tokio::time::sleep(Duration::from_secs(5)).await;
    nodes
}

/// Until what has ended is forgotten.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn create() -> Kind {
    Kind::Create(v1::CreateGroup { settings: None })
}

fn end() -> Kind {
    Kind::End(v1::EndGroup {})
}

fn head(group: &str) -> Key {
    Key::new(["group", group]).unwrap()
}

async fn first(local: &Local, log: &Key) -> TailEvent {
    let mut tail = local.tail(log, None).await.unwrap();
    tail.next().await.unwrap()
}

async fn append(local: &Local, log: &Key, entry: Bytes) {
    let id = OperationId([9; 16]);
    let append = local.append(log, entry, Purpose::End, Expect::Any, id);
    append.await.unwrap();
}

/// Sends bob a message.
async fn direct(talker: &mut Talker, bytes: usize, copy: bool) -> Result<(), ErrorCode> {
    let id: [u8; 16] = std::array::from_fn(|_| rand::random());
    let send = v1::DirectSend {
        to: "bob".to_owned(),
        id: Bytes::copy_from_slice(&id),
        payload: vec![0; bytes].into(),
        copy,
    };
    let id = talker.request_direct(direct_request::Kind::Send(send));
    talker.device.next_response(id).await.map(drop)
}
