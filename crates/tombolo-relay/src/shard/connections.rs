//! The stream connections of a shard, and those that came to it and that another one has now.

use std::{collections::HashMap, sync::Arc};

use tombolo_turn::server::{FiveTuple, ShardIndex};

use crate::link::{Connection, ConnectionState};

/// No more than there are connections: each one's end is told to the shard that it came to, its entry,
/// which tells it to the one that has it. No other shard remembers one that it has handed over.
#[derive(Default)]
pub(super) struct Connections {
    place_by_client: HashMap<FiveTuple, Place>,
}

/// Where a connection is.
pub(super) enum Place {
    Here(Here),
    /// This shard is its entry, and gives what comes by it to the shard that has it.
    Away(Away),
}

/// A connection that the shard has.
pub(super) struct Here {
    pub(super) connection: Connection,
    /// The shard that gets what comes by it, and is told of its end.
    pub(super) entry: ShardIndex,
}

/// A connection that another shard has.
#[derive(Clone)]
pub(super) struct Away {
    pub(super) shard: ShardIndex,
    pub(super) state: Arc<ConnectionState>,
}

impl Connections {
    /// Returns the connection of a client, where the shard has it.
    pub(super) fn get(&self, client: &FiveTuple) -> Option<&Connection> {
        match self.place_by_client.get(client)? {
            Place::Here(here) => Some(&here.connection),
            Place::Away(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, client: &FiveTuple) -> Option<&mut Connection> {
        match self.place_by_client.get_mut(client)? {
            Place::Here(here) => Some(&mut here.connection),
            Place::Away(_) => None,
        }
    }

    pub(super) fn place(&self, client: &FiveTuple) -> Option<&Place> {
        self.place_by_client.get(client)
    }

    /// Notes where a connection is, and returns where the one was that the client had before.
    pub(super) fn set(&mut self, client: FiveTuple, place: Place) -> Option<Place> {
        self.place_by_client.insert(client, place)
    }

    /// Lets go of the connection of a client, which ends it; its entry is told.
    pub(super) fn remove(&mut self, client: &FiveTuple) -> Option<Here> {
        match self.place_by_client.remove(client)? {
            Place::Here(here) => Some(here),
            place @ Place::Away(_) => {
                self.place_by_client.insert(*client, place);
                None
            }
        }
    }

    /// Forgets a connection that has ended, and returns where it was.
    pub(super) fn forget(&mut self, client: &FiveTuple) -> Option<Place> {
        self.place_by_client.remove(client)
    }
}

impl Place {
    /// Whether it is that of this connection, and not of another one of the same addresses.
    pub(super) fn is_of(&self, state: &Arc<ConnectionState>) -> bool {
        match self {
            Self::Here(here) => here.connection.is(state),
            Self::Away(away) => Arc::ptr_eq(&away.state, state),
        }
    }
}
