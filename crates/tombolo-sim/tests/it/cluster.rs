//! A cluster keeps its promises whatever happens to it.

use std::time::Duration;

use tombolo_sim::{ClusterWorld, Tally, Weather, seed};

#[test]
fn whatever_happens_a_cluster_keeps_what_it_acknowledged() {
    let weather = Weather {
        delay_max: Duration::from_millis(30),
        lost: 30,
        unsure: 30,
        refused: 20,
    };
    let seeds = seed!().several(stories());
    let count = seeds.len() as u64;
    let tally = many(seeds, weather);
    // Worlds in which nothing happens prove nothing; one alone is a replay.
    if count > 1 {
        assert!(tally.kept > 5 * count, "{tally:?}");
        assert!(tally.kills > count / 2, "{tally:?}");
        assert!(tally.resumed > count / 2, "{tally:?}");
    }
}

#[test]
fn in_fair_weather_devices_lose_nothing_to_nodes_that_die() {
    many(seed!().several(stories()), Weather::FAIR);
}

fn many(seeds: Vec<tombolo_sim::Seed>, weather: Weather) -> Tally {
    let mut sum = Tally::default();
    for seed in seeds {
        let tally = match ClusterWorld::run(seed, weather) {
            Ok(tally) => tally,
            Err(violation) => panic!("{violation}"),
        };
        sum.kept += tally.kept;
        sum.unknown += tally.unknown;
        sum.refused += tally.refused;
        sum.kills += tally.kills;
        sum.resumed += tally.resumed;
    }
    sum
}

/// How many stories each test has; a long run has more.
fn stories() -> usize {
    let more = std::env::var("TOMBOLO_STORIES").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(STORIES)
}

const STORIES: usize = 250;
