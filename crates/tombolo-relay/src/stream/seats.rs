//! How many there may be of something at once, in all and from one source.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use super::idle::{Idle, network_of};
use crate::{
    link::ConnectionState,
    stats::{Counter, StreamCounters},
};

/// How many seats there are. That may change while some are taken, which then stay taken.
#[derive(Debug)]
pub(crate) struct Bounds {
    max: AtomicUsize,
    per_source_max: AtomicUsize,
}

/// Seats for connections or handshakes. They live on one thread, so without locks. Where all are taken a
/// newcomer gets one that is idle, if there is one to be had: see [`Idle::oldest_for`].
pub(crate) struct Seats {
    bounds: Arc<Bounds>,
    taken: RefCell<Taken>,
    counters: Arc<StreamCounters>,
    /// What shows how many are taken.
    gauge: fn(&StreamCounters) -> &Counter,
}

#[derive(Default)]
struct Taken {
    /// The number of the next one.
    next: u64,
    holders: BTreeMap<u64, Holder>,
    count_by_network: HashMap<IpAddr, usize>,
    /// Without those whose clients had allocations when that was looked at.
    idle: Idle,
}

struct Holder {
    /// `None` as long as it is not known whose it is.
    client: Option<IpAddr>,
    /// `None` until there is a connection that may have an allocation.
    state: Option<Arc<ConnectionState>>,
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
        counters: &Arc<StreamCounters>,
        gauge: fn(&StreamCounters) -> &Counter,
    ) -> Rc<Self> {
        Rc::new(Self {
            bounds: Arc::clone(bounds),
            taken: RefCell::default(),
            counters: Arc::clone(counters),
            gauge,
        })
    }

    /// `None` where there is none to be had, or the client's network has as many as one may.
    pub(crate) fn take(self: &Rc<Self>, client: IpAddr) -> Option<Seat> {
        if self.taken.borrow().of_network(client) >= self.bounds.per_source_max() {
            return None;
        }
        let mut seat = self.seat(Some(client))?;
        seat.name(client).then_some(seat)
    }

    /// `None` where there is none to be had.
    pub(crate) fn take_for_somebody(self: &Rc<Self>) -> Option<Seat> {
        self.seat(None)
    }

    fn seat(self: &Rc<Self>, client: Option<IpAddr>) -> Option<Seat> {
        let mut taken = self.taken.borrow_mut();
        if taken.holders.len() >= self.bounds.max() && !taken.displace_for(client) {
            return None;
        }
        let number = taken.next;
        taken.next += 1;
        let displaced = Rc::<Notify>::default();
        let holder = Holder {
            client: None,
            state: None,
            displaced: Rc::clone(&displaced),
        };
        taken.holders.insert(number, holder);
        self.show(&taken);
        Some(Seat {
            seats: Rc::clone(self),
            number,
            displaced,
        })
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
        taken.leave(before, self.number);
        taken.enter(client, self.number);
        true
    }

    /// It is kept while this connection's client has an allocation.
    pub(crate) fn is_for(&self, state: Arc<ConnectionState>) {
        let mut taken = self.seats.taken.borrow_mut();
        if let Some(holder) = taken.holders.get_mut(&self.number) {
            holder.state = Some(state);
        }
    }

    /// Waits until it has been given to a newcomer.
    pub(crate) fn displaced(&self) -> impl Future<Output = ()> + use<> {
        let displaced = Rc::clone(&self.displaced);
        async move { displaced.notified().await }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.borrow_mut();
        taken.give_back(self.number);
        self.seats.show(&taken);
    }
}

impl Holder {
    fn is_allocated(&self) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|state| state.is_allocated())
    }
}

impl Taken {
    fn of_network(&self, client: IpAddr) -> usize {
        let count = self.count_by_network.get(&network_of(client));
        count.copied().unwrap_or(0)
    }

    /// Frees a seat; `false` if there is none to be had.
    fn displace_for(&mut self, newcomer: Option<IpAddr>) -> bool {
        let mut chosen = self.idle.oldest_for(newcomer);
        let holder = chosen.and_then(|number| self.holders.get(&number));
        if holder.is_some_and(Holder::is_allocated) {
            self.forget_allocated();
            chosen = self.idle.oldest_for(newcomer);
        }
        let displaced = chosen.and_then(|number| self.give_back(number));
        displaced
            .inspect(|holder| holder.displaced.notify_one())
            .is_some()
    }

    /// Chooses no more among those who have got an allocation. Without it they do not stay for long.
    fn forget_allocated(&mut self) {
        for (number, holder) in &self.holders {
            if let Some(client) = holder.client
                && holder.is_allocated()
            {
                self.idle.remove(client, *number);
            }
        }
    }

    fn give_back(&mut self, number: u64) -> Option<Holder> {
        let holder = self.holders.remove(&number)?;
        self.leave(holder.client, number);
        Some(holder)
    }

    fn enter(&mut self, client: IpAddr, number: u64) {
        *self.count_by_network.entry(network_of(client)).or_default() += 1;
        self.idle.insert(client, number);
    }

    fn leave(&mut self, client: Option<IpAddr>, number: u64) {
        let Some(client) = client else {
            return;
        };
        self.idle.remove(client, number);
        let network = network_of(client);
        if let Some(count) = self.count_by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.count_by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Connection;

    fn seats(max: usize, per_source_max: usize) -> (Rc<Seats>, Arc<StreamCounters>) {
        let counters = Arc::new(StreamCounters::default());
        let bounds = Bounds::new((max, per_source_max));
        let seats = Seats::new(&bounds, &counters, |counters| &counters.open);
        (seats, counters)
    }

    fn handshakes(max: usize, per_source_max: usize) -> (Rc<Seats>, Arc<StreamCounters>) {
        let counters = Arc::new(StreamCounters::default());
        let bounds = Bounds::new((max, per_source_max));
        let seats = Seats::new(&bounds, &counters, |counters| &counters.handshakes);
        (seats, counters)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("a literal")
    }

    #[test]
    fn seats_are_bounded_in_all_and_for_each_source() {
        let (seats, counters) = seats(2, 1);
        let first = seats.take(ip("192.0.2.1")).expect("there is room");
        assert!(seats.take(ip("192.0.2.1")).is_none());
        assert_eq!(counters.stats().open, 1, "none stays taken in vain");
        let _second = seats.take(ip("192.0.2.2")).expect("there is room");
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
        assert!(seats.taken.borrow().idle.is_empty());
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
    fn idle_connections_of_many_subnets_keep_no_newcomer_out() {
        let (seats, counters) = seats(4096, 128);
        let greedy: Vec<Seat> = (0..4096)
            .map(|i| ip(&format!("2001:db8:0:{:x}::1", i % 32)))
            .map(|client| seats.take(client).expect("there is room"))
            .collect();
        // From elsewhere, from next door, and by a proxy.
        let elsewhere = seats.take(ip("192.0.2.1")).expect("others had more");
        let next_door = seats.take(ip("2001:db8:0:ff::1")).expect("others had more");
        let mut proxied = seats.take_for_somebody().expect("others had more");
        assert!(proxied.name(ip("192.0.2.2")));
        assert_eq!(counters.stats().open, 4096);
        assert!(seats.take(ip("2001:db8:0:1::1")).is_none());
        drop((greedy, elsewhere, next_door, proxied));
        assert_eq!(counters.stats().open, 0);
    }

    #[tokio::test]
    async fn whoever_has_an_allocation_keeps_its_seat() {
        let (seats, _) = seats(4, 4);
        let taken: Vec<Seat> = (0..4)
            .map(|_| seats.take(ip("192.0.2.1")).expect("there is room"))
            .collect();
        let connections: Vec<_> = taken
            .iter()
            .map(|seat| {
                let (connection, queue) = Connection::new();
                seat.is_for(queue.state());
                connection.set_allocated(true);
                connection
            })
            .collect();
        assert!(seats.take(ip("203.0.113.1")).is_none(), "none is idle");
        drop(taken);
        let taken = [(); 4].map(|()| seats.take(ip("192.0.2.1")).expect("there is room"));
        let (connection, queue) = Connection::new();
        taken[0].is_for(queue.state());
        connection.set_allocated(true);
        let _newcomer = seats.take(ip("203.0.113.1")).expect("others have more");
        taken[1].displaced().await;
        drop(connections);
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
