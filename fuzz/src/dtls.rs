//! DTLS before and after the cookie: who brings none gets a short answer and nothing else, whoever
//! brings one gets a handshake that survives what follows.

use std::sync::LazyLock;

use tombolo_relay::{Certificates, fuzzing};

/// Cuts `data` into datagrams, each behind its length in two bytes, and hands them over. Returns
/// whether there was a handshake.
pub fn play(data: &[u8]) -> bool {
    let mut datagrams = Vec::new();
    let mut rest = data;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (datagram, behind) = behind.split_at(length);
        datagrams.push(datagram);
        rest = behind;
    }
    fuzzing::dtls_datagrams(&CERTIFICATES, &datagrams)
}

/// The same, for the fuzzer.
pub fn run(data: &[u8]) {
    play(data);
}

static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["fuzz.example".to_owned()]);
    let made = made.expect("the name is valid");
    let chain = vec![made.cert.der().clone()];
    let key = rcgen::KeyPair::serialize_der(&made.signing_key);
    let key = key.try_into().expect("a key");
    Certificates::new(chain, key).expect("they go together")
});
