//! A cluster keeps its promises whatever happens to it.

use std::time::Duration;

use tombolo_sim::{ClusterWorld, Seed, Tally, Weather, seed};

/// Stories in a kind of weather, in parts: a test is a process, and there are several at a time.
macro_rules! stories {
    ($weather:expr; $($part:ident)*) => {
        $(
            #[test]
            fn $part() {
                check(&seed!().several(stories() / PARTS), $weather);
            }
        )*
    };
}

stories! { ROUGH;
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_a
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_b
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_c
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_d
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_e
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_f
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_g
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_h
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_i
    whatever_happens_a_cluster_keeps_what_it_acknowledged_in_part_j
}

stories! { Weather::FAIR;
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_a
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_b
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_c
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_d
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_e
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_f
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_g
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_h
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_i
    in_fair_weather_devices_lose_nothing_to_nodes_that_die_in_part_j
}

stories! { Weather::CALM;
    whatever_operators_do_to_nodes_costs_no_device_its_session_or_a_message_in_part_a
    whatever_operators_do_to_nodes_costs_no_device_its_session_or_a_message_in_part_b
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
    let told = seeds.iter().map(|seed| ClusterWorld::run(*seed, weather));
    let tally: Tally = match told.sum() {
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
        assert!(tally.posts > 5 * count, "{tally:?}");
        assert!(tally.turned > count / 2, "{tally:?}");
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

/// How many stories ten parts have; a long run has more.
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

/// About as many as the rest of the test command has time for.
const STORIES: usize = 500;

const PARTS: usize = 10;

/// Stories that are told again.
const TOLD_TWICE: usize = 12;
