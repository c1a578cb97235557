//! Asks an HTTP server of the game before something happens on this node: hooks for those who write their
//! logic elsewhere.
//!
//! Each question is a signed post of JSON, and each answer is JSON too. So many are under way at once, and
//! none for long; whatever goes wrong, what was asked for does not happen. `docs/webhooks.md` has the contract.

mod answer;
mod config;
mod question;
mod slots;
mod stats;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::StatusCode;
use tokio::time::timeout;
use tombolo_services::{
    Admission, Decision, DeviceCommand, Hooks, JoinQuestion, Marking, MatchName, MatchTicket,
    MemberMessage, Reject, Reply, RoomTick, Sight, Verdict, Work,
};
use tombolo_wire::v1::ErrorCode;
use tombolo_wire::{FieldId, UserId};
use tracing::warn;

use self::answer::Answer;
use self::question::{About, Question};
use self::slots::Slots;
use self::stats::Counters;
use crate::hook::Lost;
use crate::post::{self, HttpClient, Place, PostError, unix_now};

pub use self::config::{HookQuestion, HttpHooksConfig};
pub use self::stats::{HookOutcome, HttpHooksStats};

/// A server of the game, and how it has answered so far.
pub(crate) struct HttpHooks {
    node: String,
    life: u64,
    asked: AtomicU64,
    server: RwLock<Arc<Server>>,
    slots: Arc<Slots>,
    /// Of commands: however slow the game is with them, people get into rooms.
    command_slots: Arc<Slots>,
    counters: Counters,
    /// By their outcomes: an outage does not hide a mistake.
    failures: [Lost; HookOutcome::ALL.len()],
}

/// The server, as the configuration has it now.
pub(crate) struct Server {
    config: HttpHooksConfig,
    place: Place,
    client: HttpClient,
}

impl Server {
    pub(crate) fn new(config: &HttpHooksConfig) -> Result<Self, PostError> {
        Ok(Self {
            place: config.place()?,
            client: post::client(&config.tls, config.requests_max, IDLE),
            config: config.clone(),
        })
    }
}

impl HttpHooks {
    pub(crate) fn new(server: Server, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            life: post::life(),
            asked: AtomicU64::new(0),
            server: RwLock::new(Arc::new(server)),
            slots: Arc::default(),
            command_slots: Arc::default(),
            counters: Counters::default(),
            failures: Default::default(),
        }
    }

    /// Questions from now on go there; those under way get their answers.
    pub(crate) fn replace(&self, server: Server) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(server);
    }

    pub(crate) fn stats(&self) -> HttpHooksStats {
        self.counters.stats()
    }

    /// The server, if it wants to be asked that.
    fn server_for(&self, question: HookQuestion) -> Option<Arc<Server>> {
        let server = self.server.read().unwrap_or_else(PoisonError::into_inner);
        let is_asked = server.config.questions.contains(&question);
        is_asked.then(|| Arc::clone(&server))
    }

    /// Asks, and reads what the server says beside its yes.
    async fn ask<T>(
        &self,
        server: &Server,
        user: &UserId,
        question: HookQuestion,
        about: About<'_>,
        read: impl FnOnce(Answer) -> Option<T>,
    ) -> Result<T, Reject> {
        let answered = self.exchange(server, user, question, about).await;
        let decided = answered.and_then(|answer| match answer.refusal() {
            Some(refusal) => refusal.map(Err),
            None => read(answer).map(Ok).ok_or(HookOutcome::Malformed),
        });
        let outcome = match &decided {
            Ok(Ok(_)) => HookOutcome::Allowed,
            Ok(Err(_)) => HookOutcome::Refused,
            Err(failure) => *failure,
        };
        self.counters.add(question, outcome);
        decided.unwrap_or_else(|failure| {
            if let Some(count) = self.failures[failure as usize].count(Instant::now()) {
                let (question, reason) = (question.as_str(), failure.as_str());
                warn!(count, question, reason, "{}", complaint(failure));
            }
            Err(rejected(failure))
        })
    }

    async fn exchange(
        &self,
        server: &Server,
        user: &UserId,
        question: HookQuestion,
        about: About<'_>,
    ) -> Result<Answer, HookOutcome> {
        let slots = match question {
            HookQuestion::Command => &self.command_slots,
            HookQuestion::Join | HookQuestion::Ticket | HookQuestion::Field => &self.slots,
        };
        let slot = slots.take(user, server.config.requests_max);
        let _slot = slot.ok_or(HookOutcome::Overloaded)?;
        let question = Question {
            question: question.as_str(),
            node: &self.node,
            life: self.life,
            number: self.asked.fetch_add(1, Ordering::Relaxed) + 1,
            time: unix_now().as_secs_f64(),
            user: user.as_str(),
            about,
        };
        let body = serde_json::to_vec(&question).map_err(|_| HookOutcome::Malformed)?;
        let asked = timeout(server.config.timeout, post_question(server, body.into()));
        asked.await.unwrap_or(Err(HookOutcome::TimedOut))
    }
}

async fn post_question(server: &Server, body: Bytes) -> Result<Answer, HookOutcome> {
    let request = server.place.post(body);
    let request = request.map_err(|_| HookOutcome::Unreachable)?;
    let response = server.client.request(request).await;
    let response = response.map_err(|_| HookOutcome::Unreachable)?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(HookOutcome::Denied),
        _ => return Err(HookOutcome::Status),
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|_| HookOutcome::Malformed)?;
    Answer::parse(&body.to_bytes()).ok_or(HookOutcome::Malformed)
}

/// What the operator is told: what is wrong with a server that answers is for its owner to mend, and does not pass by
/// itself.
fn complaint(failure: HookOutcome) -> &'static str {
    match failure {
        HookOutcome::Denied => {
            "the game's server does not take this node's questions: has it the same key, and the right time?"
        }
        HookOutcome::Malformed => "the game's server answers what this node does not understand",
        HookOutcome::Status => "the game's server answers with a status other than 200",
        HookOutcome::Overloaded => "the game's server is asked as much as it may be",
        HookOutcome::TimedOut
        | HookOutcome::Unreachable
        | HookOutcome::Allowed
        | HookOutcome::Refused => "the game's server does not answer",
    }
}

/// What the device is told that has asked for something: whoever is to blame, it may try again later.
fn rejected(failure: HookOutcome) -> Reject {
    let (code, why) = match failure {
        HookOutcome::Overloaded => (
            ErrorCode::Limit,
            "the game's server is asked as much as it may be: try again later",
        ),
        HookOutcome::Denied | HookOutcome::Malformed | HookOutcome::Status => (
            ErrorCode::Unavailable,
            "the game's server does not answer as it should",
        ),
        HookOutcome::TimedOut
        | HookOutcome::Unreachable
        | HookOutcome::Allowed
        | HookOutcome::Refused => (ErrorCode::Unavailable, "the game's server does not answer"),
    };
    Reject {
        code,
        message: why.to_owned(),
        nodes: Vec::new(),
    }
}

/// The game's own code in this process is asked first; what it lets pass, the server is asked about, as that code
/// has made it. What only code in the process can do is left to it.
pub(crate) struct Chain {
    pub(crate) first: Arc<dyn Hooks>,
    pub(crate) then: Arc<HttpHooks>,
}

impl Hooks for Chain {
    fn authorize_join(&self, question: JoinQuestion) -> Decision {
        let (first, then) = (Arc::clone(&self.first), Arc::clone(&self.then));
        Box::pin(async move {
            first.authorize_join(question.clone()).await?;
            let Some(server) = then.server_for(HookQuestion::Join) else {
                return Ok(());
            };
            let (kind, about) = (HookQuestion::Join, About::join(&question));
            then.ask(&server, &question.user, kind, about, Answer::into_yes)
                .await
        })
    }

    fn authorize_field(&self, user: UserId, field: FieldId, class: u8) -> Marking {
        let (first, then) = (Arc::clone(&self.first), Arc::clone(&self.then));
        Box::pin(async move {
            let passed = first.authorize_field(user.clone(), field.clone(), class);
            let pass = passed.await?;
            let Some(server) = then.server_for(HookQuestion::Field) else {
                return Ok(pass);
            };
            let about = About::Field {
                field: field.as_str(),
                class,
                marks: pass.marks,
            };
            let read = |answer: Answer| answer.into_pass(pass);
            then.ask(&server, &user, HookQuestion::Field, about, read)
                .await
        })
    }

    fn authorize_ticket(&self, user: UserId, pool: MatchName, ticket: MatchTicket) -> Admission {
        let (first, then) = (Arc::clone(&self.first), Arc::clone(&self.then));
        Box::pin(async move {
            let admitted = first.authorize_ticket(user.clone(), pool.clone(), ticket);
            let ticket = admitted.await?;
            let Some(server) = then.server_for(HookQuestion::Ticket) else {
                return Ok(ticket);
            };
            let (kind, about) = (HookQuestion::Ticket, About::ticket(&pool, &ticket));
            let read = |answer: Answer| answer.into_ticket(ticket.clone());
            then.ask(&server, &user, kind, about, read).await
        })
    }

    fn on_command(&self, command: DeviceCommand) -> Reply {
        let (first, then) = (Arc::clone(&self.first), Arc::clone(&self.then));
        Box::pin(async move {
            let answered = first.on_command(command.clone()).await;
            // That code does not know it.
            let is_open = |reject: &Reject| reject.code == ErrorCode::NoSuchThing;
            let server = then.server_for(HookQuestion::Command);
            let Some(server) = server.filter(|_| answered.as_ref().is_err_and(is_open)) else {
                return answered;
            };
            let (kind, about) = (HookQuestion::Command, About::command(&command));
            then.ask(&server, &command.caller, kind, about, Answer::into_reply)
                .await
        })
    }

    fn check_message(&self, message: &MemberMessage<'_>) -> Verdict {
        self.first.check_message(message)
    }

    fn sight(&self, field: &FieldId) -> Option<Box<dyn Sight + Send + Sync>> {
        self.first.sight(field)
    }

    fn tick_interval(&self) -> Option<Duration> {
        self.first.tick_interval()
    }

    fn on_tick(&self, tick: RoomTick) -> Work {
        self.first.on_tick(tick)
    }
}

/// Code that lets everything pass.
pub(crate) struct NoHooks;

impl Hooks for NoHooks {}

/// More than any answer has: the longest reply to a command in base64, and room around it.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

const _: () =
    assert!(tombolo_services::COMMAND_PAYLOAD_BYTES_MAX / 3 * 4 + 4096 < ANSWER_BYTES_MAX);
/// How long a connection waits for the next question: shorter than many servers keep it, so that they don't close
/// it just when it is used.
const IDLE: Duration = Duration::from_secs(4);
