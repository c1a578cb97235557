//! What a log feeds.

use std::sync::Arc;

use bytes::Bytes;
use tombolo_social::{EntryError, OperationId};

use super::Followers;
use crate::node::Node;

/// A state machine that is fed by a log.
pub(in crate::social) trait Machine: Default + Send + 'static {
    /// What became of an entry.
    type Done: Send + 'static;
    /// Why an entry changed nothing.
    type Illegal: Send + 'static;
    /// A session that is told, and up to where it was.
    type Listener: Send + 'static;

    /// After how many entries the state is kept in their place.
    const SNAPSHOT_ENTRIES: usize;

    /// All of this kind that the node reads.
    fn followers(node: &Node) -> &Followers<Self>;

    /// `None` when the bytes are no snapshot.
    fn restore(snapshot: &[u8]) -> Option<Self>;

    /// `None` when nothing is to be kept in the entries' place.
    fn snapshot(&self) -> Option<Bytes>;

    /// Applies the next entry.
    ///
    /// # Errors
    /// When it is none.
    fn apply(&mut self, entry: &[u8]) -> Result<Applied<Self>, EntryError>;

    /// Whether another may begin in the log once the engine has forgotten this one; `is_over` says whether it was retired.
    fn may_begin_anew(&self, _is_over: bool) -> bool {
        false
    }

    /// Up to which number another state of the log says the same.
    fn agreed(&self, other: &Self) -> u64;

    /// What a listener was told after a number is void.
    fn go_back(_: &mut Self::Listener, _: u64) {}

    /// About how much it holds.
    fn bytes(&self) -> usize;

    /// Tells a listener what it has not been told yet.
    fn tell(&self, _: &Arc<Node>, _: &mut Self::Listener) -> Told {
        Told::Known
    }
}

/// Who listens to what has tellers of its own.
pub(in crate::social) enum Never {}

/// Which entry it was, and what became of it.
pub(in crate::social) type Applied<M> = (
    OperationId,
    Result<<M as Machine>::Done, <M as Machine>::Illegal>,
);

/// How telling a listener went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::social) enum Told {
    /// It knew all.
    Known,
    /// Now it knows all.
    All,
    /// It was told some, and cannot take more at the moment.
    Some,
    /// It cannot take any at the moment.
    Behind,
    /// Its session is over.
    Gone,
}

/// How an appended entry fared.
pub(in crate::social) enum Outcome<M: Machine> {
    Applied(Result<M::Done, M::Illegal>),
    /// It came after the log had ended, and changes nothing.
    Late,
    /// It went under in a state that somebody else made.
    Unclear,
    /// Nobody knows whether it is there, or will be.
    Unsure,
}
