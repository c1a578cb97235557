//! Texts by patterns: a `*` stands for any letters, or none, and a `?` for any one.

/// Whether a text is as a pattern has it. It takes as many steps as both have letters together, and at most their
/// product: only the last `*` is ever given more.
pub(super) fn is_like(text: &str, pattern: &str, steps: &mut u64) -> bool {
    let (mut letters, mut wanted) = (text.chars(), pattern.chars());
    // What follows on the last `*`, and what it leaves of the text.
    let mut star = None;
    loop {
        *steps += 1;
        let here = letters.clone();
        match (wanted.next(), letters.next()) {
            (Some('*'), _) => {
                letters = here;
                star = Some((letters.clone(), wanted.clone()));
            }
            (None, None) => return true,
            (Some(want), Some(letter)) if want == '?' || want == letter => {}
            (Some(_) | None, _) => {
                let Some((left, behind)) = &mut star else {
                    return false;
                };
                if left.next().is_none() {
                    return false;
                }
                (letters, wanted) = (left.clone(), behind.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_like;

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
        for pattern in words(&['a', 'é', '*', '?'], 4) {
            let wanted: String = pattern.iter().collect();
            for text in &texts {
                let letters: String = text.iter().collect();
                assert_eq!(
                    is_like(&letters, &wanted, &mut 0),
                    is_like_slowly(text, &pattern),
                    "{letters} by {wanted}"
                );
            }
        }
    }

    #[test]
    fn the_worst_pattern_takes_no_more_steps_than_the_product_of_both() {
        let (text, pattern) = ("a".repeat(128), format!("*{}b*", "a".repeat(125)));
        for stars in [1, 60] {
            let pattern = pattern.replacen("aa", "a*", stars);
            let mut steps = 0;
            assert!(!is_like(&text, &pattern, &mut steps));
            assert!(steps <= 129 * 129, "{steps}");
        }
    }
}
