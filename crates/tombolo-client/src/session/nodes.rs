//! The nodes that a device may connect to.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tombolo_wire::ServerUrl;

use super::Connection;
use super::connection::Patience;
use super::distance::Distance;
use crate::error::Error;

/// So many nodes are remembered.
const KNOWN_MAX: usize = 8;
/// So many are tried at once: the nearest answers first.
const TRIED_MAX: usize = 3;
/// How much earlier each is tried than the next: enough for one that is near to answer, so that the others
/// need not greet in vain a device that goes there, and no more, so that a nearer one still wins.
const STAGGER: Duration = Duration::from_millis(50);
/// The same of a device that had a session: it is seldom the only one that leaves a node, and where all come at
/// once a node takes longer to answer. A greeting in vain costs it as much as one of a device that stays.
const STAGGER_OF_MANY: Duration = Duration::from_millis(250);
/// How much earlier the node is tried that has the session: any other one has to fetch it from there.
const HEAD_START: Duration = Duration::from_millis(250);

/// Nodes whose round trips are in the same step of that width are about as near: the less busy one is better.
const ALIKE: Duration = Duration::from_millis(20);
/// So many are remembered by distance, or as having refused: those that are known, and some that were.
const MEASURED_MAX: usize = 2 * KNOWN_MAX;

/// The nodes that a device may connect to.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    /// What the application gave.
    home: ServerUrl,
    /// The node of the last connection.
    current: ServerUrl,
    /// Whether the last node wants to be left alone.
    is_sent_away: bool,
    /// Whether a node has said where to go, and there was no connection since.
    was_sent: bool,
    /// Whether there has been a session.
    had_session: bool,
    /// The others that nodes have told of, the best first.
    known: Vec<ServerUrl>,
    /// Those of which the current node has told last: they take newcomers.
    told: Vec<ServerUrl>,
    /// Those that refused us since we were on a node.
    refused: Vec<ServerUrl>,
    /// Of those whose distance was measured: how long a round trip takes, `None` when there was no answer.
    round_trips: Vec<Distance>,
}

impl Nodes {
    pub(super) fn new(home: ServerUrl) -> Self {
        Self {
            current: home.clone(),
            home,
            is_sent_away: false,
            was_sent: false,
            had_session: false,
            known: Vec::new(),
            told: Vec::new(),
            refused: Vec::new(),
            round_trips: Vec::new(),
        }
    }

    pub(super) fn current(&self) -> &ServerUrl {
        &self.current
    }

    /// Takes note of the nodes that take newcomers, as the current one has them, the best first.
    pub(super) fn hear(&mut self, urls: &[String]) {
        let told = urls.iter().filter_map(|url| url.parse().ok());
        self.told = told.take(KNOWN_MAX).collect();
        self.learn(urls);
    }

    /// Which to measure to find out whether one is nearer than the current node, which is among them; none when there is
    /// no other.
    pub(super) fn to_compare(&self) -> Vec<ServerUrl> {
        let others = self.others().filter(|url| self.told.contains(url));
        let mut urls: Vec<_> = others.take(TRIED_MAX).collect();
        if !urls.is_empty() {
            urls.push(self.current.clone());
        }
        urls
    }

    /// Takes note of the nodes that one has told of, the best first. What is no URL is left out.
    pub(super) fn learn(&mut self, urls: &[String]) {
        let told = urls.iter().filter_map(|url| url.parse::<ServerUrl>().ok());
        let mut known: Vec<_> = told.take(KNOWN_MAX).collect();
        // Who did not answer may do so by now.
        self.round_trips
            .retain(|(url, round_trip)| round_trip.is_some() || !known.contains(url));
        for url in std::mem::take(&mut self.known) {
            if !known.contains(&url) && known.len() < KNOWN_MAX {
                known.push(url);
            }
        }
        self.known = known;
    }

    /// Those whose distance is not known.
    pub(super) fn unmeasured(&self) -> Vec<ServerUrl> {
        let is_measured = |url: &ServerUrl| self.round_trips.iter().any(|(known, _)| known == url);
        self.others().filter(|url| !is_measured(url)).collect()
    }

    /// Takes note of how far nodes are.
    pub(super) fn measured(&mut self, round_trips: Vec<Distance>) {
        self.round_trips.extend(round_trips);
        let surplus = self.round_trips.len().saturating_sub(MEASURED_MAX);
        self.round_trips.drain(..surplus);
    }

    /// All distances are to be measured anew, say since the device is elsewhere.
    pub(super) fn forget_distances(&mut self) {
        self.round_trips.clear();
    }

    /// The node that is left wants no connection for now.
    pub(super) fn leave_current(&mut self) {
        self.is_sent_away = true;
        self.was_sent = true;
    }

    /// No other node could be reached: the one that sent us away may be the only one.
    pub(super) fn come_back(&mut self) {
        self.is_sent_away = false;
    }

    /// Whether a node has said where to go: the next one is to keep us.
    pub(super) fn was_sent(&self) -> bool {
        self.was_sent
    }

    /// There is a connection to a node; returns whether the session was on another one.
    pub(super) fn arrive(&mut self, at: &ServerUrl) -> bool {
        let left = std::mem::replace(&mut self.current, at.clone());
        let has_moved = self.had_session && left != *at;
        self.told.clear();
        self.is_sent_away = false;
        self.was_sent = false;
        self.had_session = true;
        self.refused.clear();
        self.known.retain(|url| url != at);
        if left != *at && self.known.len() < KNOWN_MAX {
            self.known.push(left);
        }
        has_moved
    }

    /// A node could not be reached, or refused: others come before it until there is a connection.
    pub(super) fn put_last(&mut self, url: &ServerUrl) {
        self.refused.retain(|refused| refused != url);
        self.refused.push(url.clone());
        let surplus = self.refused.len().saturating_sub(MEASURED_MAX);
        self.refused.drain(..surplus);
    }

    /// Which to try, and how long after the one before, if that is silent.
    pub(super) fn candidates(&self) -> Vec<(ServerUrl, Duration)> {
        let mut candidates = Vec::new();
        if !self.is_sent_away {
            candidates.push((self.current.clone(), Duration::ZERO));
        }
        let delay = if self.is_sent_away {
            Duration::ZERO
        } else {
            HEAD_START
        };
        candidates.extend(self.staggered(delay));
        if candidates.is_empty() {
            candidates.push((self.current.clone(), Duration::ZERO));
        }
        candidates
    }

    /// Where to go instead of the current node.
    pub(super) fn elsewhere(&self) -> Vec<(ServerUrl, Duration)> {
        self.staggered(Duration::ZERO).collect()
    }

    fn staggered(&self, first: Duration) -> impl Iterator<Item = (ServerUrl, Duration)> {
        let stagger = if self.had_session {
            STAGGER_OF_MANY
        } else {
            STAGGER
        };
        let delays = std::iter::once(first).chain(std::iter::repeat(stagger));
        self.others().take(TRIED_MAX).zip(delays)
    }

    /// All but the current one: the nearest first, and of those that are about as near, the best. Those that refused
    /// come last, in turn.
    fn others(&self) -> impl Iterator<Item = ServerUrl> {
        let home = std::iter::once(&self.home).filter(|home| !self.known.contains(home));
        let others = self.known.iter().chain(home);
        let mut others: Vec<_> = others.filter(|url| **url != self.current).collect();
        let refused = |url: &ServerUrl| self.refused.iter().position(|refused| refused == url);
        others.sort_by_key(|url| (refused(url), self.distance(url)));
        others.into_iter().cloned()
    }

    /// About how far a node is. One that was not measured yet may be near; one that did not answer is the last.
    fn distance(&self, url: &ServerUrl) -> u128 {
        let mut measured = self.round_trips.iter();
        match measured.find(|(measured, _)| measured == url) {
            Some((_, Some(round_trip))) => round_trip.as_millis() / ALIKE.as_millis(),
            Some((_, None)) => u128::MAX,
            None => 0,
        }
    }
}

/// Opens a connection to whichever node is nearest: they are tried one soon after the other, and the first to
/// answer has it.
pub(super) async fn open_nearest(
    endpoint: &noq::Endpoint,
    candidates: Vec<(ServerUrl, Duration)>,
    patience: Patience,
) -> Result<(Connection, ServerUrl), Error> {
    first_to_answer(candidates, |url| {
        let endpoint = endpoint.clone();
        async move {
            let connection = Connection::open(&endpoint, &url, patience).await?;
            Ok((connection, url))
        }
    })
    .await
}

/// Tries each when the one before has been silent for long enough, or as soon as one has failed.
async fn first_to_answer<T, F>(
    candidates: Vec<(ServerUrl, Duration)>,
    open: impl Fn(ServerUrl) -> F,
) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let mut failure = Error::closed("there is no node to connect to");
    let mut attempts = JoinSet::new();
    let mut candidates = candidates.into_iter();
    let mut next = candidates.next();
    let mut last_at = Instant::now();
    loop {
        let delay = next.as_ref().map(|(_, delay)| *delay);
        tokio::select! {
            biased;
            Some(attempt) = attempts.join_next() => match attempt {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(error)) => failure = error,
                Err(error) => failure = Error::local(error),
            },
            () = tokio::time::sleep_until(last_at + delay.unwrap_or_default()), if delay.is_some() => {}
            else => return Err(failure),
        }
        if let Some((url, _)) = next.take() {
            attempts.spawn(open(url));
            last_at = Instant::now();
            next = candidates.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(name: &str) -> ServerUrl {
        format!("tombolo://{name}:1").parse().unwrap()
    }

    fn urls(nodes: &Nodes) -> Vec<String> {
        let candidates = nodes.candidates().into_iter();
        candidates.map(|(url, _)| url.host().to_owned()).collect()
    }

    fn told(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| url(name).to_string()).collect()
    }

    #[test]
    fn the_node_of_the_session_is_tried_first_and_alone_for_a_moment() {
        let mut nodes = Nodes::new(url("a"));
        nodes.learn(&told(&["b", "c", "d", "e"]));
        assert_eq!(urls(&nodes), ["a", "b", "c", "d"]);
        let delays: Vec<_> = nodes.candidates().into_iter().map(|(_, at)| at).collect();
        assert_eq!(delays, [Duration::ZERO, HEAD_START, STAGGER, STAGGER]);
    }

    #[test]
    fn a_device_that_had_a_session_does_not_greet_a_second_node_while_the_first_is_busy() {
        let mut nodes = Nodes::new(url("a"));
        nodes.learn(&told(&["b", "c"]));
        let delays = |nodes: &Nodes| {
            let elsewhere = nodes.elsewhere().into_iter();
            elsewhere.map(|(_, at)| at).collect::<Vec<_>>()
        };
        assert_eq!(delays(&nodes), [Duration::ZERO, STAGGER]);
        nodes.arrive(&url("a"));
        assert_eq!(delays(&nodes), [Duration::ZERO, STAGGER_OF_MANY]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_node_is_waited_with_only_while_the_one_before_is_silent() {
        let mut nodes = Nodes::new(url("refuses"));
        nodes.learn(&told(&["silent", "refuses-too", "answers"]));
        let begun = Instant::now();
        let open = |url: ServerUrl| async move {
            match url.host() {
                "silent" => std::future::pending().await,
                "answers" => Ok(begun.elapsed()),
                _ => Err(Error::unreachable(&url, "refused")),
            }
        };
        let answered = first_to_answer(nodes.candidates(), open).await;
        assert_eq!(answered.unwrap(), STAGGER);
        let refused = first_to_answer(vec![(url("refuses"), Duration::ZERO)], open).await;
        assert!(refused.unwrap_err().is_unreachable());
    }

    #[test]
    fn a_node_that_sent_us_away_is_not_tried_while_there_are_others() {
        let mut nodes = Nodes::new(url("a"));
        nodes.leave_current();
        assert_eq!(urls(&nodes), ["a"], "there is no other");
        nodes.learn(&told(&["b"]));
        assert_eq!(urls(&nodes), ["b"]);
        nodes.arrive(&url("b"));
        assert_eq!(urls(&nodes), ["b", "a"]);
    }

    #[test]
    fn the_nearest_comes_first_and_of_those_as_near_the_one_told_first() {
        let milliseconds = |at| Some(Duration::from_millis(at));
        let mut nodes = Nodes::new(url("a"));
        nodes.learn(&told(&["far", "silent", "near", "nearer"]));
        assert_eq!(nodes.unmeasured().len(), 4);
        nodes.measured(vec![
            (url("far"), milliseconds(120)),
            (url("silent"), None),
            (url("near"), milliseconds(29)),
            (url("nearer"), milliseconds(21)),
        ]);
        assert_eq!(urls(&nodes), ["a", "near", "nearer", "far"]);
        assert!(nodes.unmeasured().is_empty());
        nodes.learn(&told(&["new"]));
        assert_eq!(urls(&nodes), ["a", "new", "near", "nearer"]);
        assert_eq!(nodes.unmeasured(), [url("new")]);
        nodes.learn(&told(&["silent"]));
        assert_eq!(
            nodes.unmeasured(),
            [url("silent"), url("new")],
            "it may answer now"
        );
        nodes.forget_distances();
        assert_eq!(urls(&nodes), ["a", "silent", "new", "far"]);
    }

    #[test]
    fn only_nodes_that_take_newcomers_are_compared_with_the_current_one() {
        let mut nodes = Nodes::new(url("a"));
        nodes.learn(&told(&["left", "b"]));
        assert!(nodes.to_compare().is_empty());
        nodes.hear(&told(&["b", "c"]));
        assert_eq!(nodes.to_compare(), [url("b"), url("c"), url("a")]);
        nodes.hear(&told(&["c"]));
        assert_eq!(nodes.to_compare(), [url("c"), url("a")]);
        assert!(!nodes.arrive(&url("a")), "it had no session before");
        assert!(nodes.arrive(&url("c")));
        assert!(nodes.to_compare().is_empty(), "it has not said which");
    }

    #[test]
    fn the_nearest_does_not_come_before_others_while_it_refuses() {
        let mut nodes = Nodes::new(url("a"));
        nodes.learn(&told(&["near", "far", "farther"]));
        let milliseconds = |at| Some(Duration::from_millis(at));
        nodes.measured(vec![
            (url("near"), milliseconds(1)),
            (url("far"), milliseconds(50)),
            (url("farther"), milliseconds(90)),
        ]);
        nodes.put_last(&url("near"));
        nodes.learn(&told(&["near", "far"]));
        assert_eq!(urls(&nodes), ["a", "far", "farther", "near"]);
        nodes.put_last(&url("far"));
        assert_eq!(urls(&nodes), ["a", "farther", "near", "far"]);
        nodes.arrive(&url("a"));
        assert_eq!(urls(&nodes), ["a", "near", "far", "farther"]);
    }

    #[test]
    fn what_is_told_last_comes_first_and_is_bounded_and_nonsense_is_left_out() {
        let mut nodes = Nodes::new(url("a"));
        nodes.learn(&told(&["b", "c"]));
        nodes.learn(&["nonsense".to_owned(), url("d").to_string()]);
        assert_eq!(urls(&nodes), ["a", "d", "b", "c"]);
        let many: Vec<_> = (0..100)
            .map(|number| url(&format!("n{number}")).to_string())
            .collect();
        nodes.learn(&many);
        assert_eq!(nodes.known.len(), KNOWN_MAX);
        nodes.put_last(&url("n0"));
        assert_eq!(urls(&nodes), ["a", "n1", "n2", "n3"]);
    }
}
