//! Matches that become better: by exchange, and by waiting.

use std::time::Duration;

use tombolo_match::{Rules, Settling, Ticket};

use crate::world::{World, having, id, map, skilled, solo, users};

fn near(settle: &str) -> World {
    World::new(&format!(
        r#"
        name = "duel"
        players = {{ min = 2, max = 2 }}
        {settle}
        [[rules]]
        kind = "distance"
        attribute = "skill"
        max = 100
    "#
    ))
}

fn far(number: u128, latency: f64) -> Ticket {
    having(solo(number), "ping", map(&[("eu", latency)]))
}

const REGION: &str = r#"
    name = "duel"
    players = { min = 2, max = 2 }
    [[rules]]
    kind = "latency"
    attribute = "ping"
    regions = ["eu"]
    max = 100
"#;

#[test]
fn two_matches_exchange_parties_when_both_are_better_together() {
    let mut world = near("");
    // The first takes the third, who is nearest; the others are far from each other.
    world.submit_all([
        skilled(1, &[50.0]),
        skilled(2, &[20.0]),
        skilled(3, &[60.0]),
        skilled(4, &[95.0]),
    ]);
    assert_eq!(world.matched(), [["u1", "u2"], ["u3", "u4"]]);
}

#[test]
fn a_match_lets_somebody_go_who_begins_another() {
    let mut world = near("");
    // The first and the third would leave two who do not fit.
    world.submit_all([
        skilled(1, &[50.0]),
        skilled(2, &[0.0]),
        skilled(3, &[60.0]),
        skilled(4, &[101.0]),
    ]);
    let mut matched = world.matched();
    matched.sort();
    assert_eq!(matched, [["u1", "u2"], ["u3", "u4"]]);
}

#[test]
fn who_waits_takes_the_place_of_somebody_it_makes_the_match_better_without() {
    let mut world = World::new(&REGION.replace("2, max = 2", "4, max = 4"));
    world.submit_all([
        far(1, 10.0),
        far(2, 90.0),
        far(3, 10.0),
        far(4, 10.0),
        far(5, 10.0),
    ]);
    assert_eq!(world.matched(), [["u1", "u3", "u4", "u5"]]);
    assert_eq!(world.waiting(), [2]);
}

#[test]
fn nobody_is_given_up_for_who_came_much_later() {
    let mut world = World::new(&REGION.replace("2, max = 2", "4, max = 4"));
    world.submit(far(2, 90.0)).unwrap();
    world.wait(30);
    world.submit_all([far(1, 10.0), far(3, 10.0), far(4, 10.0), far(5, 10.0)]);
    let matched = world.matched();
    assert_eq!(matched.len(), 1);
    assert!(matched[0].contains(&"u2".to_owned()), "{matched:?}");
}

#[test]
fn nobody_is_given_up_for_who_has_less_priority() {
    let mut world = World::new(&REGION.replace("2, max = 2", "4, max = 4"));
    let mut first = far(2, 90.0);
    first.priority = 1;
    world.submit_all([
        far(1, 10.0),
        first,
        far(3, 10.0),
        far(4, 10.0),
        far(5, 10.0),
    ]);
    let matched = world.matched();
    assert_eq!(matched.len(), 1);
    assert!(matched[0].contains(&"u2".to_owned()), "{matched:?}");
}

#[test]
fn of_all_who_fit_the_one_is_taken_with_whom_the_match_is_best() {
    let mut world = World::new(REGION);
    world.submit(far(1, 20.0)).unwrap();
    assert!(world.matched().is_empty());
    world.submit_all([far(2, 90.0), far(3, 10.0)]);
    assert_eq!(world.matched(), [["u1", "u3"]]);
}

#[test]
fn a_match_that_is_not_good_waits_for_a_better_one() {
    let mut world = near("settle = 10\ngood = 800");
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[50.0])]);
    assert!(world.matched().is_empty(), "500 is not 800");
    world.wait(1);
    assert!(world.matched().is_empty(), "nor is it 720");
    world.submit(skilled(3, &[60.0])).unwrap();
    assert_eq!(world.matched(), [["u2", "u3"]], "900 is good");
    world.submit(skilled(4, &[40.0])).unwrap();
    assert!(world.matched().is_empty(), "600 is less than 720");
    world.wait(1);
    assert!(world.matched().is_empty(), "640 are asked");
    world.wait(1);
    assert_eq!(world.matched(), [["u1", "u4"]], "560 are asked");
}

#[test]
fn a_match_that_waits_begins_in_the_end() {
    let mut world = near("settle = 3");
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[100.0])]);
    for _ in 0..3 {
        assert!(world.matched().is_empty());
        world.wait(1);
    }
    assert_eq!(world.matched(), [["u1", "u2"]]);
}

#[test]
fn nothing_is_looked_at_again_before_the_next_tick() {
    let mut world = near("settle = 10\ntick = 2");
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[50.0])]);
    assert!(world.matched().is_empty());
    let tick = world.now.after(Duration::from_secs(2));
    assert_eq!(world.pool.poll_propose(), Some(tick));
}

#[test]
fn a_party_that_is_a_match_does_not_wait_for_a_better_one() {
    let mut world = World::new(&format!("settle = 10\n{REGION}"));
    let party = having(skilled(1, &[0.0, 0.0]), "ping", map(&[("eu", 90.0)]));
    world.submit(party).unwrap();
    assert_eq!(world.step().len(), 1);
}

#[test]
fn a_ticket_tells_of_its_match_that_waits_for_a_better_one() {
    let mut world = near("settle = 10");
    world.submit_all([skilled(1, &[0.0]), skilled(2, &[40.0])]);
    world.wait(1);
    assert!(world.step().is_empty());
    let why = world.pool.explain(&id(2), world.now).unwrap();
    let expected = Settling {
        quality: 600,
        after: Duration::from_secs(3),
    };
    assert_eq!(why.settling, Some(expected));
    world.wait(2);
    assert!(world.matched().is_empty());
    world.wait(1);
    let formed = world.step();
    assert_eq!(
        (users(&formed[0]), formed[0].quality),
        (vec!["u1".to_owned(), "u2".to_owned()], 600)
    );
}

#[test]
fn what_is_asked_of_a_match_falls_to_nothing() {
    let rules = "name = \"duel\"\nplayers = { min = 2, max = 2 }\nsettle = 8\ngood = 400";
    let rules = Rules::parse(rules).unwrap();
    let after = |millis| rules.quality_min(Duration::from_millis(millis));
    assert_eq!(
        [0, 2000, 7999, 8000, 90_000].map(after),
        [400, 300, 1, 0, 0]
    );
}
