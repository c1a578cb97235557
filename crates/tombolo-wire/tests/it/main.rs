//! What the two ends of a session rely on.
#![allow(missing_docs, clippy::unwrap_used)]

mod frame;
mod kept;
mod resend;
mod token;
