//! What servers ask for under names of their own, so that it is done once, on whatever nodes it is repeated.
//!
//! `asked.<holder>.<slot>`: names share a fixed number of values for each holder, by their digests. That bounds
//! what a holder can have kept, and there is nothing to sweep: whoever writes a value leaves out what has
//! expired. Whoever asks first binds the name to what is asked; what is done under it carries the name into the
//! room's log, which does it once. So two who ask at the same time need not wait for each other, and when a node
//! dies in between, whoever repeats the request goes on with it.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tombolo_engine::{CasError, Key, KvEntry, Revision};

use super::VERSION;
use super::generated as wire;
use crate::services::Services;

/// A request's own name, as its holder gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestName {
    /// Digest of whose it is.
    pub holder: [u8; 8],
    /// Digest of the name.
    pub name: [u8; 16],
}

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestAnswer {
    /// HTTP's.
    pub status: u16,
    /// At most [`ANSWER_BYTES_MAX`] bytes.
    pub body: Bytes,
}

/// What is known of a request that has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// How it was answered.
    Answered(RequestAnswer),
    /// It is to be carried out under its name, which was given so long ago, be it for the first time or not.
    Open(Duration),
}

/// Why a request is not carried out under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestRefusal {
    /// Something else was asked for under the name.
    #[error("something else was asked for under this name before")]
    Different,
    /// It was begun too long ago, and nobody has said how it ended.
    #[error("it was begun before, and nobody knows whether it was done")]
    Unsure,
    /// The holder has as many requests kept as it may.
    #[error("too many requests with names of their own: try again later")]
    Full,
    /// The engine does not answer.
    #[error("the engine does not answer")]
    Unavailable,
}

impl RequestName {
    /// The name that a holder gave, both as digests.
    #[must_use]
    pub fn new(holder: [u8; 8], name: [u8; 16]) -> Self {
        Self { holder, name }
    }

    fn key(&self) -> Result<Key, RequestRefusal> {
        let holder = u64::from_be_bytes(self.holder);
        let [first, second, ..] = self.name;
        let slot = u16::from_be_bytes([first, second]) % SLOTS;
        Key::new([ASKED, &format!("{holder:016x}"), &format!("{slot}")])
            .map_err(|_| RequestRefusal::Unavailable)
    }
}

impl RequestAnswer {
    /// An answer as HTTP has it.
    #[must_use]
    pub fn new(status: u16, body: Bytes) -> Self {
        Self { status, body }
    }
}

impl Services {
    /// Binds a request's name to what is asked under it, which is given as a digest.
    ///
    /// # Errors
    /// It must not be carried out under this name (now).
    pub async fn begin_request(
        &self,
        name: &RequestName,
        asked: [u8; 16],
    ) -> Result<Begun, RequestRefusal> {
        let key = name.key()?;
        let begin = async {
            for _ in 0..ATTEMPTS_MAX {
                let (mut slot, revision) = self.slot(&key).await?;
                let now = self.node().time().as_millis();
                if let Some(known) = slot.find(name, now) {
                    return known.on_repetition(asked, now);
                }
                slot.add(name, asked, now)?;
                match self.write_slot(&key, revision, &slot).await {
                    Ok(()) => return Ok(Begun::Open(Duration::ZERO)),
                    // Unknown: then it is found there, or not.
                    Err(CasError::Conflict | CasError::Unknown) => {}
                    Err(_) => return Err(RequestRefusal::Unavailable),
                }
            }
            Err(RequestRefusal::Unavailable)
        };
        let begun = self.node().within(begin).await;
        begun.unwrap_or(Err(RequestRefusal::Unavailable))
    }

    /// Keeps how a request was answered, for those who repeat it. Returns the answer that counts: the first that
    /// was kept.
    pub async fn answer_request(&self, name: &RequestName, answer: RequestAnswer) -> RequestAnswer {
        if answer.body.len() > ANSWER_BYTES_MAX {
            return answer;
        }
        let keep = async {
            let key = name.key().ok()?;
            for _ in 0..ATTEMPTS_MAX {
                let (mut slot, revision) = self.slot(&key).await.ok()?;
                let now = self.node().time().as_millis();
                let known = slot.find_mut(name, now)?;
                if known.status != 0 {
                    return known.answer();
                }
                known.status = answer.status.into();
                known.answer.clone_from(&answer.body);
                match self.write_slot(&key, revision, &slot).await {
                    Ok(()) => return None,
                    Err(CasError::Conflict | CasError::Unknown) => {}
                    Err(_) => return None,
                }
            }
            None
        };
        // Whoever repeats a request whose answer is not kept does it under its name again, which is harmless.
        let kept = self.node().within(keep).await;
        kept.ok().flatten().unwrap_or(answer)
    }

    async fn slot(&self, key: &Key) -> Result<(Slot, Option<Revision>), RequestRefusal> {
        let found = self.node().engine.get(key).await;
        match found.map_err(|_| RequestRefusal::Unavailable)? {
            None => Ok((Slot(Vec::new()), None)),
            Some(KvEntry { value, revision }) => Ok((Slot::decode(&value)?, Some(revision))),
        }
    }

    async fn write_slot(
        &self,
        key: &Key,
        revision: Option<Revision>,
        slot: &Slot,
    ) -> Result<(), CasError> {
        let written = self.node().engine.cas(key, revision, Some(slot.encode()));
        written.await.map(|_| ())
    }
}

/// The requests that share a value.
#[derive(Clone, Debug, PartialEq)]
struct Slot(Vec<wire::Request>);

impl Slot {
    fn decode(value: &[u8]) -> Result<Self, RequestRefusal> {
        let requests = wire::Requests::decode(value).map_err(|_| RequestRefusal::Unavailable)?;
        let is_good = requests.version == VERSION
            && requests.requests.len() <= REQUESTS_PER_SLOT_MAX
            && requests.requests.iter().all(|request| {
                request.name.len() == 16
                    && request.asked.len() == 16
                    && request.answer.len() <= ANSWER_BYTES_MAX
            });
        // What a later release has written is not taken for nothing.
        is_good
            .then_some(Self(requests.requests))
            .ok_or(RequestRefusal::Unavailable)
    }

    fn encode(&self) -> Bytes {
        let requests = wire::Requests {
            version: VERSION,
            requests: self.0.clone(),
        };
        requests.encode_to_vec().into()
    }

    fn find(&self, name: &RequestName, now: u64) -> Option<&wire::Request> {
        let mut requests = self.0.iter();
        requests.find(|request| request.name == name.name.as_slice() && request.is_kept(now))
    }

    fn find_mut(&mut self, name: &RequestName, now: u64) -> Option<&mut wire::Request> {
        let mut requests = self.0.iter_mut();
        requests.find(|request| request.name == name.name.as_slice() && request.is_kept(now))
    }

    fn add(&mut self, name: &RequestName, asked: [u8; 16], now: u64) -> Result<(), RequestRefusal> {
        self.0.retain(|request| request.is_kept(now));
        if self.0.len() >= REQUESTS_PER_SLOT_MAX {
            return Err(RequestRefusal::Full);
        }
        self.0.push(wire::Request {
            name: Bytes::copy_from_slice(&name.name),
            asked: Bytes::copy_from_slice(&asked),
            at_ms: now,
            status: 0,
            answer: Bytes::new(),
        });
        Ok(())
    }
}

impl wire::Request {
    /// Nodes' clocks differ a little; what is said to be far in the future must not be kept until then.
    fn is_kept(&self, now: u64) -> bool {
        self.at_ms.abs_diff(now) < millis(REQUESTS_KEPT)
    }

    fn answer(&self) -> Option<RequestAnswer> {
        let status = u16::try_from(self.status)
            .ok()
            .filter(|status| *status > 0)?;
        Some(RequestAnswer::new(status, self.answer.clone()))
    }

    fn on_repetition(&self, asked: [u8; 16], now: u64) -> Result<Begun, RequestRefusal> {
        if self.asked != asked.as_slice() {
            return Err(RequestRefusal::Different);
        }
        // Nodes' clocks differ a little.
        let wanted_for = Duration::from_millis(self.at_ms.abs_diff(now));
        match self.answer() {
            Some(answer) => Ok(Begun::Answered(answer)),
            // The room's log may remember it no longer.
            None if wanted_for > SURE => Err(RequestRefusal::Unsure),
            None => Ok(Begun::Open(wanted_for)),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// For how long a request's name is remembered.
pub const REQUESTS_KEPT: Duration = Duration::from_secs(300);

/// The longest answer that is kept.
pub const ANSWER_BYTES_MAX: usize = 1024;

/// For how long whoever repeats a request without an answer may count on the room's log to do it once.
const SURE: Duration = Duration::from_secs(60);

const _: () = assert!(SURE.as_secs() < tombolo_room::OPERATIONS_REMEMBERED.as_secs());

/// Values for each holder.
const SLOTS: u16 = 1024;

/// Requests in each of them.
const REQUESTS_PER_SLOT_MAX: usize = 64;

const _: () =
    assert!(REQUESTS_PER_SLOT_MAX * (ANSWER_BYTES_MAX + 64) < tombolo_engine::VALUE_BYTES_MAX);

/// Of all requests, among the values.
const ASKED: &str = "asked";

/// How often somebody else may be faster.
const ATTEMPTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u8) -> RequestName {
        RequestName::new([1; 8], [number; 16])
    }

    #[test]
    fn requests_of_the_release_before_are_the_same() {
        let requests = wire::Requests {
            version: VERSION,
            requests: vec![wire::Request {
                name: Bytes::from_static(&[1; 16]),
                asked: Bytes::from_static(&[2; 16]),
                at_ms: 1_793_000_000_000,
                status: 200,
                answer: Bytes::from_static(b"{}"),
            }],
        };
        crate::before::check("requests", &requests, |bytes| Slot::decode(bytes).ok());
    }

    #[test]
    fn a_value_is_read_as_written_and_a_cut_or_later_one_is_refused() {
        let mut slot = Slot(Vec::new());
        slot.add(&name(1), [2; 16], 5).unwrap();
        slot.find_mut(&name(1), 5).unwrap().status = 200;
        let bytes = slot.encode();
        assert_eq!(Slot::decode(&bytes), Ok(slot.clone()));
        for end in 0..bytes.len() {
            assert_ne!(Slot::decode(&bytes[..end]), Ok(slot.clone()));
        }
        let later = wire::Requests {
            version: VERSION + 1,
            requests: Vec::new(),
        };
        let later = Slot::decode(&later.encode_to_vec());
        assert_eq!(later, Err(RequestRefusal::Unavailable));
    }

    #[test]
    fn requests_are_kept_for_a_while_and_so_many_at_once() {
        let mut slot = Slot(Vec::new());
        let start = 1_000_000;
        for number in 0..64 {
            slot.add(&name(number), [0; 16], start).unwrap();
        }
        let full = slot.add(&name(64), [0; 16], start);
        assert_eq!(full, Err(RequestRefusal::Full));
        let later = start + millis(REQUESTS_KEPT);
        assert_eq!(slot.find(&name(0), later), None);
        slot.add(&name(64), [0; 16], later).unwrap();
        assert_eq!(slot.0.len(), 1);
        // A clock that was far ahead fills nothing for long.
        slot.add(&name(65), [0; 16], u64::MAX).unwrap();
        slot.add(&name(66), [0; 16], later).unwrap();
        assert_eq!(slot.find(&name(65), later), None);
    }
}
