//! Devices ask why their tickets have not found a match.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tombolo_match::{Illegal, Obstacle, TicketId, Why};
use tombolo_wire::v1::{self, ErrorCode, match_response};

use super::desk::Desk;
use super::requests::reject;
use super::tell;
use crate::config::Pace;
use crate::node::Node;
use crate::rate::Bucket;
use crate::reject::Reject;
use crate::session::Session;

/// Answers a device that asks why, unless too many do: the pool stands still meanwhile.
pub(super) fn answer(
    node: &Arc<Node>,
    session: &Arc<Session>,
    id: u64,
    desk: &Desk,
    ticket: &TicketId,
) -> Result<(), Reject> {
    desk.check_own(ticket, &session.user)?;
    let now = Instant::now().into_std();
    let mut state = desk.lock();
    let comparisons = state
        .comparisons
        .get_or_insert_with(|| Bucket::new(COMPARISONS, now));
    if !comparisons.take(now, WORK_MAX) {
        let message = "too many ask why in this pool: try again later";
        return Err(Reject::new(ErrorCode::Limit, message));
    }
    let time = state.time(node);
    let why = state.pool.explain_among(ticket, time, EXPLAINED_MAX);
    let work = why.as_ref().map_or(0, |why| why.work);
    if let Some(comparisons) = &mut state.comparisons {
        // It may have taken more than was left for it.
        comparisons.put_back(WORK_MAX);
        comparisons.owe(usize::try_from(work).unwrap_or(usize::MAX));
    }
    drop(state);
    let why = why.ok_or_else(|| reject(&Illegal::Unknown))?;
    let result = match_response::Result::Why(on_wire(&why));
    node.push(session, tell::answer(id, result));
    Ok(())
}

fn on_wire(why: &Why) -> v1::WhyTicket {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let obstacles = why.obstacles.iter().map(|excluded| v1::MatchObstacle {
        what: obstacle(&excluded.obstacle),
        count: count(excluded.count),
        alone: count(excluded.alone),
    });
    let words = |obstacles: &[Obstacle]| obstacles.iter().map(obstacle).collect();
    let millis = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let settling = why.settling.as_ref();
    let relaxation = why.relaxation.as_ref();
    v1::WhyTicket {
        looked_at: count(why.looked_at),
        fit: count(why.fit),
        obstacles: obstacles.collect(),
        nearest: why
            .nearest
            .as_ref()
            .map_or_else(Vec::new, |miss| words(&miss.obstacles)),
        relaxed_after_ms: relaxation.map(|relaxation| millis(relaxation.after)),
        relaxed: relaxation.map_or_else(Vec::new, |relaxation| words(&relaxation.obstacles)),
        settling_quality: settling.map(|settling| settling.quality.into()),
        settled_after_ms: settling.map(|settling| millis(settling.after)),
    }
}

pub(super) fn obstacle(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Rule(name) => format!("rule:{name}"),
        Obstacle::Query => "query".to_owned(),
        Obstacle::TheirQuery => "their query".to_owned(),
        Obstacle::Teams => "teams".to_owned(),
    }
}

/// How many others are looked at when a device asks why.
const EXPLAINED_MAX: usize = 1000;

/// How many comparisons one answer usually takes at the most: so many must be left for it. What it does not take is given
/// back, and what it takes beyond is owed.
const WORK_MAX: usize = 16 * 1024;

/// How many comparisons of two tickets all answers of a pool may take on one node, at about 2 µs each: so that those who ask
/// leave most of the time to the matcher, and to the reading of the log.
const COMPARISONS: Pace = Pace {
    per_second: 50_000,
    burst: 100_000,
};
