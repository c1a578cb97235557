//! Two devices and a node.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tombolo_path::Route;
use tombolo_sim::{Access, HostId, Lab, LinkConfig, Seed};

/// A message from each device to the other every so often.
pub(crate) const INTERVAL: Duration = Duration::from_millis(20);

pub(crate) struct Scene {
    lab: Lab,
    pub(crate) a: HostId,
    pub(crate) b: HostId,
}

impl Scene {
    pub(crate) fn new(seed: Seed, a: Access, b: Access) -> Self {
        let mut lab = Lab::new(seed);
        let a = lab.device("a", a);
        let b = lab.device("b", b);
        Self { lab, a, b }
    }

    /// Both devices behind one router.
    pub(crate) fn beside(seed: Seed, access: Access) -> Self {
        let mut lab = Lab::new(seed);
        let a = lab.device("a", access);
        let b = lab.device_beside("b", a);
        Self { lab, a, b }
    }

    /// Links with 10 to 80 ms of delay and up to 5 % of loss, some jitter, reordering and duplication.
    pub(crate) fn impaired(seed: Seed, a: Access, b: Access) -> Self {
        let mut rng = seed.rng_for("links");
        let mut link = || {
            LinkConfig::new(millis(rng.random_range(10..=80)))
                .with_loss(rng.random_range(0.0..=0.05))
                .with_jitter(millis(rng.random_range(0..=5)))
                .with_reorder(0.01)
                .with_duplicate(0.01)
        };
        let (a, b) = (a.with_link(link()), b.with_link(link()));
        Self::new(seed, a, b)
    }

    /// Gets both devices ready and introduces them to each other.
    pub(crate) fn connect(&mut self) {
        let (a, b) = (self.a, self.b);
        self.lab.get_ready();
        self.lab.connect(a, b, INTERVAL);
    }

    pub(crate) fn until_direct(&mut self, limit: Duration) -> Option<Duration> {
        let (a, b) = (self.a, self.b);
        self.lab.run_until_direct(a, b, limit)
    }

    pub(crate) fn cut(&mut self) {
        let (a, b) = (self.a, self.b);
        self.lab.cut(a, b);
    }

    pub(crate) fn heal(&mut self) {
        let (a, b) = (self.a, self.b);
        self.lab.heal(a, b);
    }

    /// Each device with its peer.
    pub(crate) fn directions(&self) -> [(HostId, HostId); 2] {
        [(self.a, self.b), (self.b, self.a)]
    }

    /// Lets two seconds pass, in which at least four in five messages must arrive in both directions,
    /// all by routes that `wanted` accepts.
    pub(crate) fn assert_messages_flow(&mut self, what: &str, wanted: fn(Route) -> bool) {
        // Messages that took another route before the change are still under way for a moment.
        self.lab.run_for(Duration::from_millis(500));
        let start = self.lab.now();
        self.lab.run_for(Duration::from_secs(2));
        for (receiver, sender) in self.directions() {
            let record = self
                .lab
                .device_at(receiver)
                .record(sender)
                .expect("they are introduced");
            let received: Vec<_> = record
                .received
                .iter()
                .filter(|record| record.at >= start)
                .collect();
            let expected = 2000 / INTERVAL.as_millis() as usize;
            assert!(
                received.len() * 5 >= expected * 4,
                "{what}: {receiver:?} received {} of {expected}",
                received.len()
            );
            let stray = received.iter().find(|record| !wanted(record.via));
            assert_eq!(stray, None, "{what}: a message took the wrong route");
        }
        self.assert_nothing_went_astray();
    }

    pub(crate) fn assert_nothing_went_astray(&self) {
        for (device, _) in self.directions() {
            let stats = self.lab.device_at(device).stats();
            assert_eq!(
                (stats.misdelivered, stats.unknown_peer),
                (0, 0),
                "{stats:?}"
            );
        }
    }

    /// Whether one of the devices ever had a direct route.
    pub(crate) fn was_ever_direct(&self) -> bool {
        self.directions().into_iter().any(|(device, peer)| {
            let record = self.lab.device_at(device).record(peer);
            record.is_some_and(|it| it.routes.iter().any(|change| is_direct(change.route)))
        })
    }

    /// The later of the times at which the two were introduced.
    pub(crate) fn introduced(&self) -> Instant {
        let times = self.directions().map(|(device, peer)| {
            let record = self.lab.device_at(device).record(peer);
            record
                .and_then(|record| record.introduced)
                .expect("they are introduced")
        });
        times[0].max(times[1])
    }
}

impl Deref for Scene {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }
}

pub(crate) fn is_direct(route: Route) -> bool {
    matches!(route, Route::Direct(_))
}

pub(crate) fn is_relayed(route: Route) -> bool {
    route == Route::Relay
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
