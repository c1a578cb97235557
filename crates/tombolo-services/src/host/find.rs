//! What a host shows to those who look for rooms.

use std::sync::Arc;

use tombolo_room::{Event, Listing, Query, RoomCode, Settings, Target};
use tombolo_wire::RoomId;
use tombolo_wire::v1::ErrorCode;

use super::{Host, State};
use crate::catalogue::{self, Shown};
use crate::node::Node;
use crate::reject::Reject;

impl Host {
    /// Shows how the room is now, if that may be another than what was shown.
    pub(super) fn show(&self, node: &Arc<Node>, state: &mut State) {
        if !std::mem::take(&mut state.is_listing_stale) {
            return;
        }
        let Some(at) = state.cursor else {
            return;
        };
        let shown = Shown {
            at,
            listing: Listing::of(&self.room, &state.room).map(Arc::new),
            code: state.room.code(),
            is_open: state.room.is_open(),
            is_keeper: state.is_kept_here(node),
        };
        node.catalogue.show(node, &self.room, shown);
    }

    /// Whether whoever looks for such a room would find this one.
    pub(crate) fn matches(&self, query: &Query) -> bool {
        let listing = Listing::of(&self.room, &self.lock().room);
        listing.is_some_and(|listing| query.matches(&listing))
    }

    /// The room's short code.
    pub(crate) fn code(&self) -> Option<RoomCode> {
        self.lock().room.code()
    }

    /// Has the room opened with a code that no other has.
    pub(crate) async fn open_with_code<T>(
        &self,
        node: &Node,
        open: impl AsyncFnOnce(Option<RoomCode>) -> Result<T, Reject>,
    ) -> Result<T, Reject> {
        let code = catalogue::reserve(node, &self.room).await?;
        let result = open(Some(code)).await;
        let is_known = !matches!(&result, Err(reject) if reject.code == ErrorCode::Unavailable);
        if is_known && self.code() != Some(code) {
            // What cannot be freed now is freed by whoever does what this node leaves to do.
            let _ = catalogue::free(node, &self.room, code).await;
        }
        result
    }

    /// Whether it is for this node to have the game do what is to be done now and then.
    pub(crate) fn is_ticked_by(&self, node: &Node) -> bool {
        let state = self.lock();
        let is_inhabited = state.room.members().any(|(_, member)| member.is_present());
        is_inhabited && state.is_kept_here(node)
    }

    /// The room's name.
    pub(crate) fn name(&self) -> &RoomId {
        &self.room
    }

    /// How many members the room has, here and elsewhere.
    pub(crate) fn members(&self) -> usize {
        self.lock().room.members().len()
    }

    pub(crate) fn settings(&self) -> Option<Settings> {
        self.lock().room.settings().cloned()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().room.is_open()
    }

    /// Takes away what a dead node may still show of the room although it is closed.
    pub(crate) fn clear_if_closed(&self, node: &Arc<Node>) {
        let state = self.lock();
        if let (false, Some(at)) = (state.room.is_open(), state.cursor) {
            node.catalogue.clear(node, &self.room, at);
        }
    }
}

impl State {
    /// Whether it is for this node to tell the engine how the room is: of those with members that are
    /// here it is the first.
    fn is_kept_here(&self, node: &Node) -> bool {
        let members = self.room.members();
        let present = members.filter(|(_, member)| member.is_present());
        let first = present.map(|(_, member)| &member.membership().node).min();
        first.is_none_or(|first| first == node.name())
    }
}

/// Whether an event may change what is public about a room, or who is to tell it.
pub(super) fn is_public(event: &Event) -> bool {
    match event {
        Event::Opened
        | Event::Closed
        | Event::Joined { .. }
        | Event::Dropped { .. }
        | Event::Returned { .. }
        | Event::Left { .. }
        | Event::Configured { .. }
        | Event::SeatsReserved { .. }
        | Event::SeatsReleased { .. } => true,
        Event::PropertiesChanged { target, .. } => *target == Target::Room,
        Event::ObjectCreated { .. }
        | Event::ObjectOwned { .. }
        | Event::ObjectDeleted { .. }
        | Event::OwnerChanged { .. }
        | Event::GroupsChanged { .. }
        | Event::NodeLost { .. }
        | Event::Banned { .. }
        | Event::Unbanned { .. }
        | Event::Said(_) => false,
    }
}
