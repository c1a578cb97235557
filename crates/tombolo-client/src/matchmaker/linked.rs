//! Links with the others of a match, which the device begins by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tombolo_room::MEMBERS_MAX;
use tombolo_wire::{PublicKeys, RoomId, UserId};

use crate::device::Device;
use crate::error::Error;
use crate::link::{self, Peer};
use crate::room::{Room, RoomState};

/// The links of a match that the application has not taken, and the task that begins them, which ends with this.
#[derive(Debug)]
pub(super) struct Linked {
    peers: Mutex<mpsc::Receiver<Peer>>,
    _task: JoinSet<()>,
}

impl Linked {
    /// Links the device with the others of a match of so many users, as they come into its room: with its host only where
    /// they are more than so many.
    pub(super) fn new(room: &Room, users: usize, links_max: usize, host: Option<UserId>) -> Self {
        let links_max = links_max.min(MEMBERS_MAX as usize);
        let others = users.saturating_sub(1);
        let is_hosted = host.is_some() && others <= HOSTED_MAX;
        let (taken, peers) = mpsc::channel(links_max.max(HOSTED_MAX));
        let mut task = JoinSet::new();
        if links_max > 0 && (others <= links_max || is_hosted) {
            let linker = Linker {
                device: room.device().clone(),
                room: room.id().clone(),
                state: Arc::clone(&room.state),
                others,
                links_max,
                host,
                taken,
                handed: Arc::default(),
                links: JoinSet::new(),
                link_by_user: BTreeMap::new(),
            };
            task.spawn(linker.run());
        }
        Self {
            peers: Mutex::new(peers),
            _task: task,
        }
    }

    /// The next link that is up; `None` when there are no more. Losing the future loses no link.
    pub(super) async fn next(&self) -> Option<Peer> {
        self.peers.lock().await.recv().await
    }
}

/// Begins links in a match's room.
struct Linker {
    device: Device,
    room: RoomId,
    state: Arc<RoomState>,
    /// How many others come into the match together.
    others: usize,
    links_max: usize,
    host: Option<UserId>,
    taken: mpsc::Sender<Peer>,
    handed: Arc<Handed>,
    links: JoinSet<()>,
    link_by_user: BTreeMap<UserId, (PublicKeys, AbortHandle)>,
}

impl Linker {
    async fn run(mut self) {
        let mut news = self.state.watch_members();
        while !*news.borrow_and_update() {
            self.look();
            tokio::select! {
                // The sender is this task's own.
                _ = news.changed() => {}
                // One that has ended, so that they do not pile up.
                Some(_) = self.links.join_next() => {}
            }
        }
    }

    /// Begins links with those who have come, and gives those up who have gone.
    fn look(&mut self) {
        self.link_by_user.retain(|user, (keys, link)| {
            let stays = self.state.keys_of(user) == Some(*keys);
            if !stays {
                link.abort();
            }
            stays
        });
        for (user, keys) in self.wanted() {
            if !self.link_by_user.contains_key(&user) {
                let link = self.links.spawn(self.link(user.clone()));
                self.link_by_user.insert(user, (keys, link));
            }
        }
    }

    /// With whom the device is linked by itself, of those who are there.
    fn wanted(&self) -> BTreeMap<UserId, PublicKeys> {
        let own = self.device.session().user;
        // A running match may have more users than those who are new in it.
        let others = self.state.others(&own, self.links_max);
        if let Some(others) = others.filter(|_| self.others <= self.links_max) {
            return others;
        }
        let mut hosted = self.state.others(&own, HOSTED_MAX).unwrap_or_default();
        if self.host.as_ref() != Some(&own) {
            hosted.retain(|user, _| self.host.as_ref() == Some(user));
        }
        hosted
    }

    /// Links with a member, and hands the link over once it is up.
    fn link(&self, user: UserId) -> impl Future<Output = ()> + Send + use<> {
        let (device, taken, handed) = (
            self.device.clone(),
            self.taken.clone(),
            Arc::clone(&self.handed),
        );
        let (room, state) = (self.room.clone(), Arc::clone(&self.state));
        async move {
            let peer = loop {
                match connect(&device, &room, &state, user.clone()).await {
                    Ok(peer) => break peer,
                    Err(error) => {
                        tracing::debug!(%user, %error, "no link with a user of the match")
                    }
                }
                sleep(RETRY_DELAY).await;
            };
            // It counts as handed over only once there is a place for it: who leaves meanwhile may come back. Without one the
            // match is given up.
            if let Ok(place) = taken.reserve().await
                && handed.is_new(&peer)
            {
                place.send(peer);
            }
        }
    }
}

/// Links that were handed over, while they last: who leaves the room and is back has the same one.
#[derive(Default)]
struct Handed(std::sync::Mutex<Vec<Weak<link::Shared>>>);

impl Handed {
    fn is_new(&self, peer: &Peer) -> bool {
        let link = Arc::downgrade(&peer.0);
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|known| known.strong_count() > 0);
        let is_new = !links.iter().any(|known| known.ptr_eq(&link));
        if is_new {
            links.push(link);
        }
        is_new
    }
}

async fn connect(
    device: &Device,
    room: &RoomId,
    state: &RoomState,
    user: UserId,
) -> Result<Peer, Error> {
    let peer = device.0.open_link(room, state, user, Vec::new())?;
    peer.ready().await?;
    Ok(peer)
}

/// With how many others the host of a match is linked, where they are too many for links of all with all: each link is
/// a channel of its relay, of which a device has some hundreds, and an introduction, of which it has as many at once.
const HOSTED_MAX: usize = 128;

/// Between two attempts to link with a user.
const RETRY_DELAY: Duration = Duration::from_secs(2);
