//! A client's connection and one to a peer, joined byte for byte. See RFC 6062 §5.4.

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    time::{Duration, sleep},
};
use tombolo_turn::server::Spliced;

use super::{
    connection::{End, Writing},
    outlet::{Measure, Outlet, Written},
};
use crate::link::{Account, FromStream, Join};

/// Passes bytes both ways until both sides have said that they are done, one has failed, or the
/// shard wants it to end. Either side is read from as fast as the other one takes it, and as the
/// allocation's bandwidth allows.
pub(super) async fn run(
    join: Join,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    writing: &Writing,
) -> End {
    let Join {
        reply,
        peer,
        cancelled,
        account,
    } = join;
    if let Err(end) = writing.write(&mut client, &reply).await {
        return end;
    }
    let passed = Passed::default();
    let (limit, meters) = (&account.limit, &*account.meters);
    let measure = |meter, written| Measure {
        limit,
        meter,
        written,
    };
    let mut client = Outlet::new(client, measure(&meters.to_client, &passed.to_client));
    let mut peer = Outlet::new(peer, measure(&meters.to_peer, &passed.to_peer));
    let copy = copy_bidirectional_with_sizes(&mut client, &mut peer, BUFFER_BYTES, BUFFER_BYTES);
    tokio::select! {
        // Whichever way it ends: it has ended.
        _ = copy => {}
        _ = cancelled => {}
        () = passed.report(&account) => {}
    }
    if passed.spliced() != Spliced::default() {
        account.shard.frame(passed.message(&account)).await;
    }
    End::Closed
}

/// What has gone and was not told to the shard.
#[derive(Default)]
struct Passed {
    to_peer: Written,
    to_client: Written,
}

impl Passed {
    /// Tells the shard every now and then, as long as there is something to tell. Does not end.
    async fn report(&self, account: &Account) {
        loop {
            tokio::select! {
                () = self.to_peer.some() => {}
                () = self.to_client.some() => {}
            }
            sleep(REPORT_PAUSE).await;
            let told = self.spliced();
            // Where the shard has too much to do it is told the next time.
            if account.shard.pass_on(self.message(account)).is_ok() {
                self.to_peer.forget(told.to_peer);
                self.to_client.forget(told.to_client);
            }
        }
    }

    fn message(&self, account: &Account) -> FromStream {
        FromStream::Spliced(account.owner, self.spliced())
    }

    fn spliced(&self) -> Spliced {
        Spliced {
            to_peer: self.to_peer.bytes(),
            to_client: self.to_client.bytes(),
        }
    }
}

/// Kept at most of what one side has sent and the other one does not take yet.
const BUFFER_BYTES: usize = 16 * 1024;
/// By how much the counters of an allocation may be late.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
