use std::time::Duration;

use tombolo_room::{
    Act, Actor, Audience, Body, Event, Illegal, Join, LeftReason, MEMBERS_MAX, Made, Membership,
    OPERATIONS_MAX, OPERATIONS_REMEMBERED, Password, Reserve, Room, SessionId, Settings,
    SettingsChange, Time,
};

use crate::world::{World, entry, join, membership, seats, user};

#[test]
fn a_room_opens_with_its_first_member_and_closes_with_its_last() {
    let mut world = World::new();
    assert!(!world.room.is_open());
    assert_eq!(world.join("a", 1), Err(Illegal::Closed));

    let opened = world.apply(Body::created(seats(3), join("a", 1))).unwrap();
    let joining = Event::Joined {
        user: user("a"),
        membership: membership(1),
        seat: 0,
    };
    assert_eq!(opened[..2], [Event::Opened, joining]);
    let again = world.apply(Body::created(seats(3), join("b", 2)));
    assert_eq!(again, Err(Illegal::Open));
    world.join("b", 2).unwrap();

    world.leave("a", 1).unwrap();
    let closed = world.leave("b", 2).unwrap();
    let leaving = Event::Left {
        user: user("b"),
        membership: membership(2),
        reason: LeftReason::Left,
    };
    assert_eq!(closed.first(), Some(&leaving));
    assert_eq!(closed.last(), Some(&Event::Closed));
    assert!(!world.room.is_open());
    assert_eq!(world.leave("b", 2), Err(Illegal::Closed));

    world.apply(Body::created(seats(1), join("c", 3))).unwrap();
    assert_eq!(world.names(), ["c"]);
}

#[test]
fn a_full_room_takes_nobody_but_its_members_again() {
    let mut world = World::with(seats(2), &["a", "b"]);
    assert_eq!(world.join("c", 3), Err(Illegal::Full));
    assert!(world.join("a", 4).is_ok());
    assert_eq!(world.join("a", 4), Err(Illegal::Member));
}

#[test]
fn another_session_of_a_present_member_replaces_it_in_its_seat() {
    let mut world = World::with(seats(8), &["a", "b"]);
    let events = world.join("a", 3).unwrap();
    let leaving = Event::Left {
        user: user("a"),
        membership: membership(1),
        reason: LeftReason::Replaced,
    };
    let joining = Event::Joined {
        user: user("a"),
        membership: membership(3),
        seat: 0,
    };
    assert_eq!(events, [leaving, joining]);

    // What the old session still wants to say comes too late.
    assert_eq!(world.leave("a", 1), Err(Illegal::NotMember));
    assert_eq!(world.drop("a", 1), Err(Illegal::NotMember));
    assert_eq!(world.room.membership(&user("a")), Some(&membership(3)));
    assert_eq!(world.names(), ["a", "b"]);
}

#[test]
fn a_late_join_of_an_earlier_session_does_not_put_out_a_later_one_of_its_device() {
    let of = |session, device, life| Membership {
        life,
        keys: membership(device).keys,
        ..membership(session)
    };
    let mut world = World::with(seats(8), &["a"]);
    let mut join = |membership: Membership| {
        let joined = world.apply(Body::Joined(Join::new(user("b"), membership)));
        // A room that somebody reads later knows as much.
        world.room = Room::restore(&world.room.snapshot()).unwrap();
        joined
    };
    join(of(2, 9, 2)).unwrap();
    assert_eq!(join(of(1, 9, 1)), Err(Illegal::Stale));
    join(of(3, 9, 3)).unwrap();
    assert_eq!(join(of(2, 9, 2)), Err(Illegal::Stale));
    assert_eq!(join(of(3, 9, 3)), Err(Illegal::Member));
    // Of another device, or of one that does not count, nobody can tell whether it is older.
    join(of(4, 8, 1)).unwrap();
    join(of(5, 8, 0)).unwrap();
    join(of(6, 8, 1)).unwrap();
    world.drop("b", 6).unwrap();
    let kept = of(6, 8, 1);
    assert_eq!(world.room.membership(&user("b")), Some(&kept));
}

#[test]
fn a_seat_that_is_kept_for_a_later_session_is_not_given_to_an_earlier_one() {
    let of = |session, life| {
        let keys = membership(9).keys;
        let membership = Membership {
            life,
            keys,
            ..membership(session)
        };
        Body::Joined(Join::new(user("b"), membership))
    };
    let mut world = World::with(seats(8), &["a"]);
    world.apply(of(2, 2)).unwrap();
    world.drop("b", 2).unwrap();
    assert_eq!(world.apply(of(1, 1)), Err(Illegal::Stale));
    world.apply(of(3, 3)).unwrap();
}

#[test]
fn a_password_is_asked_of_newcomers_only() {
    let password = Some(Password([7; 32]));
    let settings = Settings {
        password,
        ..seats(8)
    };
    let mut world = World::with(settings, &["a"]);
    assert_eq!(world.join("b", 2), Err(Illegal::Password));
    let with = |password| Join {
        password,
        ..join("b", 2)
    };
    let wrong = Body::Joined(with(Some(Password([8; 32]))));
    assert_eq!(world.apply(wrong), Err(Illegal::Password));
    world.apply(Body::Joined(with(password))).unwrap();
    world.drop("b", 2).unwrap();
    assert!(world.join("b", 3).is_ok(), "a member comes back without it");

    let change = SettingsChange {
        password: Some(None),
        ..SettingsChange::default()
    };
    world.act("a", Act::Configure(change)).unwrap();
    assert!(world.join("c", 4).is_ok());
}

#[test]
fn a_locked_room_lets_in_only_those_with_a_seat() {
    let mut world = World::with(seats(8), &["a"]);
    let lock = SettingsChange {
        is_locked: Some(true),
        ..SettingsChange::default()
    };
    world.act("a", Act::Configure(lock)).unwrap();
    assert_eq!(world.join("b", 2), Err(Illegal::Locked));
    let reserve = Reserve {
        users: vec![user("b")],
        lasts: Duration::from_secs(10),
    };
    world.act("a", Act::Reserve(reserve)).unwrap();
    assert!(world.join("b", 2).is_ok());
    world.drop("b", 2).unwrap();
    assert!(world.join("b", 3).is_ok());
}

#[test]
fn a_banned_user_is_sent_away_until_the_ban_ends() {
    let mut world = World::with(seats(8), &["a", "b"]);
    let ban = |lasts| Act::Ban {
        user: user("b"),
        lasts,
    };
    assert_eq!(world.act("b", ban(None)), Err(Illegal::NotOwner));
    let lasts = Some(Duration::from_secs(60));
    let events = world.act("a", ban(lasts)).unwrap();
    assert!(events.iter().any(|event| matches!(
        event,
        Event::Left {
            reason: LeftReason::Banned,
            ..
        }
    )));
    assert_eq!(world.join("b", 3), Err(Illegal::Banned));
    world.wait(61);
    assert!(world.join("b", 3).is_ok());

    world.act("a", ban(None)).unwrap();
    world.tick(100_000);
    assert_eq!(world.join("b", 4), Err(Illegal::Banned));
    world.act("a", Act::Unban(user("b"))).unwrap();
    assert!(world.join("b", 4).is_ok());
}

#[test]
fn a_kicked_member_may_come_back() {
    let mut world = World::with(seats(8), &["a", "b"]);
    assert_eq!(world.act("b", Act::Kick(user("a"))), Err(Illegal::NotOwner));
    world.act("a", Act::Kick(user("b"))).unwrap();
    assert_eq!(world.names(), ["a"]);
    assert_eq!(world.act("a", Act::Kick(user("b"))), Err(Illegal::NoSuch));
    assert!(world.join("b", 2).is_ok());
}

#[test]
fn a_server_opens_a_room_that_waits_for_its_members() {
    let mut world = World::new();
    let created = |settings, reserve| Body::Created {
        settings,
        first: None,
        properties: Vec::new(),
        reserve,
        code: None,
    };
    let waiting = Settings {
        empty_kept: Duration::from_secs(60),
        ..seats(4)
    };
    world.apply(created(waiting.clone(), None)).unwrap();
    assert!(world.room.is_open());
    assert_eq!(world.tick(60).last(), Some(&Event::Closed));

    let reserve = Reserve {
        users: vec![user("a"), user("b")],
        lasts: Duration::from_secs(20),
    };
    world.apply(created(seats(2), Some(reserve))).unwrap();
    assert_eq!(world.join("c", 3), Err(Illegal::Full));
    world.join("b", 2).unwrap();
    world.tick(20);
    assert!(world.join("c", 3).is_ok(), "the seat of `a` is free again");
}

#[test]
fn an_empty_room_is_kept_for_as_long_as_it_says() {
    let settings = Settings {
        empty_kept: Duration::from_secs(60),
        ..seats(4)
    };
    let mut world = World::with(settings, &["a"]);
    world.leave("a", 1).unwrap();
    assert!(world.room.is_open());
    world.tick(59);
    world.join("b", 2).unwrap();
    world.tick(600);
    assert_eq!(world.names(), ["b"], "who came in time stays");
    world.leave("b", 2).unwrap();
    assert_eq!(world.room.poll_timeout(), Some(world.in_seconds(60)));
    world.wait(60);
    assert_eq!(world.join("c", 3), Err(Illegal::Closed), "time comes first");
}

#[test]
fn a_room_that_is_empty_already_is_kept_for_as_long_as_it_says_now() {
    let settings = Settings {
        empty_kept: Duration::from_secs(60),
        ..seats(4)
    };
    let kept = |seconds| {
        let empty_kept = Some(Duration::from_secs(seconds));
        Act::Configure(SettingsChange {
            empty_kept,
            ..SettingsChange::default()
        })
    };
    let mut world = World::with(settings, &["a"]);
    world.leave("a", 1).unwrap();
    world.tick(50);
    world.serve(kept(600)).unwrap();
    assert_eq!(world.room.poll_timeout(), Some(world.in_seconds(550)));
    world.tick(100);
    assert!(world.room.is_open());
    // Settings that say nothing of it leave it.
    let other = Act::Configure(SettingsChange::default());
    world.serve(other).unwrap();
    assert_eq!(world.room.poll_timeout(), Some(world.in_seconds(450)));
    let events = world.serve(kept(150)).unwrap();
    assert_eq!(events.last(), Some(&Event::Closed), "it has been for long");
}

#[test]
fn closing_a_room_sends_everybody_away() {
    let mut world = World::with(seats(4), &["a", "b"]);
    assert_eq!(world.act("b", Act::Close), Err(Illegal::NotOwner));
    let events = world.serve(Act::Close).unwrap();
    let closed = |event: &&Event| {
        matches!(
            event,
            Event::Left {
                reason: LeftReason::Closed,
                ..
            }
        )
    };
    assert_eq!(events.iter().filter(closed).count(), 2);
    assert_eq!(events.last(), Some(&Event::Closed));
}

#[test]
fn a_repeated_operation_counts_once_even_if_it_was_illegal() {
    let mut room = Room::new();
    let now = Time::from_millis(1_000);
    let created = entry(1, now, Body::created(seats(1), join("a", 1)));
    assert_eq!(room.apply(&created).outcome, Ok(()));
    assert_eq!(room.apply(&created).outcome, Err(Illegal::Repeated));
    let second = entry(2, now, Body::Joined(join("b", 2)));
    assert_eq!(room.apply(&second).outcome, Err(Illegal::Full));
    let wider = entry(3, now, Body::Joined(join("a", 3)));
    assert_eq!(room.apply(&wider).outcome, Ok(()));
    assert_eq!(room.apply(&second).outcome, Err(Illegal::Repeated));
    let unknown = entry(9, now, Body::Ticked).operation;
    // So it is after a restart.
    for room in [Room::restore(&room.snapshot()).unwrap(), room] {
        let made = room.what_became(&created.operation);
        assert_eq!(made, Some(Ok(Made::default())));
        let why = room.what_became(&second.operation);
        assert_eq!(why, Some(Err(Illegal::Full)));
        assert_eq!(room.what_became(&unknown), None);
    }
}

#[test]
fn so_many_operations_are_remembered_for_so_long() {
    let mut room = Room::new();
    let now = Time::from_millis(1_000);
    let created = entry(0, now, Body::created(seats(1), join("a", 1)));
    let _ = room.apply(&created);
    for number in 1..OPERATIONS_MAX as u64 {
        let _ = room.apply(&entry(number, now, Body::Ticked));
    }
    assert_eq!(room.apply(&created).outcome, Err(Illegal::Repeated));
    let _ = room.apply(&entry(OPERATIONS_MAX as u64, now, Body::Ticked));
    assert_eq!(room.apply(&created).outcome, Err(Illegal::Unsure));

    let later = now.after(OPERATIONS_REMEMBERED);
    let _ = room.apply(&entry(9_000, later, Body::Ticked));
    let tick = entry(9_001, later.after(Duration::from_millis(1)), Body::Ticked);
    let _ = room.apply(&tick);
    assert_eq!(room.apply(&tick).outcome, Err(Illegal::Repeated));
    assert_eq!(room.apply(&entry(5, later, Body::Ticked)).outcome, Ok(()));
}

#[test]
fn nothing_is_done_twice_though_more_has_come_since_than_is_remembered() {
    let mut room = Room::new();
    let second = Duration::from_secs(1);
    let now = Time::from_millis(1_000_000);
    let _ = room.apply(&entry(0, now, Body::created(seats(1), join("a", 1))));
    let wanted = now.after(second);
    let act = Act::Say {
        audience: Audience::All,
        payload: "once".into(),
    };
    let say = |time| {
        let (actor, act) = (Actor::Server, act.clone());
        entry(1, time, Body::Act { actor, act })
    };
    assert_eq!(room.apply(&say(wanted)).outcome, Ok(()));
    let busy = wanted.after(second);
    for number in 2..=OPERATIONS_MAX as u64 + 1 {
        let _ = room.apply(&entry(number, busy, Body::Ticked));
    }
    let mut room = Room::restore(&room.snapshot()).unwrap();
    assert_eq!(room.what_became(&say(wanted).operation), None);
    let again = room.apply(&say(wanted));
    assert_eq!(again.outcome, Err(Illegal::Unsure));
    assert_eq!(room.message_last(), 1);
    // What is wanted now has not come before, however much does.
    let mut other = say(busy.after(second));
    other.operation = entry(9_000, busy, Body::Ticked).operation;
    assert_eq!(room.apply(&other).outcome, Ok(()));
    // Members come and go, whatever is remembered.
    let left = Body::Left {
        user: user("a"),
        session: SessionId([1; 16]),
        reason: LeftReason::Left,
    };
    assert_eq!(room.apply(&entry(9_001, now, left)).outcome, Ok(()));
}

#[test]
fn impossible_settings_are_illegal() {
    let impossible = [
        seats(0),
        seats(MEMBERS_MAX + 1),
        Settings {
            history_max: 1_001,
            ..Settings::default()
        },
    ];
    for settings in impossible {
        let mut world = World::new();
        let created = world.apply(Body::created(settings, join("a", 1)));
        assert_eq!(created, Err(Illegal::Settings));
    }
    let mut world = World::with(seats(MEMBERS_MAX), &["a"]);
    let none = SettingsChange {
        members_max: Some(0),
        ..SettingsChange::default()
    };
    assert_eq!(world.act("a", Act::Configure(none)), Err(Illegal::Settings));
}
