use tombolo_room::{
    Act, By, Change, Event, Illegal, OBJECTS_PER_MEMBER_MAX, ObjectId, ObjectPlan, Takeover,
    Target, Value,
};

use crate::world::{World, seats, user};

fn plan(takeover: Takeover, stays: bool) -> ObjectPlan {
    ObjectPlan {
        kind: "ball".parse().unwrap(),
        takeover,
        stays,
        group: None,
        properties: vec![Change::set("x".parse().unwrap(), Value::Number(0.5))],
    }
}

fn own(object: u64, owner: Option<&str>) -> Act {
    Act::OwnObject {
        object: ObjectId(object),
        owner: owner.map(user),
    }
}

fn owner_of(world: &World, object: u64) -> Option<String> {
    let mut objects = world.room.objects();
    let (_, object) = objects.find(|(id, _)| id.0 == object)?;
    object.owner.as_ref().map(ToString::to_string)
}

#[test]
fn objects_are_numbered_and_only_their_owners_change_them() {
    let mut world = World::with(seats(4), &["a", "b"]);
    let create = Act::CreateObject(plan(Takeover::Given, false));
    let events = world.act("b", create.clone()).unwrap();
    let [Event::ObjectCreated { id, object, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(
        (*id, object.owner.as_ref()),
        (ObjectId(1), Some(&user("b")))
    );
    world.act("a", create).unwrap();

    let change = Act::ChangeProperties {
        target: Target::Object(ObjectId(1)),
        changes: vec![Change::set("x".parse().unwrap(), Value::Number(1.5))],
    };
    assert_eq!(world.act("a", change.clone()), Err(Illegal::NotOwner));
    assert!(world.act("b", change.clone()).is_ok());
    assert!(world.serve(change).is_ok());
    let delete = Act::DeleteObject(ObjectId(1));
    assert_eq!(world.act("a", delete.clone()), Err(Illegal::NotOwner));
    world.act("b", delete.clone()).unwrap();
    assert_eq!(world.act("b", delete), Err(Illegal::NoSuch));
}

#[test]
fn takeover_says_who_may_make_an_object_its_own() {
    let mut world = World::with(seats(4), &["a", "b", "c"]);
    for takeover in [Takeover::Fixed, Takeover::Given, Takeover::Taken] {
        world
            .act("b", Act::CreateObject(plan(takeover, true)))
            .unwrap();
    }
    assert_eq!(world.act("b", own(1, Some("c"))), Err(Illegal::NotOwner));
    assert_eq!(world.act("c", own(2, Some("c"))), Err(Illegal::NotOwner));
    world.act("b", own(2, Some("c"))).unwrap();
    world.act("c", own(3, Some("c"))).unwrap();
    assert_eq!(world.act("a", own(3, Some("b"))), Err(Illegal::NotOwner));
    assert_eq!(owner_of(&world, 3).as_deref(), Some("c"));
    assert_eq!(world.act("c", own(3, Some("z"))), Err(Illegal::NoSuch));
    world.serve(own(1, Some("a"))).unwrap();
}

#[test]
fn when_its_owner_leaves_an_object_goes_or_falls_to_the_rooms_owner() {
    let mut world = World::with(seats(4), &["a", "b"]);
    for stays in [true, false] {
        let create = Act::CreateObject(plan(Takeover::Given, stays));
        world.act("b", create).unwrap();
    }
    world.drop("b", 2).unwrap();
    assert_eq!(world.room.objects().count(), 2, "a drop is no leave");
    let events = world.tick(30);
    assert!(events.iter().any(|event| matches!(
        event,
        Event::ObjectDeleted {
            by: By::Rule,
            id: ObjectId(2),
            ..
        }
    )));
    assert_eq!(owner_of(&world, 1), None);
    assert!(world.act("a", Act::DeleteObject(ObjectId(1))).is_ok());
}

#[test]
fn a_member_owns_only_so_many_however_it_came_by_them() {
    let mut world = World::with(seats(4), &["a", "b"]);
    let create = || Act::CreateObject(plan(Takeover::Given, false));
    for _ in 0..OBJECTS_PER_MEMBER_MAX {
        world.act("a", create()).unwrap();
    }
    assert_eq!(world.act("a", create()), Err(Illegal::Limit));
    world.act("b", create()).unwrap();
    let last = OBJECTS_PER_MEMBER_MAX as u64 + 1;
    assert_eq!(world.act("b", own(last, Some("a"))), Err(Illegal::Limit));
    world.act("a", own(1, Some("b"))).unwrap();
    assert!(world.act("b", own(last, Some("a"))).is_ok());
    assert_eq!(world.act("a", create()), Err(Illegal::Limit));
}
