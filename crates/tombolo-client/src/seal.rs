//! Seals the first application messages inside an introduction, so that the node that carries
//! it cannot read them.
//!
//! One message of the Noise pattern X (sender known, receiver's key known in advance). The
//! prologue binds it to the attempt and to both link identities: it opens in no other place.

use snow::Builder;

use crate::keys::{KeyError, Keys, PublicKey};

const PATTERN: &str = "Noise_X_25519_ChaChaPoly_SHA256";
/// Bytes that sealing adds: an ephemeral key, the sealed static key, and two tags.
const OVERHEAD_BYTES: usize = 32 + 48 + 16;
/// Longest plain text; keeps an introduction well below the longest frame.
pub(crate) const PLAIN_BYTES_MAX: usize = 16 * 1024;

/// What a sealed message is bound to.
pub(crate) struct Binding {
    pub(crate) attempt: u64,
    pub(crate) sender: PublicKey,
    pub(crate) receiver: PublicKey,
}

impl Binding {
    fn prologue(&self) -> Vec<u8> {
        let mut prologue = b"tombolo first messages 1".to_vec();
        prologue.extend_from_slice(&self.attempt.to_be_bytes());
        prologue.extend_from_slice(&self.sender.0);
        prologue.extend_from_slice(&self.receiver.0);
        prologue
    }
}

/// Makes a key pair for receiving sealed messages.
pub(crate) fn generate() -> Result<snow::Keypair, KeyError> {
    Ok(builder()?.generate_keypair()?)
}

/// Seals `plain` for the owner of `receiver_seal`.
pub(crate) fn seal(
    keys: &Keys,
    receiver_seal: &[u8; 32],
    binding: &Binding,
    plain: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let prologue = binding.prologue();
    let mut state = builder()?
        .local_private_key(&keys.seal.private)?
        .remote_public_key(receiver_seal)?
        .prologue(&prologue)?
        .build_initiator()?;
    let mut sealed = vec![0; plain.len() + OVERHEAD_BYTES];
    let len = state.write_message(plain, &mut sealed)?;
    sealed.truncate(len);
    Ok(sealed)
}

/// Opens what the owner of `sender_seal` sealed for `keys`; `None` for anything else.
pub(crate) fn open(
    keys: &Keys,
    sender_seal: &[u8; 32],
    binding: &Binding,
    sealed: &[u8],
) -> Option<Vec<u8>> {
    if sealed.len() > PLAIN_BYTES_MAX + OVERHEAD_BYTES {
        return None;
    }
    let prologue = binding.prologue();
    let mut state = builder()
        .ok()?
        .local_private_key(&keys.seal.private)
        .ok()?
        .prologue(&prologue)
        .ok()?
        .build_responder()
        .ok()?;
    let mut plain = vec![0; sealed.len()];
    let len = state.read_message(sealed, &mut plain).ok()?;
    if state.get_remote_static()? != sender_seal {
        return None;
    }
    plain.truncate(len);
    Some(plain)
}

fn builder<'a>() -> Result<Builder<'a>, KeyError> {
    Ok(Builder::new(PATTERN.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal_key(keys: &Keys) -> [u8; 32] {
        keys.seal.public.as_slice().try_into().unwrap()
    }

    #[test]
    fn sealed_message_opens_only_for_its_receiver_sender_and_attempt() {
        let (alice, bob, mallory) = (
            Keys::generate().unwrap(),
            Keys::generate().unwrap(),
            Keys::generate().unwrap(),
        );
        let binding = |attempt| Binding {
            attempt,
            sender: alice.identity,
            receiver: bob.identity,
        };
        let sealed = seal(&alice, &seal_key(&bob), &binding(7), b"first").unwrap();

        let opened = open(&bob, &seal_key(&alice), &binding(7), &sealed);
        assert_eq!(opened.as_deref(), Some(b"first".as_slice()));

        assert_eq!(
            open(&bob, &seal_key(&alice), &binding(8), &sealed),
            None,
            "other attempt"
        );
        assert_eq!(
            open(&bob, &seal_key(&mallory), &binding(7), &sealed),
            None,
            "other sender"
        );
        assert_eq!(
            open(&mallory, &seal_key(&alice), &binding(7), &sealed),
            None,
            "other receiver"
        );
        for len in 0..sealed.len() {
            assert_eq!(
                open(&bob, &seal_key(&alice), &binding(7), &sealed[..len]),
                None
            );
        }
        let mut flipped = sealed.clone();
        flipped[40] ^= 1;
        assert_eq!(open(&bob, &seal_key(&alice), &binding(7), &flipped), None);
    }
}
