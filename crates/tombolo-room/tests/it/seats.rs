use std::time::Duration;

use tombolo_room::{
    Act, Body, Change, Event, Illegal, LeftReason, Presence, Reserve, SessionId, Settings, Target,
    Value,
};

use crate::world::{World, membership, seats, user};

#[test]
fn a_dropped_member_finds_its_seat_and_its_properties_again() {
    let mut world = World::with(seats(4), &["a", "b", "c"]);
    let changes = vec![Change::set("score".parse().unwrap(), Value::Integer(7))];
    let target = Target::Member(user("b"));
    world
        .act("b", Act::ChangeProperties { target, changes })
        .unwrap();
    let until = world.in_seconds(30);
    let dropped = Event::Dropped {
        user: user("b"),
        until,
    };
    assert_eq!(world.drop("b", 2), Ok(vec![dropped]));
    let member = world.room.member(&user("b")).unwrap();
    assert_eq!(member.presence(), Presence::Dropped { until });
    assert_eq!(world.drop("b", 2), Err(Illegal::NotMember), "once");

    world.wait(29);
    let returned = Event::Returned {
        user: user("b"),
        membership: membership(9),
    };
    assert_eq!(world.join("b", 9), Ok(vec![returned]));
    assert_eq!(world.seat("b"), 1);
    assert_eq!(world.names(), ["a", "b", "c"]);
    let member = world.room.member(&user("b")).unwrap();
    assert_eq!(
        member.properties().property("score").unwrap().value,
        Value::Integer(7)
    );
    assert_eq!(world.tick(600), [], "the seat is not given up any more");
}

#[test]
fn a_seat_that_is_not_taken_up_in_time_is_given_up() {
    let mut world = World::with(seats(2), &["a", "b"]);
    world.drop("b", 2).unwrap();
    assert_eq!(world.join("c", 3), Err(Illegal::Full), "the seat is kept");
    let events = world.tick(30);
    assert!(matches!(
        &events[..],
        [Event::Left {
            reason: LeftReason::Disconnected,
            ..
        }]
    ));
    world.join("c", 3).unwrap();
    assert_eq!(world.seat("c"), 1, "the lowest free seat");
}

#[test]
fn where_no_seats_are_kept_a_dropped_member_leaves_at_once() {
    let settings = Settings {
        seat_kept: Duration::ZERO,
        ..seats(4)
    };
    let mut world = World::with(settings, &["a", "b"]);
    let events = world.drop("b", 2).unwrap();
    assert!(matches!(
        &events[..],
        [Event::Left {
            reason: LeftReason::Disconnected,
            ..
        }]
    ));
}

#[test]
fn a_session_moves_to_another_node_without_a_drop() {
    let mut world = World::with(seats(4), &["a", "b"]);
    let moved = |incarnation| Body::Returned {
        user: user("b"),
        session: SessionId([2; 16]),
        node: "node-2".parse().unwrap(),
        incarnation,
    };
    let events = world.apply(moved(5)).unwrap();
    assert!(matches!(&events[..], [Event::Returned { .. }]));
    let found = world.room.membership(&user("b")).unwrap();
    assert_eq!((found.node.as_str(), found.incarnation), ("node-2", 5));
    assert_eq!(world.apply(moved(5)), Err(Illegal::Member));
}

#[test]
fn kept_seats_count_until_they_are_given_up() {
    let mut world = World::with(seats(3), &["a"]);
    let reserve = |names: &[&str], seconds| {
        Act::Reserve(Reserve {
            users: names.iter().map(|name| user(name)).collect(),
            lasts: Duration::from_secs(seconds),
        })
    };
    let too_many = reserve(&["b", "c", "d"], 10);
    assert_eq!(world.act("a", too_many), Err(Illegal::Full));
    // Members and users named twice need no further seat.
    world.act("a", reserve(&["a", "b", "b", "c"], 10)).unwrap();
    assert!(world.room.is_full());
    assert_eq!(world.join("d", 4), Err(Illegal::Full));
    world.act("a", reserve(&["b"], 0)).unwrap();
    world.join("d", 4).unwrap();
    world.join("c", 3).unwrap();
    assert!(world.room.is_full());
}
