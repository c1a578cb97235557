//! Messages byte by byte, for those who mean harm.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use tombolo_stun::{
    Class, ErrorCode, Key, Message, MessageWriter, Method, Nonce, Realm, RequestedTransport,
    TransactionId, Username,
};

use super::victim::{PASSWORD, USER};

/// Bytes that look like nothing, the same in every run.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.next().to_le_bytes()[3])
            .take(length)
            .collect()
    }
}

/// A client that signs with what it likes.
pub(super) struct Raw {
    socket: UdpSocket,
    key: Key,
    nonce: String,
    serial: u32,
}

/// How often a request is sent before its sender gives up, a tick apart.
const TRIES: usize = 100;
const TICK: Duration = Duration::from_millis(200);
const REALM: &str = "example.org";

impl Raw {
    pub(super) fn new(from: IpAddr, server: SocketAddr, password: &str) -> Self {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        Self {
            socket,
            key: Key::long_term(USER, REALM, password),
            nonce: String::new(),
            serial: 0,
        }
    }

    /// One with an allocation.
    pub(super) fn allocated(from: IpAddr, server: SocketAddr) -> Self {
        let mut raw = Self::new(from, server, PASSWORD);
        assert_eq!(raw.ask(Method::ALLOCATE, &|writer| udp(writer)), 0);
        raw
    }

    /// Learns a nonce.
    pub(super) fn is_challenged(&mut self) {
        assert_eq!(self.exchange(Method::ALLOCATE, &|writer| udp(writer)), 401);
    }

    /// Sends a request until it is answered, and returns the error code, 0 for a success.
    pub(super) fn ask(&mut self, method: Method, more: &dyn Fn(&mut MessageWriter<'_>)) -> u16 {
        match self.exchange(method, more) {
            401 | 438 => self.exchange(method, more),
            code => code,
        }
    }

    fn exchange(&mut self, method: Method, more: &dyn Fn(&mut MessageWriter<'_>)) -> u16 {
        let request = self.request(method, more);
        let mut buffer = [0; 2048];
        for _ in 0..TRIES {
            self.socket.send(&request).unwrap();
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let Ok(answer) = Message::decode(&buffer[..length]) else {
                    continue;
                };
                if answer.transaction_id().0[..] != request[8..20] {
                    continue;
                }
                if let Ok(Some(nonce)) = answer.attribute::<Nonce<'_>>() {
                    self.nonce = nonce.as_str().to_owned();
                }
                let code = answer.attribute::<ErrorCode<'_>>().unwrap();
                return code.map_or(0, |code| code.code());
            }
        }
        panic!("{method:?} is never answered");
    }

    /// The next request, signed as soon as there is a nonce.
    pub(super) fn request(
        &mut self,
        method: Method,
        more: &dyn Fn(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        self.serial += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&self.serial.to_be_bytes());
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, TransactionId(id));
        more(&mut writer);
        if !self.nonce.is_empty() {
            writer
                .attribute(&Username::new(USER).unwrap())
                .attribute(&Realm::new(REALM).unwrap())
                .attribute(&Nonce::new(&self.nonce).unwrap())
                .integrity(&self.key);
        }
        bytes
    }

    pub(super) fn send(&self, bytes: &[u8]) {
        // A full buffer of the sender is no harm to the server.
        let _ = self.socket.send(bytes);
    }

    /// Bytes that have come back and were not looked at.
    pub(super) fn answered_bytes(&self) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        let lengths = std::iter::from_fn(|| self.socket.recv(&mut buffer).ok());
        let sum = lengths.sum();
        self.socket.set_nonblocking(false).unwrap();
        sum
    }
}

/// What an Allocate request must have.
pub(super) fn udp(writer: &mut MessageWriter<'_>) {
    writer.attribute(&RequestedTransport::UDP);
}
