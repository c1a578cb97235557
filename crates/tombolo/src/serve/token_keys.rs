//! Keys of device tokens, from files.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use tombolo_wire::token::{KeySet, VerifyingKey};

/// Keys that were read.
#[derive(Default)]
pub(crate) struct TokenKeys {
    set: KeySet,
    /// The first that can sign, too.
    secret: Option<(String, Vec<u8>)>,
}

impl TokenKeys {
    /// Reads a key: PEM of an Ed25519 public key, or else a secret (HS256). What looks like PEM is never
    /// taken for a secret, since public keys are known to everybody.
    pub(crate) fn read(&mut self, name: &str, path: &Path) -> anyhow::Result<()> {
        anyhow::ensure!(
            !name.is_empty(),
            "a key has a name, the `kid` of its tokens"
        );
        let cannot = || format!("{}: cannot read it", path.display());
        let bytes = fs::read(path).with_context(cannot)?;
        if is_pem(&bytes) {
            let info = SubjectPublicKeyInfoDer::from_pem_slice(&bytes).ok();
            let public = info
                .as_deref()
                .and_then(|info| info.strip_prefix(&SPKI_ED25519));
            let public: Option<[u8; 32]> = public.and_then(|public| public.try_into().ok());
            let public = public.with_context(|| {
                format!("{}: it is PEM, but no Ed25519 public key", path.display())
            })?;
            self.set.insert(name, VerifyingKey::ed25519(&public));
            return Ok(());
        }
        let secret = bytes.trim_ascii();
        let key = VerifyingKey::hs256(secret).with_context(|| path.display().to_string())?;
        self.set.insert(name, key);
        let own = || (name.to_owned(), secret.to_owned());
        self.secret.get_or_insert_with(own);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Name and secret of a key that can sign.
    pub(crate) fn secret(&self) -> Option<(&str, &[u8])> {
        let (name, secret) = self.secret.as_ref()?;
        Some((name, secret))
    }

    pub(crate) fn into_set(self) -> KeySet {
        self.set
    }
}

/// Whether it is PEM, in which no secret is taken.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().starts_with(b"-----BEGIN")
}

/// DER of a public key's information before the 32 bytes of an Ed25519 key. See RFC 8410 §4.
const SPKI_ED25519: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tombolo_wire::token::{Claims, SigningKey};

    use super::*;

    fn read(text: &str) -> anyhow::Result<TokenKeys> {
        let name = format!("tombolo-key-{}-{}", std::process::id(), text.len());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text)?;
        let mut keys = TokenKeys::default();
        let result = keys.read("k", &path).map(|()| keys);
        fs::remove_file(&path)?;
        result
    }

    fn lets_in(keys: TokenKeys, signer: &SigningKey) -> bool {
        let claims = Claims::new("alice".parse().expect("a user"), Duration::from_secs(60));
        let token = signer.mint(&claims).expect("the key signs");
        keys.into_set().verify(&token, Duration::ZERO) == Ok(claims)
    }

    #[test]
    fn a_secret_counts_without_the_end_of_its_line() {
        let secret = "0123456789abcdef0123456789abcdef";
        let keys = read(&format!("{secret}\n")).expect("long enough");
        assert_eq!(keys.secret(), Some(("k", secret.as_bytes())));
        let signer = SigningKey::hs256("k", secret.as_bytes()).expect("long enough");
        assert!(lets_in(keys, &signer));
        let complaint = format!("{:#}", read("short\n").err().expect("too short"));
        assert!(complaint.contains("32 bytes"), "{complaint}");
    }

    #[test]
    fn a_public_key_is_never_taken_for_a_secret() {
        // RFC 8410 §10.1, and the private key of §10.3.
        let pem = "-----BEGIN PUBLIC KEY-----\n\
            MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
            -----END PUBLIC KEY-----\n";
        let seed = [
            0xd4, 0xee, 0x72, 0xdb, 0xf9, 0x13, 0x58, 0x4a, 0xd5, 0xb6, 0xd8, 0xf1, 0xf7, 0x69,
            0xf8, 0xad, 0x3a, 0xfe, 0x7c, 0x28, 0xcb, 0xf1, 0xd4, 0xfb, 0xe0, 0x97, 0xa8, 0x8f,
            0x44, 0x75, 0x58, 0x42,
        ];
        let keys = read(pem).expect("it is the RFC's");
        assert_eq!(keys.secret(), None);
        assert!(lets_in(keys, &SigningKey::ed25519("k", &seed)));
        let forger = SigningKey::hs256("k", pem.trim().as_bytes()).expect("long enough");
        assert!(!lets_in(read(pem).expect("it is the RFC's"), &forger));
        let other = "-----BEGIN CERTIFICATE-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqo\n";
        assert!(read(other).is_err());
    }
}
