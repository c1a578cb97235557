//! STUN and TURN on the wire: a zero-copy codec without state, sockets or clocks.
//!
//! It covers STUN (RFC 8489), TURN (RFC 8656) with its ChannelData framing, and the attributes of
//! ICE (RFC 8445), NAT behaviour discovery (RFC 5780), TCP allocations (RFC 6062) and mobility
//! (RFC 8016).
//!
//! Reading borrows: [`Message::decode`] checks the structure once, then attributes are views into
//! the datagram. Writing appends to the caller's `Vec`, so a reused buffer makes it free of
//! allocation.
//!
//! ```
//! use tombolo_stun::{Class, Key, Message, MessageWriter, Method, Software, TransactionId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = Key::short_term("a long shared password");
//! let mut bytes = Vec::new();
//! MessageWriter::new(&mut bytes, Class::Request, Method::BINDING, TransactionId([7; 12]))
//!     .attribute(&Software::new("tombolo")?)
//!     .integrity(&key)
//!     .fingerprint();
//!
//! let message = Message::decode(&bytes)?;
//! message.check_fingerprint()?;
//! message.check_integrity(&key)?;
//! assert_eq!(message.attribute::<Software<'_>>()?.map(|s| s.as_str()), Some("tombolo"));
//! # Ok(())
//! # }
//! ```
//!
//! Left out on purpose: the classic STUN of RFC 3489 (no magic cookie), and the preparation of
//! passwords by the OpaqueString profile (RFC 8265), which callers apply before they make a [`Key`].
#![forbid(unsafe_code)]

mod attribute;
mod channel;
mod integrity;
mod kind;
mod message;
pub mod stream;
mod writer;

pub use attribute::address::{
    AlternateServer, MappedAddress, OtherAddress, ResponseOrigin, XorMappedAddress, XorPeerAddress,
    XorRelayedAddress,
};
pub use attribute::behavior::{CacheTimeout, ChangeRequest, Padding, ResponsePort};
pub use attribute::credential::{
    Nonce, NonceCookie, PasswordAlgorithm, PasswordAlgorithms, Realm, UserHash, Username,
};
pub use attribute::error_code::{AddressErrorCode, ErrorCode, UnknownAttributes};
pub use attribute::ice::{IceControlled, IceControlling, Priority, UseCandidate};
pub use attribute::measure::TransactionTransmitCounter;
pub use attribute::text::{AlternateDomain, Origin, Software};
pub use attribute::third_party::{AccessToken, ThirdPartyAuthorization};
pub use attribute::turn::{
    AdditionalAddressFamily, AddressFamily, ConnectionId, Data, DontFragment, EvenPort, Icmp,
    Lifetime, MobilityTicket, RequestedAddressFamily, RequestedTransport, ReservationToken,
};
pub use attribute::{Attribute, AttributeError, AttributeType, RawAttribute, WriteAttribute};
pub use channel::{CHANNEL_HEADER_BYTES, ChannelData, ChannelDataError, ChannelNumber};
pub use integrity::{FingerprintError, IntegrityError, Key};
pub use kind::Kind;
pub use message::{
    Attributes, Class, DecodeError, HEADER_BYTES, MAGIC_COOKIE, Message, Method, TransactionId,
};
pub use writer::MessageWriter;
