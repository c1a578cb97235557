//! Counters of an agent.

/// What happened so far; each field only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Checks sent.
    pub checks_sent: u64,
    /// Checks of ours that were answered with success, once each.
    pub checks_answered: u64,
    /// Authenticated checks received.
    pub checks_received: u64,
    /// Success answers sent.
    pub answers_sent: u64,
    /// Error answers sent: 400, 401, 420 and 487.
    pub errors_sent: u64,
    /// Error answers received for checks of ours.
    pub errors_received: u64,
    /// Role conflicts repaired, on either side.
    pub role_conflicts: u64,
    /// Datagrams that are not a well-formed STUN Binding message with a right fingerprint.
    pub malformed: u64,
    /// Checks for a username that is not of a known peer.
    pub unknown_username: u64,
    /// Checks and answers whose MESSAGE-INTEGRITY is missing or wrong.
    pub unauthenticated: u64,
    /// Answers to no check that is under way: late, repeated or forged.
    pub unknown_transaction: u64,
    /// Authenticated answers from another address than the check went to (RFC 8445 §7.2.5.2.1).
    pub asymmetric: u64,
    /// Checks ignored because the policy is relay only.
    pub refused_by_policy: u64,
    /// Error answers withheld because there were too many of late.
    pub errors_withheld: u64,
    /// Candidates refused: not unicast, loopback, or one too many.
    pub candidates_refused: u64,
    /// Peer-reflexive candidates dropped for lack of room.
    pub prflx_dropped: u64,
    /// Datagrams dropped because the driver did not poll.
    pub transmits_dropped: u64,
    /// Events dropped because the driver did not poll.
    pub events_dropped: u64,
    /// Routes lost to silence.
    pub suspicions: u64,
    /// Routes lost because consent expired.
    pub consents_expired: u64,
}
