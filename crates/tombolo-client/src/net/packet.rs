//! What packets of QUIC say openly: their form, and connection ids.

/// Connection ids of this device's own choice.
const ID_BYTES: usize = 8;
/// The id that the first packet of a link is for, which both ends know from their introductions.
const FIRST_ID_BYTES: usize = 16;
const _: () = assert!(
    FIRST_ID_BYTES != ID_BYTES,
    "one tells first packets from later ones"
);
/// And of any (RFC 9000, section 17.2).
const ID_BYTES_MAX: usize = 20;

/// Whether a packet is one of a handshake, by its form (RFC 8999, section 5.1).
pub(super) fn is_long(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first & 0x80 != 0)
}

/// For which connection id a packet is.
pub(super) fn destination(packet: &[u8]) -> Option<&[u8]> {
    if !is_long(packet) {
        return packet.get(1..=ID_BYTES);
    }
    let (length, rest) = packet.get(5..)?.split_first()?;
    rest.get(..usize::from(*length).min(ID_BYTES_MAX))
}

/// For which id a packet is that begins a link: only its own two ends know that.
pub(super) fn first(packet: &[u8]) -> Option<&[u8]> {
    destination(packet).filter(|id| is_long(packet) && id.len() == FIRST_ID_BYTES)
}

/// The connection id by which the sender of a handshake's packet is answered.
pub(super) fn source(packet: &[u8]) -> Option<&[u8]> {
    let rest = packet.get(6 + destination(packet)?.len()..)?;
    let (length, rest) = rest.split_first()?;
    rest.get(..usize::from(*length).min(ID_BYTES_MAX))
}
