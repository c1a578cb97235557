//! With whom observers are to be linked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tombolo_field::{Circle, CircleChange, Class, EntityId, Everything, Reach, Settings};

use crate::world::{Dice, World, reliable, seen_from};

const ONE: EntityId = EntityId(1);
const TWO: EntityId = EntityId(2);
const THREE: EntityId = EntityId(3);

fn look(world: &World, circle: &mut Circle, me: u64, position: [f64; 3]) -> Vec<CircleChange> {
    circle.look(
        world.now,
        EntityId(me),
        position,
        &world.mirrors[&EntityId(me)],
    )
}

fn note_linked(
    world: &World,
    circle: &mut Circle,
    me: u64,
    position: [f64; 3],
    other: EntityId,
) -> bool {
    circle.note_linked(world.now, other, position, &world.mirrors[&EntityId(me)])
}

/// A tick in which nobody goes silent.
fn tick(world: &mut World, places: &[(u64, f64)]) {
    for (id, x) in places {
        world.put(*id, [*x, 0.0, 0.0]);
    }
    world.tick(&Everything);
}

#[test]
fn the_lesser_one_begins_and_both_part_only_when_they_are_clearly_far() {
    let mut world = World::new(seen_from(100.0));
    let mut circles = [1, 2].map(|_| Circle::new(Reach::Same(20.0), 8));
    tick(&mut world, &[(1, 0.0), (2, 21.0)]);
    world.observe(1, reliable(1100));
    world.observe(2, reliable(1100));
    let mut step = |x: f64, is_linked: bool| {
        tick(&mut world, &[(1, 0.0), (2, x)]);
        let [mine, theirs] = &mut circles;
        let changes = look(&world, mine, 1, [0.0; 3]);
        if is_linked {
            note_linked(&world, theirs, 2, [x, 0.0, 0.0], ONE);
        }
        let others = look(&world, theirs, 2, [x, 0.0, 0.0]);
        (changes, others)
    };
    assert_eq!(step(21.0, false), (vec![], vec![]), "they are not near yet");
    assert_eq!(step(20.0, false), (vec![CircleChange::Near(TWO)], vec![]));
    assert_eq!(step(23.9, true), (vec![], vec![]), "they are still near");
    let both = [TWO, ONE].map(|id| vec![CircleChange::Far(id)]);
    assert_eq!(step(24.1, false), both.into());
}

#[test]
fn the_greater_one_begins_after_a_while_unless_the_lesser_one_has() {
    for has_begun in [false, true] {
        let mut world = World::new(seen_from(100.0));
        let mut circle = Circle::new(Reach::Same(20.0), 8);
        tick(&mut world, &[(1, 0.0), (2, 1.0)]);
        world.observe(2, reliable(1100));
        let mut changes = Vec::new();
        for round in 0..30 {
            tick(&mut world, &[(1, 0.0), (2, 1.0)]);
            if has_begun && round == 5 {
                assert!(note_linked(&world, &mut circle, 2, [1.0, 0.0, 0.0], ONE));
            }
            let more = look(&world, &mut circle, 2, [1.0, 0.0, 0.0]);
            assert!(more.is_empty() || round >= 10, "{more:?} in round {round}");
            changes.extend(more);
        }
        let expected = if has_begun {
            vec![]
        } else {
            vec![CircleChange::Near(ONE)]
        };
        assert_eq!(changes, expected);
    }
}

#[test]
fn who_is_not_linked_of_a_class_is_never_near() {
    let settings = Settings {
        classes: vec![Class::seen_from(100.0); 2],
        ..Settings::default()
    };
    let mut world = World::new(settings);
    world.put_as(1, 0, 0, [0.0; 3]);
    world.put_as(2, 0, 0, [0.0; 3]);
    world.put_as(3, 1, 0, [0.0; 3]);
    world.observe(1, reliable(1100));
    world.tick(&Everything);
    for (reach, near) in [(vec![0.0, 5.0], THREE), (vec![5.0], TWO)] {
        let mut circle = Circle::new(Reach::ByClass(reach), 8);
        let changes = look(&world, &mut circle, 1, [0.0; 3]);
        assert_eq!(changes, [CircleChange::Near(near)]);
    }
}

#[test]
fn a_link_that_fails_makes_room_and_is_tried_ever_later() {
    let mut world = World::new(seen_from(100.0));
    let mut circle = Circle::new(Reach::Same(20.0), 1);
    world.put(1, [0.0; 3]);
    world.observe(1, reliable(1100));
    let mut begun = Vec::new();
    for round in 0..200_u32 {
        tick(&mut world, &[(1, 0.0), (2, 1.0)]);
        for change in look(&world, &mut circle, 1, [0.0; 3]) {
            assert_eq!(change, CircleChange::Near(TWO));
            begun.push(round);
            circle.note_failed(world.now, TWO);
        }
    }
    let pauses: Vec<_> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses, [10, 20, 40, 80]);
    // Another one has its place meanwhile, and keeps it.
    tick(&mut world, &[(1, 0.0), (2, 1.0), (3, 15.0)]);
    assert_eq!(
        look(&world, &mut circle, 1, [0.0; 3]),
        [CircleChange::Near(THREE)]
    );
    for _ in 0..400 {
        tick(&mut world, &[(1, 0.0), (2, 1.0), (3, 15.0)]);
        assert_eq!(look(&world, &mut circle, 1, [0.0; 3]), []);
    }
    // Whoever was away begins anew.
    tick(&mut world, &[(1, 0.0), (2, 500.0), (3, 500.0)]);
    assert_eq!(
        look(&world, &mut circle, 1, [0.0; 3]),
        [CircleChange::Far(THREE)]
    );
    tick(&mut world, &[(1, 0.0), (2, 1.0)]);
    assert_eq!(
        look(&world, &mut circle, 1, [0.0; 3]),
        [CircleChange::Near(TWO)]
    );
}

#[test]
fn circles_of_a_crowd_are_never_too_large_and_hold_only_those_who_are_near_and_seen() {
    const REACH: f64 = 30.0;
    const MEMBERS_MAX: usize = 4;
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut world = World::new(seen_from(60.0));
        let may_see = |_: &tombolo_field::Subject, other: &tombolo_field::Subject| other.marks == 0;
        let mut places: BTreeMap<u64, [f64; 3]> = BTreeMap::new();
        let mut circle = Circle::new(Reach::Same(REACH), MEMBERS_MAX);
        let mut linked: BTreeSet<EntityId> = BTreeSet::new();
        for round in 0..100 {
            for id in 0..12 {
                let place = places.entry(id).or_insert([0.0; 3]);
                place[0] += dice.between(-15.0, 15.0);
                place[1] += dice.between(-15.0, 15.0);
                world.put_as(id, 0, u64::from(id == 7), *place);
            }
            if round == 0 {
                world.observe(5, reliable(4096));
            }
            world.tick(&may_see);
            if dice.below(10) == 0
                && let Some(failed) = linked.pop_first()
            {
                circle.note_failed(world.now, failed);
            }
            let me = places[&5];
            for change in look(&world, &mut circle, 5, me) {
                match change {
                    CircleChange::Near(id) => {
                        assert!(linked.insert(id), "seed {seed}: {id:?} twice")
                    }
                    CircleChange::Far(id) => assert!(linked.remove(&id), "seed {seed}: {id:?}"),
                }
            }
            assert!(linked.len() <= MEMBERS_MAX, "seed {seed}: {linked:?}");
            assert!(!linked.contains(&EntityId(7)), "seed {seed}: it is hidden");
            for id in &linked {
                let square: f64 = places[&id.0]
                    .iter()
                    .zip(me)
                    .map(|(a, b)| (a - b).powi(2))
                    .sum();
                assert!(square.sqrt() <= REACH * 1.201, "seed {seed}: {id:?} is far");
            }
        }
    }
}

#[test]
fn the_nearest_are_taken_in_first() {
    let mut world = World::new(seen_from(100.0));
    let places: Vec<_> = (1..=9).map(|id| (id, 20.0 - 2.0 * id as f64)).collect();
    tick(&mut world, &places);
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(4096));
    world.tick(&Everything);
    let mut circle = Circle::new(Reach::Same(50.0), 3);
    let changes = look(&world, &mut circle, 0, [0.0; 3]);
    let nearest = [7, 8, 9].map(|id| CircleChange::Near(EntityId(id)));
    assert_eq!(changes, nearest);
    assert_eq!(
        circle.look(
            Duration::MAX,
            EntityId(0),
            [0.0; 3],
            &world.mirrors[&EntityId(0)]
        ),
        []
    );
}

#[test]
fn who_begins_a_link_before_it_is_seen_is_a_guest_for_a_while() {
    let mut world = World::new(seen_from(100.0));
    let mut circle = Circle::new(Reach::Same(20.0), 1);
    world.put(1, [0.0; 3]);
    world.observe(1, reliable(1100));
    tick(&mut world, &[(1, 0.0), (3, 90.0)]);
    let note = |world: &World, circle: &mut Circle, id| note_linked(world, circle, 1, [0.0; 3], id);
    assert!(note(&world, &mut circle, TWO));
    assert!(!note(&world, &mut circle, THREE), "it is seen to be far");
    assert!(note(&world, &mut circle, EntityId(4)));
    assert!(
        !note(&world, &mut circle, EntityId(5)),
        "too many have begun"
    );
    let mut changes = Vec::new();
    for _ in 0..30 {
        tick(&mut world, &[(1, 0.0), (2, 5.0)]);
        changes.extend(look(&world, &mut circle, 1, [0.0; 3]));
    }
    assert_eq!(
        changes,
        [CircleChange::Far(EntityId(4))],
        "it has never come"
    );
}
