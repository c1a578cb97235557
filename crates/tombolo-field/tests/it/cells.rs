//! Cells split and merge.

use tombolo_field::{CellChange, CellId, Dimensions, Settings};

use crate::world::{Dice, World, seen_from};

fn settings() -> Settings {
    Settings {
        cell: 100.0,
        split_above: 8,
        ..seen_from(50.0)
    }
}

fn drain(world: &mut World) -> Vec<CellChange> {
    std::iter::from_fn(|| world.field.poll_cell()).collect()
}

#[test]
fn a_crowded_cell_splits_and_merges_when_they_have_gone() {
    let mut world = World::new(settings());
    for id in 0..9 {
        world.put(id, [-10.0 * id as f64 - 5.0, 5.0, 0.0]);
    }
    let whole = CellId {
        level: 0,
        at: [-1, 0, 0],
    };
    assert_eq!(drain(&mut world), [CellChange::Split(whole)]);
    let part = world.field.cell([-5.0, 5.0, 0.0]);
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
    assert_eq!(drain(&mut world), [], "five are not few enough");
    world.put(4, [900.0, 900.0, 0.0]);
    assert_eq!(drain(&mut world), [CellChange::Merged(whole)]);
}

#[test]
fn those_in_one_spot_split_a_cell_only_so_often() {
    let mut world = World::new(settings());
    for id in 0..1000 {
        world.put(id, [1.0, 1.0, 0.0]);
    }
    assert_eq!(
        drain(&mut world).len(),
        usize::from(tombolo_field::LEVELS_MAX)
    );
    for id in 0..1000 {
        world.field.remove(tombolo_field::EntityId(id));
    }
    assert_eq!(
        drain(&mut world).len(),
        usize::from(tombolo_field::LEVELS_MAX)
    );
    assert_eq!(world.field.cell([1.0, 1.0, 0.0]).level, 0);
}

#[test]
fn changes_that_nobody_asks_for_are_no_more_than_the_cells() {
    let mut world = World::new(settings());
    for _ in 0..100 {
        for id in 0..100 {
            world.put(id, [1.0, 1.0, 0.0]);
        }
        for id in 0..100 {
            world.field.remove(tombolo_field::EntityId(id));
        }
    }
    assert_eq!(drain(&mut world), [], "all is as it was told");
    for id in 0..100 {
        world.put(id, [1.0, 1.0, 0.0]);
    }
    let levels: Vec<_> = drain(&mut world)
        .into_iter()
        .map(|change| match change {
            CellChange::Split(cell) => cell.level,
            CellChange::Merged(cell) => panic!("{cell} was not split"),
        })
        .collect();
    assert_eq!(levels, (0..tombolo_field::LEVELS_MAX).collect::<Vec<_>>());
    for id in 0..100 {
        world.field.remove(tombolo_field::EntityId(id));
    }
    let merged = drain(&mut world).into_iter().map(|change| match change {
        CellChange::Merged(cell) => cell.level,
        CellChange::Split(cell) => panic!("{cell} is empty"),
    });
    assert!(merged.eq((0..tombolo_field::LEVELS_MAX).rev()));
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
        let observed = world.field.cells_observed().unwrap();
        for me in &all {
            let around = world.field.cells_around(*me).unwrap();
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
