//! A device's links: which there are, and the way of introductions and connections to them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tombolo_field::EntityId;
use tombolo_path::Policy;
use tombolo_wire::v1;
use tombolo_wire::{FieldId, PublicKeys, RoomId, UserId};

use crate::error::Error;
use crate::keys::PublicKey;
use crate::link::{
    self, Delivering, Driver, Inputs, Introduction, Lane, LinkConfig, Over, Peer, Place, Shop,
};
use crate::session::Introduced;

/// Handshakes that may wait to be looked at.
pub(crate) const HANDSHAKES_MAX: usize = 64;
/// For all links together, when the device is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Why links end with their device.
const DEVICE_CLOSED: &str = "the device is closed";
/// Introductions that began links and are remembered, lest what they carry is delivered once more.
const BEGUN_MAX: usize = 512;
/// Links to one device that deliver while the next one waits.
const DELIVERING_MAX: usize = 16;

/// Through what two devices are introduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meeting {
    Room(RoomId),
    /// A field, and the other's number there.
    Field(FieldId, EntityId),
}

impl Meeting {
    /// The frame that introduces this device to a user there.
    pub(crate) fn introduce(&self, to: &UserId, introduction: v1::Introduction) -> v1::Introduce {
        let mut introduce = v1::Introduce {
            to: to.to_string(),
            introduction: Some(introduction),
            ..v1::Introduce::default()
        };
        match self {
            Self::Room(room) => introduce.room = room.to_string(),
            Self::Field(field, entity) => {
                introduce.field = field.to_string();
                introduce.entity = entity.0;
            }
        }
        introduce
    }
}

/// Whom a link is for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) meeting: Meeting,
    pub(crate) user: UserId,
    pub(crate) policy: Policy,
}

/// One link for each device at the other end, in whichever rooms the two meet, and those before it that the
/// application has closed and that still deliver.
pub(crate) struct Links {
    shop: Shop,
    /// The oldest first.
    links: Mutex<Vec<Link>>,
    /// The oldest first.
    begun: Mutex<VecDeque<Begun>>,
}

/// An introduction that has begun a link.
struct Begun {
    identity: PublicKey,
    attempt: u64,
    /// The peer has no answer, and says the same again.
    is_unanswered: bool,
}

struct Link {
    /// Of the device at the other end.
    identity: PublicKey,
    target: Target,
    /// Where the two are introduced now: the target's meeting, unless they have left that.
    meeting: watch::Sender<Meeting>,
    attempt: u64,
    /// The peer's attempt, once introduced.
    remote_attempt: Option<u64>,
    handle: Weak<link::Shared>,
    place: Arc<Place>,
    inputs: Inputs,
    over: Over,
    /// The session with which the link was introduced is lost.
    is_forgotten: bool,
}

impl Link {
    /// The application's handle, while it may still send.
    fn peer(&self) -> Option<Peer> {
        let peer = self.handle.upgrade().map(Peer);
        peer.filter(|peer| !peer.is_closed())
    }

    /// Whether the application has let it go, and what it has sent has still to be delivered.
    fn is_delivering(&self) -> bool {
        self.peer().is_none() && self.may_deliver()
    }

    fn may_deliver(&self) -> bool {
        self.place.is_established() || self.place.has_waiting()
    }

    /// Whether the introduction belongs to this link, rather than to a new one.
    fn accepts(&self, introduction: &Introduction) -> bool {
        match self.remote_attempt {
            Some(remote) => remote == introduction.attempt,
            // Both ends began: theirs and ours are the two halves of one link. What only tells news is of another.
            None => {
                let is_begun = introduction.answers == 0 && !introduction.update;
                is_begun || introduction.answers == self.attempt
            }
        }
    }

    fn on_introduction(&mut self, introduction: Introduction) {
        let is_first = self.remote_attempt.is_none();
        // A full queue is a peer that talks too much.
        if is_first || introduction.update {
            self.remote_attempt = Some(introduction.attempt);
            _ = self.inputs.introductions.try_send(introduction);
        } else if !self.place.is_established() {
            // A peer that repeats itself has not heard what it was answered.
            self.tell_again();
        }
    }

    fn tell_again(&self) {
        // One that waits stands for all.
        _ = self.inputs.untold.try_send(());
    }

    fn is_with(&self, target: &Target) -> bool {
        (&self.target.meeting, &self.target.user) == (&target.meeting, &target.user)
    }

    fn end(&self, reason: &str) {
        // A full queue holds another reason already.
        _ = self.inputs.end.try_send(reason.to_owned());
    }

    /// Lets it deliver what it has to.
    fn close(&self) {
        if let Some(peer) = self.peer() {
            peer.close();
        }
        if !self.may_deliver() {
            self.end(DEVICE_CLOSED);
        }
    }
}

impl Links {
    pub(crate) fn new(shop: Shop) -> Arc<Self> {
        Arc::new(Self {
            shop,
            links: Mutex::default(),
            begun: Mutex::default(),
        })
    }

    /// Opens a link, or finds the one that exists; first messages go out either way.
    pub(crate) fn open(
        self: &Arc<Self>,
        target: Target,
        keys: PublicKeys,
        first: Vec<(Lane, Bytes)>,
    ) -> Result<Peer, Error> {
        let mut links = self.lock();
        let to = |link: &&Link| link.identity.0 == keys.identity;
        if let Some(peer) = links.iter().filter(to).find_map(Link::peer) {
            peer.send_all(first).map_err(Error::local)?;
            return Ok(peer);
        }
        self.start(&mut links, target, keys, first, None)
    }

    /// Deals with a peer's introduction; returns the link that it begins, if it does.
    pub(crate) fn on_introduced(
        self: &Arc<Self>,
        target: Target,
        mut introduction: Introduction,
    ) -> Option<Peer> {
        let keys = introduction.keys;
        let mut links = self.lock();
        rekey(&mut links, &target, &introduction);
        let of_peer = links
            .iter_mut()
            .filter(|link| link.identity.0 == keys.identity);
        let mut before = Vec::new();
        for link in of_peer {
            if link.accepts(&introduction) {
                self.remember(&mut introduction);
                link.on_introduction(introduction);
                // The peer has begun anew, and takes nothing from those before.
                before
                    .into_iter()
                    .for_each(|link: &mut Link| link.end(link::REPLACED));
                return None;
            }
            before.push(link);
        }
        if introduction.update || introduction.answers != 0 || !self.remember(&mut introduction) {
            tracing::debug!(user = %target.user, "introduction of a link that is over: ignored");
            return None;
        }
        let started = self.start(&mut links, target, keys, Vec::new(), Some(introduction));
        started
            .inspect_err(|error| tracing::warn!(%error, "introduction not answered"))
            .ok()
    }

    /// The node did not hand an introduction on: a link that works, or has been introduced, goes on and
    /// tells it again later, by another of the rooms in which that user is, with those keys; any other ends.
    pub(crate) fn on_refused(
        &self,
        to: &Introduced,
        error: &Error,
        rooms: &[(RoomId, PublicKeys)],
    ) {
        tracing::debug!(room = to.room, user = to.user, %error, "introduction refused");
        let mut links = self.lock();
        let Some(link) = links.iter_mut().find(|link| link.attempt == to.attempt) else {
            return;
        };
        if link.place.is_established() || to.is_update {
            let mut others = rooms.iter().filter(|(room, _)| room.as_str() != to.room);
            if let Some((room, _)) = others.find(|(_, keys)| keys.identity == link.identity.0) {
                let meeting = Meeting::Room(room.clone());
                link.meeting.send_replace(meeting);
            }
            link.tell_again();
        } else if error.is_unreachable() || link.is_forgotten {
            // A new session has to be let into the room again first.
            link.is_forgotten = true;
            link.tell_again();
        } else {
            if let Some(remote) = link.remote_attempt {
                self.begins_again(link.identity, remote);
            }
            link.end(&error.to_string());
        }
    }

    /// Closes all links, once what is queued has been delivered or some seconds have passed.
    pub(crate) async fn close(&self) {
        let over: Vec<_> = {
            let links = self.lock();
            links.iter().for_each(Link::close);
            links.iter().map(|link| link.over.clone()).collect()
        };
        let ended = async {
            for over in over {
                over.wait().await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            tracing::info!("some links did not close in time");
            self.lock().iter().for_each(|link| link.end(DEVICE_CLOSED));
        }
    }

    fn start(
        self: &Arc<Self>,
        links: &mut Vec<Link>,
        target: Target,
        keys: PublicKeys,
        first: Vec<(Lane, Bytes)>,
        answers: Option<Introduction>,
    ) -> Result<Peer, Error> {
        link::check_first(&first).map_err(Error::local)?;
        let identity = PublicKey(keys.identity);
        let remote_attempt = answers.as_ref().map(|introduction| introduction.attempt);
        let (meeting, met) = watch::channel(target.meeting.clone());
        let (predecessors, delivering) = replace(links, &target, identity, answers.is_none());
        let config = LinkConfig {
            shop: self.shop.clone(),
            meeting: met,
            user: target.user.clone(),
            expected_keys: keys,
            policy: target.policy,
            first,
            answers,
            predecessors,
            delivering,
        };
        let (peer, inputs, driver) = Driver::new(config).map_err(Error::local)?;
        let attempt = peer.0.attempt;
        let registry = Arc::downgrade(self);
        tokio::spawn(async move {
            driver.run().await;
            if let Some(registry) = registry.upgrade() {
                registry.forget(attempt);
            }
        });
        links.push(Link {
            identity,
            target,
            meeting,
            attempt,
            remote_attempt,
            handle: Arc::downgrade(&peer.0),
            place: Arc::clone(peer.0.place()),
            inputs,
            over: peer.0.over(),
            is_forgotten: false,
        });
        Ok(peer)
    }

    /// Remembers what a link begins with; whether it does. A node may hand it over again, and a peer without an answer
    /// says it again: of what it says first the application has heard then.
    fn remember(&self, introduction: &mut Introduction) -> bool {
        let (identity, attempt) = (PublicKey(introduction.keys.identity), introduction.attempt);
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known(&mut begun, identity, attempt) {
            introduction.forget_early();
            return std::mem::take(&mut known.is_unanswered);
        }
        if begun.len() >= BEGUN_MAX {
            begun.pop_front();
        }
        begun.push_back(Begun {
            identity,
            attempt,
            is_unanswered: false,
        });
        true
    }

    /// The answer to an introduction did not get across.
    fn begins_again(&self, identity: PublicKey, attempt: u64) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known(&mut begun, identity, attempt) {
            known.is_unanswered = true;
        }
    }

    fn forget(&self, attempt: u64) {
        self.lock().retain(|link| link.attempt != attempt);
    }

    /// Takes a connection to the link that waits for its key.
    fn on_connection(&self, connection: noq::Connection) {
        let identity = connection
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer>>().ok())
            .and_then(|chain| PublicKey::from_spki(chain.first()?));
        let links = self.lock();
        // Those that wait for one before them have not been introduced yet.
        let mut waiting = links.iter().filter(|link| !link.place.is_established());
        match waiting.find(|link| Some(link.identity) == identity) {
            Some(link) => drop(link.inputs.connections.try_send(connection)),
            None => connection.close(1u8.into(), b"no introduction"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type CertificateDer = rustls::pki_types::CertificateDer<'static>;

fn known(begun: &mut VecDeque<Begun>, identity: PublicKey, attempt: u64) -> Option<&mut Begun> {
    let mut begun = begun.iter_mut();
    begun.find(|known| known.identity == identity && known.attempt == attempt)
}

/// Moves a link to the key of the member's answer, which may have come back with another key
/// between its joining and our introduction.
fn rekey(links: &mut [Link], target: &Target, answer: &Introduction) {
    let is_answered = |link: &&mut Link| {
        link.attempt == answer.answers && link.remote_attempt.is_none() && link.is_with(target)
    };
    if let Some(link) = links.iter_mut().find(is_answered) {
        link.identity = PublicKey(answer.keys.identity);
    }
}

/// Ends the links that a new one takes the place of: those to the same device, and those to the
/// same member from before it came back with other keys. Those that still deliver may go on to do so where this
/// device begins the new one: the other end knows nothing of that yet.
fn replace(
    links: &mut Vec<Link>,
    target: &Target,
    identity: PublicKey,
    is_begun_here: bool,
) -> (Vec<Over>, Vec<Delivering>) {
    let mut delivering = Vec::new();
    let replaced = links.extract_if(.., |link| {
        let is_to_device = link.identity == identity;
        let may_go_on = is_begun_here && is_to_device && link.is_delivering();
        if may_go_on {
            delivering.push(Delivering {
                over: link.over.clone(),
                end: link.inputs.end.clone(),
            });
        }
        !may_go_on && (is_to_device || link.is_with(target))
    });
    let ended = replaced.map(|link| {
        link.end(link::REPLACED);
        link.over
    });
    let ended = ended.collect();
    let too_many = delivering.len().saturating_sub(DELIVERING_MAX);
    for oldest in &delivering[..too_many] {
        _ = oldest.end.try_send(link::REPLACED.to_owned());
    }
    (ended, delivering)
}

/// Takes incoming QUIC connections to the links that wait for them: of each introduced peer one, however many it begins.
pub(crate) async fn accept(links: Weak<Links>, endpoint: noq::Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        let (from, first_id) = (incoming.remote_address(), incoming.orig_dst_cid());
        let wanted = links
            .upgrade()
            .and_then(|links| links.shop.net.begin_handshake(from, first_id));
        let Some(unwanted) = wanted else {
            // Who is to begin it says it again, and may be introduced by then.
            incoming.ignore();
            continue;
        };
        let links = links.clone();
        tokio::spawn(async move {
            let connection = tokio::select! {
                connection = handshake(incoming) => connection,
                // The link that waited for it is over.
                _ = unwanted => None,
            };
            if let (Some(connection), Some(links)) = (connection, links.upgrade()) {
                links.on_connection(connection);
            }
        });
    }
}

async fn handshake(incoming: noq::Incoming) -> Option<noq::Connection> {
    let handshake = incoming.accept().ok()?.await;
    let failed = |error: &_| tracing::debug!(%error, "a peer's handshake failed");
    handshake.inspect_err(failed).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, SocketAddr};

    use noq::ConnectionId;
    use tokio::net::UdpSocket;
    use tombolo_node::Node;
    use tombolo_path::{Candidate, CandidateKind, Credentials, PeerConfig};

    use super::*;
    use crate::keys::Keys;
    use crate::{Device, Room, RoomEvent, RoomOptions};

    /// Between two packets of a flood.
    const FLOOD_PACE: Duration = Duration::from_millis(2);

    async fn node() -> Node {
        let node = Node::builder().dev().listen([127, 0, 0, 1].into());
        let node = node.allow_peer("127.0.0.0/8".parse().unwrap());
        let node = node.port(0).turn_port(0).turns_port(0).start();
        node.await.unwrap()
    }

    async fn device(node: &Node, user: &str) -> Device {
        let url = node.ready().url.to_string();
        let device = Device::builder(&url).development_user(user).connect();
        device.await.unwrap()
    }

    async fn join(device: &Device, policy: Policy) -> Room {
        let options = RoomOptions {
            policy,
            ..RoomOptions::default()
        };
        device.rooms().join_or_create("r", options).await.unwrap()
    }

    /// Links the two, and says something each way.
    async fn link(alice: &Device, bob: &Device, policy: Policy) {
        let alice_room = join(alice, policy).await;
        let bob_room = join(bob, policy).await;
        let name = UserId::parse("bob").unwrap();
        while !alice_room.members().contains(&name) {
            tokio::task::yield_now().await;
        }
        let to_bob = alice_room.peer(&name).open().unwrap();
        let to_alice = loop {
            if let Some(RoomEvent::Peer(peer)) = bob_room.next_event().await {
                break peer;
            }
        };
        for (from, to) in [(&to_alice, &to_bob), (&to_bob, &to_alice)] {
            from.send(Lane::Reliable, "hello").unwrap();
            assert_eq!(to.recv().await.unwrap().payload, "hello");
        }
    }

    /// A member of a room that says to have these addresses.
    fn liar(candidates: Vec<Candidate>) -> PeerConfig {
        let [own, theirs] = [1, 2].map(|seed| Credentials::from_seed([seed; 32]));
        let mut config = PeerConfig::new(own, theirs, true);
        config.candidates = candidates;
        config
    }

    /// The first packets of as many handshakes, none of which goes on.
    async fn first_packets(count: usize) -> Vec<Vec<u8>> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = UdpSocket::bind(loopback).await.unwrap();
        let to = socket.local_addr().unwrap();
        let endpoint = noq::Endpoint::client(loopback).unwrap();
        let keys = Keys::generate().unwrap();
        let tls = keys.client_config(keys.identity).unwrap();
        let config = noq::ClientConfig::new(Arc::new(tls));
        let begin = |_| endpoint.connect_with(config.clone(), to, "peer").unwrap();
        let begun: Vec<_> = (0..count).map(begin).collect();
        let mut by_id = BTreeMap::new();
        while by_id.len() < begun.len() {
            let mut packet = vec![0; 2048];
            let bytes = socket.recv(&mut packet).await.unwrap();
            packet.truncate(bytes);
            let id = packet[6..][..usize::from(packet[5])].to_vec();
            by_id.entry(id).or_insert(packet);
        }
        by_id.into_values().collect()
    }

    #[tokio::test]
    async fn whoever_claims_anothers_addresses_does_not_keep_a_link_from_coming_up() {
        let node = node().await;
        let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        for (policy, moves) in [
            (Policy::Relay, false),
            (Policy::Relay, true),
            (Policy::Any, true),
        ] {
            let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
            // Both were lied to, since either may be the one that begins the handshake.
            for (device, other) in [(&alice, &bob), (&bob, &alice)] {
                let net = device.0.net();
                let liar = liar(other.candidates());
                let (liar, _) = net.add_peer(liar, None).unwrap();
                if moves {
                    let elsewhere = Candidate::new(CandidateKind::Relayed, elsewhere);
                    net.add_candidate(liar, elsewhere);
                }
            }
            link(&alice, &bob, policy).await;
        }
        node.shutdown().await;
    }

    #[tokio::test]
    async fn an_introduction_that_is_handed_over_again_begins_no_other_link() {
        let node = node().await;
        let bob = device(&node, "bob").await;
        let links = bob.0.links();
        let introduction = |attempt| {
            let message = v1::Introduction {
                attempt,
                keys: Some((&Keys::generate().unwrap().public()).into()),
                ..v1::Introduction::default()
            };
            Introduction::parse(message).unwrap()
        };
        let target = Target {
            meeting: Meeting::Room(RoomId::parse("r").unwrap()),
            user: UserId::parse("alice").unwrap(),
            policy: Policy::Any,
        };
        let first = introduction(1);
        let begin = |introduction| links.on_introduced(target.clone(), introduction);
        for introduction in [first.clone(), introduction(1)] {
            let peer = begin(introduction).expect("a link begins");
            links.lock().iter().for_each(|link| link.end("over"));
            peer.closed().await;
            while !links.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        }
        assert!(begin(first.clone()).is_none());

        // One whose answer did not get across begins a link once more.
        let second = introduction(2);
        let peer = begin(second.clone()).expect("a link begins");
        let refused = Introduced {
            room: "r".to_owned(),
            user: "alice".to_owned(),
            attempt: peer.0.attempt,
            is_update: false,
        };
        links.on_refused(&refused, &Error::closed("nothing is kept for it"), &[]);
        peer.closed().await;
        while !links.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let peer = begin(second.clone()).expect("a link begins once more");
        links.lock().iter().for_each(|link| link.end("over"));
        peer.closed().await;
        while !links.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(begin(second).is_none());
        node.shutdown().await;
    }

    #[tokio::test]
    async fn an_introduced_peer_that_begins_many_handshakes_keeps_nobody_from_linking() {
        let node = node().await;
        let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
        let mallory = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let at = Candidate::new(CandidateKind::Host, mallory.local_addr().unwrap());
        // Either may be the one that awaits the other's handshake.
        let targets = [&alice, &bob].map(|device| {
            let net = device.0.net();
            let first_id = ConnectionId::new(&[7; 16]);
            net.add_peer(liar(vec![at]), Some(first_id)).unwrap();
            SocketAddr::from((Ipv4Addr::LOCALHOST, net.port()))
        });
        let packets = first_packets(2 * HANDSHAKES_MAX).await;
        let begin = async |packet: &[u8]| {
            let relayed_path = [&[0x08], packet].concat();
            for target in targets {
                mallory.send_to(&relayed_path, target).await.unwrap();
            }
        };
        for packet in &packets {
            begin(packet).await;
        }
        let flood = async {
            for packet in packets.iter().cycle() {
                begin(packet).await;
                tokio::time::sleep(FLOOD_PACE).await;
            }
        };
        tokio::select! {
            () = flood => {}
            () = link(&alice, &bob, Policy::Relay) => {}
        }
        for device in [&alice, &bob] {
            assert!(device.dropped().unexpected_handshakes > 0, "and is counted");
        }
        node.shutdown().await;
    }
}
