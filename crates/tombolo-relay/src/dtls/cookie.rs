//! Cookies that bind a handshake to the client's address, without remembering anything.

use std::{cell::Cell, net::SocketAddr, sync::Arc};

use dimpl::{
    Config, CryptoError,
    crypto::{CryptoProvider, HmacProvider, rust_crypto},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Makes the key of an address's cookies.
///
/// The DTLS library computes a cookie from the client's random by its HMAC provider, under a key of
/// its own for each association. Here the provider uses the key that [`Cookies::with`] set instead. So
/// any association that is made for an address computes the same cookie, and none needs to be kept
/// until the client has shown that the address is its own.
pub(crate) struct Cookies {
    secret: [u8; 32],
}

impl Cookies {
    pub(crate) fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    /// Does something while cookies are those of a client, a time and a first hello. `period` counts
    /// up with time; a cookie is good in its own.
    pub(crate) fn with<T>(
        &self,
        client: SocketAddr,
        period: u64,
        hello: &[u8],
        act: impl FnOnce() -> T,
    ) -> T {
        KEY.set(Some(self.key(client, period, hello)));
        let result = act();
        KEY.set(None);
        result
    }

    /// Whether a cookie is the one of a client, a time and a first hello with this random: what the
    /// library would make, without the library.
    pub(crate) fn is_of(
        &self,
        client: SocketAddr,
        period: u64,
        hello: &[u8],
        random: &[u8],
        cookie: &[u8],
    ) -> bool {
        let mut mac = keyed(&self.key(client, period, hello));
        mac.update(random);
        mac.verify_slice(cookie).is_ok()
    }

    fn key(&self, client: SocketAddr, period: u64, hello: &[u8]) -> [u8; 32] {
        let mut mac = keyed(&self.secret);
        mac.update(b"dtls cookie");
        mac.update(&period.to_be_bytes());
        mac.update(&client.port().to_be_bytes());
        match client.ip() {
            std::net::IpAddr::V4(ip) => mac.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => mac.update(&ip.octets()),
        }
        mac.update(hello);
        mac.finalize().into_bytes().into()
    }
}

/// Makes what all associations share.
pub(crate) fn config() -> Result<Arc<Config>, dimpl::Error> {
    let provider = CryptoProvider {
        hmac_provider: &CookieHmac,
        ..rust_crypto::default_provider()
    };
    let config = Config::builder()
        .with_crypto_provider(provider)
        .require_client_certificate(false)
        .use_server_cookie(true)
        .build()?;
    Ok(Arc::new(config))
}

/// HMAC, but for cookies, which the library asks for by [`HmacProvider::hmac_sha256`] alone.
#[derive(Debug)]
struct CookieHmac;

impl HmacProvider for CookieHmac {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        let key = KEY.get().map_or_else(|| key.to_vec(), |key| key.to_vec());
        let mut mac = keyed(&key);
        mac.update(data);
        Ok(mac.finalize().into_bytes().into())
    }

    fn hmac(
        &self,
        hash: dimpl::HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        let real = rust_crypto::default_provider().hmac_provider;
        real.hmac(hash, key, data, out)
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length")
}

thread_local! {
    /// `None` outside of [`Cookies::with`].
    static KEY: Cell<Option<[u8; 32]>> = const { Cell::new(None) };
}
