//! Whose tokens let devices in.

use tombolo_wire::token::{KeySet, SECRET_BYTES_MIN, SigningKey, VerifyingKey};

use crate::builder::NodeBuilder;
use crate::error::StartError;

/// What signs the tokens of a development node.
pub(crate) struct DevKey {
    kid: String,
    secret: Vec<u8>,
}

impl DevKey {
    /// The key that is given, or one of this process.
    ///
    /// # Errors
    /// It is too short, or the system has no entropy.
    pub(crate) fn of(config: &NodeBuilder) -> Result<Self, StartError> {
        if let Some((kid, secret)) = &config.dev_key {
            let (kid, secret) = (kid.clone(), secret.clone());
            VerifyingKey::hs256(&secret)?;
            return Ok(Self { kid, secret });
        }
        let mut secret = vec![0; SECRET_BYTES_MIN];
        getrandom::fill(&mut secret).map_err(StartError::Entropy)?;
        let mut number = [0; 16];
        getrandom::fill(&mut number).map_err(StartError::Entropy)?;
        // A name that no given key has.
        let kid = format!("dev-{:032x}", u128::from_ne_bytes(number));
        Ok(Self { kid, secret })
    }

    pub(crate) fn signing(&self) -> SigningKey {
        SigningKey::hs256(&self.kid, &self.secret).expect("the secret has the least length")
    }

    /// The keys that tokens are verified with: those given, and this one.
    pub(crate) fn join(&self, given: Option<&KeySet>) -> KeySet {
        let mut keys = given.cloned().unwrap_or_default();
        let own = VerifyingKey::hs256(&self.secret).expect("the secret has the least length");
        keys.insert(&self.kid, own);
        keys
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tombolo_wire::token::Claims;

    use super::*;

    #[test]
    fn the_key_of_a_development_node_takes_no_other_keys_place() {
        let secret = [7; SECRET_BYTES_MIN];
        let mut given = KeySet::new();
        let verifying = VerifyingKey::hs256(&secret).expect("long enough");
        given.insert("dev", verifying);
        let config = NodeBuilder::new().dev();

        let own = DevKey::of(&config).expect("entropy");
        let keys = own.join(Some(&given));
        let given = SigningKey::hs256("dev", &secret).expect("long enough");
        let user = "alice".parse().expect("a user");
        let claims = Claims::new(user, Duration::from_secs(60));
        for key in [own.signing(), given] {
            let token = key.mint(&claims).expect("the key signs");
            assert_eq!(keys.verify(&token, Duration::ZERO), Ok(claims.clone()));
        }
    }

    #[test]
    fn a_given_development_key_is_the_same_on_every_node() {
        let secret = [9; SECRET_BYTES_MIN];
        let config = NodeBuilder::new().dev().dev_key("shared", &secret);
        let one = DevKey::of(&config).expect("long enough");
        let other = DevKey::of(&config).expect("long enough").join(None);
        let claims = Claims::new("alice".parse().expect("a user"), Duration::from_secs(60));
        let token = one.signing().mint(&claims).expect("the key signs");
        assert_eq!(other.verify(&token, Duration::ZERO), Ok(claims));
        let short = NodeBuilder::new().dev().dev_key("shared", b"short");
        assert!(matches!(DevKey::of(&short), Err(StartError::DevKey(_))));
    }
}
