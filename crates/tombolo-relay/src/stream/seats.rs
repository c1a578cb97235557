//! How many there may be of something at once, in all and from one source.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::stats::{Counter, StreamCounters};

/// How many seats there are. That may change while some are taken, which then stay taken.
#[derive(Debug)]
pub(crate) struct Bounds {
    max: AtomicUsize,
    per_source_max: AtomicUsize,
}

/// Seats for connections or handshakes. They live on one thread, so without locks.
pub(crate) struct Seats {
    bounds: Arc<Bounds>,
    when_full: WhenFull,
    taken: RefCell<Taken>,
    counters: Arc<StreamCounters>,
    /// What shows how many are taken.
    gauge: fn(&StreamCounters) -> &Counter,
}

/// What a newcomer gets where all seats are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenFull {
    Refuse,
    /// The oldest seat of the region that has the most, if that is more than the newcomer's has.
    Displace,
}

#[derive(Default)]
struct Taken {
    /// The number of the next one.
    next: u64,
    /// By their numbers, so the oldest is in front.
    holders: BTreeMap<u64, Holder>,
    count_by_network: HashMap<IpAddr, usize>,
    count_by_region: BTreeMap<IpAddr, usize>,
}

struct Holder {
    /// `None` as long as it is not known whose it is.
    client: Option<IpAddr>,
    displaced: Rc<Notify>,
}

/// One that is taken; given back on drop.
pub(crate) struct Seat {
    seats: Rc<Seats>,
    number: u64,
    displaced: Rc<Notify>,
}

impl Bounds {
    /// So many in all, and so many for one source.
    pub(crate) fn new((max, per_source_max): (usize, usize)) -> Arc<Self> {
        Arc::new(Self {
            max: max.into(),
            per_source_max: per_source_max.into(),
        })
    }

    pub(crate) fn set(&self, (max, per_source_max): (usize, usize)) {
        self.max.store(max, Ordering::Relaxed);
        self.per_source_max.store(per_source_max, Ordering::Relaxed);
    }

    fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    fn per_source_max(&self) -> usize {
        self.per_source_max.load(Ordering::Relaxed)
    }
}

impl Seats {
    pub(crate) fn new(
        bounds: &Arc<Bounds>,
        when_full: WhenFull,
        counters: &Arc<StreamCounters>,
        gauge: fn(&StreamCounters) -> &Counter,
    ) -> Rc<Self> {
        Rc::new(Self {
            bounds: Arc::clone(bounds),
            when_full,
            taken: RefCell::default(),
            counters: Arc::clone(counters),
            gauge,
        })
    }

    /// `None` where as many are taken as there are, in all or from the client's network.
    pub(crate) fn take(self: &Rc<Self>, client: IpAddr) -> Option<Seat> {
        let mut taken = self.taken.borrow_mut();
        if taken.of_network(client) >= self.bounds.per_source_max() {
            return None;
        }
        if taken.holders.len() >= self.bounds.max() {
            let is_displaced = self.when_full == WhenFull::Displace && taken.displace_for(client);
            if !is_displaced {
                return None;
            }
        }
        let mut seat = self.seat(&mut taken);
        drop(taken);
        seat.name(client).then_some(seat)
    }

    /// `None` where as many are taken as there are in all.
    pub(crate) fn take_for_somebody(self: &Rc<Self>) -> Option<Seat> {
        let mut taken = self.taken.borrow_mut();
        (taken.holders.len() < self.bounds.max()).then(|| self.seat(&mut taken))
    }

    fn seat(self: &Rc<Self>, taken: &mut Taken) -> Seat {
        let number = taken.next;
        taken.next += 1;
        let displaced = Rc::<Notify>::default();
        let holder = Holder {
            client: None,
            displaced: Rc::clone(&displaced),
        };
        taken.holders.insert(number, holder);
        self.show(taken);
        Seat {
            seats: Rc::clone(self),
            number,
            displaced,
        }
    }

    fn show(&self, taken: &Taken) {
        (self.gauge)(&self.counters).set(taken.holders.len() as u64);
    }
}

impl Seat {
    /// Says whose it is. `false` where as many are taken from the client's network as there may be.
    pub(crate) fn name(&mut self, client: IpAddr) -> bool {
        let mut taken = self.seats.taken.borrow_mut();
        if taken.of_network(client) >= self.seats.bounds.per_source_max() {
            return false;
        }
        let Some(holder) = taken.holders.get_mut(&self.number) else {
            return false;
        };
        let before = holder.client.replace(client);
        taken.enter(client);
        taken.leave(before);
        true
    }

    /// Waits until it has been given to a newcomer.
    pub(crate) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.borrow_mut();
        taken.give_back(self.number);
        self.seats.show(&taken);
    }
}

impl Taken {
    fn of_network(&self, client: IpAddr) -> usize {
        let count = self.count_by_network.get(&network_of(client));
        count.copied().unwrap_or(0)
    }

    /// Frees a seat for a client; `false` if no region has more than its own.
    fn displace_for(&mut self, client: IpAddr) -> bool {
        let of_region = |region| self.count_by_region.get(region).copied().unwrap_or(0);
        let own = of_region(&region_of(client));
        let most = self.count_by_region.iter().max_by_key(|(_, count)| **count);
        let Some((region, _)) = most.filter(|(_, count)| **count > own) else {
            return false;
        };
        let is_of_region = |holder: &Holder| holder.client.map(region_of) == Some(*region);
        let oldest = self
            .holders
            .iter()
            .find(|(_, holder)| is_of_region(holder))
            .map(|(number, _)| *number);
        oldest.is_some_and(|number| {
            self.give_back(number)
                .inspect(|holder| holder.displaced.notify_one())
                .is_some()
        })
    }

    fn give_back(&mut self, number: u64) -> Option<Holder> {
        let holder = self.holders.remove(&number)?;
        self.leave(holder.client);
        Some(holder)
    }

    fn enter(&mut self, client: IpAddr) {
        *self.count_by_network.entry(network_of(client)).or_default() += 1;
        *self.count_by_region.entry(region_of(client)).or_default() += 1;
    }

    fn leave(&mut self, client: Option<IpAddr>) {
        let Some(client) = client else {
            return;
        };
        let network = network_of(client);
        if let Some(count) = self.count_by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.count_by_network.remove(&network);
            }
        }
        let region = region_of(client);
        if let Some(count) = self.count_by_region.get_mut(&region) {
            *count -= 1;
            if *count == 0 {
                self.count_by_region.remove(&region);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose from.
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// What one party may well have all of: an IPv4 /16 or an IPv6 /40.
fn region_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() >> 16 << 16).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 88 << 88).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(max: usize, per_source_max: usize) -> (Rc<Seats>, Arc<StreamCounters>) {
        let counters = Arc::new(StreamCounters::default());
        let bounds = Bounds::new((max, per_source_max));
        let seats = Seats::new(&bounds, WhenFull::Refuse, &counters, |counters| {
            &counters.open
        });
        (seats, counters)
    }

    fn handshakes(max: usize, per_source_max: usize) -> (Rc<Seats>, Arc<StreamCounters>) {
        let counters = Arc::new(StreamCounters::default());
        let bounds = Bounds::new((max, per_source_max));
        let seats = Seats::new(&bounds, WhenFull::Displace, &counters, |counters| {
            &counters.handshakes
        });
        (seats, counters)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal")
    }

    #[test]
    fn seats_are_bounded_in_all_and_for_each_source() {
        let (seats, counters) = seats(3, 2);
        let first = seats.take(ip("192.0.2.1")).expect("there is room");
        let _second = seats.take(ip("192.0.2.1")).expect("there is room");
        assert!(seats.take(ip("192.0.2.1")).is_none());
        assert_eq!(counters.stats().open, 2, "none stays taken in vain");
        let _third = seats.take(ip("192.0.2.2")).expect("there is room");
        assert!(seats.take(ip("192.0.2.3")).is_none());
        drop(first);
        assert!(seats.take(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn bounds_may_change_while_seats_are_taken() {
        let (seats, counters) = seats(2, 2);
        let taken = ["192.0.2.1", "192.0.2.2"].map(|client| seats.take(ip(client)));
        assert!(seats.take(ip("192.0.2.3")).is_none());
        seats.bounds.set((3, 1));
        assert!(seats.take(ip("192.0.2.1")).is_none());
        let third = seats.take(ip("192.0.2.3")).expect("there is room");
        seats.bounds.set((1, 1));
        assert_eq!(counters.stats().open, 3, "those stay");
        drop(third);
        assert!(seats.take(ip("192.0.2.3")).is_none());
        drop(taken);
        assert!(seats.take(ip("192.0.2.3")).is_some());
    }

    #[test]
    fn hosts_of_one_ipv6_network_are_one_source_and_mapped_addresses_are_ipv4() {
        let (seats, _) = seats(9, 1);
        let _first = seats.take(ip("2001:db8::1")).expect("there is room");
        assert!(seats.take(ip("2001:db8::ffff:1")).is_none());
        let _next = seats.take(ip("2001:db8:0:1::1")).expect("is another one");
        let _v4 = seats.take(ip("192.0.2.1")).expect("is another one");
        assert!(seats.take(ip("::ffff:192.0.2.1")).is_none());
    }

    #[test]
    fn who_comes_by_a_proxy_counts_for_its_own_source() {
        let (seats, counters) = seats(9, 1);
        let proxied = ["192.0.2.1", "192.0.2.2"].map(|client| {
            let mut seat = seats.take_for_somebody().expect("there is room");
            assert!(seat.name(ip(client)));
            seat
        });
        let mut third = seats.take_for_somebody().expect("there is room");
        assert!(!third.name(ip("192.0.2.2")));
        drop((proxied, third));
        assert_eq!(counters.stats().open, 0);
        assert!(seats.taken.borrow().count_by_network.is_empty());
        assert!(seats.taken.borrow().count_by_region.is_empty());
    }

    #[tokio::test]
    async fn eight_addresses_of_a_network_keep_no_newcomer_from_another_one_out() {
        let greedy = (0..8).map(|host| format!("192.0.2.{host}"));
        newcomer_gets_in(greedy.collect()).await;
    }

    #[tokio::test]
    async fn an_ipv6_network_with_many_subnets_keeps_no_newcomer_out() {
        let greedy = (0..8).map(|subnet| format!("2001:db8:0:{subnet}::1"));
        newcomer_gets_in(greedy.collect()).await;
    }

    async fn newcomer_gets_in(greedy: Vec<String>) {
        let (seats, counters) = handshakes(256, 32);
        let taken = greedy.iter().cycle().take(256);
        let taken: Vec<Seat> = taken
            .map(|client| seats.take(ip(client)).expect("there is room"))
            .collect();
        assert!(seats.take(ip(&greedy[0])).is_none());
        let newcomers = ["203.0.113.7", "2001:db9::1"];
        let newcomers = newcomers.map(|client| seats.take(ip(client)).expect("others had more"));
        taken[0].displaced().await;
        taken[1].displaced().await;
        assert_eq!(counters.stats().handshakes, 256);
        drop(taken);
        assert_eq!(counters.stats().handshakes, 2, "nobody gives back twice");
        drop(newcomers);
        assert_eq!(counters.stats().handshakes, 0);
    }

    #[test]
    fn who_has_as_many_seats_as_anybody_displaces_nobody() {
        let (seats, _) = handshakes(4, 4);
        let clients = ["192.0.2.1", "192.0.2.2", "203.0.113.1", "203.0.113.2"];
        let _taken = clients.map(|client| seats.take(ip(client)).expect("there is room"));
        assert!(seats.take(ip("192.0.2.3")).is_none());
        assert!(seats.take(ip("198.51.100.1")).is_some());
    }
}
