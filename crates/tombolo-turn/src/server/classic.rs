use tombolo_stun::{ErrorCode, HEADER_BYTES};

use super::Server;
use super::address::{FiveTuple, Transport};
use super::stats::Refusal;

impl Server {
    /// Refuses what is no STUN of today. A request of classic STUN (RFC 3489) over DTLS gets an error,
    /// as RFC 8489 §11 asks for; over all else it gets nothing.
    pub(super) fn on_other(&mut self, from: FiveTuple, data: &[u8]) -> Refusal {
        if from.transport == Transport::Dtls
            && let Some(reply) = classic_error(data)
        {
            self.transmit(from, reply);
        }
        Refusal::NotStun
    }
}

/// Answers a request of classic STUN, whose transaction id has 16 bytes and whose errors look like
/// those of today. `None` for all else.
fn classic_error(data: &[u8]) -> Option<Vec<u8>> {
    let (header, body) = data.split_first_chunk::<HEADER_BYTES>()?;
    let [first, second, length @ ..] = header;
    let (length, id) = length.split_first_chunk()?;
    let is_request = first & 0b1100_0001 == 0 && second & CLASS_INDICATION == 0;
    if !is_request || body.len() != usize::from(u16::from_be_bytes(*length)) {
        return None;
    }
    let mut reply = vec![first | 1, second | CLASS_INDICATION, 0, 8];
    reply.extend_from_slice(id);
    let [hundreds, rest] = [ErrorCode::SERVER_ERROR / 100, ErrorCode::SERVER_ERROR % 100];
    reply.extend_from_slice(&[0, 9, 0, 4, 0, 0, hundreds as u8, rest as u8]);
    Some(reply)
}

/// The lower bit of the class; together with the upper one, in the first byte, it makes an error.
const CLASS_INDICATION: u8 = 0x10;
