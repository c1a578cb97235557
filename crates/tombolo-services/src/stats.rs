//! What has happened, for metrics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tombolo_wire::v1::ErrorCode;

use crate::cluster::{FrameError, ResumeRefusal};
use crate::field::Refusal;
use crate::lock::lock;

/// What is there and what has happened since the node began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Sessions now, with and without a connection.
    pub sessions: usize,
    /// Rooms that this node has members in now.
    pub rooms: usize,
    /// Logs of users, groups and notices that this node reads now.
    pub logs: usize,
    /// How often such a log could not be read, because a later release has written to it.
    pub logs_unreadable: u64,
    /// Entries in such logs that are none, and change nothing.
    pub entries_refused: u64,
    /// Sessions that went on after their connection broke.
    pub resumed: u64,
    /// Sessions that ended because nobody resumed them in time.
    pub expired: u64,
    /// Messages handed to a member's session.
    pub delivered: u64,
    /// Direct messages that devices here have sent.
    pub directs: u64,
    /// Messages whose senders have got no copy of them.
    pub copies_failed: u64,
    /// Rooms that were closed because there were too many that nobody was in.
    pub rooms_crowded_out: u64,
    /// Logs of closed rooms that found no place among those that wait to be retired: the node looks for them after those.
    pub logs_left: u64,
    /// What devices here have said in groups.
    pub posts: u64,
    /// Tickets that devices here have submitted to pools.
    pub tickets: u64,
    /// Matches that devices here were told of; one with devices on several nodes counts on each.
    pub matched: u64,
    /// Claims of this node before which something else came into the log: they were made anew.
    pub claims_conflicted: u64,
    /// Notices that servers have sent over this node.
    pub notices: u64,
    /// Introductions handed to a member's session.
    pub introduced: u64,
    /// Unreliable messages dropped because a connection was too slow, or there was none.
    pub dropped: u64,
    /// Messages that were never sent because a newer value took their place.
    pub coalesced: u64,
    /// Sessions that were ended because their devices did not keep up.
    pub behind: u64,
    /// Reliable messages of other devices that one had not acknowledged when its session ended: it may have got the last of
    /// them, and their senders are not told.
    pub unread: u64,
    /// What was refused, by the code that the device was told.
    pub refused: BTreeMap<ErrorCode, u64>,
    /// Devices that could not go on with the session that they wanted, by the reason.
    pub resumes_refused: BTreeMap<String, u64>,
    /// How often the game's own code failed, or took too long.
    pub hooks_failed: u64,
    /// How often the engine did not take what is public about a room, or give a room's code free.
    pub listings_failed: u64,
    /// How often something about the log of a room, a user, a group or a pool panicked; it began anew.
    pub logs_panicked: u64,
    /// Sessions that were ended because what was done for them panicked.
    pub sessions_panicked: u64,
    /// What other nodes, rooms and the directory said, and was refused because it panicked.
    pub items_panicked: u64,
    /// What has happened in fields.
    pub fields: FieldStats,
    /// What has happened between this node and others.
    pub cluster: ClusterStats,
}

/// What has happened in fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldStats {
    /// Fields now that this node has devices in.
    pub fields: usize,
    /// Reports of devices that were taken in.
    pub reports: u64,
    /// Batches handed to devices' sessions.
    pub batches: u64,
    /// What devices were to be told and had to wait for another batch.
    pub deferred: u64,
    /// Messages to other nodes that the bus has taken.
    pub published: u64,
    /// Messages to other nodes that were lost on their way to the bus.
    pub unpublished: u64,
    /// Reports of other nodes' devices that were taken in.
    pub heard: u64,
    /// Those that were refused, and messages of nodes that were malformed or of another version.
    pub heard_refused: u64,
    /// Messages that the bus says it has lost on their way here.
    pub bus_lost: u64,
    /// Fields whose task panicked: the sessions in them ended.
    pub panicked: u64,
    /// What was refused to devices, by the reason.
    pub refused: BTreeMap<String, u64>,
}

/// What has happened between this node and others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStats {
    /// Frames handed to the bus, each with many items.
    pub frames_sent: u64,
    /// Frames that the bus did not take; what was in them is sent again, unless it was unreliable.
    pub frames_failed: u64,
    /// Frames of other nodes that were taken in.
    pub frames_received: u64,
    /// Frames that the bus says it has lost on their way here.
    pub bus_lost: u64,
    /// How often something was sent again, or found to be missing.
    pub repairs: u64,
    /// What was in a frame and malformed, not known to this version, or not borne out by the room's
    /// log.
    pub items_refused: u64,
    /// Records of the directory and heartbeats that were malformed or of another version.
    pub records_refused: u64,
    /// How often the others have put this node out of the cluster.
    pub fenced: u64,
    /// Nodes that this one has put out of the cluster, and whose members it has dropped.
    pub inherited: u64,
    /// Sessions that went on over another node.
    pub sessions_given: u64,
    /// Sessions of other nodes that went on here.
    pub sessions_taken: u64,
    /// Frames of other nodes that were refused, by the reason.
    pub frames_refused: BTreeMap<String, u64>,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) logs_unreadable: Counter,
    pub(crate) entries_refused: Counter,
    pub(crate) resumed: Counter,
    pub(crate) expired: Counter,
    pub(crate) delivered: Counter,
    pub(crate) directs: Counter,
    pub(crate) copies_failed: Counter,
    pub(crate) rooms_crowded_out: Counter,
    pub(crate) logs_left: Counter,
    pub(crate) posts: Counter,
    pub(crate) notices: Counter,
    pub(crate) tickets: Counter,
    pub(crate) matched: Counter,
    pub(crate) claims_conflicted: Counter,
    pub(crate) introduced: Counter,
    pub(crate) dropped: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) behind: Counter,
    pub(crate) unread: Counter,
    pub(crate) hooks_failed: Counter,
    pub(crate) listings_failed: Counter,
    pub(crate) logs_panicked: Counter,
    pub(crate) sessions_panicked: Counter,
    pub(crate) items_panicked: Counter,
    pub(crate) fields: FieldCounters,
    pub(crate) cluster: ClusterCounters,
    refused: Mutex<BTreeMap<ErrorCode, u64>>,
    resumes_refused: Mutex<BTreeMap<ResumeRefusal, u64>>,
}

/// What has happened in fields so far.
#[derive(Debug, Default)]
pub(crate) struct FieldCounters {
    pub(crate) reports: Counter,
    pub(crate) batches: Counter,
    pub(crate) deferred: Counter,
    pub(crate) published: Counter,
    pub(crate) unpublished: Counter,
    pub(crate) heard: Counter,
    pub(crate) heard_refused: Counter,
    pub(crate) bus_lost: Counter,
    pub(crate) panicked: Counter,
    refused: Mutex<BTreeMap<Refusal, u64>>,
}

/// What has happened between nodes so far.
#[derive(Debug, Default)]
pub(crate) struct ClusterCounters {
    pub(crate) frames_sent: Counter,
    pub(crate) frames_failed: Counter,
    pub(crate) frames_received: Counter,
    pub(crate) bus_lost: Counter,
    pub(crate) repairs: Counter,
    pub(crate) items_refused: Counter,
    pub(crate) records_refused: Counter,
    pub(crate) fenced: Counter,
    pub(crate) inherited: Counter,
    pub(crate) sessions_given: Counter,
    pub(crate) sessions_taken: Counter,
    frames_refused: Mutex<BTreeMap<FrameError, u64>>,
}

/// Counts one thing.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn count_refused(&self, code: ErrorCode) {
        *lock(&self.refused).entry(code).or_default() += 1;
    }

    pub(crate) fn count_resume_refused(&self, refusal: ResumeRefusal) {
        *lock(&self.resumes_refused).entry(refusal).or_default() += 1;
    }

    pub(crate) fn stats(&self, sessions: usize, rooms: usize, logs: usize) -> Stats {
        let resumes_refused = lock(&self.resumes_refused);
        Stats {
            sessions,
            rooms,
            logs,
            logs_unreadable: self.logs_unreadable.value(),
            entries_refused: self.entries_refused.value(),
            resumed: self.resumed.value(),
            expired: self.expired.value(),
            delivered: self.delivered.value(),
            directs: self.directs.value(),
            copies_failed: self.copies_failed.value(),
            rooms_crowded_out: self.rooms_crowded_out.value(),
            logs_left: self.logs_left.value(),
            posts: self.posts.value(),
            notices: self.notices.value(),
            tickets: self.tickets.value(),
            matched: self.matched.value(),
            claims_conflicted: self.claims_conflicted.value(),
            introduced: self.introduced.value(),
            dropped: self.dropped.value(),
            coalesced: self.coalesced.value(),
            behind: self.behind.value(),
            unread: self.unread.value(),
            hooks_failed: self.hooks_failed.value(),
            listings_failed: self.listings_failed.value(),
            logs_panicked: self.logs_panicked.value(),
            sessions_panicked: self.sessions_panicked.value(),
            items_panicked: self.items_panicked.value(),
            refused: lock(&self.refused).clone(),
            resumes_refused: resumes_refused
                .iter()
                .map(|(refusal, count)| (refusal.to_string(), *count))
                .collect(),
            fields: self.fields.stats(),
            cluster: self.cluster.stats(),
        }
    }
}

impl FieldCounters {
    pub(crate) fn count_refused(&self, refusal: Refusal) {
        *lock(&self.refused).entry(refusal).or_default() += 1;
    }

    fn stats(&self) -> FieldStats {
        let refused = lock(&self.refused);
        FieldStats {
            fields: 0,
            reports: self.reports.value(),
            batches: self.batches.value(),
            deferred: self.deferred.value(),
            published: self.published.value(),
            unpublished: self.unpublished.value(),
            heard: self.heard.value(),
            heard_refused: self.heard_refused.value(),
            bus_lost: self.bus_lost.value(),
            panicked: self.panicked.value(),
            refused: refused
                .iter()
                .map(|(refusal, count)| (refusal.to_string(), *count))
                .collect(),
        }
    }
}

impl ClusterCounters {
    pub(crate) fn count_refused(&self, error: FrameError) {
        *lock(&self.frames_refused).entry(error).or_default() += 1;
    }

    fn stats(&self) -> ClusterStats {
        let refused = lock(&self.frames_refused);
        ClusterStats {
            frames_sent: self.frames_sent.value(),
            frames_failed: self.frames_failed.value(),
            frames_received: self.frames_received.value(),
            bus_lost: self.bus_lost.value(),
            repairs: self.repairs.value(),
            items_refused: self.items_refused.value(),
            records_refused: self.records_refused.value(),
            fenced: self.fenced.value(),
            inherited: self.inherited.value(),
            sessions_given: self.sessions_given.value(),
            sessions_taken: self.sessions_taken.value(),
            frames_refused: refused
                .iter()
                .map(|(error, count)| (error.to_string(), *count))
                .collect(),
        }
    }
}
