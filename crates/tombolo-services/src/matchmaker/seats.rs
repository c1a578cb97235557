//! Whether the users of a match have their seats: before a node tells its devices of a match, it says so in the pool's
//! log. Whoever cannot keep seats says that. Of several nodes the first counts, and all do the same.

use tombolo_match::{Body, CLAIMS_MAX, MatchId, Seating};

use super::desk::{Desk, State};
use crate::node::Node;

impl Desk {
    /// Whether the users of a match have their seats, as far as the log was read.
    pub(super) fn seating(&self, id: MatchId) -> Seating {
        self.lock().pool.seating(id)
    }

    /// Says that the users of a match have their seats, unless somebody did, and returns what holds; `None` when nobody
    /// knows here. What comes to be said meanwhile is one entry.
    pub(super) async fn say_seated(&self, node: &Node, id: MatchId) -> Option<Seating> {
        self.lock().unsaid.insert(id);
        let _turn = self.turn_to_say.lock().await;
        while self.lock().unsaid.contains(&id) {
            let seated = self.lock().take_unsaid();
            if !seated.is_empty() {
                let _ = self.insist(node, Body::Seated(seated)).await?;
            }
        }
        Some(self.seating(id)).filter(|seating| *seating != Seating::Awaited)
    }

    /// Says that there is no place for the users of a match, and returns what holds: somebody may have said before that
    /// they have their seats.
    pub(super) async fn say_unseated(&self, node: &Node, id: MatchId) -> Option<Seating> {
        // Who was not heard in time, is seated.
        let _ = self.insist(node, Body::Unseated(id)).await?;
        Some(self.seating(id))
    }
}

impl State {
    /// Matches of which is yet to be said that their users are seated, as many as an entry takes.
    fn take_unsaid(&mut self) -> Vec<MatchId> {
        let mut seated = Vec::new();
        while seated.len() < CLAIMS_MAX
            && let Some(id) = self.unsaid.pop_first()
        {
            if self.pool.seating(id) == Seating::Awaited {
                seated.push(id);
            }
        }
        seated
    }
}
