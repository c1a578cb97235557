//! What somebody may not see.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tombolo_field::{BUDGET_MAX, EntityId, Settings, Subject, Watch};

use crate::model::{Body, may_see, random_origin, random_settings, step, subject};
use crate::world::{Dice, World};

#[test]
fn what_may_not_be_seen_is_never_sent() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let settings = Settings {
            grace: Duration::from_millis(500),
            ..random_settings(&mut dice)
        };
        let mut permits = Permits::new(settings.grace);
        let origin = random_origin(&mut dice);
        let mut world = World::new(settings);
        let mut bodies = BTreeMap::new();
        let mut expected = BTreeMap::new();
        let mut hidden = 0;
        for _ in 0..40 {
            let watch = Watch {
                budget: 256 + dice.below(600) as usize,
                ..Watch::default()
            };
            step(
                &mut dice,
                &mut world,
                &mut bodies,
                &mut expected,
                origin,
                watch,
            );
            world.now += Duration::from_millis(100);
            let now = world.now;
            for observer in expected.keys() {
                if dice.below(8) == 0 {
                    let claims = (0..40).filter(|id| id != observer && dice.below(2) == 0);
                    let claims: Vec<_> = claims.map(|id| (EntityId(id), 1)).collect();
                    let id = EntityId(*observer);
                    world.field.resume(id, watch, &claims).unwrap();
                    permits.resume(now, *observer, &claims);
                }
            }
            permits.note_seen(now, &bodies);
            world.field.tick(now, &may_see, |observer, datagram| {
                for (other, tag) in records_of(datagram) {
                    let is_hidden = !permits.may_be_sent(now, &bodies, [observer.0, other], tag);
                    assert!(!is_hidden, "seed {seed}: {other}, {tag} to {observer:?}");
                }
                let me = subject(observer.0, &bodies[&observer.0]);
                let sees = |(id, body): (&u64, &Body)| may_see(&me, &subject(*id, body));
                hidden += bodies.iter().filter(|body| !sees(*body)).count();
            });
        }
        assert!(hidden > 0, "seed {seed} has shown nothing");
    }
}

#[test]
fn who_hides_is_to_others_as_if_it_were_not_there() {
    for seed in 0..40 {
        let [with, without] = [true, false].map(|is_there| told_beside_a_ghost(seed, is_there));
        let claimed = with.iter().any(|told| told.3.contains(&(99, 0)));
        assert!(
            claimed,
            "seed {seed}: nobody was told that the ghost has left"
        );
        for (with, without) in with.iter().zip(&without) {
            assert_eq!(with, without, "seed {seed}");
        }
        assert_eq!(with.len(), without.len(), "seed {seed}");
    }
}

/// Of a datagram: when, to whom, how long, and its records.
type Told = (Duration, EntityId, usize, Vec<(u64, u8)>);

/// What is told beside a ghost, which nobody may see but all claim to know; it may not be there at all.
fn told_beside_a_ghost(seed: u64, is_there: bool) -> Vec<Told> {
    let ghost = EntityId(99);
    let sight = |me: &Subject, other: &Subject| other.id != ghost && may_see(me, other);
    let mut dice = Dice::new(seed);
    let mut ghost_dice = Dice::new(seed + 1);
    let settings = Settings {
        grace: Duration::from_millis(500),
        ..random_settings(&mut dice)
    };
    let origin = random_origin(&mut dice);
    let mut world = World::new(settings);
    let (mut bodies, mut expected) = (BTreeMap::new(), BTreeMap::new());
    let watch = Watch {
        budget: BUDGET_MAX,
        ..Watch::default()
    };
    let mut told = Vec::new();
    for _ in 0..40 {
        step(
            &mut dice,
            &mut world,
            &mut bodies,
            &mut expected,
            origin,
            watch,
        );
        if is_there {
            let near = |_| origin + ghost_dice.between(-60.0, 60.0);
            let place = [0; 3].map(near);
            let flat = [place[0], place[1], 0.0];
            world.put(ghost.0, flat);
        }
        for observer in expected.keys().filter(|_| dice.below(8) == 0) {
            let claims = [(ghost, 1), (EntityId((observer + 1) % 40), 1)];
            let id = EntityId(*observer);
            world.field.resume(id, watch, &claims).unwrap();
        }
        world.now += Duration::from_millis(100);
        let now = world.now;
        world.field.tick(now, &sight, |observer, datagram| {
            let mut records = records_of(datagram);
            records.sort_unstable();
            told.push((now, observer, datagram.len(), records));
        });
    }
    // In a tick, those come first who are in the first cells.
    told.sort_unstable();
    told
}

/// Of each observer and other, from when on the one may be told that the other has left: what it could see, or
/// claims to know.
struct Permits {
    grace: Duration,
    leave_by_pair: BTreeMap<[u64; 2], Duration>,
}

impl Permits {
    fn new(grace: Duration) -> Self {
        Self {
            grace,
            leave_by_pair: BTreeMap::new(),
        }
    }

    /// That something is not here is told after the grace, be it here or not.
    fn resume(&mut self, now: Duration, observer: u64, claims: &[(EntityId, u32)]) {
        self.leave_by_pair.retain(|pair, _| pair[0] != observer);
        for (claimed, _) in claims {
            let pair = [observer, claimed.0];
            self.leave_by_pair.insert(pair, now + self.grace);
        }
    }

    fn note_seen(&mut self, now: Duration, bodies: &BTreeMap<u64, Body>) {
        let observers: BTreeSet<_> = bodies.keys().collect();
        self.leave_by_pair
            .retain(|pair, _| observers.contains(&pair[0]));
        for (pair, from) in &mut self.leave_by_pair {
            if !hides(bodies, *pair) {
                *from = now.min(*from);
            }
        }
    }

    fn may_be_sent(
        &mut self,
        now: Duration,
        bodies: &BTreeMap<u64, Body>,
        pair: [u64; 2],
        tag: u8,
    ) -> bool {
        if tag == 0 {
            let from = self.leave_by_pair.get(&pair);
            return !hides(bodies, pair) || from.is_some_and(|from| *from <= now);
        }
        self.leave_by_pair.insert(pair, now);
        !hides(bodies, pair)
    }
}

/// Whether the second one is there, and the first one may not see it.
fn hides(bodies: &BTreeMap<u64, Body>, pair: [u64; 2]) -> bool {
    let [me, other] = pair.map(|id| bodies.get(&id).map(|body| subject(id, body)));
    let both = me.zip(other);
    both.is_some_and(|(me, other)| me != other && !may_see(&me, &other))
}

/// The number and tag of each record.
fn records_of(datagram: &[u8]) -> Vec<(u64, u8)> {
    let dimensions = if datagram[1] & 2 == 0 { 2 } else { 3 };
    let reset = if datagram[1] & 1 == 0 { 0 } else { 4 };
    let mut rest = &datagram[6 + 8 * dimensions + reset..];
    let mut records = Vec::new();
    while let [tag, tail @ ..] = rest {
        let id = u64::from_be_bytes(tail[..8].try_into().unwrap());
        records.push((id, *tag));
        let fixed = match tag {
            0 => 8,
            1 => 8 + 4 + 1 + 4 * dimensions + 1,
            _ => 8 + 4 + 4 * dimensions + 1,
        };
        let payload = if *tag == 0 {
            0
        } else {
            usize::from(tail[fixed - 1])
        };
        rest = &tail[fixed + payload..];
    }
    records
}
