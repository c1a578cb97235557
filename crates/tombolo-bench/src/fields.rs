//! What a field's tick costs on one core, and whether what it tells is what it should.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tombolo_field::{
    BUDGET_MAX, Class, EntityId, Everything, Field, Mirror, Report, Settings, Ticks, Watch,
};

/// Ticks of a crowded field
#[derive(Parser)]
pub(crate) struct Arguments {
    /// How many ticks are measured
    #[arg(long, default_value_t = 50)]
    ticks: u32,
    /// Tells figures as JSON, a line each
    #[arg(long)]
    json: bool,
}

/// A field that everybody observes and in which everybody moves in every tick.
struct Crowd {
    name: &'static str,
    entities: u64,
    /// How wide the square is in which they are; 0 for one spot.
    width: f64,
    budget: usize,
}

const RANGE: f64 = 100.0;

/// As wide as it must be for 10,000 to have 100 others in range.
const WIDE: f64 = 1772.5;

const CROWDS: &[Crowd] = &[
    Crowd {
        name: "10,000 with 100 neighbours, 1100 B",
        entities: 10_000,
        width: WIDE,
        budget: 1100,
    },
    Crowd {
        name: "10,000 with 100 neighbours, 64 KiB",
        entities: 10_000,
        width: WIDE,
        budget: BUDGET_MAX,
    },
    Crowd {
        name: "1,000 in one spot, 1100 B",
        entities: 1_000,
        width: 0.0,
        budget: 1100,
    },
];

/// Of how many the datagrams are read while ticks are measured: to read all would take the memory from the field that it
/// has at hand. All are read in other ticks.
const SAMPLE: u64 = 50;

/// In how many ticks all datagrams are read before it is looked at what all have.
const ALL: u32 = 20;

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(arguments.ticks > 0, "measure at least one tick");
    for crowd in CROWDS {
        let figures = measure(crowd, arguments.ticks)?;
        tell(arguments.json, crowd, &figures);
    }
    Ok(())
}

#[derive(Default)]
struct Figures {
    ticks: Vec<Duration>,
    reports: Duration,
    datagrams: u64,
    bytes: u64,
    largest: usize,
    /// Of what is in range, how much the sample has on the mean of all ticks.
    recall: f64,
    /// How much more the sample has than what is in range.
    excess: f64,
    /// The same of everybody, at the end of ticks that are not measured.
    all: Compared,
}

/// What some have against what is in their range.
#[derive(Default)]
struct Compared {
    recall: f64,
    excess: f64,
    /// The least recall of one of them.
    least: f64,
}

fn measure(crowd: &Crowd, ticks: u32) -> anyhow::Result<Figures> {
    let mut walk = Walk::new(crowd, SAMPLE)?;
    let mut figures = Figures::default();
    for tick in 0..ticks + WARM {
        let round = walk.round(crowd, tick)?;
        if tick < WARM {
            continue;
        }
        figures.ticks.push(round.tick);
        figures.reports += round.reports;
        figures.datagrams += round.datagrams;
        figures.bytes += round.bytes;
        figures.largest = figures.largest.max(round.largest);
        let compared = compare(&walk.places, &walk.mirrors);
        figures.recall += compared.recall / f64::from(ticks);
        figures.excess += compared.excess / f64::from(ticks);
    }
    figures.all = look_at_all(crowd)?;
    ensure!(
        figures.largest <= crowd.budget,
        "a datagram of {} bytes",
        figures.largest
    );
    figures.ticks.sort();
    Ok(figures)
}

/// What everybody has after the same walk, of which nothing is measured.
fn look_at_all(crowd: &Crowd) -> anyhow::Result<Compared> {
    let mut walk = Walk::new(crowd, crowd.entities)?;
    for tick in 0..WARM + ALL {
        walk.round(crowd, tick)?;
    }
    Ok(compare(&walk.places, &walk.mirrors))
}

/// A crowd on its way.
struct Walk {
    random: ChaCha8Rng,
    field: Field,
    places: Vec<[f64; 3]>,
    /// So many have their datagrams read.
    sample: u64,
    mirrors: BTreeMap<EntityId, Mirror>,
}

/// What one tick took.
#[derive(Default)]
struct Round {
    tick: Duration,
    reports: Duration,
    datagrams: u64,
    bytes: u64,
    largest: usize,
}

impl Walk {
    fn new(crowd: &Crowd, sample: u64) -> anyhow::Result<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let field = Field::new(Settings {
            classes: vec![Class::seen_from(RANGE)],
            hysteresis: 0.05,
            ..Settings::default()
        })?;
        let places = (0..crowd.entities).map(|_| {
            let mut along = || {
                if crowd.width > 0.0 {
                    random.random_range(0.0..crowd.width)
                } else {
                    0.0
                }
            };
            [along(), along(), 0.0]
        });
        Ok(Self {
            places: places.collect(),
            random,
            field,
            sample,
            mirrors: BTreeMap::new(),
        })
    }

    fn round(&mut self, crowd: &Crowd, tick: u32) -> anyhow::Result<Round> {
        let now = Duration::from_millis(100) * tick;
        let mut round = Round::default();
        let start = Instant::now();
        for (id, place) in self.places.iter_mut().enumerate() {
            place[0] += self.random.random_range(-0.5..0.5);
            place[1] += self.random.random_range(-0.5..0.5);
            let report = Report {
                sequence: tick + 1,
                payload: &PAYLOAD,
                ..Report::at(*place)
            };
            self.field.report(now, EntityId(id as u64), &report)?;
        }
        round.reports = start.elapsed();
        if tick == 0 {
            self.observe(crowd)?;
        }
        let mut told = Vec::new();
        // Datagrams of the sample are kept and read later: a device does that, not the node.
        let mut kept: Vec<(EntityId, Vec<u8>)> = Vec::new();
        let sample = self.sample;
        let start = Instant::now();
        self.field.tick(now, &Everything, |id, datagram| {
            round.bytes += datagram.len() as u64;
            round.largest = round.largest.max(datagram.len());
            told.push(id);
            if id.0 < sample {
                kept.push((id, datagram.to_vec()));
            }
        });
        round.tick = start.elapsed();
        round.datagrams = told.len() as u64;
        let number = self.field.ticks();
        for id in told {
            self.field.acknowledge(id, Ticks::only(number));
        }
        for (id, datagram) in kept {
            if let Some(mirror) = self.mirrors.get_mut(&id) {
                mirror.apply(&datagram)?;
            }
        }
        Ok(round)
    }

    fn observe(&mut self, crowd: &Crowd) -> anyhow::Result<()> {
        let watch = Watch {
            budget: crowd.budget,
            is_reliable: false,
            ..Watch::default()
        };
        for id in (0..crowd.entities).map(EntityId) {
            self.field.observe(id, watch)?;
            if id.0 < self.sample {
                self.mirrors.insert(id, Mirror::new());
            }
        }
        Ok(())
    }
}

/// What some have against what is in range, by looking at everybody.
fn compare(places: &[[f64; 3]], mirrors: &BTreeMap<EntityId, Mirror>) -> Compared {
    let (mut in_range, mut had, mut seen, mut least) = (0_usize, 0_usize, 0_usize, 1.0_f64);
    for (id, mirror) in mirrors {
        let me = places[id.0 as usize];
        let (mut mine_in_range, mut mine_had) = (0_usize, 0_usize);
        for (other, place) in (0_u64..).zip(places) {
            let square = (place[0] - me[0]).powi(2) + (place[1] - me[1]).powi(2);
            if other != id.0 && square <= RANGE * RANGE {
                mine_in_range += 1;
                mine_had += usize::from(mirror.find(EntityId(other)).is_some());
            }
        }
        if mine_in_range > 0 {
            least = least.min(mine_had as f64 / mine_in_range as f64);
        }
        in_range += mine_in_range;
        had += mine_had;
        seen += mirror.seen().len();
    }
    let all = in_range.max(1) as f64;
    Compared {
        recall: had as f64 / all,
        excess: seen as f64 / all,
        least,
    }
}

fn tell(is_json: bool, crowd: &Crowd, figures: &Figures) {
    let count = figures.ticks.len();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let (half, most) = (figures.ticks[count / 2], figures.ticks[count * 95 / 100]);
    let reports = figures.reports / count as u32;
    let mean = figures.bytes as f64 / figures.datagrams.max(1) as f64;
    if is_json {
        let line = json!({
            "crowd": crowd.name,
            "tick_p50_ms": ms(half),
            "tick_p95_ms": ms(most),
            "reports_ms": ms(reports),
            "datagram_bytes_mean": mean,
            "datagram_bytes_max": figures.largest,
            "recall": figures.recall,
            "delivery": figures.excess,
            "recall_of_all": figures.all.recall,
            "recall_least": figures.all.least,
            "delivery_of_all": figures.all.excess,
        });
        println!("{line}");
        return;
    }
    println!(
        "{:<36} tick p50 {:.1} ms, p95 {:.1} ms; reports {:.1} ms; datagrams {:.0} B on the mean, {} at \
         most; recall {:.2} %, delivery {:.3}; of all, in ticks beside: recall {:.2} %, {:.2} % the least, delivery \
         {:.3}",
        crowd.name,
        ms(half),
        ms(most),
        ms(reports),
        mean,
        figures.largest,
        figures.recall * 100.0,
        figures.excess,
        figures.all.recall * 100.0,
        figures.all.least * 100.0,
        figures.all.excess
    );
}

/// Ticks before those that are measured, in which all come into each other's range.
const WARM: u32 = 30;

const PAYLOAD: [u8; 4] = [1, 2, 3, 4];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_looked_at_and_the_one_that_knows_least() {
        let crowd = Crowd {
            name: "some",
            entities: 300,
            width: 300.0,
            budget: BUDGET_MAX,
        };
        let mut walk = Walk::new(&crowd, crowd.entities).expect("there is room");
        for tick in 0..5 {
            walk.round(&crowd, tick).expect("all goes well");
        }
        let all = compare(&walk.places, &walk.mirrors);
        assert_eq!((all.recall, all.least), (1.0, 1.0));
        assert!((1.0..1.15).contains(&all.excess), "{}", all.excess);
        // The last one has heard of nobody.
        walk.mirrors.insert(EntityId(299), Mirror::new());
        let all = compare(&walk.places, &walk.mirrors);
        assert!(all.recall < 1.0 && all.least == 0.0, "{}", all.recall);
    }
}
