//! Links with those who are near, which the field begins and ends by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinSet};
use tombolo_field::{CircleChange, EntityId};

use super::connect;
use super::state::FieldState;
use crate::device::Device;
use crate::error::Error;
use crate::link::Peer;

/// The links of a device's circle in a field.
pub(super) struct Mesh {
    device: Device,
    state: Arc<FieldState>,
    links: JoinSet<()>,
    abort_by_entity: BTreeMap<EntityId, AbortHandle>,
}

impl Mesh {
    pub(super) fn new(device: Device, state: Arc<FieldState>) -> Self {
        Self {
            device,
            state,
            links: JoinSet::new(),
            abort_by_entity: BTreeMap::new(),
        }
    }

    /// Links the device with those who are near for as long as it is in the field.
    pub(super) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.state.is_over() {
            tokio::select! {
                () = self.state.moved() => {}
                _ = looks.tick() => {}
                Some(ended) = self.links.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.on_ended(id);
                }
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let (begun, changes) = self.state.look();
        for (entity, peer) in begun {
            self.hold(entity, Some(peer));
        }
        for change in changes {
            match change {
                CircleChange::Near(entity) => self.hold(entity, None),
                CircleChange::Far(entity) => {
                    if let Some(link) = self.abort_by_entity.remove(&entity) {
                        link.abort();
                    }
                }
            }
        }
    }

    /// Keeps a link, which the other one has begun or this one does, in place of the one that there was.
    fn hold(&mut self, entity: EntityId, begun: Option<Peer>) {
        let link = hold(self.device.clone(), Arc::clone(&self.state), entity, begun);
        let link = self.links.spawn(link);
        if let Some(before) = self.abort_by_entity.insert(entity, link) {
            before.abort();
        }
    }

    /// A link is over, though the circle did not end it.
    fn on_ended(&mut self, id: Id) {
        let ended = self
            .abort_by_entity
            .extract_if(.., |_, link| link.id() == id);
        for (entity, _) in ended {
            self.state.on_link_failed(entity);
        }
    }
}

async fn hold(device: Device, state: Arc<FieldState>, entity: EntityId, begun: Option<Peer>) {
    let linked = async {
        match begun {
            Some(peer) => peer.ready().await.map(|()| peer),
            None => connect(&device, &state, entity, Vec::new()).await,
        }
    };
    let linked: Result<Peer, Error> = linked.await;
    match linked {
        Ok(peer) => {
            let _told = Told::new(&state, entity, peer.clone());
            peer.closed().await;
        }
        // It is tried again.
        Err(error) => tracing::debug!(?entity, %error, "no link with a neighbour"),
    }
}

/// The application is told of a link for as long as this is there.
struct Told<'s> {
    state: &'s FieldState,
    entity: EntityId,
    peer: Peer,
}

impl<'s> Told<'s> {
    fn new(state: &'s FieldState, entity: EntityId, peer: Peer) -> Self {
        state.on_linked(entity, peer.clone());
        Self {
            state,
            entity,
            peer,
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.state.on_unlinked(self.entity, &self.peer);
    }
}

/// What waits for its time is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
