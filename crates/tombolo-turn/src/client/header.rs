use std::{fmt, net::SocketAddr, ops::Deref};

use tombolo_stun::{ChannelNumber, TransactionId};

/// The bytes that go in front of a payload on its way to the server. No allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    len: u8,
    padding: u8,
}

impl Header {
    /// How many zero bytes go behind the payload, 0 to 3.
    #[must_use]
    pub fn padding(&self) -> usize {
        usize::from(self.padding)
    }

    /// The header of ChannelData, padded in streams only. See RFC 8656 §12.4 and §12.5.
    pub(super) fn channel(number: ChannelNumber, payload: usize, is_stream: bool) -> Option<Self> {
        let mut header = Self::empty();
        header.put(&number.header(payload)?);
        header.padding = if is_stream { padding_of(payload) } else { 0 };
        Some(header)
    }

    /// A Send indication up to the value of its DATA attribute, which comes last. See RFC 8656 §11.1.
    pub(super) fn send_indication(
        id: TransactionId,
        peer: SocketAddr,
        payload: usize,
    ) -> Option<Self> {
        let padding = padding_of(payload);
        let address_bytes = if peer.is_ipv4() { 8 } else { 20 };
        let body = 4 + address_bytes + 4 + payload + usize::from(padding);
        let body = u16::try_from(body).ok()?;
        let payload = u16::try_from(payload).ok()?;
        let mut header = Self::empty();
        header.put(&SEND_INDICATION);
        header.put(&body.to_be_bytes());
        header.put(&tombolo_stun::MAGIC_COOKIE);
        header.put(&id.0);
        header.put(&XOR_PEER_ADDRESS);
        header.put(&[0, address_bytes as u8]);
        header.put_xored(id, peer);
        header.put(&DATA);
        header.put(&payload.to_be_bytes());
        header.padding = padding;
        Some(header)
    }

    fn empty() -> Self {
        Self {
            bytes: [0; HEADER_BYTES_MAX],
            len: 0,
            padding: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    /// The value of XOR-PEER-ADDRESS. See RFC 8489 §14.2.
    fn put_xored(&mut self, id: TransactionId, peer: SocketAddr) {
        let mut mask = [0; 16];
        mask[..4].copy_from_slice(&tombolo_stun::MAGIC_COOKIE);
        mask[4..].copy_from_slice(&id.0);
        let [a, b] = peer.port().to_be_bytes();
        let port = [a ^ mask[0], b ^ mask[1]];
        match peer {
            SocketAddr::V4(peer) => {
                self.put(&[0, 1]);
                self.put(&port);
                let mut octets = peer.ip().octets();
                octets
                    .iter_mut()
                    .zip(mask)
                    .for_each(|(octet, mask)| *octet ^= mask);
                self.put(&octets);
            }
            SocketAddr::V6(peer) => {
                self.put(&[0, 2]);
                self.put(&port);
                let mut octets = peer.ip().octets();
                octets
                    .iter_mut()
                    .zip(mask)
                    .for_each(|(octet, mask)| *octet ^= mask);
                self.put(&octets);
            }
        }
    }
}

impl Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("len", &self.len)
            .field("padding", &self.padding)
            .finish()
    }
}

fn padding_of(len: usize) -> u8 {
    (len.wrapping_neg() % 4) as u8
}

/// The longest is a Send indication to an IPv6 peer.
const HEADER_BYTES_MAX: usize = 20 + 4 + 20 + 4;
/// Method Send, class indication.
const SEND_INDICATION: [u8; 2] = [0x00, 0x16];
/// Type of the attribute XOR-PEER-ADDRESS.
const XOR_PEER_ADDRESS: [u8; 2] = [0x00, 0x12];
/// Type of the attribute DATA.
const DATA: [u8; 2] = [0x00, 0x13];

#[cfg(test)]
mod tests {
    use tombolo_stun::{Class, Data, Message, MessageWriter, Method, XorPeerAddress};

    use super::*;

    #[test]
    fn a_send_indication_is_what_the_codec_would_write() {
        let id = TransactionId([9; 12]);
        for peer in ["192.0.2.7:50000", "[2001:db8::7]:50001"] {
            let peer: SocketAddr = peer.parse().expect("a literal");
            for len in 0..9 {
                let payload = vec![0xab; len];
                let mut expected = Vec::new();
                MessageWriter::new(&mut expected, Class::Indication, Method::SEND, id)
                    .attribute(&XorPeerAddress(peer))
                    .attribute(&Data(&payload));

                let header = Header::send_indication(id, peer, len).expect("it is short");
                let mut bytes = header.to_vec();
                bytes.extend_from_slice(&payload);
                bytes.resize(bytes.len() + header.padding(), 0);

                assert_eq!(bytes, expected);
                assert!(Message::decode(&bytes).is_ok());
            }
        }
    }

    #[test]
    fn channel_data_is_padded_in_streams_only() {
        let padding = |len, is_stream| {
            Header::channel(ChannelNumber::MIN, len, is_stream)
                .expect("it is short")
                .padding()
        };
        assert_eq!([5, 6, 7, 8].map(|len| padding(len, true)), [3, 2, 1, 0]);
        assert_eq!([5, 6, 7, 8].map(|len| padding(len, false)), [0; 4]);
    }

    #[test]
    fn what_the_length_fields_cannot_say_is_refused() {
        let peer = "192.0.2.7:50000".parse().expect("a literal");
        assert_eq!(
            Header::send_indication(TransactionId([0; 12]), peer, 65_535),
            None
        );
        assert_eq!(Header::channel(ChannelNumber::MIN, 65_536, false), None);
    }
}
