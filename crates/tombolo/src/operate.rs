//! `tombolo nodes`, `rooms`, `users`, `all-groups`, `drain`, `rebalance`: what operators do to a cluster, over the admin
//! socket of any of its nodes.

mod groups;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use hyper::Method;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tombolo_node::{
    Asked, GroupPage, GroupStatus, NodeStatus, Page, PoolStatus, RoomStatus, UserStatus,
};

use crate::admin::client::ask;
use crate::output::{Style, counted, json, line_of_text};
use crate::peer::interrupted;
use crate::serve::admin::{DrainRequest, Nodes, Notified, NotifyRequest, Pools, Rebalanced, Which};
use crate::serve::admin_groups::GroupEnded;

pub(crate) use self::groups::{AllGroupsArgs, EndGroupArgs, end as end_group, list as all_groups};

/// Where the cluster is.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The admin socket of any of its nodes
    #[arg(long, value_name = "PATH", default_value = "/run/tombolo/node.sock")]
    admin: PathBuf,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    at: At,
}

/// A page of users or rooms.
#[derive(Debug, Args)]
pub(crate) struct PageArgs {
    /// Those of this node alone
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Those after this name
    #[arg(long, value_name = "NAME", conflicts_with = "skip")]
    after: Option<String>,
    /// Leave out so many
    #[arg(long, value_name = "N", requires = "count")]
    skip: Option<usize>,
    /// List so many at most, up to 1000 [default: all, a page after another]
    #[arg(long, value_name = "N", value_parser = crate::cli::page)]
    count: Option<usize>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct UsersArgs {
    /// Go on to tell which sessions come, go and change
    #[arg(long, conflicts_with_all = ["after", "skip", "count"])]
    watch: bool,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PoolsArgs {
    /// Of this pool also why those who wait longest in it have found nobody
    #[arg(value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The node's name
    #[arg(value_name = "NODE", value_parser = node_name)]
    node: String,
    /// Seconds that its devices have to go
    #[arg(long, value_name = "S", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    /// What to tell them
    #[arg(value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    text: String,
    /// Those whose tokens have this tag; all for everybody
    #[arg(long, value_name = "TAG", default_value = "all")]
    to: String,
    /// Seconds after which nobody needs to be told any more
    #[arg(long, value_name = "S", default_value_t = 86_400,
        value_parser = clap::value_parser!(u64).range(1..=2_592_000))]
    lasts: u64,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(crate) struct RebalanceArgs {
    #[command(flatten)]
    at: At,
}

fn node_name(text: &str) -> Result<String, String> {
    match tombolo_wire::NodeId::parse(text) {
        Ok(name) => Ok(name.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Nodes(&'a Nodes),
    Users(&'a Page<UserStatus>),
    Rooms(&'a Page<RoomStatus>),
    Pools(&'a Pools),
    Groups(&'a GroupPage),
    Group(&'a GroupStatus),
    GroupEnded(&'a GroupEnded),
    Drain {
        node: &'a str,
        /// How many sessions and allocations are there; null when the node does not say.
        sessions: Option<usize>,
        allocations: Option<u64>,
        over: bool,
    },
    Drained {
        node: &'a str,
        moved: usize,
        sessions_left: usize,
        allocations_left: u64,
    },
    Rebalanced(&'a Rebalanced),
    Notified(&'a Notified),
}

/// Lists the nodes.
pub(crate) async fn nodes(args: NodesArgs) -> anyhow::Result<()> {
    let nodes: Nodes = ask(&args.at.admin, Method::GET, "/v1/nodes", &()).await?;
    if args.at.json {
        return Ok(json(&Event::Nodes(&nodes))?);
    }
    for node in &nodes.nodes {
        line_of_text(&line_of_node(node))?;
    }
    Ok(())
}

fn line_of_node(node: &NodeStatus) -> String {
    let now = match &node.now {
        Some(now) => format!(
            "{}, {}, {}, {:.0} % busy",
            counted(now.sessions, "session"),
            counted(now.rooms, "room"),
            counted(now.allocations, "allocation"),
            f64::from(node.cpu_permille) / 10.0
        ),
        None => "does not answer".to_owned(),
    };
    format!(
        "{:<16} {:<9} {:<12} {now}  {}",
        node.name,
        node.state,
        printable(&node.region),
        printable(&node.url)
    )
}

/// Lists pools of the matchmaker, or explains one.
pub(crate) async fn pools(args: PoolsArgs) -> anyhow::Result<()> {
    let admin = &args.at.admin;
    let pools = match &args.pool {
        None => ask(admin, Method::GET, "/v1/pools", &()).await?,
        Some(name) => {
            // A name with anything else in it is none.
            tombolo_client::Name::parse(name)?;
            let pool = ask(admin, Method::GET, &format!("/v1/pools/{name}"), &()).await?;
            Pools { pools: vec![pool] }
        }
    };
    if args.at.json {
        return Ok(json(&Event::Pools(&pools))?);
    }
    for pool in &pools.pools {
        line_of_text(&line_of_pool(pool))?;
        let Some(why) = &pool.why else {
            continue;
        };
        line_of_text(&format!("  of the {} that wait longest", why.tickets))?;
        for obstacle in &why.obstacles {
            line_of_text(&format!(
                "  {:<24} keeps {} pairs apart, {} of them alone",
                printable(&obstacle.what),
                obstacle.count,
                obstacle.alone
            ))?;
        }
        if let Some(after) = why.relaxed_after_s {
            let relaxed: Vec<_> = why.relaxed.iter().map(|what| printable(what)).collect();
            let relaxed = relaxed.join(" and ");
            line_of_text(&format!(
                "  the first finds somebody in {after:.0} s: {relaxed}"
            ))?;
        }
    }
    Ok(())
}

fn line_of_pool(pool: &PoolStatus) -> String {
    let longest = match pool.longest_wait_s {
        Some(wait) => format!(", the longest for {wait:.0} s"),
        None => String::new(),
    };
    format!(
        "{:<24} {}, {} waiting{longest}; {} matches ask, {} running; matcher {}",
        printable(&pool.pool),
        counted(pool.tickets, "ticket"),
        pool.waiting,
        pool.asked,
        pool.running,
        printable(pool.matcher.as_deref().unwrap_or("none"))
    )
}

/// Lists sessions by user.
pub(crate) async fn users(args: UsersArgs) -> anyhow::Result<()> {
    let UsersArgs { watch, page: args } = args;
    if watch {
        return tokio::select! {
            result = watch::users(&args) => result,
            () = interrupted() => Ok(()),
        };
    }
    let (mut shown, mut total) = (0, 0);
    let mut pages = Pages::new("/v1/users", &args);
    while let Some(page) = pages.next(|user: &UserStatus| user.user.clone()).await? {
        if args.at.json {
            json(&Event::Users(&page))?;
            continue;
        }
        for user in &page.items {
            line_of_text(&line_of_user(user))?;
        }
        (shown, total) = (shown + page.items.len(), page.total);
        tell_silent(&page.silent)?;
    }
    if !args.at.json {
        line_of_text(&format!("{shown} of {}", counted(total, "session")))?;
    }
    Ok(())
}

fn line_of_user(user: &UserStatus) -> String {
    let connection = if user.connected { "connected" } else { "away" };
    format!(
        "{:<24} {:<16} {connection:<9}  {}",
        user.user,
        user.node,
        counted(user.rooms, "room")
    )
}

/// Lists rooms.
pub(crate) async fn rooms(args: PageArgs) -> anyhow::Result<()> {
    let (mut shown, mut total) = (0, 0);
    let mut pages = Pages::new("/v1/rooms", &args);
    while let Some(page) = pages.next(|room: &RoomStatus| room.room.clone()).await? {
        if args.at.json {
            json(&Event::Rooms(&page))?;
            continue;
        }
        for room in &page.items {
            line_of_text(&format!(
                "{:<24} {} of {} members  {}",
                room.room,
                room.members,
                room.members_max,
                room.nodes.join(" ")
            ))?;
        }
        (shown, total) = (shown + page.items.len(), page.total);
        tell_silent(&page.silent)?;
    }
    if !args.at.json {
        line_of_text(&format!("{shown} of {}", counted(total, "room")))?;
    }
    Ok(())
}

/// Empties a node, and tells how that goes until it is over.
pub(crate) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let DrainArgs { node, timeout, at } = args;
    let path = format!("/v1/nodes/{node}");
    let request = DrainRequest { timeout_s: timeout };
    let end = Instant::now() + Duration::from_secs(timeout) + GRACE;
    let drain = format!("{path}/drain");
    let mut status: NodeStatus = ask(&at.admin, Method::POST, &drain, &request).await?;
    let mut told = None;
    loop {
        let now = status.now;
        let left = now.map(|now| (now.sessions, now.allocations));
        let draining = now.and_then(|now| now.drain);
        let over = draining.filter(|draining| draining.is_over);
        if told != Some(left) || over.is_some() {
            told = Some(left);
            tell_left(&node, left, over.is_some(), &at)?;
        }
        if let Some(over) = over {
            let counts = (over.moved, over.sessions_left, over.allocations_left);
            return tell_drained(&node, counts, &at);
        }
        anyhow::ensure!(
            now.is_some() || matches!(status.state.as_str(), "alive" | "draining"),
            "node {node} is {} and does not answer any more",
            status.state
        );
        anyhow::ensure!(Instant::now() < end, "node {node} is not done in time");
        sleep(POLL).await;
        status = ask(&at.admin, Method::GET, &path, &()).await?;
    }
}

fn tell_left(node: &str, left: Option<(usize, u64)>, over: bool, at: &At) -> anyhow::Result<()> {
    let (sessions, allocations) = left.unzip();
    match Style::of(at.json) {
        Style::Json => json(&Event::Drain {
            node,
            sessions,
            allocations,
            over,
        })?,
        Style::Person => match left {
            Some((sessions, allocations)) => line_of_text(&format!(
                "draining {node}: {}, {}",
                counted(sessions, "session"),
                counted(allocations, "allocation")
            ))?,
            None => line_of_text(&format!("draining {node}: it does not answer"))?,
        },
    }
    Ok(())
}

fn tell_drained(
    node: &str,
    (moved, sessions_left, allocations_left): (usize, usize, u64),
    at: &At,
) -> anyhow::Result<()> {
    match Style::of(at.json) {
        Style::Json => json(&Event::Drained {
            node,
            moved,
            sessions_left,
            allocations_left,
        })?,
        Style::Person => line_of_text(&format!(
            "{node} is drained: {} moved",
            counted(moved, "session")
        ))?,
    }
    anyhow::ensure!(
        sessions_left == 0 && allocations_left == 0,
        "{} and {} were left when the time was up",
        counted(sessions_left, "session"),
        counted(allocations_left, "allocation")
    );
    Ok(())
}

/// Tells users something.
pub(crate) async fn notify(args: NotifyArgs) -> anyhow::Result<()> {
    let NotifyArgs {
        text,
        to,
        lasts,
        at,
    } = args;
    let request = NotifyRequest {
        to,
        text,
        lasts_s: lasts,
    };
    let answer: Notified = ask(&at.admin, Method::POST, "/v1/notices", &request).await?;
    match Style::of(at.json) {
        Style::Json => json(&Event::Notified(&answer))?,
        Style::Person => line_of_text(&format!("notice {} is told", answer.number))?,
    }
    Ok(())
}

/// Has nodes with more sessions than others ask some devices to move.
pub(crate) async fn rebalance(args: RebalanceArgs) -> anyhow::Result<()> {
    let at = args.at;
    let answer: Rebalanced = ask(&at.admin, Method::POST, "/v1/rebalance", &()).await?;
    if at.json {
        return Ok(json(&Event::Rebalanced(&answer))?);
    }
    for Asked {
        node,
        sessions,
        asked,
        ..
    } in &answer.nodes
    {
        line_of_text(&format!(
            "{node:<16} {}, {asked} asked to move",
            counted(*sessions, "session")
        ))?;
    }
    Ok(())
}

/// Asks for one page, or for all, one after another.
struct Pages<'a> {
    path: &'a str,
    args: &'a PageArgs,
    /// What the next page begins after; `None` once all have come.
    after: Option<String>,
}

impl<'a> Pages<'a> {
    fn new(path: &'a str, args: &'a PageArgs) -> Self {
        let after = Some(args.after.clone().unwrap_or_default());
        Self { path, args, after }
    }

    async fn next<T: serde::de::DeserializeOwned>(
        &mut self,
        name: impl Fn(&T) -> String,
    ) -> anyhow::Result<Option<Page<T>>> {
        let Some(after) = self.after.take() else {
            return Ok(None);
        };
        let count = self.args.count.unwrap_or(PAGE);
        let which = Which {
            node: self.args.node.clone(),
            after: self.args.skip.is_none().then_some(after),
            skip: self.args.skip.unwrap_or_default(),
            count: Some(count),
        };
        let path = format!("{}?{}", self.path, serde_urlencoded::to_string(&which)?);
        let page: Page<T> = ask(&self.args.at.admin, Method::GET, &path, &()).await?;
        if self.args.count.is_none() && page.items.len() >= count {
            self.after = page.items.last().map(name);
        }
        Ok(Some(page))
    }
}

fn tell_silent(nodes: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        nodes.is_empty(),
        "these nodes do not answer, and what they have is missing: {}",
        nodes.join(" ")
    );
    Ok(())
}

/// What nodes say of themselves must not control a terminal.
fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

/// How much longer than its time a drain may take to be told of.
const GRACE: Duration = Duration::from_secs(30);
/// As many as are asked for at once.
const PAGE: usize = 1000;
/// Pause between two looks at what is left.
const POLL: Duration = Duration::from_millis(500);
