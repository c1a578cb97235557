//! The TURN client: one allocation on one server, with its permissions and channels.
