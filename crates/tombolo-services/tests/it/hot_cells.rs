//! Cells that are crowded split, and are whole again when the crowd has gone; nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_engine::{Local, LocalConfig};
use tombolo_field::{Change, EntityId};
use tombolo_services::FieldClass;

use crate::cluster::{Member, start_with};
use crate::walker::Walker;

const RANGE: f64 = 30.0;

/// How often all move.
const ROUNDS: usize = 80;

/// For so many rounds they crowd together, and then for as many they go apart.
const PHASE: usize = 20;

/// A device with where it is and was, and where it goes when it does not crowd.
struct Wanderer {
    walker: Walker,
    way: Way,
    home: [f64; 2],
}

/// Where somebody was, and where it is.
#[derive(Clone, Copy)]
struct Way([[f64; 2]; 2]);

impl Way {
    fn now(self) -> [f64; 2] {
        self.0[1]
    }

    /// How near and how far two may be to each other while they go, as nodes hear of them: of one sooner, of
    /// the other later.
    fn distances(self, other: Self) -> (f64, f64) {
        let both = self
            .0
            .iter()
            .flat_map(|mine| other.0.map(|theirs| distance(*mine, theirs)));
        both.fold((f64::INFINITY, 0.0), |(least, most), distance| {
            (least.min(distance), most.max(distance))
        })
    }
}

fn distance(one: [f64; 2], other: [f64; 2]) -> f64 {
    (one[0] - other[0]).hypot(one[1] - other[1])
}

impl Wanderer {
    /// Goes some way to a spot, and some way anywhere.
    fn step(&mut self, spot: [f64; 2], random: &mut ChaCha8Rng) {
        let before = self.way.now();
        let mut now = before;
        for (at, to) in now.iter_mut().zip(spot) {
            *at += (to - *at).clamp(-12.0, 12.0) + random.random_range(-4.0..4.0);
        }
        self.way = Way([before, now]);
        self.walker.go(&now);
    }

    /// All that has come by now.
    async fn hear(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(some) = self.walker.hear_one(Duration::ZERO).await {
            changes.extend(some);
        }
        changes
    }
}

/// Three nodes that split cells otherwise, with four devices each around the corner of four cells.
async fn crowd(local: &Local, random: &mut ChaCha8Rng) -> (Vec<Member>, Vec<Wanderer>) {
    let node = |number: usize| {
        start_with(local, number, |config| {
            let settings = &mut config.fields.settings;
            settings.classes = vec![FieldClass::seen_from(RANGE)];
            settings.split_above = 2 + 2 * number;
        })
    };
    let nodes: Vec<_> = (0..3).map(node).collect();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut wanderers = Vec::new();
    for number in 0..12 {
        let home = [0; 2].map(|_| random.random_range(-150.0..150.0));
        let lab = &nodes[number % 3].lab;
        wanderers.push(Wanderer {
            walker: Walker::new(lab, &format!("user-{number}"), &home).await,
            way: Way([home; 2]),
            home,
        });
    }
    (nodes, wanderers)
}

#[tokio::test(start_paused = true)]
async fn while_hot_cells_split_and_join_nobody_misses_a_neighbour_or_is_told_of_it_twice() {
    for seed in 0..4 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let local = Local::new(LocalConfig::default());
        let (nodes, mut wanderers) = crowd(&local, &mut random).await;
        for round in 0..ROUNDS {
            let spot = [0; 2].map(|_| random.random_range(-8.0..8.0));
            for wanderer in &mut wanderers {
                let is_crowding = (round / PHASE).is_multiple_of(2);
                let to = if is_crowding { spot } else { wanderer.home };
                wanderer.step(to, &mut random);
            }
            tokio::time::sleep(Duration::from_millis(120)).await;
            let ways: BTreeMap<_, _> = wanderers
                .iter()
                .map(|wanderer| (wanderer.walker.entity, wanderer.way))
                .collect();
            for wanderer in &mut wanderers {
                let told = wanderer.hear().await;
                let what = format!(
                    "seed {seed}, round {round}, {}",
                    wanderer.walker.device.user
                );
                check(wanderer, &told, &ways, &what);
            }
        }
        let heard: u64 = nodes
            .iter()
            .map(|node| node.lab.services.stats().fields.heard)
            .sum();
        assert!(heard > 0, "nodes have told each other");
    }
}

/// Whether a device knows of those in its range and of no others, and nobody came or went without a reason.
fn check(wanderer: &Wanderer, told: &[Change], ways: &BTreeMap<EntityId, Way>, what: &str) {
    let (enter, leave) = (RANGE + ROUNDING, RANGE * 1.1 - ROUNDING);
    let seen: BTreeSet<_> = wanderer.walker.seen().into_iter().collect();
    for (entity, way) in ways {
        if *entity == wanderer.walker.entity {
            continue;
        }
        let distance = distance(wanderer.way.now(), way.now());
        if distance < RANGE - ROUNDING {
            assert!(seen.contains(entity), "{what}: one at {distance} is missed");
        }
        if distance > RANGE * 1.1 + ROUNDING {
            assert!(!seen.contains(entity), "{what}: one at {distance} is seen");
        }
    }
    for change in told {
        match change {
            Change::Entered(entity) => {
                let (least, _) = wanderer.way.distances(ways[entity]);
                assert!(
                    least < enter,
                    "{what}: {entity:?} comes, never nearer than {least}"
                );
            }
            Change::Left(entity) => {
                let (_, most) = wanderer.way.distances(ways[entity]);
                assert!(
                    most > leave,
                    "{what}: {entity:?} goes, never further than {most}"
                );
            }
            Change::Updated(_) => {}
        }
    }
}

/// Distances are told in floats of 32 bits.
const ROUNDING: f64 = 0.01;
