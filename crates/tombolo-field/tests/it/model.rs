//! The field against a model that looks at every pair.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_field::{
    BUDGET_MAX, Change, Class, Dimensions, EntityId, Everything, Field, Settings, Subject, Watch,
};

use crate::world::{Dice, World, reliable, seen_from};

#[derive(Clone, Copy)]
pub(crate) struct Body {
    pub(crate) class: u8,
    pub(crate) marks: u64,
    pub(crate) position: [f64; 3],
}

pub(crate) fn may_see(observer: &Subject, other: &Subject) -> bool {
    // Team in the lowest bits; whoever has the next bit is seen by its team only.
    other.marks & 4 == 0 || observer.marks & 3 == other.marks & 3
}

pub(crate) fn subject(id: u64, body: &Body) -> Subject {
    Subject {
        id: EntityId(id),
        class: body.class,
        marks: body.marks,
    }
}

pub(crate) fn random_settings(dice: &mut Dice) -> Settings {
    Settings {
        dimensions: [Dimensions::Two, Dimensions::Three][dice.below(2) as usize],
        classes: vec![
            Class::seen_from(20.0),
            Class {
                weight: 3.0,
                ..Class::seen_from(45.0)
            },
        ],
        hysteresis: [0.0, 0.15][dice.below(2) as usize],
        cell: 30.0,
        split_above: 4,
        ..Settings::default()
    }
}

/// Far from zero, around it, and across it.
pub(crate) fn random_origin(dice: &mut Dice) -> f64 {
    [0.0, 1e9, -3e6][dice.below(3) as usize]
}

#[test]
fn without_pressure_every_observer_has_exactly_what_is_in_its_range() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let settings = random_settings(&mut dice);
        let is_lossy = dice.below(2) == 0;
        let origin = random_origin(&mut dice);
        let mut world = World::new(settings.clone());
        let mut bodies: BTreeMap<u64, Body> = BTreeMap::new();
        let mut expected: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        let watch = Watch {
            budget: BUDGET_MAX,
            is_reliable: !is_lossy,
            ..Watch::default()
        };
        for _ in 0..40 {
            step(
                &mut dice,
                &mut world,
                &mut bodies,
                &mut expected,
                origin,
                watch,
            );
            world.tick(&may_see);
            model(&settings, &bodies, &mut expected);
            for (id, expected) in &expected {
                let seen = world.seen(*id);
                let expected: Vec<_> = expected.iter().copied().collect();
                assert_eq!(
                    seen, expected,
                    "seed {seed}: {id} at {:?}",
                    bodies[id].position
                );
                for (other, seen) in world.mirrors[&EntityId(*id)].seen() {
                    let body = &bodies[&other.0];
                    assert_eq!(seen.class, body.class, "seed {seed}");
                    for (seen, real) in seen.position.iter().zip(body.position) {
                        assert!((seen - real).abs() < 1e-4, "seed {seed}: {seen} for {real}");
                    }
                }
            }
        }
    }
}

#[test]
fn those_who_creep_are_noticed_as_those_who_jump() {
    for seed in 0..20 {
        creep(seed, 50.0, BUDGET_MAX, |world, id, expected| {
            let expected: Vec<_> = expected.iter().copied().collect();
            assert_eq!(world.seen(id), expected, "seed {seed}: {id}");
        });
    }
}

#[test]
fn who_has_left_or_hides_is_noticed_at_once_though_not_all_can_be_told() {
    for seed in 0..20 {
        let field = creep(seed, 25.0, 256, |world, id, expected| {
            for other in 0..40 {
                let knows = world.field.knows(EntityId(id), EntityId(other));
                let is_there = expected.contains(&other);
                assert_eq!(knows, is_there, "seed {seed}: {id} of {other}");
            }
        });
        assert!(field.stats().deferred > 0, "seed {seed}: all could be told");
    }
}

/// Forty creep, and jump, change their marks or class, or go now and then. After each tick, each is checked
/// against whom it should know.
fn creep(
    seed: u64,
    width: f64,
    budget: usize,
    check: impl Fn(&World, u64, &BTreeSet<u64>),
) -> Field {
    let mut dice = Dice::new(seed);
    let settings = Settings {
        dimensions: Dimensions::Three,
        ..random_settings(&mut dice)
    };
    let mut world = World::new(settings.clone());
    let mut bodies = BTreeMap::new();
    let mut expected = BTreeMap::new();
    let watch = Watch {
        budget,
        ..Watch::default()
    };
    for id in 0..40 {
        let body = Body {
            class: dice.below(2) as u8,
            marks: dice.below(8),
            position: [0; 3].map(|_| dice.between(-width, width)),
        };
        world.put_as(id, body.class, body.marks, body.position);
        world.observe(id, watch);
        bodies.insert(id, body);
        expected.insert(id, BTreeSet::new());
    }
    for _ in 0..120 {
        for (id, body) in &mut bodies {
            let pace = if dice.below(300) == 0 { 60.0 } else { 0.5 };
            let position = body.position;
            body.position = position.map(|at| at + dice.between(-pace, pace));
            if dice.below(100) == 0 {
                body.marks = dice.below(8);
            }
            if dice.below(300) == 0 {
                change_class(*id, body, &mut expected);
            }
            world.put_as(*id, body.class, body.marks, body.position);
        }
        let gone = dice.below(300);
        if bodies.remove(&gone).is_some() {
            world.field.remove(EntityId(gone));
            expected.remove(&gone);
            for seen in expected.values_mut() {
                seen.remove(&gone);
            }
        }
        world.tick(&may_see);
        model(&settings, &bodies, &mut expected);
        for (id, expected) in &expected {
            check(&world, *id, expected);
        }
    }
    world.field
}

/// Some come, some go, all move.
pub(crate) fn step(
    dice: &mut Dice,
    world: &mut World,
    bodies: &mut BTreeMap<u64, Body>,
    expected: &mut BTreeMap<u64, BTreeSet<u64>>,
    origin: f64,
    watch: Watch,
) {
    let flat = |world: &World, mut position: [f64; 3]| {
        if world.field.cell([0.0, 0.0, 1e6]).at[2] == 0 {
            position[2] = 0.0;
        }
        position
    };
    for _ in 0..dice.below(4) {
        let id = dice.below(40);
        if bodies.contains_key(&id) {
            assert!(world.field.remove(EntityId(id)));
            world.mirrors.remove(&EntityId(id));
            bodies.remove(&id);
            expected.remove(&id);
            // Who comes back at once comes in anew.
            for seen in expected.values_mut() {
                seen.remove(&id);
            }
            continue;
        }
        let position = [0; 3].map(|_| origin + dice.between(-60.0, 60.0));
        let body = Body {
            class: dice.below(2) as u8,
            marks: dice.below(8),
            position: flat(world, position),
        };
        bodies.insert(id, body);
        world.put_as(id, body.class, body.marks, body.position);
        if dice.below(2) == 0 {
            world.observe(id, watch);
            expected.insert(id, BTreeSet::new());
        }
    }
    for (id, body) in bodies.iter_mut() {
        if dice.below(3) == 0 {
            let moved = body
                .position
                .map(|coordinate| coordinate + dice.between(-9.0, 9.0));
            body.position = flat(world, moved);
            if dice.below(9) == 0 {
                body.marks = dice.below(8);
            }
            if dice.below(9) == 0 {
                change_class(*id, body, expected);
            }
            world.put_as(*id, body.class, body.marks, body.position);
        }
    }
}

/// Whoever changes its class comes in anew.
fn change_class(id: u64, body: &mut Body, expected: &mut BTreeMap<u64, BTreeSet<u64>>) {
    body.class = 1 - body.class;
    for seen in expected.values_mut() {
        seen.remove(&id);
    }
}

fn model(
    settings: &Settings,
    bodies: &BTreeMap<u64, Body>,
    expected: &mut BTreeMap<u64, BTreeSet<u64>>,
) {
    for (id, seen) in expected {
        let me = &bodies[id];
        let before = std::mem::take(seen);
        for (other, body) in bodies.iter().filter(|(other, _)| *other != id) {
            let range = settings.classes[usize::from(body.class)].range;
            let stretch = if before.contains(other) {
                1.0 + settings.hysteresis
            } else {
                1.0
            };
            let both = me.position.iter().zip(body.position);
            let square: f64 = both.map(|(a, b)| (a - b) * (a - b)).sum();
            if square <= (range * stretch).powi(2)
                && may_see(&subject(*id, me), &subject(*other, body))
            {
                seen.insert(*other);
            }
        }
    }
}

#[test]
fn lost_datagrams_are_made_up_for() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let settings = random_settings(&mut dice);
        let origin = random_origin(&mut dice);
        let mut world = World::new(settings.clone());
        world.lag = dice.below(9);
        world.jitter = dice.below(3) * dice.below(6);
        let mut bodies = BTreeMap::new();
        let mut expected = BTreeMap::new();
        let watch = Watch {
            budget: BUDGET_MAX,
            is_reliable: false,
            ..Watch::default()
        };
        for _ in 0..30 {
            step(
                &mut dice,
                &mut world,
                &mut bodies,
                &mut expected,
                origin,
                watch,
            );
            world.tick_through(&may_see, |_| dice.below(3) > 0);
            model(&settings, &bodies, &mut expected);
        }
        // Nothing moves any more, and everything arrives.
        for _ in 0..40 {
            world.tick(&may_see);
            model(&settings, &bodies, &mut expected);
        }
        for (id, expected) in &expected {
            let expected: Vec<_> = expected.iter().copied().collect();
            assert_eq!(world.seen(*id), expected, "seed {seed}: {id}");
        }
    }
}

#[test]
fn another_class_is_told_to_those_who_know_the_entity_and_nobody_leaves() {
    for watch in [reliable(1100), Watch::default()] {
        let settings = Settings {
            classes: [100.0, 50.0].map(Class::seen_from).into(),
            ..Settings::default()
        };
        let mut world = World::new(settings);
        for id in [1, 2] {
            world.put(id, [id as f64, 0.0, 0.0]);
            world.observe(id, watch);
        }
        world.tick(&Everything);
        for class in [1, 0, 1] {
            world.put_as(2, class, 0, [2.0, 0.0, 0.0]);
            let now = world.now;
            let mut changes = Vec::new();
            let mirror = world.mirrors.get_mut(&EntityId(1)).unwrap();
            world.field.tick(now, &Everything, |id, datagram| {
                assert_eq!(id, EntityId(1), "who has changed goes on to observe");
                changes = mirror.apply(datagram).unwrap();
            });
            assert_eq!(changes, [Change::Updated(EntityId(2))]);
            assert_eq!(mirror.find(EntityId(2)).unwrap().class, class);
        }
        // What is there for a moment within a tick counts.
        for class in [0, 1, 0] {
            world.put_as(2, class, 0, [70.0, 0.0, 0.0]);
        }
        world.put(1, [2.0, 0.0, 0.0]);
        world.tick(&Everything);
        assert_eq!((world.seen(1), world.seen(2)), (vec![2], vec![1]));
        world.put_as(2, 1, 0, [70.0, 0.0, 0.0]);
        world.tick(&Everything);
        assert_eq!((world.seen(1), world.seen(2)), (vec![], vec![1]));
        assert_eq!(world.field.len(), 2);
    }
}

#[test]
fn nothing_flickers_at_a_border() {
    let mut world = World::new(seen_from(100.0));
    world.put(1, [0.0; 3]);
    world.observe(1, reliable(1100));
    let mut history = Vec::new();
    for x in [101.0, 100.0, 101.0, 109.0, 100.5, 110.5, 109.0, 99.0] {
        world.put(2, [x, 0.0, 0.0]);
        world.tick(&Everything);
        history.push(world.seen(1).len());
    }
    assert_eq!(history, [0, 1, 1, 1, 1, 0, 0, 1]);
}

#[test]
fn who_is_seen_from_very_near_is_left_behind_at_once() {
    // The one is hardly to be seen itself, the other is for an observer who wants to see hardly anything.
    for (class, range) in [(1, f64::INFINITY), (0, 4.0)] {
        let settings = Settings {
            classes: [100.0, 4.0].map(Class::seen_from).into(),
            ..Settings::default()
        };
        let mut world = World::new(settings);
        let watch = Watch {
            range,
            ..reliable(1100)
        };
        world.put(0, [0.0; 3]);
        world.put_as(1, class, 0, [0.0; 3]);
        world.observe(0, watch);
        world.tick(&Everything);
        // Far enough for the observer to look around when it knows the other, which is where it is itself.
        world.put(0, [50.0, 0.0, 0.0]);
        world.put_as(1, class, 0, [50.0, 0.0, 0.0]);
        world.tick(&Everything);
        assert_eq!(world.seen(0), [1]);
        for x in [52.45, 54.9] {
            world.put(0, [x, 0.0, 0.0]);
            world.tick(&Everything);
        }
        assert_eq!(world.seen(0), [0; 0], "class {class} within {range}");
    }
}

#[test]
fn there_is_no_seam_at_zero_or_between_cells() {
    for center in [0.0, 100.0, -100.0, 1e9 + 50.0, -1e11] {
        let mut world = World::new(seen_from(10.0));
        world.put(1, [center - 2.0, center - 2.0, 0.0]);
        world.put(2, [center + 2.0, center + 2.0, 0.0]);
        world.observe(1, reliable(1100));
        world.observe(2, reliable(1100));
        world.tick(&Everything);
        assert_eq!(
            (world.seen(1), world.seen(2)),
            (vec![2], vec![1]),
            "at {center}"
        );
    }
}

#[test]
fn an_observer_sees_no_further_than_it_wants() {
    let mut world = World::new(seen_from(100.0));
    for (id, x) in [(1, 0.0), (2, 39.0), (3, 41.0), (4, 99.0)] {
        world.put(id, [x, 0.0, 0.0]);
    }
    let near = Watch {
        range: 40.0,
        ..reliable(1100)
    };
    world.observe(1, near);
    world.observe(4, reliable(1100));
    world.tick(&Everything);
    assert_eq!((world.seen(1), world.seen(4)), (vec![2], vec![1, 2, 3]));
    world.put(2, [43.0, 0.0, 0.0]);
    world.tick(&Everything);
    assert_eq!(world.seen(1), [2], "it leaves a tenth further away");
    world.put(2, [45.0, 0.0, 0.0]);
    world.tick(&Everything);
    assert_eq!(world.seen(1), [0; 0]);
}

#[test]
fn only_what_is_in_range_and_may_be_seen_is_known() {
    let mut world = World::new(seen_from(100.0));
    for (id, marks, x) in [(1, 1, 0.0), (2, 1, 50.0), (3, 6, 50.0), (4, 1, 500.0)] {
        world.put_as(id, 0, marks, [x, 0.0, 0.0]);
    }
    let claimed = [2, 3, 4].map(|id| (EntityId(id), 1));
    let [one, two, three, four] = [1, 2, 3, 4].map(EntityId);
    world.field.resume(one, reliable(1100), &claimed).unwrap();
    assert!(!world.field.knows(one, two), "nobody has looked yet");
    world.tick(&may_see);
    assert!(world.field.knows(one, two));
    assert!(!world.field.knows(one, three), "it is hidden");
    assert!(!world.field.knows(one, four) && !world.field.knows(two, one));
}
