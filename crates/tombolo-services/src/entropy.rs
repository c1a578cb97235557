//! Names and secrets that nobody can guess.

use tombolo_room::{OperationId, SessionId};
use tombolo_wire::RoomId;

/// What a device shows in order to go on with a session.
pub(crate) type ResumeToken = [u8; 32];

/// Where a node's names and secrets come from: the operating system, but in a simulation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entropy(Source);

#[derive(Clone, Copy, Debug, Default)]
enum Source {
    #[default]
    System,
    Simulated(fn(&mut [u8])),
}

/// The operating system gives no entropy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoEntropy;

impl Entropy {
    /// Takes it from a generator whose numbers can be had again, and so be guessed: whoever does that can
    /// take over every session. Only for simulations, which are to go the same way twice.
    #[must_use]
    pub const fn simulated(fill: fn(&mut [u8])) -> Self {
        Self(Source::Simulated(fill))
    }

    pub(crate) fn session_id(self) -> Result<SessionId, NoEntropy> {
        self.random().map(SessionId)
    }

    pub(crate) fn resume_token(self) -> Result<ResumeToken, NoEntropy> {
        self.random()
    }

    pub(crate) fn operation_id(self) -> Result<OperationId, NoEntropy> {
        self.random().map(OperationId)
    }

    /// Tells apart what has the same name.
    pub(crate) fn tag(self) -> Result<u64, NoEntropy> {
        self.random().map(u64::from_be_bytes)
    }

    /// Makes a room's code.
    pub(crate) fn code_bytes(self) -> Result<[u8; 8], NoEntropy> {
        self.random()
    }

    /// Any number; always the same one without entropy, so nothing may depend on it.
    pub(crate) fn number(self) -> u64 {
        self.random().map_or(0, u64::from_be_bytes)
    }

    /// A room that nobody has named.
    pub(crate) fn room_id(self) -> Result<RoomId, NoEntropy> {
        let number = u128::from_be_bytes(self.random()?);
        RoomId::parse(&format!("room-{number:032x}")).map_err(|_| NoEntropy)
    }

    fn random<const N: usize>(self) -> Result<[u8; N], NoEntropy> {
        let mut bytes = [0; N];
        match self.0 {
            Source::System => getrandom::fill(&mut bytes).map_err(|_| NoEntropy)?,
            Source::Simulated(fill) => fill(&mut bytes),
        }
        Ok(bytes)
    }
}
