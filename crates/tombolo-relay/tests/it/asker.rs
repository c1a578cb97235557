//! A client that sends what a test says and keeps nothing alive, over any transport.

use std::time::{Duration, Instant};

use tombolo_relay::Relay;
use tombolo_stun::{
    Class, ErrorCode, Key, Message, MessageWriter, Method, Nonce, Realm, TransactionId, Username,
};

use crate::device::Link;

/// Alice, unless it is said to be somebody else.
pub(crate) struct Asker {
    pub(crate) link: Link,
    pub(crate) user: String,
    nonce: String,
    transaction: u8,
}

impl Asker {
    pub(crate) fn udp(relay: &Relay) -> Self {
        Self::over(Link::udp(relay.addrs().turn[0]))
    }

    pub(crate) fn over(link: Link) -> Self {
        Self {
            link,
            user: "alice".to_owned(),
            nonce: String::new(),
            transaction: 0,
        }
    }

    /// Asks, and again if that only brings a nonce. What comes next has to be the answer.
    #[track_caller]
    pub(crate) fn ask(
        &mut self,
        method: Method,
        write: impl Fn(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        loop {
            let is_first = self.nonce.is_empty();
            self.transaction += 1;
            let request = self.request(method, &write);
            self.link.send(&request);
            let reply = self.receive();
            let transaction = message(&reply).transaction_id();
            assert_eq!(transaction, TransactionId([self.transaction; 12]));
            if !is_first {
                return reply;
            }
            assert_eq!(code(&reply), Some(401));
            let nonce: Nonce<'_> = message(&reply).required().expect("it is there");
            self.nonce = nonce.as_str().to_owned();
        }
    }

    /// Asks with credentials, and sends nothing more.
    #[track_caller]
    pub(crate) fn ask_last(&mut self, method: Method, write: impl Fn(&mut MessageWriter<'_>)) {
        let request = self.request(method, &write);
        self.link.send(&request);
        let challenge = self.receive();
        let nonce: Nonce<'_> = message(&challenge).required().expect("it is there");
        self.nonce = nonce.as_str().to_owned();
        let request = self.request(method, &write);
        self.link.send(&request);
        self.link.finish();
    }

    /// Waits for what the server has to say.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let start = Instant::now();
        loop {
            if let Some(bytes) = self.link.receive() {
                return bytes;
            }
            assert!(start.elapsed() < PATIENCE, "nothing came");
        }
    }

    fn request(&self, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let transaction = TransactionId([self.transaction; 12]);
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, transaction);
        write(&mut writer);
        if !self.nonce.is_empty() {
            writer
                .attribute(&Username::new(&self.user).expect("it is short"))
                .attribute(&Realm::new("tombolo").expect("it is short"))
                .attribute(&Nonce::new(&self.nonce).expect("it is short"))
                .integrity(&Key::long_term(&self.user, "tombolo", "alice's password"));
        }
        bytes
    }
}

pub(crate) fn message(bytes: &[u8]) -> Message<'_> {
    Message::decode(bytes).expect("it is well formed")
}

pub(crate) fn code(reply: &[u8]) -> Option<u16> {
    let code = message(reply).attribute::<ErrorCode<'_>>();
    code.expect("it is well formed").map(|error| error.code())
}

const PATIENCE: Duration = Duration::from_secs(20);
