use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use tombolo_wire::v1::ErrorCode;

use crate::admission::Refusal;

/// What a gateway has done so far. Counters only grow; gauges say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections with a session over QUIC (a gauge).
    pub sessions_quic: u64,
    /// Connections with a session over WebSocket (a gauge).
    pub sessions_websocket: u64,
    /// Connections that got a session, new or resumed.
    pub attached: u64,
    /// Connections refused or ended with `Reject`, by its code.
    pub rejected: BTreeMap<ErrorCode, u64>,
    /// Connections not taken: the gateway was full, of connections or of those without a session.
    pub refused_full: u64,
    /// Connections not taken: their source prefix had too many, or too many without a session.
    pub refused_prefix_full: u64,
    /// How often the system gave no connection out, for want of descriptors mostly.
    pub accepts_failed: u64,
    /// Connections not taken: all together began too many handshakes.
    pub refused_pace: u64,
    /// Connections not taken: their source prefix, or a network around it, began too many handshakes.
    pub refused_prefix_pace: u64,
    /// Connections without a session whose places newcomers got.
    pub displaced: u64,
    /// Clients sent back to prove their address first.
    pub retries: u64,
    /// TLS or QUIC handshakes that failed, a wrong application protocol included.
    pub handshakes_failed: u64,
    /// Connections that said no `Hello` in time. Those that could be told are in `rejected` too.
    pub hellos_late: u64,
    /// Frames from devices.
    pub frames_received: u64,
    /// Frames to devices.
    pub frames_sent: u64,
    /// HTTP requests answered.
    pub http_requests: u64,
    /// Of those, with an error.
    pub http_errors: u64,
    /// Requests of game servers that their keys allowed.
    pub api_requests: u64,
    /// Requests of game servers without a key that is known.
    pub api_keys_refused: u64,
    /// Requests of game servers that their keys do not allow.
    pub api_scopes_refused: u64,
    /// Requests of game servers whose keys were used too often.
    pub api_rates_refused: u64,
    /// Requests of game servers under a name that is used for another one, or cannot be kept.
    pub api_repetitions_refused: u64,
}

/// The counters behind [`Stats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sessions_quic: Counter,
    pub(crate) sessions_websocket: Counter,
    pub(crate) attached: Counter,
    rejected: ByCode,
    pub(crate) refused_full: Counter,
    pub(crate) refused_prefix_full: Counter,
    pub(crate) accepts_failed: Counter,
    pub(crate) refused_pace: Counter,
    pub(crate) refused_prefix_pace: Counter,
    pub(crate) displaced: Counter,
    pub(crate) retries: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) hellos_late: Counter,
    pub(crate) frames_received: Counter,
    pub(crate) frames_sent: Counter,
    pub(crate) http_requests: Counter,
    pub(crate) http_errors: Counter,
    pub(crate) api_requests: Counter,
    pub(crate) api_keys_refused: Counter,
    pub(crate) api_scopes_refused: Counter,
    pub(crate) api_rates_refused: Counter,
    pub(crate) api_repetitions_refused: Counter,
}

impl Counters {
    pub(crate) fn reject(&self, code: ErrorCode) {
        if let Some(counter) = usize::try_from(i32::from(code))
            .ok()
            .and_then(|i| self.rejected.0.get(i))
        {
            counter.add();
        }
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        match refusal {
            Refusal::Full => self.refused_full.add(),
            Refusal::PrefixFull => self.refused_prefix_full.add(),
            Refusal::Pace => self.refused_pace.add(),
            Refusal::PrefixPace => self.refused_prefix_pace.add(),
        }
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let rejected = (0_i32..)
            .zip(&self.rejected.0)
            .filter_map(|(code, counter)| Some((ErrorCode::try_from(code).ok()?, counter.value())))
            .filter(|(_, count)| *count > 0)
            .collect();
        Stats {
            sessions_quic: self.sessions_quic.value(),
            sessions_websocket: self.sessions_websocket.value(),
            attached: self.attached.value(),
            rejected,
            refused_full: self.refused_full.value(),
            refused_prefix_full: self.refused_prefix_full.value(),
            accepts_failed: self.accepts_failed.value(),
            refused_pace: self.refused_pace.value(),
            refused_prefix_pace: self.refused_prefix_pace.value(),
            displaced: self.displaced.value(),
            retries: self.retries.value(),
            handshakes_failed: self.handshakes_failed.value(),
            hellos_late: self.hellos_late.value(),
            frames_received: self.frames_received.value(),
            frames_sent: self.frames_sent.value(),
            http_requests: self.http_requests.value(),
            http_errors: self.http_errors.value(),
            api_requests: self.api_requests.value(),
            api_keys_refused: self.api_keys_refused.value(),
            api_scopes_refused: self.api_scopes_refused.value(),
            api_rates_refused: self.api_rates_refused.value(),
            api_repetitions_refused: self.api_repetitions_refused.value(),
        }
    }
}

/// A number that many tasks count on; order between counters does not matter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts up until the guard goes.
    pub(crate) fn hold(&self) -> Held<'_> {
        self.add();
        Held(self)
    }
}

/// One unit of a gauge.
#[derive(Debug)]
pub(crate) struct Held<'a>(&'a Counter);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A counter for each error code of the contract, by its number.
#[derive(Debug)]
struct ByCode([Counter; CODES]);

impl Default for ByCode {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// More than the highest error code of the contract.
const CODES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_of_the_contract_is_counted() {
        let counters = Counters::default();
        let codes: Vec<_> = (0..64)
            .filter_map(|code| ErrorCode::try_from(code).ok())
            .collect();
        for code in &codes {
            counters.reject(*code);
        }
        assert_eq!(
            counters.snapshot().rejected.into_keys().collect::<Vec<_>>(),
            codes
        );
    }

    #[test]
    fn a_gauge_falls_when_its_guard_goes() {
        let counters = Counters::default();
        let held = counters.sessions_quic.hold();
        assert_eq!(counters.snapshot().sessions_quic, 1);
        drop(held);
        assert_eq!(counters.snapshot().sessions_quic, 0);
    }
}
