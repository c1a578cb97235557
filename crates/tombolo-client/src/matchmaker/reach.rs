//! How this device is reached: said with its tickets and in its rooms, and again when its NAT or network is another by
//! then.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::watch;
use tombolo_match::Reach;
use tombolo_path::probe::NatReport;
use tombolo_path::{Filtering, Mapping};
use tombolo_room::{Act, Change, PropertyKey, Target};
use tombolo_wire::RoomId;
use tombolo_wire::v1::{self, ErrorCode, request};

use super::Seeking;
use crate::device::{Device, Shared};
use crate::error::Error;
use crate::retry::until_known;
use crate::room::{RoomState, is_of_party};
use crate::session;

impl Device {
    /// How it is reached, by what was measured.
    pub(crate) fn reach(&self) -> Reach {
        self.nat().as_ref().map_or(Reach::Unknown, reach)
    }
}

/// Says how the device is reached whenever that is another than before, for as long as the device is there.
pub(crate) async fn follow_reach(
    device: Weak<Shared>,
    mut nat: watch::Receiver<Option<NatReport>>,
) {
    let mut said = Reach::Unknown;
    while nat.changed().await.is_ok() {
        let now = nat.borrow_and_update().as_ref().map(reach);
        // What could not be measured may be as before.
        let Some(now) = now.filter(|now| *now != Reach::Unknown && *now != said) else {
            continue;
        };
        let Some(device) = device.upgrade() else {
            return;
        };
        said = now;
        let rooms = device.rooms_where(|_| true);
        let is_said =
            |(id, room): &(RoomId, Arc<RoomState>)| is_of_party(id) && room.says_reach_itself();
        device
            .matchmaker
            .say_reach(&device.session, now, rooms.iter().any(is_said));
        for (id, room) in rooms {
            tokio::spawn(say_in_room(Arc::downgrade(&device), id, room, now));
        }
    }
}

impl Seeking {
    /// Says of all tickets with this device's user how that is reached; of those that others have submitted, unless the
    /// application says so in their rooms.
    fn say_reach(&self, session: &session::Handle, reach: Reach, is_said_in_rooms: bool) {
        for ticket in self.lock().tickets.values() {
            if !(is_said_in_rooms && ticket.is_of_others()) && ticket.is_reached_anew(reach) {
                let (ticket, session) = (Arc::clone(ticket), session.clone());
                tokio::spawn(async move { ticket.say_reach(&session, reach).await });
            }
        }
    }
}

/// Says in a room how this device is reached, unless the application does so itself or nobody knows.
pub(crate) async fn say_in_room(
    device: Weak<Shared>,
    id: RoomId,
    room: Arc<RoomState>,
    reach: Reach,
) {
    room.set_reach(reach);
    if room.options.reachability.is_none() && reach != Reach::Unknown {
        say(&device, &id, &room, reach, &Act::Reach(reachability(reach))).await;
    }
    let own = device.upgrade().and_then(|device| device.user());
    let said = said_reach(reach, &room.options.member_properties).filter(|_| is_of_party(&id));
    if let (Some(own), Some(said)) = (own, said) {
        let (target, changes) = (Target::Member(own), vec![said]);
        let act = Act::ChangeProperties { target, changes };
        say(&device, &id, &room, reach, &act).await;
    }
}

/// Says one of that, unless something else is to be said by then.
async fn say(device: &Weak<Shared>, id: &RoomId, room: &Arc<RoomState>, reach: Reach, act: &Act) {
    let mut name = [0; 16];
    if getrandom::fill(&mut name).is_err() {
        return;
    }
    let wanted = v1::RoomRequest {
        room: id.to_string(),
        act: Some(act.into()),
        operation: Bytes::copy_from_slice(&name),
        ..v1::RoomRequest::default()
    };
    let attempt = async || {
        let device = device.upgrade().filter(|device| device.is_room(id, room));
        // Another is under way by now, or the room is left.
        let Some(device) = device.filter(|_| room.reach() == reach) else {
            return Ok(());
        };
        let session = device.session.clone();
        drop(device);
        session
            .request(request::Kind::Room(wanted.clone()))
            .await
            .map(drop)
    };
    // The room may just be joined, for the first time or again.
    let is_passing =
        |error: &Error| error.is_temporary() || error.code() == Some(ErrorCode::NotAMember);
    let said: Result<(), Error> = until_known(is_passing, attempt).await;
    if let Err(error) = said {
        tracing::debug!(%error, room = %id, "how the device is reached was not said");
    }
}

/// What a member says of how it is reached: nothing that nobody knows, nor what the application says itself.
pub(crate) fn said_reach(reach: Reach, properties: &[Change]) -> Option<Change> {
    let key = PropertyKey::parse(Reach::PROPERTY).ok()?;
    let is_said = properties.iter().any(|change| change.key == key);
    let is_known = reach != Reach::Unknown;
    (is_known && !is_said).then(|| Change::set(key, reach.as_str().into()))
}

/// The same as a number, the better the greater.
pub(crate) fn reachability(reach: Reach) -> u32 {
    match reach {
        Reach::Open => 4,
        Reach::Restricted => 3,
        Reach::PortRestricted => 2,
        Reach::Symmetric => 1,
        Reach::Relayed | Reach::Unknown => 0,
    }
}

/// How a device is reached, by what was measured; what was not is taken for what is most frequent.
fn reach(nat: &NatReport) -> Reach {
    let behaviour = nat.behaviour();
    match (behaviour.mapping, behaviour.filtering) {
        (Mapping::NoNat, _) => Reach::Open,
        (
            Mapping::EndpointIndependent | Mapping::PortIndependent,
            Filtering::EndpointIndependent,
        ) => Reach::Open,
        (Mapping::EndpointIndependent | Mapping::PortIndependent, Filtering::AddressDependent) => {
            Reach::Restricted
        }
        (Mapping::EndpointIndependent | Mapping::PortIndependent, _) => Reach::PortRestricted,
        (Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::Dependent, _) => {
            Reach::Symmetric
        }
        (Mapping::Unknown, _) => Reach::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tombolo_match::Player;
    use tombolo_node::{MatchPool, Node};

    use super::*;
    use crate::{RoomOptions, TicketEvent};

    #[test]
    fn a_device_says_how_it_is_reached_when_that_is_known_and_the_application_does_not() {
        let key = PropertyKey::parse(Reach::PROPERTY).unwrap();
        let own = [Change::set(key, "relayed".into())];
        assert!(said_reach(Reach::Open, &[]).is_some());
        assert_eq!(said_reach(Reach::Open, &own), None);
        assert_eq!(said_reach(Reach::Unknown, &[]), None);
    }

    #[tokio::test]
    async fn a_ticket_goes_by_how_its_device_is_reached_while_it_waits() {
        let node = node().await;
        let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
        alice.0.net().pretend_nat(behind(Mapping::AddressDependent));
        let ticket = alice.matchmaker().ticket("direct");
        let ticket = ticket.submit().await.unwrap();
        let hard = bob.matchmaker().ticket("direct");
        let hard = hard.reach(Reach::PortRestricted).submit().await.unwrap();
        assert_eq!(hard.why().await.unwrap().fit, 0);
        alice.0.net().pretend_nat(behind(Mapping::NoNat));
        let (found, other) = tokio::join!(soon(ticket.found()), soon(hard.found()));
        assert_eq!(found.unwrap().room.id(), other.unwrap().room.id());
    }

    #[tokio::test]
    async fn each_device_of_a_party_says_how_it_is_reached_by_then() {
        let node = node().await;
        let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
        for device in [&alice, &bob] {
            device
                .0
                .net()
                .pretend_nat(behind(Mapping::AddressDependent));
        }
        let rooms = alice.rooms();
        let party = rooms.create("party-1", RoomOptions::default());
        let party = party.await.unwrap();
        let in_it = bob.rooms().join("party-1", RoomOptions::default()).await;
        let in_it = in_it.unwrap();
        let ticket = alice.matchmaker().ticket("pairs");
        let ticket = ticket.party(&party, [Player::new(bob.session().user)]);
        let ticket = ticket.submit().await.unwrap();
        let mut invited = bob.matchmaker().next_ticket().await.unwrap();
        let carol = device(&node, "carol").await;
        let hard = carol.matchmaker().ticket("pairs");
        let hard = hard.reach(Reach::PortRestricted).submit().await.unwrap();
        alice.0.net().pretend_nat(behind(Mapping::NoNat));
        bob.0.net().pretend_nat(behind(Mapping::NoNat));
        let (found, _) = tokio::join!(soon(ticket.found()), soon(hard.found()));
        assert_eq!(found.unwrap().teams.len(), 2);
        while !matches!(
            soon(invited.next_event()).await.unwrap(),
            TicketEvent::Found(_)
        ) {}
        let key = PropertyKey::parse(Reach::PROPERTY).unwrap();
        let own = bob.session().user;
        soon(async {
            let said = || {
                in_it.read(|room| {
                    let properties = &room.members.get(&own)?.properties;
                    Some(properties.get(&key)?.value.clone())
                })
            };
            while said() != Some(Reach::Open.as_str().into()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    #[tokio::test]
    async fn the_member_that_is_reached_best_owns_the_room_next() {
        let node = node().await;
        let mut rooms = Vec::new();
        let members = [
            ("alice", Mapping::NoNat, None),
            ("bob", Mapping::AddressDependent, None),
            ("carol", Mapping::NoNat, None),
            ("dave", Mapping::AddressDependent, Some(9)),
        ];
        for (user, mapping, reachability) in members {
            let device = device(&node, user).await;
            device.0.net().pretend_nat(behind(mapping));
            let options = RoomOptions {
                reachability,
                ..RoomOptions::default()
            };
            let room = device.rooms().join_or_create("room", options).await;
            rooms.push((device, room.unwrap()));
        }
        let (_bob, watching) = rooms.remove(1);
        // By what the application says, then by what is measured.
        for next in ["dave", "carol"] {
            let own = watching.read(|room| room.owner.clone());
            let mut owners = rooms.iter().map(|(device, _)| Some(device.session().user));
            let at = owners.position(|user| user == own).expect("an owner");
            let (_device, owner) = rooms.remove(at);
            owner.leave().await.unwrap();
            owned_by(&watching, next).await;
        }
    }

    #[tokio::test]
    async fn a_room_goes_by_how_its_members_are_reached_by_then() {
        let node = node().await;
        let (alice, bob) = (device(&node, "alice").await, device(&node, "bob").await);
        for device in [&alice, &bob] {
            let nat = behind(Mapping::AddressDependent);
            device.0.net().pretend_nat(nat);
        }
        let room = alice.rooms().create("room", RoomOptions::default()).await;
        let room = room.unwrap();
        let other = bob.rooms().join("room", RoomOptions::default()).await;
        let other = other.unwrap();
        bob.0.net().pretend_nat(behind(Mapping::NoNat));
        // Whoever was first is elected again until it is known that the other is reached better.
        let bobs = other.device().session().user;
        soon(async {
            while room.perform(Act::SetOwner(None)).await.is_ok() {}
            owned_by(&room, bobs.as_str()).await;
        })
        .await;
    }

    async fn owned_by(room: &crate::Room, user: &str) {
        soon(async {
            while room.read(|room| {
                room.owner
                    .as_ref()
                    .is_none_or(|owner| owner.as_str() != user)
            }) {
                room.next_event().await.expect("the room goes on");
            }
        })
        .await;
    }

    fn behind(mapping: Mapping) -> NatReport {
        let mut report = NatReport::default();
        report.udp = true;
        report.v4.mapping = mapping;
        report.v4.public = vec!["192.0.2.1:5000".parse().unwrap()];
        report
    }

    async fn node() -> Node {
        let pools = [DIRECT, PAIRS].map(|rules| MatchPool::parse(rules).unwrap());
        let node = pools
            .into_iter()
            .fold(Node::builder(), |node, pool| node.pool(pool));
        let node = node.dev().listen([127, 0, 0, 1].into()).port(0);
        node.turn_port(0).turns_port(0).start().await.unwrap()
    }

    async fn device(node: &Node, user: &str) -> Device {
        let url = node.ready().url.to_string();
        let device = Device::builder(&url).development_user(user).connect();
        soon(device).await.unwrap()
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        let waited = timeout(Duration::from_secs(30), future).await;
        waited.expect("this should have happened by now")
    }

    const DIRECT: &str = "name = \"direct\"\nplayers = { min = 2, max = 2 }
        rules = [{ kind = \"connectivity\", required = true }]";

    const PAIRS: &str = "name = \"pairs\"
        teams = [{ name = \"two\", min = 2, max = 2 }, { name = \"one\", min = 1, max = 1 }]
        rules = [{ kind = \"connectivity\", required = true }]";
}
