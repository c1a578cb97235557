//! A client's end of DTLS, on a real socket.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use dimpl::{Dtls, DtlsCertificate, Output};

use crate::caller::{PATIENCE, TICK, or_nothing};

pub(crate) struct Association {
    dtls: Dtls,
    socket: UdpSocket,
    received: Vec<Vec<u8>>,
    /// The server's certificate, once the handshake is done.
    shown: Option<Vec<u8>>,
    is_connected: bool,
}

impl Association {
    /// Shakes hands with a server, which has to show this certificate.
    pub(crate) fn new(server: SocketAddr, certificate: &[u8]) -> Self {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        let own = DtlsCertificate {
            certificate: made.cert.der().to_vec(),
            private_key: made.signing_key.serialize_der(),
        };
        let socket = UdpSocket::bind((server.ip(), 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(TICK)).unwrap();
        let mut dtls = Dtls::new_12(Arc::default(), own, Instant::now());
        dtls.set_active(true);
        let mut association = Self {
            dtls,
            socket,
            received: Vec::new(),
            shown: None,
            is_connected: false,
        };
        let start = Instant::now();
        while !association.is_connected {
            assert!(start.elapsed() < PATIENCE, "the handshake never ends");
            association.go_on();
        }
        assert_eq!(association.shown.as_deref(), Some(certificate));
        association
    }

    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.dtls.send_application_data(bytes).unwrap();
        self.flush();
    }

    /// What comes within a tick.
    pub(crate) fn receive(&mut self) -> Vec<Vec<u8>> {
        self.go_on();
        std::mem::take(&mut self.received)
    }

    fn go_on(&mut self) {
        self.dtls.handle_timeout(Instant::now()).unwrap();
        self.flush();
        let mut datagram = [0; 4096];
        if let Some(length) = or_nothing(self.socket.recv(&mut datagram)) {
            self.dtls.handle_packet(&datagram[..length]).unwrap();
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            let output = self.dtls.poll_output(&mut buffer);
            if let Output::Packet(packet) = output {
                self.socket.send(packet).unwrap();
            } else if let Output::ApplicationData(data) = output {
                self.received.push(data.to_vec());
            } else if let Output::PeerCert(certificate) = output {
                self.shown = Some(certificate.to_vec());
            } else if matches!(output, Output::Connected) {
                self.is_connected = true;
            } else if matches!(output, Output::Timeout(_)) {
                return;
            }
        }
    }
}

/// Says farewell, so that the server need not keep it.
impl Drop for Association {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.dtls.close().is_ok() {
            self.flush();
        }
    }
}
