//! A device that says no more than it has to.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tombolo_node::Node;
use tombolo_wire::token::{Claims, KeySet, SigningKey, VerifyingKey};
use tombolo_wire::v1::client_frame::Body as Up;
use tombolo_wire::v1::server_frame::Body as Down;
use tombolo_wire::v1::{ErrorCode, Hello, Request, Resume, request, response};
use tombolo_wire::{UserId, VERSION};

use crate::introduction::{Socket, dial, keys, receive_until, send};

/// A device of a user, whose node knows it by [`token_keys`].
pub(crate) struct Caller {
    user: &'static str,
    pub(crate) socket: Option<Socket>,
    sent: u64,
    resume: Option<Bytes>,
}

impl Caller {
    pub(crate) fn new(user: &'static str) -> Self {
        Self {
            user,
            socket: None,
            sent: 0,
            resume: None,
        }
    }

    /// Begins a session, or goes on with it, at a node.
    pub(crate) async fn hello(&mut self, node: &Node) {
        let unix_now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let expires = unix_now.expect("after 1970") + Duration::from_secs(600);
        let claims = Claims::new(UserId::parse(self.user).expect("a name"), expires);
        let key = SigningKey::hs256("one", TOKEN_KEY).expect("long enough");
        let hello = Hello {
            version: VERSION,
            token: key.mint(&claims).expect("it is small"),
            keys: Some(keys(self.user)),
            resume: self.resume.take().map(|token| Resume { token }),
            ..Hello::default()
        };
        let mut socket = dial(node).await;
        send(&mut socket, 0, Up::Hello(hello)).await;
        let token = receive_until(&mut socket, |body| {
            if let Down::Welcome(welcome) = body {
                Some(welcome.resume_token)
            } else {
                None
            }
        });
        self.resume = Some(token.await);
        self.socket = Some(socket);
    }

    /// Asks for something; the id of its answer.
    pub(crate) async fn ask(&mut self, kind: request::Kind) -> u64 {
        let id = self.sent + 1;
        let kind = Some(kind);
        self.say(Up::Request(Request { id, kind })).await;
        id
    }

    /// Asks for something and waits for what is answered, or refused with a reason.
    pub(crate) async fn answer(
        &mut self,
        kind: request::Kind,
    ) -> Result<response::Result, (ErrorCode, String)> {
        let id = self.ask(kind).await;
        self.answer_to(id).await
    }

    /// Waits for what is answered to something that was asked for.
    pub(crate) async fn answer_to(
        &mut self,
        id: u64,
    ) -> Result<response::Result, (ErrorCode, String)> {
        let answer = self.until(|body| {
            if let Down::Response(response) = body
                && response.id == id
            {
                response.result
            } else {
                None
            }
        });
        let answer = answer.await;
        if let response::Result::Failure(failure) = answer {
            return Err((failure.code(), failure.message));
        }
        Ok(answer)
    }

    pub(crate) async fn say(&mut self, body: Up) {
        self.sent += 1;
        let socket = self.socket.as_mut().expect("it is connected");
        send(socket, self.sent, body).await;
    }

    pub(crate) async fn until<T>(&mut self, pick: impl Fn(Down) -> Option<T>) -> T {
        let socket = self.socket.as_mut().expect("it is connected");
        receive_until(socket, pick).await
    }
}

pub(crate) fn token_keys() -> KeySet {
    let mut keys = KeySet::new();
    keys.insert("one", VerifyingKey::hs256(TOKEN_KEY).expect("long enough"));
    keys
}

const TOKEN_KEY: &[u8] = &[1; 32];
