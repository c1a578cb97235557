//! Behaviour of the codec as a whole, one sentence per test.

mod hostile;
mod rfc5769;
mod round_trip;
