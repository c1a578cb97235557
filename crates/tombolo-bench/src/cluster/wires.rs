//! What lies between two NATS servers, and can be cut: their connections go through here, and when cut they
//! are silent, as they are over a network that lets nothing pass.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

/// The wires of one server, to it and from it.
#[derive(Clone)]
pub(crate) struct Wires(Arc<watch::Sender<bool>>);

impl Wires {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets nothing pass any more, or all again.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.0.send_replace(is_cut);
    }
}

/// Lets others reach `to` at the port that is returned, as long as neither end's wires are cut.
pub(crate) fn lay(to: SocketAddr, ends: [&Wires; 2]) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a wire")?;
    let port = listener.local_addr().context("a wire")?.port();
    listener.set_nonblocking(true).context("a wire")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("a wire")?;
    let cuts = ends.map(|end| end.0.subscribe());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(carry(near, to, cuts.clone()));
        }
    });
    Ok(port)
}

async fn carry(near: TcpStream, to: SocketAddr, mut cuts: [watch::Receiver<bool>; 2]) {
    if !whole(&mut cuts).await {
        return;
    }
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    // Servers send at once what they have to say, and so do wires.
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let there = pass(near_in, far_out, cuts.clone());
    let back = pass(far_in, near_out, cuts);
    // When one way ends, both do.
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cuts: [watch::Receiver<bool>; 2],
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        let bytes = &buffer[..read];
        if read == 0 || !whole(&mut cuts).await || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Waits until nothing is cut; `false` when the harness has ended.
async fn whole(cuts: &mut [watch::Receiver<bool>; 2]) -> bool {
    loop {
        for cut in cuts.iter_mut() {
            if cut.wait_for(|is_cut| !is_cut).await.is_err() {
                return false;
            }
        }
        if cuts.iter().all(|cut| !*cut.borrow()) {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_cut_is_silent_and_goes_on_when_it_is_whole_again() {
        let server = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let (one, two) = (Wires::new(), Wires::new());
        let port = lay(server.local_addr().unwrap(), [&one, &two]).unwrap();
        let mut near = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        near.write_all(b"a").await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'a');

        two.cut(true);
        near.write_all(b"b").await.unwrap();
        let mut silent = std::pin::pin!(far.read_u8());
        // The other way round there and back is time enough for what is not cut.
        let other = TcpStream::connect(server.local_addr().unwrap());
        tokio::select! {
            biased;
            _ = &mut silent => panic!("something passed"),
            other = other => drop(other.unwrap()),
        }
        two.cut(false);
        assert_eq!(silent.await.unwrap(), b'b');
    }
}
