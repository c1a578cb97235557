//! Keeps QUIC's paths as the path agent wants them.
//!
//! QUIC does not fail over by itself: it goes on sending on a dead path. So when the agent
//! suspects the direct path, three things happen at once: the relay's path becomes available
//! again, the direct path is closed, and its last packets are repeated over the relay. Both ends
//! do so, each when it notices.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use noq::{Path, PathError, PathEvent, PathId, PathStatus};
use tombolo_path::{PeerId, Policy, Route};

use super::{LinkState, LinkStatus, Place};
use crate::net::{Net, RouteNow, canonical, mapped};

/// The peer announces further path ids only after the handshake; until then opening is retried.
const IDS_RETRY: Duration = Duration::from_millis(5);
/// A refused path is tried again, as long as the agent holds on to its route.
const REFUSED_RETRY: Duration = Duration::from_millis(250);

type Opening = Pin<Box<dyn Future<Output = Path> + Send>>;

pub(super) struct Paths {
    net: Arc<Net>,
    place: Arc<Place>,
    connection: noq::Connection,
    events: noq::PathEvents,
    peer: PeerId,
    is_client: bool,
    policy: Policy,
    direct: Option<(Path, SocketAddr)>,
    opening: Option<(SocketAddr, Opening)>,
    reported: Option<LinkStatus>,
}

impl Paths {
    pub(super) fn new(
        place: Arc<Place>,
        connection: noq::Connection,
        peer: PeerId,
        is_client: bool,
        policy: Policy,
    ) -> Self {
        let events = connection.path_events();
        Self {
            net: place.net.clone(),
            place,
            connection,
            events,
            peer,
            is_client,
            policy,
            direct: None,
            opening: None,
            reported: None,
        }
    }

    /// Brings the paths to where the agent wants the data.
    pub(super) fn follow(&mut self, now: &RouteNow) {
        match now.route {
            Route::Relay => {
                self.opening = None;
                self.fall_back();
            }
            Route::Direct(address) => {
                let is_there = self
                    .direct
                    .as_ref()
                    .is_some_and(|(_, there)| *there == address);
                let is_coming = self.opening.as_ref().is_some_and(|(to, _)| *to == address);
                if is_there {
                    // The agent has come back to it: what is on its way is not wanted any more.
                    self.opening = None;
                }
                // Only QUIC's client opens paths; the server adopts what it sees.
                if self.is_client && !is_there && !is_coming {
                    let opening = open(self.connection.clone(), mapped(address));
                    self.opening = Some((address, Box::pin(opening)));
                }
            }
        }
    }

    /// Waits for the next thing that happens to a path, and deals with it.
    pub(super) async fn step(&mut self) {
        tokio::select! {
            (path, address) = opened(&mut self.opening) => {
                self.opening = None;
                self.adopt(path, address);
            }
            event = self.events.next() => match event {
                Some(Ok(PathEvent::Established { id, .. })) => self.on_established(id),
                Some(Ok(PathEvent::Abandoned { id, .. })) => self.on_abandoned(id),
                // Some events were missed; the path itself tells what matters.
                Some(Err(_)) => self.check_direct(),
                Some(Ok(_)) => {}
                // The connection is over; its own future says so.
                None => std::future::pending().await,
            },
        }
    }

    /// The link's state, when it is another than the last one told.
    pub(super) fn status(&mut self, now: &RouteNow) -> Option<LinkStatus> {
        let status = match (now.route, &self.direct) {
            // Until the direct path is up, packets of path 0 take the direct route too.
            (Route::Direct(remote), None) => self.direct_status(remote, now.rtt),
            (_, Some((path, remote))) => {
                self.direct_status(*remote, now.rtt.or_else(|| Some(path.stats().rtt)))
            }
            (Route::Relay, None) => self.relay_status(),
        };
        let is_same = self.reported.as_ref().is_some_and(|reported| {
            (reported.state, reported.remote) == (status.state, status.remote)
        });
        if is_same {
            return None;
        }
        self.reported = Some(status.clone());
        Some(status)
    }

    fn direct_status(&self, remote: SocketAddr, rtt: Option<Duration>) -> LinkStatus {
        let local = self.net.local_address_towards(remote);
        LinkStatus {
            state: LinkState::Direct,
            local,
            remote: Some(remote),
            rtt,
            reason: None,
        }
    }

    fn relay_status(&self) -> LinkStatus {
        if self.policy == Policy::Direct {
            return LinkStatus::CONNECTING;
        }
        LinkStatus {
            state: LinkState::Relayed,
            local: self.net.relayed().map(|relayed| relayed.address),
            remote: self.net.relayed_of(self.peer),
            rtt: self.connection.rtt(PathId::ZERO),
            reason: None,
        }
    }

    fn on_established(&mut self, id: PathId) {
        let Some(path) = self.connection.path(id).filter(|_| id != PathId::ZERO) else {
            return;
        };
        if self.policy == Policy::Relay {
            // The peer may know this device's address from elsewhere. It may have closed it already.
            _ = path.close();
            return;
        }
        if self.is_client {
            return self.close_unwanted(&path);
        }
        if let Ok(remote) = path.remote_address() {
            self.adopt(path, canonical(remote));
        }
    }

    /// Closes a path that was on its way when the agent changed its mind.
    fn close_unwanted(&self, path: &Path) {
        let Ok(remote) = path.remote_address().map(canonical) else {
            return;
        };
        let is_coming = self.opening.as_ref().is_some_and(|(to, _)| *to == remote);
        let is_there = self
            .direct
            .as_ref()
            .is_some_and(|(_, there)| *there == remote);
        if !is_coming && !is_there {
            // It may be closed already, by the peer.
            _ = path.close();
        }
    }

    fn check_direct(&mut self) {
        let is_closed = self
            .direct
            .as_ref()
            .is_some_and(|(path, _)| path.status().is_err());
        if is_closed {
            self.fall_back();
        }
    }

    fn on_abandoned(&mut self, id: PathId) {
        if self
            .direct
            .as_ref()
            .is_some_and(|(path, _)| path.id() == id)
        {
            tracing::debug!(peer = self.peer.0, "the peer gave the direct path up");
            self.fall_back();
        }
    }

    /// Lets the data take `path`; the relay stands by.
    fn adopt(&mut self, path: Path, address: SocketAddr) {
        tracing::debug!(peer = self.peer.0, %address, id = %path.id(), "direct path up");
        self.tell_place(Some(path.clone()));
        let old = self.direct.replace((path, address));
        self.net.set_path(self.peer, address);
        self.set_relay(PathStatus::Backup);
        if let Some((old, _)) = old {
            // It may be closed already, by the peer.
            _ = old.close();
        }
    }

    fn fall_back(&mut self) {
        let Some((path, address)) = self.direct.take() else {
            return;
        };
        tracing::debug!(peer = self.peer.0, %address, "direct path given up: the relay takes over");
        self.tell_place(None);
        self.set_relay(PathStatus::Available);
        _ = path.close();
        self.net.abandon_path(self.peer, address);
        self.net.reinject(self.peer);
    }

    fn tell_place(&self, direct: Option<Path>) {
        *self
            .place
            .direct
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = direct;
    }

    fn set_relay(&self, status: PathStatus) {
        if let Some(relay) = self.connection.path(PathId::ZERO) {
            _ = relay.set_status(status);
        }
    }
}

async fn open(connection: noq::Connection, address: SocketAddr) -> Path {
    loop {
        let pause = match connection
            .open_path_ensure(address, PathStatus::Available)
            .await
        {
            Ok(path) => return path,
            Err(PathError::RemoteCidsExhausted) => IDS_RETRY,
            Err(error) => {
                tracing::debug!(%address, %error, "direct path not opened");
                REFUSED_RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn opened(opening: &mut Option<(SocketAddr, Opening)>) -> (Path, SocketAddr) {
    match opening {
        Some((address, opening)) => (opening.await, *address),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tombolo_wire::UserId;

    use super::super::pair;
    use super::super::testing::connected;
    use super::*;

    /// Another way to the same endpoint.
    fn at(server: SocketAddr, host: u8) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), server.port()))
    }

    async fn paths(connection: noq::Connection, is_client: bool, policy: Policy) -> Paths {
        let net = Net::bind(true).await.unwrap();
        let (_, ends) = pair(UserId::parse("bob").unwrap(), [0; 32], net);
        let place = ends.place.clone();
        Paths::new(place, connection, PeerId(1), is_client, policy)
    }

    #[tokio::test]
    async fn a_link_that_is_to_stay_with_the_relay_takes_no_path_that_the_peer_opens() {
        let (ends, client, server) = connected().await;
        let to = mapped(at(ends[0].local_addr().unwrap(), 2));
        let mut paths = paths(server, false, Policy::Relay).await;
        let mut events = client.path_events();
        let opening = client.open_path_ensure(to, PathStatus::Available);
        let opening = async {
            _ = opening.await;
            loop {
                if let Some(Ok(PathEvent::Abandoned { .. })) = events.next().await {
                    break;
                }
            }
        };
        let following = async {
            while paths.direct.is_none() {
                paths.step().await;
            }
        };
        tokio::select! {
            () = opening => {}
            () = following => panic!("data goes straight"),
        }
    }

    #[tokio::test]
    async fn a_path_on_its_way_is_not_wanted_when_the_agent_comes_back_to_the_one_there_is() {
        let (ends, client, _server) = connected().await;
        let mut paths = paths(client, true, Policy::Any).await;
        let server = ends[0].local_addr().unwrap();
        let direct = |host| RouteNow {
            route: Route::Direct(at(server, host)),
            rtt: None,
            relayed: None,
        };
        paths.follow(&direct(2));
        while paths.direct.is_none() {
            paths.step().await;
        }
        paths.follow(&direct(3));
        assert!(paths.opening.is_some());
        paths.follow(&direct(2));
        assert!(paths.opening.is_none());
    }
}
