//! Sockets that send whole IP packets.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use socket2::{Domain, Protocol, Socket, Type};
use tombolo_turn::server::Fragment;

use super::udp::set_option;

/// Sends UDP datagrams from any port of the machine, each with the IP header that comes with it.
/// Receives nothing, which is why it is of this protocol and no other.
pub(crate) struct RawSocket {
    socket: Socket,
    is_v4: bool,
}

impl RawSocket {
    /// Opens a socket that sends packets of IPv4 or IPv6.
    ///
    /// # Errors
    /// The kernel's: without `CAP_NET_RAW` it is not permitted.
    pub(crate) fn open(is_v4: bool) -> io::Result<Self> {
        let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
        let protocol = Protocol::from(libc::IPPROTO_RAW);
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        // Best effort, as with the server sockets.
        let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
        if is_v4 {
            // Whoever made the kernel believe, by made-up ICMP, that a way is narrow has nothing cut up.
            let option = libc::IP_MTU_DISCOVER;
            set_option(&socket, libc::IPPROTO_IP, option, libc::IP_PMTUDISC_OMIT)?;
        }
        Ok(Self { socket, is_v4 })
    }

    /// Says whether what is sent from now on may be cut up here. Of IPv4 the header says so.
    pub(crate) fn set_fragment(&self, fragment: Fragment) -> io::Result<()> {
        if self.is_v4 {
            return Ok(());
        }
        let value = match fragment {
            Fragment::Allowed => libc::IPV6_PMTUDISC_WANT,
            // What the kernel has heard of the way may be made up, and it would send nothing longer.
            Fragment::Forbidden => libc::IPV6_PMTUDISC_PROBE,
        };
        let option = libc::IPV6_MTU_DISCOVER;
        set_option(&self.socket, libc::IPPROTO_IPV6, option, value)
    }
}

impl AsRawFd for RawSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024;
