use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tombolo_stun::NonceCookie;

use super::address::{FiveTuple, canonical};

/// Makes and checks nonces without remembering any: a nonce is its expiry and a keyed hash over
/// the expiry, the client's address and what the server offers, 16 characters in all; with a
/// cookie in front where the server offers something. See RFC 8489 §9.2.
pub(super) struct Nonces {
    key: Hmac<Sha256>,
    lifetime: Duration,
}

impl Nonces {
    pub(super) fn new(key: [u8; 32], lifetime: Duration) -> Self {
        Self {
            key: Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length"),
            lifetime: lifetime.min(LIFETIME_MAX),
        }
    }

    /// Makes the nonce for a client, valid from `unix_now` for the configured time.
    pub(super) fn make(
        &self,
        from: FiveTuple,
        cookie: Option<NonceCookie>,
        unix_now: Duration,
    ) -> String {
        let expiry = wrap(unix_now + self.lifetime);
        let mut nonce = String::with_capacity(NonceCookie::BYTES + TEXT_BYTES);
        if let Some(cookie) = cookie {
            nonce.extend(cookie.to_ascii().map(char::from));
        }
        let head = self
            .mac(from, nonce.as_bytes(), expiry)
            .finalize()
            .into_bytes();
        let mut sealed = [0; SEALED_BYTES];
        let bytes = expiry.to_be_bytes().into_iter().chain(head);
        sealed
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        URL_SAFE_NO_PAD.encode_string(sealed, &mut nonce);
        nonce
    }

    /// Returns the age of a nonce that was made for this client and is still valid.
    pub(super) fn age_of(
        &self,
        nonce: &str,
        from: FiveTuple,
        unix_now: Duration,
    ) -> Option<Duration> {
        let (cookie, sealed) = nonce.as_bytes().split_last_chunk::<TEXT_BYTES>()?;
        if !cookie.is_empty() && cookie.len() != NonceCookie::BYTES {
            return None;
        }
        let mut decoded = [0; SEALED_BYTES];
        URL_SAFE_NO_PAD.decode_slice(sealed, &mut decoded).ok()?;
        let [a, b, c, d, tag @ ..] = decoded;
        let expiry = u32::from_be_bytes([a, b, c, d]);
        let mac = self.mac(from, cookie, expiry);
        mac.verify_truncated_left(&tag).ok()?;
        // The clock wraps every 49 days; a difference tells before from after.
        let left = Duration::from_millis(u64::from(expiry.wrapping_sub(wrap(unix_now))));
        let is_ours = left <= self.lifetime + CLOCK_SKEW;
        is_ours.then(|| self.lifetime.saturating_sub(left))
    }

    fn mac(&self, from: FiveTuple, cookie: &[u8], expiry: u32) -> Hmac<Sha256> {
        let client: SocketAddr = canonical(from.client);
        let mut mac = self.key.clone();
        mac.update(b"turn nonce");
        mac.update(&expiry.to_be_bytes());
        mac.update(&[from.transport as u8, u8::from(client.is_ipv6())]);
        match client.ip() {
            IpAddr::V4(ip) => mac.update(&ip.octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        mac.update(&client.port().to_be_bytes());
        mac.update(cookie);
        mac
    }
}

/// Cuts Unix milliseconds to 32 bits.
fn wrap(unix: Duration) -> u32 {
    (unix.as_millis() & u128::from(u32::MAX)) as u32
}

/// How far the clock of another node of the fleet may be ahead.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// Far less than the time after which the clock in a nonce wraps.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Expiry and hash.
const SEALED_BYTES: usize = 12;
/// The same in Base64.
const TEXT_BYTES: usize = 16;
const _: () = assert!(SEALED_BYTES / 3 * 4 == TEXT_BYTES);

#[cfg(test)]
mod tests {
    use super::super::address::Transport;
    use super::*;

    #[test]
    fn a_nonce_is_valid_until_its_time_is_over_and_tells_its_age() {
        let nonces = nonces(7);
        let nonce = nonces.make(client(1), None, millis(1000));
        assert_eq!(nonce.len(), TEXT_BYTES);
        let ahead = nonces.make(client(1), None, millis(6001));
        assert_eq!(nonces.age_of(&ahead, client(1), millis(1000)), None);
        for (now, age) in [
            (1000, Some(0)),
            (1001, Some(1)),
            (61_000, Some(60_000)),
            (61_001, None),
            // Made by a node whose clock is ahead.
            (999, Some(0)),
            (0, Some(0)),
        ] {
            let known = nonces.age_of(&nonce, client(1), millis(now));
            assert_eq!(known, age.map(millis), "{now}");
        }
    }

    #[test]
    fn a_nonce_lives_on_while_its_clock_wraps() {
        let start = u64::from(u32::MAX) - 10;
        let nonce = nonces(7).make(client(1), None, millis(start));
        let age = nonces(7).age_of(&nonce, client(1), millis(start + 50_000));
        assert_eq!(age, Some(millis(50_000)));
        let age = nonces(7).age_of(&nonce, client(1), millis(start + 60_001));
        assert_eq!(age, None);
    }

    #[test]
    fn a_nonce_is_bound_to_the_clients_address() {
        let nonce = nonces(7).make(client(1), None, millis(1000));
        let tcp = FiveTuple {
            transport: Transport::Tcp,
            ..client(1)
        };
        for other in [client(2), tcp] {
            assert_eq!(nonces(7).age_of(&nonce, other, millis(1000)), None);
        }
    }

    #[test]
    fn nodes_with_one_key_accept_each_others_nonces_and_others_do_not() {
        let nonce = nonces(7).make(client(1), None, millis(1000));
        assert!(nonces(7).age_of(&nonce, client(1), millis(1000)).is_some());
        assert!(nonces(8).age_of(&nonce, client(1), millis(1000)).is_none());
    }

    #[test]
    fn every_changed_character_makes_a_nonce_invalid_and_so_does_another_cookie() {
        let cookie = Some(NonceCookie {
            password_algorithms: true,
            username_anonymity: false,
        });
        let nonce = nonces(7).make(client(1), cookie, millis(1000));
        let is_valid = |nonce: &str| nonces(7).age_of(nonce, client(1), millis(1000)).is_some();
        assert!(is_valid(&nonce));
        for index in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("is ASCII");
            assert!(!is_valid(&changed), "{changed}");
            assert!(!is_valid(&nonce[..index]));
        }
        // Nobody can take away what the server offered, which would bid the client down.
        assert!(!is_valid(&nonce[NonceCookie::BYTES..]));
    }

    #[test]
    fn nonces_cannot_be_predicted_from_others() {
        let tag = |nonce: &str| {
            let decoded = URL_SAFE_NO_PAD.decode(nonce).expect("is Base64");
            u64::from_be_bytes(decoded[4..].try_into().expect("is the hash"))
        };
        let tags: Vec<u64> = (0..256)
            .map(|port| tag(&nonces(7).make(client(port), None, millis(1000))))
            .collect();
        // Neighbours differ in about half of their bits, in no pattern.
        let differences = tags.windows(2).map(|two| (two[0] ^ two[1]).count_ones());
        let mean = differences.clone().sum::<u32>() / 255;
        assert!((28..=36).contains(&mean), "{mean}");
        assert!(differences.min() > Some(10));
        let gaps: std::collections::BTreeSet<u64> = tags
            .windows(2)
            .map(|two| two[1].wrapping_sub(two[0]))
            .collect();
        assert_eq!(gaps.len(), 255);
    }

    fn nonces(key: u8) -> Nonces {
        Nonces::new([key; 32], Duration::from_secs(60))
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn client(port: u16) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: ([192, 0, 2, 1], port).into(),
            server: ([192, 0, 2, 2], 3478).into(),
        }
    }
}
