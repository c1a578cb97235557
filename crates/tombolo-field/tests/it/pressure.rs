//! A crowd that is too much for the budget.

use std::collections::BTreeMap;

use tombolo_field::{BUDGET_MIN, Class, EntityId, Everything, POSITION_MAX, Settings, Watch};

use crate::world::{Dice, World, reliable, seen_from};

/// An observer at zero and a crowd along a line; everybody moves in every tick. Returns how often each
/// was told.
fn crowd(budget: usize, ticks: usize) -> (World, BTreeMap<u64, usize>, usize) {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(budget));
    let mut told: BTreeMap<u64, usize> = (1..=99).map(|id| (id, 0)).collect();
    let mut largest = 0;
    let mut last: BTreeMap<u64, u32> = BTreeMap::new();
    for _ in 0..ticks {
        world.put(0, [0.0; 3]);
        for id in 1..=99 {
            world.put(id, [id as f64, 0.0, 0.0]);
        }
        world.tick(&Everything);
        largest = largest.max(world.sizes.get(&EntityId(0)).copied().unwrap_or(0));
        for (id, seen) in world.mirrors[&EntityId(0)].seen() {
            if last.insert(id.0, seen.sequence) != Some(seen.sequence) {
                *told.entry(id.0).or_default() += 1;
            }
        }
    }
    (world, told, largest)
}

#[test]
fn the_budget_is_kept_and_nobody_starves() {
    for budget in [256, 512, 1100] {
        let (world, told, largest) = crowd(budget, 400);
        assert!(largest <= budget, "{largest} of {budget}");
        assert!(largest + 64 > budget, "{largest} of {budget} leaves room");
        assert!(world.field.stats().deferred > 0);
        let least = told.values().min().unwrap();
        assert!(*least >= 5, "{budget}: somebody was told {least} times");
    }
}

#[test]
fn the_nearest_go_on_at_full_rate_and_the_rest_at_a_falling_one() {
    let (_, told, _) = crowd(1100, 400);
    assert!(told[&1] >= 398, "the nearest was told {} times", told[&1]);
    let share = |ids: std::ops::RangeInclusive<u64>| -> usize {
        let count = (ids.end() - ids.start() + 1) as usize;
        ids.map(|id| told[&id]).sum::<usize>() / count
    };
    let shares = [
        share(1..=10),
        share(11..=30),
        share(31..=60),
        share(61..=99),
    ];
    assert!(shares.is_sorted_by(|near, far| near > far), "{shares:?}");
}

#[test]
fn who_counts_more_is_told_more_often_from_as_far() {
    let class = |weight| Class {
        weight,
        ..Class::seen_from(100.0)
    };
    let mut world = World::new(Settings {
        classes: vec![class(1.0), class(4.0)],
        ..Settings::default()
    });
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(BUDGET_MIN));
    let (mut told, mut last) = ([0.0_f64; 2], BTreeMap::new());
    for _ in 0..400 {
        for id in 1..=60_u8 {
            world.put_as(id.into(), id % 2, 0, [40.0, f64::from(id) / 10.0, 0.0]);
        }
        world.tick(&Everything);
        for (id, seen) in world.mirrors[&EntityId(0)].seen() {
            let is_told = last.insert(id, seen.sequence) != Some(seen.sequence);
            told[usize::from(seen.class)] += f64::from(u8::from(is_told));
        }
    }
    let often = told[1] / told[0];
    assert!((3.0..5.0).contains(&often), "{told:?}");
}

#[test]
fn in_one_spot_all_are_told_of_all_and_of_nobody_less_than_of_others() {
    // At zero, where four cells meet, and where coordinates end.
    for spot in [[0.0; 3], [POSITION_MAX, -POSITION_MAX, 0.0]] {
        let mut world = World::new(seen_from(100.0));
        let ids = 0..60_u64;
        let (mut told, mut last) = (BTreeMap::new(), BTreeMap::new());
        for tick in 0..200 {
            for id in ids.clone() {
                world.put(id, spot);
                if tick == 0 {
                    world.observe(id, reliable(BUDGET_MIN));
                }
            }
            world.tick(&Everything);
            assert!(world.sizes.values().all(|size| *size <= BUDGET_MIN));
            for (observer, mirror) in &world.mirrors {
                for (id, seen) in mirror.seen() {
                    let pair = (*observer, id);
                    if last.insert(pair, seen.sequence) != Some(seen.sequence) {
                        *told.entry(pair).or_insert(0) += 1;
                    }
                    assert_eq!(seen.position, spot);
                }
            }
        }
        assert_eq!(told.len(), 60 * 59, "all know of all");
        let (least, most) = (told.values().min(), told.values().max());
        // Nine fit into a datagram, so that each has about thirty turns.
        assert!(
            *least.unwrap() >= 25 && *most.unwrap() <= 38,
            "{least:?} {most:?}"
        );
    }
}

#[test]
fn who_jumps_near_is_told_as_often_as_the_near_though_nobody_else_moves() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(BUDGET_MIN));
    let mut told = 0;
    for tick in 0..100 {
        for id in 1..=60 {
            let x = if id == 1 && tick >= 50 { 1.0 } else { 90.0 };
            world.put(id, [x, 0.0, 0.0]);
        }
        world.tick(&Everything);
        let seen = world.mirrors[&EntityId(0)].find(EntityId(1));
        told += usize::from(seen.is_some_and(|seen| tick >= 60 && seen.sequence == tick + 1));
    }
    assert_eq!(told, 40);
}

#[test]
fn all_who_are_far_are_told_of_in_time() {
    let mut dice = Dice::new(7);
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(300));
    for _ in 0..100 {
        for id in 1..=200 {
            world.put(
                id,
                [dice.between(-60.0, 60.0), dice.between(-60.0, 60.0), 0.0],
            );
        }
        world.tick(&Everything);
    }
    assert_eq!(
        world.seen(0).len(),
        200,
        "all have been told of, though ten fit at a time"
    );
}

#[test]
fn what_leaves_is_told_though_others_wait() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(256));
    for id in 1..=8 {
        world.put(id, [1.0; 3]);
    }
    for _ in 0..4 {
        world.tick(&Everything);
    }
    assert_eq!(world.seen(0).len(), 8);
    for id in 1..=8 {
        world.put(id, [500.0; 3]);
    }
    for id in 100..=300 {
        world.put(id, [2.0; 3]);
    }
    world.tick(&Everything);
    assert!(
        world.seen(0).iter().all(|id| *id >= 100),
        "{:?}",
        world.seen(0)
    );
}

#[test]
fn who_is_back_and_goes_before_there_is_room_has_left() {
    for is_told_in_vain in [false, true] {
        let mut world = World::new(seen_from(100.0));
        let watch = Watch {
            budget: BUDGET_MIN,
            ..Watch::default()
        };
        world.put(0, [0.0; 3]);
        world.observe(0, watch);
        world.put(1, [90.0, 0.0, 0.0]);
        world.tick(&Everything);
        assert_eq!(world.seen(0), [1]);
        world.field.remove(EntityId(1));
        if is_told_in_vain {
            world.tick_through(&Everything, |_| false);
        }
        for id in 100..=300 {
            world.put(id, [2.0; 3]);
        }
        world.put(1, [80.0, 0.0, 0.0]);
        world.tick(&Everything);
        let seen = world.mirrors[&EntityId(0)].find(EntityId(1)).unwrap();
        assert_eq!(seen.position[0], 90.0, "that it is back has to wait");
        world.field.remove(EntityId(1));
        world.tick(&Everything);
        assert!(!world.seen(0).contains(&1), "{is_told_in_vain}");
    }
}

#[test]
fn all_who_have_left_are_told_once_for_all_however_long_acknowledgements_take() {
    for (lag, jitter) in [(1, 0), (6, 0), (20, 0), (50, 0), (1, 9), (20, 30)] {
        let mut world = World::new(seen_from(100.0));
        (world.lag, world.jitter) = (lag, jitter);
        let lag = lag + jitter;
        world.put(0, [0.0; 3]);
        world.observe(0, Watch::default());
        for id in 1..=300 {
            world.put(id, [1.0; 3]);
        }
        for _ in 0..100 {
            world.put(0, [0.0; 3]);
            world.tick(&Everything);
        }
        assert_eq!(world.seen(0).len(), 300, "after {lag}");
        for id in 1..=300 {
            world.field.remove(EntityId(id));
        }
        for _ in 0..10 {
            world.tick(&Everything);
        }
        assert_eq!(
            world.seen(0),
            [0; 0],
            "after {lag}: those untold come first"
        );
        let mut last = 0;
        for tick in 0..150 {
            world.put(0, [0.0; 3]);
            world.tick(&Everything);
            if !world.sizes.is_empty() {
                last = tick;
            }
        }
        assert!(last < 3 * lag, "after {lag}: until {last}");
    }
}

#[test]
fn more_departures_than_can_be_told_begin_anew() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(64 * 1024));
    for id in 1..=5000 {
        world.put(id, [1.0; 3]);
    }
    for _ in 0..10 {
        world.tick(&Everything);
    }
    assert_eq!(world.seen(0).len(), 5000);
    for id in 2..=5000 {
        world.put(id, [900.0; 3]);
    }
    world.tick(&Everything);
    assert_eq!(world.seen(0), [1]);
}
