//! One side of two joined connections, with the bytes that are written to it measured.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, watch},
    time::{Instant, Sleep, sleep_until},
};
use tombolo_turn::server::Bandwidth;

use super::meter::Meter;

/// A stream to which bytes are written as fast as a limit says, and counted. While it makes them wait it
/// takes no others, and so who sends them is held back.
pub(super) struct Outlet<'a, S> {
    stream: S,
    measure: Measure<'a>,
    /// Bytes that may be written at `at`.
    granted: usize,
    /// `None` if nothing waits.
    at: Option<Pin<Box<Sleep>>>,
}

/// What an outlet measures by.
pub(super) struct Measure<'a> {
    pub(super) limit: &'a watch::Receiver<Option<Bandwidth>>,
    pub(super) meter: &'a Meter,
    pub(super) written: &'a Written,
}

/// Bytes that were written.
#[derive(Default)]
pub(super) struct Written {
    bytes: Cell<u64>,
    /// Notified when there are some.
    is_some: Notify,
}

impl Written {
    /// Waits until there is something to take.
    pub(super) async fn some(&self) {
        while self.bytes.get() == 0 {
            self.is_some.notified().await;
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Forgets bytes that are counted elsewhere.
    pub(super) fn forget(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
    }

    fn add(&self, bytes: usize) {
        if self.bytes.get() == 0 {
            self.is_some.notify_one();
        }
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

impl<'a, S> Outlet<'a, S> {
    pub(super) fn new(stream: S, measure: Measure<'a>) -> Self {
        Self {
            stream,
            measure,
            granted: 0,
            at: None,
        }
    }

    /// Ready with how many of the bytes that are `wanted` may be written now: one at least.
    fn poll_granted(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<usize> {
        if self.granted == 0 {
            let Some(limit) = *self.measure.limit.borrow() else {
                return Poll::Ready(wanted);
            };
            let now = Instant::now();
            let grant = self.measure.meter.take(now.into_std(), limit, wanted);
            self.granted = grant.bytes;
            let at = Instant::from_std(grant.at);
            self.at = (at > now).then(|| Box::pin(sleep_until(at)));
        }
        if let Some(at) = &mut self.at {
            ready!(at.as_mut().poll(cx));
            self.at = None;
        }
        Poll::Ready(self.granted.min(wanted))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outlet<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if bytes.is_empty() {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
        }
        let len = ready!(this.poll_granted(cx, bytes.len()));
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &bytes[..len]))?;
        this.granted = this.granted.saturating_sub(written);
        this.measure.written.add(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outlet<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn what_a_limit_does_not_let_through_waits_and_is_not_taken() {
        let (change, limit) = watch::channel(None);
        let (meter, written) = (Meter::new(std::time::Instant::now()), Written::default());
        let mut out = Outlet::new(
            Vec::new(),
            Measure {
                limit: &limit,
                meter: &meter,
                written: &written,
            },
        );
        out.write_all(&[7; 1000]).await.expect("there is room");
        assert_eq!(written.bytes(), 1000, "nothing is limited");
        let slow = Bandwidth {
            bytes_per_second: 1,
            burst_bytes: 1,
        };
        change.send_replace(Some(slow));
        // Others have taken what an hour brings.
        for _ in 0..3600 {
            meter.take(std::time::Instant::now(), slow, 1);
        }
        assert!(poll(&mut out, b"late").await.is_pending());
        assert!(poll(&mut out, b"late").await.is_pending());
        assert_eq!((out.stream.len(), written.bytes()), (1000, 1000));
        written.forget(1000);
        assert_eq!(written.bytes(), 0);
    }

    #[tokio::test]
    async fn a_write_takes_no_more_than_was_granted() {
        let burst = Bandwidth {
            bytes_per_second: 80,
            burst_bytes: 25,
        };
        let (_change, limit) = watch::channel(Some(burst));
        let (meter, written) = (Meter::new(std::time::Instant::now()), Written::default());
        let measure = Measure {
            limit: &limit,
            meter: &meter,
            written: &written,
        };
        let mut out = Outlet::new(Vec::new(), measure);
        for so_far in [10, 20] {
            let taken = poll(&mut out, &[7; 100]).await;
            assert!(matches!(taken, Poll::Ready(Ok(10))), "{taken:?}");
            assert_eq!(written.bytes(), so_far);
        }
        written.some().await;
    }

    async fn poll(out: &mut Outlet<'_, Vec<u8>>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *out).poll_write(cx, bytes))).await
    }
}
