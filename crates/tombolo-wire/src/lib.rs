//! The contract between a device and a node.
//!
//! Everything that the two ends must agree on, and nothing that only one of them needs:
//!
//! * [`v1`]: the messages of `proto/tombolo/v1/session.proto`;
//! * [`frame`]: how they lie in a byte stream, a WebSocket message or a datagram;
//! * [`resend`]: what lets a session outlive its connection, with no frame lost or repeated;
//! * [`token`]: who a device is, as a JWT;
//! * [`UserId`], [`RoomId`], [`NodeId`], [`PublicKeys`], [`ServerUrl`]: what a text or a run of bytes was parsed
//!   to, once, at the edge.
//!
//! ```
//! use bytes::{Bytes, BytesMut};
//! use tombolo_wire::{frame, v1};
//!
//! let ping = v1::ClientFrame {
//!     body: Some(v1::client_frame::Body::Ping(v1::Ping { nonce: 7 })),
//!     ..Default::default()
//! };
//! let mut stream = BytesMut::new();
//! frame::write(&ping, &mut stream)?;
//!
//! let mut decoder = frame::Decoder::new();
//! let mut received = Bytes::from(stream);
//! assert_eq!(decoder.decode::<v1::ClientFrame>(&mut received)?, Some(ping));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No sockets, no clock and no entropy: time comes in as an argument.
#![forbid(unsafe_code)]

mod address;
pub mod frame;
mod keys;
mod name;
pub mod resend;
pub mod token;
mod url;
#[path = "generated.rs"]
pub mod v1;

pub use address::AddressError;
pub use keys::{KeysError, PublicKeys};
pub use name::{
    COMMAND_BYTES_MAX, CommandName, FIELD_BYTES_MAX, FieldId, GROUP_BYTES_MAX, GroupName,
    NODE_BYTES_MAX, NameError, NodeId, ROOM_BYTES_MAX, RoomId, TAG_BYTES_MAX, TagName,
    USER_BYTES_MAX, UserId,
};
pub use token::TAGS_MAX;
pub use url::{CertificatePin, PORT_DEFAULT, ServerUrl, UrlError};

/// The contract version that this crate speaks; carried in `Hello`.
pub const VERSION: u32 = 1;

/// Largest payload of a reliable message through the node, in bytes.
pub const RELIABLE_BYTES_MAX: usize = 64 * 1024;

/// Largest payload of an unreliable message through the node, in bytes.
pub const UNRELIABLE_BYTES_MAX: usize = 1100;

/// Application protocol (ALPN) of a device's QUIC connection.
pub const ALPN: &[u8] = b"tombolo/1";

/// Path of a device's WebSocket.
pub const WEBSOCKET_PATH: &str = "/v1/session";

/// Most names in the `to` of one message.
pub const RECIPIENTS_MAX: usize = 256;

/// Most candidates in one introduction.
pub const CANDIDATES_MAX: usize = 32;

/// Most entities that a device says to know when it enters a field, and that it is told of. Nodes of the release before
/// take 4,096.
pub const FIELD_KNOWN_MAX: usize = 8000;

/// What a device says of each of them: its number, and that of its report.
pub const FIELD_KNOWN_BYTES: usize = 8 + 4;

/// Largest sealed first messages in one introduction, in bytes.
pub const EARLY_BYTES_MAX: usize = 32 * 1024;

// A frame carries a whole payload with all its recipients.
const _: () = assert!(
    RELIABLE_BYTES_MAX + RECIPIENTS_MAX * (USER_BYTES_MAX + 4) + 1024 <= frame::FRAME_BYTES_MAX
);
// One says all that a device knows of a field.
const _: () = assert!(FIELD_KNOWN_MAX * FIELD_KNOWN_BYTES + 1024 <= frame::FRAME_BYTES_MAX);
const _: () =
    assert!(UNRELIABLE_BYTES_MAX + USER_BYTES_MAX + ROOM_BYTES_MAX <= frame::DATAGRAM_BYTES_MAX);
