use std::time::Duration;

use aes_gcm_siv::aead::Aead;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::auth::User;
use super::stray::ShardIndex;

/// Makes and opens mobility tickets without remembering any. See RFC 8016 §3.1.2.
///
/// They are sealed under a key that is derived from the fleet's, so every node of it can open each
/// one. A cipher that needs no nonce keeps them at 32 bytes, and a pinch of salt keeps zero bytes
/// out: coturn's client has room for no more, and takes a ticket for a C string.
pub(super) struct Tickets {
    cipher: Box<Aes256GcmSiv>,
}

/// What a ticket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// The node in this life of it.
    pub(super) node: [u8; 4],
    pub(super) shard: ShardIndex,
    /// Names the allocation in its shard.
    pub(super) serial: u32,
    /// Counts the moves of the allocation.
    pub(super) generation: u16,
    pub(super) expiry: Quarters,
    /// Trace of the user, for a node that does not have the allocation.
    pub(super) user: [u8; 2],
}

/// A Unix time in quarters of an hour, of which the low 16 bits are kept: they tell before from
/// after within 341 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quarters(u16);

impl Tickets {
    pub(super) fn new(fleet_key: [u8; 32]) -> Self {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&fleet_key).expect("HMAC takes keys of any length");
        mac.update(b"turn mobility ticket");
        Self {
            cipher: Box::new(Aes256GcmSiv::new(&mac.finalize().into_bytes())),
        }
    }

    pub(super) fn seal(&self, ticket: Ticket) -> Vec<u8> {
        let mut sealed = Vec::new();
        for salt in 0..=u8::MAX {
            sealed = self.seal_with(ticket, salt);
            if !sealed.contains(&0) {
                break;
            }
        }
        sealed
    }

    fn seal_with(&self, ticket: Ticket, salt: u8) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        body.extend_from_slice(&ticket.node);
        body.push(ticket.shard.0);
        body.extend_from_slice(&ticket.serial.to_be_bytes());
        body.extend_from_slice(&ticket.generation.to_be_bytes());
        body.extend_from_slice(&ticket.expiry.0.to_be_bytes());
        body.extend_from_slice(&ticket.user);
        body.push(salt);
        let sealed = self.cipher.encrypt(&Nonce::default(), &body[..]);
        sealed.expect("AES-GCM-SIV seals messages of this length")
    }

    /// Opens a ticket of any node of the fleet; `None` for what is none, or has expired.
    pub(super) fn open(&self, bytes: &[u8], unix_now: Duration) -> Option<Ticket> {
        if bytes.len() != TICKET_BYTES {
            return None;
        }
        let body = self.cipher.decrypt(&Nonce::default(), bytes).ok()?;
        let (node, rest) = body.split_first_chunk()?;
        let (shard, rest) = rest.split_first()?;
        let (serial, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (expiry, rest) = rest.split_first_chunk()?;
        let (user, _salt) = rest.split_first_chunk()?;
        let expiry = Quarters(u16::from_be_bytes(*expiry));
        expiry.is_ahead_of(unix_now).then_some(Ticket {
            node: *node,
            shard: ShardIndex(*shard),
            serial: u32::from_be_bytes(*serial),
            generation: u16::from_be_bytes(*generation),
            expiry,
            user: *user,
        })
    }
}

impl Quarters {
    /// Returns the end of a ticket that is made now.
    pub(super) fn after(unix_now: Duration) -> Self {
        let end = unix_now + TICKET_LIFETIME;
        Self::of(end + QUARTER - Duration::from_secs(1))
    }

    fn of(unix: Duration) -> Self {
        Self((unix.as_secs() / QUARTER.as_secs() % (1 << 16)) as u16)
    }

    fn is_ahead_of(self, unix_now: Duration) -> bool {
        let left = u64::from(self.0.wrapping_sub(Self::of(unix_now).0));
        (1..=TICKET_LIFETIME.as_secs() / QUARTER.as_secs() + 1).contains(&left)
    }
}

/// Returns what tells most users apart without naming them.
pub(super) fn trace_of(user: &User) -> [u8; 2] {
    let digest = Sha256::digest(user.name().as_bytes());
    let mut trace = [0; 2];
    trace
        .iter_mut()
        .zip(digest)
        .for_each(|(to, from)| *to = from);
    trace
}

/// Every Refresh brings a new ticket, so this is long for an allocation that lives.
const TICKET_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const QUARTER: Duration = Duration::from_secs(900);
const BODY_BYTES: usize = 4 + 1 + 4 + 2 + 2 + 2 + 1;
const TICKET_BYTES: usize = BODY_BYTES + 16;
const _: () = assert!(TICKET_BYTES == 32, "clients have room for no more");

#[cfg(test)]
mod tests {
    use super::super::auth::RealmId;
    use super::*;

    #[test]
    fn a_ticket_opens_on_every_node_of_the_fleet_and_on_no_other() {
        let sealed = Tickets::new([7; 32]).seal(ticket());
        assert_eq!(Tickets::new([7; 32]).open(&sealed, NOW), Some(ticket()));
        assert_eq!(Tickets::new([8; 32]).open(&sealed, NOW), None);
    }

    #[test]
    fn tickets_that_say_different_things_have_nothing_in_common() {
        let tickets = Tickets::new([7; 32]);
        let next = Ticket {
            generation: 3,
            ..ticket()
        };
        let (one, other) = (tickets.seal(ticket()), tickets.seal(next));
        let same = one.iter().zip(other).filter(|(a, b)| **a == *b).count();
        assert!(same < TICKET_BYTES / 2, "{same} bytes are the same");
    }

    #[test]
    fn no_ticket_has_a_zero_byte() {
        let tickets = Tickets::new([7; 32]);
        for serial in 0..1000 {
            let sealed = tickets.seal(Ticket { serial, ..ticket() });
            assert!(!sealed.contains(&0), "{sealed:?}");
            let opened = tickets.open(&sealed, NOW).expect("is one");
            assert_eq!(opened.serial, serial);
        }
    }

    #[test]
    fn every_changed_bit_and_every_truncation_makes_a_ticket_invalid() {
        let tickets = Tickets::new([7; 32]);
        let sealed = tickets.seal(ticket());
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(tickets.open(&changed, NOW), None, "bit {bit}");
        }
        for end in 0..sealed.len() {
            assert_eq!(tickets.open(&sealed[..end], NOW), None);
        }
    }

    #[test]
    fn a_ticket_is_good_for_a_day_and_a_quarter_of_an_hour_at_most() {
        let tickets = Tickets::new([7; 32]);
        let sealed = tickets.seal(ticket());
        let after = |secs| {
            tickets
                .open(&sealed, NOW + Duration::from_secs(secs))
                .is_some()
        };
        assert!(after(24 * 3600 - 1));
        assert!(!after(24 * 3600 + 900));
        let before = NOW
            .checked_sub(Duration::from_secs(3600))
            .expect("is later");
        assert_eq!(tickets.open(&sealed, before), None, "made in the future");
    }

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn ticket() -> Ticket {
        Ticket {
            node: [1, 2, 3, 4],
            shard: ShardIndex(5),
            serial: 6,
            generation: 2,
            expiry: Quarters::after(NOW),
            user: trace_of(&User::time_limited(RealmId::default(), "alice")),
        }
    }
}
