//! A party that looks for a match: who is in its room is in its ticket, for as long as that waits.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tombolo_client::{Error, ErrorCode, Name, Player, Room, Ticket, UserId};

use crate::cli::MatchArgs;
use crate::output::code_word;

/// The party of this device's user, who owns its room.
pub(super) struct Party<'r> {
    pub(super) room: &'r Room,
    own: Player,
    /// Who is in the ticket.
    said: BTreeSet<UserId>,
    /// When others may be said, after it was refused.
    next: Instant,
    /// Who was refused and would be again.
    hopeless: Option<BTreeSet<UserId>>,
    /// As which it was told that others were refused.
    told: BTreeSet<String>,
}

/// Why others than are in the ticket were refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) reason: String,
    /// Whom they were.
    pub(super) members: Vec<UserId>,
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
            hopeless: None,
            told: BTreeSet::new(),
        })
    }

    /// The others of the party, as they are submitted.
    pub(super) fn others(&self) -> impl Iterator<Item = Player> {
        let others = self.said.iter().filter(|user| **user != self.own.user);
        others.cloned().map(Player::new)
    }

    /// Waits until others are in the room than in the ticket.
    pub(super) async fn changed(&self) {
        while self.is_said(&self.members()) {
            if self.room.next_event().await.is_none() {
                // The ticket waits on with whom it has.
                return std::future::pending().await;
            }
        }
        sleep_until(self.next).await;
    }

    /// Whether there is nothing to say of those who are in the room.
    fn is_said(&self, members: &BTreeSet<UserId>) -> bool {
        *members == self.said || self.hopeless.as_ref() == Some(members)
    }

    /// Says who is in the party now. What is refused while its users are asked whether they are ready, or when the node cannot
    /// take it, is said again a little later; else only once others are in the room. The first refusal of a kind is returned.
    pub(super) async fn say(&mut self, ticket: &Ticket) -> Result<(), Option<Refusal>> {
        let now = self.members();
        let before = std::mem::replace(&mut self.said, now.clone());
        let players = self.others().chain([self.own.clone()]);
        let said = ticket.change_party(self.room, players.collect::<Vec<_>>());
        let Err(error) = said.await else {
            self.hopeless = None;
            return Ok(());
        };
        self.said = before;
        self.next = Instant::now() + RETRY_DELAY;
        if !may_pass(&error) {
            self.hopeless = Some(now.clone());
        }
        let code = error
            .code()
            .map_or_else(|| "unreachable".to_owned(), code_word);
        let is_first = self.told.insert(code.clone());
        Err(is_first.then(|| Refusal {
            code,
            reason: error.to_string(),
            members: now.into_iter().collect(),
        }))
    }

    fn members(&self) -> BTreeSet<UserId> {
        self.room.members().into_iter().collect()
    }
}

/// Whether the same may be taken later.
fn may_pass(error: &Error) -> bool {
    error.is_temporary() || error.is_unsure() || error.code() == Some(ErrorCode::Conflict)
}

const RETRY_DELAY: Duration = Duration::from_secs(1);
