//! A link's introductions: the two are told of each other, and again when a relay changes, or may not have been heard
//! of; first messages are inside.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tombolo_path::{Candidate, CandidateKind, Policy};
use tombolo_wire::{PublicKeys, v1};

use super::super::introduction::{Introduction, write_candidate};
use super::super::message::{FIRST_MESSAGES_MAX, decode_first, encode_first};
use super::super::{Received, nat};
use super::{Driver, HANDSHAKE_TIMEOUT, Reason};
use crate::keys::PublicKey;
use crate::seal::{self, Binding, PLAIN_BYTES_MAX};
use crate::session::Command;

/// The peer must answer an introduction within this time: less than its handshake may take, so that it knows what
/// is told again.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(15);
const _: () = assert!(INTRODUCTION_TIMEOUT.as_secs() < HANDSHAKE_TIMEOUT.as_secs());

impl Driver {
    /// Sends our introduction; returns the keys for which first messages were sealed.
    pub(super) async fn introduce(&mut self) -> Option<PublicKeys> {
        let expected = self.config.expected_keys;
        let early = self.seal_first(expected);
        let sealed_for = early.is_some().then_some(expected);
        self.sealed = early.unwrap_or_default();
        self.news.mark_told();
        let introduce = self.introduce_by(self.introduction());
        // A session that is over shows by the missing answer.
        _ = self.config.shop.session.command(introduce).await;
        sealed_for
    }

    fn introduction(&self) -> v1::Introduction {
        let keys = &self.config.shop.keys;
        let credentials = &self.config.standing.credentials;
        let candidates = self.config.shop.net.candidates();
        let nat = self.config.shop.net.nat();
        let may_be_told = |candidate: &&Candidate| match self.config.policy {
            Policy::Any => true,
            Policy::Relay => candidate.kind == CandidateKind::Relayed,
            Policy::Direct => candidate.kind != CandidateKind::Relayed,
        };
        v1::Introduction {
            attempt: self.pairing.own,
            answers: self.pairing.remote.unwrap_or(0),
            keys: Some((&keys.public()).into()),
            ufrag: credentials.ufrag.clone(),
            password: credentials.password.clone(),
            candidates: candidates
                .iter()
                .filter(may_be_told)
                .filter_map(write_candidate)
                .collect(),
            early: self.sealed.clone(),
            update: false,
            nat: nat.map(|report| nat::to_wire(report.behaviour())),
        }
    }

    fn introduce_by(&self, introduction: v1::Introduction) -> Command {
        let meeting = self.config.meeting.borrow();
        Command::Introduce(meeting.introduce(&self.config.user, introduction))
    }

    /// Tells the peer of this end, and by which relay this device is reached now; later, when the session has no place for that: the
    /// link has other things to do than wait for it.
    pub(super) fn tell_relay(&mut self) {
        self.unheard = None;
        let mut introduction = self.introduction();
        introduction.update = true;
        let introduce = self.introduce_by(introduction);
        if !self.config.shop.session.command_now(introduce) {
            self.news.put_off();
        }
    }

    fn seal_first(&self, receiver: PublicKeys) -> Option<Bytes> {
        let first = &self.first;
        // What may not take the relay waits for the direct path.
        let may_take_relay = self.config.policy != Policy::Direct;
        if !may_take_relay || first.is_empty() || first.len() > FIRST_MESSAGES_MAX {
            return None;
        }
        let plain = encode_first(first.iter().map(|first| (first.lane, &first.payload)));
        if plain.len() > PLAIN_BYTES_MAX {
            return None;
        }
        let keys = &self.config.shop.keys;
        let binding = Binding {
            attempt: self.pairing.own,
            sender: keys.identity,
            receiver: PublicKey(receiver.identity),
        };
        match seal::seal(keys, &receiver.seal, &binding, &plain) {
            Ok(sealed) => Some(sealed.into()),
            Err(error) => {
                tracing::warn!(%error, "first messages not sealed: they go over the link");
                None
            }
        }
    }

    pub(super) async fn remote_introduction(&mut self) -> Result<Introduction, Reason> {
        if let Some(remote) = self.config.answers.take() {
            return Ok(remote);
        }
        let deadline = tokio::time::sleep(INTRODUCTION_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                remote = self.introductions.recv() => {
                    let gone = || "replaced by a newer link, or the device is closed".to_owned();
                    let remote = remote.ok_or_else(gone)?;
                    self.hear(&remote);
                    return Ok(remote);
                }
                () = self.news.is_due_again() => drop(self.introduce().await),
                Some(reason) = self.end.recv() => return Err(reason),
                () = &mut deadline => {
                    return Err("the peer did not answer the introduction within 15 s".to_owned());
                }
            }
        }
    }

    /// Gives the application what the peer says first, while there is place for it, or until the link ends: a peer that
    /// begins anew again and again has more to say than an application that does not read takes.
    pub(super) async fn receive_first(
        &mut self,
        remote: &Introduction,
        deadline: Instant,
    ) -> Result<(), Reason> {
        if remote.early.is_empty() {
            return Ok(());
        }
        let keys = &self.config.shop.keys;
        let binding = Binding {
            attempt: remote.attempt,
            sender: PublicKey(remote.keys.identity),
            receiver: keys.identity,
        };
        let messages = seal::open(keys, &remote.keys.seal, &binding, &remote.early)
            .and_then(|plain| decode_first(plain.into()));
        let Some(messages) = messages else {
            tracing::warn!(user = %self.config.user, "first messages cannot be opened");
            return Ok(());
        };
        for message in messages {
            let received = Received {
                message,
                _share: None,
            };
            tokio::select! {
                _ = self.ends.messages.send(received) => {}
                Some(reason) = self.end.recv() => return Err(reason),
                () = tokio::time::sleep_until(deadline) => {
                    return Err("the application has no place for what the peer says first".to_owned());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{mpsc, oneshot, watch};
    use tombolo_wire::{RoomId, UserId};

    use super::super::{LinkConfig, Shop, Standing};
    use super::*;
    use crate::device::bind_endpoint;
    use crate::keys::{Accepted, Keys};
    use crate::link::{Lane, Rouser};
    use crate::links::Meeting;
    use crate::net::Net;
    use crate::session::Handle;

    /// What a link needs, and the session's end of its commands, of which so many may wait.
    async fn config(commands_max: usize) -> (LinkConfig, mpsc::Receiver<Command>) {
        let keys = Arc::new(Keys::generate().unwrap());
        let accepted = Accepted::default();
        let net = Net::bind(true).await.unwrap();
        let endpoint = bind_endpoint(&net, &keys, accepted.clone()).unwrap();
        let (session, commands) = Handle::pair(commands_max);
        let config = LinkConfig {
            meeting: watch::channel(Meeting::Room(RoomId::parse("r").unwrap())).1,
            user: UserId::parse("bob").unwrap(),
            expected_keys: Keys::generate().unwrap().public(),
            policy: Policy::Any,
            first: Vec::new(),
            answers: None,
            predecessors: Vec::new(),
            delivering: Vec::new(),
            standing: Standing::generate().unwrap(),
            shop: Shop {
                net,
                rouser: Arc::new(Rouser::new(endpoint.clone())),
                endpoint,
                keys,
                accepted,
                session,
            },
        };
        (config, commands)
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_tells_later_what_its_session_has_no_place_for_and_does_not_wait() {
        let (config, mut commands) = config(1).await;
        let session = config.shop.session.clone();
        assert!(session.command_now(Command::Close(oneshot::channel().0)));
        let (_peer, _inputs, mut driver) = Driver::new(config).unwrap();
        driver.sealed = Bytes::from_static(b"first messages");
        driver.tell_relay();
        assert!(matches!(commands.recv().await, Some(Command::Close(_))));
        driver.news.is_due().await;
        driver.tell_relay();
        let Some(Command::Introduce(told)) = commands.recv().await else {
            panic!("the peer is told");
        };
        assert_eq!((told.room.as_str(), told.to.as_str()), ("r", "bob"));
        let introduction = told.introduction.unwrap();
        assert!(introduction.update);
        assert_eq!(
            introduction.early, driver.sealed,
            "the first one may be lost"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_whose_application_reads_nothing_ends_though_its_peer_says_first_messages_anew()
    {
        let (config, _commands) = config(1).await;
        let (peer, inputs, mut driver) = Driver::new(config).unwrap();
        let remote = says_first(driver.config.shop.keys.public());
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let hears = async {
            while driver.receive_first(&remote, deadline).await.is_ok() {}
            assert_eq!(Instant::now(), deadline);
            inputs.end.try_send("replaced".to_owned()).unwrap();
            let later = deadline + HANDSHAKE_TIMEOUT;
            driver.receive_first(&remote, later).await
        };
        let ended = tokio::time::timeout(10 * HANDSHAKE_TIMEOUT, hears).await;
        assert_eq!(ended.expect("it ends"), Err("replaced".to_owned()));
        assert_eq!(peer.recv().await.unwrap().payload, "hello");
    }

    /// The introduction of a peer that says something first.
    fn says_first(to: PublicKeys) -> Introduction {
        let keys = Keys::generate().unwrap();
        let attempt = 1;
        let binding = Binding {
            attempt,
            sender: keys.identity,
            receiver: PublicKey(to.identity),
        };
        let hello = Bytes::from_static(b"hello");
        let plain = encode_first([(Lane::Reliable, &hello)].into_iter());
        let message = v1::Introduction {
            attempt,
            keys: Some((&keys.public()).into()),
            early: seal::seal(&keys, &to.seal, &binding, &plain)
                .unwrap()
                .into(),
            ..v1::Introduction::default()
        };
        Introduction::parse(message).unwrap()
    }
}
