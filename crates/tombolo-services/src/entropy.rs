//! Names and secrets from the operating system's entropy.

use tombolo_room::{OperationId, SessionId};
use tombolo_wire::RoomId;

/// What a device shows in order to go on with a session.
pub(crate) type ResumeToken = [u8; 32];

/// The operating system gives no entropy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoEntropy;

pub(crate) fn session_id() -> Result<SessionId, NoEntropy> {
    random().map(SessionId)
}

pub(crate) fn resume_token() -> Result<ResumeToken, NoEntropy> {
    random()
}

pub(crate) fn operation_id() -> Result<OperationId, NoEntropy> {
    random().map(OperationId)
}

/// Tells apart what has the same name.
pub(crate) fn tag() -> Result<u64, NoEntropy> {
    random().map(u64::from_be_bytes)
}

/// Makes a room's code.
pub(crate) fn code_bytes() -> Result<[u8; 8], NoEntropy> {
    random()
}

/// Any number; always the same one without entropy, so nothing may depend on it.
pub(crate) fn number() -> u64 {
    random().map_or(0, u64::from_be_bytes)
}

/// A room that nobody has named.
pub(crate) fn room_id() -> Result<RoomId, NoEntropy> {
    let number = u128::from_be_bytes(random()?);
    RoomId::parse(&format!("room-{number:032x}")).map_err(|_| NoEntropy)
}

fn random<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| NoEntropy)?;
    Ok(bytes)
}
