//! The names of all rooms, page by page.
//!
//! The engine has no order: for a page all names are read. So more is kept than the page takes, for those that follow.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_wire::RoomId;

use crate::lock::lock;

/// Rooms by name, and whether there are more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomNames {
    /// In order.
    pub rooms: Vec<RoomId>,
    /// Whether others follow.
    pub more: bool,
}

/// What was read last.
#[derive(Default)]
pub(crate) struct LastRead(Mutex<Option<Stretch>>);

/// The names that follow one, as they were at some time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stretch {
    after: Option<RoomId>,
    names: BTreeSet<RoomId>,
    /// Others follow.
    more: bool,
    at: Option<Instant>,
}

impl LastRead {
    /// A page that follows another, if it was read with it. A first page is always read anew.
    pub(crate) fn page(&self, after: Option<&RoomId>, count: usize) -> Option<RoomNames> {
        let mut last = lock(&self.0);
        last.take_if(|last| last.at.is_none_or(|at| at.elapsed() > KEPT));
        let stretch = last.as_ref().filter(|last| last.after.as_ref() <= after);
        stretch?.page(after?, count)
    }

    pub(crate) fn keep(&self, stretch: Stretch) {
        *lock(&self.0) = Some(stretch);
    }
}

impl Stretch {
    pub(crate) fn after(after: Option<&RoomId>) -> Self {
        Self {
            after: after.cloned(),
            at: Some(Instant::now()),
            ..Self::default()
        }
    }

    /// Several nodes may host the same room.
    pub(crate) fn add(&mut self, room: RoomId) {
        if Some(&room) <= self.after.as_ref() {
            return;
        }
        self.names.insert(room);
        if self.names.len() > NAMES_MAX {
            self.names.pop_last();
            self.more = true;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.more = false;
    }

    /// The first page.
    pub(crate) fn first(&self, count: usize) -> RoomNames {
        Self::cut(self.names.iter(), count, self.more)
    }

    /// The page after a name; `None` when more must be read for it.
    fn page(&self, after: &RoomId, count: usize) -> Option<RoomNames> {
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let page = Self::cut(self.names.range::<RoomId, _>(range), count, self.more);
        (page.rooms.len() == count || !self.more).then_some(page)
    }

    fn cut<'r>(mut names: impl Iterator<Item = &'r RoomId>, count: usize, more: bool) -> RoomNames {
        let rooms = names.by_ref().take(count).cloned().collect();
        RoomNames {
            rooms,
            more: more || names.next().is_some(),
        }
    }
}

/// Names that are kept at a time, those of a page too.
const NAMES_MAX: usize = 10_000;

/// For how long. Who goes through all does not wait longer between two pages.
const KEPT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn room(number: usize) -> RoomId {
        RoomId::parse(&format!("room-{number:05}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn pages_follow_one_another_as_far_as_was_read() {
        let mut stretch = Stretch::after(Some(&room(9)));
        for number in (0..NAMES_MAX + 15).rev() {
            stretch.add(room(number));
        }
        assert_eq!(stretch.first(2).rooms, [room(10), room(11)]);
        let last = LastRead::default();
        last.keep(stretch);
        assert_eq!(last.page(None, 2), None, "as it is now");
        assert_eq!(
            last.page(Some(&room(8)), 2),
            None,
            "of that nothing was read"
        );
        let page = last.page(Some(&room(11)), 2).unwrap();
        assert_eq!((page.rooms, page.more), (vec![room(12), room(13)], true));
        let end = NAMES_MAX + 9;
        let page = last.page(Some(&room(end - 1)), 1).unwrap();
        assert_eq!((page.rooms, page.more), (vec![room(end)], true));
        assert_eq!(last.page(Some(&room(end - 1)), 2), None);
        tokio::time::advance(KEPT * 2).await;
        assert_eq!(last.page(Some(&room(11)), 2), None);
    }
}
