//! A match that runs and asks for more users.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tombolo_match::{BackfillId, Name, Player, Venue};
use tombolo_wire::UserId;
use tombolo_wire::v1::{self, ErrorCode, match_request, match_response};

use super::{about, ask, other_question};
use crate::device::Device;
use crate::error::Error;

/// A match that runs and asks for more users; see [`Match::backfill`](super::Match::backfill). Its lease
/// is renewed for as long as it is kept; dropping it ends the asking.
#[derive(Debug)]
pub struct Backfill {
    device: Device,
    state: Arc<BackfillState>,
    /// As the application heard last by [`Self::changed`], or has said itself.
    known: Mutex<BackfillStatus>,
    /// The last generation of which the application knows, by whatever way.
    told: AtomicU32,
    /// Where the match is played, as is said with the teams.
    venue: Mutex<Venue>,
    renewal: AbortHandle,
    lease: Duration,
}

/// How it stands with a match that asks for more users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackfillStatus {
    /// Grows whenever users have joined, or the teams were told anew.
    pub generation: u32,
    /// Why it asks for nobody any more: `closed`, `expired`, `filled`, or `lost` when nobody knows; `None` while it asks.
    pub ended: Option<String>,
}

/// What the device keeps of it.
#[derive(Debug)]
pub(super) struct BackfillState {
    pool: String,
    id: BackfillId,
    status: watch::Sender<BackfillStatus>,
}

impl BackfillState {
    pub(super) fn tell(&self, status: &v1::BackfillStatus) {
        self.become_what(parse(status));
    }

    pub(super) fn end(&self) {
        self.end_as("closed");
    }

    fn end_as(&self, reason: &str) {
        self.become_what(BackfillStatus {
            generation: 0,
            ended: Some(reason.to_owned()),
        });
    }

    /// What has ended stays so; and an answer that was waited for may be older than what was told meanwhile.
    fn become_what(&self, next: BackfillStatus) {
        self.status.send_if_modified(|status| {
            let is_new = next.ended.is_some() || next.generation > status.generation;
            let is_news = status.ended.is_none() && is_new;
            if is_news {
                status.generation = status.generation.max(next.generation);
                status.ended = next.ended;
            }
            is_news
        });
    }
}

impl Backfill {
    pub(super) fn new(
        device: Device,
        state: Arc<BackfillState>,
        venue: Venue,
        lease: Duration,
    ) -> Self {
        let (session, known) = (device.0.session.clone(), Arc::clone(&state));
        let renew = async move {
            loop {
                tokio::time::sleep(lease / RENEWALS_PER_LEASE).await;
                let renew = match_request::Kind::Renew(v1::RenewBackfill {
                    id: on_wire(known.id),
                    lease_ms: millis(lease),
                });
                match ask(&session, &known.pool, renew).await {
                    // With this session it may not have been told what has become of it meanwhile.
                    Ok(match_response::Result::Backfill(status)) => known.tell(&status),
                    Err(error) if error.code() == Some(ErrorCode::NoSuchThing) => {
                        return known.end_as("lost");
                    }
                    // One that fails is followed by others before the lease ends.
                    Ok(_) | Err(_) => {}
                }
            }
        };
        Self {
            renewal: tokio::spawn(renew).abort_handle(),
            device,
            state,
            known: Mutex::default(),
            told: AtomicU32::default(),
            venue: Mutex::new(venue),
            lease,
        }
    }

    /// Asks the node; what it has refused is not its to close.
    pub(super) async fn open(&self, open: match_request::Kind) -> Result<(), Error> {
        let answer = self.ask(open).await;
        if answer.as_ref().is_err_and(Error::is_final) {
            self.state.end();
        }
        answer
    }

    /// Says how the teams are. The application knows how it stands by that.
    async fn ask(&self, open: match_request::Kind) -> Result<(), Error> {
        let answer = ask(&self.device.0.session, &self.state.pool, open).await?;
        let match_response::Result::Backfill(status) = answer else {
            return Err(other_question());
        };
        let known = parse(&status);
        self.note_told(&known);
        *self.known() = known;
        self.state.tell(&status);
        Ok(())
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> BackfillStatus {
        let status = self.state.status.borrow().clone();
        self.note_told(&status);
        status
    }

    /// Waits until it stands otherwise than this said last, or the teams were told; `None` once it has said that it
    /// has ended. Losing the future loses nothing; let one task wait.
    pub async fn changed(&self) -> Option<BackfillStatus> {
        let mut changes = self.state.status.subscribe();
        let is_other = |status: &BackfillStatus| {
            let known = self.known();
            known.ended.is_some() || *known != *status
        };
        let status = changes.wait_for(is_other).await.ok()?.clone();
        self.note_told(&status);
        let known = std::mem::replace(&mut *self.known(), status.clone());
        known.ended.is_none().then_some(status)
    }

    /// Says who hosts the match from now on: with the next [`Self::update`], and to those who join after that. One who is in
    /// none of the teams hosts nothing.
    pub fn set_host(&self, host: Option<UserId>) {
        self.venue().host = host;
    }

    /// Says how the teams are now, after users have left; with those who had joined when [`Backfill::status`] or
    /// [`Backfill::changed`] told how it stands.
    ///
    /// # Errors
    /// With code `Conflict` when users have joined since: look at [`Backfill::status`] and say it anew.
    pub async fn update(&self, teams: Vec<(Name, Vec<Vec<Player>>)>) -> Result<(), Error> {
        let after = self.told.load(Ordering::Relaxed);
        let venue = self.venue().clone();
        let update = open(self.state.id, after, &teams, &venue, self.lease);
        self.ask(update).await
    }

    fn note_told(&self, status: &BackfillStatus) {
        self.told.fetch_max(status.generation, Ordering::Relaxed);
    }

    fn venue(&self) -> MutexGuard<'_, Venue> {
        self.venue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, BackfillStatus> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Backfill {
    fn drop(&mut self) {
        self.renewal.abort();
        let shared = &self.device.0;
        let mut known = shared.matchmaker.lock();
        let of_match = known.backfills.get(&self.state.id);
        if of_match.is_some_and(|state| Arc::ptr_eq(state, &self.state)) {
            known.backfills.remove(&self.state.id);
        }
        drop(known);
        if self.status().ended.is_none() {
            let id = on_wire(self.state.id);
            let close = match_request::Kind::Close(v1::CloseBackfill { id });
            shared.session.ask_aside(about(&self.state.pool, close));
        }
    }
}

/// Has events of a running match told, before it asks. It asks once at a time.
pub(super) fn register(
    device: &Device,
    pool: &str,
    id: BackfillId,
) -> Result<Arc<BackfillState>, Error> {
    let state = Arc::new(BackfillState {
        pool: pool.to_owned(),
        id,
        status: watch::Sender::default(),
    });
    let mut known = device.0.matchmaker.lock();
    let before = known.backfills.get(&id);
    if before.is_some_and(|before| before.status.borrow().ended.is_none()) {
        return Err(Error::local("this device asks for more users already"));
    }
    known.backfills.insert(id, Arc::clone(&state));
    Ok(state)
}

pub(super) fn open(
    id: BackfillId,
    after: u32,
    teams: &[(Name, Vec<Vec<Player>>)],
    venue: &Venue,
    lease: Duration,
) -> match_request::Kind {
    let teams = teams.iter().map(|(name, parties)| {
        let parties = parties.iter().map(|players| v1::BackfillParty {
            players: players.iter().map(v1::MatchPlayer::from).collect(),
        });
        v1::BackfillTeam {
            name: name.to_string(),
            parties: parties.collect(),
        }
    });
    match_request::Kind::Backfill(v1::OpenBackfill {
        id: on_wire(id),
        after,
        teams: teams.collect(),
        lease_ms: millis(lease),
        venue: Some(v1::MatchVenue {
            region: text(venue.region.as_ref()),
            host: text(venue.host.as_ref()),
        }),
    })
}

/// Nothing is empty.
fn text(name: Option<&impl ToString>) -> String {
    name.map_or_else(String::new, ToString::to_string)
}

fn parse(status: &v1::BackfillStatus) -> BackfillStatus {
    BackfillStatus {
        generation: status.generation,
        ended: (!status.ended.is_empty()).then(|| status.ended.clone()),
    }
}

fn on_wire(id: BackfillId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

fn millis(lease: Duration) -> u32 {
    u32::try_from(lease.as_millis()).unwrap_or(u32::MAX)
}

/// How often a lease is renewed before it would end.
const RENEWALS_PER_LEASE: u32 = 3;
