use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep_until, timeout};
use tombolo_stun::{
    Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress, stream,
};
use tombolo_turn::client::{AllocateError, Client, Config, Event, Family, Patience};
use tombolo_turn::server::Transport;

use crate::https::{PATIENCE, connect, ice_servers};
use crate::life::start;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stun_address_tells_a_device_its_own() {
    let node = start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    for (uri, id) in node.ready().stun.iter().zip(1..) {
        let id = TransactionId([id; 12]);
        let mut request = Vec::new();
        MessageWriter::new(&mut request, Class::Request, Method::BINDING, id).fingerprint();
        socket
            .send_to(&request, addr_of(uri))
            .await
            .expect("loopback takes it");
        let mut reply = [0; 1500];
        let (bytes, from) = timeout(PATIENCE, socket.recv_from(&mut reply))
            .await
            .expect("an answer in time")
            .expect("an answer");
        assert_eq!(from, addr_of(uri));
        let reply = Message::decode(&reply[..bytes]).expect("STUN");
        assert_eq!(
            (reply.class(), reply.transaction_id()),
            (Class::Success, id)
        );
        let mapped = reply.attribute::<XorMappedAddress>().expect("well formed");
        assert_eq!(mapped.map(|mapped| mapped.0), socket.local_addr().ok());
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_credentials_allocate_over_udp_tcp_and_tls() {
    let node = start().await;
    let servers = ice_servers(&node, "alice").await;
    let server = &servers["iceServers"][1];
    for url in server["urls"].as_array().expect("a list") {
        let url = url.as_str().expect("a text");
        let event = allocate(
            &node,
            url,
            text(server, "username"),
            text(server, "credential"),
        )
        .await;
        let Event::Allocated { relayed, .. } = event else {
            panic!("{url} gives {event:?}");
        };
        assert_eq!(relayed.ip(), addr_of(url).ip());
    }
    assert_eq!(
        servers["iceServers"][0]["urls"],
        Value::from(node.ready().stun.clone())
    );
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_good_for_the_user_that_they_name() {
    let node = start().await;
    let servers = ice_servers(&node, "alice").await;
    let server = &servers["iceServers"][1];
    let url = server["urls"][0].as_str().expect("a text");
    let username = text(server, "username").replace("alice", "mallory");
    let event = allocate(&node, url, username, text(server, "credential")).await;
    assert_eq!(event, Event::Failed(AllocateError::Unauthorized));
    node.shutdown().await;
}

/// Allocates as a device of the user's would.
pub(crate) async fn allocate_as(node: &tombolo_node::Node, user: &str) -> Event {
    allocate_elsewhere(node, node, user).await
}

/// Allocates at a node with the credentials that another one has given out.
pub(crate) async fn allocate_elsewhere(
    known_to: &tombolo_node::Node,
    at: &tombolo_node::Node,
    user: &str,
) -> Event {
    let servers = ice_servers(known_to, user).await;
    let server = &servers["iceServers"][1];
    let (username, password) = (text(server, "username"), text(server, "credential"));
    allocate(at, &at.ready().turn[0], username, password).await
}

/// The socket address in a STUN or TURN URI.
pub(crate) fn addr_of(uri: &str) -> SocketAddr {
    let (_, rest) = uri.split_once(':').expect("a scheme");
    let addr = rest.split_once('?').map_or(rest, |(addr, _)| addr);
    addr.parse().expect("an IP and a port")
}

async fn allocate(
    node: &tombolo_node::Node,
    url: &str,
    username: String,
    password: String,
) -> Event {
    let server = addr_of(url);
    let transport = if url.starts_with("turns:") {
        Transport::Tls
    } else if url.ends_with("=tcp") {
        Transport::Tcp
    } else {
        Transport::Udp
    };
    let config = Config {
        server,
        transport,
        username,
        password,
        family: Family::V4,
        lifetime: Duration::from_secs(600),
        patience: Patience::default(),
    };
    let outcome = async {
        match transport {
            Transport::Udp => UdpClient::new(config).await.event().await,
            Transport::Tcp => {
                let tcp = TcpStream::connect(server).await.expect("the relay listens");
                over_stream(config, tcp).await
            }
            Transport::Tls => over_stream(config, connect(&node.ready().url, server).await).await,
            Transport::Dtls => panic!("not tried here"),
        }
    };
    timeout(PATIENCE, outcome)
        .await
        .expect("an outcome in time")
}

/// A TURN client on a UDP socket of its own.
pub(crate) struct UdpClient {
    client: Client,
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl UdpClient {
    pub(crate) async fn new(config: Config) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        socket
            .connect(config.server)
            .await
            .expect("loopback has a route");
        let client = Client::new(config, SEED, Instant::now());
        Self {
            client,
            socket,
            buffer: vec![0; 2048],
        }
    }

    pub(crate) async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.client.poll_event() {
                return event;
            }
            let packet = self.step().await;
            assert_eq!(packet, None, "nobody sends yet");
        }
    }

    /// The next packet from a peer.
    pub(crate) async fn packet(&mut self) -> (SocketAddr, Vec<u8>) {
        loop {
            if let Some(packet) = self.step().await {
                return packet;
            }
        }
    }

    /// Sends in a Send indication: the server must have a permission already.
    pub(crate) async fn send_unasked(&mut self, peer: SocketAddr, payload: &[u8]) {
        let header = self
            .client
            .send(Instant::now(), peer, payload.len())
            .expect("allocated");
        let packet = [&header[..], payload, &[0; 3][..header.padding()]].concat();
        self.socket.send(&packet).await.expect("loopback takes it");
    }

    async fn step(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        while let Some(bytes) = self.client.poll_transmit() {
            self.socket.send(&bytes).await.expect("loopback takes it");
        }
        let (deadline, _) = self.client.poll_timeout().expect("something is pending");
        tokio::select! {
            received = self.socket.recv(&mut self.buffer) => {
                let data = &self.buffer[..received.expect("the server listens")];
                let packet = self.client.handle_datagram(Instant::now(), data)?;
                Some((packet.peer, data[packet.range].to_vec()))
            }
            () = sleep_until(deadline.into()) => {
                self.client.handle_timeout(Instant::now());
                None
            }
        }
    }
}

async fn over_stream(config: Config, mut io: impl AsyncRead + AsyncWrite + Unpin) -> Event {
    let mut client = Client::new(config, SEED, Instant::now());
    let mut received = Vec::new();
    loop {
        while let Some(bytes) = client.poll_transmit() {
            io.write_all(&bytes).await.expect("the server reads");
        }
        if let Some(event) = client.poll_event() {
            return event;
        }
        let count = io
            .read_buf(&mut received)
            .await
            .expect("the server answers");
        assert_ne!(count, 0, "the server has hung up");
        while let Some(len) = stream::frame_len(&received).expect("frames")
            && len <= received.len()
        {
            let frame: Vec<u8> = received.drain(..len).collect();
            client.handle_datagram(Instant::now(), &frame);
        }
    }
}

pub(crate) fn text(server: &Value, name: &str) -> String {
    server[name].as_str().expect("a text").to_owned()
}

/// Transaction ids need not be secret here.
const SEED: [u8; 32] = [3; 32];
