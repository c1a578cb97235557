//! Notices: to everybody and to some, now and later, once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tombolo_engine::{Local, LocalConfig};
use tombolo_services::{Notified, Outgoing};
use tombolo_wire::TagName;
use tombolo_wire::v1::{
    self, ErrorCode, JoinMode, notice_event, notice_request, notice_response, request, response,
    server_frame, social_event, social_request, social_response,
};

use crate::cluster::{cluster, start_with};
use crate::lab::{Device, Lab};

#[tokio::test(start_paused = true)]
async fn a_notice_reaches_devices_on_all_nodes_and_those_that_come_later_once() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    let mut bob = nodes[1].lab.device("bob").await;
    for device in [&mut alice, &mut bob] {
        assert_eq!(open(device, &[]).await.unwrap(), ["all"]);
    }
    let first = notify(&nodes[0].lab, "all", 1, "hello").await.unwrap();
    let again = notify(&nodes[1].lab, "all", 1, "hello").await.unwrap();
    assert_eq!((first.number, first.is_repeated), (1, false));
    assert_eq!((again.number, again.is_repeated), (1, true));
    for device in [&mut alice, &mut bob] {
        assert_eq!(told(device).await.0, ["all 1 hello"]);
    }
    notify(&nodes[0].lab, "all", 2, "second").await.unwrap();
    let (heard, places) = told(&mut bob).await;
    assert_eq!(heard, ["all 2 second"]);
    drop(bob);

    notify(&nodes[0].lab, "all", 3, "third").await.unwrap();
    let mut bob = nodes[0].lab.device("bob").await;
    open(&mut bob, &places).await.unwrap();
    assert_eq!(told(&mut bob).await.0, ["all 3 third"]);
    let mut carol = nodes[1].lab.device("carol").await;
    open(&mut carol, &[]).await.unwrap();
    let all = ["all 1 hello", "all 2 second", "all 3 third"];
    assert_eq!(told(&mut carol).await.0, all);
    assert_eq!(nodes[0].lab.services.stats().notices, 3);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_behind_goes_on_from_where_another_one_has_told() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    let mut bob = nodes[1].lab.device("bob").await;
    for device in [&mut alice, &mut bob] {
        open(device, &[]).await.unwrap();
    }
    notify(&nodes[0].lab, "all", 1, "first").await.unwrap();
    assert_eq!(told(&mut bob).await.0, ["all 1 first"]);

    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    notify(&nodes[0].lab, "all", 2, "second").await.unwrap();
    let (_, places) = told(&mut alice).await;
    let wire = Arc::clone(&nodes[1].wire);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        wire.is_slow.store(false, Ordering::Relaxed);
    });
    open(&mut bob, &places).await.unwrap();
    notify(&nodes[0].lab, "all", 3, "third").await.unwrap();
    assert_eq!(told(&mut bob).await.0, ["all 3 third"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_comes_back_to_boards_that_were_forgotten_waits_a_second_for_all_of_them() {
    let lab = Lab::new();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = Device::new("alice");
    alice.tags = vec!["beta".to_owned(), "gamma".to_owned()];
    alice.connect(&lab).await.unwrap();
    let forgotten = ["all", "beta", "gamma"].map(|board| v1::NoticePlace {
        board: board.into(),
        at: Some(v1::Place {
            epoch: vec![7; 16].into(),
            offset: 3,
        }),
    });
    let opening = ask_open(&mut alice, &forgotten);
    let joining = alice.ask_join("r", JoinMode::Create, 0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let opened = next_opened(&mut alice, opening).await.unwrap();
    assert_eq!(opened, ["all", "beta", "gamma"]);
    assert!(alice.next_response(joining).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_reads_as_much_as_it_may_does_not_refuse_a_notice_for_good() {
    let local = Local::new(LocalConfig::default());
    let node = start_with(&local, 0, |config| config.sessions_max = 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.wire.is_slow.store(true, Ordering::Relaxed);
    let mut others = JoinSet::new();
    for number in 0..512 {
        let lab = node.lab.clone();
        others.spawn(async move { notify(&lab, &format!("tag{number}"), 1, "hello").await });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let refused = notify(&node.lab, "all", 1, "hello").await.unwrap_err();
    assert_eq!(refused, ErrorCode::Unavailable);
    node.wire.is_slow.store(false, Ordering::Relaxed);
    others.join_all().await;
    notify(&node.lab, "all", 1, "hello").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_users_whose_token_has_the_tag_are_told() {
    let lab = Lab::new();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut alice = Device::new("alice");
    alice.tags = vec!["beta".to_owned()];
    alice.connect(&lab).await.unwrap();
    let mut bob = lab.device("bob").await;
    assert_eq!(open(&mut alice, &[]).await.unwrap(), ["all", "beta"]);
    assert_eq!(open(&mut bob, &[]).await.unwrap(), ["all"]);
    notify(&lab, "beta", 1, "try this").await.unwrap();
    assert_eq!(told(&mut alice).await.0, ["beta 1 try this"]);
    assert_eq!(told(&mut bob).await.0, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_notice_to_many_is_spread_over_time() {
    let lab = Lab::with(|config| {
        config.notices.per_second = 10;
        config.notices.burst = 1;
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut devices = Vec::new();
    for number in 0..20 {
        let mut device = lab.device(&format!("user-{number}")).await;
        open(&mut device, &[]).await.unwrap();
        devices.push(device);
    }
    let before = lab.services.stats().delivered;
    notify(&lab, "all", 1, "hello").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let soon = lab.services.stats().delivered - before;
    assert!((5..=12).contains(&soon), "{soon} in the first second");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for device in &mut devices {
        assert_eq!(told(device).await.0, ["all 1 hello"]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_expired_is_told_nobody_and_what_breaks_a_rule_is_refused() {
    let lab = Lab::new();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let all = TagName::parse("all").unwrap();
    let send = |bytes: usize, lasts| {
        let payload = vec![0; bytes].into();
        lab.services.notify(&all, Some([9; 16]), payload, lasts)
    };
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(
        send(1 << 15, day).await.unwrap_err().code,
        ErrorCode::TooLarge
    );
    for lasts in [Duration::ZERO, 31 * day] {
        assert_eq!(send(1, lasts).await.unwrap_err().code, ErrorCode::Limit);
    }
    let mut alice = lab.device("alice").await;
    let foreign = v1::NoticePlace {
        board: "all".into(),
        at: Some(v1::Place {
            epoch: vec![7; 16].into(),
            offset: 3,
        }),
    };
    notify(&lab, "all", 1, "hello").await.unwrap();
    open(&mut alice, std::slice::from_ref(&foreign))
        .await
        .unwrap();
    assert_eq!(told(&mut alice).await.0, ["all lost", "all 1 hello"]);
    let many = vec![foreign.clone(); 18];
    assert_eq!(open(&mut alice, &many).await, Err(ErrorCode::BadFrame));
    let unnamed = v1::NoticePlace {
        board: "no board".into(),
        ..foreign
    };
    assert_eq!(open(&mut alice, &[unnamed]).await, Err(ErrorCode::BadName));
}

pub(crate) async fn notify(
    lab: &Lab,
    board: &str,
    id: u8,
    text: &str,
) -> Result<Notified, ErrorCode> {
    let board = TagName::parse(board).unwrap();
    let payload = text.to_owned().into();
    let lasts = Duration::from_secs(3600);
    let notified = lab.services.notify(&board, Some([id; 16]), payload, lasts);
    notified.await.map_err(|reject| reject.code)
}

pub(crate) async fn open(
    device: &mut Device,
    after: &[v1::NoticePlace],
) -> Result<Vec<String>, ErrorCode> {
    let id = ask_open(device, after);
    next_opened(device, id).await
}

fn ask_open(device: &mut Device, after: &[v1::NoticePlace]) -> u64 {
    let after = after.to_vec();
    let kind = Some(notice_request::Kind::Open(v1::OpenNotices { after }));
    let kind = Some(social_request::Kind::Notices(v1::NoticeRequest { kind }));
    device.request(Some(request::Kind::Social(v1::SocialRequest { kind })))
}

async fn next_opened(device: &mut Device, id: u64) -> Result<Vec<String>, ErrorCode> {
    match device.next_response(id).await? {
        response::Result::Social(v1::SocialResponse {
            result:
                Some(social_response::Result::Notices(v1::NoticeResponse {
                    result: Some(notice_response::Result::Opened(opened)),
                })),
        }) => Ok(opened.boards),
        other => panic!("opening is not answered by {other:?}"),
    }
}

/// All that is told until nothing comes for a while, and up to where.
pub(crate) async fn told(device: &mut Device) -> (Vec<String>, Vec<v1::NoticePlace>) {
    let (mut heard, mut places) = (Vec::new(), Vec::new());
    while let Some(outgoing) = device.next_frame().await {
        let Outgoing::Reliable(v1::ServerFrame {
            body:
                Some(server_frame::Body::Social(v1::SocialEvent {
                    kind: Some(social_event::Kind::Notice(event)),
                })),
            ..
        }) = outgoing
        else {
            panic!("{outgoing:?} is no notice");
        };
        let place = event.at.unwrap();
        heard.push(match event.kind.unwrap() {
            notice_event::Kind::Lost(_) => format!("{} lost", place.board),
            notice_event::Kind::Notice(notice) => format!(
                "{} {} {}",
                place.board,
                place.at.as_ref().unwrap().offset,
                String::from_utf8_lossy(&notice.payload)
            ),
        });
        places = vec![place];
    }
    (heard, places)
}

#[tokio::test(start_paused = true)]
async fn with_more_notices_than_can_be_told_all_are_told_in_turn() {
    in_turn(30, Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn with_more_notices_than_one_can_be_told_all_are_told_in_turn() {
    in_turn(240, Duration::from_millis(50)).await;
}

async fn in_turn(notices: u8, interval: Duration) {
    let lab = Lab::with(|config| {
        config.notices.per_second = 10;
        config.notices.burst = 1;
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut devices = Vec::new();
    for number in 0..20 {
        let mut device = lab.device(&format!("user-{number}")).await;
        open(&mut device, &[]).await.unwrap();
        devices.push(device);
    }
    for id in 0..notices {
        notify(&lab, "all", id, "hello").await.unwrap();
        tokio::time::sleep(interval).await;
    }
    let mut counts = Vec::new();
    for device in &mut devices {
        let mut count = 0;
        while timeout(Duration::from_millis(1), device.next_frame())
            .await
            .is_ok_and(|frame| frame.is_some())
        {
            count += 1;
        }
        counts.push(count);
    }
    assert!(counts.iter().all(|count| *count >= 3), "{counts:?}");
}
