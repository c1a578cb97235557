//! Locks, and their order: sessions that are about to come, the table of rooms, one room, who watches whose presence, the table
//! of sessions, one session, one user's account, the presence of this node's users, the links to other nodes.
//!
//! Whoever holds one may take those that come after it, never those before it, and none is held over
//! an await.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks although somebody panicked while it held the lock: one bad request must not take a room or a
/// node with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
