use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::auth::User;
use super::stray::ShardIndex;

/// Makes and opens mobility tickets without remembering any. See RFC 8016 §3.1.2.
///
/// A ticket is sealed under a key that belongs to one shard in one life of it and is derived from
/// the fleet's key. So a counter is nonce enough, and every node of the fleet can open each
/// other's.
pub(super) struct Tickets {
    fleet_key: Hmac<Sha256>,
    issuer: Issuer,
    cipher: Box<Aes256Gcm>,
    next_nonce: u64,
}

/// Who made a ticket; stands in clear at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Issuer {
    pub(super) node: [u8; 8],
    pub(super) shard: ShardIndex,
    /// Tells the lives of a shard apart.
    life: [u8; 7],
}

/// What a ticket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) issuer: Issuer,
    /// Names the allocation among all that the issuer ever had.
    pub(super) serial: u64,
    /// Counts the moves of the allocation.
    pub(super) generation: u32,
    /// In Unix seconds.
    pub(super) expiry: u64,
    /// Trace of the user, for a node that does not have the allocation.
    pub(super) user: [u8; USER_BYTES],
}

impl Tickets {
    /// `life` must be random.
    pub(super) fn new(
        fleet_key: [u8; 32],
        node: [u8; 8],
        shard: ShardIndex,
        life: [u8; 7],
    ) -> Self {
        let fleet_key = Hmac::<Sha256>::new_from_slice(&fleet_key);
        let fleet_key = fleet_key.expect("HMAC takes keys of any length");
        let issuer = Issuer { node, shard, life };
        Self {
            cipher: Box::new(cipher_of(&fleet_key, issuer)),
            fleet_key,
            issuer,
            next_nonce: 0,
        }
    }

    pub(super) fn issuer(&self) -> Issuer {
        self.issuer
    }

    /// Makes a ticket; each one differs from all others.
    pub(super) fn seal(
        &mut self,
        serial: u64,
        generation: u32,
        expiry: u64,
        user: &User,
    ) -> Vec<u8> {
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        let head = self.issuer.to_bytes();
        let mut body = Vec::with_capacity(BODY_BYTES);
        body.extend_from_slice(&serial.to_be_bytes());
        body.extend_from_slice(&generation.to_be_bytes());
        body.extend_from_slice(&expiry.to_be_bytes());
        body.extend_from_slice(&trace_of(user));
        let payload = Payload {
            msg: &body,
            aad: &head,
        };
        let sealed = self.cipher.encrypt(&nonce_of(nonce), payload);
        let sealed = sealed.expect("AES-GCM seals messages of this length");
        [&head[..], &nonce.to_be_bytes(), &sealed].concat()
    }

    /// Opens a ticket of any node of the fleet; `None` for what is none.
    pub(super) fn open(&self, bytes: &[u8]) -> Option<Ticket> {
        if bytes.len() != TICKET_BYTES {
            return None;
        }
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        let nonce = nonce_of(u64::from_be_bytes(*nonce));
        let issuer = Issuer::from_bytes(*head);
        let payload = Payload {
            msg: sealed,
            aad: head,
        };
        let body = if issuer == self.issuer {
            self.cipher.decrypt(&nonce, payload)
        } else {
            cipher_of(&self.fleet_key, issuer).decrypt(&nonce, payload)
        };
        let body = body.ok()?;
        let (serial, rest) = body.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (expiry, user) = rest.split_first_chunk()?;
        Some(Ticket {
            issuer,
            serial: u64::from_be_bytes(*serial),
            generation: u32::from_be_bytes(*generation),
            expiry: u64::from_be_bytes(*expiry),
            user: user.try_into().ok()?,
        })
    }
}

impl Issuer {
    fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.node);
        bytes[8] = self.shard.0;
        bytes[9..].copy_from_slice(&self.life);
        bytes
    }

    fn from_bytes(bytes: [u8; HEAD_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, shard, life @ ..] = bytes;
        Self {
            node: [a, b, c, d, e, f, g, h],
            shard: ShardIndex(shard),
            life,
        }
    }
}

fn cipher_of(fleet_key: &Hmac<Sha256>, issuer: Issuer) -> Aes256Gcm {
    let mut mac = fleet_key.clone();
    mac.update(b"turn mobility ticket");
    mac.update(&issuer.to_bytes());
    Aes256Gcm::new(&mac.finalize().into_bytes())
}

fn nonce_of(number: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce.into()
}

/// Returns what tells users apart without naming them.
pub(super) fn trace_of(user: &User) -> [u8; USER_BYTES] {
    let digest = Sha256::digest(user.name().as_bytes());
    let mut trace = [0; USER_BYTES];
    trace
        .iter_mut()
        .zip(digest)
        .for_each(|(to, from)| *to = from);
    trace
}

const HEAD_BYTES: usize = 16;
const USER_BYTES: usize = 16;
const BODY_BYTES: usize = 8 + 4 + 8 + USER_BYTES;
const TAG_BYTES: usize = 16;
/// Short enough for a request over any path. See RFC 8016 §3.1.2.
const TICKET_BYTES: usize = HEAD_BYTES + 8 + BODY_BYTES + TAG_BYTES;

#[cfg(test)]
mod tests {
    use super::super::auth::RealmId;
    use super::*;

    #[test]
    fn a_ticket_opens_on_every_node_of_the_fleet_and_on_no_other() {
        let mut issuer = tickets(7, 1);
        let sealed = issuer.seal(5, 2, 1000, &user());
        for node in [1, 2] {
            let ticket = tickets(7, node).open(&sealed).expect("is the fleet's");
            assert_eq!((ticket.serial, ticket.generation), (5, 2));
            assert_eq!(ticket.issuer.node, [1; 8]);
            assert_eq!(ticket.user, trace_of(&user()));
        }
        assert_eq!(tickets(8, 1).open(&sealed), None);
    }

    #[test]
    fn no_two_tickets_are_the_same() {
        let mut issuer = tickets(7, 1);
        assert_ne!(
            issuer.seal(5, 2, 1000, &user()),
            issuer.seal(5, 2, 1000, &user())
        );
    }

    #[test]
    fn every_changed_bit_and_every_truncation_makes_a_ticket_invalid() {
        let mut issuer = tickets(7, 1);
        let sealed = issuer.seal(5, 2, 1000, &user());
        assert_eq!(sealed.len(), TICKET_BYTES);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(issuer.open(&changed), None, "bit {bit}");
        }
        for end in 0..sealed.len() {
            assert_eq!(issuer.open(&sealed[..end]), None);
        }
    }

    #[test]
    fn a_ticket_does_not_show_its_user() {
        let sealed = tickets(7, 1).seal(5, 2, 1000, &user());
        let trace = trace_of(&user());
        assert!(!sealed.windows(USER_BYTES).any(|window| window == trace));
    }

    fn tickets(key: u8, node: u8) -> Tickets {
        Tickets::new([key; 32], [node; 8], ShardIndex(0), [9; 7])
    }

    fn user() -> User {
        User::time_limited(RealmId::default(), "alice")
    }
}
