//! How much a log has grown since its state was kept in place of its entries.

/// What came to a log after its last snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Growth {
    entries: usize,
    bytes: usize,
    /// Of the snapshot.
    snapshot: usize,
}

impl Growth {
    /// Since a snapshot of so many bytes.
    pub(crate) fn since(snapshot: usize) -> Self {
        Self {
            snapshot,
            ..Self::default()
        }
    }

    /// An entry came.
    pub(crate) fn add(&mut self, entry: &[u8]) {
        self.entries += 1;
        self.bytes += entry.len();
    }

    /// Whether the next snapshot is due: after so many entries, or once they take as much as the last one, which keeps
    /// the whole log within a small multiple of what it has to say.
    pub(crate) fn is_due(&self, entries_max: usize) -> bool {
        self.entries >= entries_max || self.bytes >= self.snapshot.max(BYTES_MIN)
    }
}

/// Of entries that make no snapshot worth while.
const BYTES_MIN: usize = 256 * 1024;
