use std::time::Duration;

use tombolo_room::{
    Act, By, Change, Event, Expectation, Illegal, Operation, PROPERTIES_MAX, PROPERTY_BYTES_MAX,
    PROPERTY_CHANGES_MAX, Properties, Settings, Target, VALUE_BYTES_MAX, Value, Writers,
};

use crate::world::{World, seats, user};

fn on_room(changes: Vec<Change>) -> Act {
    let target = Target::Room;
    Act::ChangeProperties { target, changes }
}

fn set(key: &str, value: i64) -> Change {
    Change::set(key.parse().unwrap(), Value::Integer(value))
}

fn integer(properties: &Properties, key: &str) -> Option<i64> {
    if let Value::Integer(value) = properties.property(key)?.value {
        return Some(value);
    }
    panic!("{key} is no integer")
}

fn room_integer(world: &World, key: &str) -> Option<i64> {
    integer(world.room.properties()?, key)
}

#[test]
fn a_change_is_told_with_who_made_it_and_what_it_made() {
    let mut world = World::with(seats(4), &["a"]);
    let events = world.act("a", on_room(vec![set("map", 3)])).unwrap();
    let [
        Event::PropertiesChanged {
            by,
            target,
            changes,
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!((by, target), (&By::Member(user("a")), &Target::Room));
    let property = world.room.properties().unwrap().property("map").unwrap();
    assert_eq!(changes[0].property.as_ref(), Some(property));
    assert_eq!(property.revision, 1);
}

#[test]
fn of_two_changes_that_expect_the_same_one_is_made() {
    let mut world = World::with(seats(4), &["a", "b"]);
    let expecting = |expect, value| {
        on_room(vec![Change {
            expect,
            ..set("turn", value)
        }])
    };
    world.act("a", expecting(Expectation::Absent, 1)).unwrap();
    let late = world.act("b", expecting(Expectation::Absent, 2));
    assert_eq!(late, Err(Illegal::Conflict));
    world
        .act("a", expecting(Expectation::Revision(1), 2))
        .unwrap();
    let late = world.act("b", expecting(Expectation::Revision(1), 3));
    assert_eq!(late, Err(Illegal::Conflict));
    let value = Expectation::Value(Value::Integer(2));
    world.act("b", expecting(value.clone(), 3)).unwrap();
    assert_eq!(world.act("a", expecting(value, 4)), Err(Illegal::Conflict));
    assert_eq!(room_integer(&world, "turn"), Some(3));
}

#[test]
fn a_revision_is_never_given_again_after_a_deletion() {
    let mut world = World::with(seats(4), &["a"]);
    world.act("a", on_room(vec![set("x", 1)])).unwrap();
    let delete = Change {
        operation: Operation::Delete,
        ..set("x", 0)
    };
    world.act("a", on_room(vec![delete])).unwrap();
    world.act("a", on_room(vec![set("x", 1)])).unwrap();
    let properties = world.room.properties().unwrap();
    assert_eq!(properties.property("x").unwrap().revision, 3);
}

#[test]
fn a_batch_is_made_as_a_whole_or_not_at_all() {
    let mut world = World::with(seats(4), &["a"]);
    let add = |key: &str, count| Change {
        operation: Operation::Add(count),
        ..set(key, 0)
    };
    let batch = vec![add("gold", 10), add("gold", 5), set("sword", 1)];
    world.act("a", on_room(batch)).unwrap();
    assert_eq!(room_integer(&world, "gold"), Some(15));

    let unexpected = Change {
        expect: Expectation::Absent,
        ..set("sword", 2)
    };
    let batch = vec![add("gold", -15), unexpected];
    assert_eq!(world.act("a", on_room(batch)), Err(Illegal::Conflict));
    assert_eq!(room_integer(&world, "gold"), Some(15));

    let overflow = vec![add("gold", i64::MAX)];
    assert_eq!(world.act("a", on_room(overflow)), Err(Illegal::Limit));
    let text = Change::set("name".parse().unwrap(), Value::Text("x".into()));
    let batch = vec![text, add("name", 1)];
    assert_eq!(world.act("a", on_room(batch)), Err(Illegal::NotInteger));
}

#[test]
fn a_property_that_is_to_last_goes_by_itself() {
    let mut world = World::with(seats(4), &["a"]);
    let lasting = Change {
        lasts: Some(Duration::from_secs(5)),
        ..set("buff", 1)
    };
    world.act("a", on_room(vec![lasting.clone()])).unwrap();
    world.wait(4);
    world.act("a", on_room(vec![lasting.clone()])).unwrap();
    assert_eq!(world.tick(4), [], "it was renewed");
    let events = world.tick(1);
    let [
        Event::PropertiesChanged {
            by: By::Rule,
            changes,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(changes[0].property, None);

    world.act("a", on_room(vec![lasting])).unwrap();
    world.act("a", on_room(vec![set("buff", 2)])).unwrap();
    assert_eq!(world.tick(100), [], "it is to stay now");
}

#[test]
fn properties_that_go_at_once_are_one_event() {
    let mut world = World::with(seats(4), &["a"]);
    let lasting = ["x", "y", "z"].map(|key| Change {
        lasts: Some(Duration::from_secs(5)),
        ..set(key, 1)
    });
    for (later, change) in lasting.into_iter().enumerate() {
        world.wait(later as u64);
        world.act("a", on_room(vec![change])).unwrap();
    }
    let events = world.tick(100);
    let [Event::PropertiesChanged { changes, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(changes.len(), 3);
}

#[test]
fn who_may_write_is_as_the_room_says() {
    for (writers, owner, other) in [
        (Writers::Everybody, true, true),
        (Writers::Owner, true, false),
        (Writers::Server, false, false),
    ] {
        let settings = Settings {
            writers,
            ..seats(4)
        };
        let mut world = World::with(settings, &["a", "b"]);
        for (name, may) in [("a", owner), ("b", other)] {
            let changed = world.act(name, on_room(vec![set("x", 1)]));
            assert_eq!(changed.is_ok(), may, "{writers:?} {name}");
        }
        assert!(world.serve(on_room(vec![set("x", 2)])).is_ok());
    }
}

#[test]
fn a_members_properties_are_its_own_and_go_with_it() {
    let mut world = World::with(seats(4), &["a", "b", "c"]);
    let ready = |name: &str| Act::ChangeProperties {
        target: Target::Member(user(name)),
        changes: vec![set("ready", 1)],
    };
    assert_eq!(world.act("b", ready("c")), Err(Illegal::NotOwner));
    world.act("b", ready("b")).unwrap();
    world.act("a", ready("b")).unwrap();
    assert_eq!(world.act("a", ready("z")), Err(Illegal::NoSuch));
    world.leave("b", 2).unwrap();
    world.join("b", 2).unwrap();
    let member = world.room.member(&user("b")).unwrap();
    assert_eq!(integer(member.properties(), "ready"), None);
}

#[test]
fn no_room_grows_beyond_its_limits() {
    let mut world = World::with(seats(4), &["a", "b"]);
    for number in 0..PROPERTIES_MAX / PROPERTY_CHANGES_MAX {
        let keys = (0..PROPERTY_CHANGES_MAX).map(|key| set(&format!("k{number}-{key}"), 0));
        world.act("a", on_room(keys.collect())).unwrap();
    }
    let one_more = world.act("a", on_room(vec![set("more", 0)]));
    assert_eq!(one_more, Err(Illegal::Limit));

    let large = |name: &str, key: usize, bytes: usize| Act::ChangeProperties {
        target: Target::Member(user(name)),
        changes: vec![Change::set(
            format!("k{key}").parse().unwrap(),
            Value::Binary(vec![0; bytes].into()),
        )],
    };
    let too_large = world.act("a", large("a", 0, VALUE_BYTES_MAX + 1));
    assert_eq!(too_large, Err(Illegal::Limit));
    let refused = (0..2 * PROPERTY_BYTES_MAX / VALUE_BYTES_MAX)
        .map(|key| {
            world.act(
                "a",
                large(
                    "ab".get(key % 2..=key % 2).unwrap(),
                    key / 2,
                    VALUE_BYTES_MAX,
                ),
            )
        })
        .filter(|changed| *changed == Err(Illegal::Limit))
        .count();
    assert!(refused > 0, "all of the room together is bounded");
    world.leave("b", 2).unwrap();
    assert!(world.act("a", large("a", 0, VALUE_BYTES_MAX)).is_ok());
    assert!(world.act("a", large("a", 200, VALUE_BYTES_MAX)).is_ok());
}
