//! Many datagrams per system call.

use std::{
    io, mem,
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::AsRawFd,
    ptr,
};

use super::{
    UdpSocket,
    address::{Control, RawAddress},
};

/// How many datagrams one [`Slots`] holds, and so how many one system call can move.
pub(crate) const SLOTS: usize = 32;

/// The largest UDP payload, rounded up. Pages that no datagram reaches are never touched.
const SLOT_BYTES: usize = 64 * 1024;

/// From one slot to the next: not a power of two, or the first lines of all slots would compete for
/// the same few sets of the processor's cache.
const SLOT_STRIDE: usize = SLOT_BYTES + 17 * 64;

/// Header, payload and padding.
const VECTORS: usize = 3;

/// What padding is made of.
const ZEROS: [u8; 3] = [0; 3];

/// Memory for received datagrams, each with its source and the local address it came to.
pub(crate) struct Slots {
    memory: Box<[u8]>,
    datagrams: [Datagram; SLOTS],
    raw: Box<RawBatch>,
}

/// What is known of a received datagram besides its bytes.
#[derive(Clone, Copy)]
struct Datagram {
    len: usize,
    from: Option<SocketAddr>,
    to: Option<IpAddr>,
}

impl Slots {
    pub(crate) fn new() -> Self {
        let empty = Datagram {
            len: 0,
            from: None,
            to: None,
        };
        Self {
            memory: vec![0; SLOTS * SLOT_STRIDE].into_boxed_slice(),
            datagrams: [empty; SLOTS],
            raw: RawBatch::new(),
        }
    }

    /// Receives what waits on `socket` into the slots of `range` and returns how many were filled,
    /// from the range's start; none when nothing waits.
    ///
    /// # Errors
    /// The kernel's, but for "would block" and "interrupted".
    pub(crate) fn receive(&mut self, socket: &UdpSocket, range: Range<usize>) -> io::Result<usize> {
        assert!(range.end <= SLOTS, "a batch has SLOTS slots");
        let count = range.len();
        for (i, slot) in range.clone().enumerate() {
            let bytes = &mut self.memory[slot * SLOT_STRIDE..][..SLOT_BYTES];
            self.raw.iovecs[i][0] = libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            };
            self.raw.point(i, RawAddress::SIZE, 1);
            if socket.is_wildcard() {
                self.raw.headers[i].msg_hdr.msg_control = self.raw.controls[i].as_mut_ptr();
                self.raw.headers[i].msg_hdr.msg_controllen = Control::len() as _;
            }
        }
        // SAFETY: the first `count` headers point to names, vectors, slots and controls of `self`,
        // which is borrowed mutably for the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.raw.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let Ok(received) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) {
                return Ok(0);
            }
            return Err(error);
        };
        for (i, slot) in range.take(received).enumerate() {
            let message = &self.raw.headers[i];
            let header = &message.msg_hdr;
            self.datagrams[slot] = Datagram {
                len: (message.msg_len as usize).min(SLOT_BYTES),
                from: self.raw.names[i].get(header.msg_namelen),
                to: if socket.is_wildcard() {
                    Control::destination(header)
                } else {
                    None
                },
            };
        }
        Ok(received)
    }

    /// The bytes of the datagram in `slot`.
    pub(crate) fn data(&self, slot: usize) -> &[u8] {
        &self.memory[slot * SLOT_STRIDE..][..self.datagrams[slot].len]
    }

    /// Where the datagram in `slot` came from; `None` for a family that the relay does not speak.
    pub(crate) fn from(&self, slot: usize) -> Option<SocketAddr> {
        self.datagrams[slot].from
    }

    /// The local IP that the datagram in `slot` came to; only known on wildcard sockets.
    pub(crate) fn local_ip(&self, slot: usize) -> Option<IpAddr> {
        self.datagrams[slot].to
    }
}

/// One datagram to send: `header`, `payload` and `padding` zero bytes leave back to back without being
/// copied together.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) to: SocketAddr,
    /// The local IP to send from; only for wildcard sockets.
    pub(crate) source: Option<IpAddr>,
    pub(crate) header: &'a [u8],
    pub(crate) payload: &'a [u8],
    /// 0 to 3.
    pub(crate) padding: usize,
}

/// What became of the datagrams of one [`Sender::send`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Taken by the kernel.
    pub(crate) sent: u64,
    /// Dropped because the socket's send buffer was full.
    pub(crate) congested: u64,
    /// Refused by the kernel: too long, no route, forbidden by a firewall.
    pub(crate) refused: u64,
}

/// Scratch space for batched sending.
pub(crate) struct Sender {
    raw: Box<RawBatch>,
}

impl Sender {
    pub(crate) fn new() -> Self {
        Self {
            raw: RawBatch::new(),
        }
    }

    /// Sends the first [`SLOTS`] of `packets` through `socket` in order. Never blocks: what the
    /// socket can't take is dropped and counted, as a router would.
    pub(crate) fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        packets: impl Iterator<Item = Outgoing<'a>>,
    ) -> Sent {
        let mut count = 0;
        for packet in packets.take(SLOTS) {
            self.put(count, &packet);
            count += 1;
        }
        self.flush(socket, count)
    }

    fn put(&mut self, i: usize, packet: &Outgoing<'_>) {
        let raw = &mut *self.raw;
        let name_len = raw.names[i].set(packet.to);
        raw.iovecs[i] = [packet.header, packet.payload, &ZEROS[..packet.padding]].map(iovec);
        raw.point(i, name_len, VECTORS);
        if let Some(source) = packet.source {
            let control = &mut raw.controls[i];
            let len = control.set_source(source);
            raw.headers[i].msg_hdr.msg_control = control.as_mut_ptr();
            raw.headers[i].msg_hdr.msg_controllen = len as _;
        }
    }

    fn flush(&mut self, socket: &UdpSocket, count: usize) -> Sent {
        let mut result = Sent::default();
        let mut next = 0;
        while next < count {
            // SAFETY: the headers from `next` to `count` point to names, vectors and controls of
            // `self` and, through the vectors, to bytes that `send`'s caller keeps borrowed.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.raw.headers[next..].as_mut_ptr(),
                    (count - next) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            if let Ok(sent) = usize::try_from(sent) {
                result.sent += sent as u64;
                next += sent.max(1);
                continue;
            }
            let kind = io::Error::last_os_error().kind();
            if kind == io::ErrorKind::WouldBlock {
                result.congested += (count - next) as u64;
                return result;
            }
            if kind != io::ErrorKind::Interrupted {
                // The error is the first message's alone: the others may go elsewhere.
                result.refused += 1;
                next += 1;
            }
        }
        result
    }
}

/// The arrays that `recvmmsg` and `sendmmsg` work on. Pointers in it are set anew for each call and
/// never read after it.
struct RawBatch {
    names: [RawAddress; SLOTS],
    iovecs: [[libc::iovec; VECTORS]; SLOTS],
    controls: [Control; SLOTS],
    headers: [libc::mmsghdr; SLOTS],
}

// SAFETY: the raw pointers inside are scratch values of a call that is over; whoever holds the value
// sets them before the next one.
unsafe impl Send for RawBatch {}

impl RawBatch {
    fn new() -> Box<Self> {
        // SAFETY: all-zero bytes are valid for these structs of integers and nullable pointers.
        let (iovec, header) =
            unsafe { (mem::zeroed::<libc::iovec>(), mem::zeroed::<libc::mmsghdr>()) };
        Box::new(Self {
            names: [RawAddress::zeroed(); SLOTS],
            iovecs: [[iovec; VECTORS]; SLOTS],
            controls: [Control::zeroed(); SLOTS],
            headers: [header; SLOTS],
        })
    }

    /// Lets header `i` point to name and vectors `i`, without ancillary data.
    fn point(&mut self, i: usize, name_len: libc::socklen_t, iovecs: usize) {
        let header = &mut self.headers[i].msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[i]).cast();
        header.msg_namelen = name_len;
        header.msg_iov = self.iovecs[i].as_mut_ptr();
        header.msg_iovlen = iovecs as _;
        header.msg_control = ptr::null_mut();
        header.msg_controllen = 0;
    }
}

/// A vector for sending: the kernel only reads through it, whatever its type says.
fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (UdpSocket, SocketAddr) {
        let address = "127.0.0.1:0".parse().expect("a literal");
        let socket = UdpSocket::bind_exclusive(address).expect("loopback is there");
        let address = socket.local_addr().expect("it is bound");
        (socket, address)
    }

    #[test]
    fn a_batch_arrives_whole_and_in_order_with_its_headers() {
        let (a, a_address) = socket();
        let (b, b_address) = socket();
        let payloads: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i; usize::from(i) * 100]).collect();
        let packets = payloads.iter().map(|payload| Outgoing {
            to: b_address,
            source: None,
            header: b"head",
            payload,
            padding: 3,
        });

        let sent = Sender::new().send(&a, packets);

        assert_eq!(sent.sent, 5);
        let mut slots = Slots::new();
        assert_eq!(slots.receive(&b, 2..SLOTS).expect("it works"), 5);
        for (i, payload) in payloads.iter().enumerate() {
            assert_eq!(&slots.data(2 + i)[..4], b"head");
            let (data, padding) = slots.data(2 + i)[4..].split_at(payload.len());
            assert_eq!((data, padding), (&payload[..], &[0; 3][..]));
            assert_eq!(slots.from(2 + i), Some(a_address));
        }
        assert_eq!(slots.receive(&b, 0..SLOTS).expect("it works"), 0);
    }

    #[test]
    fn a_packet_that_the_kernel_refuses_does_not_stop_the_others() {
        let (a, _) = socket();
        let (b, b_address) = socket();
        let too_long = vec![0; 66_000];
        let packet = |payload| Outgoing {
            to: b_address,
            source: None,
            header: b"",
            payload,
            padding: 0,
        };

        let packets = [packet(b"1"), packet(&too_long), packet(b"2")];
        let sent = Sender::new().send(&a, packets.into_iter());

        assert_eq!((sent.sent, sent.refused), (2, 1));
        assert_eq!(Slots::new().receive(&b, 0..SLOTS).expect("it works"), 2);
    }

    #[test]
    fn a_wildcard_socket_knows_its_local_ip_and_answers_from_it() {
        let wildcard = UdpSocket::bind_server("0.0.0.0:0".parse().expect("a literal"))
            .expect("loopback is there");
        let port = wildcard.local_addr().expect("it is bound").port();
        let local: IpAddr = "127.0.0.7".parse().expect("a literal");
        let (client, client_address) = socket();
        let ping = Outgoing {
            to: (local, port).into(),
            source: None,
            header: b"",
            payload: b"ping",
            padding: 0,
        };

        Sender::new().send(&client, [ping].into_iter());
        let mut slots = Slots::new();
        assert_eq!(slots.receive(&wildcard, 0..4).expect("it works"), 1);
        assert_eq!(slots.local_ip(0), Some(local));
        let pong = Outgoing {
            to: client_address,
            source: slots.local_ip(0),
            header: b"",
            payload: b"pong",
            padding: 0,
        };
        Sender::new().send(&wildcard, [pong].into_iter());

        assert_eq!(slots.receive(&client, 0..4).expect("it works"), 1);
        assert_eq!(slots.from(0), Some((local, port).into()));
    }
}
