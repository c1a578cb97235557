//! A device that submits ticket after ticket, over whichever node is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tombolo_match::TicketId;
use tombolo_wire::v1::{
    self, ErrorCode, JoinMode, match_attribute, match_event, match_request, match_response,
    request, response, server_frame,
};

use crate::fanout::bot::{Network, Sender};

/// What all devices share.
pub(super) struct Shared {
    /// How many tickets are still to be submitted.
    left: AtomicU64,
    /// The nodes that serve now; those that don't are `None`.
    networks: watch::Receiver<Vec<Option<Arc<Network>>>>,
    told: Mutex<Told>,
    seed: u64,
}

/// A match, as devices are told it.
pub(super) type MatchId = [u8; 16];

/// What nodes told devices.
#[derive(Default)]
pub(super) struct Told {
    /// Tickets that a node said it has taken.
    pub(super) acknowledged: Vec<TicketId>,
    /// The match of each ticket whose device was told of one.
    pub(super) matches: HashMap<TicketId, MatchId>,
    /// Those that were told of two different ones.
    pub(super) twice: u64,
    /// From submitting until the match was told.
    pub(super) waits: Vec<Duration>,
    /// Tickets that ended without a match, by reason.
    pub(super) ended: HashMap<String, u64>,
    /// Tickets that were over when their device came back to them.
    pub(super) over: u64,
    /// What nodes refused, by code.
    pub(super) refused: HashMap<&'static str, u64>,
    /// How often a device came into the room of its match.
    pub(super) rooms_joined: u64,
    /// What nodes refused of joining and leaving, by code.
    pub(super) rooms_refused: HashMap<&'static str, u64>,
    pub(super) reconnects: u64,
}

impl Shared {
    pub(super) fn new(
        tickets: u64,
        seed: u64,
        networks: watch::Receiver<Vec<Option<Arc<Network>>>>,
    ) -> Self {
        Self {
            left: AtomicU64::new(tickets),
            networks,
            told: Mutex::default(),
            seed,
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// The node that serves at a place now.
    fn node(&self, at: usize) -> Option<Arc<Network>> {
        let networks = self.networks.borrow();
        networks[at % networks.len()].clone()
    }

    /// Waits until no node serves at a place. A real device notices it by itself, within a second.
    async fn gone(&self, at: usize) {
        let mut networks = self.networks.clone();
        let is_gone =
            |networks: &Vec<Option<Arc<Network>>>| networks[at % networks.len()].is_none();
        if networks.wait_for(is_gone).await.is_err() {
            std::future::pending().await
        }
        sleep(NOTICED_AFTER).await;
    }

    /// Nobody submits any more.
    pub(super) fn stop(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// A ticket less to submit, if there is one.
    fn take(&self) -> bool {
        let order = Ordering::Relaxed;
        let taken = self
            .left
            .fetch_update(order, order, |left| left.checked_sub(1));
        taken.is_ok()
    }
}

/// A device.
pub(super) struct Seeker {
    pub(super) shared: Arc<Shared>,
    pub(super) number: usize,
}

/// A ticket that has not ended, as far as its device knows.
struct Open {
    id: TicketId,
    since: Instant,
    is_acknowledged: bool,
}

/// What a device hears.
enum Heard {
    Answer(u64, Option<response::Result>),
    Match(TicketId, match_event::Kind),
}

impl Seeker {
    /// Submits tickets as long as there are some left, and waits for their matches.
    pub(super) async fn seek(self) {
        let mut dice = ChaCha8Rng::seed_from_u64(self.shared.seed);
        dice.set_stream(self.number as u64);
        let skill = dice.random_range(0.0..3000.0);
        let mut open = None;
        let mut attempt = self.number;
        loop {
            if open.is_none() && self.shared.left() == 0 {
                return;
            }
            let node = self.shared.node(attempt);
            let at = attempt;
            attempt += 1;
            let user = format!("seeker-{}", self.number);
            let entered = async { Some(node?.enter(&user, self.number).await) };
            let entered = timeout(ENTER_TIMEOUT, entered).await;
            let Ok(Some(Ok((says, hears)))) = entered else {
                sleep(PAUSE.mul_f64(dice.random())).await;
                continue;
            };
            let (sender, mut heard) = mpsc::unbounded_channel();
            let listening = tokio::spawn(hears.listen(move |body| {
                // When nobody hears it the device has given its connection up.
                if let Some(heard) = parse(body) {
                    _ = sender.send(heard);
                }
            }));
            tokio::select! {
                () = self.over(&says, &mut heard, &mut open, skill, &mut dice) => {}
                () = self.shared.gone(at) => {}
            }
            listening.abort();
            self.shared.told().reconnects += 1;
        }
    }

    /// Goes on over one connection until that ends, or nothing is left to do.
    async fn over(
        &self,
        says: &Sender,
        heard: &mut mpsc::UnboundedReceiver<Heard>,
        open: &mut Option<Open>,
        skill: f64,
        dice: &mut ChaCha8Rng,
    ) {
        loop {
            if open.is_none() {
                if !self.shared.take() {
                    return;
                }
                let id: u128 = dice.random();
                *open = Some(Open {
                    id: TicketId(id.to_be_bytes()),
                    since: Instant::now(),
                    is_acknowledged: false,
                });
            }
            let Some(ticket) = open.as_ref() else {
                return;
            };
            let submit = self.submit(ticket.id, skill);
            let Ok(asked) = says.request(submit).await else {
                return;
            };
            // As soon as its ticket is over: with the next one.
            loop {
                let Ok(Some(news)) = timeout(SILENCE_MAX, heard.recv()).await else {
                    return;
                };
                match self.hear(news, asked, open) {
                    Next::Listen => {}
                    Next::Submit => break,
                    Next::Play(room) => {
                        if play(says, room).await.is_err() {
                            return;
                        }
                        break;
                    }
                    Next::Retry => {
                        sleep(PAUSE.mul_f64(1.0 + dice.random::<f64>())).await;
                        break;
                    }
                }
            }
        }
    }

    fn hear(&self, news: Heard, asked: u64, open: &mut Option<Open>) -> Next {
        let Some(ticket) = open.as_mut() else {
            return Next::Submit;
        };
        let mut told = self.shared.told();
        match news {
            Heard::Answer(
                id,
                Some(response::Result::Matchmaker(v1::MatchResponse {
                    result: Some(match_response::Result::Status(_)),
                })),
            ) if id == asked => {
                if !std::mem::replace(&mut ticket.is_acknowledged, true) {
                    told.acknowledged.push(ticket.id);
                }
                Next::Listen
            }
            Heard::Answer(id, Some(response::Result::Failure(error))) if id == asked => {
                let code = error.code();
                *told.refused.entry(code.as_str_name()).or_default() += 1;
                if code == ErrorCode::Conflict {
                    // It has ended while its device was elsewhere.
                    told.over += 1;
                    *open = None;
                    return Next::Submit;
                }
                Next::Retry
            }
            Heard::Answer(_, Some(response::Result::Failure(error))) => {
                let code = error.code().as_str_name();
                *told.rooms_refused.entry(code).or_default() += 1;
                Next::Listen
            }
            Heard::Answer(_, Some(response::Result::Joined(_))) => {
                told.rooms_joined += 1;
                Next::Listen
            }
            Heard::Answer(..) => Next::Listen,
            Heard::Match(id, match_event::Kind::Found(found)) => {
                if let Ok(told_id) = MatchId::try_from(found.id.as_ref()) {
                    let before = told.matches.insert(id, told_id);
                    told.twice += u64::from(before.is_some_and(|before| before != told_id));
                }
                if id != ticket.id {
                    return Next::Listen;
                }
                told.waits.push(ticket.since.elapsed());
                *open = None;
                Next::Play(found.room)
            }
            Heard::Match(id, match_event::Kind::Ended(ended)) if id == ticket.id => {
                *told.ended.entry(ended.reason).or_default() += 1;
                *open = None;
                Next::Submit
            }
            Heard::Match(..) => Next::Listen,
        }
    }

    fn submit(&self, id: TicketId, skill: f64) -> request::Kind {
        let player = v1::MatchPlayer {
            user: format!("seeker-{}", self.number),
            attributes: vec![v1::MatchAttribute {
                name: "skill".to_owned(),
                value: Some(match_attribute::Value::Number(skill)),
            }],
            ..v1::MatchPlayer::default()
        };
        let submit = v1::SubmitTicket {
            id: Bytes::copy_from_slice(&id.0),
            players: vec![player],
            grace_ms: GRACE_MS,
            ..v1::SubmitTicket::default()
        };
        request::Kind::Matchmaker(v1::MatchRequest {
            pool: super::POOL.to_owned(),
            kind: Some(match_request::Kind::Submit(submit)),
        })
    }
}

/// What concerns the device's tickets.
fn parse(body: server_frame::Body) -> Option<Heard> {
    if let server_frame::Body::Response(answer) = body {
        return Some(Heard::Answer(answer.id, answer.result));
    }
    let server_frame::Body::Matchmaker(event) = body else {
        return None;
    };
    let id = event.ticket.as_ref().try_into().ok()?;
    Some(Heard::Match(TicketId(id), event.kind?))
}

/// What a device does next.
enum Next {
    Listen,
    Submit,
    /// Go into the room of a match, and submit.
    Play(String),
    Retry,
}

/// Takes a device's seat in the room of its match, and leaves: a short match. The room goes with the last one.
async fn play(says: &Sender, room: String) -> anyhow::Result<()> {
    let join = v1::Join {
        room: room.clone(),
        mode: JoinMode::Join.into(),
        ..v1::Join::default()
    };
    says.request(request::Kind::Join(join)).await?;
    says.request(request::Kind::Leave(v1::Leave { room }))
        .await?;
    Ok(())
}

/// How long a user may be away.
const GRACE_MS: u32 = 30_000;

/// How soon a device notices that its node has died.
const NOTICED_AFTER: Duration = Duration::from_millis(500);

const ENTER_TIMEOUT: Duration = Duration::from_secs(5);

/// A device that hears nothing of its ticket for so long asks again over another connection.
const SILENCE_MAX: Duration = Duration::from_secs(15);

const PAUSE: Duration = Duration::from_millis(100);
