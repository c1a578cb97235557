//! What `sendmmsg` is called with.

use std::{io, mem, net::IpAddr, ops::Range, os::fd::RawFd, ptr};

use super::address::{Control, RawAddress};

/// The arrays that `sendmmsg` works on. Pointers in it are set anew for each call and never read
/// after it.
pub(super) struct RawBatch {
    headers: [libc::mmsghdr; MESSAGES + 1],
    controls: [Control; MESSAGES + 1],
    pub(super) names: [RawAddress; MESSAGES],
    pub(super) name_lens: [libc::socklen_t; MESSAGES],
    pub(super) sources: [Option<IpAddr>; MESSAGES],
    /// Indexed by message; one more says where the last one ends.
    pub(super) first_packet: [usize; MESSAGES + 1],
    pub(super) lens: [usize; PACKETS],
    /// Indexed by packet; one more says where the last one ends.
    pub(super) first_vector: [usize; PACKETS + 1],
    pub(super) iovecs: [libc::iovec; PACKETS * VECTORS],
}

// SAFETY: the raw pointers inside are scratch values of a call that is over; whoever holds the value
// sets them before the next one.
unsafe impl Send for RawBatch {}

impl RawBatch {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all-zero bytes are valid for these structs of integers and nullable pointers.
        let (iovec, header) =
            unsafe { (mem::zeroed::<libc::iovec>(), mem::zeroed::<libc::mmsghdr>()) };
        Box::new(Self {
            headers: [header; MESSAGES + 1],
            controls: [Control::zeroed(); MESSAGES + 1],
            names: [RawAddress::zeroed(); MESSAGES],
            name_lens: [0; MESSAGES],
            sources: [None; MESSAGES],
            first_packet: [0; MESSAGES + 1],
            lens: [0; PACKETS],
            first_vector: [0; PACKETS + 1],
            iovecs: [iovec; PACKETS * VECTORS],
        })
    }

    pub(super) fn packets_of(&self, message: usize) -> Range<usize> {
        self.first_packet[message]..self.first_packet[message + 1]
    }

    /// Makes header `i` send some packets of `message`, joined if there are several.
    pub(super) fn prepare(&mut self, i: usize, message: usize, packets: Range<usize>) {
        let vectors = self.first_vector[packets.start]..self.first_vector[packets.end];
        let mut used = 0;
        if let Some(source) = self.sources[message] {
            used = self.controls[i].put_source(used, source);
        }
        if packets.len() > 1 {
            let segment = u16::try_from(self.lens[packets.start]).unwrap_or(u16::MAX);
            used = self.controls[i].put_segment(used, segment);
        }
        let header = &mut self.headers[i].msg_hdr;
        header.msg_name = ptr::from_mut(&mut self.names[message]).cast();
        header.msg_namelen = self.name_lens[message];
        header.msg_iov = self.iovecs[vectors.clone()].as_mut_ptr();
        header.msg_iovlen = vectors.len() as _;
        header.msg_control = match used {
            0 => ptr::null_mut(),
            _ => self.controls[i].as_mut_ptr(),
        };
        header.msg_controllen = used as _;
    }

    /// Sends what the headers of a range say and returns how many were taken, from its start.
    pub(super) fn send(&mut self, fd: RawFd, messages: Range<usize>) -> io::Result<usize> {
        let flags = libc::MSG_DONTWAIT;
        if messages.len() == 1 {
            let header = &self.headers[messages.start].msg_hdr;
            let sent = if header.msg_iovlen == 1 && header.msg_controllen == 0 {
                // SAFETY: `prepare` pointed the header to vectors of `self`.
                let piece = unsafe { *header.msg_iov };
                let (bytes, len) = (piece.iov_base, piece.iov_len);
                let (to, to_len) = (header.msg_name.cast(), header.msg_namelen);
                // SAFETY: as below. Simpler for the kernel, since there is no header to read.
                unsafe { libc::sendto(fd, bytes, len, flags, to, to_len) }
            } else {
                // SAFETY: `prepare` pointed the header to name, vectors and control of `self` and,
                // through the vectors, to bytes that `Sender::send`'s caller keeps borrowed.
                unsafe { libc::sendmsg(fd, header, flags) }
            };
            return if sent < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(1)
            };
        }
        let headers = &mut self.headers[messages];
        // SAFETY: as above, for each of the headers.
        let sent = unsafe {
            libc::sendmmsg(
                fd,
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                flags as _,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) => Ok(sent.max(1)),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

/// A vector for sending: the kernel only reads through it, whatever its type says.
pub(super) fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    }
}

/// Messages that one system call sends.
pub(super) const MESSAGES: usize = 64;
/// Datagrams in the messages of one system call.
pub(super) const PACKETS: usize = 512;
/// Header, payload and padding.
pub(super) const VECTORS: usize = 3;
