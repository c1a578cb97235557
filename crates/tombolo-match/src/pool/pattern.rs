//! Texts by patterns: a `*` stands for any letters, or none, and a `?` for any one.

/// A pattern that is ready for many texts.
///
/// All that a text may have become of it so far is looked at together, so that a text takes a step for each of its
/// bytes, whatever the pattern.
pub(super) struct Pattern {
    /// By byte: where it stands in the pattern, without the `*`.
    places_by_byte: [u128; 256],
    /// Where a `?` stands.
    any: u128,
    /// Behind what any bytes may follow.
    stars: u128,
    /// Whether any bytes may come first.
    begins_with_star: bool,
    end: u128,
}

impl Pattern {
    /// Reads a pattern of at most 128 bytes, which is more than `*`.
    pub(super) fn new(pattern: &str) -> Self {
        let mut new = Self {
            places_by_byte: [0; 256],
            any: 0,
            stars: 0,
            begins_with_star: false,
            end: 0,
        };
        let mut place: u128 = 1;
        for byte in pattern.bytes() {
            match byte {
                b'*' if new.end == 0 => new.begins_with_star = true,
                b'*' => new.stars |= new.end,
                _ => {
                    match byte {
                        b'?' => new.any |= place,
                        _ => new.places_by_byte[usize::from(byte)] |= place,
                    }
                    new.end = place;
                    place <<= 1;
                }
            }
        }
        new
    }

    /// Whether a text is so.
    pub(super) fn is_like(&self, text: &str) -> bool {
        // How far the pattern is through, in each way that there is; nothing of it is at first.
        let (mut reached, mut is_before) = (0, true);
        for byte in text.bytes() {
            let is_inside = byte & 0b1100_0000 == 0b1000_0000;
            let mut places = self.places_by_byte[usize::from(byte)];
            let mut stays = self.stars;
            // What stands for a letter takes all of its bytes.
            match is_inside {
                true => stays |= self.any,
                false => places |= self.any,
            }
            reached = (reached << 1 | u128::from(is_before)) & places | reached & stays;
            is_before &= self.begins_with_star;
            if reached == 0 && !is_before {
                return false;
            }
        }
        reached & self.end != 0
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    /// By trying everything that a `*` may stand for.
    fn is_like_slowly(text: &[char], pattern: &[char]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => {
                (0..=text.len()).any(|from| is_like_slowly(&text[from..], rest))
            }
            (['?', wanted @ ..], [_, letters @ ..]) => is_like_slowly(letters, wanted),
            ([want, wanted @ ..], [letter, letters @ ..]) => {
                want == letter && is_like_slowly(letters, wanted)
            }
            ([], _) | (_, []) => false,
        }
    }

    /// All words of at most so many of these letters.
    fn words(letters: &[char], most: usize) -> Vec<Vec<char>> {
        let mut words = vec![Vec::new()];
        let mut begin = 0;
        for _ in 0..most {
            let end = words.len();
            for at in begin..end {
                for letter in letters {
                    let mut word = words[at].clone();
                    word.push(*letter);
                    words.push(word);
                }
            }
            begin = end;
        }
        words
    }

    #[test]
    fn every_short_pattern_is_understood_as_by_trying_everything() {
        let texts = words(&['a', 'é'], 5);
        let mut patterns = words(&['a', 'é', '*', '?'], 4);
        patterns.retain(|pattern| pattern.iter().any(|letter| *letter != '*'));
        for pattern in patterns {
            let wanted: String = pattern.iter().collect();
            for text in &texts {
                let letters: String = text.iter().collect();
                assert_eq!(
                    Pattern::new(&wanted).is_like(&letters),
                    is_like_slowly(text, &pattern),
                    "{letters} by {wanted}"
                );
            }
        }
    }

    #[test]
    fn the_longest_patterns_are_understood() {
        let text = "a".repeat(128);
        for (pattern, fits) in [
            ("?".repeat(128), true),
            ("?".repeat(127), false),
            (format!("{}*", "?".repeat(127)), true),
            (format!("*{}b*", "a".repeat(125)), false),
            (format!("*{}", "a".repeat(127)), true),
        ] {
            assert_eq!(Pattern::new(&pattern).is_like(&text), fits, "{pattern}");
        }
    }
}
