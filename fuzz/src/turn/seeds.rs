//! Where the fuzzer starts: runs that get far, each named for what it does.

use super::operation::{Operation, Request};

/// Returns each seed's name, and its operations as bytes.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let all: [(&str, Vec<Operation>); 15] = [
        ("channels_and_permissions", channels_and_permissions()),
        ("indications_of_every_length", indications()),
        ("introduction", introduction()),
        ("changed_requests", changed_requests()),
        ("expired_credentials", expired_credentials()),
        ("both_families", both_families()),
        ("reservation", reservation()),
        ("slow_driver", slow_driver()),
        ("move", moving()),
        ("move_while_allocating", move_while_allocating()),
        ("broken_connection", broken_connection()),
        ("tcp_connect", tcp_connect()),
        ("tcp_accept", tcp_accept()),
        ("tcp_of_a_denied_peer", tcp_denied()),
        ("operators", operators()),
    ];
    let write = |operations: Vec<Operation>| {
        let mut bytes = Vec::new();
        operations.iter().for_each(|one| one.write(&mut bytes));
        bytes
    };
    all.map(|(name, operations)| (name, write(operations)))
        .into()
}

fn channels_and_permissions() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE, 0);
    all.extend([
        bind(UDP, ALICE, 1, PEER),
        Operation::SendOn {
            client: UDP,
            number: 1,
            bytes: 160,
        },
        permit(UDP, ALICE, OTHER_PORT),
        send(UDP, OTHER_PORT),
        from_peer(PEER),
        from_peer(OTHER_PORT),
        Operation::Wait { seconds: 290 },
        refresh(UDP, ALICE, 600),
        Operation::Wait { seconds: 20 },
        send(UDP, OTHER_PORT),
        Operation::SendOn {
            client: UDP,
            number: 1,
            bytes: 160,
        },
        refresh(UDP, ALICE, 0),
    ]);
    all
}

fn indications() -> Vec<Operation> {
    let mut all = allocate(TLS, BOB, 0);
    all.push(permit(TLS, BOB, PEER));
    for bytes in [0, 1, 2, 3, 4, 1200, 65_535] {
        let (relay, peer) = (0, PEER);
        all.push(Operation::Peer { relay, peer, bytes });
    }
    let (relay, peer) = (0, PEER);
    for kind in [3, 11, 5] {
        all.push(Operation::PeerError { relay, peer, kind });
    }
    all.push(Operation::Gone { client: TLS });
    all
}

fn introduction() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE, 0);
    for peer in [PEER, DENIED, LOOPBACK, RELAY] {
        all.push(Operation::Permit { user: ALICE, peer });
        all.push(send(UDP, peer));
        all.push(from_peer(peer));
    }
    all
}

fn changed_requests() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE, 0);
    for flip in (1..1200).step_by(37) {
        all.push(Operation::Request {
            client: UDP,
            user: ALICE,
            flip,
            request: Request {
                method: CREATE_PERMISSION,
                has: Request::PEER,
                peers: [PEER, 0],
                ..Request::default()
            },
        });
    }
    all.push(send(UDP, PEER));
    all
}

fn expired_credentials() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE_SHORTLY, 0);
    all.extend([
        Operation::Wait { seconds: 500 },
        refresh(UDP, ALICE_SHORTLY, 3600),
        Operation::Wait { seconds: 500 },
        refresh(UDP, ALICE_SHORTLY, 600),
        Operation::Wait { seconds: 650 },
    ]);
    all
}

fn both_families() -> Vec<Operation> {
    let mut all = allocate(UDP_V6, BOB, Request::ADDITIONAL_FAMILY);
    all.extend([
        permit(UDP_V6, BOB, PEER),
        permit(UDP_V6, BOB, PEER_V6),
        send(UDP_V6, PEER),
        send(UDP_V6, PEER_V6),
        request(
            UDP_V6,
            BOB,
            Request {
                method: REFRESH,
                has: Request::LIFETIME | Request::FAMILY,
                family: 0,
                ..Request::default()
            },
        ),
        send(UDP_V6, PEER),
        send(UDP_V6, PEER_V6),
        from_peer(PEER_V6),
    ]);
    all
}

fn reservation() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE, Request::EVEN | Request::RESERVE_NEXT);
    all.extend(allocate(TCP, ALICE, Request::REDEEM));
    all.extend(allocate(TLS, ALICE, Request::EVEN | Request::RESERVE_NEXT));
    all.push(Operation::Wait { seconds: 40 });
    all
}

fn slow_driver() -> Vec<Operation> {
    let mut all = vec![Operation::Refuse { ports: 2 }];
    all.extend(allocate(UDP, ALICE, Request::EVEN | Request::RESERVE_NEXT));
    all.push(Operation::Driver { is_slow: true });
    all.extend(allocate(TCP, ALICE, 0));
    all.extend(allocate(TLS, BOB, 0));
    all.push(Operation::Gone { client: TCP });
    all.push(Operation::Driver { is_slow: false });
    all
}

fn moving() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE, Request::MOBILE);
    all.extend([
        permit(UDP, ALICE, PEER),
        challenge(OTHER_UDP),
        move_to(OTHER_UDP, ALICE, 0),
        send(UDP, PEER),
        from_peer(PEER),
        send(OTHER_UDP, PEER),
        from_peer(PEER),
        send(UDP, PEER),
        challenge(TLS),
        move_to(TLS, BOB, 0),
        move_to(TLS, ALICE, 1),
        move_to(TLS, ALICE, 0),
        Operation::Gone { client: OTHER_UDP },
        send(TLS, PEER),
    ]);
    all
}

fn move_while_allocating() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE, Request::MOBILE);
    all.push(Operation::Driver { is_slow: true });
    all.extend(allocate(OTHER_UDP, BOB, 0));
    all.extend([
        move_to(OTHER_UDP, ALICE, 0),
        Operation::Driver { is_slow: false },
        permit(OTHER_UDP, BOB, PEER),
        send(OTHER_UDP, PEER),
    ]);
    all
}

fn broken_connection() -> Vec<Operation> {
    let mut all = allocate(TCP, ALICE, Request::MOBILE);
    all.extend([
        permit(TCP, ALICE, PEER),
        from_peer(PEER),
        Operation::Gone { client: TCP },
        from_peer(PEER),
    ]);
    // Somebody else has the same address now.
    all.extend(allocate(TCP, BOB, 0));
    all.extend([
        from_peer(PEER),
        Operation::Peer {
            relay: 1,
            peer: PEER,
            bytes: 33,
        },
        challenge(TLS),
        move_to(TLS, ALICE, 0),
        from_peer(PEER),
        Operation::Peer {
            relay: 1,
            peer: PEER,
            bytes: 33,
        },
    ]);
    all
}

fn tcp_connect() -> Vec<Operation> {
    let mut all = allocate(TCP, ALICE, Request::TCP);
    all.extend([
        connect(TCP, ALICE, PEER),
        connect(TCP, ALICE, LOOPBACK),
        challenge(TLS),
        join(TLS, BOB),
        join(TLS, ALICE),
        Operation::FailConnects { count: 1 },
        connect(TCP, ALICE, OTHER_PORT),
        Operation::Driver { is_slow: true },
        connect(TCP, ALICE, OTHER_PORT),
        Operation::Wait { seconds: 31 },
        Operation::Driver { is_slow: false },
        Operation::PeerGone { connection: 0 },
        connect(TCP, ALICE, OTHER_PORT),
    ]);
    all
}

fn tcp_accept() -> Vec<Operation> {
    let mut all = allocate(TLS, BOB, Request::TCP);
    let (relay, peer) = (0, PEER);
    all.extend([
        Operation::Accept { relay, peer },
        permit(TLS, BOB, PEER),
        Operation::Accept { relay, peer },
        challenge(TCP),
        join(TCP, BOB),
        Operation::Accept {
            relay,
            peer: OTHER_PORT,
        },
        Operation::Wait { seconds: 31 },
        Operation::Gone { client: TCP },
    ]);
    all
}

fn tcp_denied() -> Vec<Operation> {
    let mut all = allocate(TCP, ALICE, Request::TCP);
    all.extend([
        connect(TCP, ALICE, DENIED),
        challenge(TLS),
        join(TLS, ALICE),
        Operation::Reconfigure { denies: true },
        connect(TCP, ALICE, DENIED),
    ]);
    all
}

fn operators() -> Vec<Operation> {
    let mut all = allocate(UDP, ALICE, 0);
    all.extend([
        bind(UDP, ALICE, 1, DENIED),
        Operation::Reconfigure { denies: true },
        send(UDP, DENIED),
        Operation::Drain { is_on: true },
    ]);
    all.extend(allocate(TLS, BOB, 0));
    all.extend([
        Operation::Drain { is_on: false },
        Operation::End { client: UDP },
        Operation::Garbage {
            client: UDP,
            bytes: vec![0x40, 1, 0, 1, 0],
        },
        refresh(UDP, ALICE, 600),
    ]);
    all
}

/// Learns a nonce and makes an allocation.
fn allocate(client: u8, user: u8, also: u8) -> Vec<Operation> {
    let wish = Request {
        method: ALLOCATE,
        also,
        ..Request::default()
    };
    vec![challenge(client), request(client, user, wish)]
}

fn challenge(client: u8) -> Operation {
    let request = Request::default();
    Operation::Unsigned { client, request }
}

fn request(client: u8, user: u8, request: Request) -> Operation {
    Operation::Request {
        client,
        user,
        flip: 0,
        request,
    }
}

fn refresh(client: u8, user: u8, lifetime: u16) -> Operation {
    let wish = Request {
        method: REFRESH,
        has: Request::LIFETIME,
        lifetime,
        ..Request::default()
    };
    request(client, user, wish)
}

fn move_to(client: u8, user: u8, pick: u8) -> Operation {
    let wish = Request {
        method: REFRESH,
        has: Request::TICKET,
        pick,
        ..Request::default()
    };
    request(client, user, wish)
}

fn permit(client: u8, user: u8, peer: u8) -> Operation {
    about_peer(client, user, CREATE_PERMISSION, peer)
}

fn connect(client: u8, user: u8, peer: u8) -> Operation {
    about_peer(client, user, CONNECT, peer)
}

fn about_peer(client: u8, user: u8, method: u8, peer: u8) -> Operation {
    let wish = Request {
        method,
        has: Request::PEER,
        peers: [peer, 0],
        ..Request::default()
    };
    request(client, user, wish)
}

fn bind(client: u8, user: u8, number: u8, peer: u8) -> Operation {
    let wish = Request {
        method: CHANNEL_BIND,
        has: Request::PEER | Request::NUMBER,
        number,
        peers: [peer, 0],
        ..Request::default()
    };
    request(client, user, wish)
}

fn join(client: u8, user: u8) -> Operation {
    let wish = Request {
        method: CONNECTION_BIND,
        has: Request::CONNECTION,
        ..Request::default()
    };
    request(client, user, wish)
}

fn send(client: u8, peer: u8) -> Operation {
    let bytes = 161;
    Operation::Send {
        client,
        peer,
        bytes,
    }
}

fn from_peer(peer: u8) -> Operation {
    let (relay, bytes) = (0, 33);
    Operation::Peer { relay, peer, bytes }
}

const ALLOCATE: u8 = 0;
const REFRESH: u8 = 1;
const CREATE_PERMISSION: u8 = 2;
const CHANNEL_BIND: u8 = 3;
const CONNECT: u8 = 4;
const CONNECTION_BIND: u8 = 5;
const UDP: u8 = 0;
const OTHER_UDP: u8 = 1;
const UDP_V6: u8 = 2;
const TCP: u8 = 3;
const TLS: u8 = 4;
const ALICE: u8 = 0;
const ALICE_SHORTLY: u8 = 1;
const BOB: u8 = 2;
const PEER: u8 = 0;
const OTHER_PORT: u8 = 1;
const DENIED: u8 = 2;
const PEER_V6: u8 = 4;
const LOOPBACK: u8 = 6;
const RELAY: u8 = 9;
