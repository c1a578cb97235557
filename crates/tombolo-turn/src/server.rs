//! The TURN server: one shard's allocations, permissions and channels.
