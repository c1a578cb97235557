//! `tombolo match`: a device on the command line that looks for a match.

mod more;
mod party;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tombolo_client::{
    Device, Error, ErrorCode, Match, Peer, Room, RoomEvent, RoomOptions, Ticket, TicketEvent,
    UserId, WhyNot,
};

use self::party::{Party, Refusal};
use crate::cli::MatchArgs;
use crate::output::{self, Style};
use crate::peer::{self, interrupted};

/// What `tombolo match` tells: names and fields as `docs/cli.md` gives them.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Session {
        node: String,
        user: String,
    },
    Waits {
        pool: String,
        waiting: u32,
        half_wait_s: Option<f64>,
        most_wait_s: Option<f64>,
        away: Vec<String>,
    },
    Proposed {
        users: u32,
        left_s: f64,
        accepted: bool,
    },
    Accepted {
        ready: u32,
        users: u32,
    },
    Failed,
    Why(Why),
    Found(Found),
    Backfill {
        generation: u32,
        ended: Option<String>,
    },
    Members {
        room: String,
        members: Vec<String>,
    },
    /// Who is in the party's room cannot be in its ticket.
    Refused {
        members: Vec<String>,
        code: String,
        reason: String,
    },
    Ended {
        reason: String,
    },
    /// As `peer` tells of its links.
    #[serde(untagged)]
    Link(peer::Event),
}

/// What stands in the way of a match.
#[derive(Debug, Serialize)]
struct Why {
    looked_at: u32,
    fit: u32,
    /// What, in the way of how many, and of how many of those alone.
    obstacles: Vec<(String, u32, u32)>,
    nearest: Vec<String>,
    relaxed_after_s: Option<f64>,
    /// What stands in the way until then.
    relaxed: Vec<String>,
    /// The quality of the match that it has, which waits for a better one, and for how long yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    settling: Option<(u32, f64)>,
}

#[derive(Debug, Serialize)]
struct Found {
    room: String,
    teams: Vec<Team>,
    region: Option<String>,
    host: Option<String>,
    quality: u32,
    running: bool,
    waited_ms: f64,
}

#[derive(Debug, Serialize)]
struct Team {
    name: String,
    members: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    user: String,
    role: Option<String>,
}

/// Looks for a match until there is one, or the time is over.
pub(crate) async fn run(args: MatchArgs) -> anyhow::Result<()> {
    let style = Style::of(args.json);
    let mut builder = Device::builder(&args.server);
    if let Some(token) = &args.who.token {
        builder = builder.token(token);
    } else if let Some(user) = &args.who.user {
        builder = builder.development_user(user);
    }
    let mut interrupted = pin!(interrupted());
    let device = tokio::select! {
        device = builder.connect() => device?,
        () = &mut interrupted => return Ok(()),
    };
    let session = device.session();
    let user = session.user.to_string();
    let node = session.node;
    tell(style, &Event::Session { node, user })?;
    // A ticket that is given up is cancelled, which goes out before the farewell.
    let result = tokio::select! {
        result = look(&device, &args, style) => result,
        () = &mut interrupted => Ok(()),
    };
    device.close().await;
    result
}

async fn look(device: &Device, args: &MatchArgs, style: Style) -> anyhow::Result<()> {
    let start = Instant::now();
    // The party's room is left with the match's.
    let mut party = None;
    let looking = async {
        if let Some(room) = &args.party {
            let options = RoomOptions::default();
            party = Some(device.rooms().join_or_create(room, options).await?);
        }
        let (ticket, party) = submit(device, args, party.as_ref(), style).await?;
        follow(ticket.links_max(args.links_max), party, args, style, start).await
    };
    let found = match args.duration {
        Some(duration) => match timeout(duration, looking).await {
            Ok(found) => found?,
            Err(_) => {
                let reason = GIVEN_UP.to_owned();
                tell(style, &Event::Ended { reason })?;
                anyhow::bail!("no match in {} s", duration.as_secs_f64());
            }
        },
        None => looking.await?,
    };
    let links = watch::Sender::new(0);
    let staying = async {
        more::say_team(device, &found).await;
        gather(&found, args, links.subscribe(), style).await?;
        match args.backfill {
            Some(lasts) => more::ask_for_more(device, &found, lasts, style).await,
            None => Ok(()),
        }
    };
    tokio::select! {
        stayed = staying => stayed,
        never = tell_links(&found, &links, style) => match never {},
    }
}

/// A ticket of the user, or of its party, which the owner of the party's room submits once it is large enough, and has from
/// then on.
async fn submit<'r>(
    device: &Device,
    args: &MatchArgs,
    party: Option<&'r Room>,
    style: Style,
) -> anyhow::Result<(Ticket, Option<Party<'r>>)> {
    let (own, matchmaker) = (device.session().user, device.matchmaker());
    if let Some(room) = party {
        let is_ready = || {
            let is_own = room.read(|view| view.owner.as_ref() == Some(&own));
            is_own && room.members().len() >= usize::from(args.party_size)
        };
        while !is_ready() {
            tokio::select! {
                ticket = matchmaker.next_ticket() => {
                    let ticket = ticket.ok_or_else(|| anyhow::anyhow!("the session is over"))?;
                    return Ok((ticket, None));
                }
                event = room.next_event() => {
                    anyhow::ensure!(event.is_some(), "the party is over");
                }
            }
        }
        tell_members(room, style)?;
    }
    let mut ticket = matchmaker.ticket(&args.pool).query(&args.query);
    for (name, value) in &args.attribute {
        ticket = ticket.attribute(name, value.clone());
    }
    for role in &args.role {
        ticket = ticket.role(role);
    }
    for tag in &args.tag {
        ticket = ticket.tag(tag);
    }
    for user in &args.block {
        ticket = ticket.block(user);
    }
    if let Some(grace) = args.grace {
        ticket = ticket.grace(grace);
    }
    let party = party.map(|room| Party::new(room, own, args)).transpose()?;
    if let Some(party) = &party {
        ticket = ticket.party(party.room, party.others());
    }
    let ticket = ticket.priority(args.priority).submit().await?;
    Ok((ticket, party))
}

async fn follow(
    mut ticket: Ticket,
    mut party: Option<Party<'_>>,
    args: &MatchArgs,
    style: Style,
    start: Instant,
) -> anyhow::Result<Match> {
    let mut why_at = args.why_every.map(|every| start + every);
    loop {
        let event = tokio::select! {
            event = ticket.next_event() => event?,
            () = until(why_at) => {
                why_at = args.why_every.map(|every| Instant::now() + every);
                match ticket.why().await {
                    Ok(why) => tell(style, &told_why(why))?,
                    Err(error) => pass(error)?,
                }
                continue;
            }
            () = changed(party.as_ref()) => {
                if let Some(party) = &mut party {
                    say_party(party, &ticket, style).await?;
                }
                continue;
            }
        };
        match event {
            TicketEvent::Waits(status) => {
                let seconds = |wait: Option<Duration>| wait.map(|wait| wait.as_secs_f64());
                let waits = Event::Waits {
                    pool: args.pool.clone(),
                    waiting: status.waiting,
                    half_wait_s: seconds(status.half_wait),
                    most_wait_s: seconds(status.most_wait),
                    away: status.away.iter().map(UserId::to_string).collect(),
                };
                tell(style, &waits)?;
            }
            TicketEvent::Proposed(proposal) => {
                let (users, left_s) = (proposal.users, proposal.left.as_secs_f64());
                let accepted = args.accept;
                let proposed = Event::Proposed {
                    users,
                    left_s,
                    accepted,
                };
                tell(style, &proposed)?;
                let answered = match accepted {
                    true => ticket.accept(proposal).await,
                    false => ticket.decline(proposal).await,
                };
                answered.or_else(pass)?;
            }
            TicketEvent::Accepted { ready, users } => {
                tell(style, &Event::Accepted { ready, users })?;
            }
            TicketEvent::Failed => tell(style, &Event::Failed)?,
            TicketEvent::Found(found) => {
                tell(style, &told_found(&found, start.elapsed()))?;
                return Ok(*found);
            }
            TicketEvent::Ended(reason) => {
                let message = format!("no match: the ticket has ended ({reason})");
                tell(style, &Event::Ended { reason })?;
                anyhow::bail!(message);
            }
            _ => {}
        }
    }
}

/// Says who is in the party's room, and tells what comes of that.
async fn say_party(party: &mut Party<'_>, ticket: &Ticket, style: Style) -> anyhow::Result<()> {
    match party.say(ticket).await {
        Ok(()) => tell_members(party.room, style),
        Err(Some(refusal)) => tell(style, &told_refusal(refusal)),
        Err(None) => Ok(()),
    }
}

/// Goes on when the ticket was quicker, or the node is gone: what becomes of it is told.
fn pass(error: Error) -> Result<(), Error> {
    let is_late = error.code() == Some(ErrorCode::NoSuchThing);
    if is_late || error.is_temporary() {
        return Ok(());
    }
    Err(error)
}

/// Waits for others in the match's room, and for links with them.
async fn gather(
    found: &Match,
    args: &MatchArgs,
    mut links: watch::Receiver<u16>,
    style: Style,
) -> anyhow::Result<()> {
    // Who has come counts, also when it has gone again by now, as a program does that only looks.
    let mut came: BTreeSet<UserId> = found.room.members().into_iter().collect();
    let gathered = async {
        while came.len() < usize::from(args.members) {
            match found.room.next_event().await {
                Some(RoomEvent::Joined(user) | RoomEvent::Left { user, .. }) => {
                    came.insert(user);
                }
                Some(_) => came.extend(found.room.members()),
                None => return,
            }
        }
        // The other end is held until the program ends.
        _ = links.wait_for(|links| *links >= args.linked).await;
    };
    // Whoever has not come by then is not waited for.
    let _ = timeout(GATHER_TIMEOUT, gathered).await;
    tell_who(&found.room, came, style)
}

/// Keeps the links with the others of the match, and tells what becomes of them.
async fn tell_links(found: &Match, links: &watch::Sender<u16>, style: Style) -> Infallible {
    let mut told = JoinSet::new();
    while let Some(peer) = found.next_peer().await {
        told.spawn(tell_link(peer, style));
        links.send_modify(|links| *links = links.saturating_add(1));
    }
    std::future::pending().await
}

async fn tell_link(peer: Peer, style: Style) -> anyhow::Result<()> {
    let mut changes = peer.changes();
    loop {
        match changes.recv().await {
            Ok(status) => {
                let link = peer::Event::of_link(peer.user(), &status);
                tell(style, &Event::Link(link))?;
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

fn tell_members(room: &Room, style: Style) -> anyhow::Result<()> {
    tell_who(room, room.members(), style)
}

fn tell_who(
    room: &Room,
    members: impl IntoIterator<Item = UserId>,
    style: Style,
) -> anyhow::Result<()> {
    let members = Event::Members {
        room: room.id().to_string(),
        members: members.into_iter().map(|user| user.to_string()).collect(),
    };
    tell(style, &members)
}

async fn changed(party: Option<&Party<'_>>) {
    match party {
        Some(party) => party.changed().await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn told_found(found: &Match, waited: Duration) -> Event {
    let teams = found.teams.iter().map(|team| {
        let members = team.members.iter().map(|(user, role)| Member {
            user: user.to_string(),
            role: role.as_ref().map(ToString::to_string),
        });
        Team {
            name: team.name.to_string(),
            members: members.collect(),
        }
    });
    Event::Found(Found {
        room: found.room.id().to_string(),
        teams: teams.collect(),
        region: found.region.as_ref().map(ToString::to_string),
        host: found.host.as_ref().map(ToString::to_string),
        quality: found.quality,
        running: found.is_running,
        waited_ms: output::ms(waited),
    })
}

fn told_refusal(refusal: Refusal) -> Event {
    Event::Refused {
        members: refusal.members.iter().map(UserId::to_string).collect(),
        code: refusal.code,
        reason: refusal.reason,
    }
}

fn told_why(why: WhyNot) -> Event {
    let obstacles = why.obstacles.into_iter();
    Event::Why(Why {
        looked_at: why.looked_at,
        fit: why.fit,
        obstacles: obstacles
            .map(|obstacle| (obstacle.what, obstacle.count, obstacle.alone))
            .collect(),
        nearest: why.nearest,
        relaxed_after_s: why.relaxed_after.map(|after| after.as_secs_f64()),
        relaxed: why.relaxed,
        settling: why
            .settling
            .map(|settling| (settling.quality, settling.after.as_secs_f64())),
    })
}

fn tell(style: Style, event: &Event) -> anyhow::Result<()> {
    match style {
        Style::Json => output::json(event)?,
        Style::Person => output::line_of_text(&output::printable(&sentence(event)))?,
    }
    Ok(())
}

/// The event for a person.
fn sentence(event: &Event) -> String {
    match event {
        Event::Session { node, user } => format!("{user} is connected to {node}"),
        Event::Waits {
            pool,
            waiting,
            half_wait_s,
            most_wait_s,
            away,
        } => {
            let estimate = match half_wait_s.zip(*most_wait_s) {
                Some((half, most)) if half.round() == most.round() => {
                    format!(", probably {half:.0} s")
                }
                Some((half, most)) => format!(", probably {half:.0} to {most:.0} s"),
                None => String::new(),
            };
            let away = match away.as_slice() {
                [] => String::new(),
                away => format!("; away: {}", away.join(", ")),
            };
            let tickets = output::counted(*waiting, "ticket");
            format!("waiting in {pool} with {tickets}{estimate}{away}")
        }
        Event::Proposed {
            users,
            left_s,
            accepted,
        } => {
            let said = if *accepted { "ready" } else { "not ready" };
            format!("a match of {users}: {said} ({left_s:.0} s to say so)")
        }
        Event::Accepted { ready, users } => format!("{ready} of {users} are ready"),
        Event::Failed => "not all were ready, or there was no place: looking on".to_owned(),
        Event::Why(why) => why_sentence(why),
        Event::Found(found) => found_sentence(found),
        Event::Backfill { generation, ended } => match ended {
            None => format!("asking for more users, generation {generation}"),
            Some(reason) => format!("no more users are asked for: {reason}"),
        },
        Event::Link(link) => peer::peer_line(link),
        Event::Members { room, members } => format!("in {room}: {}", members.join(", ")),
        Event::Refused {
            members, reason, ..
        } => {
            let members = members.join(", ");
            format!("the ticket stays as it was, not with {members}: {reason}")
        }
        Event::Ended { reason } => format!("no match: {reason}"),
    }
}

fn why_sentence(why: &Why) -> String {
    if why.looked_at == 0 {
        return "nobody else waits".to_owned();
    }
    let all = why.obstacles.iter();
    let all = all.map(|(what, count, alone)| format!("{what} {count} ({alone} alone)"));
    let excluded = listed("; excluded by ", &all.collect::<Vec<_>>(), ", ");
    let nearest = listed("; nearest but for ", &why.nearest, " and ");
    let later = match why.relaxed_after_s {
        Some(after) if why.fit > 0 => format!("; fewer are enough in {after:.0} s"),
        Some(after) => {
            let relaxed = listed(", when less is asked by ", &why.relaxed, " and ");
            format!("; somebody fits in {after:.0} s{relaxed}")
        }
        None => String::new(),
    };
    let settling = match why.settling {
        Some((quality, after)) => {
            format!(
                "; a match of quality {quality} begins in {after:.0} s, if none better is found"
            )
        }
        None => String::new(),
    };
    format!(
        "of {} others {} fit{excluded}{nearest}{later}{settling}",
        why.looked_at, why.fit
    )
}

/// Nothing where there is nothing to list.
fn listed(what: &str, items: &[String], between: &str) -> String {
    match items {
        [] => String::new(),
        items => format!("{what}{}", items.join(between)),
    }
}

fn found_sentence(found: &Found) -> String {
    let teams = found.teams.iter().map(|team| {
        let members: Vec<_> = team.members.iter().map(told_member).collect();
        format!("{}: {}", team.name, members.join(", "))
    });
    let about = |what: &str, value: &Option<String>| match value {
        Some(value) => format!(", {what} {value}"),
        None => String::new(),
    };
    format!(
        "found after {:.0} ms: {}{}{}, quality {}, room {}",
        found.waited_ms,
        teams.collect::<Vec<_>>().join("; "),
        about("region", &found.region),
        about("host", &found.host),
        found.quality,
        found.room
    )
}

fn told_member(member: &Member) -> String {
    match &member.role {
        Some(role) => format!("{} ({role})", member.user),
        None => member.user.clone(),
    }
}

/// Why a ticket ended that its user looks with no longer, as the node would say it.
const GIVEN_UP: &str = "cancelled";

/// How long others are waited for in the match's room.
const GATHER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_nobody_was_found_is_told_without_what_there_is_not() {
        let why_until = |looked_at,
                         obstacles: &[(&str, u32, u32)],
                         nearest: &[&str],
                         relaxed: Option<(f64, &str)>| {
            let obstacles = obstacles.iter().copied();
            why_sentence(&Why {
                looked_at,
                fit: 0,
                obstacles: obstacles
                    .map(|(what, count, alone)| (what.to_owned(), count, alone))
                    .collect(),
                nearest: nearest.iter().map(|&what| what.to_owned()).collect(),
                relaxed_after_s: relaxed.map(|(after, _)| after),
                relaxed: relaxed
                    .map(|(_, what)| what.to_owned())
                    .into_iter()
                    .collect(),
                settling: None,
            })
        };
        let why = |looked_at, obstacles: &[(&str, u32, u32)], nearest: &[&str]| {
            why_until(looked_at, obstacles, nearest, None)
        };
        assert_eq!(why(0, &[], &[]), "nobody else waits");
        assert_eq!(why(2, &[], &[]), "of 2 others 0 fit");
        assert_eq!(
            why(3, &[("rule:skill", 3, 2)], &["rule:skill", "region"]),
            "of 3 others 0 fit; excluded by rule:skill 3 (2 alone); nearest but for rule:skill and region"
        );
        assert_eq!(
            why_until(1, &[], &["region"], Some((40.0, "rule:skill"))),
            "of 1 others 0 fit; nearest but for region; somebody fits in 40 s, when less is asked by rule:skill"
        );
    }
}
