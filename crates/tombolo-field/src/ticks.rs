//! Ticks whose datagrams have arrived.

/// The ticks whose datagrams an observer has: the last, and which of the 32 before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// The last one; 0 when nothing has come.
    pub last: u32,
    /// Bit 0 is the one before the last, and so on.
    pub before: u32,
}

impl Ticks {
    /// One alone.
    #[must_use]
    pub fn only(tick: u32) -> Self {
        Self {
            last: tick,
            before: 0,
        }
    }

    /// Takes note of a datagram.
    pub(crate) fn note(&mut self, tick: u32) {
        if let Some(after @ 1..) = tick.checked_sub(self.last) {
            // The one that was last is `after` ticks ago.
            let before = (u64::from(self.before) << 1 | u64::from(self.last > 0))
                .checked_shl(after - 1)
                .unwrap_or(0);
            *self = Self {
                last: tick,
                before: before as u32,
            };
        } else if let Some(ago @ 1..=32) = self.last.checked_sub(tick) {
            self.before |= 1 << (ago - 1);
        }
    }

    pub(crate) fn contains(self, tick: u32) -> bool {
        tick != 0 && self.meet(tick, 1)
    }

    /// Whether one of the ticks is among those that a bit each stands for, from `first` on.
    pub(crate) fn meet(self, first: u32, bits: u32) -> bool {
        // Bit 32 is the last one, bit 31 the one before.
        let mine = 1_u64 << 32 | u64::from(self.before.reverse_bits());
        let begin = i64::from(self.last) - 32;
        let after = i64::from(first) - begin;
        let theirs = match u32::try_from(after) {
            Ok(after) => u64::from(bits).checked_shl(after).unwrap_or(0),
            Err(_) => u32::try_from(-after)
                .ok()
                .and_then(|ago| u64::from(bits).checked_shr(ago))
                .unwrap_or(0),
        };
        mine & theirs != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_contained_and_nothing_else() {
        for order in [[3, 5, 4, 40, 37, 8, 7], [1, 2, 3, 32, 33, 34, 100]] {
            let mut ticks = Ticks::default();
            for (count, tick) in order.into_iter().enumerate() {
                ticks.note(tick);
                let noted = &order[..=count];
                for asked in 1..=ticks.last + 40 {
                    let is_noted = noted.contains(&asked) && asked + 32 >= ticks.last;
                    assert_eq!(ticks.contains(asked), is_noted, "{asked} in {noted:?}");
                }
            }
        }
        assert!(!Ticks::only(7).contains(0) && Ticks::only(7).contains(7));
    }

    #[test]
    fn ticks_meet_those_that_bits_stand_for() {
        let ticks = Ticks {
            last: 50,
            before: 0b1000,
        };
        assert!(ticks.meet(46, 0b1_0000) && ticks.meet(45, 0b10) && ticks.meet(20, 1 << 26));
        assert!(!ticks.meet(46, 0b1110) && !ticks.meet(51, u32::MAX) && !ticks.meet(1, 0b11));
    }
}
