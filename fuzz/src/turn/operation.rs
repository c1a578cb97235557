//! What a run does, as bytes: an operation is a number and its fields, without any framing, so that
//! every input means something and small changes mean small differences.

/// One thing that happens to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    /// Bytes as they are.
    Garbage { client: u8, bytes: Vec<u8> },
    /// A request with right credentials; one bit of it is changed unless `flip` is zero.
    Request {
        client: u8,
        user: u8,
        flip: u16,
        request: Request,
    },
    /// A request without credentials.
    Unsigned { client: u8, request: Request },
    /// A Send indication; one with DONT-FRAGMENT if `bytes` is odd.
    Send { client: u8, peer: u8, bytes: u16 },
    /// ChannelData.
    SendOn { client: u8, number: u8, bytes: u16 },
    /// A datagram of a peer.
    Peer { relay: u8, peer: u8, bytes: u16 },
    /// An ICMP error about a peer.
    PeerError { relay: u8, peer: u8, kind: u8 },
    /// An introduction.
    Permit { user: u8, peer: u8 },
    /// A client's connection is closed.
    Gone { client: u8 },
    /// Time passes.
    Wait { seconds: u16 },
    /// The driver refuses the next ports.
    Refuse { ports: u8 },
    /// The driver lets commands wait, or does them.
    Driver { is_slow: bool },
    /// A peer connects.
    Accept { relay: u8, peer: u8 },
    /// The connection of a peer is closed.
    PeerGone { connection: u8 },
    /// The next connections to peers fail.
    FailConnects { count: u8 },
    /// An operator ends an allocation.
    End { client: u8 },
    /// An operator drains the server, or stops to.
    Drain { is_on: bool },
    /// An operator changes which peers are denied.
    Reconfigure { denies: bool },
}

/// What a request says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: u8,
    /// Which of the attributes below there are.
    pub(super) has: u8,
    /// Further ones, that are only there or not.
    pub(super) also: u8,
    pub(super) lifetime: u16,
    pub(super) number: u8,
    pub(super) peers: [u8; 2],
    pub(super) family: u8,
    /// Picks a connection or a ticket.
    pub(super) pick: u8,
}

impl Request {
    pub(super) const LIFETIME: u8 = 1;
    pub(super) const NUMBER: u8 = 2;
    pub(super) const PEER: u8 = 4;
    pub(super) const SECOND_PEER: u8 = 8;
    pub(super) const FAMILY: u8 = 16;
    pub(super) const CONNECTION: u8 = 32;
    /// The ticket of a mobile allocation.
    pub(super) const TICKET: u8 = 64;
    /// REQUESTED-TRANSPORT is something that nobody knows.
    pub(super) const ODD_TRANSPORT: u8 = 128;

    pub(super) const TCP: u8 = 1;
    pub(super) const ADDITIONAL_FAMILY: u8 = 2;
    pub(super) const EVEN: u8 = 4;
    pub(super) const RESERVE_NEXT: u8 = 8;
    pub(super) const REDEEM: u8 = 16;
    /// The empty ticket that asks for a mobile allocation.
    pub(super) const MOBILE: u8 = 32;

    pub(super) fn has(&self, what: u8) -> bool {
        self.has & what != 0
    }

    pub(super) fn also(&self, what: u8) -> bool {
        self.also & what != 0
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        Some(Self {
            method: byte(input)?,
            has: byte(input)?,
            also: byte(input)?,
            lifetime: word(input)?,
            number: byte(input)?,
            peers: [byte(input)?, byte(input)?],
            family: byte(input)?,
            pick: byte(input)?,
        })
    }

    fn write(&self, output: &mut Vec<u8>) {
        output.extend([self.method, self.has, self.also]);
        output.extend(self.lifetime.to_be_bytes());
        output.push(self.number);
        output.extend(self.peers);
        output.extend([self.family, self.pick]);
    }
}

impl Operation {
    /// Reads the next operation; `None` at the end.
    pub(super) fn read(input: &mut &[u8]) -> Option<Self> {
        Some(match byte(input)? % 18 {
            0 => Self::Garbage {
                client: byte(input)?,
                bytes: bytes(input)?,
            },
            1 => Self::Request {
                client: byte(input)?,
                user: byte(input)?,
                flip: word(input)?,
                request: Request::read(input)?,
            },
            2 => Self::Unsigned {
                client: byte(input)?,
                request: Request::read(input)?,
            },
            3 => Self::Send {
                client: byte(input)?,
                peer: byte(input)?,
                bytes: word(input)?,
            },
            4 => Self::SendOn {
                client: byte(input)?,
                number: byte(input)?,
                bytes: word(input)?,
            },
            5 => Self::Peer {
                relay: byte(input)?,
                peer: byte(input)?,
                bytes: word(input)?,
            },
            6 => Self::PeerError {
                relay: byte(input)?,
                peer: byte(input)?,
                kind: byte(input)?,
            },
            7 => Self::Permit {
                user: byte(input)?,
                peer: byte(input)?,
            },
            8 => Self::Gone {
                client: byte(input)?,
            },
            9 => Self::Wait {
                seconds: word(input)?,
            },
            10 => Self::Refuse {
                ports: byte(input)?,
            },
            11 => Self::Driver {
                is_slow: flag(input)?,
            },
            12 => Self::Accept {
                relay: byte(input)?,
                peer: byte(input)?,
            },
            13 => Self::PeerGone {
                connection: byte(input)?,
            },
            14 => Self::FailConnects {
                count: byte(input)?,
            },
            15 => Self::End {
                client: byte(input)?,
            },
            16 => Self::Drain {
                is_on: flag(input)?,
            },
            _ => Self::Reconfigure {
                denies: flag(input)?,
            },
        })
    }

    /// Writes an operation so that it is read again.
    pub(super) fn write(&self, output: &mut Vec<u8>) {
        match self {
            Self::Garbage { client, bytes } => {
                output.extend([0, *client, bytes.len() as u8]);
                output.extend(bytes);
            }
            Self::Request {
                client,
                user,
                flip,
                request,
            } => {
                output.extend([1, *client, *user]);
                output.extend(flip.to_be_bytes());
                request.write(output);
            }
            Self::Unsigned { client, request } => {
                output.extend([2, *client]);
                request.write(output);
            }
            Self::Send {
                client,
                peer,
                bytes,
            } => {
                output.extend([3, *client, *peer]);
                output.extend(bytes.to_be_bytes());
            }
            Self::SendOn {
                client,
                number,
                bytes,
            } => {
                output.extend([4, *client, *number]);
                output.extend(bytes.to_be_bytes());
            }
            Self::Peer { relay, peer, bytes } => {
                output.extend([5, *relay, *peer]);
                output.extend(bytes.to_be_bytes());
            }
            Self::PeerError { relay, peer, kind } => output.extend([6, *relay, *peer, *kind]),
            Self::Permit { user, peer } => output.extend([7, *user, *peer]),
            Self::Gone { client } => output.extend([8, *client]),
            Self::Wait { seconds } => {
                output.push(9);
                output.extend(seconds.to_be_bytes());
            }
            Self::Refuse { ports } => output.extend([10, *ports]),
            Self::Driver { is_slow } => output.extend([11, u8::from(*is_slow)]),
            Self::Accept { relay, peer } => output.extend([12, *relay, *peer]),
            Self::PeerGone { connection } => output.extend([13, *connection]),
            Self::FailConnects { count } => output.extend([14, *count]),
            Self::End { client } => output.extend([15, *client]),
            Self::Drain { is_on } => output.extend([16, u8::from(*is_on)]),
            Self::Reconfigure { denies } => output.extend([17, u8::from(*denies)]),
        }
    }
}

fn byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

fn flag(input: &mut &[u8]) -> Option<bool> {
    Some(byte(input)? % 2 == 1)
}

fn word(input: &mut &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([byte(input)?, byte(input)?]))
}

fn bytes(input: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::from(byte(input)?);
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes.to_vec())
}
