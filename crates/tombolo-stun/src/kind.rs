use crate::{HEADER_BYTES, MAGIC_COOKIE};

/// What a datagram looks like from its first bytes, before it is decoded.
///
/// On a socket that also carries QUIC, look at the source first: ChannelData only ever comes from
/// a TURN server, and the first byte of a QUIC short header lies in the same range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first two bits are zero and the magic cookie is in its place. See RFC 8489 §5.
    Stun,
    /// The first two bits are 01. See RFC 8656 §12 and, for numbers from 0x5000 on, RFC 5766 §11.
    ChannelData,
    /// Neither of the two.
    Other,
}

impl Kind {
    /// Tells what `bytes` begin with. Says nothing about whether the rest is well formed.
    pub fn of(bytes: &[u8]) -> Self {
        match bytes {
            [0x00..=0x3f, _, _, _, a, b, c, d, ..]
                if [*a, *b, *c, *d] == MAGIC_COOKIE && bytes.len() >= HEADER_BYTES =>
            {
                Self::Stun
            }
            [0x40..=0x7f, _, _, _, ..] => Self::ChannelData,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quic_long_header_is_neither() {
        assert_eq!(Kind::of(&[0xc0, 0, 0, 1, 8, 1, 2, 3]), Kind::Other);
        assert_eq!(Kind::of(&[]), Kind::Other);
    }

    #[test]
    fn a_header_without_the_cookie_is_not_stun() {
        assert_eq!(Kind::of(&[0; 20]), Kind::Other);
    }

    #[test]
    fn channel_data_needs_its_four_bytes_of_header() {
        assert_eq!(Kind::of(&[0x40, 0, 0]), Kind::Other);
        assert_eq!(Kind::of(&[0x40, 0, 0, 0]), Kind::ChannelData);
        assert_eq!(Kind::of(&[0x7f, 0, 0, 0]), Kind::ChannelData);
        assert_eq!(Kind::of(&[0x80, 0, 0, 0]), Kind::Other);
    }
}
