//! Who stands still has not moved, however often it says so.

use std::time::Duration;

use tombolo_field::{Change, EntityId, Everything, Report};

use crate::world::{World, reliable, seen_from};

/// Somebody looks at an entity from ever other places, and is told what it reports.
fn told(reports: impl Iterator<Item = [f64; 3]>) -> Vec<Change> {
    let mut world = World::new(seen_from(100.0));
    let mut told = Vec::new();
    for (step, position) in (1..).zip(reports) {
        world.put(0, [f64::from(step) / 7.0, f64::from(step) / 3.0, 0.0]);
        let report = Report {
            sequence: step,
            ..Report::at(position)
        };
        let entity = EntityId(1);
        world.field.report(world.now, entity, &report).unwrap();
        if step == 1 {
            world.observe(0, reliable(1100));
        }
        world.now += Duration::from_millis(50);
        let (now, mirror) = (world.now, world.mirrors.get_mut(&EntityId(0)).unwrap());
        world.field.tick(now, &Everything, |_, datagram| {
            told.extend(mirror.apply(datagram).unwrap());
        });
        let seen = mirror.find(entity).unwrap();
        assert_eq!(seen.sequence, step, "what is known is up to date");
        let off = (0..3).map(|at| (seen.position[at] - position[at]).abs());
        assert!(off.fold(0.0, f64::max) < 1e-4, "{seen:?} {position:?}");
    }
    told
}

#[test]
fn what_says_again_where_it_stands_has_not_moved_from_wherever_it_is_looked_at() {
    let stands = std::iter::repeat_n([30.1, 0.7, 0.0], 150);
    assert_eq!(told(stands), [Change::Entered(EntityId(1))]);
}

#[test]
fn what_moves_less_than_can_be_seen_has_moved_once_that_can_be_seen() {
    let creeps = (0..150_u32).map(|step| [30.1 + f64::from(step) * 1e-6, 0.7, 0.0]);
    let told = told(creeps);
    assert_eq!(told[0], Change::Entered(EntityId(1)));
    assert!((5..75).contains(&told.len()), "{}", told.len());
}
