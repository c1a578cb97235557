//! Keeps the engine's record of a room that is hosted here as the room is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tombolo_engine::{CasError, Key, Offset, Revision};
use tombolo_room::{Listing, RoomCode};
use tombolo_wire::RoomId;

use super::{Hosted, Record, Rooms, Shown, codes, key_of};
use crate::node::Node;

/// What this node knows of the engine's record.
#[derive(Clone, Default)]
pub(super) enum Written {
    /// Nothing.
    #[default]
    Unknown,
    /// There is none.
    Absent,
    /// It says this.
    This(Revision, Arc<Listing>),
    /// Somebody who knows more of the room has written it, or taken it away.
    Newer,
}

/// What is to be done.
enum Job {
    Write(Option<Arc<Listing>>, Offset, Written),
    Free(Vec<RoomCode>),
}

impl Hosted {
    pub(super) fn new(shown: Shown) -> Self {
        Self {
            shown,
            codes_over: Vec::new(),
            written: Written::Unknown,
            is_busy: false,
        }
    }

    /// Whether somebody has to begin to write.
    pub(super) fn begin(&mut self) -> bool {
        // What was found to be newer than what was known here may be older than this.
        if let Written::Newer = self.written {
            self.written = Written::Unknown;
        }
        let is_needed = !self.is_busy && self.job().is_some();
        self.is_busy |= is_needed;
        is_needed
    }

    fn job(&self) -> Option<Job> {
        if !self.codes_over.is_empty() {
            return Some(Job::Free(self.codes_over.clone()));
        }
        if !self.shown.is_keeper && self.shown.is_open {
            return None;
        }
        let wanted = &self.shown.listing;
        let is_so = match (&self.written, wanted) {
            (Written::Newer, _) | (Written::Absent, None) => true,
            (Written::This(_, written), Some(wanted)) => written == wanted,
            (Written::Unknown | Written::Absent | Written::This(..), _) => false,
        };
        let (wanted, at) = (wanted.clone(), self.shown.at);
        (!is_so).then(|| Job::Write(wanted, at, self.written.clone()))
    }
}

impl Rooms {
    /// Whether somebody may miss what is to be written: a room that has just opened, or is to be found no more.
    fn is_urgent(&self, room: &RoomId) -> bool {
        let hosted = self.hosted.get(room);
        let listing = hosted.and_then(|hosted| hosted.shown.listing.as_ref());
        listing.is_none_or(|listing| listing.members <= 1)
    }

    /// What is to be done about a room; when there is nothing, nobody is busy with it any more.
    fn next_job(&mut self, room: &RoomId) -> Option<Job> {
        let hosted = self.hosted.get_mut(room)?;
        let job = hosted.job();
        if job.is_none() {
            hosted.is_busy = false;
            if !hosted.shown.is_open {
                self.hosted.swap_remove(room);
            }
        }
        job
    }
}

/// Writes until the record is as the room is.
pub(super) async fn keep(node: Arc<Node>, room: RoomId) {
    let Ok(key) = key_of(&room) else {
        return;
    };
    if !node.catalogue.lock().is_urgent(&room) {
        // Who changes a room seldom comes alone, and when there is a new keeper a better one may follow.
        tokio::time::sleep(SPACING).await;
    }
    loop {
        let Some(job) = node.catalogue.lock().next_job(&room) else {
            return;
        };
        let is_done = {
            let Ok(_permit) = node.catalogue.writers.acquire().await else {
                return;
            };
            carry_out(&node, &room, &key, job).await
        };
        if !is_done {
            node.counters.listings_failed.add(1);
            tracing::debug!(%room, "the engine did not take what is public about a room");
        }
        // What changes often is written now and then.
        tokio::time::sleep(if is_done { SPACING } else { RETRY_DELAY }).await;
    }
}

/// Whether the engine has taken it in, one way or the other.
async fn carry_out(node: &Arc<Node>, room: &RoomId, key: &Key, job: Job) -> bool {
    let limit = node.config.engine_timeout;
    match job {
        Job::Free(over) => {
            let free = async {
                for code in &over {
                    codes::free(node, room, *code).await?;
                }
                Ok::<_, crate::reject::Reject>(())
            };
            let is_done = matches!(timeout(limit, free).await, Ok(Ok(())));
            if let Some(hosted) = node.catalogue.lock().hosted.get_mut(room)
                && is_done
            {
                hosted.codes_over.retain(|code| !over.contains(code));
            }
            is_done
        }
        Job::Write(listing, at, before) => {
            if node.cluster.is_out() {
                return false;
            }
            let written = timeout(limit, write(node, key, listing, at, before)).await;
            let written = written.ok().flatten();
            let is_done = written.is_some();
            if let Some(hosted) = node.catalogue.lock().hosted.get_mut(room) {
                hosted.written = written.unwrap_or_default();
            }
            is_done
        }
    }
}

/// Has the record say this; `None` when the engine is away.
async fn write(
    node: &Node,
    key: &Key,
    listing: Option<Arc<Listing>>,
    at: Offset,
    before: Written,
) -> Option<Written> {
    let value = listing.as_ref().map(|listing| Record::encode(listing, at));
    // Who had a record and finds it gone is told by that: somebody has seen the room close.
    let had_one = matches!(before, Written::This(..));
    let mut expected = match before {
        Written::This(revision, _) => Some(revision),
        Written::Unknown | Written::Absent | Written::Newer => None,
    };
    for _ in 0..ATTEMPTS_MAX {
        if value.is_some() || expected.is_some() {
            match node.engine.cas(key, expected, value.clone()).await {
                Ok(revision) => {
                    let written = listing.map(|listing| Written::This(revision, listing));
                    return Some(written.unwrap_or(Written::Absent));
                }
                Err(CasError::Conflict | CasError::Unknown) => {}
                Err(error @ (CasError::TooLarge | CasError::Full)) => {
                    node.counters.listings_failed.add(1);
                    tracing::warn!(%key, %error, "room not listed");
                    return Some(Written::Newer);
                }
                Err(_) => return None,
            }
        }
        let found = node.engine.get(key).await.ok()?;
        match found {
            None if had_one => return Some(Written::Newer),
            None if value.is_none() => return Some(Written::Absent),
            None => expected = None,
            Some(found) if is_newer(&found.value, at) => return Some(Written::Newer),
            Some(found) => expected = Some(found.revision),
        }
    }
    None
}

/// Whether what was found is of a later place in the room's log.
fn is_newer(found: &Bytes, at: Offset) -> bool {
    Record::decode(found).is_ok_and(|found| found.at > at)
}

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 8;

/// Between two writes of one record.
const SPACING: Duration = Duration::from_millis(250);

/// Before it is tried again what the engine did not take.
const RETRY_DELAY: Duration = Duration::from_millis(500);
