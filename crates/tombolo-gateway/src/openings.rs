//! Who holds the places of connections without a session, and who gives way to a newcomer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::network::{Network, Networks};

/// Connections without a session, by the networks that they come from.
#[derive(Debug, Default)]
pub(crate) struct Openings {
    /// The number of the next one.
    next: u64,
    /// In the order in which they came, for each prefix.
    holders: BTreeMap<(Network, u64), Holder>,
    count_by_network: HashMap<Network, usize>,
    /// The networks right within one, the fullest last.
    ranking_by_network: HashMap<Network, BTreeSet<(usize, Network)>>,
}

#[derive(Debug)]
struct Holder {
    networks: Networks,
    displaced: Arc<Displaced>,
}

/// The prefix and the number of a connection that may give way.
#[derive(Debug)]
pub(crate) struct Place(Network, u64);

/// Whether a connection has lost its place.
#[derive(Debug, Default)]
pub(crate) struct Displaced {
    is_so: AtomicBool,
    told: Notify,
}

impl Openings {
    pub(crate) fn count(&self, network: Network) -> usize {
        self.count_by_network.get(&network).copied().unwrap_or(0)
    }

    /// Takes one in, and returns its number.
    pub(crate) fn insert(&mut self, networks: Networks) -> (u64, Arc<Displaced>) {
        let number = self.next;
        self.next += 1;
        let displaced = Arc::<Displaced>::default();
        let holder = Holder {
            networks,
            displaced: Arc::clone(&displaced),
        };
        self.holders.insert((networks.prefix, number), holder);
        self.change(&networks, |count| count + 1);
        (number, displaced)
    }

    /// Forgets one, if it is there still.
    pub(crate) fn remove(&mut self, networks: &Networks, number: u64) {
        if self.holders.remove(&(networks.prefix, number)).is_some() {
            self.change(networks, |count| count - 1);
        }
    }

    /// Who gives way to a newcomer where this network is full: the oldest connection of the fullest network
    /// within it. `None` where the newcomer's own would then have more than any other: those who come all
    /// at once would put each other out for ever.
    pub(crate) fn giving_way(&self, full: Network, newcomer: &Networks) -> Option<Place> {
        let nested = newcomer.nested();
        let within = nested.windows(2).skip_while(|pair| pair[0] != full);
        for pair in within {
            let (most, fullest) = self.fullest_within(pair[0])?;
            if most > self.count(pair[1]) + 1 {
                return self.oldest_of(fullest);
            }
        }
        None
    }

    /// Frees a place, of which there is one less in each network around it.
    pub(crate) fn displace(&mut self, Place(prefix, number): Place) {
        if let Some(holder) = self.holders.remove(&(prefix, number)) {
            self.change(&holder.networks, |count| count - 1);
            holder.displaced.tell();
        }
    }

    fn fullest_within(&self, network: Network) -> Option<(usize, Network)> {
        self.ranking_by_network.get(&network)?.last().copied()
    }

    fn oldest_of(&self, mut network: Network) -> Option<Place> {
        while let Some((_, fullest)) = self.fullest_within(network) {
            network = fullest;
        }
        let numbers = (network, 0)..=(network, u64::MAX);
        let oldest = self.holders.range(numbers).next();
        oldest.map(|((prefix, number), _)| Place(*prefix, *number))
    }

    fn change(&mut self, networks: &Networks, by: impl Fn(usize) -> usize) {
        let nested = networks.nested();
        for pair in nested.windows(2) {
            let (around, network) = (pair[0], pair[1]);
            let before = self.count(network);
            let ranking = self.ranking_by_network.entry(around).or_default();
            ranking.remove(&(before, network));
            if by(before) > 0 {
                ranking.insert((by(before), network));
            } else if ranking.is_empty() {
                self.ranking_by_network.remove(&around);
            }
        }
        for network in nested {
            match by(self.count(network)) {
                0 => self.count_by_network.remove(&network),
                count => self.count_by_network.insert(network, count),
            };
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.holders.is_empty()
            && self.count_by_network.is_empty()
            && self.ranking_by_network.is_empty()
    }
}

impl Displaced {
    pub(crate) fn is_so(&self) -> bool {
        self.is_so.load(Ordering::Acquire)
    }

    /// Waits until it is so.
    pub(crate) async fn wait(&self) {
        let told = self.told.notified();
        if !self.is_so() {
            told.await;
        }
    }

    fn tell(&self) {
        self.is_so.store(true, Ordering::Release);
        self.told.notify_waiters();
    }
}
