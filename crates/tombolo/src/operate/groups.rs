//! `tombolo all-groups` and `end-group`: which groups there are, and the end of one.

use clap::Args;
use hyper::Method;
use tombolo_node::{GroupPage, GroupStatus};

use super::{At, Event, PAGE, printable};
use crate::admin::client::ask;
use crate::output::{Style, counted, json, line_of_text};
use crate::serve::admin_groups::{GroupEnded, WhichGroups};

#[derive(Debug, Args)]
pub(crate) struct AllGroupsArgs {
    /// How this one is, in place of which there are
    #[arg(value_name = "GROUP", value_parser = group_name, conflicts_with_all = ["owner", "after", "count"])]
    group: Option<String>,
    /// Those that this user has made
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Those after this name
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    /// List so many at most, up to 1000 [default: all, a page after another]
    #[arg(long, value_name = "N", value_parser = crate::cli::page)]
    count: Option<usize>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct EndGroupArgs {
    /// The group's name
    #[arg(value_name = "GROUP", value_parser = group_name)]
    group: String,
    #[command(flatten)]
    at: At,
}

fn group_name(text: &str) -> Result<String, String> {
    match tombolo_wire::GroupName::parse(text) {
        Ok(name) => Ok(name.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Lists groups, or tells how one is.
pub(crate) async fn list(args: AllGroupsArgs) -> anyhow::Result<()> {
    let AllGroupsArgs {
        group,
        owner,
        after,
        count,
        at,
    } = args;
    if let Some(group) = group {
        return show(&group, &at).await;
    }
    let mut which = WhichGroups {
        owner,
        after,
        count: Some(count.unwrap_or(PAGE)),
    };
    loop {
        let path = format!("/v1/groups?{}", serde_urlencoded::to_string(&which)?);
        let page: GroupPage = ask(&at.admin, Method::GET, &path, &()).await?;
        match Style::of(at.json) {
            Style::Json => json(&Event::Groups(&page))?,
            Style::Person => {
                for found in &page.groups {
                    line_of_text(&format!("{:<32} {}", found.group, found.owner))?;
                }
            }
        }
        which.after = page.groups.last().map(|last| last.group.clone());
        if !page.more || count.is_some() {
            return Ok(());
        }
    }
}

async fn show(group: &str, at: &At) -> anyhow::Result<()> {
    let path = format!("/v1/groups/{group}");
    let group: GroupStatus = ask(&at.admin, Method::GET, &path, &()).await?;
    match Style::of(at.json) {
        Style::Json => json(&Event::Group(&group))?,
        Style::Person => line_of_text(&format!(
            "{} of {}, {}: about {}, {}  {}",
            group.group,
            group.owner,
            if group.open { "open" } else { "closed" },
            counted(group.members_about, "member"),
            counted(group.posts, "post"),
            printable(&group.title)
        ))?,
    }
    Ok(())
}

/// Ends a group for all of its members.
pub(crate) async fn end(args: EndGroupArgs) -> anyhow::Result<()> {
    let EndGroupArgs { group, at } = args;
    let path = format!("/v1/groups/{group}");
    let ended: GroupEnded = ask(&at.admin, Method::DELETE, &path, &()).await?;
    match Style::of(at.json) {
        Style::Json => json(&Event::GroupEnded(&ended))?,
        Style::Person => line_of_text(&format!("{} is no more", ended.group))?,
    }
    Ok(())
}
