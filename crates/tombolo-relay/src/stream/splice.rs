//! A client's connection and one to a peer, joined byte for byte. See RFC 6062 §5.4.

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

use super::connection::{End, Writing};
use crate::link::Join;

/// Passes bytes both ways until both sides have said that they are done, one has failed, or the
/// shard wants it to end. Either side is read from as fast as the other one takes it.
pub(super) async fn run(
    join: Join,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    writing: &Writing,
) -> End {
    let Join {
        reply,
        mut peer,
        cancelled,
    } = join;
    if let Err(end) = writing.write(&mut client, &reply).await {
        return end;
    }
    let copy = copy_bidirectional_with_sizes(&mut client, &mut peer, BUFFER_BYTES, BUFFER_BYTES);
    tokio::select! {
        // Whichever way it ends: it has ended.
        _ = copy => {}
        _ = cancelled => {}
    }
    End::Closed
}

/// Kept at most of what one side has sent and the other one does not take yet.
const BUFFER_BYTES: usize = 16 * 1024;
