//! A party that looks for a match: who is in its room is in its ticket, for as long as that waits.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tombolo_client::{Error, Name, Player, Room, Ticket, UserId};

use crate::cli::MatchArgs;

/// The party of this device's user, who owns its room.
pub(super) struct Party<'r> {
    pub(super) room: &'r Room,
    own: Player,
    /// Who is in the ticket.
    said: BTreeSet<UserId>,
    /// When others may be said, after it was refused.
    next: Instant,
}

impl<'r> Party<'r> {
    pub(super) fn new(room: &'r Room, own: UserId, args: &MatchArgs) -> anyhow::Result<Self> {
        let mut own = Player::new(own);
        for (name, value) in &args.attribute {
            own = own.with(Name::parse(name)?, value.clone());
        }
        for role in &args.role {
            own.roles.push(Name::parse(role)?);
        }
        own.blocks.clone_from(&args.block);
        let said = room.members().into_iter().collect();
        let next = Instant::now();
        Ok(Self {
            room,
            own,
            said,
            next,
        })
    }

    /// The others of the party, as they are submitted.
    pub(super) fn others(&self) -> impl Iterator<Item = Player> {
        let others = self.said.iter().filter(|user| **user != self.own.user);
        others.cloned().map(Player::new)
    }

    /// Waits until others are in the room than in the ticket.
    pub(super) async fn changed(&self) {
        while self.members() == self.said {
            if self.room.next_event().await.is_none() {
                // The ticket waits on with whom it has.
                return std::future::pending().await;
            }
        }
        sleep_until(self.next).await;
    }

    /// Says who is in the party now. While its users are asked whether they are ready, and as long as the pool's rules have
    /// no place for so many, it is refused, and said again a little later.
    pub(super) async fn say(&mut self, ticket: &Ticket) -> Result<(), Error> {
        let now = self.members();
        let before = std::mem::replace(&mut self.said, now);
        let players = self.others().chain([self.own.clone()]);
        let said = ticket.change_party(self.room, players.collect::<Vec<_>>());
        if let Err(error) = said.await {
            self.said = before;
            self.next = Instant::now() + RETRY_DELAY;
            return Err(error);
        }
        Ok(())
    }

    fn members(&self) -> BTreeSet<UserId> {
        self.room.members().into_iter().collect()
    }
}

const RETRY_DELAY: Duration = Duration::from_secs(1);
