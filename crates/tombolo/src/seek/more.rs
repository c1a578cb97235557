//! A match that runs: whoever owns its room has others join it, and says who has left.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tombolo_client::{
    Backfill, BackfillStatus, Change, Device, Match, Name, Player, PropertyKey, RoomEvent,
    RoomView, Target, UserId, Value,
};

use super::{Event, tell, tell_members};
use crate::output::Style;

/// Stays in the match; whoever owns its room has others join it, with its teams as they are.
pub(super) async fn ask_for_more(
    device: &Device,
    found: &Match,
    lasts: Duration,
    style: Style,
) -> anyhow::Result<()> {
    let end = Instant::now() + lasts;
    let asked = timeout(lasts, ask(device, found, style)).await;
    asked.unwrap_or(Ok(()))?;
    tell_members(&found.room, style)?;
    tokio::time::sleep_until(end).await;
    Ok(())
}

/// Says in the room in which team this device's user is that has joined a match while it ran: nobody else tells its owner.
pub(super) async fn say_team(device: &Device, found: &Match) {
    let own = device.session().user;
    let team = found.team_of(&own).filter(|_| found.is_running);
    if let (Some(team), Some(key)) = (team, team_key()) {
        let said = Change::set(key, Value::Text(team.name.to_string()));
        if let Err(error) = found.room.change(Target::Member(own), vec![said]).await {
            tracing::debug!(%error, "the team is not said");
        }
    }
}

async fn ask(device: &Device, found: &Match, style: Style) -> anyhow::Result<()> {
    // Who owns it is told behind who is in it.
    let owner = loop {
        match found.room.read(|view| view.owner.clone()) {
            Some(owner) => break owner,
            None if found.room.next_event().await.is_none() => return Ok(()),
            None => {}
        }
    };
    if owner != device.session().user {
        return Ok(());
    }
    // Some may not have come yet.
    let mut teams = teams_of(found, |_| true);
    loop {
        let backfill = match found.backfill(teams, LEASE).await {
            Ok(backfill) => backfill,
            // The match goes on without.
            Err(error) => {
                let ended = Some(error.to_string());
                return tell(
                    style,
                    &Event::Backfill {
                        generation: 0,
                        ended,
                    },
                );
            }
        };
        if !follow(found, &backfill, style).await? {
            return Ok(());
        }
        drop(backfill);
        // It is full until somebody leaves.
        loop {
            match found.room.next_event().await {
                Some(RoomEvent::Left { .. }) => break,
                Some(_) => {}
                None => return Ok(()),
            }
        }
        teams = loop {
            match teams_now(found) {
                Some(teams) => break teams,
                None if found.room.next_event().await.is_none() => return Ok(()),
                None => {}
            }
        };
    }
}

/// Tells how it stands, and says who is left when somebody leaves; whether the match has all that it takes, in the end.
async fn follow(found: &Match, backfill: &Backfill, style: Style) -> anyhow::Result<bool> {
    let status = backfill.status();
    tell(style, &told(&status))?;
    if let Some(reason) = status.ended {
        return Ok(reason == FILLED);
    }
    let mut has_left = false;
    loop {
        if has_left
            && let Some(teams) = teams_now(found)
            && backfill.update(teams).await.is_ok()
        {
            has_left = false;
            tell(style, &told(&backfill.status()))?;
        }
        tokio::select! {
            status = backfill.changed() => {
                let Some(status) = status else {
                    return Ok(false);
                };
                tell(style, &told(&status))?;
                if let Some(reason) = status.ended {
                    return Ok(reason == FILLED);
                }
            }
            event = found.room.next_event() => match event {
                Some(RoomEvent::Left { .. }) => has_left = true,
                Some(_) => {}
                None => return Ok(false),
            },
            // As when others have joined meanwhile.
            () = sleep(RETRY_DELAY), if has_left => {}
        }
    }
}

/// The teams of those who are in the room; `None` while nobody knows of one of them in which it is.
fn teams_now(found: &Match) -> Option<Vec<(Name, Vec<Vec<Player>>)>> {
    let all: BTreeSet<_> = found.room.members().into_iter().collect();
    let mut teams = teams_of(found, |user| all.contains(user));
    for user in all.iter().filter(|user| found.team_of(user).is_none()) {
        let team = found.room.read(|view| said_team(view, user))?;
        let (_, parties) = teams.iter_mut().find(|(name, _)| name.as_str() == team)?;
        parties.push(vec![Player::new(user.clone())]);
    }
    Some(teams)
}

fn said_team(view: &RoomView, user: &UserId) -> Option<String> {
    let said = view.members.get(user)?.properties.get(&team_key()?)?;
    match &said.value {
        Value::Text(team) => Some(team.clone()),
        Value::Boolean(_) | Value::Integer(_) | Value::Number(_) | Value::Binary(_) => None,
    }
}

/// The teams as they were found, of some users.
fn teams_of(found: &Match, is_in: impl Fn(&UserId) -> bool) -> Vec<(Name, Vec<Vec<Player>>)> {
    let teams = found.teams.iter().map(|team| {
        let members = team.members.iter().filter(|(user, _)| is_in(user));
        let parties = members.map(|(user, role)| {
            let roles = role.iter().cloned().collect();
            vec![Player {
                roles,
                ..Player::new(user.clone())
            }]
        });
        (team.name.clone(), parties.collect())
    });
    teams.collect()
}

fn told(status: &BackfillStatus) -> Event {
    Event::Backfill {
        generation: status.generation,
        ended: status.ended.clone(),
    }
}

/// Where a member says in which team it is.
fn team_key() -> Option<PropertyKey> {
    PropertyKey::parse("team").ok()
}

/// Why a match asks no more that has all that it takes.
const FILLED: &str = "filled";

/// How long a match asks for more users when nothing is heard of this program.
const LEASE: Duration = Duration::from_secs(30);

const RETRY_DELAY: Duration = Duration::from_secs(1);
