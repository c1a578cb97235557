//! Matchmaking: devices' tickets go into pools, and the matches that are found there get rooms.
//!
//! A pool is a log in the engine, and every node reads the pools that it is configured with: it applies
//! the same entries and tells its own devices what becomes of their tickets ([`desk`], [`tell`]). One
//! node is the *matcher*: it holds the pool's lease, looks for matches and claims them by an entry that
//! expects the log to be as it was read ([`lead`]). What a claim says is checked again by every reader,
//! so that even two nodes that both believe to be the matcher give no ticket away twice. When the
//! matcher dies another node takes the lease, with the pool already read.
//!
//! Rules decide what entries do, so nodes with other rules read another log: the rules' digest is a
//! part of its name.

mod clock;
mod desk;
mod lead;
mod presence;
mod requests;
mod room;
mod running;
mod seats;
mod tell;
mod view;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;
use tombolo_engine::KeyError;
use tombolo_match::{Name, PLAYERS_MAX, Rules, RulesError};
use tombolo_room::SessionId;
use tombolo_wire::{NodeId, UserId};

use crate::config::ROOM_MEMBERS_MAX;
use crate::node::Node;
use crate::session::Session;
use crate::vital::join_next;
use desk::Desk;

pub(crate) use requests::{MatchmakerRequest, carry_out, parse};
pub(crate) use room::is_of_match;
pub use view::{PoolInfo, PoolObstacle, PoolWhy};

/// A pool that a node serves.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchPool {
    rules: Rules,
    /// Of the text: nodes with another one read another log.
    digest: String,
}

impl MatchPool {
    /// Reads a pool's rules: JSON when the text begins with a brace, else TOML.
    ///
    /// # Errors
    /// With the place of the first mistake.
    pub fn parse(text: &str) -> Result<Self, RulesError> {
        Ok(Self::new(Rules::parse(text)?, text))
    }

    /// Reads pools out of the tables of an array of a larger document in TOML, such as `[[pool]]` in a node's
    /// file. Nodes on which they say the same have the same pools, however they are written.
    ///
    /// # Errors
    /// With the place of the first mistake in the whole document.
    pub fn parse_tables(text: &str, key: &str) -> Result<Vec<Self>, RulesError> {
        let tables = Rules::parse_tables(text, key)?.into_iter();
        Ok(tables
            .map(|(rules, text)| Self::new(rules, &text))
            .collect())
    }

    fn new(rules: Rules, text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let digest = digest.iter().take(DIGEST_BYTES);
        let digest = digest.map(|byte| format!("{byte:02x}")).collect();
        Self { rules, digest }
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        self.rules.name.as_str()
    }
}

/// The pools of one node.
#[derive(Default)]
pub(crate) struct Matchmaker {
    desk_by_pool: BTreeMap<Name, Arc<Desk>>,
}

impl Matchmaker {
    /// Pools of one name are one: the last counts.
    pub(crate) fn new(pools: &[MatchPool]) -> Result<Self, KeyError> {
        let desks = pools.iter().map(|pool| {
            let desk = Desk::new(pool.rules.clone(), &pool.digest)?;
            Ok((pool.rules.name.clone(), Arc::new(desk)))
        });
        Ok(Self {
            desk_by_pool: desks.collect::<Result<_, KeyError>>()?,
        })
    }

    /// Something has become of a session. Its lock may be held.
    pub(crate) fn on_session(&self, session: &Session) {
        for desk in self.desk_by_pool.values() {
            desk.suspect(session.id, &session.user);
        }
    }

    /// A pool has a ticket of a session, of which it was not told what has become before.
    fn suspect_in(&self, pool: &Name, session: SessionId, user: &UserId) {
        if let Some(desk) = self.desk_by_pool.get(pool) {
            desk.suspect(session, user);
        }
    }

    /// Another node's life is over: it may have been the matcher.
    pub(crate) fn on_node_gone(&self) {
        for desk in self.desk_by_pool.values() {
            desk.hurry();
        }
    }

    /// In how many pools a user has a ticket.
    fn tickets_of(&self, user: &UserId) -> usize {
        let desks = self.desk_by_pool.values();
        let with_ticket = desks.filter(|desk| desk.lock().pool.ticket_of(user).is_some());
        with_ticket.count()
    }
}

/// Reads the pools and takes part in leading them, for as long as it runs.
pub(crate) async fn run(node: Arc<Node>) {
    let mut tasks = JoinSet::new();
    for desk in node.matchmaker.desk_by_pool.values() {
        tasks.spawn(Arc::clone(desk).attend(Arc::clone(&node)));
    }
    while tasks.join_next().await.is_some() {}
}

/// Has all pools know that a node's lives up to this one are over. Returns when that is done, however
/// long the engine takes.
pub(crate) async fn lose(node: Arc<Node>, lost: NodeId, incarnation: u64) {
    let mut tasks = JoinSet::new();
    for desk in node.matchmaker.desk_by_pool.values() {
        let (desk, node) = (Arc::clone(desk), Arc::clone(&node));
        let body = tombolo_match::Body::NodeLost {
            node: lost.clone(),
            incarnation,
        };
        // Side by side: one pool may take no entries for long.
        tasks.spawn(async move {
            let insist = || async {
                desk.insist(&node, body.clone()).await;
            };
            node.attend_log(&desk.key, insist, || {}).await;
        });
    }
    while join_next(&mut tasks).await {}
}

/// Users and their sessions that are told about a ticket.
type Devices = BTreeSet<(UserId, SessionId)>;

/// As much of a digest as tells rules apart.
const DIGEST_BYTES: usize = 8;

// The users of each match have a place in its room.
const _: () = assert!(PLAYERS_MAX <= ROOM_MEMBERS_MAX);
