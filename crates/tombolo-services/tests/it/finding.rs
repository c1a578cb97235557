//! Rooms that are found by what is public about them, and by their codes.

use std::time::Duration;

use tombolo_engine::{
    Expect, Key, Kv as _, Local, Log as _, OperationId, Purpose, TailEvent, WatchEvent,
};
use tombolo_services::NodeState;
use tombolo_wire::v1::{
    self, ErrorCode, JoinMode, request, response, room_act, room_event, server_frame,
};

use crate::cluster::{cluster, start};
use crate::lab::{Device, Lab};

#[tokio::test(start_paused = true)]
async fn rooms_are_found_by_their_public_properties_in_the_order_asked_for() {
    let lab = Lab::new();
    let mut owners = Vec::new();
    for (room, mode, level) in [("a", "duel", 3), ("b", "duel", 9), ("c", "race", 5)] {
        owners.push(
            owner(
                &lab,
                room,
                &[("mode", text(mode)), ("level", number(level))],
            )
            .await,
        );
    }
    let mut alice = lab.device("alice").await;
    let duels = v1::RoomQuery {
        conditions: vec![condition("mode", v1::Comparison::Equal, vec![text("duel")])],
        orders: vec![by("level", true)],
        ..v1::RoomQuery::default()
    };
    assert_eq!(names(&alice.find(duels).await.unwrap()), ["b", "a"]);
    let at_least = condition("level", v1::Comparison::GreaterOrEqual, vec![number(5)]);
    let strong = v1::RoomQuery {
        conditions: vec![at_least],
        orders: vec![by("level", false)],
        ..v1::RoomQuery::default()
    };
    let found = alice.find(strong).await.unwrap();
    assert_eq!(names(&found), ["c", "b"]);
    let first = &found.rooms[0];
    assert_eq!((first.members, first.members_max, first.free), (1, 64, 63));
    assert_eq!(first.properties.len(), 2);

    // A page at a time.
    let page = v1::RoomQuery {
        orders: vec![by("level", false)],
        limit: 2,
        ..v1::RoomQuery::default()
    };
    let found = alice.find(page.clone()).await.unwrap();
    assert_eq!(names(&found), ["a", "c"]);
    let after = found.next;
    let found = alice.find(v1::RoomQuery { after, ..page }).await.unwrap();
    assert_eq!(names(&found), ["b"]);
    assert!(found.next.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_found_as_it_is_and_what_is_closed_to_newcomers_is_left_out() {
    let lab = Lab::new();
    let mut alice = owner(&lab, "r", &[("mode", text("duel"))]).await;
    let mut bob = lab.device("bob").await;
    let duels = || v1::RoomQuery {
        conditions: vec![condition("mode", v1::Comparison::Equal, vec![text("duel")])],
        ..v1::RoomQuery::default()
    };
    assert_eq!(names(&bob.find(duels()).await.unwrap()), ["r"]);
    for closed in [
        v1::Configure {
            locked: Some(true),
            ..v1::Configure::default()
        },
        v1::Configure {
            hidden: Some(true),
            ..v1::Configure::default()
        },
        v1::Configure {
            members_max: Some(1),
            ..v1::Configure::default()
        },
    ] {
        let is_hidden = closed.hidden.is_some();
        alice
            .act("r", room_act::Kind::Configure(closed))
            .await
            .unwrap();
        assert!(names(&bob.find(duels()).await.unwrap()).is_empty());
        let with_closed = v1::RoomQuery {
            closed: true,
            ..duels()
        };
        let found = bob.find(with_closed).await.unwrap();
        assert_eq!(found.rooms.is_empty(), is_hidden);
        let open = v1::Configure {
            locked: Some(false),
            hidden: Some(false),
            members_max: Some(64),
            ..v1::Configure::default()
        };
        alice
            .act("r", room_act::Kind::Configure(open))
            .await
            .unwrap();
    }
    let changed = public("mode", text("race"));
    alice.act("r", change(vec![changed])).await.unwrap();
    assert!(names(&bob.find(duels()).await.unwrap()).is_empty());
    alice.leave("r").await.unwrap();
    let all = bob.find(v1::RoomQuery::default()).await.unwrap();
    assert!(all.rooms.is_empty(), "it has closed");
}

#[tokio::test(start_paused = true)]
async fn many_who_look_for_the_same_at_once_fill_rooms_instead_of_making_one_each() {
    let lab = Lab::new();
    let mut devices = Vec::new();
    for number in 0..20 {
        devices.push(lab.device(&format!("user-{number}")).await);
    }
    let looking = looking_for_four();
    let mut asked = Vec::new();
    for device in &mut devices {
        asked.push(device.request(Some(request::Kind::Join(looking.clone()))));
    }
    let mut rooms = std::collections::BTreeMap::new();
    for (device, id) in devices.iter_mut().zip(asked) {
        match device.response_among_events(id).await.unwrap() {
            response::Result::Joined(joined) => {
                assert_eq!(joined.tag, 7, "the device knows its question again");
                *rooms.entry(joined.room).or_insert(0) += 1;
            }
            other => panic!("a join is not answered by {other:?}"),
        }
    }
    assert_eq!(rooms.values().copied().collect::<Vec<_>>(), [4; 5]);
}

#[tokio::test(start_paused = true)]
async fn many_who_look_for_the_same_on_several_nodes_at_once_fill_rooms() {
    let (nodes, _) = cluster::<3>().await;
    for round in 0..4 {
        let mut devices = Vec::new();
        for number in 0..24 {
            let user = format!("user-{round}-{number}");
            devices.push(nodes[number % 3].lab.device(&user).await);
        }
        let looking = looking_for_four();
        let mut asked = Vec::new();
        for device in &mut devices {
            asked.push(device.request(Some(request::Kind::Join(looking.clone()))));
        }
        let mut rooms = std::collections::BTreeMap::new();
        for (device, id) in devices.iter_mut().zip(asked) {
            match device.response_among_events(id).await.unwrap() {
                response::Result::Joined(joined) => *rooms.entry(joined.room).or_insert(0) += 1,
                other => panic!("a join is not answered by {other:?}"),
            }
        }
        let filled: Vec<_> = rooms.values().copied().collect();
        assert_eq!(filled, [4; 6], "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_room_that_another_node_never_makes_makes_one() {
    let (nodes, local) = cluster::<2>().await;
    let mut probe = nodes[1].lab.device("probe").await;
    let id = probe.request(Some(request::Kind::Join(looking_for_four())));
    let response::Result::Joined(joined) = probe.response_among_events(id).await.unwrap() else {
        panic!("a join is answered by a room");
    };
    probe.leave(&joined.room).await.unwrap();
    // The other node claims to make the next one, and never does.
    let key = values(&local, "making").await.pop().unwrap();
    let key = Key::new(key.split('.')).unwrap();
    let entry = local.get(&key).await.unwrap().unwrap();
    let mut claim = entry.value.to_vec();
    // The last field says that the room is there.
    claim.truncate(claim.len() - 2);
    local
        .cas(&key, Some(entry.revision), Some(claim.into()))
        .await
        .unwrap();
    let mut alice = nodes[0].lab.device("alice").await;
    let id = alice.request(Some(request::Kind::Join(looking_for_four())));
    tokio::time::sleep(Duration::from_secs(5)).await;
    match alice.response_among_events(id).await.unwrap() {
        response::Result::Joined(joined) => assert!(joined.created),
        other => panic!("a join is not answered by {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_goes_to_the_best_room_that_takes_the_device_in() {
    let lab = Lab::new();
    let mut owners = Vec::new();
    for (room, level) in [("a", 1), ("b", 2), ("c", 3)] {
        owners.push(owner(&lab, room, &[("level", number(level))]).await);
    }
    let best = || v1::Join {
        mode: JoinMode::Join.into(),
        found: Some(v1::JoinFound {
            query: Some(v1::RoomQuery {
                orders: vec![by("level", true)],
                ..v1::RoomQuery::default()
            }),
            first: true,
        }),
        ..v1::Join::default()
    };
    let ban = |user: &str| {
        room_act::Kind::Ban(v1::Ban {
            user: user.into(),
            lasts_ms: 0,
        })
    };
    owners[2].act("c", ban("bob")).await.unwrap();
    let mut alice = lab.device("alice").await;
    let mut bob = lab.device("bob").await;
    assert_eq!(alice.join_found(best()).await.unwrap().room, "c");
    assert_eq!(
        bob.join_found(best()).await.unwrap().room,
        "b",
        "c has banned it"
    );
    assert_eq!(
        bob.join_found(best()).await.unwrap().room,
        "a",
        "it is in b"
    );
    assert_eq!(bob.join_found(best()).await, Err(ErrorCode::NoSuchRoom));
}

#[tokio::test(start_paused = true)]
async fn any_of_the_rooms_that_match_is_taken() {
    let lab = Lab::new();
    let mut owners = Vec::new();
    for room in ["a", "b", "c", "d"] {
        owners.push(owner(&lab, room, &[("mode", text("duel"))]).await);
    }
    owners.push(owner(&lab, "other", &[("mode", text("race"))]).await);
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..60 {
        let mut device = lab.device(&format!("user-{number}")).await;
        let query = v1::RoomQuery {
            conditions: vec![condition("mode", v1::Comparison::Equal, vec![text("duel")])],
            ..v1::RoomQuery::default()
        };
        let found = Some(v1::JoinFound {
            query: Some(query),
            first: false,
        });
        let mode = JoinMode::Join.into();
        let join = v1::Join {
            mode,
            found,
            ..v1::Join::default()
        };
        seen.insert(device.join_found(join).await.unwrap().room);
    }
    let seen: Vec<_> = seen.iter().map(String::as_str).collect();
    assert_eq!(seen, ["a", "b", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn a_hidden_room_is_joined_by_its_code_which_goes_with_it() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    let hidden = v1::Join {
        room: "r".into(),
        mode: JoinMode::Create.into(),
        settings: Some(v1::RoomSettings {
            hidden: true,
            ..v1::RoomSettings::default()
        }),
        with_code: true,
        ..v1::Join::default()
    };
    let code = alice.join_found(hidden).await.unwrap().code;
    assert_eq!(code.len(), 6);
    let mut bob = nodes[1].lab.device("bob").await;
    assert!(
        bob.find(v1::RoomQuery::default())
            .await
            .unwrap()
            .rooms
            .is_empty()
    );
    let typed = format!("{}-{}", code[..3].to_lowercase(), &code[3..]);
    let joined = bob.join_found(by_code(&typed)).await.unwrap();
    assert_eq!((joined.room.as_str(), &joined.code), ("r", &code));
    assert_eq!(
        bob.join_found(by_code("no code")).await,
        Err(ErrorCode::BadName)
    );

    alice.leave_among_events("r").await;
    bob.leave_among_events("r").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(
        bob.join_found(by_code(&code)).await,
        Err(ErrorCode::NoSuchRoom)
    );
    assert!(
        values(&local, "code").await.is_empty(),
        "the code is free again"
    );
    assert!(values(&local, "open").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_room_that_its_heir_cannot_read_keeps_nobody_from_being_gone() {
    let (nodes, local) = cluster::<2>().await;
    let mut alice = nodes[1].lab.device("alice").await;
    let with_code = |room: &str| v1::Join {
        room: room.into(),
        mode: JoinMode::Create.into(),
        with_code: true,
        ..v1::Join::default()
    };
    let code = alice.join_found(with_code("later")).await.unwrap().code;
    // The version of an entry is its first field.
    let entry = bytes::Bytes::from_static(&[0x08, 0x07]);
    let key = Key::new(["room", "later"]).unwrap();
    let written = local.append(
        &key,
        entry,
        Purpose::More,
        Expect::Any,
        OperationId([1; 16]),
    );
    written.await.unwrap();
    nodes[1].lab.services.kill();
    let is_gone = async {
        while nodes[0].lab.services.nodes().await.unwrap()[1].state != NodeState::Gone {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let is_gone = tokio::time::timeout(Duration::from_secs(600), is_gone).await;
    assert!(is_gone.is_ok(), "its heir is never done");
    assert_eq!(values(&local, "code").await, [format!("code.{code}")]);
}

#[tokio::test(start_paused = true)]
async fn a_code_that_was_reserved_for_nothing_is_freed() {
    let (nodes, local) = cluster::<1>().await;
    let lab = &nodes[0].lab;
    let mut alice = lab.device("alice").await;
    let wanted = |members_max| v1::Join {
        room: "r".into(),
        mode: JoinMode::Create.into(),
        settings: Some(v1::RoomSettings {
            members_max,
            ..v1::RoomSettings::default()
        }),
        room_properties: vec![public("long", text(&"x".repeat(300)))],
        with_code: true,
        ..v1::Join::default()
    };
    assert_eq!(alice.join_found(wanted(4)).await, Err(ErrorCode::Limit));
    assert!(values(&local, "code").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn rooms_on_other_nodes_are_found_and_joined() {
    let (nodes, _) = cluster::<3>().await;
    let _alice = owner(&nodes[0].lab, "r", &[("mode", text("duel"))]).await;
    let mut bob = nodes[1].lab.device("bob").await;
    let mut carol = nodes[2].lab.device("carol").await;
    let found = bob.find(v1::RoomQuery::default()).await.unwrap();
    assert_eq!(names(&found), ["r"]);
    let any = v1::Join {
        mode: JoinMode::Join.into(),
        found: Some(v1::JoinFound::default()),
        ..v1::Join::default()
    };
    assert_eq!(carol.join_found(any).await.unwrap().room, "r");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = bob.find(v1::RoomQuery::default()).await.unwrap();
    assert_eq!(found.rooms[0].members, 2, "who came meanwhile is counted");
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_only_other_node_has_left_it_is_found_as_it_was_before() {
    let (nodes, _) = cluster::<3>().await;
    let mut bob = owner(&nodes[1].lab, "r", &[]).await;
    let three = v1::Configure {
        members_max: Some(3),
        ..v1::Configure::default()
    };
    bob.act("r", room_act::Kind::Configure(three))
        .await
        .unwrap();
    let mut carol = nodes[1].lab.device("carol").await;
    carol.join("r", JoinMode::Join).await.unwrap();
    let mut dave = nodes[2].lab.device("dave").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = dave.find(v1::RoomQuery::default()).await.unwrap();
    assert_eq!((found.rooms[0].members, found.rooms[0].free), (2, 1));

    // The first node keeps the record for as long as it has a member.
    let mut alice = nodes[0].lab.device("alice").await;
    alice.join("r", JoinMode::Join).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let full = dave.find(v1::RoomQuery::default()).await.unwrap();
    assert!(full.rooms.is_empty());
    alice.leave_among_events("r").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = dave.find(v1::RoomQuery::default()).await.unwrap();
    assert_eq!(names(&found), ["r"]);
}

#[tokio::test(start_paused = true)]
async fn those_who_come_together_are_written_down_once() {
    let (nodes, local) = cluster::<1>().await;
    let lab = &nodes[0].lab;
    let _owner = owner(lab, "r", &[]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let prefix = Key::new(["open"]).unwrap();
    let mut watch = local.watch(&prefix).await.unwrap();
    assert!(matches!(watch.next().await, Some(WatchEvent::Put { .. })));
    assert!(matches!(watch.next().await, Some(WatchEvent::Synced)));

    let mut members = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let mut device = lab.device(user).await;
        device.join("r", JoinMode::Join).await.unwrap();
        members.push(device);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(watch.next().await, Some(WatchEvent::Put { .. })));
    let again = tokio::time::timeout(Duration::from_secs(5), watch.next());
    assert!(again.await.is_err(), "one record has all three");
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_node_has_listed_is_kept_by_others_or_cleared() {
    let (nodes, local) = cluster::<3>().await;
    let alice = owner(&nodes[0].lab, "shared", &[("mode", text("duel"))]).await;
    let mut bob = nodes[1].lab.device("bob").await;
    bob.join("shared", JoinMode::Join).await.unwrap();
    let mut dave = nodes[0].lab.device("dave").await;
    let lonely = v1::Join {
        room: "lonely".into(),
        mode: JoinMode::Create.into(),
        with_code: true,
        settings: Some(v1::RoomSettings {
            members_max: 2,
            ..v1::RoomSettings::default()
        }),
        ..v1::Join::default()
    };
    let code = dave.join_found(lonely).await.unwrap().code;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(values(&local, "open").await.len(), 2);

    nodes[0].lab.services.kill();
    drop((alice, dave));
    tokio::time::sleep(Duration::from_secs(5)).await;
    // The seats are not kept in a room that says so; "shared" goes on without its first keeper.
    bob.drain().await;
    let changed = public("mode", text("race"));
    bob.act("shared", change(vec![changed])).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut erin = nodes[2].lab.device("erin").await;
    let races = v1::RoomQuery {
        conditions: vec![condition("mode", v1::Comparison::Equal, vec![text("race")])],
        ..v1::RoomQuery::default()
    };
    assert_eq!(names(&erin.find(races).await.unwrap()), ["shared"]);

    assert_eq!(
        erin.join_found(by_code(&code)).await,
        Err(ErrorCode::NoSuchRoom)
    );
    assert_eq!(values(&local, "open").await, ["open.shared"]);
    assert!(values(&local, "code").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_seats_are_kept_is_handed_on_when_its_heir_dies_too() {
    let (nodes, local) = cluster::<3>().await;
    let mut dave = nodes[0].lab.device("dave").await;
    dave.join("lonely", JoinMode::Create).await.unwrap();
    for number in [0, 1] {
        let of_dead = values(&local, "rooms-of").await;
        let [of_dead] = of_dead.as_slice() else {
            panic!("one node hosts it, not {of_dead:?}");
        };
        let holder = (0..3).find(|node| of_dead.contains(&format!("node-{node}.")));
        nodes[holder.unwrap()].lab.services.kill();
        dave.connection = None;
        tokio::time::sleep(Duration::from_secs(4)).await;
        let of_heir = values(&local, "rooms-of").await;
        assert_eq!(of_heir.len(), 1, "after {} deaths", number + 1);
        assert_ne!(of_heir[0], *of_dead);
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_cannot_have_rooms_kept_for_years() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    alice.hears_all = true;
    let year_ms = 365 * 86_400_000;
    let join = v1::Join {
        room: "forever".into(),
        mode: JoinMode::Create.into(),
        settings: Some(v1::RoomSettings {
            seat_kept_ms: year_ms,
            empty_kept_ms: year_ms,
            ..v1::RoomSettings::default()
        }),
        ..v1::Join::default()
    };
    alice.join_found(join).await.unwrap();
    let settings = loop {
        if let server_frame::Body::RoomEvent(event) = alice.next().await
            && let Some(room_event::Kind::Settings(settings)) = event.kind
        {
            break settings;
        }
    };
    assert_eq!(
        (settings.seat_kept_ms, settings.empty_kept_ms),
        (3_600_000, 3_600_000)
    );
}

#[tokio::test(start_paused = true)]
async fn a_room_of_a_later_release_is_left_as_it_is() {
    let (nodes, local) = cluster::<1>().await;
    let key = Key::new(["room", "later"]).unwrap();
    let at = local
        .append(
            &key,
            "first".into(),
            Purpose::More,
            Expect::Any,
            OperationId([1; 16]),
        )
        .await
        .unwrap();
    local.snapshot(&key, at, "unreadable".into()).await.unwrap();
    let mut alice = nodes[0].lab.device("alice").await;
    let id = alice.ask_join("later", JoinMode::JoinOrCreate, 0);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let joined = alice.next_response(id).await;
    assert_eq!(joined, Err(ErrorCode::Unavailable));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut tail = local.tail(&key, None).await.unwrap();
    let state = "unreadable".into();
    assert_eq!(tail.next().await, Some(TailEvent::Snapshot { at, state }));
    assert_eq!(tail.next().await, Some(TailEvent::Synced));
}

#[tokio::test(start_paused = true)]
async fn a_join_that_is_known_to_be_refused_is_not_written_down() {
    let (nodes, local) = cluster::<1>().await;
    let mut alice = nodes[0].lab.device("alice").await;
    let join = |mode: JoinMode, password: &'static [u8]| v1::Join {
        room: "r".into(),
        mode: mode.into(),
        password: password.into(),
        settings: Some(v1::RoomSettings {
            members_max: 4,
            password: bytes::Bytes::from_static(&[3; 32]),
            seat_kept_ms: 60_000,
            ..v1::RoomSettings::default()
        }),
        ..v1::Join::default()
    };
    alice
        .join_found(join(JoinMode::Create, &[3; 32]))
        .await
        .unwrap();
    let key = Key::new(["room", "r"]).unwrap();
    let mut tail = local.tail(&key, None).await.unwrap();
    while tail.next().await != Some(TailEvent::Synced) {}

    let mut bob = nodes[0].lab.device("bob").await;
    let refused = bob.join_found(join(JoinMode::Join, &[4; 32])).await;
    assert_eq!(refused, Err(ErrorCode::WrongPassword));
    bob.join_found(join(JoinMode::Join, &[3; 32]))
        .await
        .unwrap();
    let Some(TailEvent::Entry { entry, .. }) = tail.next().await else {
        panic!("the log goes on with the join that was legal");
    };
    let tombolo_room::Body::Joined(joined) = tombolo_room::Entry::decode(&entry).unwrap().body
    else {
        panic!("what is written is a join");
    };
    assert!(
        joined
            .password
            .is_some_and(|password| password.0 == [3; 32])
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_room_is_taken_away_by_who_tries_to_join() {
    let (nodes, local) = cluster::<1>().await;
    let alice = owner(&nodes[0].lab, "r", &[]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let key = Key::new(["open", "r"]).unwrap();
    let left_over = local.get(&key).await.unwrap().unwrap().value;
    drop(alice);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert!(values(&local, "open").await.is_empty());
    local.cas(&key, None, Some(left_over)).await.unwrap();

    let node = start(&local, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bob = node.lab.device("bob").await;
    assert_eq!(
        names(&bob.find(v1::RoomQuery::default()).await.unwrap()),
        ["r"]
    );
    let any = v1::Join {
        mode: JoinMode::JoinOrCreate.into(),
        found: Some(v1::JoinFound::default()),
        ..v1::Join::default()
    };
    let joined = bob.join_found(any).await.unwrap();
    assert!(joined.created);
    assert_ne!(joined.room, "r");
    assert_eq!(
        names(&bob.find(v1::RoomQuery::default()).await.unwrap()),
        [joined.room]
    );
}

#[tokio::test(start_paused = true)]
async fn who_looks_too_often_or_for_nothing_known_is_refused() {
    let lab = Lab::with(|config| config.finds.burst = 2);
    let mut alice = lab.device("alice").await;
    let malformed = v1::RoomQuery {
        conditions: vec![v1::Condition::default()],
        ..v1::RoomQuery::default()
    };
    assert_eq!(alice.find(malformed).await, Err(ErrorCode::BadFrame));
    let too_much = v1::RoomQuery {
        conditions: vec![condition("x", v1::Comparison::Present, vec![]); 17],
        ..v1::RoomQuery::default()
    };
    assert_eq!(alice.find(too_much).await, Err(ErrorCode::Limit));
    let values = (0..32).map(|number| text(&number.to_string())).collect();
    let costly = v1::RoomQuery {
        conditions: vec![condition("x", v1::Comparison::Equal, values)],
        ..v1::RoomQuery::default()
    };
    assert_eq!(alice.find(costly).await, Err(ErrorCode::Limit), "as three");
    for _ in 0..2 {
        alice.find(v1::RoomQuery::default()).await.unwrap();
    }
    let refused = alice.find(v1::RoomQuery::default()).await;
    assert_eq!(refused, Err(ErrorCode::Limit));
    let both = v1::Join {
        mode: JoinMode::Join.into(),
        found: Some(v1::JoinFound::default()),
        code: "7KQ3XF".into(),
        ..v1::Join::default()
    };
    assert_eq!(alice.join_found(both).await, Err(ErrorCode::BadFrame));
    let made = v1::Join {
        mode: JoinMode::Create.into(),
        found: Some(v1::JoinFound::default()),
        ..v1::Join::default()
    };
    assert_eq!(alice.join_found(made).await, Err(ErrorCode::BadFrame));
    assert_eq!(lab.refused(ErrorCode::Limit), 3);
}

impl Device {
    pub(crate) async fn find(&mut self, query: v1::RoomQuery) -> Result<v1::FoundRooms, ErrorCode> {
        let query = Some(query);
        let id = self.request(Some(request::Kind::Find(v1::FindRooms {
            query,
            code: String::new(),
        })));
        match self.response_among_events(id).await? {
            response::Result::Found(found) => Ok(found),
            other => panic!("a query is not answered by {other:?}"),
        }
    }

    async fn join_found(&mut self, join: v1::Join) -> Result<v1::Joined, ErrorCode> {
        let id = self.request(Some(request::Kind::Join(join)));
        match self.response_among_events(id).await? {
            response::Result::Joined(joined) => Ok(joined),
            other => panic!("a join is not answered by {other:?}"),
        }
    }

    async fn leave_among_events(&mut self, room: &str) {
        let leave = v1::Leave { room: room.into() };
        let id = self.request(Some(request::Kind::Leave(leave)));
        self.response_among_events(id).await.unwrap();
    }
}

/// The first member of a room with public properties.
/// Looks for a duel of four, or makes one.
fn looking_for_four() -> v1::Join {
    v1::Join {
        mode: JoinMode::JoinOrCreate.into(),
        found: Some(v1::JoinFound {
            query: Some(v1::RoomQuery {
                conditions: vec![condition("mode", v1::Comparison::Equal, vec![text("duel")])],
                ..v1::RoomQuery::default()
            }),
            first: false,
        }),
        settings: Some(v1::RoomSettings {
            members_max: 4,
            ..v1::RoomSettings::default()
        }),
        room_properties: vec![public("mode", text("duel"))],
        tag: 7,
        ..v1::Join::default()
    }
}

async fn owner(lab: &Lab, room: &str, properties: &[(&str, v1::PropertyValue)]) -> Device {
    let mut device = lab.device(&format!("owner-of-{room}")).await;
    let properties = properties.iter();
    let join = v1::Join {
        room: room.into(),
        mode: JoinMode::Create.into(),
        room_properties: properties
            .map(|(key, value)| public(key, value.clone()))
            .collect(),
        ..v1::Join::default()
    };
    device.join_found(join).await.unwrap();
    device
}

/// The keys of the engine's values under a token.
async fn values(local: &Local, token: &str) -> Vec<String> {
    let prefix = Key::new([token]).unwrap();
    let mut watch = local.watch(&prefix).await.unwrap();
    let mut keys = Vec::new();
    while let Some(WatchEvent::Put { key, .. }) = watch.next().await {
        keys.push(key.as_str().to_owned());
    }
    keys
}

fn by_code(code: &str) -> v1::Join {
    v1::Join {
        mode: JoinMode::Join.into(),
        code: code.into(),
        ..v1::Join::default()
    }
}

fn names(found: &v1::FoundRooms) -> Vec<&str> {
    found.rooms.iter().map(|room| room.room.as_str()).collect()
}

fn condition(
    key: &str,
    comparison: v1::Comparison,
    values: Vec<v1::PropertyValue>,
) -> v1::Condition {
    v1::Condition {
        aspect: aspect(key),
        comparison: comparison.into(),
        values,
    }
}

fn by(key: &str, descending: bool) -> v1::Order {
    v1::Order {
        aspect: aspect(key),
        descending,
    }
}

fn aspect(key: &str) -> Option<v1::Aspect> {
    let kind = Some(v1::aspect::Kind::Property(key.into()));
    Some(v1::Aspect { kind })
}

fn change(changes: Vec<v1::PropertyChange>) -> room_act::Kind {
    room_act::Kind::Change(v1::ChangeProperties {
        changes,
        ..v1::ChangeProperties::default()
    })
}

fn public(key: &str, value: v1::PropertyValue) -> v1::PropertyChange {
    v1::PropertyChange {
        key: key.into(),
        operation: Some(v1::property_change::Operation::Set(value)),
        public: Some(true),
        ..v1::PropertyChange::default()
    }
}

fn text(text: &str) -> v1::PropertyValue {
    let kind = Some(v1::property_value::Kind::Text(text.into()));
    v1::PropertyValue { kind }
}

fn number(number: i64) -> v1::PropertyValue {
    let kind = Some(v1::property_value::Kind::Integer(number));
    v1::PropertyValue { kind }
}

pub(crate) fn is_duel() -> v1::Condition {
    condition("mode", v1::Comparison::Equal, vec![text("duel")])
}
