//! A pool of tickets: devices look for matches of two, and a reader of the pool's log keeps books of every ticket.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::ChaCha12Rng;
use sha2::{Digest as _, Sha256};
use tombolo_engine::{Key, Local, Log as _, TailEvent};
use tombolo_match::{EndReason, Entry, Event, Formed, MatchId, Rules, TicketId};
use tombolo_services::MatchPool;

use super::device::{Device, End, TicketName, Violation};
use super::feed::Feed;
use super::tally::Tally;
use super::trace::note;

/// What devices do with their tickets, and what became of those.
pub(crate) struct Pool {
    rng: ChaCha12Rng,
    feed: Feed,
    pool: tombolo_match::Pool,
    books: BTreeMap<TicketName, Standing>,
}

/// How a ticket stands, by the books.
#[derive(Clone, Debug, PartialEq)]
enum Standing {
    Waits,
    Matched(MatchId, Vec<String>),
    Ended(EndReason),
}

impl Pool {
    pub(crate) async fn new(local: &Local, rng: ChaCha12Rng) -> Result<Self, Violation> {
        let digest: [u8; 32] = Sha256::digest(DUEL).into();
        let digest: String = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let key = Key::new(["pool", "duel", &digest]).map_err(|error| error.to_string())?;
        let tail = local.tail(&key, None).await;
        let rules = Rules::parse(DUEL).map_err(|error| error.to_string())?;
        Ok(Self {
            rng,
            feed: Feed::new(tail.map_err(|error| error.to_string())?),
            pool: tombolo_match::Pool::new(rules),
            books: BTreeMap::new(),
        })
    }

    /// The pool as nodes are configured with it.
    pub(crate) fn config() -> Result<MatchPool, Violation> {
        MatchPool::parse(DUEL).map_err(|error| error.to_string())
    }

    /// A device looks for a match, or thinks better of it.
    pub(crate) fn act(&mut self, devices: &mut [Device]) {
        let index = self.rng.random_range(0..devices.len());
        let device = &mut devices[index];
        let dice = self.rng.random_range(0..8);
        if device.seeking.ticket().is_none() && dice < 4 || dice == 0 {
            let user = device.name.clone();
            device.seeking.turn(&user);
        }
    }

    /// Reads what was appended since, and looks whether devices were told so.
    pub(crate) fn read(&mut self, devices: &[Device]) -> Result<(), Violation> {
        self.feed.read();
        let events = self.feed.take();
        if events.is_empty() {
            return Ok(());
        }
        for event in events {
            match event {
                TailEvent::Entry { entry, .. } => {
                    let (_, entry) = Entry::decode(&entry).map_err(|error| error.to_string())?;
                    note(|| format!("pool: {entry:?}"));
                    for event in self.pool.apply(&entry).events {
                        self.on_event(event)?;
                    }
                }
                TailEvent::Synced => {}
                TailEvent::Snapshot { .. } | TailEvent::Reset | TailEvent::Retired { .. } => {
                    return Err("the pool's log is not what was appended".to_owned());
                }
            }
        }
        devices
            .iter()
            .try_for_each(|device| self.check_told(device))
    }

    fn on_event(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Queued { ticket, .. } => {
                let before = self.books.insert(ticket.0, Standing::Waits);
                if let Some(before) = before.filter(|before| *before != Standing::Waits) {
                    return Err(format!("{ticket:?} waits, and was {before:?}"));
                }
            }
            Event::Matched(formed) => self.on_matched(&formed)?,
            Event::Failed { requeued, .. } => {
                for ticket in requeued {
                    self.books.insert(ticket.0, Standing::Waits);
                }
            }
            Event::Ended { ticket, reason } => self.leave(ticket, Standing::Ended(reason))?,
            Event::Changed { .. }
            | Event::Dropped { .. }
            | Event::Returned { .. }
            | Event::Asked { .. }
            | Event::Accepted { .. }
            | Event::Refused { .. }
            | Event::BackfillOpened { .. }
            | Event::BackfillEnded { .. } => {}
        }
        Ok(())
    }

    fn on_matched(&mut self, formed: &Formed) -> Result<(), Violation> {
        let users: Vec<_> = formed.users().map(ToString::to_string).collect();
        if users.len() != 2 || users[0] == users[1] {
            return Err(format!("{users:?} are a match"));
        }
        for party in formed.parties() {
            self.leave(party.ticket, Standing::Matched(formed.id, users.clone()))?;
        }
        Ok(())
    }

    /// A ticket that waits does so no more.
    fn leave(&mut self, ticket: TicketId, standing: Standing) -> Result<(), Violation> {
        match self.books.insert(ticket.0, standing) {
            Some(Standing::Waits) => Ok(()),
            before => {
                let now = self.books.get(&ticket.0);
                Err(format!("{ticket:?} is {now:?}, and was {before:?}"))
            }
        }
    }

    /// What was acknowledged is in the books, and every end that a device was told.
    fn check_told(&self, device: &Device) -> Result<(), Violation> {
        let name = &device.name;
        if let Some((ticket, true)) = device.seeking.ticket()
            && !self.books.contains_key(&ticket)
        {
            return Err(format!("{name}: its ticket was acknowledged, and is lost"));
        }
        for (ticket, end) in &device.seeking.ends {
            let standing = self.books.get(ticket);
            let is_so = match (end, standing) {
                (End::Found(_, others), Some(Standing::Matched(_, users))) => others == users,
                (End::Cancelled, Some(Standing::Ended(EndReason::Cancelled)))
                | (End::Gone, Some(Standing::Ended(EndReason::Gone)))
                | (End::Past, Some(Standing::Matched(..) | Standing::Ended(_))) => true,
                _ => false,
            };
            if !is_so {
                return Err(format!(
                    "{name}: told that its ticket is {end:?}; it is {standing:?}"
                ));
            }
        }
        Ok(())
    }

    /// At rest every ticket waits or its device knows its end, those of a match know the same, and nobody waits
    /// who has somebody to play with.
    pub(crate) fn check(&self, devices: &[Device], tally: &mut Tally) -> Result<(), Violation> {
        let mut rooms: BTreeMap<MatchId, &str> = BTreeMap::new();
        for device in devices {
            self.check_told(device)?;
            let name = &device.name;
            if let Some((ticket, is_kept)) = device.seeking.ticket() {
                let standing = self.books.get(&ticket);
                if !is_kept || standing != Some(&Standing::Waits) {
                    return Err(format!(
                        "{name}: its ticket is {standing:?}, and it was not told"
                    ));
                }
            }
            for (ticket, end) in &device.seeking.ends {
                if let (End::Found(room, _), Some(Standing::Matched(id, _))) =
                    (end, self.books.get(ticket))
                {
                    tally.matched += 1;
                    let known = rooms.entry(*id).or_insert(room);
                    if known != room {
                        return Err(format!("{name}: {id:?} is in {room}, and in {known}"));
                    }
                }
            }
        }
        let ids: std::collections::BTreeSet<_> = rooms.values().collect();
        if ids.len() != rooms.len() {
            return Err(format!("matches share rooms: {rooms:?}"));
        }
        for (ticket, standing) in &self.books {
            let mut owners = devices.iter().map(|device| &device.seeking);
            let is_known = owners.any(|seeking| {
                seeking.ends.contains_key(ticket)
                    || seeking.ticket().is_some_and(|(own, _)| own == *ticket)
            });
            if !is_known {
                return Err(format!("{standing:?} is a ticket that nobody knows"));
            }
        }
        match self.pool.waiting_count() {
            0 | 1 => Ok(()),
            waiting => Err(format!("{waiting} wait for a match, and nobody makes it")),
        }
    }
}

/// Matches of two, whoever they are.
const DUEL: &str = r#"
name = "duel"
players = { min = 2, max = 2 }
"#;
