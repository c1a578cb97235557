//! Those who are on no node for a moment: theirs is gone, or they go on over another one.

use tombolo_wire::NodeId;

use super::super::cells::HeardEntity;
use super::{Driver, EntityId, Instant};

impl Driver {
    /// Another node is gone, or was started again: devices of that life may come back over others.
    pub(super) fn orphan_all_of(&mut self, gone: &NodeId, last: u64) {
        let until = self.orphaned_until();
        let of_it = self.node_by_entity.iter();
        let of_it = of_it.filter(|(_, (node, life))| node == gone && *life <= last);
        self.orphans
            .extend(of_it.map(|(entity, _)| (*entity, until)));
    }

    /// Lets those go whose sessions are in the field no more. Those that go on over another node are there until they
    /// have come to it.
    pub(super) fn let_go(&mut self) {
        let locals = self.locals.iter();
        let over: Vec<_> = locals
            .filter(|(_, local)| local.seat.is_over())
            .map(|(entity, local)| (*entity, local.seat.has_moved()))
            .collect();
        for (entity, has_moved) in over {
            if has_moved {
                self.orphan(entity);
            } else {
                self.remove(entity);
            }
        }
        for entity in self.lapsed_things() {
            self.remove(entity);
        }
        if self.is_nobody_here() && self.empty_since.is_none() {
            self.empty_since = Some(Instant::now());
        }
    }

    /// An entity goes on over another node.
    pub(super) fn orphan(&mut self, entity: EntityId) {
        self.locals.remove(&entity);
        self.field.ignore(entity);
        self.orphans.insert(entity, self.orphaned_until());
    }

    /// Takes note that another node has told of an entity what is known already; whether it is there that the entity is.
    pub(super) fn is_of(&mut self, from: &NodeId, life: u64, entity: &HeardEntity) -> bool {
        let known = self.node_by_entity.get(&entity.id);
        if known.is_some_and(|(node, known)| node == from && *known == life) {
            return true;
        }
        // It has come there, or to that life, and has not moved since.
        let here = self.field.reported(entity.id);
        let has_come = here.is_some_and(|here| here.sequence == entity.sequence);
        if has_come {
            self.orphans.remove(&entity.id);
            self.node_by_entity.insert(entity.id, (from.clone(), life));
        }
        has_come
    }

    /// Those that have not come back are gone.
    pub(super) fn remove_orphans(&mut self) {
        let now = Instant::now();
        let lapsed = self.orphans.extract_if(.., |_, until| *until <= now);
        let lapsed: Vec<_> = lapsed.map(|(entity, _)| entity).collect();
        for entity in lapsed {
            if self.node_by_entity.remove(&entity).is_some() {
                self.field.remove(entity);
            } else {
                // It was here last, and nobody else says so.
                self.remove(entity);
            }
        }
    }

    /// How long something may be missing here, as it may in the core.
    fn orphaned_until(&self) -> Instant {
        Instant::now() + self.node.config.fields.settings.grace
    }
}
