//! What devices put into a field beside themselves.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::parse::OwnReport;
use super::super::refusal::Refusal;
use super::super::seat::Seat;
use super::{Driver, Instant, Local};

impl Driver {
    /// Takes in what a device says of something that it has put there.
    pub(super) fn take_in_own(
        &mut self,
        seat: &Arc<Seat>,
        report: &OwnReport,
        marks: u64,
    ) -> Result<(), Refusal> {
        if !self.has_room_for_own(seat, report.own) {
            return Err(Refusal::TooManyOwn);
        }
        self.report(seat, report, marks)?;
        let thing = Local {
            seat: Arc::clone(seat),
            marks,
            own: BTreeSet::new(),
            published: Instant::now(),
        };
        self.locals.insert(seat.own_entity(report.own), thing);
        if let Some(device) = self.locals.get_mut(&seat.entity) {
            device.own.insert(report.own);
        }
        Ok(())
    }

    /// Whether a device may put this there. What has gone by itself, since nothing was said of it, makes room.
    fn has_room_for_own(&mut self, seat: &Seat, own: u32) -> bool {
        let own_max = self.node.config.fields.own_max;
        let Some(device) = self.locals.get_mut(&seat.entity) else {
            return false;
        };
        if device.own.contains(&own) || device.own.len() < own_max {
            return true;
        }
        let field = &self.field;
        let is_gone = |own: &u32| field.position(seat.own_entity(*own)).is_none();
        let gone: Vec<_> = device.own.extract_if(.., is_gone).collect();
        let has_room = device.own.len() < own_max;
        for own in gone {
            self.locals.remove(&seat.own_entity(own));
        }
        has_room
    }
}
