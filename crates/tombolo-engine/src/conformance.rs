//! What every engine does, as one suite.
