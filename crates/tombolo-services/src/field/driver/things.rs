//! What servers have put into a field: it has no device, and stays for as long as they say.

use std::collections::BTreeSet;

use tombolo_field::CellId;

use super::super::cells::HeardEntity;
use super::super::things::Put;
use super::{Driver, EntityId, Instant, REPEAT, Refusal, Report};

/// Something that a server has put there through this node.
pub(super) struct Thing {
    until: Instant,
    pub(super) published: Instant,
}

/// Something that was put there.
pub(in super::super) struct Placed {
    /// Which of its reports this is.
    pub(in super::super) sequence: u32,
    /// It was not here before: another node may have it, and is to be told.
    pub(in super::super) is_new: bool,
}

impl Driver {
    /// Puts something there, or moves it; other nodes are told.
    pub(super) fn put(&mut self, put: &Put) -> Result<Placed, Refusal> {
        let id = put.entity;
        let is_new = !self.things.contains_key(&id);
        if is_new && self.things.len() >= self.node.config.fields.things_max {
            return Err(Refusal::TooManyThings);
        }
        let last = self.field.reported(id).map_or(0, |last| last.sequence);
        let report = Report {
            sequence: put.sequence.max(last.saturating_add(1)),
            class: put.class,
            position: put.position,
            payload: &put.payload,
            marks: put.marks,
        };
        let before = self.field.position(id);
        self.field.report(self.now(), id, &report)?;
        // Another node has put it there before, or does so no more.
        self.node_by_entity.remove(&id);
        self.orphans.remove(&id);
        let now = Instant::now();
        let thing = Thing {
            until: now + put.lasts,
            published: now,
        };
        self.things.insert(id, thing);
        self.empty_since = None;
        let cell = self.field.cell(put.position);
        let before = before.map(|before| self.field.cell(before));
        self.news.tell(id, cell, before);
        Ok(Placed {
            sequence: report.sequence,
            is_new,
        })
    }

    /// Takes something away that a server has put there through this node; or lets it be another node's, where
    /// it was put again, as that report.
    pub(super) fn take(&mut self, id: EntityId, put_again: Option<u32>) -> Result<(), Refusal> {
        if !self.things.contains_key(&id) {
            return Err(Refusal::NoSuchThing);
        }
        let here = self.field.reported(id).map_or(0, |here| here.sequence);
        if put_again.is_some_and(|there| there <= here) {
            return Err(Refusal::NoSuchThing);
        }
        // Whoever has heard of it from the other node does not take this one's word.
        self.remove(id);
        Ok(())
    }

    /// Whether what another node tells of is here, so that this one knows better. What a server has put there
    /// again through another node is here no more.
    pub(super) fn knows_better(&mut self, heard: &HeardEntity) -> bool {
        if let Some(local) = self.locals.get(&heard.id) {
            let has_moved = local.seat.has_moved();
            if has_moved {
                self.orphan(heard.id);
            }
            return !has_moved;
        }
        if !self.things.contains_key(&heard.id) {
            return false;
        }
        let here = self.field.reported(heard.id);
        let is_later = here.is_some_and(|here| here.sequence < heard.sequence);
        if is_later {
            self.things.remove(&heard.id);
        }
        !is_later
    }

    /// Those whose time is over.
    pub(super) fn lapsed_things(&self) -> Vec<EntityId> {
        let now = Instant::now();
        let things = self.things.iter();
        let lapsed = things.filter(|(_, thing)| thing.until <= now);
        lapsed.map(|(entity, _)| *entity).collect()
    }

    /// Those that are here stay, though nothing is said of them. They are told again now and then, to everybody: what is
    /// told of them may have been lost.
    pub(super) fn keep_things(&mut self) {
        let (now, field_now) = (Instant::now(), self.now());
        for (entity, thing) in &self.things {
            self.field.confirm(field_now, *entity);
            if now.duration_since(thing.published) >= REPEAT
                && let Some(position) = self.field.position(*entity)
            {
                self.field.repeat(field_now, *entity);
                self.news.tell(*entity, self.field.cell(position), None);
            }
        }
    }

    /// Where things are for which somebody may ask: nobody here looks there, perhaps.
    pub(super) fn cells_of_things(&self) -> BTreeSet<CellId> {
        let locals = self.locals.iter();
        let own = locals.filter(|(entity, local)| local.seat.entity != **entity);
        let own = own.map(|(entity, _)| entity);
        let positions = own.chain(self.things.keys());
        let positions = positions.filter_map(|entity| self.field.position(*entity));
        positions
            .map(|position| self.field.cell(position))
            .collect()
    }

    /// Notes that other nodes are told of an entity; false when it is not here.
    pub(super) fn note_published(&mut self, entity: EntityId, now: Instant) -> bool {
        let local = self.locals.get_mut(&entity);
        let local = local.map(|local| &mut local.published);
        let thing = self.things.get_mut(&entity);
        let published = local.or_else(|| thing.map(|thing| &mut thing.published));
        published.is_some_and(|published| {
            *published = now;
            true
        })
    }
}
