use crate::integrity::{fingerprint_of, hmac_sha1, hmac_sha256, signed_header};
use crate::{
    AttributeType, Class, HEADER_BYTES, Key, MAGIC_COOKIE, Method, TransactionId, WriteAttribute,
};

/// Appends one STUN message to a buffer; the message is well formed after every call.
///
/// The order is that of RFC 8489: attributes, then [`integrity`](Self::integrity), then
/// [`integrity_sha256`](Self::integrity_sha256), then [`fingerprint`](Self::fingerprint).
/// Nothing is allocated beyond what the buffer needs to grow.
#[derive(Debug)]
pub struct MessageWriter<'b> {
    buffer: &'b mut Vec<u8>,
    /// Where the message begins in `buffer`.
    start: usize,
    transaction: TransactionId,
    stage: Stage,
}

impl<'b> MessageWriter<'b> {
    /// Appends the header of a message to `buffer`.
    pub fn new(
        buffer: &'b mut Vec<u8>,
        class: Class,
        method: Method,
        transaction: TransactionId,
    ) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&method.with_class(class));
        buffer.extend_from_slice(&[0, 0]);
        buffer.extend_from_slice(&MAGIC_COOKIE);
        buffer.extend_from_slice(&transaction.0);
        Self {
            buffer,
            start,
            transaction,
            stage: Stage::Attributes,
        }
    }

    /// Appends an attribute and its zero padding.
    ///
    /// # Panics
    /// After integrity or fingerprint, where a reader would ignore it, and where the message
    /// would become longer than its header can say (65,532 bytes of attributes).
    pub fn attribute(&mut self, attribute: &impl WriteAttribute) -> &mut Self {
        assert!(
            self.stage == Stage::Attributes,
            "attributes go before integrity and fingerprint"
        );
        let transaction = self.transaction;
        self.append(attribute.attribute_type(), |buffer| {
            attribute.write_value(transaction, buffer);
        });
        self
    }

    /// Appends attributes that are encoded already, with their headers and padding.
    ///
    /// # Panics
    /// Where they do not end at a multiple of four bytes, and where [`attribute`](Self::attribute)
    /// would panic.
    pub fn encoded(&mut self, attributes: &[u8]) -> &mut Self {
        assert!(
            self.stage == Stage::Attributes && attributes.len().is_multiple_of(4),
            "whole attributes go before integrity and fingerprint"
        );
        self.buffer.extend_from_slice(attributes);
        self.set_length(0);
        self
    }

    /// Appends MESSAGE-INTEGRITY. See RFC 8489 §14.5.
    ///
    /// # Panics
    /// After another integrity or fingerprint.
    pub fn integrity(&mut self, key: &Key) -> &mut Self {
        assert!(
            self.stage < Stage::Integrity,
            "MESSAGE-INTEGRITY comes once, before SHA-256"
        );
        let (header, body) = signed_header(self.written(), 20);
        let value = hmac_sha1(key, &[&header, body]);
        self.append(AttributeType::MESSAGE_INTEGRITY, |buffer| {
            buffer.extend_from_slice(&value)
        });
        self.stage = Stage::Integrity;
        self
    }

    /// Appends MESSAGE-INTEGRITY-SHA256, untruncated. See RFC 8489 §14.6.
    ///
    /// # Panics
    /// After another MESSAGE-INTEGRITY-SHA256 or fingerprint.
    pub fn integrity_sha256(&mut self, key: &Key) -> &mut Self {
        self.integrity_sha256_truncated(key, 32)
    }

    /// Appends MESSAGE-INTEGRITY-SHA256 truncated to `bytes`, for usages that allow it.
    ///
    /// # Panics
    /// After another MESSAGE-INTEGRITY-SHA256 or fingerprint, and where `bytes` is not one of 16,
    /// 20, 24, 28 and 32.
    pub fn integrity_sha256_truncated(&mut self, key: &Key, bytes: usize) -> &mut Self {
        assert!(
            self.stage < Stage::IntegritySha256,
            "MESSAGE-INTEGRITY-SHA256 comes once"
        );
        assert!(
            (16..=32).contains(&bytes) && bytes.is_multiple_of(4),
            "RFC 8489 §14.6 forbids this length"
        );
        let (header, body) = signed_header(self.written(), bytes);
        let value = hmac_sha256(key, &[&header, body]);
        self.append(AttributeType::MESSAGE_INTEGRITY_SHA256, |buffer| {
            buffer.extend_from_slice(&value[..bytes]);
        });
        self.stage = Stage::IntegritySha256;
        self
    }

    /// Appends FINGERPRINT, after which nothing can follow. See RFC 8489 §14.7.
    ///
    /// # Panics
    /// After another fingerprint.
    pub fn fingerprint(&mut self) -> &mut Self {
        assert!(self.stage < Stage::Fingerprint, "FINGERPRINT comes once");
        self.set_length(FINGERPRINT_BYTES);
        let value = fingerprint_of(self.written());
        self.append(AttributeType::FINGERPRINT, |buffer| {
            buffer.extend_from_slice(&value)
        });
        self.stage = Stage::Fingerprint;
        self
    }

    /// Ends the message and returns its length in bytes.
    pub fn finish(&mut self) -> usize {
        self.buffer.len() - self.start
    }

    fn append(&mut self, kind: AttributeType, write_value: impl FnOnce(&mut Vec<u8>)) {
        self.buffer.extend_from_slice(&kind.0.to_be_bytes());
        self.buffer.extend_from_slice(&[0, 0]);
        let value_start = self.buffer.len();
        write_value(self.buffer);
        let length = self.buffer.len() - value_start;
        let length_u16 = u16::try_from(length).expect("an attribute is at most 65,535 bytes long");
        self.buffer[value_start - 2..value_start].copy_from_slice(&length_u16.to_be_bytes());
        self.buffer
            .resize(value_start + length.next_multiple_of(4), 0);
        self.set_length(0);
    }

    /// Writes the header's length as if `more` bytes followed what is written.
    fn set_length(&mut self, more: usize) {
        let length = self.buffer.len() - self.start - HEADER_BYTES + more;
        let length = u16::try_from(length).expect("attributes fit into 65,535 bytes");
        self.buffer[self.start + 2..self.start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn written(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

/// What has been written; later stages forbid what belongs to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Attributes,
    Integrity,
    IntegritySha256,
    Fingerprint,
}

/// Length of the whole FINGERPRINT attribute.
const FINGERPRINT_BYTES: usize = 8;
