//! What came of stories.

use std::iter::Sum;

/// What came of a story, or of several.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Durable messages that were acknowledged, and are there.
    pub kept: u64,
    /// Of which nobody said what became of them.
    pub unknown: u64,
    /// That were refused, and are not there.
    pub refused: u64,
    /// How often a plain message was heard that had to be.
    pub heard: u64,
    /// How often a room closed and was forgotten.
    pub forgotten: u64,
    /// How often somebody was put out of a room.
    pub expelled: u64,
    /// How often a seat was kept, but not for long enough.
    pub expired: u64,
    /// How often a device was told of its match.
    pub matched: u64,
    /// Direct messages that were acknowledged, and are there.
    pub letters: u64,
    /// Posts in a group that were acknowledged, and are there.
    pub posts: u64,
    /// How often those went on in another segment.
    pub turned: u64,
    /// Nodes that were killed.
    pub kills: u64,
    /// Nodes that were frozen.
    pub freezes: u64,
    /// Sessions that went on over another connection.
    pub resumed: u64,
    /// Nodes that were emptied.
    pub drains: u64,
    /// Sessions that went elsewhere from those, in time.
    pub moved: u64,
    /// Devices that were asked to go, so that nodes share their load.
    pub asked: u64,
    /// Nodes that were started beside the others.
    pub added: u64,
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |sum, next| Self {
            kept: sum.kept + next.kept,
            unknown: sum.unknown + next.unknown,
            refused: sum.refused + next.refused,
            heard: sum.heard + next.heard,
            forgotten: sum.forgotten + next.forgotten,
            expelled: sum.expelled + next.expelled,
            expired: sum.expired + next.expired,
            matched: sum.matched + next.matched,
            letters: sum.letters + next.letters,
            posts: sum.posts + next.posts,
            turned: sum.turned + next.turned,
            kills: sum.kills + next.kills,
            freezes: sum.freezes + next.freezes,
            resumed: sum.resumed + next.resumed,
            drains: sum.drains + next.drains,
            moved: sum.moved + next.moved,
            asked: sum.asked + next.asked,
            added: sum.added + next.added,
        })
    }
}
