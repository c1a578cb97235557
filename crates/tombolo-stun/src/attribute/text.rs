use super::text_attribute;

text_attribute! {
    /// SOFTWARE: what the sender runs, for people. See RFC 8489 §14.14.
    Software = SOFTWARE, 509, 127, 763
}

text_attribute! {
    /// ORIGIN: the web origin for which a client asks. See draft-ietf-tram-stun-origin §2.
    Origin = ORIGIN, 267, 267, 267
}

text_attribute! {
    /// ALTERNATE-DOMAIN: the name to verify on the alternate server. See RFC 8489 §14.16.
    AlternateDomain = ALTERNATE_DOMAIN, 255, 255, 255
}
