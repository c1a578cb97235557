use std::time::Duration;

use tombolo_room::{
    Act, Body, Entry, Event, Illegal, Join, LeftReason, Membership, NODES_LOST_MAX, Room,
    SessionId, Time,
};

use crate::world::{World, entry, join, membership, seats, user};

fn on_node(name: &str, session: u8, node: &str, incarnation: u64) -> Join {
    let membership = Membership {
        node: node.parse().unwrap(),
        incarnation,
        ..membership(session)
    };
    Join::new(user(name), membership)
}

fn lost(node: &str, incarnation: u64) -> Body {
    let node = node.parse().unwrap();
    Body::NodeLost { node, incarnation }
}

#[test]
fn the_members_of_a_lost_node_are_dropped_in_one_entry() {
    let mut world = World::with(seats(8), &["a"]);
    for (name, session, node, incarnation) in [
        ("b", 2, "node-2", 1),
        ("c", 3, "node-2", 2),
        ("d", 4, "node-2", 3),
        ("e", 5, "node-3", 1),
    ] {
        let join = on_node(name, session, node, incarnation);
        world.apply(Body::Joined(join)).unwrap();
    }
    let events = world.apply(lost("node-2", 2)).unwrap();
    let dropped: Vec<_> = events
        .iter()
        .filter_map(|event| {
            if let Event::Dropped { user, .. } = event {
                return Some(user.as_str());
            }
            None
        })
        .collect();
    let users = vec![user("b"), user("c")];
    assert_eq!(
        events[0],
        Event::NodeLost { users },
        "what they said may be lost"
    );
    assert_eq!((dropped, events.len()), (vec!["b", "c"], 3));
    assert_eq!(world.apply(lost("node-2", 2)), Err(Illegal::NodeLost));
}

#[test]
fn an_open_room_forgets_nothing_and_a_closed_one_all() {
    let mut world = World::with(seats(8), &["a"]);
    world.apply(lost("node-2", 4)).unwrap();
    assert_eq!(world.apply(Body::Forgotten), Err(Illegal::Open));
    let late = Body::Joined(on_node("b", 2, "node-2", 4));
    assert_eq!(world.apply(late), Err(Illegal::NodeLost));
    world.serve(Act::Close).unwrap();
    assert!(!world.room.is_new());
    assert_eq!(world.apply(Body::Forgotten), Ok(Vec::new()));
    assert!(world.room.is_new());
    assert_eq!(world.apply(lost("node-2", 4)), Ok(Vec::new()));
}

#[test]
fn what_a_lost_node_still_says_is_refused() {
    let mut world = World::with(seats(8), &["a"]);
    let join = |incarnation| Body::Joined(on_node("b", 2, "node-2", incarnation));
    world.apply(join(4)).unwrap();
    world.apply(lost("node-2", 4)).unwrap();
    assert_eq!(world.apply(join(4)), Err(Illegal::NodeLost));
    let returned = |incarnation| Body::Returned {
        user: user("b"),
        session: SessionId([2; 16]),
        node: "node-2".parse().unwrap(),
        incarnation,
    };
    assert_eq!(world.apply(returned(3)), Err(Illegal::NodeLost));
    assert!(world.apply(returned(5)).is_ok(), "it has begun anew");
}

#[test]
fn a_lost_node_takes_no_seat_that_its_heir_has_kept() {
    let mut world = World::with(seats(8), &["a"]);
    world
        .apply(Body::Joined(on_node("b", 2, "node-2", 4)))
        .unwrap();
    world.apply(lost("node-2", 4)).unwrap();
    let (user, session) = (user("b"), SessionId([2; 16]));
    let parting = |incarnation, number| {
        let reason = LeftReason::Left;
        let user = user.clone();
        Entry {
            node: Some("node-2".parse().unwrap()),
            incarnation,
            ..entry(
                number,
                Time::ZERO,
                Body::Left {
                    user,
                    session,
                    reason,
                },
            )
        }
    };
    for (incarnation, number) in [(4, 1_001), (3, 1_002)] {
        let left = world.room.apply(&parting(incarnation, number));
        assert_eq!(left.outcome, Err(Illegal::NodeLost), "life {incarnation}");
    }
    // It went on over another node before that was lost, and a later word of the lost one drops nobody.
    world
        .apply(Body::Returned {
            user: user.clone(),
            session,
            node: "node-3".parse().unwrap(),
            incarnation: 1,
        })
        .unwrap();
    let body = Body::Dropped {
        user: user.clone(),
        session,
    };
    let dropped = Entry {
        body,
        ..parting(4, 1_003)
    };
    let dropped = world.room.apply(&dropped);
    assert_eq!(dropped.outcome, Err(Illegal::NodeLost));
    assert!(world.room.member(&user).unwrap().is_present());
    // The next life of the node is heard, and whoever does not say of which life it is.
    let left = world.room.apply(&parting(5, 1_004));
    assert_eq!(left.outcome, Ok(()));
}

#[test]
fn a_room_that_is_closed_remembers_lost_nodes_too() {
    let mut world = World::new();
    world.apply(lost("node-1", 1)).unwrap();
    let created = world.apply(Body::created(seats(2), join("a", 1)));
    assert_eq!(created, Err(Illegal::NodeLost));
    for number in 0..NODES_LOST_MAX {
        world.apply(lost(&format!("other-{number}"), 1)).unwrap();
    }
    let created = world.apply(Body::created(seats(2), join("a", 1)));
    assert!(created.is_ok(), "only so many are remembered");
}

#[test]
fn a_clock_that_is_far_ahead_does_not_end_everything() {
    let mut room = Room::new();
    let now = Time::from_millis(1_700_000_000_000);
    let _ = room.apply(&entry(1, now, Body::created(seats(2), join("a", 1))));
    let _ = room.apply(&entry(2, Time::from_millis(u64::MAX), Body::Ticked));
    let year = Duration::from_secs(366 * 24 * 60 * 60);
    assert!(room.clock() <= now.after(year));
    let _ = room.apply(&entry(3, now, Body::Ticked));
    assert!(room.clock() >= now, "and never goes back");
}
