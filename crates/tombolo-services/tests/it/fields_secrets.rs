//! What a device may not see is never sent to it, while devices on two nodes move, jump about, change their marks, and
//! go on over the other node.
//!
//! The rule: a batch tells of an entity only what its observer may see by the marks of both. On the node on which both
//! are, new marks count in every batch that is made after `mark_in_field` has answered. What the other node's entities
//! are marked with may be under way for [`UNDER_WAY`], and counts from then on. That something has left is told only to
//! whom it was told of before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use tombolo_engine::{Local, LocalConfig};
use tombolo_field::EntityId;
use tombolo_services::{FieldClass, FieldSight, HookSet, Hooks, Marking};
use tombolo_wire::{FieldId, UserId};

use crate::cluster::{Member, start_with};
use crate::walker::Walker;

/// As long as a node gathers what it tells, and what it takes to wake up.
const UNDER_WAY: Duration = Duration::from_millis(20 + 5);

const RANGE: f64 = 30.0;

/// How often something happens.
const ROUNDS: usize = 60;

/// After so many rounds nothing happens until all are told all.
const ROUNDS_AT_ONCE: usize = 12;

/// The team is in the lowest four bits; whoever has this one hides from other teams.
const HIDES: u64 = 0x10;
/// Whoever has this one finds them.
const FINDS: u64 = 0x20;

fn may_see(observer: u64, other: u64) -> bool {
    other & HIDES == 0 || observer & FINDS != 0 || observer & 0x0f == other & 0x0f
}

fn any_marks(random: &mut ChaCha8Rng) -> u64 {
    let team = random.random_range(1..=2);
    let hides = if random.random_bool(0.6) { HIDES } else { 0 };
    let finds = if random.random_bool(0.2) { FINDS } else { 0 };
    team | hides | finds
}

/// Marks those who come in as they are marked by then.
struct Game(Arc<Mutex<BTreeMap<String, u64>>>);

impl Hooks for Game {
    fn authorize_field(&self, user: UserId, _: FieldId, _: u8) -> Marking {
        let marks = self.0.lock().unwrap()[user.as_str()];
        Box::pin(async move { Ok(marks.into()) })
    }
}

/// Somebody in the field.
struct Body {
    walker: Walker,
    /// Which of the two nodes it is on.
    node: usize,
    /// When it came there.
    came: Moment,
    at: [f64; 2],
    /// Its marks one after the other, each with when they were over.
    marks: Vec<(u64, Option<Moment>)>,
    /// Whom it has been told of.
    told: BTreeSet<EntityId>,
}

/// When something was: what happens at one time happens in this order.
#[derive(Clone, Copy)]
struct Moment {
    number: usize,
    time: Instant,
}

impl Body {
    fn marks_now(&self) -> u64 {
        self.marks.last().unwrap().0
    }

    /// What it may count as, on its own node or on the other one, in a batch that was made since then.
    fn marks_since(&self, since: Moment, is_here: bool) -> impl Iterator<Item = u64> {
        let may_count = move |over: &Option<Moment>| match over {
            None => true,
            Some(over) if is_here => over.number > since.number,
            Some(over) => over.time + UNDER_WAY >= since.time,
        };
        let marks = self.marks.iter().filter(move |(_, over)| may_count(over));
        marks.map(|(marks, _)| *marks)
    }
}

struct World {
    nodes: Vec<Member>,
    game: Arc<Mutex<BTreeMap<String, u64>>>,
    bodies: Vec<Body>,
    /// All batches that were made before have been looked at.
    looked: Moment,
    /// How often somebody was told of another one, and how often somebody in range was hidden.
    shown: usize,
    hidden: usize,
}

impl World {
    async fn new(random: &mut ChaCha8Rng) -> Self {
        let local = Local::new(LocalConfig::default());
        let game = Arc::new(Mutex::new(BTreeMap::new()));
        let node = |number| {
            start_with(&local, number, |config| {
                config.fields.settings.classes = vec![FieldClass::seen_from(RANGE)];
                config.fields.sight = vec![FieldSight {
                    of: HIDES,
                    same: 0x0f,
                    by: FINDS,
                    ..FieldSight::default()
                }];
                config.hooks = HookSet::new(Game(Arc::clone(&game)));
            })
        };
        let mut world = Self {
            nodes: (0..2).map(node).collect(),
            game,
            bodies: Vec::new(),
            looked: Moment {
                number: 0,
                time: Instant::now(),
            },
            shown: 0,
            hidden: 0,
        };
        tokio::time::sleep(Duration::from_secs(5)).await;
        for number in 0..8 {
            let (user, node) = (format!("user-{number}"), number % 2);
            let marks = any_marks(random);
            world.game.lock().unwrap().insert(user.clone(), marks);
            let at = [0; 2].map(|_| random.random_range(-30.0..30.0));
            world.bodies.push(Body {
                walker: Walker::new(&world.nodes[node].lab, &user, &at).await,
                node,
                came: world.looked,
                at,
                marks: vec![(marks, None)],
                told: BTreeSet::new(),
            });
        }
        world
    }

    fn moment(&self) -> Moment {
        Moment {
            number: self.looked.number + 1,
            time: Instant::now(),
        }
    }

    /// Looks at all that was sent since it was looked last.
    async fn look(&mut self) {
        for body in &mut self.bodies {
            while body.walker.hear_one(Duration::ZERO).await.is_some() {}
        }
        for at in 0..self.bodies.len() {
            for batch in std::mem::take(&mut self.bodies[at].walker.batches) {
                for other in 0..self.bodies.len() {
                    if other != at {
                        self.check(at, other, &batch);
                    }
                }
            }
        }
        self.looked = self.moment();
    }

    /// Whether a batch tells one of another only what it may.
    fn check(&mut self, at: usize, other: usize, batch: &[u8]) {
        let (me, body) = (&self.bodies[at], &self.bodies[other]);
        let id = body.walker.entity;
        // The number of whoever is told of stands behind a tag, which is 0 when it has left.
        let number = id.0.to_be_bytes();
        let place = batch.windows(8).position(|bytes| bytes == number);
        let Some(tag) = place.map(|place| batch[place - 1]) else {
            return;
        };
        let what = format!("{} of {}", me.walker.device.user, body.walker.device.user);
        if tag == 0 {
            assert!(me.told.contains(&id), "{what}: it was never there");
            return;
        }
        let came = me.came.number.max(body.came.number);
        let is_here = me.node == body.node && came <= self.looked.number;
        let mut mine = me.marks_since(self.looked, true);
        let is_permitted = mine.any(|mine| {
            let mut theirs = body.marks_since(self.looked, is_here);
            theirs.any(|theirs| may_see(mine, theirs))
        });
        assert!(is_permitted, "{what}, on one node: {is_here}: it is hidden");
        drop(mine);
        self.bodies[at].told.insert(id);
        self.shown += 1;
    }

    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.look().await;
        }
    }

    async fn mark(&mut self, at: usize, random: &mut ChaCha8Rng) {
        let marks = any_marks(random);
        let user = self.bodies[at].walker.device.user.clone();
        self.game.lock().unwrap().insert(user.clone(), marks);
        let services = &self.nodes[random.random_range(0..2)].lab.services;
        let (field, user) = (
            FieldId::parse("plaza").unwrap(),
            UserId::parse(&user).unwrap(),
        );
        services.mark_in_field(&field, &user, marks).await.unwrap();
        let over = self.moment();
        let all = &mut self.bodies[at].marks;
        all.last_mut().unwrap().1 = Some(over);
        all.push((marks, None));
        self.look().await;
    }

    async fn change_node(&mut self, at: usize) {
        let body = &mut self.bodies[at];
        body.node = 1 - body.node;
        let lab = &self.nodes[body.node].lab;
        let welcome = body.walker.device.connect(lab).await.unwrap();
        assert!(welcome.resumed);
        body.walker.enter(&body.at).await.unwrap();
        let came = self.moment();
        self.bodies[at].came = came;
        self.look().await;
    }

    /// Somebody walks on, or is somewhere else.
    fn go(&mut self, at: usize, random: &mut ChaCha8Rng) {
        let body = &mut self.bodies[at];
        let is_far = body.at[0] > 500.0;
        match random.random_range(0..12) {
            0 if !is_far => body.at[0] += 1000.0,
            0..6 if is_far => body.at[0] -= 1000.0,
            _ => body.at = body.at.map(|at| at + random.random_range(-4.0..4.0)),
        }
        body.walker.go(&body.at);
    }

    /// Whether all know of those whom they see, and of no others.
    fn check_all(&mut self, what: &str) {
        for me in &self.bodies {
            let seen = me.walker.seen();
            for other in &self.bodies {
                let id = other.walker.entity;
                let distance = (me.at[0] - other.at[0]).hypot(me.at[1] - other.at[1]);
                if id == me.walker.entity {
                    continue;
                }
                let is_shown = may_see(me.marks_now(), other.marks_now());
                let names = (&me.walker.device.user, &other.walker.device.user);
                if is_shown && distance < RANGE - 0.01 {
                    assert!(seen.contains(&id), "{what}: {names:?} at {distance}");
                }
                if !is_shown || distance > RANGE * 1.1 + 0.01 {
                    assert!(!seen.contains(&id), "{what}: {names:?} at {distance}");
                    self.hidden += usize::from(!is_shown && distance < RANGE);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_device_may_not_see_is_never_sent_to_it_over_two_nodes_whatever_changes() {
    for seed in 0..10 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::new(&mut random).await;
        for round in 1..=ROUNDS {
            for at in 0..world.bodies.len() {
                world.go(at, &mut random);
            }
            let at = random.random_range(0..world.bodies.len());
            match random.random_range(0..10) {
                0..6 => world.mark(at, &mut random).await,
                6 => world.change_node(at).await,
                _ => {}
            }
            let some = random.random_range(1..120);
            world.pass(Duration::from_millis(some)).await;
            if round.is_multiple_of(ROUNDS_AT_ONCE) {
                // As long as something that is missing on a node is looked for.
                world.pass(Duration::from_millis(2_500)).await;
                world.check_all(&format!("seed {seed}, round {round}"));
            }
        }
        assert!(
            world.shown > 0 && world.hidden > 0,
            "seed {seed}: {}, {}",
            world.shown,
            world.hidden
        );
    }
}
