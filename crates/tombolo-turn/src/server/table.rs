use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::time::Instant;

use siphasher::sip::SipHasher13;

use super::address::{FiveTuple, RelayAddr};
use super::allocation::{Allocation, Carrier};
use super::auth::User;
use super::stats::Refusal;

/// All allocations of the shard, found by what a packet carries; the next to expire comes first.
pub(super) struct Allocations {
    slots: Vec<Option<Allocation>>,
    free: Vec<AllocationId>,
    id_by_client: HashMap<FiveTuple, AllocationId, HashKeys>,
    /// Of allocations over UDP.
    id_by_relay: HashMap<RelayAddr, AllocationId, HashKeys>,
    /// Of allocations over TCP, whose relayed addresses no datagram may reach.
    id_by_listener: HashMap<RelayAddr, AllocationId, HashKeys>,
    ids_by_user: BTreeMap<User, BTreeSet<AllocationId>>,
    /// Of those that are mobile.
    id_by_serial: BTreeMap<u32, AllocationId>,
    deadlines: BTreeSet<(Instant, AllocationId)>,
    /// When to look whose permissions and channels are over.
    clearings: BTreeSet<(Instant, AllocationId)>,
}

/// Keys of the tables' hashes: as long as they are secret, nobody can choose addresses that collide.
#[derive(Clone, Copy)]
struct HashKeys(u64, u64);

impl BuildHasher for HashKeys {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// Place of an allocation in the table; used again once the allocation is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct AllocationId(usize);

impl Allocations {
    /// `keys` must be random and secret.
    pub(super) fn new(keys: [u64; 2]) -> Self {
        let keys = HashKeys(keys[0], keys[1]);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            id_by_client: HashMap::with_hasher(keys),
            id_by_relay: HashMap::with_hasher(keys),
            id_by_listener: HashMap::with_hasher(keys),
            ids_by_user: BTreeMap::new(),
            id_by_serial: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            clearings: BTreeSet::new(),
        }
    }

    pub(super) fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let id = self.free.pop().unwrap_or(AllocationId(self.slots.len()));
        self.id_by_client.insert(allocation.client, id);
        let ids = match allocation.carrier {
            Carrier::Udp => &mut self.id_by_relay,
            Carrier::Tcp => &mut self.id_by_listener,
        };
        ids.extend(allocation.relays.iter().map(|relay| (relay, id)));
        self.ids_by_user
            .entry(allocation.user.clone())
            .or_default()
            .insert(id);
        if let Some(mobility) = &allocation.mobility {
            self.id_by_serial.insert(mobility.serial, id);
        }
        self.deadlines.insert((allocation.expires, id));
        match self.slots.get_mut(id.0) {
            Some(slot) => *slot = Some(allocation),
            None => self.slots.push(Some(allocation)),
        }
        id
    }

    /// Removes an allocation whose client is going nowhere.
    pub(super) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let allocation = self.slots.get_mut(id.0)?.take()?;
        self.free.push(id);
        self.forget_client(allocation.client, id);
        if let Some(mobility) = &allocation.mobility {
            self.id_by_serial.remove(&mobility.serial);
        }
        for relay in allocation.relays.iter() {
            self.forget_relay(relay);
        }
        if let Some(ids) = self.ids_by_user.get_mut(&allocation.user) {
            ids.remove(&id);
            if ids.is_empty() {
                self.ids_by_user.remove(&allocation.user);
            }
        }
        self.deadlines.remove(&(allocation.expires, id));
        if let Some(due) = allocation.clearing {
            self.clearings.remove(&(due, id));
        }
        Some(allocation)
    }

    pub(super) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.slots.get_mut(id.0)?.as_mut()
    }

    /// Returns an allocation that a request is about, or what its client is told if it is gone.
    pub(super) fn require_mut(&mut self, id: AllocationId) -> Result<&mut Allocation, Refusal> {
        self.get_mut(id).ok_or(Refusal::AllocationMissing)
    }

    pub(super) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.slots.get(id.0)?.as_ref()
    }

    pub(super) fn by_serial(&self, serial: u32) -> Option<(AllocationId, &Allocation)> {
        let id = *self.id_by_serial.get(&serial)?;
        Some((id, self.get(id)?))
    }

    /// Sets where the client of a mobile allocation is going; returns where it was going before, if that
    /// was elsewhere.
    pub(super) fn set_next(
        &mut self,
        id: AllocationId,
        next: Option<FiveTuple>,
    ) -> Option<FiveTuple> {
        let allocation = self.slots.get_mut(id.0)?.as_mut()?;
        let mobility = allocation.mobility.as_mut()?;
        let before = std::mem::replace(&mut mobility.next, next);
        if let Some(before) = before {
            self.id_by_client.remove(&before);
        }
        if let Some(next) = next {
            self.id_by_client.insert(next, id);
        }
        before.filter(|_| before != next)
    }

    /// Makes the address that the client is going to its only one; returns the old one and it.
    pub(super) fn complete_move(&mut self, id: AllocationId) -> Option<(FiveTuple, FiveTuple)> {
        let allocation = self.slots.get_mut(id.0)?.as_mut()?;
        let to = allocation.mobility.as_mut()?.next.take()?;
        let from = std::mem::replace(&mut allocation.client, to);
        if from != to {
            self.forget_client(from, id);
        }
        Some((from, to))
    }

    /// Lets go of the address of a client that may come back from another one.
    pub(super) fn detach(&mut self, id: AllocationId) {
        let Some(allocation) = self.slots.get_mut(id.0).and_then(Option::as_mut) else {
            return;
        };
        let client = allocation.client;
        if let Some(mobility) = &mut allocation.mobility {
            mobility.is_detached = true;
            self.forget_client(client, id);
        }
    }

    /// Forgets an address, unless it is another allocation's by now.
    fn forget_client(&mut self, client: FiveTuple, id: AllocationId) {
        if self.id_by_client.get(&client) == Some(&id) {
            self.id_by_client.remove(&client);
        }
    }

    pub(super) fn by_client(&self, client: &FiveTuple) -> Option<(AllocationId, &Allocation)> {
        let id = *self.id_by_client.get(client)?;
        Some((id, self.slots.get(id.0)?.as_ref()?))
    }

    pub(super) fn by_client_mut(&mut self, client: &FiveTuple) -> Option<&mut Allocation> {
        let id = self.id_by_client.get(client)?;
        self.slots.get_mut(id.0)?.as_mut()
    }

    pub(super) fn by_relay(&self, relay: &RelayAddr) -> Option<&Allocation> {
        let id = self.id_by_relay.get(relay)?;
        self.slots.get(id.0)?.as_ref()
    }

    pub(super) fn by_relay_mut(&mut self, relay: &RelayAddr) -> Option<&mut Allocation> {
        let id = self.id_by_relay.get(relay)?;
        self.slots.get_mut(id.0)?.as_mut()
    }

    pub(super) fn by_listener(&self, relay: &RelayAddr) -> Option<(AllocationId, &Allocation)> {
        let id = *self.id_by_listener.get(relay)?;
        Some((id, self.slots.get(id.0)?.as_ref()?))
    }

    /// Iterates over all allocations in the order of their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (AllocationId, &Allocation)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(place, slot)| Some((AllocationId(place), slot.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Allocation> {
        self.slots.iter_mut().flatten()
    }

    pub(super) fn ids_of(&self, user: &User) -> impl Iterator<Item = AllocationId> + '_ {
        self.ids_by_user.get(user).into_iter().flatten().copied()
    }

    /// Moves the end of an allocation.
    pub(super) fn set_expiry(&mut self, id: AllocationId, expires: Instant) {
        let Some(allocation) = self.slots.get_mut(id.0).and_then(Option::as_mut) else {
            return;
        };
        self.deadlines.remove(&(allocation.expires, id));
        allocation.expires = expires;
        self.deadlines.insert((expires, id));
    }

    /// Forgets one relayed address of an allocation that has two.
    pub(super) fn forget_relay(&mut self, relay: RelayAddr) {
        self.id_by_relay.remove(&relay);
        self.id_by_listener.remove(&relay);
    }

    /// Notes when the first permission or channel of an allocation will be over. What is refreshed
    /// meanwhile is seen then; so a refresh costs nothing here.
    pub(super) fn plan_clearing(&mut self, id: AllocationId) {
        let Some(allocation) = self.slots.get_mut(id.0).and_then(Option::as_mut) else {
            return;
        };
        let due = allocation.first_end();
        let planned = allocation.clearing;
        if planned.is_some_and(|planned| due.is_some_and(|due| planned <= due)) {
            return;
        }
        allocation.clearing = due;
        if let Some(planned) = planned {
            self.clearings.remove(&(planned, id));
        }
        self.clearings.extend(due.map(|due| (due, id)));
    }

    /// Takes an allocation of whose permissions and channels some may be over by now.
    pub(super) fn take_clearing(&mut self, now: Instant) -> Option<AllocationId> {
        let (_, id) = self.clearings.first().filter(|(due, _)| *due <= now)?;
        let id = *id;
        self.clearings.pop_first();
        if let Some(allocation) = self.get_mut(id) {
            allocation.clearing = None;
        }
        Some(id)
    }

    pub(super) fn next_clearing(&self) -> Option<Instant> {
        self.clearings.first().map(|(due, _)| *due)
    }

    pub(super) fn next_expiry(&self) -> Option<(Instant, AllocationId)> {
        self.deadlines.first().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
