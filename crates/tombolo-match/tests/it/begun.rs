//! What is remembered of matches that began lately.

use tombolo_match::{BEGUN_KEPT, BEGUN_WEIGHT_MAX, Body, Pool, Ticket};

use crate::world::{World, id, player, skilled, solo, user};

const DUEL: &str = "name = \"duel\"\nplayers = { min = 2, max = 2 }";

const PAIRS: &str = "name = \"pairs\"\nplayers = { min = 4, max = 4 }";

#[test]
fn who_comes_back_finds_its_match_also_in_a_pool_from_a_snapshot() {
    let mut world = World::new(PAIRS);
    world.submit_all([skilled(1, &[0.0, 0.0]), solo(2), solo(3)]);
    let [formed] = world.step().try_into().unwrap();
    world.apply(Body::Seated(vec![formed.id])).unwrap();
    let rules = world.pool.rules().clone();
    let restored = Pool::restore(rules, &world.pool.snapshot()).unwrap();
    assert_eq!(restored.snapshot(), world.pool.snapshot());
    for pool in [&world.pool, &restored] {
        let begun = |ticket, name: &str| pool.begun(&id(ticket), &user(name), world.now);
        for (ticket, name) in [(1, "u1"), (1, "u1.1"), (2, "u2"), (3, "u3")] {
            assert_eq!(begun(ticket, name).as_ref(), Some(&formed), "{name}");
        }
        assert_eq!(begun(1, "u2"), None, "it is another's ticket");
        assert_eq!(begun(4, "u1"), None);
    }
}

#[test]
fn a_match_is_remembered_while_seats_are_kept_for_its_users() {
    let mut world = World::new(DUEL);
    let begin = |world: &mut World, number: u128| {
        world.submit_all([solo(number), solo(number + 1)]);
        assert_eq!(world.step().len(), 1);
    };
    begin(&mut world, 1);
    let u1 = user("u1");
    let last = world.now.after(BEGUN_KEPT);
    assert_eq!(world.pool.begun(&id(1), &u1, last), None);
    world.wait(BEGUN_KEPT.as_secs() - 1);
    assert!(world.pool.begun(&id(1), &u1, world.now).is_some());
    let one_more = world.pool.snapshot().len();
    world.wait(1);
    begin(&mut world, 3);
    assert!(
        world.pool.snapshot().len() < one_more + 200,
        "the first one is forgotten"
    );
    assert_eq!(world.pool.begun(&id(1), &u1, world.now), None);
    assert!(world.pool.begun(&id(3), &user("u3"), world.now).is_some());
}

#[test]
fn a_match_that_has_come_to_nothing_is_nobodys() {
    let mut world = World::new(DUEL);
    world.submit_all([solo(1), solo(2)]);
    let [formed] = world.step().try_into().unwrap();
    world.apply(Body::Unseated(formed.id)).unwrap();
    assert_eq!(world.pool.begun(&id(1), &user("u1"), world.now), None);
    let [again] = world.step().try_into().unwrap();
    let begun = world.pool.begun(&id(1), &user("u1"), world.now);
    assert_eq!(begun, Some(again), "it is the later one's");
}

#[test]
fn what_is_remembered_of_matches_has_a_bound() {
    let mut world = World::new(DUEL);
    let name = |number: u128| format!("{number:064}");
    let named = |number| Ticket::new(id(number), vec![player(&name(number))]);
    let mut number = 0;
    let mut bytes = 0;
    while bytes < BEGUN_WEIGHT_MAX + BEGUN_WEIGHT_MAX / 4 {
        world.submit_all([named(number + 1), named(number + 2)]);
        number += 2;
        let [formed] = world.step().try_into().unwrap();
        bytes += formed
            .users()
            .map(|user| user.as_str().len())
            .sum::<usize>()
            + 64;
        world.apply(Body::Seated(vec![formed.id])).unwrap();
    }
    let begun = |number| {
        world
            .pool
            .begun(&id(number), &user(&name(number)), world.now)
    };
    assert!(begun(number).is_some());
    assert_eq!(begun(1), None);
    assert_eq!(world.pool.weight(), 0, "no ticket is refused for it");
}

#[test]
fn the_matches_of_a_minute_are_remembered_where_a_thousand_tickets_come_each_second() {
    const A_SECOND: u128 = 1_000;
    let mut world = World::new(DUEL);
    let name = |number: u128| format!("{number:016}");
    let mut number = 0;
    for second in 0..60 {
        let begin = number + 1;
        number += A_SECOND;
        let numbers = begin..=number;
        world
            .submit_all(numbers.map(|number| Ticket::new(id(number), vec![player(&name(number))])));
        let begun = world.step();
        assert_eq!(begun.len() as u128, A_SECOND / 2);
        let seated = begun.iter().map(|formed| formed.id).collect();
        world.apply(Body::Seated(seated)).unwrap();
        if second < 59 {
            world.wait(1);
        }
    }
    for number in [1, 2, number] {
        let begun = world
            .pool
            .begun(&id(number), &user(&name(number)), world.now);
        assert!(begun.is_some(), "{number}");
    }
}
