//! The device's token: the one that it has, and where the next one comes from.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tombolo_wire::ServerUrl;

use crate::error::Error;
use crate::http::development_token;

/// How long the application may take to come by a token.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the device's token is good; see [`Device::watch_token`](crate::Device::watch_token).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenState {
    /// As far as is known.
    Good,
    /// It expires soon, and there is no other one yet.
    Expiring,
    /// A node has refused it: the device needs another one before its session can go on elsewhere.
    Refused,
}

/// A token, or why there is none.
type Answer = Result<String, String>;

/// Hands out tokens, or says why it cannot.
pub(crate) type Source =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// What proves who the user is: device tokens (JWT), made by the application's own server.
#[derive(Clone, Default)]
pub(crate) struct Credential {
    /// The first one.
    pub(crate) token: Option<String>,
    pub(crate) issuer: Issuer,
}

/// Who is asked for the next token.
#[derive(Clone, Default)]
pub(crate) enum Issuer {
    /// Nobody: the application gives one when it has one.
    #[default]
    Nobody,
    Source(Source),
    /// The node that is greeted, which is in development mode: for this user.
    Development(String),
}

/// A token is worth a user's name: it is not shown.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.issuer {
            Issuer::Nobody => f.write_str("Token(_)"),
            Issuer::Source(_) => f.write_str("Source(_)"),
            Issuer::Development(user) => f.debug_tuple("Development").field(user).finish(),
        }
    }
}

/// Pauses between attempts, which are over as soon as the application gives another token: also one that
/// it has given since the pause before began, as the attempt in between may have shown the old one.
pub(super) struct Pauses(watch::Receiver<u64>);

impl Pauses {
    /// The next pause.
    pub(super) fn next(&mut self, time: Duration) -> impl Future<Output = ()> + Send + 'static {
        let mut given = self.0.clone();
        self.0.mark_unchanged();
        async move {
            // Either way it is over.
            _ = tokio::time::timeout(time, given.changed()).await;
        }
    }
}

/// The device's token, whoever needs it.
pub(crate) struct Tokens {
    issuer: Issuer,
    /// One question at a time: whoever waits for it has the same answer. With each, how many tokens the application had
    /// given before.
    asking: tokio::sync::Mutex<JoinSet<(u64, Answer)>>,
    held: Mutex<Option<String>>,
    /// Of the one that is held: what is said of one before it changes nothing, so this is changed under its lock.
    state: watch::Sender<TokenState>,
    /// How many the application has given; tells when it gives one.
    given: watch::Sender<u64>,
}

impl Tokens {
    pub(crate) fn new(credential: Credential) -> Self {
        Self {
            issuer: credential.issuer,
            asking: tokio::sync::Mutex::default(),
            held: Mutex::new(credential.token),
            state: watch::Sender::new(TokenState::Good),
            given: watch::Sender::new(0),
        }
    }

    /// Takes the application's next token.
    pub(crate) fn give(&self, token: String) {
        self.hold(token);
        self.given.send_modify(|given| *given += 1);
    }

    /// The token that a node is shown.
    pub(crate) async fn token_for(&self, url: &ServerUrl) -> Result<String, Error> {
        match &self.issuer {
            Issuer::Development(user) => {
                let token = development_token(url, user).await?;
                self.hold(token.clone());
                Ok(token)
            }
            Issuer::Source(source) => self.ask(source).await,
            Issuer::Nobody => self.held().ok_or_else(|| Error::token("there is none")),
        }
    }

    /// The token is to be replaced soon.
    pub(crate) fn handle_expiring(&self) {
        self.change_state(TokenState::Good, TokenState::Expiring);
    }

    /// A node has refused a token, which may not be the present one.
    pub(crate) fn handle_refusal(&self, token: &str) {
        let held = self.lock();
        if held.as_deref() == Some(token) {
            self.state.send_replace(TokenState::Refused);
        }
    }

    /// A node has taken a token: whatever another one has said of it before.
    pub(crate) fn handle_acceptance(&self, token: &str) {
        let held = self.lock();
        if held.as_deref() == Some(token) {
            self.change_state(TokenState::Refused, TokenState::Good);
        }
    }

    /// Whether somebody can be asked for another token.
    pub(crate) fn has_issuer(&self) -> bool {
        !matches!(self.issuer, Issuer::Nobody)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<TokenState> {
        self.state.subscribe()
    }

    /// Tells of tokens that the application gives from now on.
    pub(crate) fn watch_given(&self) -> watch::Receiver<u64> {
        self.given.subscribe()
    }

    /// The pauses between attempts that begin now.
    pub(super) fn pauses(&self) -> Pauses {
        Pauses(self.watch_given())
    }

    /// Has the application come by another token, unless the present one is good.
    async fn ask(&self, source: &Source) -> Result<String, Error> {
        let mut asking = self.asking.lock().await;
        let (held, state) = (self.held(), *self.state.borrow());
        if let Some(token) = &held
            && state == TokenState::Good
        {
            return Ok(token.clone());
        }
        let given = *self.given.borrow();
        match ask_in_time(&mut asking, source, given, SOURCE_TIMEOUT).await {
            Ok(token) => {
                self.hold(token.clone());
                Ok(token)
            }
            Err(why) => match held {
                Some(token) if state == TokenState::Expiring => {
                    tracing::warn!(why, "no newer token yet");
                    Ok(token)
                }
                Some(_) | None => Err(Error::token(&why)),
            },
        }
    }

    fn hold(&self, token: String) {
        let mut held = self.lock();
        *held = Some(token);
        self.state.send_if_modified(|state| {
            let was = std::mem::replace(state, TokenState::Good);
            was != TokenState::Good
        });
    }

    fn change_state(&self, from: TokenState, to: TokenState) {
        self.state.send_if_modified(|state| {
            let is_from = *state == from;
            if is_from {
                *state = to;
            }
            is_from
        });
    }

    fn held(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the application in a task of its own: where its code panics, or blocks, it holds up nothing else. One that
/// blocks cannot be ended, and would block another thread each time: what was asked before is waited for first. Its answer
/// counts unless the application has given another token since then.
async fn ask_in_time(
    asking: &mut JoinSet<(u64, Answer)>,
    source: &Source,
    given: u64,
    time: Duration,
) -> Answer {
    let late = || Err("the application's source took too long".to_owned());
    let source = Arc::clone(source);
    let asked = async {
        while let Some(before) = asking.join_next().await {
            if let Ok((given_before, Ok(token))) = before
                && given_before == given
            {
                return Ok(token);
            }
        }
        asking.spawn(async move {
            let asked = async { source().await };
            let asked = tokio::time::timeout(time, asked).await;
            (given, asked.unwrap_or_else(|_| late()))
        });
        match asking.join_next().await {
            Some(Ok((_, asked))) => asked,
            Some(Err(_)) | None => Err("the application's source panicked".to_owned()),
        }
    };
    let asked = tokio::time::timeout(time, asked).await;
    asked.unwrap_or_else(|_| late())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_token_that_comes_during_an_attempt_ends_the_pause_after_it() {
        let tokens = Tokens::new(Credential::default());
        let mut pauses = tokens.pauses();
        assert_eq!(pauses.next(LONG).now_or_never(), None);
        tokens.give("newer".to_owned());
        assert_eq!(pauses.next(LONG).now_or_never(), Some(()));
        assert_eq!(pauses.next(LONG).now_or_never(), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 6)]
    async fn a_source_that_blocks_is_not_asked_again_before_it_has_answered() {
        let (asked_tx, asked) = std::sync::mpsc::channel();
        let (answer, answers) = std::sync::mpsc::channel();
        let (asked_tx, answers) = (Mutex::new(asked_tx), Mutex::new(answers));
        let source: Source = Arc::new(move || {
            asked_tx.lock().unwrap().send(()).unwrap();
            let answer = answers.lock().unwrap().recv().unwrap();
            async { Ok(answer) }.boxed()
        });
        let mut asking = JoinSet::new();
        let mut ask = async |given, time| ask_in_time(&mut asking, &source, given, time).await;
        while asked.try_recv().is_err() {
            ask(0, SHORT).await.unwrap_err();
        }
        for _ in 0..3 {
            ask(0, SHORT).await.unwrap_err();
        }
        answer.send("late".to_owned()).unwrap();
        assert_eq!(ask(0, LONG).await, Ok("late".to_owned()));
        assert!(asked.try_recv().is_err(), "one more thread is blocked");
        // The application has given a token while it was blocked again.
        while asked.try_recv().is_err() {
            ask(0, SHORT).await.unwrap_err();
        }
        for token in ["old", "new"] {
            answer.send(token.to_owned()).unwrap();
        }
        assert_eq!(ask(1, LONG).await, Ok("new".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_answers_is_asked_again() {
        let (asked_tx, asked) = std::sync::mpsc::channel();
        let asked_tx = Mutex::new(asked_tx);
        let source: Source = Arc::new(move || {
            asked_tx.lock().unwrap().send(()).unwrap();
            std::future::pending().boxed()
        });
        let mut asking = JoinSet::new();
        for _ in 0..3 {
            let asked = ask_in_time(&mut asking, &source, 0, LONG).await;
            asked.unwrap_err();
        }
        assert_eq!(asked.try_iter().count(), 3);
    }

    #[tokio::test]
    async fn a_token_of_long_ago_ends_no_pause() {
        let tokens = Tokens::new(Credential::default());
        tokens.give("old".to_owned());
        assert_eq!(tokens.pauses().next(LONG).now_or_never(), None);
    }
}
