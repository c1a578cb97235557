//! Watches the route in use: silence, and consent (RFC 7675).

use std::time::{Duration, Instant};

use crate::Config;
use crate::rtt::Rtt;

/// What is known of the route in use since it was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// When the first packet left that nothing has been received after; `None` while there is none.
    unanswered_since: Option<Instant>,
    /// Probes sent in the present silence.
    probes: u32,
    /// When the second of them left; `None` before.
    second_probe_at: Option<Instant>,
    last_probe_at: Option<Instant>,
    /// When a check was answered last: the peer's consent.
    consented_at: Instant,
}

/// What a silent route needs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Fine,
    /// Send a check.
    Probe,
    /// The route is to be given up.
    Suspect,
    /// Nothing more may be sent. See RFC 7675 §5.1.
    ConsentExpired,
}

impl Watch {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            unanswered_since: None,
            probes: 0,
            second_probe_at: None,
            last_probe_at: None,
            consented_at: now,
        }
    }

    /// Notes a packet or check sent on the route. True when it begins a possible silence.
    pub(crate) fn on_sent(&mut self, now: Instant) -> bool {
        let begins = self.unanswered_since.is_none();
        self.unanswered_since.get_or_insert(now);
        begins
    }

    /// Notes a packet, or the answer to a check, received on the route.
    pub(crate) fn on_received(&mut self) {
        self.unanswered_since = None;
        self.probes = 0;
        self.second_probe_at = None;
        self.last_probe_at = None;
    }

    /// Notes the authenticated answer to a check.
    pub(crate) fn on_consent(&mut self, now: Instant) {
        self.consented_at = now;
        self.on_received();
    }

    /// Notes that the probe that [`Finding::Probe`] asked for was sent.
    pub(crate) fn on_probe(&mut self, now: Instant) {
        self.probes = self.probes.saturating_add(1);
        self.last_probe_at = Some(now);
        if self.probes == 2 {
            self.second_probe_at = Some(now);
        }
    }

    pub(crate) fn finding(&self, now: Instant, rtt: &Rtt, config: &Config) -> Finding {
        if now >= self.consented_at + config.consent_timeout {
            return Finding::ConsentExpired;
        }
        if self.suspect_at(rtt, config).is_some_and(|at| at <= now) {
            return Finding::Suspect;
        }
        if self.probe_at(config).is_some_and(|at| at <= now) {
            return Finding::Probe;
        }
        Finding::Fine
    }

    /// When silence next needs attention; `None` while there is none.
    pub(crate) fn silence_deadline(&self, rtt: &Rtt, config: &Config) -> Option<Instant> {
        let probe_at = self.probe_at(config)?;
        Some(
            self.suspect_at(rtt, config)
                .map_or(probe_at, |at| at.min(probe_at)),
        )
    }

    pub(crate) fn consent_deadline(&self, config: &Config) -> Instant {
        self.consented_at + config.consent_timeout
    }

    fn probe_at(&self, config: &Config) -> Option<Instant> {
        let since = self.unanswered_since?;
        Some(match self.last_probe_at {
            None => since + config.silence_before_probe,
            Some(last) => last + config.probe_interval,
        })
    }

    /// When the silence is long enough for suspicion: only once two probes had the time to be
    /// answered, so that a device that was suspended itself does not blame the path.
    fn suspect_at(&self, rtt: &Rtt, config: &Config) -> Option<Instant> {
        let since = self.unanswered_since?;
        let second_probe_at = self.second_probe_at?;
        let answer_takes = rtt
            .smoothed()
            .unwrap_or_default()
            .max(config.probe_interval);
        Some((since + threshold(rtt, config)).max(second_probe_at + answer_takes))
    }
}

/// The silence that makes a route suspect: three RTTs within bounds, yet always longer than an
/// answer on a path as slow as this may take after the first probe.
fn threshold(rtt: &Rtt, config: &Config) -> Duration {
    let Some(smoothed) = rtt.smoothed() else {
        return config.suspicion_max;
    };
    let usual = (smoothed * 3)
        .min(config.suspicion_max)
        .max(config.suspicion_min);
    let slow = rtt.patience().unwrap_or_default().min(smoothed * 2) + config.silence_before_probe;
    if smoothed * 2 > config.suspicion_max {
        usual.max(slow)
    } else {
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs a silent route with the given RTT; returns when probes leave and when it is suspected.
    fn silence(rtt_ms: u32) -> (Vec<u32>, u32) {
        let config = Config::default();
        let mut rtt = Rtt::default();
        for _ in 0..20 {
            rtt.on_sample(MS * rtt_ms);
        }
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.on_sent(start);
        let mut probes = Vec::new();
        for ms in 0..5000 {
            let now = start + MS * ms;
            match watch.finding(now, &rtt, &config) {
                Finding::Fine => {}
                Finding::Probe => {
                    watch.on_probe(now);
                    probes.push(ms);
                }
                Finding::Suspect => return (probes, ms),
                Finding::ConsentExpired => unreachable!("five seconds are not thirty"),
            }
        }
        unreachable!("silence is always suspected in the end");
    }

    #[test]
    fn a_silent_route_is_probed_and_then_suspected() {
        assert_eq!(silence(20), (vec![100, 150, 200, 250], 300));
        assert_eq!(silence(120).1, 360);
        assert_eq!(silence(200).1, 500);
    }

    #[test]
    fn a_slow_route_is_given_the_time_that_an_answer_takes() {
        assert!(silence(600).1 >= 750);
    }

    #[test]
    fn anything_received_ends_the_silence() {
        let config = Config::default();
        let start = Instant::now();
        let mut watch = Watch::new(start);
        assert!(watch.on_sent(start));
        assert!(!watch.on_sent(start + MS));
        watch.on_received();
        assert_eq!(watch.silence_deadline(&Rtt::default(), &config), None);
        let later = start + MS * 1000;
        assert_eq!(
            watch.finding(later, &Rtt::default(), &config),
            Finding::Fine
        );
    }

    #[test]
    fn a_suspended_device_probes_before_it_suspects() {
        let config = Config::default();
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.on_sent(start);
        let woken = start + MS * 9000;
        assert_eq!(
            watch.finding(woken, &Rtt::default(), &config),
            Finding::Probe
        );
    }
}
