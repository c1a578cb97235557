//! Sending many datagrams per system call, and many per message where the kernel can cut them apart.

use std::{
    hash::{BuildHasher as _, RandomState},
    io, mem,
    net::{IpAddr, SocketAddr},
    ops::AddAssign,
    os::fd::{AsRawFd, RawFd},
};

use super::batch::{MESSAGES, PACKETS, RawBatch, VECTORS, iovec};

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

impl Outgoing<'_> {
    fn len(&self) -> usize {
        self.header.len() + self.payload.len() + self.padding
    }
}

/// What became of the datagrams of one [`Sender::send`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Taken by the kernel.
    pub(crate) sent: u64,
    /// Of these, those that left together with others in one message.
    pub(crate) in_trains: u64,
    /// Dropped because the socket's send buffer was full.
    pub(crate) congested: u64,
    /// Refused by the kernel because they are too long for their way.
    pub(crate) too_long: u64,
    /// Refused by the kernel for other reasons: no route, forbidden by a firewall.
    pub(crate) refused: u64,
}

/// How a [`Sender`] sends datagrams of equal length to one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trains {
    /// In one message, cut apart by the kernel or the network card (`UDP_SEGMENT`).
    Joined,
    /// One by one.
    Single,
}

/// Scratch space for batched sending.
pub(crate) struct Sender {
    raw: Box<RawBatch>,
    /// Messages that wait for [`Self::flush`].
    messages: usize,
    /// Datagrams in them.
    packets: usize,
    /// Vectors in them.
    vectors: usize,
    /// What the last message looks like, for a datagram that may join it.
    last: Last,
    trains: Trains,
    /// Where trains were refused lately; by a hash of the IP.
    refused: Box<[Option<RefusedTrain>; REFUSED]>,
    /// How many those are.
    refused_count: usize,
    places: RandomState,
    /// Datagrams of the same [`Self::send`] before those that wait.
    before: usize,
    /// Places, among the packets of the last [`Self::send`], of those that were too long.
    too_long: Vec<usize>,
}

/// The kernel did not take a train to this IP.
#[derive(Clone, Copy)]
struct RefusedTrain {
    to: IpAddr,
    /// Datagrams of this length and above are sent there one by one: most likely they are longer than
    /// what fits the way in one piece.
    single_from: usize,
    /// For how many messages more that lasts.
    single_for: u32,
}

/// The message that was put last.
#[derive(Clone, Copy)]
struct Last {
    to: SocketAddr,
    source: Option<IpAddr>,
    segment: usize,
    bytes: usize,
    segments: usize,
    /// Whether another datagram may follow: none behind a shorter one.
    is_open: bool,
}

impl Sender {
    pub(crate) fn new(trains: Trains) -> Self {
        Self {
            raw: RawBatch::new(),
            messages: 0,
            packets: 0,
            vectors: 0,
            last: Last::NONE,
            trains,
            refused: Box::new([None; REFUSED]),
            refused_count: 0,
            places: RandomState::new(),
            before: 0,
            too_long: Vec::with_capacity(TOO_LONG_MAX),
        }
    }

    /// Sends `packets` through `socket` in order. Never blocks: what the socket can't take is dropped
    /// and counted, as a router would.
    pub(crate) fn send<'a>(
        &mut self,
        socket: &impl AsRawFd,
        packets: impl Iterator<Item = Outgoing<'a>>,
    ) -> Sent {
        self.too_long.clear();
        self.before = 0;
        let fd = socket.as_raw_fd();
        let mut result = Sent::default();
        for packet in packets {
            if self.packets == PACKETS {
                self.flush(fd, &mut result);
            }
            if !self.join(&packet) {
                if self.messages == MESSAGES {
                    self.flush(fd, &mut result);
                }
                self.start(&packet);
            }
            self.put(&packet);
        }
        self.flush(fd, &mut result);
        result
    }

    /// Which of the packets of the last [`Self::send`] were too long for their way, by their places.
    pub(crate) fn too_long(&self) -> &[usize] {
        &self.too_long
    }

    /// Whether the last message can take `packet` too.
    fn join(&mut self, packet: &Outgoing<'_>) -> bool {
        let len = packet.len();
        let last = &mut self.last;
        let can = last.is_open
            && len <= last.segment
            && len > 0
            && last.segments < TRAIN_SEGMENTS_MAX
            && last.bytes + len <= TRAIN_BYTES_MAX
            && last.to == packet.to
            && last.source == packet.source;
        if can {
            last.bytes += len;
            last.segments += 1;
            last.is_open = len == last.segment;
        }
        can
    }

    /// Begins a message to where `packet` goes.
    fn start(&mut self, packet: &Outgoing<'_>) {
        let i = self.messages;
        let raw = &mut *self.raw;
        raw.name_lens[i] = raw.names[i].set(packet.to);
        raw.sources[i] = packet.source;
        raw.first_packet[i] = self.packets;
        self.messages += 1;
        let segment = packet.len();
        let is_open = self.trains == Trains::Joined && !self.is_refused(packet.to.ip(), segment);
        self.last = Last {
            to: packet.to,
            source: packet.source,
            segment,
            bytes: segment,
            segments: 1,
            is_open,
        };
    }

    /// Whether a train of datagrams of that length was refused on its way to `to` lately. Counts the
    /// message that asks.
    fn is_refused(&mut self, to: IpAddr, segment: usize) -> bool {
        // Most of the time none was.
        if self.refused_count == 0 {
            return false;
        }
        let place = self.place_of(to);
        let found = self.refused[place].as_mut();
        let Some(refused) = found.filter(|one| one.to == to && segment >= one.single_from) else {
            return false;
        };
        refused.single_for -= 1;
        if refused.single_for == 0 {
            self.refused[place] = None;
            self.refused_count -= 1;
        }
        true
    }

    fn place_of(&self, to: IpAddr) -> usize {
        self.places.hash_one(to) as usize % REFUSED
    }

    /// Appends the bytes of `packet` to the last message.
    fn put(&mut self, packet: &Outgoing<'_>) {
        self.raw.first_vector[self.packets] = self.vectors;
        self.raw.lens[self.packets] = packet.len();
        for part in [packet.header, packet.payload, &ZEROS[..packet.padding]] {
            if !part.is_empty() {
                self.raw.iovecs[self.vectors] = iovec(part);
                self.vectors += 1;
            }
        }
        self.packets += 1;
    }

    /// Sends the messages that were put.
    fn flush(&mut self, fd: RawFd, result: &mut Sent) {
        let messages = mem::take(&mut self.messages);
        let packets = mem::take(&mut self.packets);
        self.raw.first_packet[messages] = packets;
        self.raw.first_vector[packets] = mem::take(&mut self.vectors);
        self.last = Last::NONE;
        for i in 0..messages {
            self.raw.prepare(i, i, self.raw.packets_of(i));
        }
        let mut patience = Patience::default();
        let mut next = 0;
        while next < messages {
            match self.raw.send(fd, next..messages) {
                Ok(count) => {
                    let packets = (next..next + count).map(|i| self.raw.packets_of(i).len() as u64);
                    packets.for_each(|count| result.count(count));
                    next += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    result.congested += (packets - self.raw.first_packet[next]) as u64;
                    break;
                }
                Err(error) if is_congestion(&error) => {
                    result.congested += self.raw.packets_of(next).len() as u64;
                    next += 1;
                }
                Err(error) if patience.tries_again(next, &error) => {}
                Err(error) => {
                    // The error is the first message's alone: the others may go elsewhere.
                    let packets = self.raw.packets_of(next);
                    if packets.len() > 1 {
                        self.note_refused_train(&error, next);
                        self.send_singly(fd, next, result);
                    } else {
                        self.count_refusal(&error, packets.start, result);
                    }
                    next += 1;
                }
            }
        }
        self.before += packets;
    }

    /// Sends the datagrams of a message one by one.
    fn send_singly(&mut self, fd: RawFd, message: usize, result: &mut Sent) {
        // Behind the headers of all messages, some of which are still to be sent.
        let scratch = MESSAGES;
        let mut patience = Patience::default();
        let mut packets = self.raw.packets_of(message);
        while !packets.is_empty() {
            let packet = packets.start;
            self.raw.prepare(scratch, message, packet..packet + 1);
            match self.raw.send(fd, scratch..scratch + 1) {
                Ok(_) => result.count(1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    result.congested += packets.len() as u64;
                    return;
                }
                Err(error) if patience.tries_again(packet, &error) => continue,
                Err(error) => self.count_refusal(&error, packet, result),
            }
            packets.start += 1;
        }
    }

    fn count_refusal(&mut self, error: &io::Error, packet: usize, result: &mut Sent) {
        if is_congestion(error) {
            result.congested += 1;
        } else if error.raw_os_error() == Some(libc::EMSGSIZE) {
            result.too_long += 1;
            if self.too_long.len() < TOO_LONG_MAX {
                self.too_long.push(self.before + packet);
            }
        } else {
            result.refused += 1;
        }
    }

    /// Learns from a train that the kernel did not take. It says nothing about other ways.
    fn note_refused_train(&mut self, error: &io::Error, message: usize) {
        let single_from = match error.raw_os_error() {
            // The way out has no checksum offload.
            Some(libc::EIO) => 0,
            Some(libc::EINVAL | libc::EMSGSIZE) => self.raw.lens[self.raw.first_packet[message]],
            // What ICMP brought says nothing about trains.
            _ => return,
        };
        let to = self.raw.names[message].get(self.raw.name_lens[message]);
        let Some(to) = to.map(|to| to.ip()) else {
            return;
        };
        let place = self.place_of(to);
        let before = self.refused[place];
        self.refused_count += usize::from(before.is_none());
        let before = before.filter(|before| before.to == to);
        self.refused[place] = Some(RefusedTrain {
            to,
            single_from: before.map_or(single_from, |before| before.single_from.min(single_from)),
            single_for: SINGLE_FOR,
        });
    }
}

impl AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.in_trains += other.in_trains;
        self.congested += other.congested;
        self.too_long += other.too_long;
        self.refused += other.refused;
    }
}

impl Sent {
    /// Counts a message of so many datagrams that the kernel took.
    fn count(&mut self, packets: u64) {
        self.sent += packets;
        if packets > 1 {
            self.in_trains += packets;
        }
    }
}

/// With errors reported, the kernel says so if the way out is full.
fn is_congestion(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Tells errors of a message from those that the socket had pending, as ICMP brings them: what fails
/// gets one more try.
#[derive(Default)]
struct Patience {
    tried: Option<usize>,
}

impl Patience {
    fn tries_again(&mut self, place: usize, error: &io::Error) -> bool {
        if error.kind() == io::ErrorKind::Interrupted {
            return true;
        }
        let is_sure =
            is_congestion(error) || matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL));
        let is_first = self.tried != Some(place);
        self.tried = Some(place);
        is_first && !is_sure
    }
}

impl Last {
    const NONE: Self = Self {
        to: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
        source: None,
        segment: 0,
        bytes: 0,
        segments: 0,
        is_open: false,
    };
}

/// Datagrams of one message; older kernels take no more.
const TRAIN_SEGMENTS_MAX: usize = 64;
/// Bytes of one message: what fits into a UDP datagram, whose length the kernel checks.
const TRAIN_BYTES_MAX: usize = 65_000;
/// Vectors of one message; the kernel takes no more than 1024.
const _: () = assert!(TRAIN_SEGMENTS_MAX * VECTORS <= 1024);
/// Messages after which a refused length is tried in a train again.
const SINGLE_FOR: u32 = 1024;
/// IPs to which trains were refused that are remembered. What is forgotten costs a system call.
const REFUSED: usize = 64;
/// Places of datagrams that are remembered as too long; more are dropped.
const TOO_LONG_MAX: usize = 64;
/// What padding is made of.
const ZEROS: [u8; 3] = [0; 3];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::{SLOTS, Slots, UdpSocket};

    #[test]
    fn a_batch_arrives_whole_and_in_order_with_its_headers() {
        let (a, a_address) = socket();
        let (b, b_address) = socket();
        let payloads: Vec<Vec<u8>> = (0..5u8).map(|i| vec![i; usize::from(i) * 100]).collect();
        let packets = payloads.iter().map(|payload| Outgoing {
            header: b"head",
            padding: 3,
            ..packet(b_address, payload)
        });

        let sent = Sender::new(a.trains()).send(&a, packets);

        assert_eq!((sent.sent, sent.in_trains), (5, 0));
        let mut slots = Slots::new();
        assert_eq!(slots.receive(&b, 2..SLOTS).expect("it works"), 5);
        for (i, payload) in payloads.iter().enumerate() {
            let (slot, range) = (2 + i, slots.range(2 + i, 0));
            assert_eq!(slots.count(slot), 1);
            assert_eq!(range.end, slots.bytes(slot).len());
            assert_eq!(&slots.bytes(slot)[..4], b"head");
            let (data, padding) = slots.bytes(slot)[4..].split_at(payload.len());
            assert_eq!((data, padding), (&payload[..], &[0; 3][..]));
            assert_eq!(slots.from(slot), Some(a_address));
        }
        assert_eq!(slots.receive(&b, 0..SLOTS).expect("it works"), 0);
    }

    #[test]
    fn trains_to_several_places_arrive_whole_in_as_few_buffers_as_there_are_trains() {
        let (a, _) = socket();
        let (b, b_address) = socket();
        let (c, c_address) = socket();
        if a.trains() == Trains::Single {
            eprintln!("skipped: this kernel has no UDP_SEGMENT");
            return;
        }
        // Two trains to b, the first of which ends with a shorter datagram, and one to c in between.
        let lens = [100, 100, 100, 40, 100, 100];
        let payloads: Vec<Vec<u8>> = (0..).zip(lens).map(|(i, len)| vec![i; len]).collect();
        let to_b = payloads.iter().map(|payload| packet(b_address, payload));
        let to_c = payloads
            .iter()
            .take(2)
            .map(|payload| packet(c_address, payload));
        let packets = to_b.clone().take(4).chain(to_c).chain(to_b.skip(4));

        let sent = Sender::new(Trains::Joined).send(&a, packets);

        assert_eq!((sent.sent, sent.in_trains), (8, 8));
        let mut slots = Slots::new();
        assert_eq!(slots.receive(&c, 0..SLOTS).expect("it works"), 1);
        assert_eq!(slots.count(0), 2);
        assert_eq!(slots.receive(&b, 0..SLOTS).expect("it works"), 2);
        let counts = [slots.count(0), slots.count(1)];
        assert_eq!(counts, [4, 2]);
        let received = (0..2).flat_map(|slot| (0..counts[slot]).map(move |i| (slot, i)));
        for ((slot, i), payload) in received.zip(&payloads) {
            assert_eq!(&slots.bytes(slot)[slots.range(slot, i)], payload);
        }
    }

    #[test]
    fn more_packets_than_one_call_takes_are_all_sent_in_order() {
        let (a, _) = socket();
        let (b, b_address) = socket();
        let payloads: Vec<[u8; 2]> = (0..PACKETS as u16 + 7).map(u16::to_be_bytes).collect();
        let packets = payloads.iter().map(|payload| packet(b_address, payload));

        let sent = Sender::new(a.trains()).send(&a, packets);

        assert_eq!((sent.sent, sent.congested), (payloads.len() as u64, 0));
        let mut slots = Slots::new();
        let mut received = Vec::new();
        loop {
            let filled = slots.receive(&b, 0..SLOTS).expect("it works");
            if filled == 0 {
                break;
            }
            for slot in 0..filled {
                received.extend_from_slice(slots.bytes(slot));
            }
        }
        assert_eq!(received, payloads.concat());
    }

    #[test]
    fn a_packet_for_which_the_way_out_is_full_counts_as_congested_and_is_not_tried_again() {
        let error = io::Error::from_raw_os_error(libc::ENOBUFS);
        let mut result = Sent::default();
        assert!(!Patience::default().tries_again(0, &error));
        Sender::new(Trains::Single).count_refusal(&error, 0, &mut result);
        assert_eq!((result.congested, result.refused), (1, 0));
    }

    #[test]
    fn a_packet_that_the_kernel_refuses_does_not_stop_the_others() {
        let (a, _) = socket();
        let (b, b_address) = socket();
        let too_long = vec![0; 66_000];

        let packets = [&b"1"[..], &too_long, b"2"].map(|payload| packet(b_address, payload));
        let sent = Sender::new(Trains::Single).send(&a, packets.into_iter());

        assert_eq!((sent.sent, sent.too_long, sent.refused), (2, 1, 0));
        assert_eq!(Slots::new().receive(&b, 0..SLOTS).expect("it works"), 2);
    }

    #[test]
    fn a_train_that_the_kernel_refuses_is_sent_one_by_one_and_so_are_the_next() {
        let (a, _) = socket();
        let (b, b_address) = socket();
        // The kernel cuts nothing apart that has no checksum.
        super::super::udp::set_option(&a, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
            .expect("it works");
        let mut sender = Sender::new(Trains::Joined);
        let packets = || [b"aa", b"bb", b"cc"].map(|payload| packet(b_address, payload));

        let sent = sender.send(&a, packets().into_iter());
        assert_eq!((sent.sent, sent.in_trains), (3, 0));
        assert_eq!((sent.too_long, sent.refused), (0, 0));
        assert!(sender.is_refused(b_address.ip(), 2), "it remembers");
        assert!(!sender.is_refused(b_address.ip(), 1));
        let sent = sender.send(&a, packets().into_iter());
        assert_eq!((sent.sent, sent.in_trains), (3, 0));

        let mut slots = Slots::new();
        assert_eq!(slots.receive(&b, 0..SLOTS).expect("it works"), 6);
        let received: Vec<u8> = (0..6).flat_map(|slot| slots.bytes(slot).to_vec()).collect();
        assert_eq!(received, b"aabbccaabbcc");
    }

    #[test]
    fn a_train_that_was_refused_on_one_way_is_tried_on_others_and_later_on_that_one_too() {
        let (a, _) = socket();
        if a.trains() == Trains::Single {
            eprintln!("skipped: this kernel has no UDP_SEGMENT");
            return;
        }
        let (_b, b_address) = socket();
        let other = "127.0.0.8:0".parse().expect("a literal");
        let c = UdpSocket::bind_relay(other).expect("loopback is there");
        let c_address = c.local_addr().expect("it is bound");
        let no_check = |value| {
            super::super::udp::set_option(&a, libc::SOL_SOCKET, libc::SO_NO_CHECK, value)
                .expect("it works");
        };
        let mut sender = Sender::new(Trains::Joined);
        let mut in_trains = |to| {
            let packets = [b"aa", b"bb"].map(|payload| packet(to, payload));
            sender.send(&a, packets.into_iter()).in_trains
        };
        no_check(1);
        assert_eq!(in_trains(b_address), 0);
        no_check(0);
        assert_eq!(in_trains(b_address), 0, "it remembers");
        assert_eq!(in_trains(c_address), 2);
        let mut tries = 0;
        while in_trains(b_address) == 0 {
            tries += 1;
            assert!(tries < SINGLE_FOR, "it never tries again");
        }
        assert_eq!(in_trains(b_address), 2);
    }

    #[test]
    fn a_wildcard_socket_knows_its_local_ip_and_answers_from_it() {
        let wildcard = UdpSocket::bind_server("0.0.0.0:0".parse().expect("a literal"))
            .expect("loopback is there");
        let port = wildcard.local_addr().expect("it is bound").port();
        let local: IpAddr = "127.0.0.7".parse().expect("a literal");
        let (client, client_address) = socket();

        let mut sender = Sender::new(wildcard.trains());
        sender.send(&client, [packet((local, port).into(), b"ping")].into_iter());
        let mut slots = Slots::new();
        assert_eq!(slots.receive(&wildcard, 0..4).expect("it works"), 1);
        assert_eq!(slots.to(0).map(|to| to.ip()), Some(local));
        // Together with others, too.
        let pongs = [b"pong", b"pang"].map(|payload| Outgoing {
            source: Some(local),
            ..packet(client_address, payload)
        });
        sender.send(&wildcard, pongs.into_iter());

        let filled = slots.receive(&client, 0..4).expect("it works");
        let bytes: Vec<u8> = (0..filled)
            .flat_map(|slot| slots.bytes(slot).to_vec())
            .collect();
        assert_eq!(bytes, b"pongpang");
        assert_eq!(slots.from(0), Some((local, port).into()));
    }

    fn socket() -> (UdpSocket, SocketAddr) {
        let address = "127.0.0.1:0".parse().expect("a literal");
        let socket = UdpSocket::bind_relay(address).expect("loopback is there");
        let address = socket.local_addr().expect("it is bound");
        (socket, address)
    }

    fn packet(to: SocketAddr, payload: &[u8]) -> Outgoing<'_> {
        Outgoing {
            to,
            source: None,
            header: b"",
            payload,
            padding: 0,
        }
    }
}
