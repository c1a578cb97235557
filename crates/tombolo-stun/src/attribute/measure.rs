use crate::{Attribute, AttributeError, AttributeType, TransactionId, WriteAttribute};

/// TRANSACTION-TRANSMIT-COUNTER: which transmission of a transaction this is. See RFC 7982 §3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TransactionTransmitCounter {
    /// How often the request has been sent, this one included.
    pub requests: u8,
    /// How often a response has been sent, this one included; zero in a request.
    pub responses: u8,
}

impl<'a> Attribute<'a> for TransactionTransmitCounter {
    const TYPE: AttributeType = AttributeType::TRANSACTION_TRANSMIT_COUNTER;

    fn parse(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [_, _, requests, responses] = *value else {
            return Err(AttributeError::Length(Self::TYPE));
        };
        Ok(Self {
            requests,
            responses,
        })
    }
}

impl WriteAttribute for TransactionTransmitCounter {
    fn attribute_type(&self) -> AttributeType {
        <Self as Attribute<'_>>::TYPE
    }

    fn write_value(&self, _: TransactionId, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&[0, 0, self.requests, self.responses]);
    }
}
