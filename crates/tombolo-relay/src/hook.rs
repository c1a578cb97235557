//! Asks an HTTP server about users that nobody else knows, on a thread beside the shards.
//!
//! Each question is a POST of JSON, and each answer is JSON too. Both are signed: the header
//! `Tombolo-Signature` is `sha256=` and, in hex, the HMAC-SHA256 of a fixed text and the body, under a
//! key that both sides know. The nonce of a question comes back in its answer, so that no answer can
//! be used twice. Whatever goes wrong, the user does not come in. `docs/turn-server.md` has the whole
//! contract.

mod message;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use ring::hmac;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};
use tombolo_turn::server::{AuthError, AuthId, Credential, FiveTuple};
use tracing::{debug, warn};

use self::message::{Answer, SIGNATURE};
use crate::{
    link::{Control, ShardLink},
    repeated::Repeated,
    stats::{HookCounters, HookFailure},
};

/// An HTTP server that knows users.
#[derive(Clone)]
pub struct HookConfig {
    /// Where questions are posted; without TLS only on this machine.
    pub url: String,
    /// The key that signs questions and answers, at least 16 bytes.
    pub key: Vec<u8>,
    /// How long an answer may take, connecting included. 3 s by default.
    pub timeout: Duration,
    /// Questions under way at once, each of which may take a connection. 64 by default.
    pub requests_max: usize,
    /// Whom to trust over TLS.
    pub tls: Arc<ClientConfig>,
}

impl HookConfig {
    /// Makes a configuration with the default bounds.
    pub fn new(url: impl Into<String>, key: Vec<u8>, tls: Arc<ClientConfig>) -> Self {
        Self {
            url: url.into(),
            key,
            timeout: Duration::from_secs(3),
            requests_max: 64,
            tls,
        }
    }

    fn uri(&self) -> Result<Uri, HookError> {
        let uri: Uri = self.url.parse().map_err(|_| HookError::Url)?;
        let host = uri.host().ok_or(HookError::Url)?;
        let ip = host.trim_start_matches('[').trim_end_matches(']');
        let is_local = host == "localhost" || ip.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => Ok(uri),
            Some("http") if is_local => Ok(uri),
            Some("http") => Err(HookError::NotPrivate),
            _ => Err(HookError::Url),
        }
    }
}

/// Shows no secret.
impl fmt::Debug for HookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookConfig")
            .field("url", &self.url)
            .field("timeout", &self.timeout)
            .field("requests_max", &self.requests_max)
            .finish_non_exhaustive()
    }
}

/// Why users cannot be asked about.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HookError {
    /// The URL is none.
    #[error("the hook's URL must be such as https://example.org/turn")]
    Url,
    /// Passwords would travel in the clear.
    #[error("the hook's URL must begin with https:// unless it is on this machine")]
    NotPrivate,
    /// The key can be guessed.
    #[error("the hook's key must have at least {KEY_BYTES_MIN} bytes")]
    Key,
    /// No thread.
    #[error("the system gives no thread")]
    System(#[from] io::Error),
}

/// A thread that asks. It ends when this and its links are gone.
pub(crate) struct Hook {
    questions: mpsc::Sender<Question>,
    counters: Arc<HookCounters>,
}

/// A shard's way to ask.
#[derive(Clone)]
pub(crate) struct HookLink {
    questions: mpsc::Sender<Question>,
    counters: Arc<HookCounters>,
    shard: ShardLink,
}

struct Question {
    id: AuthId,
    realm: String,
    username: String,
    client: FiveTuple,
    asked: Instant,
    shard: ShardLink,
}

impl Hook {
    pub(crate) fn start(
        config: HookConfig,
        counters: Arc<HookCounters>,
    ) -> Result<Self, HookError> {
        let uri = config.uri()?;
        if config.key.len() < KEY_BYTES_MIN {
            return Err(HookError::Key);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (questions, inbox) = mpsc::channel(QUESTIONS_MAX);
        let asker = Arc::new(Asker::new(uri, &config, Arc::clone(&counters)));
        let requests_max = config.requests_max.clamp(1, REQUESTS_MAX);
        thread::Builder::new()
            .name("relay-hook".to_owned())
            .spawn(move || runtime.block_on(attend(inbox, asker, requests_max)))?;
        Ok(Self {
            questions,
            counters,
        })
    }

    pub(crate) fn link(&self, shard: ShardLink) -> HookLink {
        HookLink {
            questions: self.questions.clone(),
            counters: Arc::clone(&self.counters),
            shard,
        }
    }
}

impl HookLink {
    /// Asks; the answer comes as an order to the shard. Says at once where nobody can be asked.
    pub(crate) fn ask(
        &self,
        id: AuthId,
        realm: String,
        username: String,
        client: FiveTuple,
    ) -> Result<(), AuthError> {
        self.counters.asked.add(1);
        let question = Question {
            id,
            realm,
            username,
            client,
            asked: Instant::now(),
            shard: self.shard.clone(),
        };
        self.questions.try_send(question).map_err(|_| {
            self.counters.fail(HookFailure::Overloaded);
            AuthError::Unavailable
        })
    }
}

/// Takes questions in order, some at once.
async fn attend(mut inbox: mpsc::Receiver<Question>, asker: Arc<Asker>, requests_max: usize) {
    let slots = Arc::new(Semaphore::new(requests_max));
    while let Some(question) = inbox.recv().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let asker = Arc::clone(&asker);
        tokio::spawn(async move {
            asker.handle(question).await;
            drop(slot);
        });
    }
    // Nobody asks any more; those who did get their answers.
    let all = u32::try_from(requests_max).unwrap_or(u32::MAX);
    let _ = slots.acquire_many(all).await;
}

/// What questions are asked with.
struct Asker {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    key: hmac::Key,
    timeout: Duration,
    counters: Arc<HookCounters>,
    unreached: Mutex<Repeated>,
}

impl Asker {
    fn new(uri: Uri, config: &HookConfig, counters: Arc<HookCounters>) -> Self {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(&config.tls))
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(config.requests_max)
            .build(connector);
        Self {
            client,
            uri,
            key: hmac::Key::new(hmac::HMAC_SHA256, &config.key),
            timeout: config.timeout,
            counters,
            unreached: Mutex::default(),
        }
    }

    async fn handle(&self, question: Question) {
        let result = self.answer(&question).await;
        let result = match result {
            Ok(Some(credential)) => {
                self.counters.admitted.add(1);
                Ok(credential)
            }
            Ok(None) => {
                self.counters.refused.add(1);
                Err(AuthError::Refused)
            }
            Err(failure) => {
                self.counters.fail(failure);
                debug!(client = %question.client.client, reason = %failure, "a user could not be asked about");
                Err(AuthError::Unavailable)
            }
        };
        let id = question.id;
        // A shard that takes no orders gives the question up by itself after a while.
        let _ = question
            .shard
            .control(Control::Authenticated { id, result });
    }

    /// `None` where the user is refused.
    async fn answer(&self, question: &Question) -> Result<Option<Credential>, HookFailure> {
        let left = self.timeout.checked_sub(question.asked.elapsed());
        let left = left.ok_or(HookFailure::Overloaded)?;
        tokio::time::timeout(left, self.exchange(question))
            .await
            .map_err(|_| HookFailure::TimedOut)?
    }

    async fn exchange(&self, question: &Question) -> Result<Option<Credential>, HookFailure> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| HookFailure::Unreachable)?;
        let nonce = message::hex(&nonce);
        let body = message::question(
            &question.realm,
            &question.username,
            question.client,
            unix_now(),
            &nonce,
        );
        let signature = message::sign(&self.key, message::QUESTION, &body);
        let signature = HeaderValue::try_from(signature).map_err(|_| HookFailure::Unreachable)?;
        let request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE, signature)
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| HookFailure::Unreachable)?;
        let response = self.client.request(request).await.map_err(|error| {
            self.note_unreached(&error);
            HookFailure::Unreachable
        })?;
        // Whoever is in between can refuse anyway, so this needs no signature.
        match response.status() {
            StatusCode::OK => {}
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(HookFailure::Status),
        }
        let signature = response.headers().get(SIGNATURE).cloned();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|_| HookFailure::Malformed)?;
        let body = body.to_bytes();
        let signature = signature.ok_or(HookFailure::Signature)?;
        if !message::is_signed(&self.key, message::ANSWER, &body, signature.as_bytes()) {
            return Err(HookFailure::Signature);
        }
        Answer::parse(&body, &nonce).map(Answer::into_credential)
    }

    /// Strangers have it asked as often as they like.
    fn note_unreached(&self, error: &dyn fmt::Display) {
        let mut unreached = self
            .unreached
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = unreached.count(Instant::now()) {
            warn!(count, %error, "the hook cannot be reached");
        }
    }
}

fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Shows who asked, in the form that answers and logs have.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Questions that may wait for the thread.
const QUESTIONS_MAX: usize = 4096;
/// More connections than any server of users likes.
const REQUESTS_MAX: usize = 4096;
/// More than any answer has.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// As many as a key of 128 bits.
const KEY_BYTES_MIN: usize = 16;
/// How long a connection waits for the next question.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
