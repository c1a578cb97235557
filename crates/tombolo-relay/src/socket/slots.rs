//! Receiving many datagrams per system call.

use std::{io, mem, net::SocketAddr, ops::Range, os::fd::AsRawFd, ptr};

use super::address::{Control, RawAddress, Told};

/// How many buffers one [`Slots`] holds, and so how many one system call can fill.
pub(crate) const SLOTS: usize = 32;

/// Datagrams that one slot can hold. The kernel puts no more into one buffer: 64 that it has brought
/// together, and since Linux 6.10 twice as many that somebody on this machine sent as one message.
pub(crate) const SEGMENTS_MAX: usize = 128;

/// The largest UDP payload, rounded up. Pages that no datagram reaches are never touched.
const SLOT_BYTES: usize = 64 * 1024;

/// Bytes in front of a slot's datagram that a header can be put into.
pub(crate) const FRONT_BYTES: usize = 64;

const PAGE: usize = 4096;

/// Room for a slot that begins anywhere in its first page.
const SLOT_STRIDE: usize = SLOT_BYTES + PAGE;

/// Memory for received datagrams. A slot holds one, or several of equal length (but for the last) from
/// one source, which the kernel hands over as one.
pub(crate) struct Slots {
    memory: Box<[u8]>,
    /// Where the first whole page is.
    first_page: usize,
    received: [Received; SLOTS],
    raw: Box<RawBatch>,
}

/// What is known of a slot's datagrams besides their bytes.
#[derive(Clone, Copy, Default)]
struct Received {
    len: usize,
    from: Option<SocketAddr>,
    told: Told,
}

impl Received {
    fn count(&self) -> usize {
        let segment = self.told.segment.unwrap_or(self.len).max(1);
        self.len.div_ceil(segment).max(1)
    }
}

impl Slots {
    pub(crate) fn new() -> Self {
        let memory = vec![0; SLOTS * SLOT_STRIDE + PAGE].into_boxed_slice();
        Self {
            first_page: memory.as_ptr().align_offset(PAGE),
            memory,
            received: [Received::default(); SLOTS],
            raw: RawBatch::new(),
        }
    }

    /// Receives what waits on `socket` into the slots of `range` and returns how many were filled,
    /// from the range's start; none when nothing waits.
    ///
    /// # Errors
    /// The kernel's, but for "would block" and "interrupted". An error that a peer caused (ICMP) is
    /// reported once and takes nothing away.
    pub(crate) fn receive(
        &mut self,
        socket: &impl AsRawFd,
        range: Range<usize>,
    ) -> io::Result<usize> {
        assert!(range.end <= SLOTS, "a batch has SLOTS slots");
        for (i, slot) in range.clone().enumerate() {
            let start = self.start(slot);
            self.raw.point(i, &mut self.memory[start..][..SLOT_BYTES]);
        }
        let received = match self.raw.receive(socket.as_raw_fd(), range.len()) {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    || error.kind() == io::ErrorKind::Interrupted =>
            {
                return Ok(0);
            }
            result => result?,
        };
        for (i, slot) in range.take(received).enumerate() {
            let message = &self.raw.headers[i];
            let header = &message.msg_hdr;
            self.received[slot] = Received {
                len: (message.msg_len as usize).min(SLOT_BYTES),
                from: self.raw.names[i].get(header.msg_namelen),
                told: Control::told(header),
            };
        }
        Ok(received)
    }

    /// All bytes in `slot`.
    pub(crate) fn bytes(&self, slot: usize) -> &[u8] {
        &self.memory[self.start(slot)..][..self.received[slot].len]
    }

    /// Writes `header` right in front of the byte `at` of a slot with a single datagram, so that both
    /// leave as one piece; `false` if there are others, which would be overwritten, or no room.
    pub(crate) fn put_in_front(&mut self, slot: usize, at: usize, header: &[u8]) -> bool {
        let can = header.len() <= FRONT_BYTES && self.count(slot) == 1;
        if can {
            let end = self.start(slot) + at;
            self.memory[end - header.len()..end].copy_from_slice(header);
        }
        can
    }

    /// The bytes in `range` of `slot`, and as many in front of them as were put there.
    pub(crate) fn with_front(&self, slot: usize, range: Range<usize>, front: usize) -> &[u8] {
        let start = self.start(slot);
        &self.memory[start + range.start - front..start + range.end]
    }

    /// How many datagrams are in `slot`; an empty one counts.
    pub(crate) fn count(&self, slot: usize) -> usize {
        self.received[slot].count().min(SEGMENTS_MAX)
    }

    /// How many datagrams of `slot` are lost, since it has more than it can hold.
    pub(crate) fn lost(&self, slot: usize) -> usize {
        self.received[slot].count().saturating_sub(SEGMENTS_MAX)
    }

    /// Where the `i`-th datagram of `slot` is among its [bytes](Self::bytes).
    pub(crate) fn range(&self, slot: usize, i: usize) -> Range<usize> {
        let Received { len, told, .. } = self.received[slot];
        let segment = told.segment.unwrap_or(len);
        (i * segment).min(len)..((i + 1) * segment).min(len)
    }

    /// Where the datagrams in `slot` came from; `None` for a family that the relay does not speak.
    pub(crate) fn from(&self, slot: usize) -> Option<SocketAddr> {
        self.received[slot].from
    }

    /// Where a slot begins in memory. Never near the start of a page or of its quarters: that is where
    /// the kernel's payloads lie, and some processors copy many times slower between addresses that
    /// differ by little more than a multiple of a page. And each in another place of its page, or the
    /// first lines of all slots would compete for the same few sets of the processor's cache.
    fn start(&self, slot: usize) -> usize {
        let in_quarter = 320 + 64 * (slot % 9);
        let quarter = slot / 9 % 4;
        self.first_page + slot * SLOT_STRIDE + quarter * (PAGE / 4) + in_quarter
    }

    /// The local address that the datagrams in `slot` came to, as far as the socket was told to
    /// report it.
    pub(crate) fn to(&self, slot: usize) -> Option<SocketAddr> {
        self.received[slot].told.to
    }
}

/// The arrays that `recvmmsg` works on. Pointers in it are set anew for each call and never read
/// after it.
struct RawBatch {
    names: [RawAddress; SLOTS],
    iovecs: [libc::iovec; SLOTS],
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
            iovecs: [iovec; SLOTS],
            controls: [Control::zeroed(); SLOTS],
            headers: [header; SLOTS],
        })
    }

    /// Lets header `i` point to its name and control, and to `bytes` as where to write.
    fn point(&mut self, i: usize, bytes: &mut [u8]) {
        self.iovecs[i] = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let header = &mut self.headers[i].msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[i]).cast();
        header.msg_namelen = RawAddress::SIZE;
        header.msg_iov = &raw mut self.iovecs[i];
        header.msg_iovlen = 1;
        header.msg_control = self.controls[i].as_mut_ptr();
        header.msg_controllen = Control::SIZE as _;
        header.msg_flags = 0;
    }

    /// Fills the first `count` headers, which were pointed to slots by whoever calls.
    fn receive(&mut self, fd: i32, count: usize) -> io::Result<usize> {
        if count == 1 {
            // SAFETY: the first header points to name, vector, slot and control of a `Slots` that is
            // borrowed mutably for the call.
            let len =
                unsafe { libc::recvmsg(fd, &raw mut self.headers[0].msg_hdr, libc::MSG_DONTWAIT) };
            let len = u32::try_from(len).map_err(|_| io::Error::last_os_error())?;
            self.headers[0].msg_len = len;
            return Ok(1);
        }
        // SAFETY: the first `count` headers point to names, vectors, slots and controls of a `Slots`
        // that is borrowed mutably for the call.
        let received = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{Outgoing, Sender, Trains, UdpSocket};

    #[test]
    fn slots_keep_their_distance_from_each_other_and_from_where_payloads_lie_in_pages() {
        let slots = Slots::new();
        let page = slots.memory.as_ptr().addr() + slots.first_page;
        assert!(page.is_multiple_of(PAGE));
        let starts: Vec<usize> = (0..SLOTS).map(|slot| slots.start(slot)).collect();
        for (slot, start) in starts.iter().enumerate() {
            let in_quarter = (start - slots.first_page) % (PAGE / 4);
            assert!((FRONT_BYTES..=900).contains(&in_quarter), "slot {slot}");
            let next = starts.get(slot + 1).copied();
            let end = next.unwrap_or(slots.memory.len());
            assert!(start + SLOT_BYTES <= end - next.map_or(0, |_| FRONT_BYTES));
        }
    }

    #[test]
    fn a_slot_has_all_that_was_sent_as_one_message_and_says_what_it_cannot_hold() {
        let mut slots = Slots::new();
        for (datagrams, count, lost) in [(1, 1, 0), (64, 64, 0), (128, 128, 0), (130, 128, 2)] {
            slots.received[0] = Received {
                len: datagrams * 400 - 100,
                from: None,
                told: Told {
                    segment: Some(400),
                    ..Told::default()
                },
            };
            assert_eq!((slots.count(0), slots.lost(0)), (count, lost));
            let last = slots.range(0, count - 1);
            let end = slots.bytes(0).len().min(count * 400);
            assert_eq!(last, (count - 1) * 400..end);
        }
    }

    #[test]
    fn a_header_fits_in_front_of_a_datagram_but_not_among_several() {
        let address = "127.0.0.1:0".parse().expect("a literal");
        let socket = UdpSocket::bind_relay(address).expect("loopback is there");
        let to = socket.local_addr().expect("it is bound");
        let mut slots = Slots::new();
        let mut receive = |payloads: &[&[u8]]| {
            let packets = payloads.iter().map(|payload| Outgoing {
                to,
                source: None,
                header: &[],
                payload,
                padding: 0,
            });
            Sender::new(Trains::Joined).send(&socket, packets);
            assert_eq!(slots.receive(&socket, 0..1).expect("it works"), 1);
            let done = slots.put_in_front(0, 2, b"head");
            (
                done,
                slots.bytes(0).to_vec(),
                slots.with_front(0, 2..4, 4).to_vec(),
            )
        };

        let (done, bytes, whole) = receive(&[b"..ab"]);
        assert!(done);
        assert_eq!((&bytes[2..], &whole[..]), (&b"ab"[..], &b"headab"[..]));
        let (done, bytes, _) = receive(&[b"..ab", b"..cd"]);
        assert!(!done, "it would stand where the datagram before is");
        assert_eq!(bytes, b"..ab..cd");
        assert!(!slots.put_in_front(0, 0, &[0; FRONT_BYTES + 1]));
    }
}
