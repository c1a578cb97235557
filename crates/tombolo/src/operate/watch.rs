//! `tombolo users --watch`: which sessions come, go and change.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;
use tombolo_node::UserStatus;

use super::{PageArgs, Pages, line_of_user};
use crate::output::{json, line_of_text};

/// A user's sessions on one node, in the order in which that tells of them.
type Sessions = BTreeMap<(String, String), Vec<UserStatus>>;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// All that there are have been told.
    Watching { sessions: usize },
    User {
        what: What,
        #[serde(flatten)]
        user: &'a UserStatus,
    },
    /// Nodes that do not answer: what they have is as it was.
    Silent { nodes: &'a [String] },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Here,
    Came,
    Changed,
    Gone,
}

/// Tells all sessions, and then each that comes, goes or changes, until it is ended.
pub(super) async fn users(args: &PageArgs) -> anyhow::Result<()> {
    let mut known = Sessions::new();
    let mut silent = Vec::new();
    let mut what = What::Here;
    loop {
        let (mut now, not_heard) = read(args).await?;
        // What a node has that does not answer is not gone for that.
        for (place, sessions) in &known {
            if not_heard.contains(&place.1) {
                now.insert(place.clone(), sessions.clone());
            }
        }
        for (what, user) in changes(&known, &now, what) {
            tell(args, what, user)?;
        }
        if what == What::Here && args.at.json {
            let sessions = now.values().map(Vec::len).sum();
            json(&Event::Watching { sessions })?;
        }
        if not_heard != silent && args.at.json {
            json(&Event::Silent { nodes: &not_heard })?;
        }
        (known, silent, what) = (now, not_heard, What::Came);
        sleep(LOOK_EVERY).await;
    }
}

async fn read(args: &PageArgs) -> anyhow::Result<(Sessions, Vec<String>)> {
    let (mut all, mut silent) = (Sessions::new(), Vec::new());
    let mut pages = Pages::new("/v1/users", args);
    while let Some(page) = pages.next(|user: &UserStatus| user.user.clone()).await? {
        for user in page.items {
            let place = (user.user.clone(), user.node.clone());
            all.entry(place).or_default().push(user);
        }
        silent.extend(page.silent);
    }
    silent.sort();
    silent.dedup();
    Ok((all, silent))
}

/// What is to be told; sessions of one user on one node are told apart by their order alone.
fn changes<'a>(known: &'a Sessions, now: &'a Sessions, new: What) -> Vec<(What, &'a UserStatus)> {
    const NONE: &[UserStatus] = &[];
    let of = |sessions: &'a Sessions, place| sessions.get(place).map_or(NONE, Vec::as_slice);
    let mut places: Vec<_> = known.keys().chain(now.keys()).collect();
    places.sort();
    places.dedup();
    let mut changes = Vec::new();
    for place in places {
        let (before, after) = (of(known, place), of(now, place));
        for (number, user) in after.iter().enumerate() {
            match before.get(number) {
                None => changes.push((new, user)),
                Some(old) if old != user => changes.push((What::Changed, user)),
                Some(_) => {}
            }
        }
        let gone = before.iter().skip(after.len());
        changes.extend(gone.map(|user| (What::Gone, user)));
    }
    changes
}

fn tell(args: &PageArgs, what: What, user: &UserStatus) -> anyhow::Result<()> {
    if args.at.json {
        return Ok(json(&Event::User { what, user })?);
    }
    let sign = match what {
        What::Here => ' ',
        What::Came => '+',
        What::Changed => '*',
        What::Gone => '-',
    };
    line_of_text(&format!("{sign} {}", line_of_user(user)))?;
    Ok(())
}

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sessions(all: &[(&str, &str, bool)]) -> Sessions {
        let mut sessions = Sessions::new();
        for (user, node, connected) in all {
            let status: Value =
                json!({"user": user, "node": node, "connected": connected, "rooms": 1});
            let status: UserStatus = serde_json::from_value(status).unwrap();
            let place = ((*user).to_owned(), (*node).to_owned());
            sessions.entry(place).or_default().push(status);
        }
        sessions
    }

    #[test]
    fn what_came_changed_and_went_is_told_and_nothing_else() {
        let before = sessions(&[("a", "n", true), ("b", "n", true), ("b", "n", true)]);
        let after = sessions(&[("a", "n", false), ("b", "n", true), ("c", "m", true)]);
        let told = changes(&before, &after, What::Came);
        let told: Vec<_> = told
            .iter()
            .map(|(what, user)| (*what, user.user.as_str()))
            .collect();
        let expected = [(What::Changed, "a"), (What::Gone, "b"), (What::Came, "c")];
        assert_eq!(told, expected);
        assert!(changes(&after, &after, What::Came).is_empty());
    }
}
