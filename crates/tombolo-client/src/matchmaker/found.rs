//! A match that was found.

use std::time::Duration;

use tombolo_match::{BackfillId, Name, Player, Venue};
use tombolo_wire::UserId;
use tombolo_wire::v1;

use super::backfill::{self, Backfill};
use super::linked::Linked;
use super::other_question;
use crate::error::Error;
use crate::link::Peer;
use crate::room::Room;

/// A match that begins, or that this device's user joins while it runs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Match {
    /// Its room, which this device is in; others are about to come. Links that nobody has taken by [`Self::next_peer`] end
    /// when it is all that is kept of the match.
    pub room: Room,
    /// The teams; of a match that runs, only those who are new.
    pub teams: Vec<MatchTeam>,
    /// Where it is best played, or is played if it runs; `None` when the pool does not say.
    pub region: Option<Name>,
    /// Who reaches most others, or who hosts it if it runs; `None` when nobody does.
    pub host: Option<UserId>,
    /// How good it is by the pool's rules, from 0 to 1000.
    pub quality: u32,
    /// It runs already.
    pub is_running: bool,
    pool: String,
    id: BackfillId,
    linked: Linked,
}

/// A team of a match.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatchTeam {
    /// What it is called.
    pub name: Name,
    /// Who is in it, and in which role.
    pub members: Vec<(UserId, Option<Name>)>,
}

impl Match {
    pub(super) fn new(
        pool: &str,
        room: Room,
        found: v1::MatchFound,
        links_max: usize,
    ) -> Result<Self, Error> {
        let id = found.id.as_ref().try_into();
        let teams = found.teams.into_iter().map(parse_team);
        let teams: Vec<MatchTeam> = teams.collect::<Result<_, _>>()?;
        let users = teams.iter().map(|team| team.members.len()).sum();
        let host = UserId::parse(&found.host).ok();
        Ok(Self {
            linked: Linked::new(&room, users, links_max, host.clone()),
            room,
            teams,
            region: Name::parse(&found.region).ok(),
            host,
            quality: found.quality,
            is_running: found.running,
            pool: pool.to_owned(),
            id: BackfillId(id.map_err(|_| other_question())?),
        })
    }

    /// The team of a user.
    #[must_use]
    pub fn team_of(&self, user: &UserId) -> Option<&MatchTeam> {
        let is_in = |team: &&MatchTeam| team.members.iter().any(|(member, _)| member == user);
        self.teams.iter().find(is_in)
    }

    /// The next link with another user of the match: as each of them comes into the room the device links with it,
    /// without being told to. Where there are more than [`Ticket::links_max`](super::Ticket::links_max) says it links with the
    /// match's host alone, as that was told, and the host with everybody, up to 128 others. Whoever comes
    /// back with another device is linked anew; a link that has ended is the application's to begin again. `None` once the
    /// room is over, or at once when too many for that come into the match together; while one that runs has too many it waits.
    ///
    /// A user that was quicker is told as [`RoomEvent::Peer`](crate::RoomEvent::Peer), too, with the same link: dropping the
    /// one from here does not end it before the room's event was taken as well, [`Peer::close`] does. Links that nobody has
    /// taken from here end with the match.
    pub async fn next_peer(&self) -> Option<Peer> {
        self.linked.next().await
    }

    /// Asks for more users while the match runs, with the teams as they are: parties of users that stay in
    /// one team. What they are like need not be said: the pool knows it by their tickets, and believes this device only
    /// of users whose tickets it has forgotten, unless the game says otherwise. This device's user must own the match's
    /// room. Whoever joins is judged by, and told, [`Self::region`] and [`Self::host`] as they are here now: another host
    /// is to be put there, and is said later by [`Backfill::set_host`]. It asks for as long as the result is
    /// kept, and ends by itself, after `lease`, when this device is gone.
    ///
    /// # Errors
    /// With code `NotOwner`, `BadTicket` when the teams are not those of the pool, `Conflict` when
    /// somebody has asked before; when this device asks already, or the node cannot be reached.
    pub async fn backfill(
        &self,
        teams: Vec<(Name, Vec<Vec<Player>>)>,
        lease: Duration,
    ) -> Result<Backfill, Error> {
        let device = self.room.device();
        let venue = Venue {
            region: self.region.clone(),
            host: self.host.clone(),
        };
        let open = backfill::open(self.id, 0, &teams, &venue, lease);
        let state = backfill::register(device, &self.pool, self.id)?;
        let backfill = Backfill::new(device.clone(), state, venue, lease);
        backfill.open(open).await?;
        Ok(backfill)
    }
}

fn parse_team(team: v1::MatchTeam) -> Result<MatchTeam, Error> {
    let members = team.members.into_iter().map(|member| {
        let user = UserId::parse(&member.user).map_err(Error::local)?;
        Ok((user, Name::parse(&member.role).ok()))
    });
    Ok(MatchTeam {
        members: members.collect::<Result<_, Error>>()?,
        name: Name::parse(&team.name).map_err(Error::local)?,
    })
}
