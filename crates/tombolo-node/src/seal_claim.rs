//! Which keys seal what a node says, told to the others before it speaks: nodes that do not understand each
//! other would each take the other for dead, and serve the same devices.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tombolo_engine::{Engine, Key, SealKey, SealKeyId, Unavailable, WatchEvent};
use tombolo_wire::NodeId;

use crate::error::StartError;

/// What a node says of its keys, for as long as it runs.
#[derive(Clone)]
pub(crate) struct SealClaim {
    engine: Arc<dyn Engine>,
    key: Key,
    seals: Seals,
}

/// The keys of a node by their names, the one that seals first; none where nothing is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seals(Vec<SealKeyId>);

impl SealClaim {
    /// Says what this node's keys are, unless a node that runs has others.
    pub(crate) async fn make(
        engine: Arc<dyn Engine>,
        node: &NodeId,
        keys: &[SealKey],
    ) -> Result<Self, StartError> {
        let ids = keys.iter().map(SealKey::id).take(KEYS_MAX);
        let claim = Self {
            engine,
            key: Key::new([CLAIMS, node.as_str()]).expect("a name is short"),
            seals: Seals(ids.collect()),
        };
        claim.check().await?;
        claim.renew().await;
        // Another one may have begun at the same time.
        if let Err(error) = claim.check().await {
            claim.end().await;
            return Err(error);
        }
        Ok(claim)
    }

    /// Keeps saying so.
    pub(crate) async fn keep(self) {
        loop {
            sleep(self.engine.lease_time() / RENEWALS).await;
            self.renew().await;
        }
    }

    /// Says nothing any more, so that a node with other keys can start at once.
    pub(crate) async fn end(&self) {
        self.write(None).await;
    }

    /// Fails when a node that runs would not understand this one, or not be understood.
    async fn check(&self) -> Result<(), StartError> {
        match timeout(READ_MAX, self.others()).await {
            Ok(Ok(others)) => {
                let mut others = others.iter();
                match others.find(|(_, seals)| !self.seals.understands(seals)) {
                    Some((node, seals)) => Err(StartError::SealDiffers {
                        node: node.clone(),
                        why: self.seals.difference(seals),
                    }),
                    None => Ok(()),
                }
            }
            // Then nobody can serve; the node waits for the engine as always.
            Ok(Err(Unavailable)) | Err(_) => {
                tracing::warn!("it cannot be told whether other nodes have the same seal");
                Ok(())
            }
        }
    }

    async fn others(&self) -> Result<Vec<(String, Seals)>, Unavailable> {
        let prefix = Key::new([CLAIMS]).map_err(|_| Unavailable)?;
        let mut watch = self.engine.leases().watch(&prefix).await?;
        let mut others = Vec::new();
        while let Some(event) = watch.next().await {
            match event {
                WatchEvent::Put { key, entry } if key != self.key => {
                    let name = name_of(&key);
                    match Seals::decode(&entry.value) {
                        Some(seals) if others.len() < NODES_MAX => {
                            others.push((name, seals));
                        }
                        Some(_) => {}
                        None => {
                            tracing::warn!(node = %name, "what it says of its seal is malformed")
                        }
                    }
                }
                WatchEvent::Put { .. } => {}
                WatchEvent::Deleted { key, .. } => {
                    let gone = name_of(&key);
                    others.retain(|(name, _)| *name != gone);
                }
                WatchEvent::Reset => others.clear(),
                WatchEvent::Synced => return Ok(others),
            }
        }
        Err(Unavailable)
    }

    async fn renew(&self) {
        self.write(Some(self.seals.encode())).await;
    }

    /// What fails is tried again with the next renewal, or ends by itself.
    async fn write(&self, value: Option<Bytes>) {
        let leases = self.engine.leases();
        let written = async {
            let current = leases.get(&self.key).await.ok()?;
            let revision = current.map(|entry| entry.revision);
            leases.cas(&self.key, revision, value).await.ok()
        };
        if !matches!(timeout(READ_MAX, written).await, Ok(Some(_))) {
            tracing::debug!("what this node says of its seal was not written");
        }
    }
}

/// The node that a claim is of; keys have `=` where names have full stops.
fn name_of(claim: &Key) -> String {
    let text = claim.as_str();
    let name = text.split_once('.').map_or(text, |(_, name)| name);
    name.replace('=', ".")
}

impl Seals {
    /// Whether each opens what the other seals.
    fn understands(&self, other: &Self) -> bool {
        match (self.0.first(), other.0.first()) {
            (None, None) => true,
            (Some(own), Some(theirs)) => self.0.contains(theirs) && other.0.contains(own),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn difference(&self, other: &Self) -> &'static str {
        match (self.0.is_empty(), other.0.is_empty()) {
            (true, false) => "seals what it says, and this one has no key: give it the cluster's",
            (false, true) => {
                "does not seal what it says, and this one would: all have a key, or none"
            }
            _ => "seals what it says with another key: give this one the cluster's",
        }
    }

    fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION];
        bytes.extend(self.0.iter().flatten());
        bytes.into()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, ids) = bytes.split_first()?;
        let (ids, rest) = ids.as_chunks();
        let is_known = *version == VERSION && rest.is_empty() && ids.len() <= KEYS_MAX;
        is_known.then(|| Self(ids.to_vec()))
    }
}

/// Before the names of nodes, among the leases.
const CLAIMS: &str = "seal";
const VERSION: u8 = 1;
/// More than a change of keys needs.
const KEYS_MAX: usize = 64;
/// More than there are in any cluster.
const NODES_MAX: usize = 4096;
/// How often within a lease's time it is renewed.
const RENEWALS: u32 = 3;
/// How long the engine may take.
const READ_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn seals(ids: &[u8]) -> Seals {
        Seals(ids.iter().map(|id| [*id; 4]).collect())
    }

    #[test]
    fn nodes_understand_each_other_through_a_change_of_keys_and_with_other_keys_do_not() {
        for (one, other) in [
            (&[][..], &[][..]),
            (&[1], &[1]),
            (&[1], &[1, 2]),
            (&[1, 2], &[2, 1]),
            (&[2, 1], &[2]),
        ] {
            assert!(seals(one).understands(&seals(other)), "{one:?} {other:?}");
            assert!(seals(other).understands(&seals(one)), "{other:?} {one:?}");
        }
        for (one, other) in [(&[][..], &[1][..]), (&[1], &[2]), (&[1], &[2, 1])] {
            assert!(!seals(one).understands(&seals(other)), "{one:?} {other:?}");
            assert!(!seals(other).understands(&seals(one)), "{other:?} {one:?}");
        }
    }

    #[test]
    fn what_is_no_claim_is_refused() {
        for ids in [&[][..], &[1], &[1, 2]] {
            let seals = seals(ids);
            assert_eq!(Seals::decode(&seals.encode()), Some(seals));
        }
        for bytes in [&[][..], &[2], &[1, 0], &[1; 1 + 4 * (KEYS_MAX + 1)]] {
            assert_eq!(Seals::decode(bytes), None);
        }
    }
}
