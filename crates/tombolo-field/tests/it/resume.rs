//! Another node goes on where one has ended.

use std::time::Duration;

use tombolo_field::{Change, Class, EntityId, Everything, Mirror, Settings, Watch};

use crate::world::{World, reliable, seen_from};

#[test]
fn an_observer_that_resumes_is_told_the_difference_only() {
    let mut first = World::new(seen_from(100.0));
    let mut second = World::new(Settings {
        grace: Duration::from_secs(1),
        ..seen_from(100.0)
    });
    for world in [&mut first, &mut second] {
        for id in 0..=4 {
            world.put(id, [id as f64, 0.0, 0.0]);
        }
    }
    first.observe(0, reliable(1100));
    first.tick(&Everything);
    assert_eq!(first.seen(0), [1, 2, 3, 4]);
    // What happens while the device has no node.
    second.put(2, [50.0, 0.0, 0.0]);
    second.field.remove(EntityId(1));
    second.field.remove(EntityId(3));
    second.put(4, [500.0, 0.0, 0.0]);
    second.put(5, [5.0, 0.0, 0.0]);
    let mut mirror = first.mirrors.remove(&EntityId(0)).unwrap();
    let knowledge = mirror.knowledge();
    mirror.restart();
    second
        .field
        .resume(EntityId(0), reliable(1100), &knowledge)
        .unwrap();
    let mut changes = Vec::new();
    for tick in 0..30 {
        second.now += Duration::from_millis(50);
        let now = second.now;
        // The node hears of one a little later.
        if tick == 10 {
            second.hear(1, 1, [1.0, 0.0, 0.0]);
        }
        second.field.tick(now, &Everything, |_, datagram| {
            changes.extend(mirror.apply(datagram).unwrap());
        });
        if tick < 10 {
            assert!(!changes.contains(&Change::Left(EntityId(3))), "it may come");
        }
    }
    changes.sort_by_key(|change| match change {
        Change::Entered(id) | Change::Updated(id) | Change::Left(id) => *id,
    });
    let [two, three, four, five] = [2, 3, 4, 5].map(EntityId);
    assert_eq!(
        changes,
        [
            Change::Updated(two),
            Change::Left(three),
            Change::Left(four),
            Change::Entered(five)
        ]
    );
}

#[test]
fn an_observer_that_resumes_is_told_of_classes_that_have_changed_meanwhile() {
    let settings = Settings {
        classes: [100.0; 2].map(Class::seen_from).into(),
        ..Settings::default()
    };
    let mut world = World::new(settings.clone());
    let mut second = World::new(settings);
    for world in [&mut world, &mut second] {
        world.put(0, [0.0; 3]);
        world.put(1, [1.0; 3]);
    }
    world.observe(0, reliable(1100));
    world.tick(&Everything);
    second.put_as(1, 1, 0, [1.0; 3]);
    let mut mirror = world.mirrors.remove(&EntityId(0)).unwrap();
    let knowledge = mirror.knowledge();
    mirror.restart();
    let (field, id) = (&mut second.field, EntityId(1));
    field
        .resume(EntityId(0), reliable(1100), &knowledge)
        .unwrap();
    field.tick(second.now, &Everything, |_, datagram| {
        assert_eq!(mirror.apply(datagram), Ok(vec![Change::Updated(id)]));
    });
    assert_eq!(mirror.find(id).unwrap().class, 1);
}

#[test]
fn an_observer_that_starts_anew_forgets_what_it_had() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.put(1, [1.0; 3]);
    world.observe(0, reliable(1100));
    world.tick(&Everything);
    world.field.remove(EntityId(1));
    world.field.observe(EntityId(0), reliable(1100)).unwrap();
    world.tick(&Everything);
    assert_eq!(world.seen(0), [0; 0]);
}

#[test]
fn who_says_nothing_is_taken_away() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.put(1, [1.0; 3]);
    world.observe(0, reliable(1100));
    for _ in 0..150 {
        world.put(0, [0.0; 3]);
        world.tick(&Everything);
    }
    assert_eq!(world.seen(0), [0; 0]);
    assert_eq!(world.field.stats().silent, 1);
    assert_eq!(world.field.len(), 1);
}

#[test]
fn who_falls_silent_is_named_once_and_where_it_was() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.put(1, [1.0, 2.0, 0.0]);
    let mut named = Vec::new();
    for second in 0..30 {
        world.now = Duration::from_secs(second);
        world.put(0, [0.0; 3]);
        named.extend(world.field.tick(world.now, &Everything, |_, _| {}));
    }
    assert_eq!(named, [(EntityId(1), [1.0, 2.0, 0.0])]);
}

#[test]
fn late_datagrams_do_not_bring_back_what_has_left() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.put(1, [1.0; 3]);
    world.observe(0, reliable(1100));
    let mut datagrams = Vec::new();
    for _ in 0..3 {
        let now = world.now;
        world.field.tick(now, &Everything, |_, datagram| {
            datagrams.push(datagram.to_vec())
        });
        world.put(1, [1000.0; 3]);
    }
    let mut mirror = Mirror::new();
    assert_eq!(mirror.apply(&datagrams[1]).unwrap(), []);
    assert_eq!(mirror.apply(&datagrams[0]).unwrap(), []);
    assert_eq!(mirror.seen().len(), 0);
}

#[test]
fn a_mirror_remembers_only_so_many_that_left_and_takes_nothing_from_before_that() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(64 * 1024));
    let mut datagrams = Vec::new();
    // Each round two hundred come and go.
    for round in 0..100 {
        for (first, x) in [(200 * round + 1, 1.0), (200 * (round - 1) + 1, 900.0)] {
            for id in first.max(1)..first + 200 {
                world.put(id as u64, [x, 0.0, 0.0]);
            }
        }
        world.now += Duration::from_millis(50);
        let now = world.now;
        world.put(0, [0.0; 3]);
        world.field.tick(now, &Everything, |_, datagram| {
            datagrams.push(datagram.to_vec())
        });
    }
    let mut mirror = Mirror::new();
    for datagram in &datagrams[1..] {
        mirror.apply(datagram).unwrap();
    }
    let seen: Vec<_> = mirror.seen().map(|(id, _)| id).collect();
    assert_eq!(seen.len(), 200);
    assert_eq!((mirror.late(), mirror.ticks().last), (0, 100));
    assert_eq!(mirror.apply(&datagrams[0]), Ok(Vec::new()));
    assert_eq!(mirror.late(), 1, "it is too late for that");
    assert!(mirror.seen().map(|(id, _)| id).eq(seen));
}

#[test]
fn that_all_is_void_may_be_told_again_without_harm() {
    let mut world = World::new(seen_from(100.0));
    for id in 0..=2 {
        world.put(id, [id as f64, 0.0, 0.0]);
    }
    let mut mirror = Mirror::new();
    world.field.observe(EntityId(0), Watch::default()).unwrap();
    let mut changes = Vec::new();
    let mut datagrams = Vec::new();
    // Nothing is acknowledged.
    for tick in 0..12 {
        world.now += Duration::from_millis(100);
        let now = world.now;
        if tick == 5 {
            world.put(3, [3.0, 0.0, 0.0]);
        }
        world.field.tick(now, &Everything, |_, datagram| {
            datagrams.push(datagram.to_vec());
            changes.extend(mirror.apply(datagram).unwrap());
        });
    }
    let entered = [1, 2, 3].map(|id| Change::Entered(EntityId(id)));
    assert_eq!(changes, entered);
    assert!(datagrams.len() < 8, "it is told now and then");
    // It begins anew: what is still under way from before is void.
    world.field.observe(EntityId(0), Watch::default()).unwrap();
    for id in [2, 3] {
        world.field.remove(EntityId(id));
    }
    let now = world.now;
    world.field.tick(now, &Everything, |_, datagram| {
        mirror.apply(datagram).unwrap();
    });
    for datagram in &datagrams {
        assert_eq!(mirror.apply(datagram), Ok(Vec::new()));
    }
    assert_eq!(mirror.seen().map(|(id, _)| id.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn who_comes_when_another_goes_is_not_taken_for_it() {
    let mut world = World::new(seen_from(100.0));
    world.put(0, [0.0; 3]);
    world.observe(0, reliable(1100));
    for id in 1..=20 {
        world.put(id, [1.0; 3]);
        world.tick(&Everything);
        assert_eq!(world.seen(0), [id]);
        world.field.remove(EntityId(id));
    }
    // The same one comes back before anybody is told that it has gone.
    world.put(30, [1.0; 3]);
    world.tick(&Everything);
    world.field.remove(EntityId(30));
    world.put(30, [2.0; 3]);
    world.tick(&Everything);
    assert_eq!(world.seen(0), [30]);
    let seen = world.mirrors[&EntityId(0)].find(EntityId(30)).unwrap();
    assert_eq!(seen.position, [2.0, 2.0, 0.0]);
}
