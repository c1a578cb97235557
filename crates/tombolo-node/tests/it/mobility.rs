//! Clients that come to a node with a mobility ticket of another one. See RFC 8016.

use std::net::SocketAddr;

use tokio::net::UdpSocket;
use tokio::time::timeout;
use tombolo_node::Node;
use tombolo_stun::{
    AlternateServer, Class, ErrorCode, Key, Message, MessageWriter, Method, MobilityTicket, Nonce,
    Realm, RequestedTransport, TransactionId, Username, XorRelayedAddress,
};

use crate::https::{PATIENCE, ice_servers};
use crate::life;
use crate::turn::{addr_of, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_ticket_of_another_node_is_sent_there_and_moves() {
    let (first, second) = life::two().await;
    let at = |node: &Node| addr_of(&node.ready().turn[0]);
    let mut alice = Asker::new(&first, at(&first)).await;
    let reply = alice
        .ask(Method::ALLOCATE, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&MobilityTicket(b""));
        })
        .await;
    let reply = Message::decode(&reply).unwrap();
    assert!(reply.required::<XorRelayedAddress>().is_ok());
    let ticket: MobilityTicket<'_> = reply.required().unwrap();

    let redeem = async |alice: &mut Asker| {
        let write = |writer: &mut MessageWriter<'_>| {
            writer.attribute(&ticket);
        };
        alice.ask(Method::REFRESH, write).await
    };
    let mut alice = Asker::new(&first, at(&second)).await;
    let sent = async {
        loop {
            let reply = redeem(&mut alice).await;
            let reply = Message::decode(&reply).unwrap();
            let error: ErrorCode<'_> = reply.required().unwrap();
            if error.code() == 300 {
                let AlternateServer(server) = reply.required().unwrap();
                return server;
            }
            assert_eq!(error.code(), 405, "it has not heard where the other one is");
        }
    };
    let sent_to = timeout(PATIENCE, sent).await.unwrap();
    assert_eq!(sent_to, at(&first));
    let mut alice = Asker::new(&first, sent_to).await;
    let reply = redeem(&mut alice).await;
    let reply = Message::decode(&reply).unwrap();
    assert_eq!(reply.class(), Class::Success);
    first.shutdown().await;
    second.shutdown().await;
}

/// Alice at a socket of her own, who sends what a test says.
struct Asker {
    socket: UdpSocket,
    username: String,
    password: String,
    challenge: Option<(String, String)>,
    transaction: u8,
}

impl Asker {
    /// With credentials that a node has given out, which may be another one.
    async fn new(known_to: &Node, server: SocketAddr) -> Self {
        let servers = ice_servers(known_to, "alice").await;
        let of_turn = &servers["iceServers"][1];
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        socket.connect(server).await.expect("loopback has a route");
        Self {
            socket,
            username: text(of_turn, "username"),
            password: text(of_turn, "credential"),
            challenge: None,
            transaction: 0,
        }
    }

    /// Asks, and again if that only brings a nonce.
    async fn ask(&mut self, method: Method, write: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        loop {
            self.transaction = self.transaction.wrapping_add(1);
            let request = self.request(method, &write);
            self.socket.send(&request).await.expect("loopback takes it");
            let mut reply = vec![0; 2048];
            let received = timeout(PATIENCE, self.socket.recv(&mut reply)).await;
            let received = received.expect("an answer in time");
            reply.truncate(received.expect("an answer"));
            if self.challenge.is_some() {
                return reply;
            }
            let reply = Message::decode(&reply).expect("STUN");
            let realm: Realm<'_> = reply.required().expect("a realm");
            let nonce: Nonce<'_> = reply.required().expect("a nonce");
            self.challenge = Some((realm.as_str().to_owned(), nonce.as_str().to_owned()));
        }
    }

    fn request(&self, method: Method, write: impl Fn(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        let transaction = TransactionId([self.transaction; 12]);
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, transaction);
        write(&mut writer);
        if let Some((realm, nonce)) = &self.challenge {
            writer
                .attribute(&Username::new(&self.username).expect("it is short"))
                .attribute(&Realm::new(realm).expect("it is short"))
                .attribute(&Nonce::new(nonce).expect("it is short"))
                .integrity(&Key::long_term(&self.username, realm, &self.password));
        }
        bytes
    }
}
