//! How many there may be of something at once, in all and from one source.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    rc::Rc,
    sync::Arc,
};

use crate::stats::{Counter, StreamCounters};

/// Seats for connections or handshakes. They live on one thread, so without locks.
pub(crate) struct Seats {
    max: usize,
    per_source_max: usize,
    taken: RefCell<Taken>,
    counters: Arc<StreamCounters>,
    /// What shows how many are taken.
    gauge: fn(&StreamCounters) -> &Counter,
}

#[derive(Default)]
struct Taken {
    total: usize,
    count_by_network: HashMap<IpAddr, usize>,
}

/// One that is taken; given back on drop.
pub(crate) struct Seat {
    seats: Rc<Seats>,
    /// `None` as long as it is not known whose it is.
    network: Option<IpAddr>,
}

impl Seats {
    pub(crate) fn new(
        max: usize,
        per_source_max: usize,
        counters: &Arc<StreamCounters>,
        gauge: fn(&StreamCounters) -> &Counter,
    ) -> Rc<Self> {
        Rc::new(Self {
            max,
            per_source_max,
            taken: RefCell::default(),
            counters: Arc::clone(counters),
            gauge,
        })
    }

    /// `None` where as many are taken as there are, in all or from the client's network.
    pub(crate) fn take(self: &Rc<Self>, client: IpAddr) -> Option<Seat> {
        let mut seat = self.take_for_somebody()?;
        seat.name(client).then_some(seat)
    }

    /// `None` where as many are taken as there are in all.
    pub(crate) fn take_for_somebody(self: &Rc<Self>) -> Option<Seat> {
        let mut taken = self.taken.borrow_mut();
        if taken.total >= self.max {
            return None;
        }
        taken.total += 1;
        (self.gauge)(&self.counters).set(taken.total as u64);
        drop(taken);
        Some(Seat {
            seats: Rc::clone(self),
            network: None,
        })
    }
}

impl Seat {
    /// Says whose it is. `false` where as many are taken from the client's network as there may be.
    pub(crate) fn name(&mut self, client: IpAddr) -> bool {
        let network = network_of(client);
        let mut taken = self.seats.taken.borrow_mut();
        let count = taken.count_by_network.entry(network).or_insert(0);
        if *count >= self.seats.per_source_max {
            if *count == 0 {
                taken.count_by_network.remove(&network);
            }
            return false;
        }
        *count += 1;
        taken.leave(self.network.replace(network));
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.borrow_mut();
        taken.total -= 1;
        (self.seats.gauge)(&self.seats.counters).set(taken.total as u64);
        taken.leave(self.network);
    }
}

impl Taken {
    fn leave(&mut self, network: Option<IpAddr>) {
        let Some(network) = network else {
            return;
        };
        if let Some(count) = self.count_by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.count_by_network.remove(&network);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(max: usize, per_source_max: usize) -> (Rc<Seats>, Arc<StreamCounters>) {
        let counters = Arc::new(StreamCounters::default());
        let seats = Seats::new(max, per_source_max, &counters, |counters| &counters.open);
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
    }
}
