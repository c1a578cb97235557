//! Socket addresses in the kernel's shape and back.

use std::{
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

/// Room for an IPv4 or an IPv6 socket address as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union RawAddress {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddress {
    pub(super) const SIZE: libc::socklen_t = size_of::<Self>() as libc::socklen_t;

    pub(super) fn zeroed() -> Self {
        // SAFETY: all-zero bytes are a valid value of each of the union's plain-data variants.
        unsafe { mem::zeroed() }
    }

    /// Writes `address` and returns how many bytes of `self` the kernel has to read.
    pub(super) fn set(&mut self, address: SocketAddr) -> libc::socklen_t {
        match address {
            SocketAddr::V4(address) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: in_addr(*address.ip()),
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as libc::socklen_t
            }
            SocketAddr::V6(address) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: in6_addr(*address.ip()),
                    sin6_scope_id: address.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
        }
    }

    /// Reads the address of which the kernel wrote `len` bytes; `None` if it is of another family.
    pub(super) fn get(&self, len: libc::socklen_t) -> Option<SocketAddr> {
        if (len as usize) < size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: every variant starts with the family, and every bit pattern is a valid integer.
        match i32::from(unsafe { self.family }) {
            libc::AF_INET => {
                // SAFETY: the family says that the kernel wrote a sockaddr_in, which is plain data.
                let raw = unsafe { self.v4 };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 if len as usize >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: the family says that the kernel wrote a sockaddr_in6, which is plain data.
                let raw = unsafe { self.v6 };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Room for the ancillary messages of one datagram: where it came to, what it was received with, how
/// it is to be sent.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; 160]);

/// What the kernel tells of a received datagram besides its source.
#[derive(Clone, Copy, Default)]
pub(super) struct Told {
    /// The local IP it came to (`IP_PKTINFO`), or IP and port (`IP_RECVORIGDSTADDR`; without it the
    /// port is 0).
    pub(super) to: Option<SocketAddr>,
    /// How long each of the datagrams is that arrived as one (`UDP_GRO`); the last may be shorter.
    pub(super) segment: Option<usize>,
}

impl Control {
    pub(super) const SIZE: usize = size_of::<Self>();

    pub(super) fn zeroed() -> Self {
        Self([0; _])
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr().cast()
    }

    /// Writes "send from `source`" behind the first `used` bytes and returns how many are used then.
    pub(super) fn put_source(&mut self, used: usize, source: IpAddr) -> usize {
        match source {
            IpAddr::V4(ip) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr(ip),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                self.put(used, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(ip) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: in6_addr(ip),
                    ipi6_ifindex: 0,
                };
                self.put(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }

    /// Writes "cut into datagrams of `bytes` each" behind the first `used` bytes and returns how many
    /// are used then.
    pub(super) fn put_segment(&mut self, used: usize, bytes: u16) -> usize {
        self.put(used, libc::SOL_UDP, libc::UDP_SEGMENT, bytes)
    }

    /// What the ancillary data of a received message says.
    pub(super) fn told(header: &libc::msghdr) -> Told {
        let mut told = Told::default();
        for (level, kind, data) in messages(header) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    // SAFETY: the kernel puts an in_pktinfo behind this level and type.
                    let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
                    let ip = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                    told.to = told.to.or_else(|| Some((ip, 0).into()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    // SAFETY: the kernel puts an in6_pktinfo behind this level and type.
                    let info = unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() };
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    told.to = told.to.or_else(|| Some((ip, 0).into()));
                }
                (libc::IPPROTO_IP, libc::IP_ORIGDSTADDR) => {
                    // SAFETY: the kernel puts a sockaddr_in behind this level and type.
                    let v4 = unsafe { data.cast::<libc::sockaddr_in>().read_unaligned() };
                    told.to = RawAddress { v4 }.get(size_of_val(&v4) as libc::socklen_t);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_ORIGDSTADDR) => {
                    // SAFETY: the kernel puts a sockaddr_in6 behind this level and type.
                    let v6 = unsafe { data.cast::<libc::sockaddr_in6>().read_unaligned() };
                    told.to = RawAddress { v6 }.get(size_of_val(&v6) as libc::socklen_t);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    // SAFETY: the kernel puts an int behind this level and type.
                    let bytes = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                    told.segment = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
                }
                _ => {}
            }
        }
        told
    }

    fn put<T>(&mut self, used: usize, level: i32, kind: i32, value: T) -> usize {
        // SAFETY: CMSG_LEN and CMSG_SPACE only compute numbers.
        let (len, space) = unsafe {
            let bytes = size_of::<T>() as u32;
            (
                libc::CMSG_LEN(bytes) as usize,
                libc::CMSG_SPACE(bytes) as usize,
            )
        };
        assert!(
            used + space <= Self::SIZE,
            "there is room for all that is ever put"
        );
        assert!(
            used.is_multiple_of(8),
            "messages are aligned like their headers"
        );
        let message = self.0[used..].as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: by the assertions and the type's alignment, `message` is aligned for a cmsghdr and
        // header, padding and value together fit into the array.
        unsafe {
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = len as _;
        }
        // SAFETY: as above; CMSG_DATA points right behind the header.
        unsafe { libc::CMSG_DATA(message).cast::<T>().write_unaligned(value) };
        used + space
    }
}

/// The ancillary messages of a header that came from the kernel: level, type, and where the value is.
pub(super) fn messages(header: &libc::msghdr) -> impl Iterator<Item = (i32, i32, *const u8)> {
    // SAFETY: the kernel filled msg_control and msg_controllen; the CMSG functions stay inside of them.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        let message = next;
        // SAFETY: a non-null result of the CMSG functions points to a whole cmsghdr.
        let (level, kind) = unsafe { ((*message).cmsg_level, (*message).cmsg_type) };
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(message) };
        // SAFETY: `message` is a message of `header`.
        next = unsafe { libc::CMSG_NXTHDR(header, message) };
        Some((level, kind, data.cast_const()))
    })
}

fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(ip.octets()),
    }
}

fn in6_addr(ip: Ipv6Addr) -> libc::in6_addr {
    libc::in6_addr {
        s6_addr: ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_round_trip() {
        for address in ["192.0.2.1:3478", "[2001:db8::1]:49152", "0.0.0.0:0"] {
            let address: SocketAddr = address.parse().expect("a literal");
            let mut raw = RawAddress::zeroed();
            let len = raw.set(address);
            assert_eq!(raw.get(len), Some(address));
        }
    }

    #[test]
    fn an_empty_address_is_none() {
        assert_eq!(RawAddress::zeroed().get(0), None);
    }
}
