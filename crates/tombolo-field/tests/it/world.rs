//! A field with a hand on it.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_field::{Class, EntityId, Field, Mirror, Report, Settings, Sight, Ticks, Watch};

pub(crate) struct World {
    pub(crate) field: Field,
    pub(crate) now: Duration,
    pub(crate) mirrors: BTreeMap<EntityId, Mirror>,
    /// The size of each datagram of the last tick.
    pub(crate) sizes: BTreeMap<EntityId, usize>,
    /// How many ticks an acknowledgement is under way; none by default.
    pub(crate) lag: u64,
    /// How many ticks more it may be under way, by chance: later ones come before earlier ones.
    pub(crate) jitter: u64,
    /// Those that are, each with the tick in which it arrives.
    under_way: Vec<(u64, EntityId, Ticks)>,
    ticks: u64,
    dice: Dice,
    sequences: BTreeMap<EntityId, u32>,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            field: Field::new(settings).unwrap(),
            now: Duration::ZERO,
            mirrors: BTreeMap::new(),
            sizes: BTreeMap::new(),
            lag: 0,
            jitter: 0,
            under_way: Vec::new(),
            ticks: 0,
            dice: Dice::new(7),
            sequences: BTreeMap::new(),
        }
    }

    pub(crate) fn put(&mut self, id: u64, position: [f64; 3]) {
        self.put_as(id, 0, 0, position);
    }

    pub(crate) fn put_as(&mut self, id: u64, class: u8, marks: u64, position: [f64; 3]) {
        let id = EntityId(id);
        let sequence = self.sequences.entry(id).or_default();
        *sequence += 1;
        let payload = sequence.to_be_bytes();
        let report = Report {
            sequence: *sequence,
            class,
            position,
            payload: &payload,
            marks,
        };
        self.field.report(self.now, id, &report).unwrap();
    }

    /// An entity as it is reported elsewhere.
    pub(crate) fn hear(&mut self, id: u64, sequence: u32, position: [f64; 3]) {
        let payload = sequence.to_be_bytes();
        let report = Report {
            sequence,
            payload: &payload,
            ..Report::at(position)
        };
        self.field.report(self.now, EntityId(id), &report).unwrap();
    }

    pub(crate) fn observe(&mut self, id: u64, watch: Watch) {
        self.field.observe(EntityId(id), watch).unwrap();
        self.mirrors.insert(EntityId(id), Mirror::new());
    }

    pub(crate) fn tick<S: Sight>(&mut self, sight: &S) {
        self.tick_through(sight, |_| true);
    }

    /// A tick of which only some datagrams arrive.
    pub(crate) fn tick_through<S: Sight>(
        &mut self,
        sight: &S,
        mut arrives: impl FnMut(EntityId) -> bool,
    ) {
        self.now += Duration::from_millis(100);
        self.sizes.clear();
        let (mirrors, sizes) = (&mut self.mirrors, &mut self.sizes);
        self.ticks += 1;
        let under_way = &mut self.under_way;
        let (dice, soonest, jitter) = (&mut self.dice, self.ticks + self.lag, self.jitter);
        self.field.tick(self.now, sight, |id, datagram| {
            let before = sizes.insert(id, datagram.len());
            assert_eq!(before, None, "{id:?} has one datagram in a tick");
            if arrives(id)
                && let Some(mirror) = mirrors.get_mut(&id)
            {
                mirror.apply(datagram).unwrap();
                under_way.push((soonest + dice.below(jitter + 1), id, mirror.ticks()));
            }
        });
        let now = self.ticks;
        let arrived = self.under_way.extract_if(.., |(due, ..)| *due <= now);
        for (_, id, ticks) in arrived.collect::<Vec<_>>().into_iter().rev() {
            self.field.acknowledge(id, ticks);
        }
    }

    pub(crate) fn seen(&self, id: u64) -> Vec<u64> {
        let mirror = &self.mirrors[&EntityId(id)];
        mirror.seen().map(|(id, _)| id.0).collect()
    }
}

pub(crate) fn seen_from(range: f64) -> Settings {
    Settings {
        classes: vec![Class::seen_from(range)],
        ..Settings::default()
    }
}

pub(crate) fn reliable(budget: usize) -> Watch {
    Watch {
        budget,
        is_reliable: true,
        ..Watch::default()
    }
}

pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.random_range(0..end)
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0.random_range(low..high)
    }
}
