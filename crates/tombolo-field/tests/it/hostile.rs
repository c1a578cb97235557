//! Input that makes no sense.

use std::time::Duration;

use tombolo_field::{
    BUDGET_MAX, BUDGET_MIN, Class, DatagramError, Dimensions, ENTITIES_MAX, EntityId, Everything,
    Field, Mirror, PAYLOAD_MAX, POSITION_MAX, RANGE_MIN, Refused, Report, Settings, SettingsError,
    Ticks, Watch,
};

use crate::world::{Dice, World, reliable, seen_from};

#[test]
fn positions_that_are_none_are_refused_and_counted() {
    let mut field = Field::new(Settings::default()).unwrap();
    let id = EntityId(1);
    field
        .report(Duration::ZERO, id, &Report::at([1.0, 2.0, 0.0]))
        .unwrap();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.1e12, -1e300] {
        let report = Report {
            sequence: 2,
            ..Report::at([0.0, bad, 0.0])
        };
        assert_eq!(
            field.report(Duration::ZERO, id, &report),
            Err(Refused::Position),
            "{bad}"
        );
    }
    assert_eq!(
        field.position(id),
        Some([1.0, 2.0, 0.0]),
        "nothing else is disturbed"
    );
    assert_eq!((field.stats().reports, field.stats().refused), (1, 5));
}

#[test]
fn other_reports_that_make_no_sense_are_refused() {
    let mut field = Field::new(Settings {
        entities_max: 1,
        ..Settings::default()
    })
    .unwrap();
    let good = Report::at([0.0; 3]);
    let mut report = |id, report: &Report<'_>| field.report(Duration::ZERO, EntityId(id), report);
    assert_eq!(report(1, &Report { class: 1, ..good }), Err(Refused::Class));
    let payload = [0; PAYLOAD_MAX + 1];
    assert_eq!(
        report(
            1,
            &Report {
                payload: &payload,
                ..good
            }
        ),
        Err(Refused::Payload)
    );
    assert_eq!(report(1, &good), Ok(()));
    assert_eq!(report(1, &good), Err(Refused::Late));
    assert_eq!(report(2, &good), Err(Refused::Full));
    assert_eq!(
        field.observe(EntityId(2), Watch::default()),
        Err(Refused::Unknown)
    );
    for budget in [0, BUDGET_MIN - 1, BUDGET_MAX + 1, usize::MAX] {
        assert_eq!(
            field.observe(EntityId(1), reliable(budget)),
            Err(Refused::Budget)
        );
    }
    for range in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
        let watch = Watch {
            range,
            ..reliable(1100)
        };
        assert_eq!(field.observe(EntityId(1), watch), Err(Refused::Range));
    }
    let knowledge = vec![(EntityId(1), 1); 8001];
    assert_eq!(
        field.resume(EntityId(1), reliable(1100), &knowledge),
        Err(Refused::Knowledge)
    );
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let refused = |settings: Settings| Field::new(settings).map(|_| ()).unwrap_err();
    for range in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e10, 1e-4, 1e-300] {
        assert_eq!(refused(seen_from(range)), SettingsError::Range, "{range}");
        let class = Class {
            linked_within: Some(range),
            ..Class::seen_from(100.0)
        };
        let settings = Settings {
            classes: vec![class],
            ..Settings::default()
        };
        assert_eq!(refused(settings), SettingsError::Range, "{range}");
    }
    let classes = |classes| Settings {
        classes,
        ..Settings::default()
    };
    assert_eq!(refused(classes(Vec::new())), SettingsError::Classes);
    let class = Class {
        weight: f64::NAN,
        ..Class::seen_from(1.0)
    };
    assert_eq!(refused(classes(vec![class])), SettingsError::Weight);
    let settings = Settings {
        hysteresis: f64::NAN,
        ..Settings::default()
    };
    assert_eq!(refused(settings), SettingsError::Hysteresis);
    assert_eq!(
        refused(Settings {
            cell: 0.5,
            ..Settings::default()
        }),
        SettingsError::Cell
    );
    for entities_max in [0, ENTITIES_MAX + 1, usize::MAX] {
        let settings = Settings {
            entities_max,
            ..Settings::default()
        };
        assert_eq!(refused(settings), SettingsError::Counts, "{entities_max}");
    }
    assert_eq!(
        refused(Settings {
            split_above: 1,
            ..Settings::default()
        }),
        SettingsError::Counts
    );
}

#[test]
fn in_the_shortest_range_far_away_all_is_in_order() {
    let settings = Settings {
        cell: RANGE_MIN,
        dimensions: Dimensions::Three,
        ..seen_from(RANGE_MIN)
    };
    let mut world = World::new(settings);
    for corner in [POSITION_MAX, -POSITION_MAX] {
        for id in [0, 1] {
            world.put(id, [corner; 3]);
            world.observe(id, reliable(1100));
        }
        world.tick(&Everything);
        assert_eq!((world.seen(0), world.seen(1)), (vec![1], vec![0]));
    }
    world.put(1, [0.0; 3]);
    world.tick(&Everything);
    assert_eq!(world.seen(0), [0; 0]);
    let occupied = world.field.cells_occupied();
    assert!(world.field.cells_seen_from(&occupied).is_some());
}

#[test]
fn said_to_be_known_twice_or_to_be_oneself_is_known_once() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.put(1, [1.0; 3]);
    let knowledge = [
        (EntityId(1), 7),
        (EntityId(0), 1),
        (EntityId(1), 1),
        (EntityId(9), 3),
    ];
    world
        .field
        .resume(EntityId(0), reliable(1100), &knowledge)
        .unwrap();
    world.mirrors.insert(EntityId(0), Mirror::new());
    for _ in 0..3 {
        world.tick(&Everything);
    }
    world.field.acknowledge(EntityId(0), Ticks::only(u32::MAX));
    world.field.acknowledge(EntityId(77), Ticks::only(1));
    world.tick(&Everything);
}

#[test]
fn every_truncation_and_any_garbage_is_refused_or_read() {
    let mut world = World::new(seen_from(100.0));
    for id in 0..9 {
        world.put(id, [id as f64; 3]);
    }
    world.field.observe(EntityId(0), Watch::default()).unwrap();
    let mut datagram = Vec::new();
    let now = world.now;
    world
        .field
        .tick(now, &Everything, |_, bytes| datagram = bytes.to_vec());
    assert!(Mirror::new().apply(&datagram).is_ok());
    let mut refused = 0;
    for end in 0..datagram.len() {
        refused += usize::from(Mirror::new().apply(&datagram[..end]).is_err());
    }
    assert!(refused > datagram.len() - 12, "only whole records are read");
    assert_eq!(Mirror::new().apply(&[9, 0]), Err(DatagramError::Version));
    let mut dice = Dice::new(1);
    for _ in 0..20_000 {
        let mut bytes = datagram.clone();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] = dice.below(256) as u8;
        }
        let mut mirror = Mirror::new();
        let _ = mirror.apply(&bytes);
        for (_, seen) in mirror.seen() {
            assert!(
                seen.position
                    .iter()
                    .all(|coordinate| coordinate.is_finite())
            );
        }
    }
}

#[test]
fn those_who_come_and_go_within_a_tick_take_no_more_than_their_place() {
    let mut world = World::new(Settings {
        entities_max: 2,
        ..seen_from(100.0)
    });
    let report = Report::at([0.0; 3]);
    let come_and_go = |world: &mut World| {
        let mut taken = 0;
        for id in (0..100).map(EntityId) {
            let result = world.field.report(world.now, id, &report);
            taken += usize::from(result.is_ok() && world.field.remove(id));
        }
        taken
    };
    assert_eq!(come_and_go(&mut world), 3, "the rest is refused");
    world.tick(&Everything);
    assert_eq!(come_and_go(&mut world), 3);
}
