//! Clients whose packets come here though their allocation is on another shard.
//!
//! Of datagrams the core knows whose are another shard's. A connection is handed over, and its entry, the
//! shard that gets what comes by it, gives that to the one that has it. A shard that is to hand over one
//! that came by another entry gives it back to there, with what follows it: so only the entry knows where
//! it is, and knows it until the connection ends.

use std::{sync::Arc, time::Instant};

use tombolo_turn::server::{FiveTuple, Forward, ShardIndex, Transport};

use super::{
    Shard,
    connections::{Away, Here, Place},
};
use crate::link::{
    Behind, Connection, ConnectionState, FromClient, FromStream, HandedOver, Loss, PassedOn,
};

impl Shard {
    /// Hands a client over: its connection, where it has one, and the packet in hand.
    pub(super) fn redirect(
        &mut self,
        now: Instant,
        to: ShardIndex,
        client: FiveTuple,
        packet: Vec<u8>,
    ) {
        if client.transport == Transport::Udp {
            // The packet itself names that shard.
            return self.pass_on(to, client, packet, 0);
        }
        // What it is owed until now has to find it.
        self.send_replies();
        self.core.handle_client_gone(now, client);
        let Some(Here { connection, entry }) = self.connections.remove(&client) else {
            return;
        };
        let handed_over = HandedOver {
            client,
            connection,
            entry,
            to,
            packet,
        };
        if entry == self.relays.shard() {
            self.hand_on(handed_over);
        } else {
            self.hand_over(entry, handed_over);
        }
    }

    /// Hands a connection to the shard that it is for, and notes that it is there: this is its entry.
    fn hand_on(&mut self, handed_over: HandedOver) {
        let away = Away {
            shard: handed_over.to,
            state: handed_over.connection.state(),
        };
        self.connections.set(handed_over.client, Place::Away(away));
        self.hand_over(handed_over.to, handed_over);
    }

    /// Gives another shard a connection. One that it has no room for ends, since nobody holds its queue any
    /// more.
    fn hand_over(&mut self, shard: ShardIndex, handed_over: HandedOver) {
        let is_stream = handed_over.client.transport.is_stream();
        if !self.give(shard, FromStream::HandedOver(handed_over)) && is_stream {
            self.io.passed_on_closed += 1;
        }
    }

    /// Takes a connection that another shard hands over, or back, to be handed on.
    pub(super) fn handle_handed_over(&mut self, now: Instant, handed_over: HandedOver) {
        let own = self.relays.shard();
        let client = handed_over.client;
        let state = handed_over.connection.state();
        let place = self.connections.place(&client);
        if handed_over.entry == own && !place.is_some_and(|place| place.is_of(&state)) {
            // It has ended meanwhile.
            return;
        }
        if handed_over.to != own {
            return self.hand_on(handed_over);
        }
        let HandedOver {
            connection,
            entry,
            packet,
            ..
        } = handed_over;
        self.take_in(now, client, Here { connection, entry });
        self.handle_frame(now, client, &packet);
    }

    /// Takes in a connection. Whoever had its addresses before has gone, be it to another shard.
    fn take_in(&mut self, now: Instant, client: FiveTuple, here: Here) {
        let state = here.connection.state();
        self.core.handle_client_gone(now, client);
        let before = self.connections.set(client, Place::Here(here));
        if let Some(before) = before.filter(|before| !before.is_of(&state)) {
            self.tell_gone(client, before);
        }
    }

    pub(super) fn handle_opened(
        &mut self,
        now: Instant,
        client: FiveTuple,
        connection: Connection,
    ) {
        let entry = self.relays.shard();
        self.take_in(now, client, Here { connection, entry });
    }

    /// Ends what belongs to a client whose connection has ended, unless it has another one.
    pub(super) fn handle_closed(
        &mut self,
        now: Instant,
        client: FiveTuple,
        state: &Arc<ConnectionState>,
    ) {
        let place = self.connections.place(&client);
        if place.is_some_and(|place| !place.is_of(state)) {
            return;
        }
        let place = self.connections.forget(&client);
        self.core.handle_client_gone(now, client);
        if let Some(place) = place {
            self.tell_gone(client, place);
        }
    }

    /// Tells the shard that has a connection of its end. It is told in any case, later if it has too much to
    /// do: nobody would tell it again.
    fn tell_gone(&mut self, client: FiveTuple, place: Place) {
        if let Place::Away(Away { shard, state }) = place {
            self.give_surely(shard, FromStream::Gone(client, state));
        }
    }

    /// Handles what has come by a connection of which this is the entry.
    pub(super) fn handle_from_client(&mut self, now: Instant, client: FiveTuple, frame: Vec<u8>) {
        match self.connections.place(&client) {
            Some(Place::Here(_)) => self.handle_frame(now, client, &frame),
            Some(Place::Away(away)) => {
                let Away { shard, state } = away.clone();
                let behind = Behind {
                    client,
                    state,
                    entry: self.relays.shard(),
                    what: FromClient::Frame(frame),
                };
                self.give_behind(shard, behind);
            }
            // The shard has let go of it, and nobody would get a reply.
            None => self.io.lost += 1,
        }
    }

    fn handle_frame(&mut self, now: Instant, client: FiveTuple, frame: &[u8]) {
        match self.core.handle_client(now, client, frame) {
            Some(forward) => self.forward_frame(now, forward, frame),
            None => self.log_refusal(client.client),
        }
    }

    /// Handles what follows a connection that was handed over, be it from its entry or from who has handed
    /// it back there.
    pub(super) fn handle_behind(&mut self, now: Instant, behind: Behind) {
        let place = self.connections.place(&behind.client);
        match place.filter(|place| place.is_of(&behind.state)) {
            Some(Place::Here(_)) => match behind.what {
                FromClient::Frame(frame) => self.handle_frame(now, behind.client, &frame),
                FromClient::Finished => self.finished.push(behind),
            },
            Some(Place::Away(away)) => {
                let shard = away.shard;
                self.give_behind(shard, behind);
            }
            None if behind.entry == self.relays.shard() => {}
            // It has been handed back, and is there before this.
            None => self.give_behind(behind.entry, behind),
        }
    }

    /// Gives another shard what follows a connection. It may be lost like a datagram when that one has too
    /// much to do; but over a stream nobody repeats a request, so the client is told by the end of its
    /// connection.
    fn give_behind(&mut self, shard: ShardIndex, behind: Behind) {
        if behind.state.is_over() {
            return;
        }
        let FromClient::Frame(frame) = &behind.what else {
            return self.give_surely(shard, FromStream::Behind(behind));
        };
        let is_fatal = behind.client.transport.is_stream() && Loss::of(frame) == Loss::Fatal;
        let state = Arc::clone(&behind.state);
        if !self.give(shard, FromStream::Behind(behind)) && is_fatal && state.cut() {
            self.io.passed_on_closed += 1;
        }
    }

    /// Gives another shard a datagram of a client that was handed over to it.
    pub(super) fn pass_packet_on(&mut self, shard: ShardIndex, client: FiveTuple, packet: Vec<u8>) {
        // This shard and that one are no stations on the way between others.
        let others = self.siblings.len().saturating_sub(2);
        let hops_left = u8::try_from(others).unwrap_or(u8::MAX);
        self.pass_on(shard, client, packet, hops_left);
    }

    /// Handles a datagram from another shard. A client that was handed over again and again has datagrams
    /// go from shard to shard, but none of them comes to one twice.
    pub(super) fn handle_passed_on(&mut self, now: Instant, passed_on: PassedOn) {
        let PassedOn {
            client,
            packet,
            hops_left,
        } = passed_on;
        let forward = match hops_left {
            0 => self.core.handle_passed_on(now, client, &packet),
            _ => self.core.handle_client(now, client, &packet),
        };
        match forward {
            Some(Forward::ToShard { shard, client }) => {
                self.pass_on(shard, client, packet, hops_left.saturating_sub(1));
            }
            Some(forward) => self.forward_frame(now, forward, &packet),
            None => self.log_refusal(client.client),
        }
    }

    fn pass_on(&mut self, shard: ShardIndex, client: FiveTuple, packet: Vec<u8>, hops_left: u8) {
        let passed_on = PassedOn {
            client,
            packet,
            hops_left,
        };
        self.give(shard, FromStream::PassedOn(passed_on));
    }

    /// Gives another shard a packet; `false` if it has no room for it.
    fn give(&mut self, shard: ShardIndex, what: FromStream) -> bool {
        let link = self.siblings.get(usize::from(shard.0));
        let is_given = link.is_some_and(|link| link.pass_on(what).is_ok());
        match is_given {
            true => self.io.passed_on += 1,
            false => self.io.passed_on_dropped += 1,
        }
        is_given
    }

    /// Gives another shard what comes once for a connection, later if it has too much to do.
    fn give_surely(&self, shard: ShardIndex, what: FromStream) {
        if let Some(link) = self.siblings.get(usize::from(shard.0)) {
            link.pass_on_surely(what, Some(self.peers.streams()));
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
        IoStats, Relay, RelayConfig,
        link::{Batch, Connection, ConnectionQueue, Control, ShardLink},
    };

    #[test]
    fn a_stream_client_whose_request_does_not_reach_its_shard_is_told_by_the_end() {
        let relay = relay();
        let mut client = Client::passed_on(&relay);
        let busy = Busy::new(&relay.shards[1].link);
        let before = io(&relay).stream_frames;
        client.send(&CHANNEL_DATA);
        for _ in 0..3 {
            client.send(&client.request(1));
        }
        wait_until(|| io(&relay).stream_frames == before + 4);
        assert_eq!(client.next(), None);
        let io = io(&relay);
        assert_eq!((io.passed_on_dropped, io.passed_on_closed), (2, 1));
        drop(busy);
    }

    #[test]
    fn a_stream_client_whose_packet_does_not_reach_its_shard_goes_on() {
        let relay = relay();
        let mut client = Client::passed_on(&relay);
        let busy = Busy::new(&relay.shards[1].link);
        client.send(&CHANNEL_DATA);
        wait_until(|| io(&relay).passed_on_dropped == 1);
        drop(busy);
        client.wait_for_room(&relay.shards[1].link);
        client.send(&client.request(1));
        client.assert_refused();
    }

    #[test]
    fn a_stream_client_that_cannot_be_handed_over_is_told_by_the_end() {
        let relay = relay();
        let mut client = Client::challenged(&relay);
        let busy = Busy::new(&relay.shards[1].link);
        client.send(&client.request(1));
        assert_eq!(client.next(), None);
        drop(busy);
    }

    #[test]
    fn requests_of_a_stream_client_that_follow_each_other_are_answered_wherever_they_are_for() {
        let relay = relay();
        let mut client = Client::challenged(&relay);
        let held = Busy::held(&relay.shards[0].link);
        let shards = [1, 1, 0, 0, 1, 0, 1, 1];
        for shard in shards {
            client.send(&client.request(shard));
        }
        drop(held);
        for _ in shards {
            client.assert_refused();
        }
    }

    #[test]
    fn nothing_is_left_of_a_connection_that_was_handed_back() {
        let relay = relay();
        let mut client = Client::challenged(&relay);
        for shard in [1, 0, 1, 0] {
            client.send(&client.request(shard));
            client.assert_refused();
        }
        client.tell(FromStream::Closed(tuple(1), client.queue.state()));
        for shard in &relay.shards {
            wait_until(|| is_idle(&shard.link));
        }
    }

    /// A connection of the same addresses has come to another shard meanwhile.
    #[test]
    fn the_end_of_a_connection_leaves_a_later_one_of_its_addresses_alone() {
        let relay = relay();
        let client = Client::passed_on(&relay);
        let other = &relay.shards[1].link;
        let (connection, mut queue) = Connection::new();
        let opened = FromStream::Opened(tuple(1), connection);
        assert!(other.pass_on(opened).is_ok(), "there is room");
        client.tell(FromStream::Closed(tuple(1), client.queue.state()));
        client.wait_for_room(&relay.shards[0].link);
        client.wait_for_room(other);
        let request = FromStream::Frame(tuple(1), client.request(1));
        assert!(other.pass_on(request).is_ok(), "there is room");
        let mut reply = Vec::new();
        let next = async { timeout(PATIENCE, queue.next(&mut reply, 0)).await };
        let next = client.runtime.block_on(next).expect("something comes");
        assert!(matches!(next, Batch::Frames { .. }), "it is there");
    }

    /// A shard that does nothing until this is dropped, and for which as much waits as may.
    struct Busy {
        _go_on: SyncSender<()>,
    }

    impl Busy {
        fn new(shard: &ShardLink) -> Self {
            let held = Self::held(shard);
            let state = Arc::default();
            while shard
                .pass_on(FromStream::Gone(tuple(9), Arc::clone(&state)))
                .is_ok()
            {}
            held
        }

        /// One for which nothing waits yet.
        fn held(shard: &ShardLink) -> Self {
            let (go_on, waits) = sync_channel::<()>(0);
            let (begun, is_begun) = sync_channel(1);
            shard.control_blocking(Control::Run(Box::new(move |_, _| {
                let _ = begun.send(());
                let _ = waits.recv();
            })));
            is_begun.recv().expect("it works");
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
            client.send(&client.request(1));
            let challenge = client.next().expect("it is answered");
            let challenge = Message::decode(&challenge).expect("it is well formed");
            let nonce: Nonce<'_> = challenge.required().expect("it is there");
            client.nonce = nonce.as_str().to_owned();
            client
        }

        /// One that the second shard has answered.
        fn passed_on(relay: &Relay) -> Self {
            let mut client = Self::challenged(relay);
            client.send(&client.request(1));
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

        /// For a port that a shard has kept, as it says.
        fn request(&self, shard: u8) -> Vec<u8> {
            let mut bytes = Vec::new();
            let transaction = TransactionId([1; 12]);
            let class = Class::Request;
            let mut writer = MessageWriter::new(&mut bytes, class, Method::ALLOCATE, transaction);
            writer
                .attribute(&RequestedTransport::UDP)
                .attribute(&ReservationToken([7, 7, 7, 7, 7, 7, 7, shard]));
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

    /// What the first shard has counted.
    fn io(relay: &Relay) -> IoStats {
        let (sender, receiver) = sync_channel(1);
        relay.shards[0]
            .link
            .control_blocking(Control::Stats(sender));
        receiver.recv().expect("it works").io
    }

    /// Whether a shard waits for nothing.
    fn is_idle(shard: &ShardLink) -> bool {
        let (sender, receiver) = sync_channel(1);
        shard.control_blocking(Control::Run(Box::new(move |core, _| {
            let _ = sender.send(core.poll_timeout().is_none());
        })));
        receiver.recv().expect("it works")
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
