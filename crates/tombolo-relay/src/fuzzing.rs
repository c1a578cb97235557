//! What the fuzz targets reach and nobody else has a use for.

use crate::{Certificates, dtls};

/// Hands datagrams of one client to the exchange of cookies that comes before a DTLS handshake, and
/// after that to the handshake. Returns whether there was one.
///
/// # Panics
/// The exchange made state for a client that brought no cookie, or sent more than it got.
pub fn dtls_datagrams(certificates: &Certificates, datagrams: &[&[u8]]) -> bool {
    let certificate = certificates.dtls();
    certificate.is_some_and(|certificate| dtls::fuzzing::run(&certificate, datagrams))
}
