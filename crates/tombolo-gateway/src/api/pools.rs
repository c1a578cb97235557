//! Pools of the matchmaker, for operators.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use tombolo_services::{PoolInfo, PoolWhy};

use super::{Holder, Node, PoolsRead, path};
use crate::http::ApiError;

pub(super) async fn list(
    State(shared): Node,
    _: Holder<PoolsRead>,
) -> Result<Json<ListBody>, ApiError> {
    let pools = shared.services.pools().await?;
    let pools = pools.into_iter().map(|pool| PoolBody::new(pool, None));
    Ok(Json(ListBody {
        pools: pools.collect(),
    }))
}

pub(super) async fn show(
    State(shared): Node,
    _: Holder<PoolsRead>,
    pool: Result<Path<String>, PathRejection>,
) -> Result<Json<PoolBody>, ApiError> {
    let (pool, why) = shared.services.explain_pool(&path(pool)?).await?;
    Ok(Json(PoolBody::new(pool, Some(why))))
}

#[derive(Serialize)]
pub(super) struct ListBody {
    pools: Vec<PoolBody>,
}

#[derive(Serialize)]
pub(super) struct PoolBody {
    pool: String,
    rules: String,
    matcher: Option<String>,
    tickets: usize,
    waiting: usize,
    longest_wait_s: Option<f64>,
    asked: usize,
    running: usize,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<WhyBody>,
}

#[derive(Serialize)]
struct WhyBody {
    tickets: usize,
    obstacles: Vec<ObstacleBody>,
    relaxed_after_s: Option<f64>,
    relaxed: Vec<String>,
}

#[derive(Serialize)]
struct ObstacleBody {
    what: String,
    count: usize,
    alone: usize,
}

impl PoolBody {
    fn new(info: PoolInfo, why: Option<PoolWhy>) -> Self {
        Self {
            pool: info.name,
            rules: info.digest,
            matcher: info.matcher.map(|node| node.to_string()),
            tickets: info.tickets,
            waiting: info.waiting,
            longest_wait_s: info.longest_wait.map(|wait| wait.as_secs_f64()),
            asked: info.asked,
            running: info.running,
            bytes: info.bytes,
            why: why.map(|why| WhyBody {
                tickets: why.tickets,
                relaxed_after_s: why.relaxed_after.map(|after| after.as_secs_f64()),
                relaxed: why.relaxed,
                obstacles: why
                    .obstacles
                    .into_iter()
                    .map(|obstacle| ObstacleBody {
                        what: obstacle.what,
                        count: obstacle.count,
                        alone: obstacle.alone,
                    })
                    .collect(),
            }),
        }
    }
}
