//! A peer that sends everything back.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A socket on a thread that sends every datagram back; both end with the value.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Echo {
    /// Binds any port of the address.
    pub(crate) fn start(ip: &str) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        thread::spawn(move || {
            let mut datagram = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(&datagram[..length], from);
                }
            }
        });
        Self { address, is_over }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
