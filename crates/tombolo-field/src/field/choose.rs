//! Which of what there is to tell is told, when not all fits.

/// Chooses the most urgent that fit, without sorting them.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// How urgent each is, as the bits of a float, which order as it does when it is positive; 0 when there is
    /// nothing to tell of it.
    scores: Vec<i32>,
    /// Of each.
    bytes: Vec<u32>,
    chosen: Vec<u32>,
    /// Those of which some fit.
    edge: Vec<u32>,
}

impl Choice {
    pub(super) fn clear(&mut self) {
        self.scores.clear();
        self.bytes.clear();
    }

    /// Adds some: how urgent each is, and its bytes; none when there is nothing to tell of it.
    pub(super) fn extend(&mut self, some: impl Iterator<Item = (f32, u16)> + Clone) {
        let score = |(score, bytes): (f32, u16)| {
            let score = (score.to_bits() & !SIGN) as i32;
            if bytes > 0 { score.max(1) } else { 0 }
        };
        self.scores.extend(some.clone().map(score));
        self.bytes.extend(some.map(|(_, bytes)| u32::from(bytes)));
    }

    /// Which of those that were added since the beginning fit into some bytes, by number: the most urgent
    /// ones, and of those that are about as urgent as the last one that fits, as many as there is room for.
    /// The most urgent one is always among them, when it fits at all.
    pub(super) fn choose(&mut self, room: usize) -> &[u32] {
        let (least, most) = self.extremes();
        // All that are as urgent as `fits` fit, and those that are as urgent as `exceeds` do not.
        let (mut exceeds, mut fits) = (least.max(1), most.saturating_add(1));
        while fits - exceeds > EDGE {
            let middle = exceeds + (fits - exceeds) / 2;
            if self.bytes_from(middle) <= room {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        self.part(exceeds, fits);
        self.fill(room);
        &self.chosen
    }

    /// The scores of the least and the most urgent.
    fn extremes(&self) -> (i32, i32) {
        let most = self.scores.iter().copied().max().unwrap_or(0);
        // Nothing to tell is less than that.
        let positive = |score: i32| if score > 0 { score } else { i32::MAX };
        let least = self.scores.iter().map(|score| positive(*score)).min();
        (least.unwrap_or(0).min(most), most)
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

/// Scores that differ by less, about a fiftieth, are about the same.
const EDGE: i32 = 1 << 18;

#[cfg(test)]
mod tests {
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn random_items(random: &mut ChaCha8Rng) -> Vec<(f32, u16)> {
        let count = random.random_range(1..120);
        let spread = [0.0_f32, 1e-3, 10.0, 1e30][random.random_range(0..4)];
        let bytes = [30..31, 22..75][random.random_range(0..2)].clone();
        let item = |_| {
            let score = 1.0 + random.random_range(0.0..1.0) * spread;
            let bytes = random.random_range(bytes.clone());
            (score, bytes * u16::from(random.random_range(0..9) > 0))
        };
        (0..count).map(item).collect()
    }

    #[test]
    fn the_most_urgent_are_chosen_once_each_and_the_room_is_filled() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut choice = Choice::default();
        for round in 0..2000 {
            let items = random_items(&mut random);
            let total: usize = items.iter().map(|(_, bytes)| usize::from(*bytes)).sum();
            let room = random.random_range(75..3000).min(total.saturating_sub(1));
            choice.clear();
            choice.extend(items.iter().copied());
            let mut chosen = choice.choose(room).to_vec();
            chosen.sort_unstable();
            let is_once = chosen.is_sorted_by(|a, b| a < b);
            assert!(is_once, "round {round}: one is chosen twice");
            let (taken, left): (Vec<_>, Vec<_>) = (0..items.len())
                .filter(|at| items[*at].1 > 0)
                .partition(|at| chosen.contains(&(*at as u32)));
            assert_eq!(taken.len(), chosen.len(), "round {round}: nothing is told");
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
        choice.extend([(1.0, 40), (1.000_1, 70), (1.0, 40)].into_iter());
        assert_eq!(choice.choose(75), [1]);
    }

    #[test]
    fn scores_that_are_no_numbers_disturb_nothing() {
        let scores = [f32::NAN, -f32::NAN, f32::INFINITY, -0.0, 0.0, 1.0];
        for (room, count) in [(6 * 40, 6), (100, 2), (40, 1), (0, 0)] {
            let mut choice = Choice::default();
            choice.extend(scores.iter().map(|score| (*score, 40)));
            assert_eq!(choice.choose(room).len(), count);
        }
        assert_eq!(Choice::default().choose(100), [0; 0]);
    }
}
