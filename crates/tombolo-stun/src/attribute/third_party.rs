use super::text_attribute;
use crate::{Attribute, AttributeError, AttributeType, TransactionId, WriteAttribute};

text_attribute! {
    /// THIRD-PARTY-AUTHORIZATION: the name of the server, for which a client has to ask an
    /// authorization server for a token. See RFC 7635 §6.1.
    ThirdPartyAuthorization = THIRD_PARTY_AUTHORIZATION, 255, 255, 255
}

/// ACCESS-TOKEN: what an authorization server gave to the client; only the server can read it.
/// See RFC 7635 §6.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AccessToken<'a>(&'a [u8]);

impl<'a> AccessToken<'a> {
    /// Longest token in bytes. The RFC names no bound.
    pub const BYTES_MAX: usize = 1024;

    /// Wraps a token.
    ///
    /// # Errors
    /// It is longer than [`Self::BYTES_MAX`].
    pub const fn new(token: &'a [u8]) -> Result<Self, AttributeError> {
        if token.len() > Self::BYTES_MAX {
            return Err(AttributeError::Length(AttributeType::ACCESS_TOKEN));
        }
        Ok(Self(token))
    }

    /// Returns the token.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Attribute<'a> for AccessToken<'a> {
    const TYPE: AttributeType = AttributeType::ACCESS_TOKEN;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        Self::new(value)
    }
}

impl WriteAttribute for AccessToken<'_> {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(self.0);
    }
}
