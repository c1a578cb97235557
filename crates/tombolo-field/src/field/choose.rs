//! Which of what there is to tell is told, when not all fits.

use super::pick::pick;

/// Chooses the most urgent that fit, without sorting them.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Who they are.
    numbers: Vec<u32>,
    /// Of the record of each.
    bytes: Vec<u32>,
    /// How urgent each is, as the bits of a float, which order as it does when it is positive.
    scores: Vec<i32>,
    /// Those that fit, by their place here.
    chosen: Vec<u32>,
    /// Those of which some fit.
    edge: Vec<u32>,
}

/// How urgent the last one was that fitted, so that the next choice need not look for it from the beginning;
/// `None` when all fitted.
pub(super) type Threshold = Option<i32>;

/// How urgent something is, as an integer.
#[inline]
pub(super) fn score(urgency: f32) -> i32 {
    ((urgency.to_bits() & !SIGN) as i32).clamp(1, SCORE_MAX)
}

/// How urgent that is.
#[inline]
pub(super) fn urgency(score: i32) -> f32 {
    f32::from_bits(score.unsigned_abs())
}

impl Choice {
    /// Begins anew, with those of a list for which that holds, by their place there; returns how many they are.
    pub(super) fn begin<T>(&mut self, of: &[T], holds: impl Fn(&T) -> bool) -> usize {
        self.numbers.clear();
        let mut numbers = 0..;
        pick(of, &mut self.numbers, |one| {
            (numbers.next().unwrap_or_default(), holds(one))
        });
        self.numbers.len()
    }

    /// Keeps those of which there is something to tell, by the bytes of their records.
    pub(super) fn weigh(&mut self, of: impl Fn(u32) -> Option<u32>) {
        let count = self.numbers.len();
        self.bytes.resize(count, 0);
        let mut kept = 0;
        // Without a branch for each: written always, kept when it counts.
        for at in 0..count {
            let number = self.numbers[at];
            let bytes = of(number);
            self.numbers[kept] = number;
            self.bytes[kept] = bytes.unwrap_or_default();
            kept += usize::from(bytes.is_some());
        }
        self.numbers.truncate(kept);
        self.bytes.truncate(kept);
    }

    /// Adds one.
    pub(super) fn push(&mut self, number: u32, bytes: u32) {
        self.numbers.push(number);
        self.bytes.push(bytes);
    }

    /// Says how urgent each is.
    pub(super) fn score(&mut self, of: impl Fn(u32) -> i32) {
        let scores = self.numbers.iter().map(|number| of(*number));
        self.scores.clear();
        self.scores.extend(scores);
    }

    /// Who they are.
    pub(super) fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// The bytes of all.
    pub(super) fn total(&self) -> usize {
        // Of no more than an observer knows of.
        self.bytes.iter().sum::<u32>() as usize
    }

    /// Which of them fit into some bytes, by number, when not all do: the most urgent ones, and of those that are about
    /// as urgent as the last one that fits, as many as there is room for. The most urgent one is always among them, when
    /// it fits at all. Looks from the threshold on, and leaves the new one there.
    pub(super) fn choose(&mut self, room: usize, threshold: &mut Threshold) -> &[u32] {
        let (mut exceeds, mut fits) = self.bracket(room, threshold.unwrap_or(SCORE_OF_ONE));
        while fits - exceeds > EDGE {
            let middle = exceeds + (fits - exceeds) / 2;
            if self.bytes_from(middle) <= room {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        *threshold = Some(fits.min(SCORE_MAX));
        self.part(exceeds, fits);
        self.fill(room);
        for at in &mut self.chosen {
            *at = self.numbers[*at as usize];
        }
        &self.chosen
    }

    /// Two scores near each other, if the first one is near: all that are as urgent as the one do not fit, and
    /// all that are as urgent as the other do.
    fn bracket(&self, room: usize, from: i32) -> (i32, i32) {
        // All exceed the room, and nobody is as urgent as the greatest number.
        let (mut exceeds, mut fits) = (1, i32::MAX);
        let mut step = EDGE;
        let mut at = from;
        while exceeds < at && at < fits {
            if self.bytes_from(at) <= room {
                fits = at;
                if exceeds > 1 {
                    break;
                }
                at = at.saturating_sub(step);
            } else {
                exceeds = at;
                if fits < i32::MAX {
                    break;
                }
                at = at.saturating_add(step);
            }
            step = step.saturating_mul(2);
        }
        (exceeds, fits)
    }

    /// The bytes of all that are that urgent.
    fn bytes_from(&self, least: i32) -> usize {
        let both = self.scores.iter().zip(&self.bytes);
        // Of no more than an observer knows of.
        let sum: u32 = both
            .map(|(score, bytes)| if *score >= least { *bytes } else { 0 })
            .sum();
        sum as usize
    }

    /// Chooses those that fit for sure, and notes those of which some do.
    fn part(&mut self, exceeds: i32, fits: i32) {
        let count = self.scores.len();
        self.chosen.resize(count, 0);
        self.edge.resize(count, 0);
        let (chosen, edge) = (&mut self.chosen[..count], &mut self.edge[..count]);
        let (mut above, mut on) = (0, 0);
        // Without a branch for each: written always, kept when it counts.
        for (at, score) in self.scores.iter().enumerate() {
            // They are no more than an observer knows of.
            chosen[above] = at as u32;
            above += usize::from(*score >= fits);
            edge[on] = at as u32;
            on += usize::from(*score >= exceeds) & usize::from(*score < fits);
        }
        self.chosen.truncate(above);
        self.edge.truncate(on);
    }

    fn fill(&mut self, room: usize) {
        let bytes = |at: u32| self.bytes[at as usize] as usize;
        let taken: usize = self.chosen.iter().map(|at| bytes(*at)).sum();
        let mut room = room.saturating_sub(taken);
        if self.chosen.is_empty() {
            let score = |at: usize| self.scores[self.edge[at] as usize];
            let first = (0..self.edge.len()).max_by_key(|at| score(*at));
            first.inspect(|first| self.edge.swap(0, *first));
        }
        for at in &self.edge {
            if bytes(*at) <= room {
                room -= bytes(*at);
                self.chosen.push(*at);
            }
        }
    }
}

const SIGN: u32 = 1 << 31;

/// The greatest score.
const SCORE_MAX: i32 = i32::MAX - 1;

/// The score of an urgency of 1.
const SCORE_OF_ONE: i32 = 0x3f80_0000;

/// Scores that differ by less, about a fiftieth, are about the same.
const EDGE: i32 = 1 << 18;

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn note(choice: &mut Choice, items: &[(f32, u16)]) {
        choice.begin::<()>(&[], |()| false);
        choice.weigh(|_| None);
        for (at, (_, bytes)) in items.iter().enumerate() {
            choice.push(at as u32, u32::from(*bytes));
        }
        choice.score(|at| score(items[at as usize].0));
    }

    fn random_items(random: &mut ChaCha8Rng) -> Vec<(f32, u16)> {
        let count = random.random_range(1..120);
        let spread = [0.0_f32, 1e-3, 10.0, 1e30][random.random_range(0..4)];
        let bytes = [30..31, 22..75][random.random_range(0..2)].clone();
        let item = |_| {
            let score = 1.0 + random.random_range(0.0..1.0) * spread;
            (score, random.random_range(bytes.clone()))
        };
        (0..count).map(item).collect()
    }

    #[test]
    fn the_most_urgent_are_chosen_once_each_and_the_room_is_filled() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut choice = Choice::default();
        // It is of another crowd each time, which costs time and nothing else.
        let mut threshold = None;
        for round in 0..2000 {
            let items = random_items(&mut random);
            let total: usize = items.iter().map(|(_, bytes)| usize::from(*bytes)).sum();
            let room = random.random_range(75..3000).min(total.saturating_sub(1));
            note(&mut choice, &items);
            let mut chosen = choice.choose(room, &mut threshold).to_vec();
            chosen.sort_unstable();
            let is_once = chosen.is_sorted_by(|a, b| a < b);
            assert!(is_once, "round {round}: one is chosen twice");
            let (taken, left): (Vec<_>, Vec<_>) =
                (0..items.len()).partition(|at| chosen.contains(&(*at as u32)));
            let bytes: usize = taken.iter().map(|at| usize::from(items[*at].1)).sum();
            assert!(bytes <= room, "round {round}: {bytes} of {room}");
            assert!(bytes + 75 > room, "round {round}: only {bytes} of {room}");
            let most_left = left.iter().map(|at| items[*at].0).fold(0.0, f32::max);
            let least_taken = taken.iter().map(|at| items[*at].0).fold(f32::MAX, f32::min);
            assert!(
                most_left <= least_taken * 1.07,
                "round {round}: {most_left} waits for {least_taken}"
            );
        }
    }

    #[test]
    fn the_most_urgent_one_does_not_wait_for_those_that_are_about_as_urgent() {
        let mut choice = Choice::default();
        note(&mut choice, &[(1.0, 40), (1.000_1, 70), (1.0, 40)]);
        assert_eq!(choice.choose(75, &mut None), [1]);
    }

    #[test]
    fn scores_that_are_no_numbers_disturb_nothing() {
        let scores = [f32::NAN, -f32::NAN, f32::INFINITY, -0.0, 0.0, 1.0];
        for (room, count) in [(6 * 40 - 1, 5), (100, 2), (40, 1), (0, 0)] {
            for from in [1, SCORE_OF_ONE, SCORE_MAX] {
                let mut choice = Choice::default();
                note(&mut choice, &scores.map(|score| (score, 40)));
                let chosen = choice.choose(room, &mut Some(from));
                assert_eq!(chosen.len(), count, "{room} from {from}");
            }
        }
    }
}
