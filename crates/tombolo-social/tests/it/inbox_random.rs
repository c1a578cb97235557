//! Random histories of an inbox, against a model that does everything the long way.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tombolo_social::inbox::{
    Body, CLOCK_STEP_MAX, Illegal, Inbox, KEPT_FOR, LETTER_BYTES_MAX, LETTERS_MAX,
    PAYLOAD_BYTES_MAX, UNREAD_BYTES_PER_SENDER_MAX, UNREAD_PER_SENDER_MAX,
};

use crate::inbox::{World, user};

/// Every message that was ever taken, and what became of it.
#[derive(Default)]
struct Model {
    all: Vec<Taken>,
    read: u64,
    blocked: Vec<String>,
}

struct Taken {
    from: String,
    id: u128,
    bytes: usize,
    time: u64,
    is_kept: bool,
}

impl Model {
    fn expire(&mut self, now: u64) {
        let kept_for = KEPT_FOR.as_millis() as u64;
        for taken in &mut self.all {
            taken.is_kept &= taken.time + kept_for >= now;
        }
    }

    fn kept(&self) -> impl Iterator<Item = (u64, &Taken)> {
        (1..).zip(&self.all).filter(|(_, taken)| taken.is_kept)
    }

    fn send(&mut self, from: &str, id: u128, bytes: usize, time: u64) -> Result<u64, Illegal> {
        let mut before = (1..).zip(&self.all);
        if let Some((number, taken)) =
            before.find(|(_, taken)| taken.from == from && taken.id == id)
        {
            return Ok(if taken.is_kept { number } else { 0 });
        }
        if self.blocked.iter().any(|blocked| blocked == from) {
            return Err(Illegal::Blocked);
        }
        let is_unread = |(number, taken): &(u64, &Taken)| *number > self.read && taken.from == from;
        let unread: Vec<_> = self.kept().filter(is_unread).collect();
        let unread_bytes: usize = unread.iter().map(|(_, taken)| taken.bytes).sum();
        if unread.len() >= UNREAD_PER_SENDER_MAX
            || unread_bytes + bytes > UNREAD_BYTES_PER_SENDER_MAX
        {
            return Err(Illegal::SenderFull);
        }
        let (letters, sum) = self.sizes(|_| true);
        let (unread, unread_sum) = self.sizes(|number| number > self.read);
        if unread + 1 > LETTERS_MAX || unread_sum + bytes > LETTER_BYTES_MAX {
            return Err(Illegal::Full);
        }
        let (mut letters, mut sum) = (letters, sum);
        for taken in &mut self.all {
            if letters < LETTERS_MAX && sum + bytes <= LETTER_BYTES_MAX {
                break;
            }
            if taken.is_kept {
                taken.is_kept = false;
                letters -= 1;
                sum -= taken.bytes;
            }
        }
        self.all.push(Taken {
            from: from.to_owned(),
            id,
            bytes,
            time,
            is_kept: true,
        });
        Ok(self.all.len() as u64)
    }

    fn sizes(&self, which: impl Fn(u64) -> bool) -> (usize, usize) {
        let kept = self.kept().filter(|(number, _)| which(*number));
        kept.fold((0, 0), |(count, sum), (_, taken)| {
            (count + 1, sum + taken.bytes)
        })
    }
}

#[test]
fn whatever_happens_an_inbox_is_as_the_model_says_and_survives_a_snapshot() {
    for seed in 0..12 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut world, mut model) = (World::new(), Model::default());
        // Few senders reach their own limit, many that of the inbox, long payloads that of its bytes.
        let senders = [3, 15, 40][random.random_range(0..3)];
        let payload_max = [16, 2048, PAYLOAD_BYTES_MAX][random.random_range(0..3)];
        for step in 0..1800_u128 {
            step_once(
                &mut random,
                &mut world,
                &mut model,
                senders,
                payload_max,
                step,
            );
            let kept: Vec<_> = model
                .kept()
                .map(|(number, taken)| (number, taken.id))
                .collect();
            let found = world.inbox.letters_after(0);
            let found: Vec<_> = found
                .map(|letter| (letter.number, u128::from_be_bytes(letter.id.0)))
                .collect();
            assert_eq!(found, kept, "seed {seed}, step {step}");
            assert_eq!(world.inbox.read(), model.read, "seed {seed}, step {step}");
            if step % 100 == 0 {
                let restored = Inbox::restore(&world.inbox.snapshot()).unwrap();
                assert_eq!(restored, world.inbox, "seed {seed}, step {step}");
                world.inbox = restored;
            }
        }
    }
}

fn step_once(
    random: &mut ChaCha8Rng,
    world: &mut World,
    model: &mut Model,
    senders: u32,
    payload_max: usize,
    step: u128,
) {
    world.now += random.random_range(0..1000);
    let from = format!("user-{}", random.random_range(0..senders));
    match random.random_range(0..100) {
        0..90 => {
            let is_again = random.random_range(0..5) == 0;
            let id = if is_again {
                random.random_range(0..=step)
            } else {
                step
            };
            let bytes = random.random_range(0..=payload_max);
            model.expire(world.now);
            let expected = model.send(&from, id, bytes, world.now);
            let sent = world.send(&from, id, &vec![0; bytes]);
            assert_eq!(sent.map(|done| done.number), expected, "step {step}");
        }
        90..94 => {
            let last = model.all.len() as u64;
            let number = random.random_range(0..=last + 1);
            world.apply(Body::Read(number)).unwrap();
            model.expire(world.now);
            model.read = model.read.max(number.min(last));
        }
        94..96 => {
            world.apply(Body::Blocked(user(&from))).unwrap();
            model.expire(world.now);
            model.blocked.push(from);
        }
        96..99 => {
            world.apply(Body::Unblocked(user(&from))).unwrap();
            model.expire(world.now);
            model.blocked.retain(|blocked| *blocked != from);
        }
        _ => {
            for _ in 0..8 {
                world.now += CLOCK_STEP_MAX.as_millis() as u64;
                world.apply(Body::Read(0)).unwrap();
                model.expire(world.now);
            }
        }
    }
}
