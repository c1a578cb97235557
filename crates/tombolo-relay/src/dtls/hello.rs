//! ClientHello messages, as far as a cookie exchange needs them.

use std::ops::Range;

/// A whole ClientHello in one datagram, from a client without keys: the first one of a handshake, or
/// the second one, which carries the cookie. See RFC 6347 §4.2.1 and RFC 9147 §5.1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hello<'a> {
    datagram: &'a [u8],
    /// 0 for the first one.
    message_seq: u16,
    /// The latest version that the client speaks, unless an extension says otherwise.
    legacy_version: u16,
    /// The cookie of DTLS 1.2 with its length byte.
    legacy_cookie: Range<usize>,
    /// The two bytes that hold the length of all extensions.
    extensions_len: Option<usize>,
    extensions: Extensions,
}

/// Where the extensions are that matter here, each with its type and length.
#[derive(Debug, Default, PartialEq, Eq)]
struct Extensions {
    /// The cookie of DTLS 1.3.
    cookie: Option<Range<usize>>,
    versions: Option<Range<usize>>,
    padding: Option<Range<usize>>,
}

impl<'a> Hello<'a> {
    /// Parses a datagram; `None` for whatever is not a whole ClientHello alone in its datagram.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let mut reader = Reader {
            bytes: datagram,
            at: 0,
        };
        // The record: handshake, DTLS 1.0 or 1.2 as its version says, epoch 0.
        let is_record = reader.u8()? == HANDSHAKE && reader.u8()? == 0xfe;
        let (_version, epoch) = (reader.u8()?, reader.u16()?);
        reader.skip(6)?;
        let record_len = usize::from(reader.u16()?);
        let is_alone = datagram.len() == RECORD_BYTES + record_len;
        // The handshake message, in one piece.
        let is_hello = reader.u8()? == CLIENT_HELLO;
        let len = reader.u24()?;
        let message_seq = reader.u16()?;
        let is_whole = reader.u24()? == 0 && reader.u24()? == len;
        let is_all = record_len == MESSAGE_BYTES + len;
        if !(is_record && epoch == 0 && is_alone && is_hello && is_whole && is_all) {
            return None;
        }
        // The body: version, random, session, cookie, suites, compression, extensions.
        let legacy_version = reader.u16()?;
        reader.skip(32)?;
        let session_len = usize::from(reader.u8()?);
        reader.skip(session_len)?;
        let cookie_at = reader.at;
        let cookie_len = usize::from(reader.u8()?);
        reader.skip(cookie_len)?;
        let legacy_cookie = cookie_at..reader.at;
        let suites_len = usize::from(reader.u16()?);
        reader.skip(suites_len)?;
        let compressions_len = usize::from(reader.u8()?);
        reader.skip(compressions_len)?;
        let mut hello = Self {
            datagram,
            message_seq,
            legacy_version,
            legacy_cookie,
            extensions_len: None,
            extensions: Extensions::default(),
        };
        if reader.at < datagram.len() {
            hello.extensions_len = Some(reader.at);
            hello.extensions = reader.extensions()?;
        }
        Some(hello)
    }

    /// Whether it begins a handshake.
    pub(crate) fn is_first(&self) -> bool {
        self.message_seq == 0
    }

    /// What the client has chosen at random.
    pub(crate) fn random(&self) -> Option<&'a [u8]> {
        self.datagram.get(RANDOM_AT..RANDOM_AT + 32)
    }

    /// Whether the client speaks DTLS 1.3. See RFC 9147 §5.3.
    pub(crate) fn offers_13(&self) -> bool {
        let versions = self.extensions.versions.clone();
        let versions = versions.and_then(|all| self.datagram.get(all.start + 5..all.end));
        versions.is_some_and(|list| list.as_chunks().0.contains(&VERSION_13))
    }

    /// Whether the client speaks nothing later than DTLS 1.0. Versions count downwards.
    pub(crate) fn is_outdated(&self) -> bool {
        self.extensions.versions.is_none() && self.legacy_version > VERSION_12
    }

    /// The cookie, of either version; `None` for an empty one.
    pub(crate) fn cookie(&self) -> Option<&'a [u8]> {
        let legacy = self.legacy_cookie.start + 1..self.legacy_cookie.end;
        // Type, length, and the length of the cookie itself.
        let extension = self.extensions.cookie.as_ref();
        let range = extension.map_or(legacy, |all| all.start + 6..all.end);
        self.datagram.get(range).filter(|cookie| !cookie.is_empty())
    }

    /// The first ClientHello that this second one repeats: the same without a cookie; or, since that
    /// may change too (RFC 8446 §4.1.2), with padding in place of the cookie.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = Vec<u8>> {
        let plain = self.first(0);
        let cookie = self.extensions.cookie.as_ref().map_or(0, Range::len);
        let padded = (cookie > 0 && self.extensions.padding.is_some()).then(|| self.first(cookie));
        std::iter::once(plain).chain(padded)
    }

    /// The same without a cookie, and with so many bytes more of padding.
    fn first(&self, more_padding: usize) -> Vec<u8> {
        let mut first = self.datagram.to_vec();
        let cookie = self.extensions.cookie.clone().unwrap_or(0..0);
        let padding = self.extensions.padding.clone().unwrap_or(0..0);
        if more_padding > 0 {
            put(
                &mut first,
                padding.start + 2,
                2,
                padding.len() - 4 + more_padding,
            );
            first.splice(padding.end..padding.end, vec![0; more_padding]);
        }
        // What is in front of the padding has not moved.
        let moved = if cookie.start >= padding.end {
            more_padding
        } else {
            0
        };
        first.drain(cookie.start + moved..cookie.end + moved);
        if let Some(at) = self.extensions_len {
            let len = (u16_at(&first, at) + more_padding).saturating_sub(cookie.len());
            put(&mut first, at, 2, len);
        }
        first.splice(self.legacy_cookie.clone(), [0]);
        let message = first.len() - RECORD_BYTES;
        let body = message - MESSAGE_BYTES;
        // Sequence numbers of record and message; lengths of record, message and fragment.
        for (at, bytes, value) in [
            (5, 6, 0),
            (11, 2, message),
            (14, 3, body),
            (17, 2, 0),
            (22, 3, body),
        ] {
            put(&mut first, at, bytes, value);
        }
        first
    }
}

/// Whether a datagram to a STUN port belongs to DTLS. See RFC 7983 §7.
pub(super) fn is_dtls(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| (20..64).contains(first))
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at..at + 2) {
        Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    }
}

/// Writes `value` into so many bytes.
fn put(bytes: &mut [u8], at: usize, count: usize, value: usize) {
    let value = (value as u64).to_be_bytes();
    if let Some(place) = bytes.get_mut(at..at + count) {
        place.copy_from_slice(&value[value.len() - count..]);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        let end = self.at.checked_add(count)?;
        (end <= self.bytes.len()).then(|| self.at = end)
    }

    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn u24(&mut self) -> Option<usize> {
        let (high, low) = (self.u8()?, self.u16()?);
        Some(usize::from(high) << 16 | usize::from(low))
    }

    /// Goes through all extensions, which must fill the rest exactly, and of which none comes twice.
    fn extensions(&mut self) -> Option<Extensions> {
        let len = usize::from(self.u16()?);
        if self.at + len != self.bytes.len() {
            return None;
        }
        let mut found = Extensions::default();
        while self.at < self.bytes.len() {
            let start = self.at;
            let kind = self.u16()?;
            let len = usize::from(self.u16()?);
            self.skip(len)?;
            let place = match kind {
                COOKIE => &mut found.cookie,
                VERSIONS => &mut found.versions,
                PADDING => &mut found.padding,
                _ => continue,
            };
            if place.replace(start..self.at).is_some() {
                return None;
            }
        }
        Some(found)
    }
}

const RECORD_BYTES: usize = 13;
const MESSAGE_BYTES: usize = 12;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// See RFC 8446 §4.2.
const COOKIE: u16 = 44;
const VERSIONS: u16 = 43;
/// See RFC 7685 §4.
const PADDING: u16 = 21;
const VERSION_13: [u8; 2] = [0xfe, 0xfc];
const VERSION_12: u16 = 0xfefd;
/// Behind the version.
const RANDOM_AT: usize = RECORD_BYTES + MESSAGE_BYTES + 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello with these cookies of DTLS 1.2 and 1.3.
    fn hello(seq: u8, legacy: &[u8], extension: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.push(0);
        body.push(u8::try_from(legacy.len()).expect("short"));
        body.extend(legacy);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        let mut extensions = vec![0, 43, 0, 3, 2, 0xfe, 0xfc];
        if let Some(cookie) = extension {
            let len = u8::try_from(cookie.len()).expect("short");
            extensions.extend([0, 44, 0, len + 2, 0, len]);
            extensions.extend(cookie);
        }
        extensions.extend([0, 10, 0, 2, 0, 0, 0, 21, 0, 2, 0, 0]);
        body.extend([0, u8::try_from(extensions.len()).expect("short")]);
        body.extend(extensions);
        let len = u8::try_from(body.len()).expect("short");
        let mut datagram = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, seq, 0, len + 12];
        datagram.extend([1, 0, 0, len, 0, seq, 0, 0, 0, 0, 0, len]);
        datagram.extend(body);
        datagram
    }

    #[test]
    fn the_first_hello_is_the_second_without_its_cookie() {
        let first = hello(0, &[], None);
        let parsed = Hello::parse(&first).expect("a hello");
        assert!(parsed.is_first());
        assert_eq!(parsed.cookie(), None);
        assert!(parsed.offers_13());
        assert_eq!(
            parsed.firsts().collect::<Vec<_>>(),
            std::slice::from_ref(&first)
        );
        for second in [hello(1, &[9; 32], None), hello(1, &[], Some(&[9; 32]))] {
            let parsed = Hello::parse(&second).expect("a hello");
            assert!(!parsed.is_first());
            assert_eq!(parsed.cookie(), Some(&[9; 32][..]));
            assert_eq!(parsed.firsts().next(), Some(first.clone()));
        }
    }

    #[test]
    fn a_client_without_extension_speaks_what_its_hello_is_of() {
        let mut datagram = hello(0, &[], None);
        datagram[25..27].copy_from_slice(&[0xfe, 0xff]);
        let newer = Hello::parse(&datagram).expect("a hello");
        assert!(!newer.is_outdated() && newer.offers_13());
        let versions = datagram.windows(4).position(|four| four == [0, 43, 0, 3]);
        datagram[versions.expect("it is there") + 1] = 99;
        assert!(Hello::parse(&datagram).expect("a hello").is_outdated());
        datagram[25..27].copy_from_slice(&[0xfe, 0xfd]);
        assert!(!Hello::parse(&datagram).expect("a hello").is_outdated());
    }

    #[test]
    fn a_second_hello_that_is_as_long_as_the_first_had_more_padding_there() {
        let second = hello(1, &[], Some(&[9; 32]));
        let firsts: Vec<_> = Hello::parse(&second).expect("a hello").firsts().collect();
        let [_, padded] = &firsts[..] else {
            panic!("there are two: {firsts:?}");
        };
        assert_eq!(padded.len(), second.len());
        let parsed = Hello::parse(padded).expect("its lengths are right");
        assert_eq!(
            parsed.extensions.padding,
            Some(padded.len() - 44..padded.len())
        );
        assert_eq!(parsed.cookie(), None);
    }

    #[test]
    fn no_truncation_and_no_wrong_length_is_a_hello() {
        let whole = hello(1, &[9; 32], Some(&[8; 20]));
        for len in 0..whole.len() {
            assert_eq!(Hello::parse(&whole[..len]), None, "{len} bytes");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(Hello::parse(&longer), None);
        // Every length is checked against the others; a changed one never leads past the end.
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Some(parsed) = Hello::parse(&changed) {
                    parsed.cookie();
                    assert!(parsed.firsts().all(|first| first.len() <= changed.len()));
                }
            }
        }
    }
}
