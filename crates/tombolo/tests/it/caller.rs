//! A TURN client on a real socket.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use tombolo_turn::client::{Client, Config, Event, Family};
use tombolo_turn::server::Transport;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for a packet before timers are looked at.
const TICK: Duration = Duration::from_millis(20);

pub(crate) struct Caller {
    client: Client,
    socket: UdpSocket,
}

impl Caller {
    pub(crate) fn new(server: SocketAddr, user: &str, password: &str) -> Self {
        let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        let config = Config {
            server,
            transport: Transport::Udp,
            username: user.to_owned(),
            password: password.to_owned(),
            family: Family::V4,
            lifetime: Duration::from_secs(600),
        };
        let local = socket.local_addr().unwrap();
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&local.port().to_be_bytes());
        Self {
            client: Client::new(config, seed, Instant::now()),
            socket,
        }
    }

    /// Its address, as the server sees it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Whether the server makes an allocation for it.
    pub(crate) fn allocates(&mut self) -> bool {
        matches!(self.next(), Event::Allocated { .. })
    }

    /// Gives its allocation back.
    pub(crate) fn close(&mut self) {
        self.client.close(Instant::now());
        assert_eq!(self.next(), Event::Closed);
    }

    fn next(&mut self) -> Event {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(event) = self.client.poll_event() {
                return event;
            }
            self.client.handle_timeout(Instant::now());
            while let Some(bytes) = self.client.poll_transmit() {
                self.socket.send(&bytes).unwrap();
            }
            let mut buffer = [0; 2048];
            if let Ok(len) = self.socket.recv(&mut buffer) {
                _ = self.client.handle_datagram(Instant::now(), &buffer[..len]);
            }
        }
        panic!("nothing happens");
    }
}
