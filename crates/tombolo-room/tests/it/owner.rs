use bytes::Bytes;
use tombolo_room::{Act, Body, Event, Illegal, Join, OwnerPolicy, Settings};

use crate::world::{World, join, seats, user};

fn policy(owner_policy: OwnerPolicy) -> Settings {
    Settings {
        owner_policy,
        ..seats(8)
    }
}

#[test]
fn when_the_owner_goes_whoever_is_reached_best_follows_and_gets_its_state() {
    let mut world = World::with(policy(OwnerPolicy::Automatic), &["a", "b"]);
    for (name, session) in [("c", 3), ("d", 4)] {
        let reached = Join {
            reachability: 50,
            ..join(name, session)
        };
        world.apply(Body::Joined(reached)).unwrap();
    }
    assert_eq!(world.owner(), Some("a"));
    let state = Bytes::from_static(b"turn 12");
    world.act("a", Act::KeepState(state.clone())).unwrap();
    let events = world.leave("a", 1).unwrap();
    let owner = Some(user("c"));
    assert_eq!(events.last(), Some(&Event::OwnerChanged { owner, state }));

    world.act("b", Act::Reach(60)).unwrap();
    assert_eq!(world.owner(), Some("c"), "a good owner stays");
    world.drop("c", 3).unwrap();
    assert_eq!(world.owner(), Some("b"), "one that dropped does not");
    world.join("c", 3).unwrap();
    assert_eq!(world.owner(), Some("b"));
}

#[test]
fn whoever_comes_back_by_another_session_is_reached_as_it_says_then() {
    let mut world = World::with(policy(OwnerPolicy::Automatic), &["a", "b", "c"]);
    world.act("b", Act::Reach(9)).unwrap();
    let back = |name, session, reachability| {
        Body::Joined(Join {
            reachability,
            ..join(name, session)
        })
    };
    for (name, session, reachability) in [("b", 2, 1), ("c", 3, 5)] {
        world.drop(name, session).unwrap();
        world.apply(back(name, session + 10, reachability)).unwrap();
    }
    world.leave("a", 1).unwrap();
    assert_eq!(world.owner(), Some("c"));
    // So it is when nobody had noticed that it was away.
    world.apply(back("b", 22, 7)).unwrap();
    world.leave("c", 13).unwrap();
    assert_eq!(world.room.member(&user("b")).unwrap().reachability(), 7);
}

#[test]
fn with_nobody_present_there_is_no_owner_until_somebody_returns() {
    let mut world = World::with(policy(OwnerPolicy::Automatic), &["a", "b"]);
    world.drop("b", 2).unwrap();
    world.drop("a", 1).unwrap();
    assert_eq!(world.owner(), None);
    world.join("b", 5).unwrap();
    assert_eq!(world.owner(), Some("b"));
}

#[test]
fn a_manual_owner_stays_while_dropped_and_is_followed_by_who_claims_first() {
    let mut world = World::with(policy(OwnerPolicy::Manual), &["a", "b", "c"]);
    assert_eq!(world.owner(), Some("a"), "it has made the room");
    let claim = |name| Act::SetOwner(Some(user(name)));
    assert_eq!(world.act("b", claim("b")), Err(Illegal::NotOwner));
    world.drop("a", 1).unwrap();
    assert_eq!(world.owner(), Some("a"));
    world.tick(30);
    assert_eq!(world.owner(), None);
    world.act("c", claim("c")).unwrap();
    world.act("c", claim("b")).unwrap();
    assert_eq!(world.owner(), Some("b"));
    assert_eq!(world.act("b", claim("z")), Err(Illegal::NoSuch));
    world.serve(Act::SetOwner(None)).unwrap();
    assert_eq!(world.owner(), None);
}

#[test]
fn where_nobody_is_to_own_the_room_only_servers_have_the_say() {
    let mut world = World::with(policy(OwnerPolicy::None), &["a", "b"]);
    assert_eq!(world.owner(), None);
    let claim = Act::SetOwner(Some(user("a")));
    assert_eq!(world.act("a", claim.clone()), Err(Illegal::NotOwner));
    assert_eq!(world.serve(claim), Err(Illegal::NotOwner));
    assert_eq!(world.act("a", Act::Kick(user("b"))), Err(Illegal::NotOwner));
    assert!(world.serve(Act::Kick(user("b"))).is_ok());
}

#[test]
fn an_act_of_a_session_that_does_not_take_part_is_refused() {
    let mut world = World::with(seats(8), &["a", "b"]);
    world.drop("a", 1).unwrap();
    assert_eq!(world.act("a", Act::Reach(1)), Err(Illegal::NotMember));
    assert_eq!(world.act("z", Act::Reach(1)), Err(Illegal::NotMember));
}
