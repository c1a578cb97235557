//! What devices are marked with while they are in a field.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tombolo_field::EntityId;
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{FieldId, UserId};

use super::driver::Input;
use super::generated::{self as wire, question};
use super::meet;
use crate::node::Node;
use crate::reject::Reject;
use crate::services::Services;

impl Services {
    /// Marks what a user's devices here have in a field from now on; see [`Hooks::authorize_field`]. False
    /// when none of them is in that field.
    ///
    /// [`Hooks::authorize_field`]: crate::Hooks::authorize_field
    pub async fn mark(&self, field: &FieldId, user: &UserId, marks: u64) -> bool {
        mark_here(self.node(), field, user, marks).await.is_ok()
    }

    /// The same, on whichever nodes the user's devices are.
    ///
    /// # Errors
    /// When none of them is in that field, or a node that may have one does not answer: the others have done it.
    pub async fn mark_in_field(
        &self,
        field: &FieldId,
        user: &UserId,
        marks: u64,
    ) -> Result<(), Reject> {
        let node = self.node();
        let mut asks = JoinSet::new();
        for there in node.cluster.names() {
            let (node, field) = (Arc::clone(node), field.clone());
            let mark = wire::Mark {
                user: user.to_string(),
                marks,
            };
            asks.spawn(async move {
                let mark = question::Kind::Mark(mark);
                meet::ask(&node, &there, &field, EntityId(0), mark).await
            });
        }
        let mut result = mark_here(node, field, user, marks).await;
        let mut unanswered = Ok(());
        while let Some(Ok(answer)) = asks.join_next().await {
            match answer {
                Ok(_) => result = Ok(()),
                Err(reject) if reject.code == ErrorCode::NoSuchThing => {}
                // It may be there.
                Err(reject) => unanswered = Err(reject),
            }
        }
        unanswered.and(result)
    }
}

/// Marks those that are here; fails when none are.
pub(super) async fn mark_here(
    node: &Node,
    field: &FieldId,
    user: &UserId,
    marks: u64,
) -> Result<(), Reject> {
    let mut is_anybody_here = false;
    for inputs in node.fields.inputs(field, None) {
        let (reply, marked) = oneshot::channel();
        let user = user.clone();
        let mark = Input::Mark { user, marks, reply };
        if inputs.send(mark).await.is_ok() {
            is_anybody_here |= marked.await.unwrap_or_default();
        }
    }
    if !is_anybody_here {
        let message = "no device of that user is in that field";
        return Err(Reject::new(ErrorCode::NoSuchThing, message));
    }
    Ok(())
}
