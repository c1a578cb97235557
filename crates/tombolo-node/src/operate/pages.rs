//! Who and what is in the cluster, some of many at once.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tombolo_services::{self as services, RoomInfo, SessionInfo};
use tombolo_wire::NodeId;

use super::{Ask, OperateError, Operator, is_up};

/// A user's session, on which node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct UserStatus {
    /// The user; there may be several sessions of one.
    pub user: String,
    /// Where the session is.
    pub node: String,
    /// Whether a device is connected.
    pub connected: bool,
    /// In how many rooms it is.
    pub rooms: usize,
}

/// A room with members.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct RoomStatus {
    /// Its name.
    pub room: String,
    /// Members on all nodes.
    pub members: usize,
    /// Members at most.
    pub members_max: u32,
    /// The nodes that host it.
    pub nodes: Vec<String>,
}

/// Some of many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Page<T> {
    /// How many there are.
    pub total: usize,
    /// Some of them, in order.
    pub items: Vec<T>,
    /// Nodes that did not answer: what they have is missing.
    pub silent: Vec<String>,
}

/// Which of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Of this node alone.
    pub node: Option<NodeId>,
    /// After this name, in place of a number to leave out: whoever comes and goes meanwhile moves no page.
    pub after: Option<String>,
    /// Leaves out so many.
    pub skip: usize,
    /// So many at most.
    pub count: usize,
}

/// What a node is to count: what it has, or of that what no other node counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Total {
    OfNode,
    OfCluster,
}

impl Operator {
    /// The users that have sessions.
    ///
    /// # Errors
    /// The engine does not answer, or a node that is named does not.
    pub async fn users(&self, range: &Range) -> Result<Page<UserStatus>, OperateError> {
        let ask = |skip, count| match range.after.clone() {
            Some(after) => Ask::UsersAfter { after, count },
            None => Ask::Users { skip, count },
        };
        let mut page: Page<UserStatus> = self.gather(range, ask).await?;
        page.items
            .sort_by(|a, b| (&a.user, &a.node).cmp(&(&b.user, &b.node)));
        if range.after.is_some() {
            // All sessions of a user are on one page: the next one begins after the user.
            let last = range.count.checked_sub(1);
            if let Some(last) = last.and_then(|last| page.items.get(last)) {
                let last = last.user.clone();
                page.items.retain(|item| item.user <= last);
            }
            return Ok(page);
        }
        Ok(page.cut(range))
    }

    /// The rooms that have members.
    ///
    /// # Errors
    /// The engine does not answer, or a node that is named does not.
    pub async fn rooms(&self, range: &Range) -> Result<Page<RoomStatus>, OperateError> {
        let total = match range.node {
            Some(_) => Total::OfNode,
            None => Total::OfCluster,
        };
        let ask = |skip, count| match range.after.clone() {
            Some(after) => Ask::RoomsAfter {
                after,
                count,
                total,
            },
            None => Ask::Rooms { skip, count, total },
        };
        let mut page: Page<RoomStatus> = self.gather(range, ask).await?;
        page.items.sort_by(|a, b| a.room.cmp(&b.room));
        page.items.dedup_by(|next, kept| {
            let is_same = next.room == kept.room;
            if is_same {
                kept.nodes.append(&mut next.nodes);
                kept.members = kept.members.max(next.members);
            }
            is_same
        });
        Ok(page.cut(range))
    }

    pub(super) fn tell_users(
        &self,
        page: services::Page<SessionInfo>,
    ) -> serde_json::Result<Vec<u8>> {
        let node = self.services.name().to_string();
        let items = page.items.into_iter().map(|session| UserStatus {
            user: session.user,
            node: node.clone(),
            connected: session.is_connected,
            rooms: session.rooms,
        });
        serde_json::to_vec(&Page::new(page.total, items.collect()))
    }

    pub(super) fn tell_rooms(
        &self,
        page: services::Page<RoomInfo>,
        total: Total,
    ) -> serde_json::Result<Vec<u8>> {
        let total = match total {
            Total::OfNode => page.total,
            Total::OfCluster => self.services.rooms_counted(),
        };
        let node = self.services.name().to_string();
        let items = page.items.into_iter().map(|room| RoomStatus {
            room: room.room,
            members: room.members,
            members_max: room.members_max,
            nodes: vec![node.clone()],
        });
        serde_json::to_vec(&Page::new(total, items.collect()))
    }

    /// What nodes have, as much as may be shown.
    async fn gather<T: DeserializeOwned + Send + 'static>(
        &self,
        range: &Range,
        ask: impl Fn(usize, usize) -> Ask,
    ) -> Result<Page<T>, OperateError> {
        if let Some(node) = &range.node {
            return self.ask(node, ask(range.skip, range.count)).await;
        }
        let skipped = if range.after.is_some() { 0 } else { range.skip };
        let needed = skipped.saturating_add(range.count);
        if needed > RANGE_MAX {
            return Err(OperateError::TooFar);
        }
        let mut records = self.records().await?;
        records.retain(is_up);
        let answers = self.ask_all::<Page<T>>(&records, ask(0, needed)).await;
        let mut all = Page::new(0, Vec::new());
        for (name, answer) in answers {
            match answer {
                Some(page) => {
                    all.total += page.total;
                    all.items.extend(page.items);
                }
                None => all.silent.push(name.to_string()),
            }
        }
        Ok(all)
    }
}

impl<T> Page<T> {
    pub(super) fn new(total: usize, items: Vec<T>) -> Self {
        Self {
            total,
            items,
            silent: Vec::new(),
        }
    }

    /// What was asked for, of what all nodes have; one node's answer is that already.
    fn cut(mut self, range: &Range) -> Self {
        if range.node.is_none() && range.after.is_none() {
            self.items = self.items.into_iter().skip(range.skip).collect();
        }
        self.items.truncate(range.count);
        self
    }
}

/// The most items that are told at once.
pub const RANGE_MAX: usize = 1000;
