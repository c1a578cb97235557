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
            let before = self.back().checked_shl(after - 1).unwrap_or(0);
            *self = Self {
                last: tick,
                before: before as u32,
            };
        } else if let Some(ago @ 1..=32) = self.last.checked_sub(tick) {
            self.before |= 1 << (ago - 1);
        }
    }

    /// Whether one of the ticks is among those others.
    pub(crate) fn meet(self, others: Self) -> bool {
        let later = self.last.max(others.last);
        let back_from_later =
            |ticks: Self| ticks.back().checked_shl(later - ticks.last).unwrap_or(0);
        back_from_later(self) & back_from_later(others) != 0
    }

    /// Bit 0 is the last one, bit 1 the one before, and so on.
    fn back(self) -> u64 {
        u64::from(self.before) << 1 | u64::from(self.last > 0)
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
                    let meets = ticks.meet(Ticks::only(asked));
                    assert_eq!(meets, is_noted, "{asked} in {noted:?}");
                }
            }
        }
        assert!(
            !Ticks::default().meet(Ticks::default()),
            "nothing was noted"
        );
    }

    #[test]
    fn ticks_meet_when_one_is_among_both() {
        let ticks = |last, before| Ticks { last, before };
        let mine = ticks(50, 0b1000);
        for others in [
            ticks(50, 0),
            ticks(46, 0),
            ticks(53, 0b1_0000_0100),
            ticks(47, 1),
        ] {
            assert!(mine.meet(others) && others.meet(mine), "{others:?}");
        }
        for others in [
            ticks(49, 0b11),
            ticks(51, 0b110),
            ticks(14, u32::MAX),
            ticks(u32::MAX, 1),
        ] {
            assert!(!mine.meet(others) && !others.meet(mine), "{others:?}");
        }
    }
}
