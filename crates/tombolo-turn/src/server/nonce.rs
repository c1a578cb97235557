use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tombolo_stun::NonceCookie;

use super::address::{FiveTuple, canonical};

/// Makes and checks nonces without remembering any: a nonce is its expiry and a keyed hash over
/// the expiry and the client's address, 16 characters in all. See RFC 8489 §9.2.
pub(super) struct Nonces {
    key: [u8; 32],
    lifetime_secs: u64,
    /// Put in front of every nonce where the server offers password algorithms.
    cookie: Option<NonceCookie>,
}

impl Nonces {
    pub(super) fn new(key: [u8; 32], lifetime_secs: u64, cookie: Option<NonceCookie>) -> Self {
        Self {
            key,
            lifetime_secs,
            cookie,
        }
    }

    /// Makes the nonce for a client, valid from `unix_now` for the configured time.
    pub(super) fn make(&self, from: FiveTuple, unix_now: u64) -> String {
        let expiry = wrap(unix_now + self.lifetime_secs);
        let mut nonce = String::with_capacity(NonceCookie::BYTES + TEXT_BYTES);
        if let Some(cookie) = self.cookie {
            nonce.extend(cookie.to_ascii().map(char::from));
        }
        URL_SAFE_NO_PAD.encode_string(self.seal(from, expiry), &mut nonce);
        nonce
    }

    /// Tells whether a nonce was made for this client and is still valid.
    pub(super) fn is_valid(&self, nonce: &str, from: FiveTuple, unix_now: u64) -> bool {
        let sealed = match self.cookie {
            Some(cookie) => nonce.as_bytes().strip_prefix(&cookie.to_ascii()),
            None => Some(nonce.as_bytes()),
        };
        let mut decoded = [0; SEALED_BYTES];
        let Some(sealed) = sealed.filter(|sealed| sealed.len() == TEXT_BYTES) else {
            return false;
        };
        if URL_SAFE_NO_PAD.decode_slice(sealed, &mut decoded).is_err() {
            return false;
        }
        let [a, b, c, d, tag @ ..] = decoded;
        let expiry = u32::from_be_bytes([a, b, c, d]);
        // The clock wraps every 136 years; a difference tells before from after.
        let left = expiry.wrapping_sub(wrap(unix_now));
        let is_fresh = u64::from(left) <= self.lifetime_secs;
        let mac = self.mac(from, expiry);
        mac.verify_truncated_left(&tag).is_ok() && is_fresh
    }

    fn seal(&self, from: FiveTuple, expiry: u32) -> [u8; SEALED_BYTES] {
        let mac = self.mac(from, expiry).finalize().into_bytes();
        let mut sealed = [0; SEALED_BYTES];
        let bytes = expiry.to_be_bytes().into_iter().chain(mac);
        sealed
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = from);
        sealed
    }

    fn mac(&self, from: FiveTuple, expiry: u32) -> Hmac<Sha256> {
        let client: SocketAddr = canonical(from.client);
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(b"turn nonce");
        mac.update(&expiry.to_be_bytes());
        mac.update(&[from.transport as u8, u8::from(client.is_ipv6())]);
        match client.ip() {
            std::net::IpAddr::V4(ip) => mac.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        mac.update(&client.port().to_be_bytes());
        mac
    }
}

/// Cuts Unix seconds to 32 bits.
fn wrap(secs: u64) -> u32 {
    (secs & u64::from(u32::MAX)) as u32
}

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
    fn a_nonce_is_valid_until_its_time_is_over() {
        let nonces = Nonces::new([7; 32], 60, None);
        let nonce = nonces.make(client(1), 1000);
        assert_eq!(nonce.len(), TEXT_BYTES);
        assert!(nonces.is_valid(&nonce, client(1), 1000));
        assert!(nonces.is_valid(&nonce, client(1), 1060));
        assert!(!nonces.is_valid(&nonce, client(1), 1061));
        assert!(
            !nonces.is_valid(&nonce, client(1), 999),
            "made in the future"
        );
    }

    #[test]
    fn a_nonce_is_bound_to_the_clients_address() {
        let nonces = Nonces::new([7; 32], 60, None);
        let nonce = nonces.make(client(1), 1000);
        assert!(!nonces.is_valid(&nonce, client(2), 1000));
        let tcp = FiveTuple {
            transport: Transport::Tcp,
            ..client(1)
        };
        assert!(!nonces.is_valid(&nonce, tcp, 1000));
    }

    #[test]
    fn nodes_with_one_key_accept_each_others_nonces_and_others_do_not() {
        let nonce = Nonces::new([7; 32], 60, None).make(client(1), 1000);
        assert!(Nonces::new([7; 32], 60, None).is_valid(&nonce, client(1), 1000));
        assert!(!Nonces::new([8; 32], 60, None).is_valid(&nonce, client(1), 1000));
    }

    #[test]
    fn every_changed_character_makes_a_nonce_invalid() {
        let nonces = Nonces::new([7; 32], 60, Some(NonceCookie::default()));
        let nonce = nonces.make(client(1), 1000);
        assert!(nonces.is_valid(&nonce, client(1), 1000));
        for index in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("is ASCII");
            assert!(!nonces.is_valid(&changed, client(1), 1000), "{changed}");
            assert!(!nonces.is_valid(&nonce[..index], client(1), 1000));
        }
    }

    fn client(port: u16) -> FiveTuple {
        FiveTuple {
            transport: Transport::Udp,
            client: ([192, 0, 2, 1], port).into(),
            server: ([192, 0, 2, 2], 3478).into(),
        }
    }
}
