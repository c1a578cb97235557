//! Clients whose packets come here though their allocation is on another shard.

use std::time::Instant;

use tombolo_turn::server::{FiveTuple, Forward, ShardIndex};

use super::Shard;
use crate::link::{FromStream, Loss, PassedOn};

impl Shard {
    /// Hands a client over: its stream connection, where it has one, and the packet in hand.
    pub(super) fn redirect(&mut self, shard: ShardIndex, client: FiveTuple, packet: Vec<u8>) {
        let passed_on = PassedOn {
            client,
            connection: self.connections.remove(&client),
            packet,
            // The packet itself names that shard.
            hops_left: 0,
        };
        self.pass_on(shard, passed_on);
    }

    /// Gives another shard a packet of a client that was handed over to it.
    pub(super) fn pass_packet_on(&mut self, shard: ShardIndex, client: FiveTuple, packet: Vec<u8>) {
        // This shard and that one are no stations on the way between others.
        let others = self.siblings.len().saturating_sub(2);
        let passed_on = PassedOn {
            client,
            connection: None,
            packet,
            hops_left: u8::try_from(others).unwrap_or(u8::MAX),
        };
        self.pass_on(shard, passed_on);
    }

    /// Handles a packet from another shard. A client that was handed over again and again has packets
    /// go from shard to shard, but none of them comes to one twice.
    pub(super) fn handle_passed_on(&mut self, now: Instant, passed_on: PassedOn) {
        let PassedOn {
            client,
            connection,
            packet,
            hops_left,
        } = passed_on;
        if let Some(connection) = connection {
            self.core.handle_handed_over(now, client);
            self.connections.insert(client, connection);
        }
        let forward = match hops_left {
            0 => self.core.handle_passed_on(now, client, &packet),
            _ => self.core.handle_client(now, client, &packet),
        };
        match forward {
            Some(Forward::ToShard { shard, client }) => {
                let passed_on = PassedOn {
                    client,
                    connection: None,
                    packet,
                    hops_left: hops_left.saturating_sub(1),
                };
                self.pass_on(shard, passed_on);
            }
            Some(forward) => self.forward_frame(now, forward, &packet),
            None => self.log_refusal(client.client),
        }
    }

    /// Tells another shard something about a client's connection, later if it has too much to do: nobody
    /// would tell it again.
    pub(super) fn tell(&mut self, shard: ShardIndex, what: FromStream) {
        let Some(link) = self.siblings.get(usize::from(shard.0)) else {
            return;
        };
        self.io.passed_on += 1;
        link.pass_on_surely(what, Some(self.peers.streams()));
    }

    /// Gives another shard a packet. It may be lost like a datagram when that one has too much to do; but
    /// over a stream nobody repeats a request, so the client is told by the end of its connection.
    fn pass_on(&mut self, shard: ShardIndex, passed_on: PassedOn) {
        let client = passed_on.client;
        let is_fatal = client.transport.is_stream() && Loss::of(&passed_on.packet) == Loss::Fatal;
        let has_connection = passed_on.connection.is_some();
        let link = self.siblings.get(usize::from(shard.0));
        if link.is_some_and(|link| link.pass_on(FromStream::PassedOn(passed_on)).is_ok()) {
            self.io.passed_on += 1;
            return;
        }
        self.io.passed_on_dropped += 1;
        if is_fatal {
            self.io.passed_on_closed += 1;
            // One that was to be handed over ends since nobody holds its queue any more.
            if !has_connection {
                self.tell(shard, FromStream::Gone(client));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::mpsc::{SyncSender, sync_channel},
        time::Duration,
    };

    use tokio::{
        runtime::{Builder, Runtime},
        time::timeout,
    };
    use tombolo_stun::{
        Class, ErrorCode, Key, Message, MessageWriter, Method, Nonce, Realm, RequestedTransport,
        ReservationToken, TransactionId, Username,
    };
    use tombolo_turn::server::{self, Transport};

    use super::*;
    use crate::{
        Relay, RelayConfig,
        link::{Batch, Connection, ConnectionQueue, Control, ShardLink},
    };

    #[test]
    fn a_stream_client_whose_request_does_not_reach_its_shard_is_told_by_the_end() {
        let relay = relay();
        let mut client = Client::passed_on(&relay);
        let busy = Busy::new(&relay.shards[1].link);
        client.send(&CHANNEL_DATA);
        client.send(&client.request());
        wait_until(|| dropped(&relay) == 2);
        drop(busy);
        assert_eq!(client.next(), None);
    }

    #[test]
    fn a_stream_client_whose_packet_does_not_reach_its_shard_goes_on() {
        let relay = relay();
        let mut client = Client::passed_on(&relay);
        let busy = Busy::new(&relay.shards[1].link);
        client.send(&CHANNEL_DATA);
        wait_until(|| dropped(&relay) == 1);
        drop(busy);
        client.wait_for_room(&relay.shards[1].link);
        client.send(&client.request());
        client.assert_refused();
    }

    #[test]
    fn a_stream_client_that_cannot_be_handed_over_is_told_by_the_end() {
        let relay = relay();
        let mut client = Client::challenged(&relay);
        let busy = Busy::new(&relay.shards[1].link);
        client.send(&client.request());
        assert_eq!(client.next(), None);
        drop(busy);
    }

    /// A shard that does nothing until this is dropped, and for which as much waits as may.
    struct Busy {
        _go_on: SyncSender<()>,
    }

    impl Busy {
        fn new(shard: &ShardLink) -> Self {
            let (go_on, waits) = sync_channel::<()>(0);
            let (begun, is_begun) = sync_channel(1);
            shard.control_blocking(Control::Run(Box::new(move |_, _| {
                let _ = begun.send(());
                let _ = waits.recv();
            })));
            is_begun.recv().expect("it works");
            while shard.pass_on(FromStream::Gone(tuple(9))).is_ok() {}
            Self { _go_on: go_on }
        }
    }

    /// A stream connection without sockets, whose frames come to the first shard.
    struct Client {
        runtime: Runtime,
        shard: ShardLink,
        queue: ConnectionQueue,
        nonce: String,
    }

    impl Client {
        fn challenged(relay: &Relay) -> Self {
            let (connection, queue) = Connection::new();
            let runtime = Builder::new_current_thread().enable_time().build();
            let mut client = Self {
                runtime: runtime.expect("there are descriptors"),
                shard: relay.shards[0].link.clone(),
                queue,
                nonce: String::new(),
            };
            client.tell(FromStream::Opened(tuple(1), connection));
            client.send(&client.request());
            let challenge = client.next().expect("it is answered");
            let challenge = Message::decode(&challenge).expect("it is well formed");
            let nonce: Nonce<'_> = challenge.required().expect("it is there");
            client.nonce = nonce.as_str().to_owned();
            client
        }

        /// One that the second shard has answered.
        fn passed_on(relay: &Relay) -> Self {
            let mut client = Self::challenged(relay);
            client.send(&client.request());
            client.assert_refused();
            client
        }

        fn tell(&self, what: FromStream) {
            assert!(self.shard.pass_on(what).is_ok(), "there is room");
        }

        fn send(&self, frame: &[u8]) {
            self.tell(FromStream::Frame(tuple(1), frame.to_vec()));
        }

        /// Waits until a shard has done all that waited for it.
        fn wait_for_room(&self, shard: &ShardLink) {
            let (connection, mut queue) = Connection::new();
            let done = async {
                let enrolled = shard.enrol(tuple(8), connection).await;
                let is_told = enrolled.expect("it works").finish().await;
                assert!(is_told, "it works");
                let batch = queue.next(&mut Vec::new(), 0).await;
                assert!(matches!(batch, Batch::Over), "nothing was asked");
            };
            let in_time = async { timeout(PATIENCE, done).await };
            self.runtime.block_on(in_time).expect("it is done");
        }

        /// For a port that the second shard has kept, as it says.
        fn request(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            let transaction = TransactionId([1; 12]);
            let class = Class::Request;
            let mut writer = MessageWriter::new(&mut bytes, class, Method::ALLOCATE, transaction);
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&ReservationToken([7, 7, 7, 7, 7, 7, 7, 1]));
            if !self.nonce.is_empty() {
                writer
                    .attribute(&Username::new("alice").expect("it is short"))
                    .attribute(&Realm::new("here").expect("it is short"))
                    .attribute(&Nonce::new(&self.nonce).expect("it is short"))
                    .integrity(&Key::long_term("alice", "here", "secret"));
            }
            bytes
        }

        /// What comes next; `None` if the connection is over.
        fn next(&mut self) -> Option<Vec<u8>> {
            let mut frame = Vec::new();
            let next = async { timeout(PATIENCE, self.queue.next(&mut frame, 0)).await };
            let batch = self.runtime.block_on(next).expect("something comes");
            match batch {
                Batch::Frames { .. } => Some(frame),
                Batch::Over => None,
                Batch::Join(_) => panic!("there is nobody to be joined with"),
            }
        }

        /// Waits for the answer, which is that the port is not known.
        #[track_caller]
        fn assert_refused(&mut self) {
            let reply = self.next().expect("it is answered");
            let reply = Message::decode(&reply).expect("it is well formed");
            let error: ErrorCode<'_> = reply.required().expect("it is a refusal");
            assert_eq!(error.code(), 508);
        }
    }

    fn relay() -> Relay {
        let mut realm = server::Realm::new("here");
        realm.users.insert("alice".to_owned(), "secret".to_owned());
        Relay::bind(RelayConfig {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            shards: Some(2),
            realm,
            ..RelayConfig::default()
        })
        .expect("there are free ports")
    }

    fn tuple(port: u16) -> FiveTuple {
        FiveTuple {
            transport: Transport::Tcp,
            client: ([192, 0, 2, 1], port).into(),
            server: ([192, 0, 2, 2], 3478).into(),
        }
    }

    /// By the first shard.
    fn dropped(relay: &Relay) -> u64 {
        let (sender, receiver) = sync_channel(1);
        relay.shards[0]
            .link
            .control_blocking(Control::Stats(sender));
        receiver.recv().expect("it works").io.passed_on_dropped
    }

    #[track_caller]
    fn wait_until(mut is_true: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_true() {
            assert!(start.elapsed() < PATIENCE, "it did not happen");
            std::thread::yield_now();
        }
    }

    const CHANNEL_DATA: [u8; 4] = [0x40, 0, 0, 0];
    const PATIENCE: Duration = Duration::from_secs(20);
}
