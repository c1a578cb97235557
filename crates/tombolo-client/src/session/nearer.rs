//! When a device goes to a node that is nearer, by itself.
//!
//! ```text
//! rest → look → look → look → go → rest
//! ```
//! A look measures this node and others anew, at the same time. A device goes when each of three looks in a row, some
//! time apart, has found another node clearly nearer; it goes once, and rests for long. Devices that come at the same
//! time, or hear at the same time of another node, look at different times.

use std::time::{Duration, Instant};

use tombolo_wire::ServerUrl;

use super::distance::Distance;

/// So many looks in a row must agree.
const LOOKS: u32 = 3;
/// How many times as long a device stays where it is as it takes to find out that there is a nearer node.
const REST: u32 = 10;
/// By how much a node must be nearer, and which part of the way may be left, at most.
const NEARER_BY: Duration = Duration::from_millis(20);
const NEARER_TO: f64 = 0.7;

/// When to look for a nearer node, and what looks have found.
#[derive(Debug)]
pub(super) struct Nearer {
    /// About how long it takes to find out; `None` when the application wants to stay.
    within: Option<Duration>,
    /// `None` while there is nothing to look for.
    look_at: Option<Instant>,
    /// Before that there is no look.
    rests_until: Instant,
    /// So many looks in a row have found one.
    found: u32,
}

impl Nearer {
    pub(super) fn new(within: Option<Duration>, now: Instant) -> Self {
        Self {
            within,
            look_at: None,
            rests_until: now,
            found: 0,
        }
    }

    /// Distances may be others: there is another node, or the device is in another network. `random` is from 0 to 1.
    pub(super) fn handle_news(&mut self, now: Instant, random: f64) {
        let Some(pause) = self.pause(random) else {
            return;
        };
        let soon = now.max(self.rests_until) + pause;
        self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
    }

    /// The session is on another node, or was not let into one.
    pub(super) fn handle_move(&mut self, now: Instant, random: f64) {
        self.rest(now);
        (self.look_at, self.found) = (None, 0);
        self.handle_news(now, random);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.look_at
    }

    /// Whether to look now.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.look_at.take_if(|at| *at <= now).is_some()
    }

    /// Takes in how far this node and others are; returns the one to go to.
    pub(super) fn handle_looked(
        &mut self,
        now: Instant,
        random: f64,
        here: &ServerUrl,
        looked: &[Distance],
    ) -> Option<ServerUrl> {
        let nearest = clearly_nearest(here, looked);
        self.found = if nearest.is_some() { self.found + 1 } else { 0 };
        if self.found == LOOKS {
            self.handle_move(now, random);
            return nearest.cloned();
        }
        if nearest.is_none() {
            self.rest(now);
        }
        self.handle_news(now, random);
        None
    }

    /// There is nothing to compare now: another node may come.
    pub(super) fn handle_alone(&mut self, now: Instant, random: f64) {
        self.found = 0;
        self.rest(now);
        self.handle_news(now, random);
    }

    fn rest(&mut self, now: Instant) {
        self.rests_until = now + self.within.unwrap_or_default() * REST;
    }

    fn pause(&self, random: f64) -> Option<Duration> {
        let between = self.within? / LOOKS;
        Some(between.mul_f64(0.5 + random / 2.0))
    }
}

/// The nearest node, if it is clearly nearer than this one.
fn clearly_nearest<'a>(here: &ServerUrl, looked: &'a [Distance]) -> Option<&'a ServerUrl> {
    let (_, from_here) = looked.iter().find(|(url, _)| url == here)?;
    let from_here = (*from_here)?;
    let others = looked.iter().filter(|(url, _)| url != here);
    let answered = others.filter_map(|(url, distance)| Some((url, (*distance)?)));
    let (nearest, distance) = answered.min_by_key(|(_, distance)| *distance)?;
    let is_clear = distance + NEARER_BY <= from_here && distance <= from_here.mul_f64(NEARER_TO);
    is_clear.then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(60);

    fn url(name: &str) -> ServerUrl {
        format!("tombolo://{name}:1").parse().unwrap()
    }

    fn looked(distances: &[(&str, u64)]) -> Vec<Distance> {
        let distances = distances.iter();
        let distances = distances.map(|(name, at)| {
            let answered = (*at > 0).then(|| Duration::from_millis(*at));
            (url(name), answered)
        });
        distances.collect()
    }

    /// Looks whenever that is due; where the device goes, and when.
    fn goes(
        nearer: &mut Nearer,
        random: f64,
        looks: &[&[(&str, u64)]],
    ) -> Option<(ServerUrl, Instant)> {
        for look in looks {
            let Some(at) = nearer.poll_timeout() else {
                panic!("no look is due");
            };
            assert!(!nearer.handle_timeout(at - Duration::from_millis(1)));
            assert!(nearer.handle_timeout(at));
            let here = url("here");
            if let Some(there) = nearer.handle_looked(at, random, &here, &looked(look)) {
                return Some((there, at));
            }
        }
        None
    }

    #[test]
    fn a_device_goes_to_a_node_that_three_looks_in_a_row_find_clearly_nearer() {
        let now = Instant::now();
        let near: &[(&str, u64)] = &[("here", 100), ("near", 30), ("nearer", 20), ("silent", 0)];
        let far: &[(&str, u64)] = &[("here", 25), ("near", 30)];
        for (random, least, most) in [(0.0, 0.5, 0.5), (1.0, 1.0, 1.0)] {
            let mut nearer = Nearer::new(Some(WITHIN), now);
            assert_eq!(nearer.poll_timeout(), None, "there is no other node");
            nearer.handle_news(now, random);
            let (there, at) = goes(&mut nearer, random, &[near, near, near]).unwrap();
            assert_eq!(there, url("nearer"));
            let took = at - now;
            assert!(WITHIN.mul_f64(least) <= took && took <= WITHIN.mul_f64(most));
        }
        let mut nearer = Nearer::new(Some(WITHIN), now);
        nearer.handle_news(now, 0.5);
        assert_eq!(goes(&mut nearer, 0.5, &[near, near, far, near, near]), None);
    }

    #[test]
    fn a_node_that_is_little_nearer_or_silent_is_not_gone_to() {
        let here = url("here");
        let found = |here_ms, there_ms| {
            let looked = looked(&[("here", here_ms), ("there", there_ms)]);
            clearly_nearest(&here, &looked).is_some()
        };
        assert!(found(100, 70) && !found(100, 71), "by a part of the way");
        assert!(found(30, 10) && !found(30, 11), "and by some time");
        assert!(!found(0, 10) && !found(100, 0));
    }

    #[test]
    fn after_a_move_and_a_look_in_vain_a_device_rests() {
        let now = Instant::now();
        let rest = WITHIN * REST;
        let mut moved = Nearer::new(Some(WITHIN), now);
        moved.handle_move(now, 0.0);
        let mut in_vain = Nearer::new(Some(WITHIN), now);
        in_vain.handle_news(now, 0.0);
        let at = in_vain.poll_timeout().unwrap();
        assert!(in_vain.handle_timeout(at));
        let alike = looked(&[("here", 30), ("there", 20)]);
        assert_eq!(in_vain.handle_looked(at, 0.0, &url("here"), &alike), None);
        for (mut nearer, since) in [(moved, now), (in_vain, at)] {
            assert!(nearer.poll_timeout().unwrap() >= since + rest);
            // Whatever is heard meanwhile.
            nearer.handle_news(since, 0.0);
            assert!(nearer.poll_timeout().unwrap() >= since + rest);
        }
    }

    #[test]
    fn a_device_that_has_nothing_to_compare_looks_again_after_a_rest() {
        let now = Instant::now();
        let mut nearer = Nearer::new(Some(WITHIN), now);
        nearer.handle_news(now, 0.0);
        let at = nearer.poll_timeout().unwrap();
        assert!(nearer.handle_timeout(at));
        nearer.handle_alone(at, 0.0);
        assert!(nearer.poll_timeout().unwrap() >= at + WITHIN * REST);
    }

    #[test]
    fn a_device_that_is_to_stay_does_not_look() {
        let now = Instant::now();
        let mut nearer = Nearer::new(None, now);
        nearer.handle_news(now, 0.0);
        nearer.handle_move(now, 0.0);
        assert_eq!(nearer.poll_timeout(), None);
    }
}
