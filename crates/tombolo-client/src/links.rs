//! A device's links: which there are, and the way of introductions and connections to them.

mod begun;
#[cfg(test)]
mod crossing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tombolo_field::EntityId;
use tombolo_path::Policy;
use tombolo_wire::v1;
use tombolo_wire::{FieldId, PublicKeys, RoomId, UserId};

use self::begun::{Begins, Begun};
use crate::error::Error;
use crate::keys::PublicKey;
use crate::link::{
    self, Delivering, Driver, Heard, Inputs, Introduction, Lane, LinkConfig, Over, Pairing, Peer,
    Place, Shop, Standing,
};
use crate::session::Introduced;

/// Handshakes that may wait to be looked at.
pub(crate) const HANDSHAKES_MAX: usize = 64;
/// For all links together, when the device is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Why links end with their device.
const DEVICE_CLOSED: &str = "the device is closed";
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
    begun: Mutex<Begun>,
}

/// What a link is started with.
struct Start {
    target: Target,
    keys: PublicKeys,
    first: Vec<(Lane, Bytes)>,
    /// The introduction that begins it.
    answers: Option<Introduction>,
    /// Of the link whose place it takes, unless the peer is to know it as another one.
    standing: Option<Standing>,
}

struct Link {
    /// Of the device at the other end.
    identity: PublicKey,
    target: Target,
    /// Where the two are introduced now: the target's meeting, unless they have left that.
    meeting: watch::Sender<Meeting>,
    standing: Standing,
    pairing: Pairing,
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

    /// Whether it is still to be seen with which of the peer's attempts it comes up.
    fn is_open(&self) -> bool {
        !self.place.is_established()
    }

    /// Takes in what is told of this link; false where another link has to take its place.
    fn on_introduction(&mut self, introduction: &Introduction, is_new: bool) -> bool {
        let mut pairing = self.pairing;
        if self.is_open() {
            let heard = pairing.hear(introduction.attempt, introduction.answers);
            // The peer let the one go that this link was with, and whatever that one was told.
            let is_unasked = is_new && introduction.answers != self.pairing.own;
            if heard == Heard::Anew && is_unasked {
                return false;
            }
        } else if !introduction.update {
            return true;
        }
        // A full queue is a peer that talks too much.
        let told = self.inputs.introductions.try_send(introduction.clone());
        if told.is_ok() {
            self.pairing = pairing;
        }
        true
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
        let start = Start {
            target,
            keys,
            first,
            answers: None,
            standing: None,
        };
        self.start(&mut links, start)
    }

    /// Deals with a peer's introduction; returns the link that it begins, if it does.
    pub(crate) fn on_introduced(
        self: &Arc<Self>,
        target: Target,
        mut introduction: Introduction,
    ) -> Option<Peer> {
        let keys = introduction.keys;
        let identity = PublicKey(keys.identity);
        let mut links = self.lock();
        rekey(&mut links, &target, &introduction);
        let is_new = !self.begun().is_known(identity, introduction.attempt);
        let mut standing = None;
        if let Some(place) = whose(&links, identity, &introduction, is_new) {
            self.remember(&mut introduction);
            // The peer has begun anew, and takes nothing from those before.
            let before = links[..place].iter();
            before
                .filter(|link| link.identity == identity)
                .for_each(|link| link.end(link::REPLACED));
            let link = &mut links[place];
            if link.on_introduction(&introduction, is_new) {
                return None;
            }
            // To the peer it is the same: were it another, and the peer did likewise, they would miss each other.
            standing = Some(link.standing.clone());
        } else if !introduction.is_begun() || !self.remember(&mut introduction) {
            tracing::debug!(user = %target.user, "introduction of a link that is over: ignored");
            return None;
        }
        let start = Start {
            target,
            keys,
            first: Vec::new(),
            answers: Some(introduction),
            standing,
        };
        let started = self.start(&mut links, start);
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
        let Some(link) = links.iter_mut().find(|link| link.pairing.own == to.attempt) else {
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
            if let Some(remote) = link.pairing.remote {
                self.begun().begins_again(link.identity, remote);
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

    fn start(self: &Arc<Self>, links: &mut Vec<Link>, start: Start) -> Result<Peer, Error> {
        let Start {
            target,
            keys,
            first,
            answers,
            standing,
        } = start;
        link::check_first(&first).map_err(Error::local)?;
        let identity = PublicKey(keys.identity);
        let standing = match standing {
            Some(standing) => standing,
            None => Standing::generate().map_err(Error::local)?,
        };
        let pairing = Pairing {
            own: standing.attempt,
            remote: answers.as_ref().map(|introduction| introduction.attempt),
        };
        let (meeting, met) = watch::channel(target.meeting.clone());
        let (predecessors, delivering) = replace(links, &target, identity, answers.is_none());
        let config = LinkConfig {
            shop: self.shop.clone(),
            standing: standing.clone(),
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
        let registry = Arc::downgrade(self);
        let place = Arc::clone(peer.0.place());
        tokio::spawn(async move {
            driver.run().await;
            if let Some(registry) = registry.upgrade() {
                registry.forget(&place);
            }
        });
        links.push(Link {
            identity,
            target,
            meeting,
            standing,
            pairing,
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
        let begins = self.begun().begin(identity, attempt);
        if begins != Begins::First {
            introduction.forget_early();
        }
        begins != Begins::Not
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, place: &Arc<Place>) {
        self.lock().retain(|link| !Arc::ptr_eq(&link.place, place));
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

/// The link that an introduction is of, or that it is to come up with.
fn whose(
    links: &[Link],
    identity: PublicKey,
    introduction: &Introduction,
    is_new: bool,
) -> Option<usize> {
    let of_peer = || {
        let links = links.iter().enumerate();
        links.filter(move |(_, link)| link.identity == identity && !link.over.is_so())
    };
    let open = || of_peer().filter(|(_, link)| link.is_open());
    let told = Some(introduction.attempt);
    let of_this = of_peer().find(|(_, link)| link.pairing.remote == told);
    let answered = || of_peer().find(|(_, link)| link.pairing.own == introduction.answers);
    let begun = || match introduction.is_begun() && is_new {
        // Both ends began: theirs and ours are the two halves of one link.
        true => open()
            .find(|(_, link)| link.pairing.remote.is_none())
            .or_else(|| open().next_back()),
        // It may be old, and ends nothing. A link that waits for those before it has told nothing yet.
        false => of_peer().next().filter(|(_, link)| link.is_open()),
    };
    let whose = of_this.or_else(answered).or_else(begun);
    whose.map(|(place, _)| place)
}

/// Moves a link to the key of the member's answer, which may have come back with another key
/// between its joining and our introduction.
fn rekey(links: &mut [Link], target: &Target, answer: &Introduction) {
    let is_answered = |link: &&mut Link| {
        link.pairing.own == answer.answers && link.is_open() && link.is_with(target)
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
