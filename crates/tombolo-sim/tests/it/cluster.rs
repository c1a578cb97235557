//! A cluster keeps its promises whatever happens to it.

use std::num::NonZero;
use std::thread;
use std::time::Duration;

use tombolo_sim::{ClusterWorld, Seed, Tally, Weather, seed};

#[test]
fn whatever_happens_a_cluster_keeps_what_it_acknowledged() {
    check(&seed!().several(stories()), ROUGH);
}

#[test]
fn in_fair_weather_devices_lose_nothing_to_nodes_that_die() {
    check(&seed!().several(stories()), Weather::FAIR);
}

#[test]
fn whatever_operators_do_to_nodes_costs_no_device_its_session_or_a_message() {
    check(&seed!().several(stories()), Weather::CALM);
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in seed!().several(TOLD_TWICE) {
        let weather = [ROUGH, Weather::FAIR, Weather::CALM][seed.value() as usize % 3];
        let [once, again] = [(), ()].map(|()| ClusterWorld::events(seed, weather));
        for (line, (once, again)) in once.iter().zip(&again).enumerate() {
            assert_eq!(once, again, "line {line} of {}", seed.replay());
        }
        assert_eq!(once.len(), again.len(), "{}", seed.replay());
    }
}

fn check(seeds: &[Seed], weather: Weather) {
    let tally = match tell(seeds, weather) {
        Ok(tally) => tally,
        Err(violation) => panic!("{violation}"),
    };
    // Worlds in which nothing happens prove nothing; one alone is a replay.
    let count = seeds.len() as u64;
    if count > 1 {
        assert!(tally.kept > 5 * count, "{tally:?}");
        assert!(weather.lost > 0 || tally.heard > 3 * count, "{tally:?}");
        assert!(tally.forgotten > count, "{tally:?}");
        assert!(tally.matched > 2 * count, "{tally:?}");
        assert!(tally.letters > 5 * count, "{tally:?}");
        assert!(tally.expelled > count, "{tally:?}");
        assert!(tally.expired > count / 4, "{tally:?}");
        assert!(weather.is_calm || tally.kills > count / 2, "{tally:?}");
        assert!(weather.is_calm || tally.freezes > count / 4, "{tally:?}");
        assert!(tally.resumed > count, "{tally:?}");
        assert!(tally.drains > count / 2, "{tally:?}");
        assert!(tally.moved > count / 2, "{tally:?}");
        assert!(tally.asked > count / 2, "{tally:?}");
        assert!(tally.added > count / 4, "{tally:?}");
    }
}

/// Tells stories on all cores.
fn tell(seeds: &[Seed], weather: Weather) -> Result<Tally, String> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let tell = |seed: &Seed| ClusterWorld::run(*seed, weather);
    thread::scope(|scope| {
        let some = seeds.chunks(seeds.len().div_ceil(cores).max(1));
        let told = some.map(|some| scope.spawn(move || some.iter().map(tell).sum()));
        let told: Vec<thread::ScopedJoinHandle<'_, Result<Tally, String>>> = told.collect();
        let mut tallies = told
            .into_iter()
            .map(|told| told.join().expect("it is told"));
        tallies.by_ref().sum()
    })
}

/// How many stories each test has; a long run has more.
fn stories() -> usize {
    let more = std::env::var("TOMBOLO_STORIES").ok();
    more.and_then(|more| more.parse().ok()).unwrap_or(STORIES)
}

const ROUGH: Weather = Weather {
    delay_max: Duration::from_millis(30),
    lost: 30,
    unsure: 30,
    refused: 20,
    is_calm: false,
};

/// Together some hundreds.
const STORIES: usize = 150;

/// Stories that are told again.
const TOLD_TWICE: usize = 12;
