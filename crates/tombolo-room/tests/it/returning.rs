//! Devices that come back after they had lost their sessions.

use std::time::Duration;

use tombolo_room::{Act, Body, Illegal, Join, Membership, OperationId, Room, SENT_AWAY_MAX};
use tombolo_wire::PublicKeys;

use crate::world::{World, join, membership, seats, user};

/// The user's device `number`, by its session `session`, comes back to an opening.
fn coming_back(name: &str, number: u8, session: u8, to: OperationId) -> Join {
    let membership = Membership {
        keys: PublicKeys {
            identity: [number; 32],
            seal: [number ^ 0xff; 32],
        },
        ..membership(session)
    };
    Join {
        returns_to: Some(to),
        ..Join::new(user(name), membership)
    }
}

#[test]
fn a_device_that_lost_its_session_comes_back_to_its_seat() {
    let mut world = World::with(seats(4), &["a", "b", "c"]);
    let opening = world.room.opening().unwrap();
    world.drop("b", 2).unwrap();
    let back = coming_back("b", 2, 12, opening);
    assert_eq!(world.room.admits(&back), Ok(()));
    world.apply(Body::Joined(back)).unwrap();
    assert_eq!(world.seat("b"), 1);
    // So it does when its seat was given up meanwhile.
    world.drop("b", 12).unwrap();
    world.tick(3600);
    assert_eq!(world.names(), ["a", "c"]);
    world
        .apply(Body::Joined(coming_back("b", 2, 22, opening)))
        .unwrap();
}

#[test]
fn who_was_sent_away_does_not_come_back_but_anew() {
    for act in [Act::Kick(user("b")), banned_for_a_second()] {
        let mut world = World::with(seats(4), &["a", "b"]);
        let opening = world.room.opening().unwrap();
        world.drop("b", 2).unwrap();
        world.act("a", act).unwrap();
        world.tick(2);
        let back = || coming_back("b", 2, 12, opening);
        // A room that was read from a snapshot knows it, too.
        let restored = Room::restore(&world.room.snapshot()).unwrap();
        assert_eq!(restored.admits(&back()), Err(Illegal::Kicked));
        assert_eq!(
            world.apply(Body::Joined(back())),
            Err(Illegal::Kicked),
            "it was sent away while it was dropped"
        );
        let other = coming_back("b", 9, 13, opening);
        assert_eq!(world.room.admits(&other), Ok(()), "another device was not");
        let anew = Join {
            returns_to: None,
            ..back()
        };
        world.apply(Body::Joined(anew)).unwrap();
        world.drop("b", 12).unwrap();
        let again = coming_back("b", 2, 14, opening);
        world.apply(Body::Joined(again)).unwrap();
    }
}

#[test]
fn who_is_banned_is_told_that_and_nothing_else() {
    let mut world = World::with(seats(4), &["a", "b"]);
    let opening = world.room.opening().unwrap();
    let ban = Act::Ban {
        user: user("b"),
        lasts: None,
    };
    world.act("a", ban).unwrap();
    let back = coming_back("b", 2, 12, opening);
    assert_eq!(world.apply(Body::Joined(back)), Err(Illegal::Banned));
}

#[test]
fn a_device_comes_back_to_the_opening_that_it_was_in_alone() {
    let mut world = World::with(seats(4), &["a", "b"]);
    let opening = world.room.opening().unwrap();
    world.serve(Act::Close).unwrap();
    let back = || Body::Joined(coming_back("b", 2, 12, opening));
    assert_eq!(world.apply(back()), Err(Illegal::Closed));
    world.apply(Body::created(seats(4), join("c", 3))).unwrap();
    assert_eq!(world.apply(back()), Err(Illegal::Closed));
    world.join("b", 12).unwrap();
}

#[test]
fn a_device_does_not_come_back_to_the_seat_that_another_one_of_its_user_has() {
    let mut world = World::with(seats(4), &["a", "b"]);
    let opening = world.room.opening().unwrap();
    world.drop("b", 2).unwrap();
    world.join("b", 7).unwrap();
    let back = coming_back("b", 2, 12, opening);
    assert_eq!(world.apply(Body::Joined(back)), Err(Illegal::Stale));
    world.drop("b", 7).unwrap();
    let back = coming_back("b", 2, 13, opening);
    assert_eq!(world.apply(Body::Joined(back)), Err(Illegal::Stale));
}

#[test]
fn of_those_who_were_sent_away_the_last_are_remembered() {
    let mut world = World::with(seats(4), &["a"]);
    let opening = world.room.opening().unwrap();
    let names: Vec<_> = (0..=SENT_AWAY_MAX).map(|at| format!("u{at}")).collect();
    for name in &names {
        world.join(name, 5).unwrap();
        world.act("a", Act::Kick(user(name))).unwrap();
    }
    let back = |name: &str| world.room.admits(&coming_back(name, 5, 15, opening));
    assert_eq!(back(&names[0]), Ok(()), "that is too long ago");
    for name in &names[1..] {
        assert_eq!(back(name), Err(Illegal::Kicked));
    }
}

fn banned_for_a_second() -> Act {
    Act::Ban {
        user: user("b"),
        lasts: Some(Duration::from_secs(1)),
    }
}
