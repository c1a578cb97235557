//! How a message on the bus is sealed.
//!
//! ```text
//! version (1) · key (4) · sender (16) · time (8) · number (8) · ciphertext · tag (16)
//! ```
//! ChaCha20-Poly1305 (RFC 8439). Each process is a *sender*, named at random, whose key follows from the
//! cluster's by HKDF (RFC 5869) and that name; so its numbers, from 1, are nonces that never repeat. What is
//! in front of the ciphertext is authenticated with it, and so is what the message is for, which is not
//! in it: its subject, or the question that it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, Bytes};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::Key;

/// What the nodes of a cluster share, and nobody else has.
#[derive(Clone)]
pub struct SealKey {
    prk: Prk,
    id: [u8; KEY_ID_BYTES],
}

/// By which a key is told from others; tells nothing about it.
pub type SealKeyId = [u8; KEY_ID_BYTES];

/// Why nothing can be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A key that could be guessed.
    #[error("a key that seals messages has 32 bytes or more")]
    Short,
    /// No key was given.
    #[error("there is no key to seal with")]
    None,
    /// The system has no randomness.
    #[error("no entropy")]
    Entropy,
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealRefusal {
    /// It is not sealed.
    #[error("message is not sealed")]
    Unsealed,
    /// It is sealed with a key that this node does not have.
    #[error("message is sealed with another key")]
    OtherKey,
    /// Somebody else has sealed it, or for something else, or it was changed.
    #[error("message is forged")]
    Forged,
    /// It was sealed too long ago, or the clocks of two nodes are too far apart.
    #[error("message is of another time")]
    Untimely,
    /// It came before, or so late that nobody knows.
    #[error("message came before")]
    Replayed,
    /// More processes have spoken within a minute than are remembered.
    #[error("too many speak")]
    TooMany,
}

/// How many messages were refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SealStats {
    /// See [`SealRefusal::Unsealed`].
    pub unsealed: u64,
    /// See [`SealRefusal::OtherKey`].
    pub other_key: u64,
    /// See [`SealRefusal::Forged`].
    pub forged: u64,
    /// See [`SealRefusal::Untimely`].
    pub untimely: u64,
    /// See [`SealRefusal::Replayed`].
    pub replayed: u64,
    /// See [`SealRefusal::TooMany`].
    pub too_many: u64,
}

/// What a message is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Context<'a> {
    /// Whoever subscribes to the subject.
    Message(&'a Key),
    /// Whoever serves the subject.
    Request(&'a Key),
    /// Whoever sealed this question.
    Answer(&'a [u8]),
}

/// Seals what this process says.
pub(crate) struct Sealer {
    /// The first one seals.
    keys: Vec<SealKey>,
    key: LessSafeKey,
    sender: Sender,
    number: AtomicU64,
    refused: [AtomicU64; 6],
}

/// Opens what comes on one way, and keeps in mind what has come.
#[derive(Debug)]
pub(crate) struct Opener {
    sealer: Arc<Sealer>,
    heard: BTreeMap<Sender, Heard>,
    /// What was sealed before is refused, in milliseconds since the Unix epoch.
    not_before_ms: u64,
}

/// Seals the answer to one question.
#[derive(Debug)]
pub(crate) struct AnswerSealer {
    sealer: Arc<Sealer>,
    question: Bytes,
}

/// Of one process.
type Sender = [u8; SENDER_BYTES];

/// What has come from one sender.
struct Heard {
    key: LessSafeKey,
    window: Window,
    /// When the last one was sealed, in milliseconds since the Unix epoch.
    sealed_ms: u64,
}

/// Which of the last numbers have come.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    greatest: u64,
    /// Bit `n`: `greatest - n` has come.
    come: u64,
}

/// What is in front of the ciphertext.
struct Head {
    key: [u8; KEY_ID_BYTES],
    sender: Sender,
    sealed_ms: u64,
    number: u64,
}

impl SealKey {
    /// Takes a secret, at least 32 bytes at random.
    ///
    /// # Errors
    /// When it is shorter.
    pub fn new(secret: &[u8]) -> Result<Self, SealError> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(SealError::Short);
        }
        let prk = Salt::new(HKDF_SHA256, LABEL).extract(secret);
        let id = name(&prk);
        Ok(Self { prk, id })
    }

    /// Its name, which need not be kept secret.
    #[must_use]
    pub fn id(&self) -> SealKeyId {
        self.id
    }

    /// A key for something else that the nodes share; tells nothing about this one.
    #[must_use]
    pub fn derive(&self, what: &str) -> [u8; 32] {
        let about: [&[u8]; 2] = [b"derived", what.as_bytes()];
        let okm = self.prk.expand(&about, HKDF_SHA256).expect(SHORT);
        let mut key = [0; 32];
        okm.fill(&mut key).expect(SHORT);
        key
    }

    fn of(&self, sender: &Sender) -> LessSafeKey {
        let about: [&[u8]; 2] = [b"sender", sender];
        let key = self.prk.expand(&about, &CHACHA20_POLY1305).expect(SHORT);
        LessSafeKey::new(UnboundKey::from(key))
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealKey").finish_non_exhaustive()
    }
}

impl Sealer {
    pub(crate) fn new(keys: &[SealKey]) -> Result<Self, SealError> {
        let first = keys.first().ok_or(SealError::None)?;
        let mut sender = Sender::default();
        let filled = SystemRandom::new().fill(&mut sender);
        filled.map_err(|_| SealError::Entropy)?;
        Ok(Self {
            key: first.of(&sender),
            keys: keys.to_vec(),
            sender,
            number: AtomicU64::new(0),
            refused: Default::default(),
        })
    }

    /// `None` when all numbers are used up, which takes thousands of years.
    pub(crate) fn seal(&self, context: Context<'_>, payload: &[u8]) -> Option<Bytes> {
        let head = Head {
            key: self.keys.first()?.id,
            sender: self.sender,
            sealed_ms: unix_ms(),
            number: self.number.fetch_add(1, Ordering::Relaxed) + 1,
        };
        let mut sealed = Vec::with_capacity(payload.len() + SEAL_BYTES);
        head.write(&mut sealed);
        sealed.extend_from_slice(payload);
        let (front, body) = sealed.split_at_mut(HEAD_BYTES);
        let about = Aad::from(context.bind(front));
        let tag = self
            .key
            .seal_in_place_separate_tag(head.nonce(), about, body)
            .ok()?;
        sealed.extend_from_slice(tag.as_ref());
        Some(sealed.into())
    }

    pub(crate) fn stats(&self) -> SealStats {
        let [unsealed, other_key, forged, untimely, replayed, too_many] = self
            .refused
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed));
        SealStats {
            unsealed,
            other_key,
            forged,
            untimely,
            replayed,
            too_many,
        }
    }

    /// Of the sender of a message.
    fn key_of(&self, head: &Head) -> Result<LessSafeKey, SealRefusal> {
        let mut keys = self.keys.iter();
        let shared = keys.find(|key| key.id == head.key);
        Ok(shared.ok_or(SealRefusal::OtherKey)?.of(&head.sender))
    }

    fn count(&self, refusal: SealRefusal) {
        let index = match refusal {
            SealRefusal::Unsealed => 0,
            SealRefusal::OtherKey => 1,
            SealRefusal::Forged => 2,
            SealRefusal::Untimely => 3,
            SealRefusal::Replayed => 4,
            SealRefusal::TooMany => 5,
        };
        if let Some(count) = self.refused.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Opener {
    pub(crate) fn new(sealer: Arc<Sealer>) -> Self {
        Self {
            sealer,
            heard: BTreeMap::new(),
            not_before_ms: 0,
        }
    }

    /// Refuses what was sealed before now, for which an earlier opener may have been the one; but for
    /// a difference between two clocks.
    pub(crate) fn starting_now(self) -> Self {
        self.starting_at(unix_ms())
    }

    fn starting_at(self, since_ms: u64) -> Self {
        Self {
            not_before_ms: since_ms.saturating_sub(CLOCKS_MS),
            ..self
        }
    }

    /// What a message says; `None`, and counted, when it is not to be believed.
    pub(crate) fn open(&mut self, context: Context<'_>, sealed: &[u8]) -> Option<Bytes> {
        let opened = self.open_at(unix_ms(), context, sealed);
        let refused = opened.inspect_err(|refusal| {
            self.sealer.count(*refusal);
            tracing::debug!(%refusal, "bus message refused");
        });
        refused.ok()
    }

    /// Seals the answer to a question that was opened.
    pub(crate) fn answer(&self, question: Bytes) -> AnswerSealer {
        AnswerSealer {
            sealer: Arc::clone(&self.sealer),
            question,
        }
    }

    fn open_at(
        &mut self,
        now_ms: u64,
        context: Context<'_>,
        sealed: &[u8],
    ) -> Result<Bytes, SealRefusal> {
        let head = Head::parse(sealed).ok_or(SealRefusal::Unsealed)?;
        let is_late = now_ms.abs_diff(head.sealed_ms) > TIME_MAX_MS;
        if is_late || head.sealed_ms < self.not_before_ms {
            return Err(SealRefusal::Untimely);
        }
        let mut newcomer = None;
        let heard = match self.heard.get_mut(&head.sender) {
            Some(heard) => heard,
            None => newcomer.insert(Heard::new(self.sealer.key_of(&head)?)),
        };
        if !heard.window.is_fresh(head.number) {
            return Err(SealRefusal::Replayed);
        }
        let (front, body) = sealed.split_at(HEAD_BYTES);
        let about = Aad::from(context.bind(front));
        let mut body = body.to_vec();
        let opened = heard.key.open_in_place(head.nonce(), about, &mut body);
        let length = opened.map_err(|_| SealRefusal::Forged)?.len();
        body.truncate(length);
        heard.window.mark(head.number);
        heard.sealed_ms = heard.sealed_ms.max(head.sealed_ms);
        if let Some(newcomer) = newcomer {
            self.remember(now_ms, head.sender, newcomer)?;
        }
        Ok(body.into())
    }

    /// Keeps a sender in mind that has the key.
    fn remember(&mut self, now_ms: u64, sender: Sender, heard: Heard) -> Result<(), SealRefusal> {
        if self.heard.len() >= SENDERS_MAX {
            // What those said who have been silent for so long is refused for its time by now.
            self.heard
                .retain(|_, heard| now_ms <= heard.sealed_ms.saturating_add(TIME_MAX_MS));
        }
        if self.heard.len() >= SENDERS_MAX {
            return Err(SealRefusal::TooMany);
        }
        self.heard.insert(sender, heard);
        Ok(())
    }
}

impl Heard {
    fn new(key: LessSafeKey) -> Self {
        Self {
            key,
            window: Window::default(),
            sealed_ms: 0,
        }
    }
}

impl AnswerSealer {
    pub(crate) fn seal(&self, answer: &[u8]) -> Option<Bytes> {
        self.sealer.seal(Context::Answer(&self.question), answer)
    }
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heard")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

impl Context<'_> {
    /// What is authenticated beside the ciphertext.
    fn bind(self, head: &[u8]) -> Vec<u8> {
        let (kind, about) = match self {
            Self::Message(subject) => (1, subject.as_str().as_bytes()),
            Self::Request(subject) => (2, subject.as_str().as_bytes()),
            // Its head says which it is.
            Self::Answer(question) => (3, question.get(..HEAD_BYTES).unwrap_or_default()),
        };
        let mut bound = Vec::with_capacity(head.len() + 1 + about.len());
        bound.extend_from_slice(head);
        bound.push(kind);
        bound.extend_from_slice(about);
        bound
    }
}

impl Head {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.put_u8(VERSION);
        bytes.put_slice(&self.key);
        bytes.put_slice(&self.sender);
        bytes.put_u64(self.sealed_ms);
        bytes.put_u64(self.number);
    }

    fn parse(sealed: &[u8]) -> Option<Self> {
        if sealed.len() < SEAL_BYTES {
            return None;
        }
        let (version, rest) = sealed.split_first()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (sealed_ms, rest) = rest.split_first_chunk()?;
        let (number, _) = rest.split_first_chunk()?;
        (*version == VERSION).then(|| Self {
            key: *key,
            sender: *sender,
            sealed_ms: u64::from_be_bytes(*sealed_ms),
            number: u64::from_be_bytes(*number),
        })
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.number.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Window {
    /// Whether a number has not come, as far as is remembered.
    fn is_fresh(self, number: u64) -> bool {
        match self.greatest.checked_sub(number) {
            None => true,
            Some(behind) => behind < WINDOW && self.come & (1 << behind) == 0,
        }
    }

    fn mark(&mut self, number: u64) {
        let ahead = number.saturating_sub(self.greatest);
        self.come = match ahead {
            0 => self.come,
            1..WINDOW => self.come << ahead,
            _ => 0,
        };
        self.greatest = self.greatest.max(number);
        if let behind @ 0..WINDOW = self.greatest - number {
            self.come |= 1 << behind;
        }
    }
}

/// How long a key's name is.
struct KeyId;

impl KeyType for KeyId {
    fn len(&self) -> usize {
        KEY_ID_BYTES
    }
}

/// By which those who have several keys find the right one; tells nothing about it.
fn name(prk: &Prk) -> [u8; KEY_ID_BYTES] {
    let mut id = [0; KEY_ID_BYTES];
    let name = prk.expand(&[b"name"], KeyId);
    name.and_then(|name| name.fill(&mut id)).expect(SHORT);
    id
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
}

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const SENDER_BYTES: usize = 16;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + SENDER_BYTES + 8 + 8;
const TAG_BYTES: usize = 16;

/// How much longer a message is sealed.
pub(crate) const SEAL_BYTES: usize = HEAD_BYTES + TAG_BYTES;

const SECRET_BYTES_MIN: usize = 32;

/// What keys for anything else do not begin with.
const LABEL: &[u8] = b"tombolo bus 1";

/// Why a key can be made of another one.
const SHORT: &str = "it is much shorter than what HKDF gives";

/// How far apart a message's time and this node's clock may be, in milliseconds.
const TIME_MAX_MS: u64 = 60_000;

/// How far apart the clocks of two nodes are at most, usually, in milliseconds.
const CLOCKS_MS: u64 = 5_000;

const _: () = assert!(CLOCKS_MS < TIME_MAX_MS);

/// How many numbers are told apart behind the greatest one.
const WINDOW: u64 = 64;

/// Processes that are remembered on one way.
const SENDERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey::new(&[byte; SECRET_BYTES_MIN]).unwrap()
    }

    fn subject(name: &str) -> Key {
        Key::new([name]).unwrap()
    }

    fn pair(keys: &[SealKey]) -> (Sealer, Opener) {
        let opener = Opener::new(Arc::new(Sealer::new(keys).unwrap()));
        (Sealer::new(keys).unwrap(), opener)
    }

    #[test]
    fn a_sealed_message_is_opened_once_by_whoever_it_is_for_and_hides_what_it_says() {
        let (sealer, mut opener) = pair(&[key(1)]);
        let (here, there) = (subject("here"), subject("there"));
        let sealed = sealer.seal(Context::Message(&here), b"secret").unwrap();
        assert_eq!(sealed.len(), b"secret".len() + SEAL_BYTES);
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        let mut open = |context| opener.open_at(unix_ms(), context, &sealed);
        assert_eq!(
            open(Context::Message(&there)),
            Err(SealRefusal::Forged),
            "it is about something else"
        );
        assert_eq!(open(Context::Request(&here)), Err(SealRefusal::Forged));
        assert_eq!(open(Context::Answer(&sealed)), Err(SealRefusal::Forged));
        assert_eq!(open(Context::Message(&here)).unwrap(), "secret");
        assert_eq!(open(Context::Message(&here)), Err(SealRefusal::Replayed));
    }

    #[test]
    fn a_message_that_was_changed_anywhere_or_cut_is_refused() {
        let (sealer, mut opener) = pair(&[key(1)]);
        let here = subject("here");
        let sealed = sealer.seal(Context::Message(&here), b"text").unwrap();
        for index in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[index] ^= 1;
            let opened = opener.open_at(unix_ms(), Context::Message(&here), &changed);
            assert!(opened.is_err(), "byte {index}");
            let cut = &sealed[..index];
            let opened = opener.open_at(unix_ms(), Context::Message(&here), cut);
            assert!(opened.is_err(), "cut at {index}");
        }
        assert!(opener.heard.is_empty(), "forgers are not remembered");
        assert!(opener.open(Context::Message(&here), &sealed).is_some());
    }

    #[test]
    fn another_time_or_key_is_refused_and_an_answer_is_for_one_question() {
        let (sealer, mut opener) = pair(&[key(1)]);
        let here = subject("here");
        let sealed = sealer.seal(Context::Message(&here), b"").unwrap();
        for now in [unix_ms() + 2 * TIME_MAX_MS, unix_ms() - 2 * TIME_MAX_MS] {
            let opened = opener.open_at(now, Context::Message(&here), &sealed);
            assert_eq!(opened, Err(SealRefusal::Untimely));
        }
        let (other, _) = pair(&[key(2)]);
        let sealed = other.seal(Context::Message(&here), b"").unwrap();
        let opened = opener.open_at(unix_ms(), Context::Message(&here), &sealed);
        assert_eq!(opened, Err(SealRefusal::OtherKey));
        let (_, mut changing) = pair(&[key(1), key(2)]);
        assert!(changing.open(Context::Message(&here), &sealed).is_some());

        let [first, second] = [b"1", b"2"].map(|q| sealer.seal(Context::Request(&here), q));
        let (first, second) = (first.unwrap(), second.unwrap());
        let answer = opener.answer(first.clone()).seal(b"yes").unwrap();
        let opened = opener.open_at(unix_ms(), Context::Answer(&second), &answer);
        assert_eq!(opened, Err(SealRefusal::Forged));
        assert_eq!(
            opener.open(Context::Answer(&first), &answer).unwrap(),
            "yes"
        );
    }

    #[test]
    fn what_was_asked_before_somebody_listened_is_not_taken_for_a_question_to_it() {
        let (sealer, mut opener) = pair(&[key(1)]);
        let here = subject("here");
        let question = Context::Request(&here);
        let asked = sealer.seal(question, b"leave").unwrap();
        assert!(opener.open(question, &asked).is_some());
        // The next process of its name has not heard it.
        let (_, next) = pair(&[key(1)]);
        let mut next = next.starting_at(unix_ms() + 2 * CLOCKS_MS);
        let opened = next.open_at(unix_ms(), question, &asked);
        assert_eq!(opened, Err(SealRefusal::Untimely));
        // Its own clock may be a little ahead of others.
        let (_, next) = pair(&[key(1)]);
        let mut next = next.starting_now();
        let asked = sealer.seal(question, b"stay").unwrap();
        assert_eq!(next.open(question, &asked).unwrap(), "stay");
    }

    #[test]
    fn messages_that_overtake_each_other_come_once_and_those_far_behind_do_not() {
        let mut window = Window::default();
        for number in [3, 1, 2, 70, 69, 7, 1000, 937] {
            assert!(window.is_fresh(number), "{number}");
            window.mark(number);
            assert!(!window.is_fresh(number), "{number}");
        }
        for number in [0, 3, 70, 936] {
            assert!(!window.is_fresh(number), "{number}");
        }
    }

    #[test]
    fn senders_are_bounded_and_forgotten_when_nothing_of_theirs_can_come_again() {
        let keys = [key(1)];
        let (_, mut opener) = pair(&keys);
        let here = subject("here");
        let speak = |opener: &mut Opener| {
            let sealed = pair(&keys).0.seal(Context::Message(&here), b"").unwrap();
            opener.open_at(unix_ms(), Context::Message(&here), &sealed)
        };
        for _ in 0..SENDERS_MAX {
            speak(&mut opener).unwrap();
        }
        assert_eq!(speak(&mut opener), Err(SealRefusal::TooMany));
        for heard in opener.heard.values_mut() {
            heard.sealed_ms -= 2 * TIME_MAX_MS;
        }
        speak(&mut opener).unwrap();
        assert_eq!(opener.heard.len(), 1);
    }

    #[test]
    fn a_key_that_could_be_guessed_is_none() {
        let short = SealKey::new(&[1; SECRET_BYTES_MIN - 1]);
        assert_eq!(short.unwrap_err(), SealError::Short);
    }
}
