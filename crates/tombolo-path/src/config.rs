//! What the driver tells the agent once, and per peer.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::ChaCha12Rng};

use crate::{Candidate, NatBehaviour};

/// Names a peer; the driver chooses the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}

/// Which paths to a peer may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The relay at once, a direct path as soon as there is one.
    #[default]
    Any,
    /// The relay only: no check is sent and none is answered, so the peer learns no address.
    Relay,
    /// As `Any` for the agent, which still reports [`Route::Relay`](crate::Route::Relay) while
    /// nothing direct works; the driver then holds the application's data back.
    Direct,
}

/// Short-term credentials of one side. See RFC 8445 §5.3.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The username fragment: 4 to 253 characters.
    pub ufrag: String,
    /// The password: 22 to 256 characters.
    pub password: String,
}

impl Credentials {
    /// Makes random credentials: 48 bits of fragment, 144 bits of password.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let mut rng = ChaCha12Rng::from_seed(seed);
        Self {
            ufrag: ice_chars(&mut rng, 8),
            password: ice_chars(&mut rng, 24),
        }
    }

    /// Says whether both parts keep to the lengths and characters of RFC 8839 §5.4.
    pub(crate) fn is_valid(&self) -> bool {
        let is_ice = |text: &str| text.bytes().all(|byte| ICE_CHARS.contains(&byte));
        UFRAG_CHARS.contains(&self.ufrag.len())
            && PASSWORD_CHARS.contains(&self.password.len())
            && is_ice(&self.ufrag)
            && is_ice(&self.password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("ufrag", &self.ufrag)
            .finish_non_exhaustive()
    }
}

/// What an introduction says about one peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Our side of the introduction: checks that the peer sends us carry it. The fragment must be
    /// of our own making, and different for each peer.
    pub local: Credentials,
    /// The peer's side: the checks that we send carry it.
    pub remote: Credentials,
    /// True on one side, false on the other: best true on the one that opens the peer link's
    /// paths. Two equal roles repair themselves (RFC 8445 §7.3.1.1).
    pub controlling: bool,
    /// Which paths may be used.
    pub policy: Policy,
    /// The addresses that the peer announced; more may follow by
    /// [`Agent::add_remote_candidate`](crate::Agent::add_remote_candidate).
    pub candidates: Vec<Candidate>,
    /// How the peer's NAT behaves; `None` when it did not say. Explanations use it.
    pub remote_nat: Option<NatBehaviour>,
}

impl PeerConfig {
    /// Makes a configuration without candidates and with the policy [`Policy::Any`].
    #[must_use]
    pub fn new(local: Credentials, remote: Credentials, controlling: bool) -> Self {
        Self {
            local,
            remote,
            controlling,
            policy: Policy::Any,
            candidates: Vec::new(),
            remote_nat: None,
        }
    }
}

/// Times and limits of an agent. The defaults suit the open internet.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Time between two checks, over all peers (Ta of RFC 8445 §14.2).
    pub pacing: Duration,
    /// How many checks may leave together after a pause, so that the first ones to all of a peer's
    /// candidates leave at once.
    pub burst: u32,
    /// Time between two checks to an address that has not answered, while the introduction is
    /// younger than `eager_period`; half of it for the first few. Varied by ±10 %.
    pub eager_interval: Duration,
    /// How long after an introduction, or a loss of the route, checks are repeated eagerly.
    pub eager_period: Duration,
    /// Upper bound of the growing time between checks to an address that does not answer.
    pub retry_interval_max: Duration,
    /// After this long without any direct route, checks become patient.
    pub patient_after: Duration,
    /// Time between checks to an address that has not answered for `patient_after`.
    pub patient_interval: Duration,
    /// Time between checks of a working address that is not the route: keeps the NAT's mapping and
    /// the RTT fresh. Varied by ±20 %.
    pub standby_interval: Duration,
    /// Silence on the route, counted from the first unanswered packet, after which it is probed.
    pub silence_before_probe: Duration,
    /// Time between those probes.
    pub probe_interval: Duration,
    /// Least silence after which a route is suspected.
    pub suspicion_min: Duration,
    /// Silence of three RTTs suffices for suspicion, but no more than this is asked, unless the RTT
    /// itself is longer.
    pub suspicion_max: Duration,
    /// Mean time between two consent checks on the route. Varied by ±20 %. See RFC 7675 §5.1.
    pub consent_interval: Duration,
    /// Time without an answered check after which nothing more may be sent. See RFC 7675 §5.1.
    pub consent_timeout: Duration,
    /// A direct path replaces another only when its RTT is smaller by this much …
    pub hysteresis: Duration,
    /// … and by this part of the other's, in percent.
    pub hysteresis_percent: u32,
    /// Whether loopback candidates are checked. For laboratories: elsewhere a peer could aim checks
    /// at services of this very machine.
    pub loopback: bool,
    /// Greatest number of peers.
    pub peers_max: usize,
    /// Greatest number of addresses per peer, announced and peer-reflexive together.
    pub candidates_per_peer_max: usize,
    /// Greatest number of announced addresses per peer with the same IP. A device behind a NAT has a
    /// few; a peer that names many ports may aim checks at somebody else. See RFC 8445 §19.5.
    pub candidates_per_ip_max: usize,
    /// After so many checks to a peer of which nothing authentic has been heard, checks become
    /// patient, so that an introduction makes no amplifier. See RFC 8445 §19.5.
    pub checks_unheard_max: u32,
    /// The same for one address of a peer that has been heard, but never from there.
    pub checks_unproven_max: u32,
    /// Greatest number of datagrams, and of events, that wait to be polled.
    pub queue_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pacing: Duration::from_millis(5),
            burst: 8,
            eager_interval: Duration::from_millis(22),
            eager_period: Duration::from_millis(300),
            retry_interval_max: Duration::from_secs(1),
            patient_after: Duration::from_secs(60),
            patient_interval: Duration::from_secs(5),
            standby_interval: Duration::from_secs(5),
            silence_before_probe: Duration::from_millis(100),
            probe_interval: Duration::from_millis(50),
            suspicion_min: Duration::from_millis(300),
            suspicion_max: Duration::from_millis(500),
            consent_interval: Duration::from_secs(5),
            consent_timeout: Duration::from_secs(30),
            hysteresis: Duration::from_millis(5),
            hysteresis_percent: 20,
            loopback: false,
            peers_max: 1024,
            candidates_per_peer_max: 32,
            candidates_per_ip_max: 4,
            checks_unheard_max: 100,
            checks_unproven_max: 60,
            queue_max: 4096,
        }
    }
}

impl Config {
    /// Raises what must not be zero, so that no schedule can stand still.
    pub(crate) fn with_floors(mut self) -> Self {
        for interval in [
            &mut self.eager_interval,
            &mut self.retry_interval_max,
            &mut self.patient_interval,
            &mut self.standby_interval,
            &mut self.silence_before_probe,
            &mut self.probe_interval,
            &mut self.consent_interval,
            &mut self.consent_timeout,
        ] {
            *interval = (*interval).max(Duration::from_millis(1));
        }
        self
    }
}

/// Draws characters that RFC 8839 §5.4 allows, six bits each.
fn ice_chars(rng: &mut impl Rng, count: usize) -> String {
    (0..count)
        .map(|_| char::from(ICE_CHARS[(rng.next_u32() % 64) as usize]))
        .collect()
}

const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// RFC 8839 allows 256, but two fragments and a colon have to fit into a USERNAME of 508.
const UFRAG_CHARS: RangeInclusive<usize> = 4..=253;
const PASSWORD_CHARS: RangeInclusive<usize> = 22..=256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_credentials_are_valid_and_differ_by_seed() {
        let (a, b) = (
            Credentials::from_seed([1; 32]),
            Credentials::from_seed([2; 32]),
        );
        assert!(a.is_valid() && b.is_valid());
        assert_ne!(a, b);
        assert_eq!(a, Credentials::from_seed([1; 32]));
    }

    #[test]
    fn a_password_is_never_printed() {
        let credentials = Credentials::from_seed([1; 32]);
        assert!(!format!("{credentials:?}").contains(&credentials.password));
    }
}
