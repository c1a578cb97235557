use super::{flag_attribute, integer_attribute};

integer_attribute! {
    /// PRIORITY of the peer-reflexive candidate that a check may reveal. See RFC 8445 §7.1.1.
    Priority(u32) = PRIORITY
}

flag_attribute! {
    /// USE-CANDIDATE: the controlling agent nominates this pair. See RFC 8445 §7.1.2.
    UseCandidate = USE_CANDIDATE
}

integer_attribute! {
    /// ICE-CONTROLLED with its tie-breaker. See RFC 8445 §7.1.3.
    IceControlled(u64) = ICE_CONTROLLED
}

integer_attribute! {
    /// ICE-CONTROLLING with its tie-breaker. See RFC 8445 §7.1.3.
    IceControlling(u64) = ICE_CONTROLLING
}
