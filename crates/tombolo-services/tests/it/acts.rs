use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_engine::{Local, LocalConfig};
use tombolo_wire::v1::{
    self, ErrorCode, JoinMode, request, response, room_act::Kind, room_event, server_frame,
};

use crate::cluster::{cluster, members, start_with};
use crate::lab::{Device, Lab, UNIX_NOW};

#[tokio::test(start_paused = true)]
async fn whoever_joins_is_told_how_the_room_is_and_then_what_changes() {
    let lab = Lab::new();
    let [mut alice] = lab.members("r", ["alice"]).await;
    alice.act("r", set("", 0, "map", 3)).await.unwrap();
    alice.act("r", set("alice", 0, "ready", 1)).await.unwrap();
    let object = Kind::CreateObject(ball(0));
    assert_eq!(alice.act("r", object).await.unwrap().object, 1);

    let mut bob = lab.device("bob").await;
    bob.hears_all = true;
    bob.join("r", JoinMode::Join).await.unwrap();
    let events = bob.events_until_synced().await;
    assert_eq!(
        events,
        [
            "reset",
            "settings 64",
            "owner alice",
            "room map=3",
            "alice ready=1",
            "object 1 of alice x=7",
        ]
    );

    alice.act("r", set("", 1, "x", 8)).await.unwrap();
    assert_eq!(bob.next_event().await, "alice: 1 x=8");
    alice
        .act("r", say("hi", v1::Audience::default()))
        .await
        .unwrap_err();
    alice.act("r", say_to_all("hi")).await.unwrap();
    assert_eq!(bob.next_event().await, "alice: 1 said hi");
    alice.leave("r").await.unwrap();
    assert_eq!(bob.next_event().await, "-alice left");
    assert_eq!(bob.next_event().await, "no object 1");
    assert_eq!(bob.next_event().await, "owner bob");
}

#[tokio::test(start_paused = true)]
async fn an_act_that_is_not_legal_is_refused_with_its_reason() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    let kick = |user: &str| Kind::Kick(v1::Kick { user: user.into() });
    let refused = [
        (kick("alice"), ErrorCode::NotOwner),
        (set("alice", 0, "x", 1), ErrorCode::NotOwner),
        (set("", 9, "x", 1), ErrorCode::NoSuchThing),
        (set("", 0, "no good", 1), ErrorCode::BadFrame),
    ];
    for (act, code) in refused {
        assert_eq!(bob.act("r", act).await, Err(code));
    }
    let unexpected = Kind::Change(v1::ChangeProperties {
        changes: vec![v1::PropertyChange {
            expect: Some(v1::property_change::Expect::Revision(7)),
            ..integer("x", 1)
        }],
        ..v1::ChangeProperties::default()
    });
    assert_eq!(bob.act("r", unexpected).await, Err(ErrorCode::Conflict));
    assert_eq!(bob.act("s", kick("x")).await, Err(ErrorCode::NotAMember));

    alice.act("r", kick("bob")).await.unwrap();
    assert_eq!(bob.next_event().await, "-bob kicked");
    assert_eq!(
        bob.act("r", kick("alice")).await,
        Err(ErrorCode::NotAMember)
    );
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_puts_itself_out_is_told_so_and_answered_once() {
    let lab = Lab::new();
    let [mut alice] = lab.members("r", ["alice"]).await;
    let user = "alice".to_owned();
    let kick = Kind::Kick(v1::Kick { user: user.clone() });
    let ban = Kind::Ban(v1::Ban { user, lasts_ms: 1 });
    let close = Kind::Close(v1::CloseRoom {});
    for (act, reason) in [(kick, "kicked"), (ban, "banned"), (close, "closed")] {
        let asked = alice.ask_act("r", act);
        assert_eq!(alice.next_event().await, format!("-alice {reason}"));
        let answered = alice.response_among_events(asked).await;
        assert!(
            matches!(answered, Ok(response::Result::Acted(_))),
            "{answered:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
        // Nothing else was answered before this.
        alice.join("r", JoinMode::JoinOrCreate).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_settings_of_a_room_say_who_gets_in() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    let password = Bytes::from_static(&[5; 32]);
    let created = v1::Join {
        room: "r".into(),
        mode: JoinMode::Create.into(),
        settings: Some(v1::RoomSettings {
            members_max: 3,
            password: password.clone(),
            history_max: 10,
            ..v1::RoomSettings::default()
        }),
        reserve: Some(v1::Reserve {
            users: vec!["carol".into()],
            lasts_ms: 60_000,
        }),
        ..v1::Join::default()
    };
    alice.join_as(created).await.unwrap();
    let join = |password: &Bytes| v1::Join {
        room: "r".into(),
        mode: JoinMode::Join.into(),
        password: password.clone(),
        ..v1::Join::default()
    };
    let mut bob = lab.device("bob").await;
    let mut carol = lab.device("carol").await;
    let mut dave = lab.device("dave").await;
    let wrong = bob.join_as(join(&Bytes::new())).await;
    assert_eq!(wrong, Err(ErrorCode::WrongPassword));
    bob.join_as(join(&password)).await.unwrap();
    let full = dave.join_as(join(&password)).await;
    assert_eq!(full, Err(ErrorCode::RoomFull), "a seat is kept for another");
    let joined = carol.join_as(join(&password)).await.unwrap();
    let seats: Vec<_> = joined.members.iter().map(|member| member.seat).collect();
    assert_eq!(seats, [0, 1, 2]);

    let ban = Kind::Ban(v1::Ban {
        user: "bob".into(),
        lasts_ms: 0,
    });
    alice.act("r", ban).await.unwrap();
    let banned = bob.join_as(join(&password)).await;
    assert_eq!(banned, Err(ErrorCode::Banned));
}

#[tokio::test(start_paused = true)]
async fn members_are_told_that_a_room_has_a_password_and_not_what_to_show() {
    let lab = Lab::new();
    let mut alice = lab.device("alice").await;
    let (first, second, told) = (
        Bytes::from_static(&[5; 32]),
        Bytes::from_static(&[6; 32]),
        Bytes::from_static(&[0; 32]),
    );
    let join = |room: &str, password: &Bytes| v1::Join {
        room: room.into(),
        mode: JoinMode::JoinOrCreate.into(),
        settings: Some(v1::RoomSettings {
            members_max: 3,
            password: password.clone(),
            ..v1::RoomSettings::default()
        }),
        password: password.clone(),
        ..v1::Join::default()
    };
    alice.join_as(join("r", &first)).await.unwrap();
    let mut bob = lab.device("bob").await;
    bob.join_as(join("r", &first)).await.unwrap();
    assert_eq!(next_password(&mut bob).await, told);

    let configure = |password: &Bytes| {
        Kind::Configure(v1::Configure {
            password: Some(password.clone()),
            ..v1::Configure::default()
        })
    };
    for change in [&second, &told] {
        alice.act("r", configure(change)).await.unwrap();
        assert_eq!(next_password(&mut bob).await, told);
    }
    bob.leave("r").await.unwrap();
    for wrong in [&first, &told] {
        let mut join = join("r", wrong);
        join.settings = None;
        assert_eq!(bob.join_as(join).await, Err(ErrorCode::WrongPassword));
    }
    bob.join_as(join("r", &second)).await.unwrap();
    alice.act("r", configure(&Bytes::new())).await.unwrap();
    while next_password(&mut bob).await != Bytes::new() {}
    let made_as_told = bob.join_as(join("another", &told)).await;
    assert_eq!(made_as_told, Err(ErrorCode::BadFrame));
}

#[tokio::test(start_paused = true)]
async fn a_room_is_not_made_larger_than_rooms_may_be() {
    let lab = Lab::with(|config| config.members_max = 16);
    let [mut alice] = lab.members("r", ["alice"]).await;
    for (members_max, is_taken) in [(16, true), (17, false), (u32::MAX, false)] {
        let configure = Kind::Configure(v1::Configure {
            members_max: Some(members_max),
            ..v1::Configure::default()
        });
        let configured = alice.act("r", configure).await;
        let expected = if is_taken {
            Ok(())
        } else {
            Err(ErrorCode::Limit)
        };
        assert_eq!(configured.map(drop), expected, "{members_max}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_member_does_not_say_so_much_that_others_lose_their_sessions() {
    let lab = Lab::new();
    let [mut alice, bob] = lab.members("r", ["alice", "bob"]).await;
    let mut refused = 0;
    for _ in 0..80 {
        let text = "x".repeat(60 * 1024);
        refused += usize::from(alice.act("r", say_to_all(&text)).await.is_err());
    }
    assert!(refused > 60, "{refused}");
    assert_eq!(lab.services.stats().sessions, 2);
    drop(bob);
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_seat_has_not_recovered_what_was_said_to_its_groups() {
    let lab = Lab::with(|config| config.unix_now = virtual_now);
    let mut alice = lab.device("alice").await;
    let created = v1::Join {
        room: "r".into(),
        mode: JoinMode::Create.into(),
        settings: Some(v1::RoomSettings {
            history_max: 10,
            ..v1::RoomSettings::default()
        }),
        ..v1::Join::default()
    };
    alice.join_as(created).await.unwrap();
    let mut bob = lab.device("bob").await;
    let join = |after| v1::Join {
        room: "r".into(),
        mode: JoinMode::Join.into(),
        after,
        ..v1::Join::default()
    };
    let joined = bob.join_as(join(None)).await.unwrap();
    let interest = v1::ChangeGroups {
        enter: vec![5],
        exit: Vec::new(),
    };
    bob.act("r", Kind::Groups(interest)).await.unwrap();
    let to_group = v1::Audience {
        group: 5,
        ..v1::Audience::default()
    };
    let to_others = v1::Audience {
        others: true,
        ..v1::Audience::default()
    };
    for (audience, is_recovered) in [(to_others, true), (to_group, false)] {
        bob.drain().await;
        bob.leave("r").await.unwrap();
        alice.act("r", say("there", audience)).await.unwrap();
        let again = bob.join_as(join(joined.last.clone())).await.unwrap();
        assert_eq!(again.recovered, is_recovered);
    }
}

#[tokio::test(start_paused = true)]
async fn who_changed_its_groups_while_its_node_did_not_read_has_lost_what_was_said_to_groups() {
    let to_group = v1::Audience {
        group: 5,
        ..v1::Audience::default()
    };
    let to_others = v1::Audience {
        others: true,
        ..v1::Audience::default()
    };
    for (audience, expected) in [(to_group, "synced lost"), (to_others, "synced")] {
        let (nodes, _) = cluster::<2>().await;
        let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
        bob.hears_all = true;
        nodes[1].wire.is_slow.store(true, Ordering::Relaxed);
        alice.act("r", say("there", audience)).await.unwrap();
        let interest = v1::ChangeGroups {
            enter: vec![5],
            exit: Vec::new(),
        };
        bob.ask_act("r", Kind::Groups(interest));
        bob.is_quiet().await;
        nodes[1].wire.is_void.store(true, Ordering::Relaxed);
        nodes[1].wire.is_slow.store(false, Ordering::Relaxed);
        let mut said = 0;
        let synced = loop {
            let event = bob.next_event().await;
            said += usize::from(event.contains("there"));
            if event.starts_with("synced") {
                break event;
            }
        };
        assert_eq!(
            (synced.as_str(), said),
            (expected, usize::from(expected == "synced"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn durable_messages_are_kept_for_those_who_come_back() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.hears_all = true;
    bob.drain().await;
    alice.act("r", say_to_all("one")).await.unwrap();
    assert_eq!(bob.next_event().await, "alice: 1 said one");
    bob.leave("r").await.unwrap();
    let others = v1::Audience {
        others: true,
        ..v1::Audience::default()
    };
    alice.act("r", say("two", others)).await.unwrap();
    let carol_only = v1::Audience {
        users: vec!["carol".into()],
        ..v1::Audience::default()
    };
    alice.act("r", say("secret", carol_only)).await.unwrap();
    alice.act("r", say_to_all("four")).await.unwrap();

    let joined = bob.join("r", JoinMode::Join).await.unwrap();
    let last = joined.last.unwrap();
    assert_eq!(
        (last.number, joined.recovered),
        (4, false),
        "nothing was asked"
    );
    bob.events_until_synced().await;
    bob.leave("r").await.unwrap();
    let again = |number, opening: &Bytes| v1::Join {
        room: "r".into(),
        mode: JoinMode::Join.into(),
        after: Some(v1::MessagePosition {
            opening: opening.clone(),
            number,
        }),
        ..v1::Join::default()
    };
    let joined = bob.join_as(again(1, &last.opening)).await.unwrap();
    assert!(joined.recovered);
    let events = bob.events_until_synced().await;
    assert_eq!(events[3..], ["2 said two", "4 said four"]);
    bob.leave("r").await.unwrap();
    let other = Bytes::from_static(&[0; 16]);
    let joined = bob.join_as(again(1, &other)).await.unwrap();
    assert!(!joined.recovered, "of another room");

    let page = bob.history("r", 0, 2).await.unwrap();
    let numbers = |page: &v1::History| -> Vec<u64> {
        page.messages.iter().map(|message| message.number).collect()
    };
    assert_eq!((numbers(&page), page.more), (vec![4, 2], true));
    let page = bob.history("r", 2, 2).await.unwrap();
    assert_eq!((numbers(&page), page.more), (vec![1], false));
    assert_eq!(bob.history("s", 0, 1).await, Err(ErrorCode::NotAMember));
}

#[tokio::test(start_paused = true)]
async fn members_of_a_group_see_its_objects() {
    let lab = Lab::new();
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.hears_all = true;
    bob.drain().await;
    alice.act("r", Kind::CreateObject(ball(5))).await.unwrap();
    bob.is_quiet().await;
    let groups = |enter, exit| Kind::Groups(v1::ChangeGroups { enter, exit });
    bob.ask_act("r", groups(vec![5], vec![]));
    assert_eq!(bob.next_event().await, "object 1 of alice x=7");
    bob.drain().await;
    alice.act("r", set("", 1, "x", 9)).await.unwrap();
    assert_eq!(bob.next_event().await, "alice: 1 x=9");
    bob.ask_act("r", groups(vec![], vec![5]));
    assert_eq!(bob.next_event().await, "no object 1");
}

#[tokio::test(start_paused = true)]
async fn what_is_to_last_ends_by_itself() {
    let lab = Lab::with(|config| config.unix_now = virtual_now);
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.hears_all = true;
    bob.drain().await;
    alice.act("r", lasting("buff", 5_000)).await.unwrap();
    assert_eq!(bob.next_event().await, "alice: room buff=1");
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    assert_eq!(bob.next_event().await, "room -buff");
}

#[tokio::test(start_paused = true)]
async fn what_is_to_last_lasts_no_longer_since_a_node_with_a_clock_that_is_ahead_was_there() {
    let local = Local::new(LocalConfig::default());
    let clocks: [fn() -> Duration; 2] = [virtual_now, || virtual_now() + HOUR / 120];
    let mut number = 0;
    let nodes = clocks.map(|now| {
        number += 1;
        start_with(&local, number, |config| config.unix_now = now)
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let [mut alice, mut bob] = members(&nodes, "r", [("alice", 0), ("bob", 1)]).await;
    bob.act("r", set("", 0, "map", 1)).await.unwrap();
    bob.drain().await;
    bob.leave("r").await.unwrap();
    alice.drain().await;
    alice.hears_all = true;
    alice.act("r", lasting("buff", 5_000)).await.unwrap();
    alice.drain().await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(alice.next_event().await, "room -buff");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ends_nothing_before_its_time() {
    let lab = Lab::with(|config| config.unix_now = || virtual_now() + JUMP.get());
    let [mut alice, mut bob] = lab.members("r", ["alice", "bob"]).await;
    bob.hears_all = true;
    bob.drain().await;
    alice.act("r", lasting("buff", 60_000)).await.unwrap();
    assert_eq!(bob.next_event().await, "alice: room buff=1");
    JUMP.set(HOUR);
    alice.act("r", set("", 0, "map", 1)).await.unwrap();
    assert_eq!(bob.next_event().await, "alice: room map=1");
    tokio::time::sleep(Duration::from_secs(40)).await;
    bob.is_quiet().await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(bob.next_event().await, "room -buff");
}

#[tokio::test(start_paused = true)]
async fn a_room_outlives_its_last_member_for_as_long_as_it_says() {
    let lab = Lab::with(|config| config.unix_now = virtual_now);
    let mut alice = lab.device("alice").await;
    let create = || v1::Join {
        room: "r".into(),
        mode: JoinMode::Create.into(),
        settings: Some(v1::RoomSettings {
            empty_kept_ms: 10_000,
            ..v1::RoomSettings::default()
        }),
        room_properties: vec![integer("map", 3)],
        ..v1::Join::default()
    };
    alice.join_as(create()).await.unwrap();
    alice.leave("r").await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    alice.drain().await;
    alice.hears_all = true;
    alice.join("r", JoinMode::Join).await.unwrap();
    let events = alice.events_until_synced().await;
    assert!(events.contains(&"room map=3".to_owned()), "{events:?}");
    alice.leave("r").await.unwrap();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let gone = alice.join("r", JoinMode::Join).await;
    assert_eq!(gone.map(drop), Err(ErrorCode::NoSuchRoom));
    alice.is_quiet().await;
    assert_eq!(lab.services.stats().rooms, 0, "nobody hosts it any more");
}

impl Device {
    pub(crate) async fn join_as(&mut self, join: v1::Join) -> Result<v1::Joined, ErrorCode> {
        let id = self.request(Some(request::Kind::Join(join)));
        match self.response_among_events(id).await? {
            response::Result::Joined(joined) => Ok(joined),
            other => panic!("a join is not answered by {other:?}"),
        }
    }

    async fn history(
        &mut self,
        room: &str,
        before: u64,
        limit: u32,
    ) -> Result<v1::History, ErrorCode> {
        let room = room.to_owned();
        let asked = v1::HistoryRequest {
            room,
            before,
            limit,
        };
        let id = self.request(Some(request::Kind::History(asked)));
        match self.response_among_events(id).await? {
            response::Result::History(history) => Ok(history),
            other => panic!("history is not {other:?}"),
        }
    }
}

pub(crate) fn set(member: &str, object: u64, key: &str, value: i64) -> Kind {
    Kind::Change(v1::ChangeProperties {
        member: member.into(),
        object,
        changes: vec![integer(key, value)],
    })
}

fn lasting(key: &str, lasts_ms: u64) -> Kind {
    Kind::Change(v1::ChangeProperties {
        changes: vec![v1::PropertyChange {
            lasts_ms,
            ..integer(key, 1)
        }],
        ..v1::ChangeProperties::default()
    })
}

fn integer(key: &str, value: i64) -> v1::PropertyChange {
    let kind = Some(v1::property_value::Kind::Integer(value));
    let value = v1::PropertyValue { kind };
    v1::PropertyChange {
        key: key.into(),
        operation: Some(v1::property_change::Operation::Set(value)),
        ..v1::PropertyChange::default()
    }
}

fn ball(group: u32) -> v1::CreateObject {
    v1::CreateObject {
        kind: "ball".into(),
        takeover: v1::Takeover::Given.into(),
        group,
        properties: vec![integer("x", 7)],
        ..v1::CreateObject::default()
    }
}

/// What the next settings that are told say of a password.
async fn next_password(device: &mut Device) -> Bytes {
    device.hears_all = true;
    loop {
        if let server_frame::Body::RoomEvent(event) = device.next().await
            && let Some(room_event::Kind::Settings(settings)) = event.kind
        {
            return settings.password;
        }
    }
}

fn say_to_all(text: &str) -> Kind {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    Kind::Say(v1::Say {
        audience: None,
        payload,
    })
}

fn say(text: &str, audience: v1::Audience) -> Kind {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    let audience = Some(audience);
    Kind::Say(v1::Say { audience, payload })
}

thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
    /// By how much the clock has been set forward.
    static JUMP: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A wall clock that goes with the test's.
fn virtual_now() -> Duration {
    let start = START.get().unwrap_or_else(|| {
        let now = Instant::now();
        START.set(Some(now));
        now
    });
    UNIX_NOW + start.elapsed()
}
