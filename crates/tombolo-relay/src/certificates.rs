//! What the relay proves itself with over TLS and DTLS, replaceable while it is in use.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use dimpl::{DtlsCertificate, crypto::rust_crypto};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};
use thiserror::Error;

use crate::validity::Validity;

/// A certificate chain and its private key. Clones share what they hold, so that a reload reaches every
/// listener; connections that are open keep the certificate that they began with.
#[derive(Clone)]
pub struct Certificates {
    files: Option<Arc<(PathBuf, PathBuf)>>,
    current: Arc<RwLock<Current>>,
}

/// The certificate in the forms that its users want.
#[derive(Clone)]
struct Current {
    tls: Arc<ServerConfig>,
    /// `None` where the key is none of those that DTLS has here.
    dtls: Option<DtlsCertificate>,
    validity: Option<Validity>,
}

impl Certificates {
    /// Takes a chain, the server's own certificate first, and the key of that one.
    ///
    /// # Errors
    /// The two do not go together, or are of no use.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        Ok(Self {
            files: None,
            current: Arc::new(RwLock::new(Current::new(chain, key)?)),
        })
    }

    /// Reads a chain and a key from PEM files; [`Self::reload`] reads them again.
    ///
    /// # Errors
    /// A file cannot be read, has nothing of the kind in it, or the two do not go together.
    pub fn from_pem_files(chain: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let current = Current::read(&chain, &key)?;
        Ok(Self {
            files: Some(Arc::new((chain, key))),
            current: Arc::new(RwLock::new(current)),
        })
    }

    /// Reads the files again, if the certificate came from files. Connections that begin from now on
    /// see the new one.
    ///
    /// # Errors
    /// As [`Self::from_pem_files`]; the old certificate stays in use.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let new = Current::read(&files.0, &files.1)?;
        // Nobody panics while holding the lock, and a whole value is all that is written under it.
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Takes over the certificate of another one. Connections that begin from now on see it.
    pub fn replace(&self, with: &Self) {
        let new = with.current();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Whether clients can use DTLS, which needs a key on the curve P-256 or P-384.
    #[must_use]
    pub fn has_dtls(&self) -> bool {
        self.dtls().is_some()
    }

    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().tls)
    }

    pub(crate) fn dtls(&self) -> Option<DtlsCertificate> {
        self.current().dtls
    }

    /// `None` where it is not understood.
    pub(crate) fn validity(&self) -> Option<Validity> {
        self.current().validity
    }

    fn current(&self) -> Current {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

impl fmt::Debug for Certificates {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Current {
    fn read(chain_path: &Path, key_path: &Path) -> Result<Self, CertificateError> {
        let (chain, key) = read_certificate(chain_path, key_path)?;
        Self::new(chain, key)
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, CertificateError> {
        let validity = chain.first().and_then(Validity::of);
        let dtls = chain.first().and_then(|own| {
            let certificate = own.to_vec();
            let private_key = key.secret_der().to_vec();
            let keys = rust_crypto::default_provider().key_provider;
            keys.load_private_key(&private_key).ok()?;
            Some(DtlsCertificate {
                certificate,
                private_key,
            })
        });
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        tls.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        Ok(Self {
            tls: Arc::new(tls),
            dtls,
            validity,
        })
    }
}

/// Reads a chain of certificates, the server's own first, and the private key of that one from PEM files; whether
/// they go together is not looked at.
///
/// # Errors
/// A file cannot be read, or has nothing of the kind in it.
pub fn read_certificate(
    chain_path: &Path,
    key_path: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(chain_path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(error, chain_path, CertificateError::ChainUnreadable))?;
    if chain.is_empty() {
        return Err(CertificateError::ChainUnreadable(chain_path.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| {
        let nothing = if is_encrypted(key_path) {
            CertificateError::KeyEncrypted
        } else {
            CertificateError::KeyUnreadable
        };
        unreadable(error, key_path, nothing)
    })?;
    Ok((chain, key))
}

/// Whether there is an encrypted private key in a file, by either kind of PEM.
fn is_encrypted(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| {
        ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"]
            .iter()
            .any(|mark| text.contains(mark))
    })
}

/// Why a file is of no use: the system does not give it, or there is nothing fitting in it.
fn unreadable(
    error: pem::Error,
    path: &Path,
    nothing: impl FnOnce(PathBuf) -> CertificateError,
) -> CertificateError {
    let path = path.to_owned();
    if let pem::Error::Io(source) = error {
        let reason = source.to_string();
        CertificateError::File { path, reason }
    } else {
        nothing(path)
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The system does not give the file.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// No certificate in the file.
    #[error("{}: no certificate can be read from it (PEM is expected)", .0.display())]
    ChainUnreadable(PathBuf),
    /// No private key in the file.
    #[error("{}: no private key can be read from it (PEM is expected)", .0.display())]
    KeyUnreadable(PathBuf),
    /// The private key in the file is encrypted.
    #[error("{}: the private key in it is encrypted: give one that is not", .0.display())]
    KeyEncrypted(PathBuf),
    /// The private key is another certificate's.
    #[error("the private key is not that of the certificate")]
    KeyMismatch,
    /// Certificate and key have an algorithm that nobody speaks, or are of no use for another reason.
    // Without a source, which would be told twice.
    #[error("certificate and private key are of no use together: {0}")]
    Unusable(rustls::Error),
}

impl From<rustls::Error> for CertificateError {
    fn from(error: rustls::Error) -> Self {
        if error == rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) {
            return Self::KeyMismatch;
        }
        Self::Unusable(error)
    }
}

/// See RFC 7443 §3. Clients that name no protocol are served, those that name others only are not.
const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("valid");
        let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&chain, made.cert.pem()).expect("the folder is writable");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("the folder is writable");
        (chain, key)
    }

    #[test]
    fn a_reload_takes_new_files_and_keeps_the_old_certificate_where_they_are_bad() {
        let name = format!("tombolo-certificates-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("there is room");
        let (chain, key) = write(&folder);
        let certificates =
            Certificates::from_pem_files(chain.clone(), key.clone()).expect("they are good");
        assert!(certificates.has_dtls(), "the key is on P-256");
        let first = certificates.tls();

        write(&folder);
        certificates.reload().expect("they are good");
        let second = certificates.tls();
        assert!(!Arc::ptr_eq(&first, &second));

        std::fs::write(&chain, "no certificate").expect("the folder is writable");
        assert!(matches!(
            certificates.reload(),
            Err(CertificateError::ChainUnreadable(_))
        ));
        assert!(Arc::ptr_eq(&second, &certificates.tls()));

        std::fs::remove_file(&chain).expect("it is ours");
        let missing = certificates.reload().expect_err("it is gone").to_string();
        assert!(missing.contains("No such file"), "{missing}");

        let (_, _) = write(&folder);
        let other = rcgen::KeyPair::generate().expect("there is entropy");
        std::fs::write(&key, other.serialize_pem()).expect("the folder is writable");
        assert!(matches!(
            certificates.reload(),
            Err(CertificateError::KeyMismatch)
        ));

        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH=\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n\
             MIH=\n-----END EC PRIVATE KEY-----\n",
        ] {
            std::fs::write(&key, encrypted).expect("the folder is writable");
            let error = certificates.reload().expect_err("nobody can read it");
            assert!(
                matches!(error, CertificateError::KeyEncrypted(_)),
                "{error}"
            );
        }
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }
}
