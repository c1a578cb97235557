//! How a device comes to have a connection, and another one before it gives that up.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tombolo_services::{Connection, ConnectionInfo, Outgoing, Reject, Services, TransportKind};
use tombolo_wire::VERSION;
use tombolo_wire::v1::{self, ClientFrame, ErrorCode, client_frame, request};

use super::{Asked, Device, RETRY, Violation, is_in};
use crate::cluster::place::{Line, Place};
use crate::cluster::trace::note;

/// A node that was greeted and has not answered.
pub(super) struct Greeting {
    node: usize,
    place: Place,
    task: JoinHandle<Result<Connection, Reject>>,
}

impl Drop for Greeting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Device {
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether it looks for a node, or another one, now.
    pub(crate) fn is_looking(&self) -> bool {
        let has_place = self.is_connected() && !self.is_asked_to_go;
        !has_place && self.greeting.is_none() && self.retry_at <= Instant::now()
    }

    /// It looks again after a while.
    pub(crate) fn wait(&mut self, pause: Duration) {
        self.retry_at = Instant::now() + pause;
    }

    /// Its connections break, and the device does not try again before a while has passed.
    pub(crate) fn lose_connection(&mut self, pause: Duration) {
        self.greeting = None;
        self.disconnect();
        self.wait(pause);
    }

    fn disconnect(&mut self) {
        note(|| format!("{} has no connection", self.name));
        self.connection = None;
        self.node = None;
        self.is_asked_to_go = false;
    }

    /// A node is dead: what there was with it breaks, which takes the device a while to notice.
    pub(crate) fn on_dead(&mut self, node: usize, pause: Duration) {
        if self
            .greeting
            .as_ref()
            .is_some_and(|greeting| greeting.node == node)
        {
            self.greeting = None;
            self.wait(pause);
        }
        if self.node == Some(node) {
            self.disconnect();
            self.wait(pause);
        }
    }

    /// Asks a node to be let in, and for the session, if there is one.
    pub(crate) fn greet(&mut self, node: usize, services: &Services, place: &Place) {
        self.hellos += 1;
        let identity: Vec<u8> = self.name.bytes().cycle().take(32).collect();
        let hello = v1::Hello {
            version: VERSION,
            token: self.token.clone(),
            keys: Some(v1::DeviceKeys {
                seal: identity.iter().map(|byte| !byte).collect(),
                identity: identity.into(),
            }),
            resume: self.resume_token.clone().map(|token| v1::Resume { token }),
            agent: "simulated".into(),
            life: self.hellos,
            sent_here: self.was_sent,
            comes_nearer: false,
        };
        let frame = ClientFrame {
            seq: 0,
            ack: self.inbox.take_ack(),
            body: Some(client_frame::Body::Hello(hello)),
        };
        let info = ConnectionInfo {
            remote: ([192, 0, 2, 1], 1000).into(),
            transport: TransportKind::Quic,
        };
        let services = services.clone();
        let task = { place.handle() }.spawn(async move { services.attach(frame, info).await });
        self.greeting = Some(Greeting {
            node,
            place: place.clone(),
            task,
        });
    }

    fn on_reject(&mut self, reject: &Reject) {
        if reject.code == ErrorCode::NotResumable {
            self.resume_token = None;
        }
        self.was_sent |= reject.code == ErrorCode::Elsewhere;
    }

    /// Takes in all that is there.
    pub(crate) fn pump(&mut self) -> Result<(), Violation> {
        self.take_in()?;
        if let Some(mut greeting) = self.greeting.take() {
            match (&mut greeting.task).now_or_never() {
                None => self.greeting = Some(greeting),
                Some(Ok(Ok(connection))) => {
                    // The one before has nothing more to say.
                    let place = greeting.place.clone();
                    self.connection = Some(Line::new(connection, place));
                    self.node = Some(greeting.node);
                    (self.is_welcome, self.is_asked_to_go) = (false, false);
                    self.was_sent = false;
                    self.take_in()?;
                }
                Some(Ok(Err(reject))) => {
                    self.on_reject(&reject);
                    self.wait(RETRY);
                }
                Some(Err(failed)) => return Err(format!("{}: {failed}", self.name)),
            }
        }
        while let Some(deed) = self.again.take(|room| is_in(&self.views, room)) {
            self.ask_act(deed);
        }
        if let Some((post, wanted)) = self.letters.poll(&self.name) {
            self.ask(Asked::Letter(post), wanted);
        }
        if let Some((call, wanted)) = self.posts.poll(&self.name) {
            self.ask(Asked::Group(call), wanted);
        }
        if let Some(errand) = self.seeking.poll() {
            let wanted = errand.on_wire(&self.name);
            self.ask(Asked::Match(errand), request::Kind::Matchmaker(wanted));
        }
        self.transmit();
        Ok(())
    }

    fn take_in(&mut self) -> Result<(), Violation> {
        while let Some(connection) = &self.connection {
            match connection.next() {
                None => break,
                Some(Outgoing::Reliable(frame)) => self.on_frame(frame)?,
                Some(Outgoing::Unreliable(frame)) => {
                    note(|| format!("{} < {:?}", self.name, frame.body))
                }
                Some(Outgoing::Close(reject)) => self.on_close(reject.as_ref()),
            }
        }
        Ok(())
    }

    /// The node ends the connection: if another one was asked for the session, that may have it.
    pub(super) fn on_close(&mut self, reject: Option<&Reject>) {
        if let Some(reject) = reject.filter(|_| self.greeting.is_none()) {
            self.on_reject(reject);
        }
        self.disconnect();
        self.wait(RETRY);
    }
}
