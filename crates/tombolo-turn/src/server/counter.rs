use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;
use tombolo_stun::{TransactionId, TransactionTransmitCounter};

use super::address::FiveTuple;

/// Counts the transmissions of requests that say which one they are. See RFC 7982.
///
/// Each transaction has a place in a table of fixed size, chosen by a keyed hash; a later one may
/// take it. Then a count starts again, which a client takes for a lost response. Whoever does not
/// count costs nothing.
pub(super) struct Counters {
    keys: [u64; 2],
    places: Box<[Place]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Hash of client and transaction, not zero; zero in an empty place.
    tag: u32,
    /// The highest count of requests that the client gave.
    sent: u8,
    /// How many of them have come.
    received: u8,
}

/// What a request tells that counts its transmissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// What its reply says.
    pub(super) reply: TransactionTransmitCounter,
    /// How many more requests the client has sent than was known, this one included.
    pub(super) newly_sent: u8,
}

impl Counters {
    /// `keys` must be random and secret.
    pub(super) fn new(keys: [u64; 2]) -> Self {
        Self {
            keys,
            places: vec![Place::default(); PLACES].into_boxed_slice(),
        }
    }

    /// Counts a request.
    pub(super) fn count(
        &mut self,
        from: FiveTuple,
        transaction: TransactionId,
        counter: TransactionTransmitCounter,
    ) -> Option<Counted> {
        let mut hasher = SipHasher13::new_with_keys(self.keys[0], self.keys[1]);
        (from, transaction).hash(&mut hasher);
        let hash = hasher.finish();
        let tag = ((hash >> 32) as u32).max(1);
        let place = self.places.get_mut(hash as usize % PLACES)?;
        if place.tag != tag {
            *place = Place {
                tag,
                ..Place::default()
            };
        }
        place.received = place.received.saturating_add(1);
        let newly_sent = counter.requests.saturating_sub(place.sent);
        place.sent = place.sent.max(counter.requests);
        let reply = TransactionTransmitCounter {
            requests: counter.requests,
            responses: place.received,
        };
        Some(Counted { reply, newly_sent })
    }
}

/// Transactions that are counted at once, more or less.
const PLACES: usize = 2048;
