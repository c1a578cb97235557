//! Fields: who is near whom, on one node and across nodes.
//!
//! Each node with devices in a field runs a `tombolo_field::Field` of its own, in one task ([`driver`]),
//! with its devices and with what other nodes tell of theirs. What nodes tell each other goes over the
//! bus, on the subjects of the field's [`cells`]: a node listens to those that its devices see into, and
//! asks for what is there when it begins to. No node is needed by the devices of others: when one is gone
//! its devices enter over another, under the same numbers, and are told what has changed.
//!
//! Of a report only the latest counts, so all of that may get lost; what devices must be told is told
//! again by the core until they acknowledge it.

mod cells;
mod classes;
mod driver;
pub(crate) mod generated;
mod marks;
mod meet;
mod parse;
mod refusal;
mod requests;
mod seat;
mod sight;
mod subject;
mod things;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::mpsc;
use tombolo_field::Dimensions;
use tombolo_wire::v1;
use tombolo_wire::{FieldId, NodeId};

use crate::lock::lock;
use crate::node::Node;
use crate::reject::Reject;
use crate::session::Session;
use crate::vital::caught;
use driver::{Driver, Input};

pub use classes::{FieldClassUse, FieldPass};
pub(crate) use meet::{FieldIntroduction, handle_introduce, introduce, serve};
pub(crate) use parse::FieldRequest;
pub(crate) use refusal::Refusal;
pub(crate) use requests::{carry_out, parse};
pub(crate) use seat::Seats;
pub use sight::{FIELD_SIGHT_RULES_MAX, FieldSight};
pub use things::{FieldThing, THING_LASTS_MAX, THING_NAME_BYTES_MAX};

/// The fields that this node has devices in.
#[derive(Default)]
pub(crate) struct Fields {
    /// A field of two dimensions and one of three may have the same name: no device decides for all others.
    running: Mutex<Running>,
}

/// How to reach the tasks of fields, by name and dimensions.
#[derive(Default)]
struct Running(BTreeMap<(FieldId, Dimensions), mpsc::Sender<Input>>);

impl Running {
    fn find(&self, place: &(FieldId, Dimensions)) -> Option<mpsc::Sender<Input>> {
        let inputs = self.0.get(place);
        // A task that has failed takes nothing any more.
        inputs.filter(|inputs| !inputs.is_closed()).cloned()
    }
}

impl Fields {
    pub(crate) fn len(&self) -> usize {
        lock(&self.running).0.len()
    }

    /// How to reach the tasks of the fields of a name, or that of so many dimensions.
    fn inputs(&self, id: &FieldId, only: Option<Dimensions>) -> Vec<mpsc::Sender<Input>> {
        let running = lock(&self.running);
        let both = [Dimensions::Two, Dimensions::Three].into_iter();
        both.filter(|dimensions| only.is_none_or(|only| only == *dimensions))
            .filter_map(|dimensions| running.find(&(id.clone(), dimensions)))
            .collect()
    }

    /// How to reach the task of a field; a new one if there was none.
    fn open(
        &self,
        node: &Arc<Node>,
        id: &FieldId,
        dimensions: Dimensions,
    ) -> Result<mpsc::Sender<Input>, Refusal> {
        let config = &node.config.fields;
        if config.dimensions.is_some_and(|all| all != dimensions) {
            return Err(Refusal::Dimensions);
        }
        let place = (id.clone(), dimensions);
        let mut running = lock(&self.running);
        if let Some(inputs) = running.find(&place) {
            return Ok(inputs);
        }
        running.0.remove(&place);
        if running.0.len() >= config.fields_max {
            return Err(Refusal::TooManyFields);
        }
        let (inputs, waiting) = mpsc::channel(INPUTS_MAX);
        let driver = Driver::new(Arc::clone(node), id.clone(), dimensions, inputs.clone())?;
        let run = run(
            Arc::clone(node),
            place.clone(),
            driver,
            inputs.clone(),
            waiting,
        );
        node.runtime.spawn(run);
        running.0.insert(place, inputs.clone());
        Ok(inputs)
    }

    /// Ends a field in which nobody is, unless somebody is about to enter.
    fn close(&self, id: &FieldId, dimensions: Dimensions, waiting: &mpsc::Receiver<Input>) -> bool {
        let mut running = lock(&self.running);
        let is_over = waiting.is_empty();
        if is_over {
            running.0.remove(&(id.clone(), dimensions));
        }
        is_over
    }

    /// Forgets a field whose task has failed, unless there is another one by now.
    fn forget(&self, place: &(FieldId, Dimensions), task: &mpsc::Sender<Input>) {
        let mut running = lock(&self.running);
        let known = running.0.get(place);
        if known.is_some_and(|known| known.same_channel(task)) {
            running.0.remove(place);
        }
    }
}

/// Runs a field. When its task panics the sessions in it end: their devices begin others, and enter again.
async fn run(
    node: Arc<Node>,
    place: (FieldId, Dimensions),
    driver: Driver,
    task: mpsc::Sender<Input>,
    waiting: mpsc::Receiver<Input>,
) {
    if caught(driver.run(waiting)).await.is_ok() {
        return;
    }
    tracing::error!(field = %place.0, "its task panicked: the sessions in it end");
    node.counters.fields.panicked.add(1);
    node.fields.forget(&place, &task);
    let sessions: Vec<_> = lock(&node.sessions).by_id.values().cloned().collect();
    for session in sessions {
        let is_in = session.lock().seats.are_of(&task);
        if is_in {
            node.begin_anew(&session, "a field that the device was in has failed");
        }
    }
}

/// Takes in where a device is. What is refused is counted, and the device is told.
pub(crate) fn handle_update(
    node: &Arc<Node>,
    session: &Arc<Session>,
    update: v1::FieldUpdate,
    now: Instant,
) {
    if let Err(refusal) = take_in(session, update, now) {
        refuse_update(node, session, refusal);
    }
}

fn take_in(session: &Session, update: v1::FieldUpdate, now: Instant) -> Result<(), Refusal> {
    let bytes = update
        .report
        .as_ref()
        .map_or(0, |report| report.payload.len());
    let mut account = session.account();
    if !account.reports.take(now, 1) || !account.rate.take(now, 1, bytes) {
        return Err(Refusal::Rate);
    }
    drop(account);
    let seat = session.lock().seats.find(update.seat);
    let seat = seat.ok_or(Refusal::NotInField)?;
    let report = update.report.map(|report| parse::report(&seat, report));
    let input = Input::Update {
        report: report.transpose()?,
        ticks: tombolo_field::Ticks {
            last: update.ack,
            before: update.ack_before,
        },
        seat: Arc::clone(&seat),
    };
    seat.inputs.try_send(input).map_err(|_| Refusal::Behind)
}

/// Tells a device that a report of its was not taken in, unless that is nothing out of the ordinary.
fn refuse_update(node: &Arc<Node>, session: &Arc<Session>, refusal: Refusal) {
    let reject = refused(node, refusal);
    if refusal != Refusal::Late {
        node.refuse(session, 0, reject);
    }
}

/// Counts a refusal.
fn refused(node: &Node, refusal: Refusal) -> Reject {
    node.counters.fields.count_refused(refusal);
    refusal.into_reject()
}

impl Node {
    /// Another node's lives up to this one are over, and with them what it told of its devices.
    pub(crate) fn lose_entities_of(&self, gone: &NodeId, life: u64) {
        let running = lock(&self.fields.running);
        let running: Vec<_> = running.0.values().cloned().collect();
        let gone = gone.clone();
        self.runtime.spawn(async move {
            for inputs in running {
                // A field that has ended has nothing to lose.
                let _ = inputs.send(Input::NodeGone(gone.clone(), life)).await;
            }
        });
    }
}

/// What waits for a field's task. While a tick is made, the reports of a large field wait.
const INPUTS_MAX: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_whose_task_has_failed_is_not_running() {
        let place = (FieldId::parse("plaza").unwrap(), Dimensions::Two);
        let (inputs, waiting) = mpsc::channel(1);
        let mut running = Running::default();
        running.0.insert(place.clone(), inputs);
        assert!(running.find(&place).is_some());
        drop(waiting);
        assert!(running.find(&place).is_none());
    }
}
