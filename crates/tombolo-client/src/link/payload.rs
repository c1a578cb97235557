//! A message as it comes in, part by part.

use bytes::Bytes;

/// What there is of it takes so much more memory, as a fraction, than it has bytes.
const SPARE: usize = 8;

/// As much of a message as has come. What was only promised takes no memory, and there is little to spare: vectors double
/// by themselves, and keep that.
#[derive(Debug, Default)]
pub(super) struct Payload(Vec<u8>);

impl Payload {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes a copy, since a small part may be of a large packet.
    pub(super) fn add(&mut self, part: &[u8]) {
        if self.0.capacity() - self.0.len() < part.len() {
            self.0.reserve_exact(part.len().max(self.0.len() / SPARE));
        }
        self.0.extend_from_slice(part);
    }

    pub(super) fn finish(mut self) -> Bytes {
        self.0.shrink_to_fit();
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_come_takes_little_more_memory_than_it_has_bytes() {
        for part in [1, 999, 70_000] {
            let mut payload = Payload::default();
            let mut growths = 0;
            while payload.len() < 257 * 1024 {
                let before = payload.0.capacity();
                payload.add(&vec![7; part]);
                let (bytes, capacity) = (payload.len(), payload.0.capacity());
                assert!(capacity <= bytes + bytes / SPARE, "{capacity} for {bytes}");
                growths += usize::from(capacity > before);
            }
            assert!(growths < 200, "{growths} growths by {part}");
            let bytes = payload.len();
            let whole = payload.finish().try_into_mut().unwrap();
            assert_eq!((whole.len(), whole.capacity()), (bytes, bytes));
        }
    }
}
