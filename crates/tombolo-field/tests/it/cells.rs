//! Cells split and merge.

use std::collections::BTreeSet;

use tombolo_field::{CellId, Dimensions, Settings};

use crate::world::{Dice, World, seen_from};

fn settings() -> Settings {
    Settings {
        cell: 100.0,
        split_above: 8,
        ..seen_from(50.0)
    }
}

#[test]
fn a_crowded_cell_splits_and_merges_when_they_have_gone() {
    let mut world = World::new(settings());
    for id in 0..9 {
        world.put(id, [-10.0 * id as f64 - 5.0, 5.0, 0.0]);
    }
    let spot = [-5.0, 5.0, 0.0];
    let part = world.field.cell(spot);
    assert_eq!(
        part,
        CellId {
            level: 1,
            at: [-1, 0, 0]
        }
    );
    assert_eq!(part.to_string(), "1.-1.0.0");
    for id in 0..4 {
        world.put(id, [900.0, 900.0, 0.0]);
    }
    assert_eq!(world.field.cell(spot), part, "five are not few enough");
    world.put(4, [900.0, 900.0, 0.0]);
    assert_eq!(Some(world.field.cell(spot)), part.whole());
}

#[test]
fn those_in_one_spot_split_a_cell_only_so_often() {
    let mut world = World::new(settings());
    for _ in 0..10 {
        for id in 0..1000 {
            world.put(id, [1.0, 1.0, 0.0]);
        }
        let level = world.field.cell([1.0, 1.0, 0.0]).level;
        assert_eq!(level, tombolo_field::LEVELS_MAX);
        for id in 0..1000 {
            world.field.remove(tombolo_field::EntityId(id));
        }
        assert_eq!(world.field.cell([1.0, 1.0, 0.0]).level, 0);
    }
}

#[test]
fn a_part_knows_its_whole() {
    let part = CellId {
        level: 2,
        at: [-3, 4, 0],
    };
    let whole = part.whole().unwrap();
    assert_eq!((whole.level, whole.at), (1, [-2, 2, 0]));
    assert_eq!((part.part(), whole.whole().unwrap().whole()), (0b001, None));
}

#[test]
fn the_cells_around_somebody_hold_everything_in_range() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let dimensions = [Dimensions::Two, Dimensions::Three][dice.below(2) as usize];
        let mut world = World::new(Settings {
            dimensions,
            ..settings()
        });
        let mut all = Vec::new();
        for id in 0..200 {
            let position = [0; 3].map(|_| dice.between(-150.0, 150.0));
            world.put(id, position);
            world.observe(id, tombolo_field::Watch::default());
            all.push(world.field.position(tombolo_field::EntityId(id)).unwrap());
        }
        let occupied = world.field.cells_occupied();
        let observed = world.field.cells_seen_from(&occupied).unwrap();
        for me in &all {
            let mine = BTreeSet::from([world.field.cell(*me)]);
            assert!(occupied.is_superset(&mine), "seed {seed}");
            let around = world.field.cells_seen_from(&mine).unwrap();
            for other in &all {
                let square: f64 = me.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum();
                if square.sqrt() <= 50.0 {
                    assert!(around.contains(&world.field.cell(*other)), "seed {seed}");
                }
            }
            assert!(observed.is_superset(&around), "seed {seed}");
            assert!(
                around.len() < 200,
                "seed {seed}: cells that nobody could see into"
            );
        }
    }
}
