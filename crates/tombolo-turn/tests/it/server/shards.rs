//! Clients that reach another shard than the one that has what they ask for.

use tombolo_stun::{EvenPort, Method, RequestedTransport, ReservationToken, XorRelayedAddress};
use tombolo_turn::server::{
    Command, Config, FiveTuple, Forward, PeerAddr, Refusal, RelayAddr, ShardIndex, Timer, Transport,
};

use super::lab::{Lab, PEER, Reply, User, alice, bob, client, tcp_client};

#[test]
fn a_reservation_is_redeemed_whichever_shard_the_second_client_reaches() {
    for second in [client(2), tcp_client(2)] {
        let mut node = Node::new();
        let (first, token) = node.reserve();
        let reply = node.allocate_reserved(second, &alice(), token);
        let XorRelayedAddress(next) = Reply(reply).get().expect("was made");
        assert_eq!(next.ip(), first.0.ip());
        assert_eq!(next.port(), first.0.port() + 1);
        assert_eq!(node.shards[0].bound.len(), 2);
        assert!(node.shards[1].bound.is_empty());

        // All that the client sends goes there, and works there.
        let permit = node.shards[1].sign(second, &alice(), Method::CREATE_PERMISSION, |writer| {
            writer.attribute(&tombolo_stun::XorPeerAddress(super::lab::address(PEER)));
        });
        assert_eq!(
            node.via_second(second, &permit)
                .map(|reply| Reply(reply).code()),
            Some(None)
        );
        let sent = node.shards[0]
            .send(second, PEER, b"x")
            .expect("is permitted");
        assert_eq!(sent.from, next);
    }
}

#[test]
fn a_reservation_of_another_user_is_refused_on_its_own_shard() {
    let mut node = Node::new();
    let (_, token) = node.reserve();
    let reply = node.allocate_reserved(client(2), &bob(), token);
    assert_eq!(Reply(reply).code(), Some(508));
}

/// Whose connection has said something else first may be anywhere.
#[test]
fn a_connection_is_bound_whichever_shard_the_clients_other_connection_reaches() {
    let mut node = Node::with(|config| config.relay_tcp = true);
    let home = &mut node.shards[0];
    let reply = home.signed(tcp_client(1), &alice(), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::TCP);
    });
    let XorRelayedAddress(at) = reply.get().expect("was made");
    home.permit(tcp_client(1), &alice(), PEER);
    let peer = PeerAddr(super::lab::address(PEER));
    let (now, at) = (home.now, RelayAddr(at));
    let connection = home.server.handle_peer_accepted(now, at, peer);
    let connection = connection.expect("is permitted");
    while home.server.poll_transmit().is_some() {}

    let second = &mut node.shards[1];
    let bind = second.sign(tcp_client(2), &alice(), Method::CONNECTION_BIND, |writer| {
        writer.attribute(&tombolo_stun::ConnectionId(connection.0));
    });
    assert_eq!(second.exchange(tcp_client(2), &bind), []);
    let redirect = Command::Redirect {
        shard: ShardIndex(0),
        client: tcp_client(2),
        bytes: bind.clone(),
    };
    assert_eq!(second.shard_commands.pop(), Some(redirect));
    let home = &mut node.shards[0];
    let forward = home.server.handle_passed_on(home.now, tcp_client(2), &bind);
    assert_eq!(forward, None);
    home.drive();
    let joined = home.tcp_commands.pop();
    let Some(Command::Splice { client, .. }) = joined else {
        panic!("it is not joined: {joined:?}")
    };
    assert_eq!(client, tcp_client(2));
}

/// A user may have far more connections than allocations.
#[test]
fn a_user_loses_no_connection_that_was_bound_for_another_one() {
    let mut node = Node::with(|config| {
        config.relay_tcp = true;
        config.limits.per_user.allocations = Some(1);
    });
    for port in 1..=3 {
        let second = &mut node.shards[1];
        let from = tcp_client(port);
        let bind = second.sign(from, &alice(), Method::CONNECTION_BIND, |writer| {
            writer.attribute(&tombolo_stun::ConnectionId(u32::from(port) << 8));
        });
        assert_eq!(second.exchange(from, &bind), []);
        let [Command::Redirect { client, .. }] = second.shard_commands[..] else {
            panic!("is told of nothing else: {:?}", second.shard_commands)
        };
        assert_eq!(client, from);
        second.shard_commands.clear();
    }
}

#[test]
fn a_token_of_a_shard_that_the_node_does_not_have_is_refused() {
    let mut node = Node::new();
    let token = ReservationToken([0, 0, 0, 0, 0, 0, 0, 2]);
    let reply = node.shards[1].allocate_with(client(2), &alice(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(reply.code(), Some(508));
    assert_eq!(node.shards[1].refused(Refusal::ShardUnknown), 1);
}

#[test]
fn only_who_has_credentials_is_passed_on() {
    let mut node = Node::new();
    let token = ReservationToken([0; 8]);
    let reply = node.shards[1].unsigned(client(2), Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP).attribute(&token);
    });
    assert_eq!(reply.code(), Some(401));
    assert_eq!(node.shards[1].shard_commands, []);
}

#[test]
fn a_user_has_only_so_many_clients_passed_on_and_loses_the_oldest() {
    let mut node = Node::with(|config| config.limits.per_user.allocations = Some(2));
    let token = ReservationToken([7, 7, 7, 7, 7, 7, 7, 0]);
    for port in 1..=3 {
        node.redirect(client(port), token);
    }
    let mut is_passed_on = |port| {
        let forward = node.forward(client(port), b"\x40\x00\x00\x00");
        matches!(forward, Some(Forward::ToShard { .. }))
    };
    assert!(!is_passed_on(1));
    assert!(is_passed_on(2) && is_passed_on(3));
}

#[test]
fn clients_passed_on_are_bounded_for_the_shard() {
    let mut node = Node::with(|config| config.limits.total.allocations = Some(1));
    let token = ReservationToken([7, 7, 7, 7, 7, 7, 7, 0]);
    node.redirect(client(1), token);
    let shard = &mut node.shards[1];
    let reply = shard.allocate_with(client(2), &bob(), |writer| {
        writer.attribute(&token);
    });
    assert_eq!(reply.code(), Some(508));
    assert_eq!(shard.refused(Refusal::StraysFull), 1);
}

#[test]
fn a_client_passed_on_is_forgotten_after_an_hour_of_silence() {
    let mut node = Node::new();
    node.redirect(client(1), ReservationToken([0; 8]));
    let packet = b"\x40\x00\x00\x00";
    node.shards[1].advance(3599);
    assert!(node.forward(client(1), packet).is_some());
    node.shards[1].advance(3599);
    assert!(node.forward(client(1), packet).is_some());
    let timer = node.shards[1].server.poll_timeout();
    assert_eq!(timer.map(|(_, timer)| timer), Some(Timer::Stray));
    node.shards[1].advance(3600);
    assert_eq!(node.forward(client(1), packet), None);
    assert_eq!(node.shards[1].server.poll_timeout(), None);
}

#[test]
fn a_shard_remembers_no_connection_that_it_has_handed_over() {
    let mut node = Node::with(|config| config.limits.total.allocations = Some(1));
    for port in 1..=2 {
        node.redirect(tcp_client(port), ReservationToken([0; 8]));
    }
    let packet = b"\x40\x00\x00\x00";
    assert_eq!(node.forward(tcp_client(1), packet), None);
    assert_eq!(node.shards[1].server.poll_timeout(), None);
}

#[test]
fn a_client_that_has_two_shards_pass_it_to_each_other_is_at_home_where_it_asked_last() {
    let mut node = Node::new();
    let of_shard = |index| ReservationToken([7, 7, 7, 7, 7, 7, 7, index]);
    let request = node.redirect(client(1), of_shard(0));
    assert_eq!(node.reply_to_passed_on(0, &request).code(), Some(508));

    let request = node.shards[1].sign(client(1), &alice(), Method::ALLOCATE, |writer| {
        writer
            .attribute(&RequestedTransport::UDP)
            .attribute(&of_shard(1));
    });
    let to_first = Forward::ToShard {
        shard: ShardIndex(0),
        client: client(1),
    };
    assert_eq!(node.forward(client(1), &request), Some(to_first));
    assert_eq!(node.shards[0].exchange(client(1), &request), []);
    let back = Command::Redirect {
        shard: ShardIndex(1),
        client: client(1),
        bytes: request.clone(),
    };
    assert_eq!(node.shards[0].shard_commands.pop(), Some(back));
    assert_eq!(node.reply_to_passed_on(1, &request).code(), Some(508));
    assert_eq!(node.forward(client(1), b"\x40\x00\x00\x00"), None);
}

#[test]
fn what_was_passed_on_for_good_is_not_passed_on_again() {
    let mut node = Node::new();
    node.redirect(client(1), ReservationToken([0; 8]));
    let shard = &mut node.shards[1];
    let packet = b"\x40\x00\x00\x00";
    let forward = shard.server.handle_passed_on(shard.now, client(1), packet);
    assert_eq!(forward, None);
    assert_eq!(shard.refused(Refusal::AllocationMissing), 1);
    assert_eq!(node.forward(client(1), packet), None);
}

/// Two shards. The first one has what is asked for, the second one is asked.
struct Node {
    shards: [Lab; 2],
}

impl Node {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl Fn(&mut Config)) -> Self {
        let shard = |index| {
            Lab::with(|config| {
                config.shard = ShardIndex(index);
                config.shards = 2;
                change(config);
            })
        };
        Self {
            shards: [shard(0), shard(1)],
        }
    }

    /// Makes an allocation on the first shard that reserves a port.
    fn reserve(&mut self) -> (RelayAddr, ReservationToken) {
        let even = EvenPort { reserve_next: true };
        let reply = self.shards[0].allocate_with(client(1), &alice(), |writer| {
            writer.attribute(&even);
        });
        let XorRelayedAddress(relayed) = reply.get().expect("was made");
        (RelayAddr(relayed), reply.get().expect("is reserved"))
    }

    /// Sends an Allocate with a token to the second shard, and on to the first one.
    fn redirect(&mut self, from: FiveTuple, token: ReservationToken) -> Vec<u8> {
        self.redirect_of(from, &alice(), token)
    }

    fn redirect_of(&mut self, from: FiveTuple, user: &User, token: ReservationToken) -> Vec<u8> {
        let second = &mut self.shards[1];
        let request = second.sign(from, user, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).attribute(&token);
        });
        assert_eq!(second.exchange(from, &request), []);
        let expected = Command::Redirect {
            shard: ShardIndex(0),
            client: from,
            bytes: request.clone(),
        };
        assert_eq!(second.shard_commands.pop(), Some(expected));
        request
    }

    fn allocate_reserved(
        &mut self,
        from: FiveTuple,
        user: &User,
        token: ReservationToken,
    ) -> Vec<u8> {
        let request = self.redirect_of(from, user, token);
        let mut replies = self.shards[0].exchange(from, &request);
        assert_eq!(replies.len(), 1);
        replies.remove(0).bytes
    }

    /// Gives a shard a request of the first client that another one has passed on.
    fn reply_to_passed_on(&mut self, index: usize, request: &[u8]) -> Reply {
        let shard = &mut self.shards[index];
        let now = shard.now;
        let forward = shard.server.handle_passed_on(now, client(1), request);
        assert_eq!(forward, None, "it ends here");
        shard.drive();
        let reply = shard.server.poll_transmit().expect("there is a reply");
        Reply(reply.bytes)
    }

    fn forward(&mut self, from: FiveTuple, packet: &[u8]) -> Option<Forward> {
        let shard = &mut self.shards[1];
        shard.server.handle_client(shard.now, from, packet)
    }

    /// Sends a request of a client that was redirected, and returns the answer of the first shard. A
    /// datagram comes by the second one, and what comes by a connection does not.
    fn via_second(&mut self, client: FiveTuple, request: &[u8]) -> Option<Vec<u8>> {
        if client.transport == Transport::Udp {
            let shard = ShardIndex(0);
            let passed_on = Forward::ToShard { shard, client };
            assert_eq!(self.forward(client, request), Some(passed_on));
        }
        let replies = self.shards[0].exchange(client, request);
        replies.into_iter().next().map(|reply| reply.bytes)
    }
}
