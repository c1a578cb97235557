//! Many datagrams per system call, each with a source address and a segment size of its own.
//!
//! The generator plays thousands of clients and peers from two sockets, so every datagram of a batch
//! names the address that it leaves from; the safe wrappers of `sendmmsg` give one set of control
//! messages to the whole batch. That is why this module, and no other of the crate, holds `unsafe`.
#![expect(
    unsafe_code,
    reason = "recvmmsg and sendmmsg with control messages for each datagram have no safe wrapper"
)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

/// An IPv4 UDP socket with large buffers. Bound to the unspecified address it can speak from every
/// address that the namespace takes for its own.
pub(crate) struct UdpSocket(Socket);

impl UdpSocket {
    pub(crate) fn bind(address: SocketAddrV4) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.set_send_buffer_size(BUFFER_BYTES)?;
        socket.bind(&address.into())?;
        Ok(Self(socket))
    }

    /// Wants the local address of each datagram: [`Inbox::to`].
    pub(crate) fn report_destination(&self) -> io::Result<()> {
        Ok(setsockopt(&self.0, sockopt::Ipv4PacketInfo, &true)?)
    }

    /// Wants bursts in one piece: [`Inbox::segment`].
    pub(crate) fn receive_bursts(&self) -> io::Result<()> {
        Ok(setsockopt(&self.0, sockopt::UdpGroSegment, &true)?)
    }

    /// Sends one datagram from the bound address, as the most common servers do.
    pub(crate) fn send_to(&self, data: &[u8], to: SocketAddrV4) -> io::Result<usize> {
        let name = raw_address(to);
        // SAFETY: the kernel reads `data` and `name`, both borrowed for the call.
        let sent = unsafe {
            libc::sendto(
                self.as_raw_fd(),
                data.as_ptr().cast(),
                data.len(),
                0,
                (&raw const name).cast(),
                NAME_BYTES,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl std::os::fd::AsFd for UdpSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What one system call received.
pub(crate) struct Inbox {
    raw: Raw,
    headroom: usize,
}

impl Inbox {
    /// Room for `slots` datagrams of up to `bytes` bytes, behind `headroom` bytes left free in front
    /// of each.
    pub(crate) fn new(slots: usize, bytes: usize, headroom: usize) -> Self {
        Self {
            raw: Raw::new(slots, headroom + bytes),
            headroom,
        }
    }

    /// Takes what waits on `socket`, without waiting, and returns how many datagrams (or bursts) that
    /// is.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let count = self.raw.headers.len();
        for slot in 0..count {
            let headroom = self.headroom;
            let bytes = &mut self.raw.slot(slot)[headroom..];
            self.raw.vectors[slot] = libc::iovec {
                iov_base: bytes.as_mut_ptr().cast(),
                iov_len: bytes.len(),
            };
            self.raw.point(slot);
        }
        // SAFETY: the headers point to names, vectors, memory and controls of `self`, which is
        // borrowed mutably for the call, and there are `count` of each.
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
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                error => Err(error),
            };
        };
        let mut filled = self.raw.headers[..received].iter();
        if filled.any(|header| header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0) {
            return Err(io::Error::other("a datagram is longer than its slot"));
        }
        Ok(received)
    }

    pub(crate) fn data(&self, slot: usize) -> &[u8] {
        let start = self.raw.at(slot) + self.headroom;
        &self.raw.memory[start..][..self.raw.headers[slot].msg_len as usize]
    }

    /// The datagram with `front` bytes of the headroom before it.
    pub(crate) fn data_with_front(&mut self, slot: usize, front: usize) -> &mut [u8] {
        let start = self.raw.at(slot) + self.headroom - front;
        &mut self.raw.memory[start..][..front + self.raw.headers[slot].msg_len as usize]
    }

    pub(crate) fn from(&self, slot: usize) -> SocketAddrV4 {
        let name = &self.raw.names[slot];
        let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
        SocketAddrV4::new(ip, u16::from_be(name.sin_port))
    }

    /// The local address that the datagram came to; known after [`UdpSocket::report_destination`].
    pub(crate) fn to(&self, slot: usize) -> Option<Ipv4Addr> {
        let mut to = None;
        self.raw.each_control(slot, |level, kind, data| {
            if (level, kind) == (libc::IPPROTO_IP, libc::IP_PKTINFO)
                && data.len() >= size_of::<libc::in_pktinfo>()
            {
                // SAFETY: there are enough bytes, and any bytes make an `in_pktinfo`.
                let info: libc::in_pktinfo = unsafe { ptr::read_unaligned(data.as_ptr().cast()) };
                to = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)));
            }
        });
        to
    }

    /// The size of the datagrams that [`Self::data`] is made of; `None` when it is a single one.
    pub(crate) fn segment(&self, slot: usize) -> Option<usize> {
        let mut size = None;
        self.raw.each_control(slot, |level, kind, data| {
            if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO)
                && let Some(bytes) = data.first_chunk::<4>()
            {
                size = usize::try_from(i32::from_ne_bytes(*bytes)).ok();
            }
        });
        size.filter(|size| *size > 0)
    }
}

/// Datagrams to be sent by one system call.
pub(crate) struct Outbox {
    raw: Raw,
    len: usize,
}

/// Where a datagram, or a burst of them, goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The address to leave from; the socket's own if `None`.
    pub(crate) from: Option<Ipv4Addr>,
    pub(crate) to: SocketAddrV4,
    /// Cut into datagrams of this size by the kernel.
    pub(crate) segment: Option<u16>,
}

impl Outbox {
    /// Room for `slots` datagrams, or bursts, of up to `bytes` bytes.
    pub(crate) fn new(slots: usize, bytes: usize) -> Self {
        Self {
            raw: Raw::new(slots, bytes),
            len: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == self.raw.headers.len()
    }

    /// Adds a datagram of `len` bytes, which `write` fills in; it finds there what the last datagram
    /// in this place left.
    ///
    /// # Panics
    /// When the outbox is full, or the datagram too long.
    pub(crate) fn push(&mut self, route: Route, len: usize, write: impl FnOnce(&mut [u8])) {
        assert!(!self.is_full(), "flush a full outbox before adding to it");
        let slot = self.len;
        let bytes = &mut self.raw.slot(slot)[..len];
        write(bytes);
        self.raw.vectors[slot] = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: len,
        };
        self.raw.names[slot] = raw_address(route.to);
        self.raw.point(slot);
        self.raw.set_controls(slot, route.from, route.segment);
        self.len += 1;
    }

    /// Sends what was added, waiting for room in the socket's buffer, and empties the outbox.
    pub(crate) fn flush(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let mut next = 0;
        let len = mem::take(&mut self.len);
        while next < len {
            // Pointers are made anew, as those of earlier calls end with later borrows.
            for slot in next..len {
                let bytes = self.raw.slot(slot).as_mut_ptr();
                self.raw.vectors[slot].iov_base = bytes.cast();
            }
            // SAFETY: the headers from `next` to `len` point to names, vectors, memory and controls of
            // `self`, which is borrowed for the call.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.raw.headers[next..].as_mut_ptr(),
                    (len - next) as libc::c_uint,
                    0,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => next += sent,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// The arrays that the system calls work on. Their pointers are set before each call.
struct Raw {
    memory: Box<[u8]>,
    /// Where the first slot is.
    first: usize,
    /// From one slot to the next, but for [`Raw::at`].
    stride: usize,
    /// The length of a slot.
    bytes: usize,
    names: Box<[libc::sockaddr_in]>,
    vectors: Box<[libc::iovec]>,
    controls: Box<[Control]>,
    headers: Box<[libc::mmsghdr]>,
}

/// Room for two control messages, aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl Raw {
    fn new(slots: usize, bytes: usize) -> Self {
        let stride = bytes.next_multiple_of(BLOCK) + BLOCK;
        let memory = vec![0; slots * stride + 2 * PAGE].into_boxed_slice();
        let first = memory.as_ptr().align_offset(PAGE) + FIRST;
        // SAFETY: all-zero bytes are valid for these structs of integers and nullable pointers.
        let (name, vector, header) = unsafe {
            (
                mem::zeroed::<libc::sockaddr_in>(),
                mem::zeroed::<libc::iovec>(),
                mem::zeroed::<libc::mmsghdr>(),
            )
        };
        Self {
            memory,
            first,
            stride,
            bytes,
            names: vec![name; slots].into_boxed_slice(),
            vectors: vec![vector; slots].into_boxed_slice(),
            controls: vec![Control([0; CONTROL_BYTES]); slots].into_boxed_slice(),
            headers: vec![header; slots].into_boxed_slice(),
        }
    }

    /// Where a slot begins. Processors with fast short `rep movsb` copy twenty times slower when the
    /// destination is 1 to 16 bytes behind the source, seen within their pages. The kernel's own
    /// buffers begin in the first lines of blocks of 1 KiB, so slots keep away from these. Nor do
    /// all begin in the same sets of the cache.
    fn at(&self, slot: usize) -> usize {
        self.first + slot * self.stride + slot % 8 * 64
    }

    fn slot(&mut self, slot: usize) -> &mut [u8] {
        let start = self.at(slot);
        &mut self.memory[start..][..self.bytes]
    }

    /// Points the header of `slot` to its name, vector and the whole of its control buffer.
    fn point(&mut self, slot: usize) {
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_name = (&raw mut self.names[slot]).cast();
        header.msg_namelen = NAME_BYTES;
        header.msg_iov = &raw mut self.vectors[slot];
        header.msg_iovlen = 1;
        header.msg_control = self.controls[slot].0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES as _;
        header.msg_flags = 0;
    }

    fn set_controls(&mut self, slot: usize, from: Option<Ipv4Addr>, segment: Option<u16>) {
        let bytes = &mut self.controls[slot].0;
        let mut len = 0;
        if let Some(from) = from {
            let mut info = [0; size_of::<libc::in_pktinfo>()];
            // The middle one of three words: the address to send from.
            info[4..8].copy_from_slice(&from.octets());
            len += put_control(&mut bytes[len..], libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        if let Some(segment) = segment {
            let size = segment.to_ne_bytes();
            len += put_control(&mut bytes[len..], libc::SOL_UDP, libc::UDP_SEGMENT, &size);
        }
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_controllen = len as _;
        if len == 0 {
            header.msg_control = ptr::null_mut();
        }
    }

    /// Calls `f` with level, type and data of each control message that the kernel wrote.
    fn each_control(&self, slot: usize, mut f: impl FnMut(i32, i32, &[u8])) {
        let len = self.headers[slot].msg_hdr.msg_controllen;
        let mut rest = &self.controls[slot].0[..len.min(CONTROL_BYTES)];
        while let Some(head) = rest.first_chunk::<CONTROL_HEAD>() {
            let word = |at: usize| {
                i32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            let size =
                usize::from_ne_bytes(*head.first_chunk().expect("a head has a size in front"));
            let Some(data) = rest.get(CONTROL_HEAD..size) else {
                return;
            };
            f(word(8), word(12), data);
            rest = rest.get(size.next_multiple_of(8)..).unwrap_or_default();
        }
    }
}

/// Writes one control message and returns the bytes it takes.
fn put_control(to: &mut [u8], level: i32, kind: i32, data: &[u8]) -> usize {
    let size = CONTROL_HEAD + data.len();
    to[..8].copy_from_slice(&size.to_ne_bytes());
    to[8..12].copy_from_slice(&level.to_ne_bytes());
    to[12..16].copy_from_slice(&kind.to_ne_bytes());
    to[CONTROL_HEAD..size].copy_from_slice(data);
    size.next_multiple_of(8)
}

fn raw_address(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// As much as `net.core.rmem_max` and `wmem_max` grant of it.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;
const PAGE: usize = 4096;
const BLOCK: usize = 1024;
const FIRST: usize = 320;
const NAME_BYTES: libc::socklen_t = size_of::<libc::sockaddr_in>() as _;
/// Length, level and type.
const CONTROL_HEAD: usize = size_of::<libc::cmsghdr>();
const CONTROL_BYTES: usize = 64;
const _: () = assert!(
    CONTROL_HEAD == 16 && size_of::<usize>() == 8,
    "a 64-bit Linux"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_datagram_of_a_batch_has_its_own_source_address() {
        let any = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let (there, address) = bound();
        there.report_destination().expect("the kernel tells");
        let mut outbox = Outbox::new(3, 16);
        for last in 1..=3 {
            let from = Some(Ipv4Addr::new(127, 0, 0, last));
            let route = Route {
                from,
                to: address,
                segment: None,
            };
            outbox.push(route, 1, |bytes| bytes[0] = last);
        }
        outbox.flush(&any).expect("loopback takes them");

        let mut inbox = Inbox::new(8, 16, 4);
        assert_eq!(inbox.receive(&there).expect("it works"), 3);
        for (slot, last) in [1, 2, 3].into_iter().enumerate() {
            assert_eq!(inbox.data(slot), [last]);
            assert_eq!(*inbox.from(slot).ip(), Ipv4Addr::new(127, 0, 0, last));
            assert_eq!(inbox.to(slot), Some(*address.ip()));
            assert_eq!(inbox.data_with_front(slot, 4).len(), 5);
        }
        assert_eq!(inbox.receive(&there).expect("it works"), 0);
    }

    #[test]
    fn a_burst_arrives_in_one_piece_with_its_segment_size() {
        let (here, _) = bound();
        let (there, address) = bound();
        there.receive_bursts().expect("the kernel can");
        send_burst(&here, address);

        let mut inbox = Inbox::new(8, 64, 0);
        assert_eq!(inbox.receive(&there).expect("it works"), 1);
        assert_eq!((inbox.data(0).len(), inbox.segment(0)), (40, Some(10)));
    }

    #[test]
    fn a_burst_is_single_datagrams_for_who_does_not_ask() {
        let (here, _) = bound();
        let (there, address) = bound();
        send_burst(&here, address);

        let mut inbox = Inbox::new(8, 64, 0);
        assert_eq!(inbox.receive(&there).expect("it works"), 4);
        assert_eq!((inbox.data(3).len(), inbox.segment(3)), (10, None));
    }

    #[test]
    fn a_datagram_that_does_not_fit_is_an_error() {
        let (here, _) = bound();
        let (there, address) = bound();
        here.send_to(&[0; 2000], address)
            .expect("loopback takes it");
        assert!(Inbox::new(1, 64, 0).receive(&there).is_err());
    }

    /// Four datagrams of 10 bytes in one piece.
    fn send_burst(from: &UdpSocket, to: SocketAddrV4) {
        let mut outbox = Outbox::new(1, 64);
        let route = Route {
            from: None,
            to,
            segment: Some(10),
        };
        outbox.push(route, 40, |bytes| bytes.fill(7));
        outbox.flush(from).expect("loopback takes it");
    }

    fn bound() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = socket.0.local_addr().expect("it is bound");
        (socket, address.as_socket_ipv4().expect("it is IPv4"))
    }
}
