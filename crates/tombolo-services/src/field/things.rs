//! What servers put into fields.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tombolo_field::{Dimensions, EntityId, PAYLOAD_MAX, POSITION_MAX};
use tombolo_wire::FieldId;
use tombolo_wire::v1::ErrorCode;

use super::driver::Input;
use super::generated::{self as wire, question};
use super::refusal::Refusal;
use super::{meet, refused};
use crate::node::Node;
use crate::reject::Reject;
use crate::services::Services;

/// Something that a server puts into a field: it has no device.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldThing {
    /// By which servers know it, the same on all nodes: 1 to [`THING_NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// What kind of entity it is.
    pub class: u8,
    /// Two or three coordinates.
    pub position: Vec<f64>,
    /// What it says of itself, up to 48 bytes.
    pub payload: Bytes,
    /// What the field's filter goes by.
    pub marks: u64,
    /// After how long it goes unless it is put there again, up to [`THING_LASTS_MAX`].
    pub lasts: Duration,
}

/// The longest name of a thing, in bytes.
pub const THING_NAME_BYTES_MAX: usize = 64;

/// A thing stays no longer than that.
pub const THING_LASTS_MAX: Duration = Duration::from_secs(86_400);

impl Services {
    /// Puts something into a field, or moves what was put there under that name, until it has lasted. It is on
    /// this node, and goes with it; a node through which it is put there again takes it over, and tells the others so
    /// once.
    ///
    /// # Errors
    /// When it can't be, or there is no room for it.
    pub async fn put_into_field(
        &self,
        field: &FieldId,
        thing: FieldThing,
    ) -> Result<EntityId, Reject> {
        let node = self.node();
        let put = Put::parse(node, thing).map_err(|refusal| refused(node, refusal))?;
        let (entity, dimensions) = (put.entity, put.dimensions);
        for _ in 0..ATTEMPTS {
            let inputs = node.fields.open(node, field, dimensions);
            let inputs = inputs.map_err(|refusal| refused(node, refusal))?;
            let (reply, done) = oneshot::channel();
            let put = Box::new(put.clone());
            // A field that ends at this moment takes nothing in: then there is another.
            if inputs.send(Input::Put { put, reply }).await.is_err() {
                continue;
            }
            if let Ok(done) = done.await {
                let placed = done.map_err(|refusal| refused(node, refusal))?;
                if placed.is_new && !node.cluster.is_alone() {
                    let (node, field) = (Arc::clone(node), field.clone());
                    let again = PutAgain {
                        sequence: placed.sequence,
                        dimensions,
                    };
                    let asked =
                        async move { take_elsewhere(&node, &field, entity, Some(again)).await };
                    // What a node does not hear of lapses there by itself.
                    self.node().runtime.spawn(asked);
                }
                return Ok(entity);
            }
        }
        Err(refused(node, Refusal::Behind))
    }

    /// Takes something away that was put into a field through any node.
    ///
    /// # Errors
    /// When there is none of that name, or a node that may have it does not answer.
    pub async fn take_from_field(&self, field: &FieldId, name: &str) -> Result<(), Reject> {
        let node = self.node();
        let entity = entity_of(name);
        let taken = match take_here(node, field, entity, None).await {
            Err(Refusal::NoSuchThing) => take_elsewhere(node, field, entity, None).await,
            taken => taken.map_err(Refusal::into_reject),
        };
        // It was refused here, whoever has said so.
        taken.inspect_err(|reject| {
            if reject.code == ErrorCode::NoSuchThing {
                drop(refused(node, Refusal::NoSuchThing));
            }
        })
    }
}

/// Something was put through another node, into the field of so many dimensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct PutAgain {
    sequence: u32,
    dimensions: Dimensions,
}

impl PutAgain {
    /// Whether something is taken away for good, or was put elsewhere; `None` when that makes no sense. Nodes of
    /// earlier releases do not say into which field: then it counts as that of two dimensions.
    pub(super) fn parse(take: &wire::Take) -> Option<Option<Self>> {
        let dimensions = match take.dimensions {
            0 | 2 => Dimensions::Two,
            3 => Dimensions::Three,
            _ => return None,
        };
        let sequence = take.put_again;
        Some((sequence != 0).then_some(Self {
            sequence,
            dimensions,
        }))
    }

    fn to_wire(again: Option<Self>) -> wire::Take {
        again.map_or_else(wire::Take::default, |again| wire::Take {
            put_again: again.sequence,
            dimensions: match again.dimensions {
                Dimensions::Two => 2,
                Dimensions::Three => 3,
            },
        })
    }
}

/// Takes something away that this node has.
pub(super) async fn take_here(
    node: &Node,
    field: &FieldId,
    entity: EntityId,
    put_again: Option<PutAgain>,
) -> Result<(), Refusal> {
    let mut result = Err(Refusal::NoSuchThing);
    let only = put_again.map(|again| again.dimensions);
    for inputs in node.fields.inputs(field, only) {
        let (reply, done) = oneshot::channel();
        let take = Input::Take {
            entity,
            put_again: put_again.map(|again| again.sequence),
            reply,
        };
        if inputs.send(take).await.is_ok()
            && let Ok(taken) = done.await
        {
            result = result.or(taken);
        }
    }
    result
}

/// Has all other nodes take something away; fails unless one of them had it.
async fn take_elsewhere(
    node: &Arc<Node>,
    field: &FieldId,
    entity: EntityId,
    put_again: Option<PutAgain>,
) -> Result<(), Reject> {
    let take = PutAgain::to_wire(put_again);
    let mut asks = JoinSet::new();
    for there in node.cluster.names() {
        let (node, field) = (Arc::clone(node), field.clone());
        asks.spawn(async move {
            let take = question::Kind::Take(take);
            meet::ask(&node, &there, &field, entity, take).await
        });
    }
    let mut result = Err(Refusal::NoSuchThing.into_reject());
    while let Some(Ok(answer)) = asks.join_next().await {
        match answer {
            Ok(_) => result = Ok(()),
            Err(reject) if reject.code == ErrorCode::NoSuchThing => {}
            // It may be there.
            Err(reject) => result = result.or(Err(reject)),
        }
    }
    result
}

/// A thing that was found to be in order.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) entity: EntityId,
    pub(super) dimensions: Dimensions,
    /// Later than what was put there before through any node, unless clocks differ.
    pub(super) sequence: u32,
    pub(super) class: u8,
    pub(super) position: [f64; 3],
    pub(super) payload: Bytes,
    pub(super) marks: u64,
    pub(super) lasts: Duration,
}

impl Put {
    fn parse(node: &Node, thing: FieldThing) -> Result<Self, Refusal> {
        let dimensions = match thing.position.len() {
            2 => Dimensions::Two,
            3 => Dimensions::Three,
            _ => return Err(Refusal::Position),
        };
        // What is not a number is not within.
        let is_within = |coordinate: &f64| coordinate.abs() <= POSITION_MAX;
        if !thing.position.iter().all(is_within) {
            return Err(Refusal::Position);
        }
        if thing.payload.len() > PAYLOAD_MAX {
            return Err(Refusal::Payload);
        }
        let is_named = (1..=THING_NAME_BYTES_MAX).contains(&thing.name.len());
        if !is_named || thing.lasts.is_zero() || thing.lasts > THING_LASTS_MAX {
            return Err(Refusal::Thing);
        }
        let mut position = [0.0; 3];
        position[..thing.position.len()].copy_from_slice(&thing.position);
        let unix = (node.config.unix_now)().as_millis() / SEQUENCE_MILLIS;
        Ok(Self {
            entity: entity_of(&thing.name),
            dimensions,
            // It begins anew every seven years; what is told then may count as late until it lapses.
            sequence: (unix % u128::from(u32::MAX)) as u32,
            class: thing.class,
            position,
            payload: thing.payload,
            marks: thing.marks,
            lasts: thing.lasts,
        })
    }
}

/// The number of a thing: the same over every node, and no device's.
fn entity_of(name: &str) -> EntityId {
    let hash = Sha256::new()
        .chain_update(b"what a server puts into a field: ")
        .chain_update(name)
        .finalize();
    let (number, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    EntityId(u64::from_be_bytes(*number))
}

/// How often a field may end while something is put there.
const ATTEMPTS: usize = 3;

/// How long a sequence number is the present one.
const SEQUENCE_MILLIS: u128 = 50;
