//! Picking some of many, which come in no order that a processor could foresee.

/// Adds what is made of each that is picked. There is no branch for each: what is made is written always, and over when
/// it does not count.
#[inline]
pub(super) fn pick<T, P: Copy + Default>(
    from: &[T],
    picked: &mut Vec<P>,
    mut of: impl FnMut(&T) -> (P, bool),
) {
    let mut end = picked.len();
    picked.resize(end + from.len(), P::default());
    let (chunks, rest) = from.as_chunks::<CHUNK>();
    for chunk in chunks {
        // There is room for all. That no more are picked than fit into so few is known when this is compiled.
        let Some(room) = picked[end..].first_chunk_mut::<CHUNK>() else {
            break;
        };
        let mut count = 0;
        for one in chunk {
            let (made, is_picked) = of(one);
            room[count] = made;
            count += usize::from(is_picked);
        }
        end += count;
    }
    for one in rest {
        let (made, is_picked) = of(one);
        picked[end] = made;
        end += usize::from(is_picked);
    }
    picked.truncate(end);
}

const CHUNK: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_count_are_picked_in_order_behind_what_was_there() {
        for count in 0..40_u32 {
            for share in 1..5 {
                let all: Vec<u32> = (0..count).collect();
                let mut picked = vec![7; 3];
                pick(&all, &mut picked, |one| (one + 100, one % share == 0));
                let expected = all.iter().filter(|one| *one % share == 0);
                let expected = expected.map(|one| one + 100);
                let expected: Vec<_> = [7; 3].into_iter().chain(expected).collect();
                assert_eq!(picked, expected, "of {count} every {share}th");
            }
        }
    }
}
