//! What the relays of a cluster share, so that what one of them has given out is good on all: credentials, for clients that
//! are sent to another one (RFC 8489 §10), and tickets with which clients come back from another address (RFC 8016).

use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::time::{sleep, timeout};
use tombolo_engine::{Engine, Key, SealKey, Unavailable};

use crate::credentials::RelaySecret;
use crate::error::StartError;

/// What the relays of a cluster share.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    /// What credentials are made with.
    pub(crate) secret: RelaySecret,
    /// What other nodes may have made credentials with, while the cluster's keys change.
    pub(crate) others: Vec<RelaySecret>,
    /// What seals nonces and tickets.
    pub(crate) key: [u8; 32],
}

/// From which all of it follows.
type Root = [u8; 32];

impl Fleet {
    /// From the keys that seal what nodes say; where nothing is sealed, from what the first node has left in the engine.
    ///
    /// # Errors
    /// The system has no entropy.
    pub(crate) async fn join(
        engine: &dyn Engine,
        seal_keys: &[SealKey],
    ) -> Result<Self, StartError> {
        let mut roots = seal_keys.iter().map(|key| key.derive(ABOUT));
        let first = match roots.next() {
            Some(first) => first,
            None => kept(engine).await?,
        };
        Ok(Self {
            secret: secret(&first),
            others: roots.map(|root| secret(&root)).collect(),
            key: derive(&first, b"nonces and tickets"),
        })
    }
}

/// What is in the engine. When that does not answer, something that only this process has: nobody can get in then anyway,
/// and a node that starts does not wait for it.
async fn kept(engine: &dyn Engine) -> Result<Root, StartError> {
    let mut own = Root::default();
    getrandom::fill(&mut own).map_err(StartError::Entropy)?;
    let kept = timeout(READ_MAX, settle(engine, own)).await;
    Ok(kept.unwrap_or_else(|_| {
        tracing::warn!(
            "the engine does not answer: until this node is started again, what its relay gives out is good on this node only"
        );
        own
    }))
}

/// What is in the engine, or else `own`, if no other node comes first.
async fn settle(engine: &dyn Engine, own: Root) -> Root {
    let key = Key::new([ABOUT]).expect("a name is short");
    loop {
        match engine.get(&key).await {
            Ok(Some(entry)) => match Root::try_from(&entry.value[..]) {
                Ok(root) => return root,
                Err(error) => tracing::warn!(%key, %error, "what the relays share is malformed"),
            },
            Ok(None) => {
                let value = Bytes::copy_from_slice(&own);
                if engine.cas(&key, None, Some(value)).await.is_ok() {
                    return own;
                }
                // Another node came first, or the engine is away.
            }
            Err(Unavailable) => {}
        }
        sleep(RETRY_DELAY).await;
    }
}

fn secret(root: &Root) -> RelaySecret {
    RelaySecret::new(&derive(root, b"credentials"))
}

fn derive(root: &Root, what: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(root).expect("HMAC takes keys of any length");
    mac.update(what);
    mac.finalize().into_bytes().into()
}

/// What it is called, in the engine and where it is derived.
const ABOUT: &str = "relay-fleet";

/// How long the engine may take.
const READ_MAX: Duration = Duration::from_secs(5);

const RETRY_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tombolo_engine::{Kv as _, Local, LocalConfig};

    use super::*;

    async fn join(engine: &Local, keys: &[u8]) -> Fleet {
        let keys = keys.iter().map(|key| SealKey::new(&[*key; 32]));
        let keys: Vec<_> = keys.collect::<Result<_, _>>().expect("keys of 32 bytes");
        Fleet::join(engine, &keys).await.expect("entropy")
    }

    #[tokio::test]
    async fn nodes_of_one_engine_share_what_those_of_another_do_not_have() {
        let engine = Arc::new(Local::new(LocalConfig::default()));
        let [one, other] = [Arc::clone(&engine), engine].map(|engine| {
            let joined = async move { join(&engine, &[]).await };
            tokio::spawn(joined)
        });
        let (one, other) = (one.await.expect("joins"), other.await.expect("joins"));
        assert_eq!(one.secret.as_str(), other.secret.as_str());
        assert_eq!(one.key, other.key);
        let stranger = join(&Local::new(LocalConfig::default()), &[]).await;
        assert_ne!(one.secret.as_str(), stranger.secret.as_str());
        assert_ne!(one.key, stranger.key);
    }

    #[tokio::test]
    async fn where_nodes_seal_what_they_say_the_engine_knows_nothing_of_it() {
        let engine = Local::new(LocalConfig::default());
        let before = join(&engine, &[1]).await;
        let changing = join(&engine, &[2, 1]).await;
        let known = |fleet: &Fleet, secret: &RelaySecret| {
            let mut secrets = std::iter::once(&fleet.secret).chain(&fleet.others);
            secrets.any(|known| known.as_str() == secret.as_str())
        };
        assert!(known(&changing, &before.secret));
        assert!(!known(&before, &changing.secret));
        let elsewhere = join(&Local::new(LocalConfig::default()), &[1]).await;
        assert_eq!(before.secret.as_str(), elsewhere.secret.as_str());
        let key = Key::new([ABOUT]).expect("a name is short");
        assert_eq!(engine.get(&key).await, Ok(None));
    }
}
