//! Pages of a group's members: one roster after the other, in the order of their paths.

use std::sync::Arc;

use tombolo_social::roster::{DEPTH_MAX, PARTS};
use tombolo_wire::UserId;
use tombolo_wire::v1;

use super::find::Found;
use super::{bad_frame, role_name};
use crate::node::Node;
use crate::reject::Reject;

/// Where a page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    path: Vec<u8>,
    after: Option<UserId>,
}

impl Cursor {
    /// Reads what a page said that comes next.
    pub(super) fn parse(text: &str) -> Result<Self, Reject> {
        let no_cursor = || bad_frame("no page begins there");
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (path, after) = text.split_once(':').ok_or_else(no_cursor)?;
        if path.len() > DEPTH_MAX {
            return Err(no_cursor());
        }
        let part = |part: char| {
            part.to_digit(u32::from(PARTS))
                .and_then(|part| part.try_into().ok())
        };
        let path: Option<Vec<u8>> = path.chars().map(part).collect();
        let after = match after {
            "" => None,
            user => Some(UserId::parse(user).map_err(|_| no_cursor())?),
        };
        Ok(Self {
            path: path.ok_or_else(no_cursor)?,
            after,
        })
    }

    fn to_text(&self) -> String {
        let path: String = self.path.iter().map(|part| format!("{part:x}")).collect();
        let after = self.after.as_ref().map_or("", UserId::as_str);
        format!("{path}:{after}")
    }
}

/// As many as are asked for, from some rosters at most.
pub(super) async fn page(
    node: &Arc<Node>,
    found: &Found,
    mut cursor: Cursor,
    limit: usize,
) -> Result<v1::GroupMemberPage, Reject> {
    let settings = found.settings()?;
    let limit = limit.min(PAGE_MEMBERS_MAX);
    let mut page = v1::GroupMemberPage::default();
    for _ in 0..ROSTERS_PER_PAGE_MAX {
        // A roster that was split since the page before goes on in its first part that has such names;
        // their order is that of paths, so what was named before is named again rather than left out.
        let path = cursor.path.iter().copied().chain(std::iter::repeat(0));
        let (leaf, taken) = found.descend(node, path.take(DEPTH_MAX)).await?;
        let after = cursor.after.as_ref().filter(|_| taken == cursor.path);
        let state = leaf.roster.lock();
        for (user, member) in state.machine.members_after(after) {
            if page.members.len() >= limit {
                let last = page.members.last();
                let after = last.and_then(|last| UserId::parse(&last.user).ok());
                // The last that was taken may be of the roster before.
                let after = after.filter(|after| state.machine.member(after).is_some());
                let path = taken;
                page.next = Cursor { path, after }.to_text();
                return Ok(page);
            }
            page.members.push(v1::GroupMember {
                user: user.to_string(),
                role: role_name(&settings, member.role),
                since_ms: member.since.as_millis(),
            });
        }
        drop(state);
        match following(taken) {
            Some(path) => cursor = Cursor { path, after: None },
            None => return Ok(page),
        }
    }
    page.next = cursor.to_text();
    Ok(page)
}

/// The path beside one, or beside the one above; `None` at the end of the tree.
fn following(mut path: Vec<u8>) -> Option<Vec<u8>> {
    loop {
        let last = path.pop()?;
        if last + 1 < PARTS {
            path.push(last + 1);
            return Some(path);
        }
    }
}

/// Each has two names at most and two numbers: all of them fit into a frame.
const PAGE_MEMBERS_MAX: usize = 500;

/// Rosters may be empty, so a page may be, too.
const ROSTERS_PER_PAGE_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_one_another_to_the_end() {
        assert_eq!(following(vec![]), None);
        assert_eq!(following(vec![3]), Some(vec![4]));
        assert_eq!(following(vec![3, 15]), Some(vec![4]));
        assert_eq!(following(vec![15, 15]), None);
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() {
        let cursor = Cursor {
            path: vec![0, 15],
            after: Some(UserId::parse("alice").unwrap()),
        };
        assert_eq!(cursor.to_text(), "0f:alice");
        assert_eq!(Cursor::parse("0f:alice"), Ok(cursor));
        assert_eq!(Cursor::parse(""), Ok(Cursor::default()));
        assert_eq!(Cursor::parse(":"), Ok(Cursor::default()));
        for text in ["x", "g:", "0f:a b", "0123456789abcdef:", "é:"] {
            assert!(Cursor::parse(text).is_err(), "{text:?}");
        }
    }
}
