//! What game servers ask of rooms, over any node of a cluster.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tombolo_room::{
    Act, Audience, Change, OPERATIONS_MAX, ObjectPlan, PropertyKey, Reserve, Settings, Takeover,
    Target, Value,
};
use tombolo_services::{
    BegunRequest, NamedOperation, NewRoom, REQUESTS_KEPT, Reject, RequestAnswer, RequestName,
    RequestRefusal, RoomMessages, RoomView, Services,
};
use tombolo_wire::v1::{self, ErrorCode, JoinMode};
use tombolo_wire::{RoomId, UserId};

use crate::cluster::cluster;
use crate::lab::{Lab, UNIX_NOW};

#[tokio::test(start_paused = true)]
async fn a_server_sees_on_every_node_what_it_has_just_done_on_one() {
    let (nodes, _) = cluster::<2>().await;
    let [here, there] = [0, 1].map(|node: usize| &nodes[node].lab.services);
    open(here, "r").await.unwrap();
    for services in [here, there] {
        assert_eq!(services.view_room(&room("r")).await.unwrap().members, []);
        let listed = services.list_rooms(None, 10).await.unwrap();
        assert_eq!(listed.rooms, [room("r")]);
    }
    // The other node hosts the room, and reads its log late.
    let mut alice = nodes[1].lab.device("alice").await;
    alice.join("r", JoinMode::Join).await.unwrap();
    for round in 1..4 {
        nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
        set(here, "r", round).await.unwrap();
        let catch_up = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            nodes[1].wire.is_slow.store(false, Ordering::Relaxed);
        };
        let asked = room("r");
        let (seen, ()) = tokio::join!(there.view_room(&asked), catch_up);
        assert_eq!(rounds(&seen.unwrap()), [round]);
        let seen = here.view_room(&room("r")).await.unwrap();
        assert_eq!(rounds(&seen), [round]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_room_of_a_server_is_found_by_what_is_public_and_by_its_code() {
    let lab = Lab::new();
    let key = PropertyKey::parse("mode").unwrap();
    let new = || NewRoom {
        settings: Settings {
            members_max: 2,
            empty_kept: Duration::from_secs(300),
            ..Settings::default()
        },
        properties: vec![Change::publish(key.clone(), "duel".into())],
        reserve: Some(Reserve {
            users: vec![UserId::parse("carol").unwrap()],
            lasts: Duration::from_secs(60),
        }),
        with_code: true,
    };
    let once = || Some(named([7; 16]));
    let r = room("r");
    let code = lab.services.create_room(&r, new(), once()).await.unwrap();
    let again = lab.services.create_room(&r, new(), once()).await.unwrap();
    assert!(code.is_some() && again == code);
    let view = lab.services.view_room(&r).await.unwrap();
    assert_eq!(view.code, code.map(|code| code.to_string()));
    assert_eq!(view.public, ["mode"]);

    let mut alice = lab.device("alice").await;
    let duels = v1::RoomQuery {
        conditions: vec![crate::finding::is_duel()],
        ..v1::RoomQuery::default()
    };
    let found = alice.find(duels).await.unwrap();
    assert_eq!((found.rooms.len(), found.rooms[0].free), (1, 1));
    let by_code = |code: &str| v1::Join {
        mode: JoinMode::Join.into(),
        code: code.to_owned(),
        ..v1::Join::default()
    };
    let code = code.unwrap().to_string();
    assert_eq!(alice.join_as(by_code(&code)).await.unwrap().room, "r");
    let mut bob = lab.device("bob").await;
    let full = bob.join_as(by_code(&code)).await;
    assert_eq!(full, Err(ErrorCode::RoomFull), "a seat is kept for carol");
    let mut carol = lab.device("carol").await;
    carol.join_as(by_code(&code)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_acts_on_what_was_done_on_another_node_a_moment_before() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[1].lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    let mut bob = nodes[0].lab.device("bob").await;
    nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
    bob.join("r", JoinMode::Join).await.unwrap();
    let catch_up = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        nodes[1].wire.is_slow.store(false, Ordering::Relaxed);
    };
    let (id, kick) = (room("r"), Act::Kick(UserId::parse("bob").unwrap()));
    let there = &nodes[1].lab.services;
    let (kicked, ()) = tokio::join!(there.act_for_server(&id, kick, None), catch_up);
    kicked.unwrap();

    // A room that was closed there is opened here at once, and the other way round.
    for round in 0..4 {
        let services = &nodes[round % 2].lab.services;
        services
            .act_for_server(&id, Act::Close, None)
            .await
            .unwrap();
        open(&nodes[(round + 1) % 2].lab.services, "r")
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_done_once_over_whatever_nodes_it_is_repeated() {
    let (nodes, _) = cluster::<3>().await;
    open(&nodes[0].lab.services, "r").await.unwrap();
    let mut alice = nodes[2].lab.device("alice").await;
    alice.join("r", JoinMode::Join).await.unwrap();
    let mut numbers = Vec::new();
    let said = nodes.each_ref().map(|node| {
        let services = node.lab.services.clone();
        tokio::spawn(async move {
            services
                .act_for_server(&room("r"), say(), Some(named([9; 16])))
                .await
        })
    });
    for said in said {
        numbers.push(said.await.unwrap().unwrap().message);
    }
    assert_eq!(numbers, [1, 1, 1], "one has done it, and all say what");
    for node in &nodes {
        let view = node.lab.services.view_room(&room("r")).await.unwrap();
        assert_eq!(view.message_last, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_reads_page_by_page_what_was_said_whoever_it_is_for() {
    let (nodes, _) = cluster::<2>().await;
    let [here, there] = [0, 1].map(|node: usize| &nodes[node].lab.services);
    let none = there.room_messages(&room("r"), 0, 10).await;
    assert_eq!(none.unwrap_err().code, ErrorCode::NoSuchRoom);
    open(here, "r").await.unwrap();
    let to_alice = Act::Say {
        audience: Audience::Users(vec![UserId::parse("alice").unwrap()]),
        payload: Bytes::from_static(b"psst"),
    };
    for act in [say(), to_alice, say()] {
        here.act_for_server(&room("r"), act, None).await.unwrap();
    }
    for (before, count, expected, more) in [
        (0, 10, &[3, 2, 1][..], false),
        (0, 2, &[3, 2], true),
        (2, 2, &[1], false),
        (1, 2, &[], false),
        (0, 0, &[], true),
    ] {
        let page = there
            .room_messages(&room("r"), before, count)
            .await
            .unwrap();
        assert_eq!(numbers(&page), expected, "{before} {count}");
        assert_eq!(page.more, more, "{before} {count}");
    }
    let page = there.room_messages(&room("r"), 3, 1).await.unwrap();
    assert_eq!(page.messages[0].payload, "psst");

    for _ in 0..5 {
        let long = Act::Say {
            audience: Audience::All,
            payload: vec![0; tombolo_room::PAYLOAD_BYTES_MAX].into(),
        };
        here.act_for_server(&room("r"), long, None).await.unwrap();
    }
    let page = there.room_messages(&room("r"), 0, 10).await.unwrap();
    assert_eq!(numbers(&page), [8, 7, 6, 5]);
    assert!(page.more);
}

fn numbers(page: &RoomMessages) -> Vec<u64> {
    let messages = page.messages.iter();
    messages.map(|message| message.number).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_server_may_not_do_is_refused_with_the_reason() {
    let lab = Lab::new();
    let code = |refused: Result<(), Reject>| refused.unwrap_err().code;
    let services = &lab.services;
    assert_eq!(code(set(services, "r", 1).await), ErrorCode::NoSuchRoom);
    assert_eq!(
        services.view_room(&room("r")).await.unwrap_err().code,
        ErrorCode::NoSuchRoom
    );
    open(services, "r").await.unwrap();
    assert_eq!(code(open(services, "r").await), ErrorCode::RoomExists);
    let nobody = Act::Kick(UserId::parse("nobody").unwrap());
    let kicked = services.act_for_server(&room("r"), nobody, None).await;
    assert_eq!(kicked.unwrap_err().code, ErrorCode::NoSuchThing);
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_log_begins_anew_is_read_again_to_its_end() {
    let (nodes, _) = cluster::<2>().await;
    let mut alice = nodes[1].lab.device("alice").await;
    alice.join("r", JoinMode::Create).await.unwrap();
    alice.drain().await;
    nodes[1].wire.is_void.store(true, Ordering::Relaxed);
    let mut bob = nodes[0].lab.device("bob").await;
    bob.join("r", JoinMode::Join).await.unwrap();
    assert_eq!(alice.next_event().await, "+bob");
    let seen = nodes[1].lab.services.view_room(&room("r")).await.unwrap();
    assert_eq!(seen.members.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_bound_to_what_was_asked_first_and_answered_alike_on_every_node() {
    let (nodes, _) = cluster::<2>().await;
    let [here, there] = [0, 1].map(|node: usize| &nodes[node].lab.services);
    let name = RequestName::new([1; 8], [2; 16]);
    assert_eq!(here.begin_request(&name, [3; 16]).await, FIRST);
    // While nobody has answered it, it may be repeated, but nothing else is done under its name.
    assert_eq!(there.begin_request(&name, [3; 16]).await, FIRST);
    let other = there.begin_request(&name, [4; 16]).await;
    assert_eq!(other, Err(RequestRefusal::Different));
    let another = RequestName::new([9; 8], [2; 16]);
    assert_eq!(there.begin_request(&another, [4; 16]).await, FIRST);

    let answer = RequestAnswer::new(200, Bytes::from_static(b"first"));
    assert_eq!(here.answer_request(&name, answer.clone()).await, answer);
    let late = RequestAnswer::new(200, Bytes::from_static(b"second"));
    assert_eq!(there.answer_request(&name, late).await, answer);
    let repeated = there.begin_request(&name, [3; 16]).await;
    assert_eq!(repeated, Ok(BegunRequest::Answered(answer)));
}

#[tokio::test(start_paused = true)]
async fn a_request_is_forgotten_in_time_and_refused_while_nobody_knows_how_it_ended() {
    static LATER: AtomicU64 = AtomicU64::new(0);
    let now = || UNIX_NOW + Duration::from_secs(LATER.load(Ordering::Relaxed));
    let lab = Lab::with(|config| config.unix_now = now);
    let services = &lab.services;
    let [answered, open] = [1, 2].map(|number| RequestName::new([0; 8], [number; 16]));
    for name in [&answered, &open] {
        assert_eq!(services.begin_request(name, [0; 16]).await, FIRST);
    }
    let answer = RequestAnswer::new(404, Bytes::new());
    services.answer_request(&answered, answer.clone()).await;
    let pass = async |seconds| {
        LATER.fetch_add(seconds, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    };
    pass(61).await;
    let repeated = services.begin_request(&answered, [0; 16]).await;
    assert_eq!(repeated, Ok(BegunRequest::Answered(answer)));
    let repeated = services.begin_request(&open, [0; 16]).await;
    assert_eq!(repeated, Err(RequestRefusal::Unsure));
    pass(REQUESTS_KEPT.as_secs()).await;
    for name in [&answered, &open] {
        assert_eq!(services.begin_request(name, [5; 16]).await, FIRST);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_repeats_what_was_done_learns_what_it_has_made() {
    let (nodes, _) = cluster::<2>().await;
    let [here, there] = [0, 1].map(|node: usize| &nodes[node].lab.services);
    open(here, "r").await.unwrap();
    let plan = ObjectPlan {
        kind: PropertyKey::parse("ball").unwrap(),
        takeover: Takeover::Fixed,
        stays: true,
        group: None,
        properties: Vec::new(),
    };
    for (number, act) in [Act::CreateObject(plan), say()].into_iter().enumerate() {
        let operation = Some(named([number as u8; 16]));
        let first = here
            .act_for_server(&room("r"), act.clone(), operation)
            .await;
        let first = first.unwrap();
        assert!((first.object, first.message) != (0, 0));
        for services in [here, there] {
            let again = services
                .act_for_server(&room("r"), act.clone(), operation)
                .await;
            assert_eq!(again.unwrap(), first);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn time_passes_in_a_busy_room_whatever_nodes_clocks_show() {
    // Its own stands still.
    let lab = Lab::new();
    let services = &lab.services;
    open(services, "r").await.unwrap();
    let lasting = Change {
        lasts: Some(Duration::from_secs(1)),
        ..Change::set(PropertyKey::parse("lasting").unwrap(), Value::Integer(1))
    };
    let act = Act::ChangeProperties {
        target: Target::Room,
        changes: vec![lasting],
    };
    let set_lasting = services.act_for_server(&room("r"), act, None).await;
    assert!(set_lasting.is_ok());
    for round in 2..2_500 {
        tokio::time::advance(Duration::from_micros(500)).await;
        set(services, "r", round).await.unwrap();
    }
    let view = services.view_room(&room("r")).await.unwrap();
    assert_eq!(rounds(&view), [2_499]);
}

#[tokio::test(start_paused = true)]
async fn what_a_busy_room_may_have_done_already_is_not_done_again() {
    let lab = Lab::new();
    let services = &lab.services;
    open(services, "r").await.unwrap();
    let once = named([7; 16]);
    let r = room("r");
    let said = services.act_for_server(&r, say(), Some(once));
    assert_eq!(said.await.unwrap().message, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 0..OPERATIONS_MAX as i64 {
        set(services, "r", round).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = NamedOperation {
        wanted_for: Duration::from_secs(2),
        ..once
    };
    let said = services.act_for_server(&r, say(), Some(again));
    assert_eq!(said.await.unwrap_err().code, ErrorCode::Unsure);
    let view = services.view_room(&room("r")).await.unwrap();
    assert_eq!(view.message_last, 1);
    set(services, "r", -1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_through_all_rooms_has_them_read_once() {
    let ([node], _) = cluster::<1>().await;
    let services = &node.lab.services;
    for name in ["b", "d", "a", "c", "e"] {
        open(services, name).await.unwrap();
    }
    let before = node.wire.watched.load(Ordering::Relaxed);
    let mut names = Vec::new();
    loop {
        let page = services.list_rooms(names.last(), 2).await.unwrap();
        names.extend(page.rooms);
        if !page.more {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"].map(room));
    let read = node.wire.watched.load(Ordering::Relaxed) - before;
    assert_eq!(read, 1);
    // Later it is as it is then.
    open(services, "f").await.unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    let page = services.list_rooms(names.last(), 2).await.unwrap();
    assert_eq!(page.rooms, [room("f")]);
}

async fn open(services: &Services, name: &str) -> Result<(), Reject> {
    let settings = Settings {
        empty_kept: Duration::from_secs(300),
        ..Settings::default()
    };
    let new = NewRoom {
        settings,
        ..NewRoom::default()
    };
    services.create_room(&room(name), new, None).await.map(drop)
}

async fn set(services: &Services, name: &str, round: i64) -> Result<(), Reject> {
    let key = PropertyKey::parse("round").unwrap();
    let act = Act::ChangeProperties {
        target: Target::Room,
        changes: vec![Change::set(key, Value::Integer(round))],
    };
    let acted = services.act_for_server(&room(name), act, None).await;
    acted.map(|_| ())
}

fn say() -> Act {
    Act::Say {
        audience: Audience::All,
        payload: Bytes::from_static(b"once"),
    }
}

fn rounds(view: &RoomView) -> Vec<i64> {
    let values = view.properties.iter().map(|(_, value)| value);
    let rounds = values.filter_map(|value| match value {
        Value::Integer(round) => Some(*round),
        _ => None,
    });
    rounds.collect()
}

fn room(name: &str) -> RoomId {
    RoomId::parse(name).unwrap()
}

fn named(id: [u8; 16]) -> NamedOperation {
    NamedOperation {
        id,
        wanted_for: Duration::ZERO,
    }
}

const FIRST: Result<BegunRequest, RequestRefusal> = Ok(BegunRequest::Open(Duration::ZERO));
