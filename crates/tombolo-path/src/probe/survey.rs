//! The measurement of one address family.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tombolo_stun::{ChangeRequest, Class, MessageWriter, Method, TransactionId};

use super::ProbeTimer;
use super::report::{Answer, FamilyReport};
use crate::candidate::accept;
use crate::{Filtering, Mapping};

/// One request and what became of it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: TransactionId,
    pub(super) to: SocketAddr,
    pub(super) test: Test,
    pub(super) outcome: Outcome,
    first_sent: Instant,
    pub(super) sent: u32,
    next_send: Instant,
    interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// A plain Binding request. See RFC 5780 §4.3.
    Mapping,
    /// Answer from the other address and port. See RFC 5780 §4.4, test II.
    OtherAddress,
    /// Answer from the other port. See RFC 5780 §4.4, test III.
    OtherPort,
    /// A request to our own public address.
    Hairpin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pending,
    Answered,
    TimedOut,
    /// The server answered in another way than the test asks for.
    Useless,
}

/// How long requests are repeated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) retransmit_after: Duration,
    pub(super) timeout: Duration,
    pub(super) patience: Duration,
    /// When a server answered first; `None` before.
    pub(super) answered_at: Option<Instant>,
}

impl Limits {
    /// When a request that was first sent at this time counts as unanswered.
    fn end(self, first_sent: Instant) -> Instant {
        let usual = first_sent + self.timeout;
        self.answered_at
            .map_or(usual, |at| usual.min(at.max(first_sent) + self.patience))
    }
}

/// What remains to be done once the requests under way have ended. Each step comes at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Ask the first server only: the filter towards all others has to stay closed.
    First,
    Filtering,
    Mapping,
    /// Ask the other address of a server, which the configuration does not name.
    Refinement,
    Hairpin,
    Done,
}

/// The state of the measurement of one family.
#[derive(Debug)]
pub(super) struct Survey {
    servers: Vec<SocketAddr>,
    local: Vec<SocketAddr>,
    pub(super) requests: Vec<Request>,
    answers: Vec<Answer>,
    /// A server and its OTHER-ADDRESS; the first server's if it has one.
    other: Option<(SocketAddr, SocketAddr)>,
    pub(super) report: FamilyReport,
    step: Step,
}

impl Survey {
    pub(super) fn new(servers: Vec<SocketAddr>, local: Vec<SocketAddr>, filtering: bool) -> Self {
        let step = match (servers.is_empty(), filtering) {
            (true, _) => Step::Done,
            (false, true) => Step::First,
            (false, false) => Step::Mapping,
        };
        Self {
            servers,
            local,
            requests: Vec::new(),
            answers: Vec::new(),
            other: None,
            report: FamilyReport::default(),
            step,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.step == Step::Done && !self.is_waiting()
    }

    /// Goes on to the next steps while nothing is under way.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        hairpinning: bool,
        limits: Limits,
        mut new_id: impl FnMut() -> TransactionId,
    ) {
        while !self.is_waiting() && self.step != Step::Done {
            let (tests, next) = match self.step {
                Step::First => (self.mapping_tests(1), Step::Filtering),
                Step::Filtering => (self.filtering_tests(), Step::Mapping),
                Step::Mapping => {
                    self.conclude_filtering();
                    (self.mapping_tests(self.servers.len()), Step::Refinement)
                }
                Step::Refinement => (self.refining_tests(), Step::Hairpin),
                Step::Hairpin => (self.hairpin_tests(hairpinning), Step::Done),
                Step::Done => break,
            };
            self.step = next;
            self.requests
                .extend(tests.into_iter().map(|(test, to)| Request {
                    id: new_id(),
                    to,
                    test,
                    outcome: Outcome::Pending,
                    first_sent: now,
                    sent: 0,
                    next_send: now,
                    interval: limits.retransmit_after,
                }));
        }
    }

    /// Says whether an answer to this transaction is awaited.
    pub(super) fn awaits(&self, id: TransactionId) -> bool {
        let mut pending = self
            .requests
            .iter()
            .filter(|r| r.outcome == Outcome::Pending);
        pending.any(|request| request.id == id)
    }

    /// Finds the request under way that a transaction belongs to.
    pub(super) fn find(&mut self, id: TransactionId) -> Option<&mut Request> {
        self.requests
            .iter_mut()
            .find(|request| request.id == id && request.outcome == Outcome::Pending)
    }

    /// Notes a success answer. Returns the public address if it is new.
    pub(super) fn on_success(
        &mut self,
        now: Instant,
        from: SocketAddr,
        id: TransactionId,
        mapped: SocketAddr,
        other: Option<SocketAddr>,
    ) -> Option<SocketAddr> {
        let request = self.find(id)?;
        let (server, test) = (request.to, request.test);
        let is_as_asked = match test {
            Test::Mapping => from == server,
            Test::OtherAddress => from.ip() != server.ip(),
            Test::OtherPort => from.ip() == server.ip() && from.port() != server.port(),
            Test::Hairpin => false,
        };
        if !is_as_asked {
            // A forged or misrouted answer to a plain request must not end it.
            if matches!(test, Test::OtherAddress | Test::OtherPort) && from == server {
                request.outcome = Outcome::Useless;
            }
            return None;
        }
        request.outcome = Outcome::Answered;
        let took = now.saturating_duration_since(request.first_sent);
        let took = (request.sent == 1).then_some(took);
        if test != Test::Mapping {
            return None;
        }
        if let Some(other) = other
            && self.other.is_none()
            && other.ip() != server.ip()
            && other.is_ipv4() == server.is_ipv4()
            && accept(other, server.ip().is_loopback()).is_ok()
        {
            self.other = Some((server, other));
        }
        let is_new = !self.report.public.contains(&mapped);
        self.answers.push(Answer { server, mapped });
        self.report
            .on_answer(mapped, took, &self.answers, &self.local);
        is_new.then_some(mapped)
    }

    /// Notes that our own request came back to us.
    pub(super) fn on_own_request(&mut self, id: TransactionId) -> bool {
        let Some(request) = self
            .find(id)
            .filter(|request| request.test == Test::Hairpin)
        else {
            return false;
        };
        request.outcome = Outcome::Answered;
        self.report.hairpinning = Some(true);
        true
    }

    /// Ends requests that took too long, and returns those to send (again).
    pub(super) fn take_due(&mut self, now: Instant, limits: Limits) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut due = Vec::new();
        for request in &mut self.requests {
            if request.outcome != Outcome::Pending {
                continue;
            }
            if now >= limits.end(request.first_sent) {
                request.outcome = Outcome::TimedOut;
                if request.test == Test::Hairpin {
                    self.report.hairpinning = Some(false);
                }
            } else if now >= request.next_send {
                request.sent += 1;
                request.next_send = now + request.interval;
                let doubled = request.interval * 2;
                request.interval = doubled.min(limits.retransmit_after * 4);
                due.push((request.to, request.bytes()));
            }
        }
        due
    }

    pub(super) fn deadline(&self, limits: Limits) -> Option<(Instant, ProbeTimer)> {
        let pending = self
            .requests
            .iter()
            .filter(|r| r.outcome == Outcome::Pending);
        pending
            .map(|request| {
                let retransmit = (request.next_send, ProbeTimer::Retransmit);
                retransmit.min((limits.end(request.first_sent), ProbeTimer::GiveUp))
            })
            .min()
    }

    fn is_waiting(&self) -> bool {
        self.requests
            .iter()
            .any(|request| request.outcome == Outcome::Pending)
    }

    /// Plain requests to the first `count` servers, as far as they have not been asked.
    fn mapping_tests(&self, count: usize) -> Vec<(Test, SocketAddr)> {
        let asked = |to: &SocketAddr| self.requests.iter().any(|request| request.to == *to);
        let servers = self.servers.iter().take(count).copied();
        servers
            .filter(|to| !asked(to))
            .map(|to| (Test::Mapping, to))
            .collect()
    }

    fn filtering_tests(&self) -> Vec<(Test, SocketAddr)> {
        match self.other {
            Some((server, _)) => vec![(Test::OtherAddress, server), (Test::OtherPort, server)],
            None => Vec::new(),
        }
    }

    /// Concludes the filtering behaviour. See RFC 5780 §4.4.
    fn conclude_filtering(&mut self) {
        let outcome = |test| {
            self.requests
                .iter()
                .find(|r| r.test == test)
                .map(|r| r.outcome)
        };
        self.report.filtering = match (outcome(Test::OtherAddress), outcome(Test::OtherPort)) {
            (Some(Outcome::Answered), _) => Filtering::EndpointIndependent,
            (Some(Outcome::TimedOut), Some(Outcome::Answered)) => Filtering::AddressDependent,
            (Some(Outcome::TimedOut), Some(Outcome::TimedOut)) => {
                Filtering::AddressAndPortDependent
            }
            _ => Filtering::Unknown,
        };
    }

    /// Requests to the other address of a server, if they can still tell something.
    fn refining_tests(&self) -> Vec<(Test, SocketAddr)> {
        let is_open = match self.report.mapping {
            Mapping::Dependent | Mapping::PortIndependent | Mapping::Unknown => true,
            Mapping::NoNat
            | Mapping::EndpointIndependent
            | Mapping::AddressDependent
            | Mapping::AddressAndPortDependent => false,
        };
        let Some((server, other)) = self.other.filter(|_| is_open) else {
            return Vec::new();
        };
        [SocketAddr::new(other.ip(), server.port()), other]
            .into_iter()
            .filter(|to| self.answers.iter().all(|answer| answer.server != *to))
            .map(|to| (Test::Mapping, to))
            .collect()
    }

    fn hairpin_tests(&self, is_wanted: bool) -> Vec<(Test, SocketAddr)> {
        let is_natted = self.report.mapping != Mapping::NoNat;
        let public = self
            .report
            .public
            .first()
            .filter(|_| is_wanted && is_natted);
        public
            .map(|public| (Test::Hairpin, *public))
            .into_iter()
            .collect()
    }
}

impl Request {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, self.id);
        match self.test {
            Test::OtherAddress => {
                writer.attribute(&ChangeRequest {
                    ip: true,
                    port: true,
                });
            }
            Test::OtherPort => {
                writer.attribute(&ChangeRequest {
                    ip: false,
                    port: true,
                });
            }
            Test::Mapping | Test::Hairpin => {}
        }
        writer.fingerprint();
        bytes
    }
}
