//! Finds the addresses of a name, on few threads.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tower_service::Service;

/// Asks the system, which may take half a minute while no name server answers, and cannot be told to stop. Whoever
/// wants to know has gone by then and others have come: without a bound they would in the end hold all threads of
/// the node for what blocks, and what is kept on disk needs those, too.
#[derive(Clone)]
pub(crate) struct Resolver {
    threads: Arc<Semaphore>,
    look_up: Arc<LookUp>,
}

type LookUp = dyn Fn(&str) -> io::Result<Addresses> + Send + Sync;

type Addresses = std::vec::IntoIter<SocketAddr>;

impl Resolver {
    pub(crate) fn new() -> Self {
        Self::with(|name| Ok((name, 0).to_socket_addrs()?.collect::<Vec<_>>().into_iter()))
    }

    fn with(look_up: impl Fn(&str) -> io::Result<Addresses> + Send + Sync + 'static) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(THREADS_MAX)),
            look_up: Arc::new(look_up),
        }
    }
}

impl Service<Name> for Resolver {
    type Response = Addresses;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Addresses>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { threads, look_up } = self.clone();
        Box::pin(async move {
            let thread = threads.acquire_owned().await.map_err(io::Error::other)?;
            // The thread is held for as long as it is used, whether anybody still waits for it or not.
            let look_up = move || {
                let _thread = thread;
                look_up(name.as_str())
            };
            spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    }
}

/// As many as are used at once: most posts go over a connection that is there.
const THREADS_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex, PoisonError};

    use futures_util::FutureExt as _;

    use super::*;

    /// How many names were to be looked up, and whether there is an answer.
    #[derive(Default)]
    struct Servers {
        state: Mutex<(usize, bool)>,
        changed: Condvar,
    }

    impl Servers {
        /// Hangs until there is an answer.
        fn look_up(&self) -> io::Result<Addresses> {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 += 1;
            let answered = self.changed.wait_while(state, |(_, is_there)| !*is_there);
            drop(answered);
            Ok(Vec::new().into_iter())
        }

        fn asked(&self) -> usize {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).0
        }
    }

    #[tokio::test]
    async fn names_that_nobody_answers_for_hold_few_threads() {
        let servers = Arc::new(Servers::default());
        let hanging = Arc::clone(&servers);
        let mut resolver = Resolver::with(move |_| hanging.look_up());
        let name: Name = "game.example.org".parse().expect("a name");
        // Whoever wants to know has soon waited for long enough.
        for _ in 0..30 {
            assert!(resolver.call(name.clone()).now_or_never().is_none());
        }
        while servers.asked() < THREADS_MAX {
            tokio::task::yield_now().await;
        }
        let mut last = resolver.call(name);
        assert!((&mut last).now_or_never().is_none());
        let state = servers.state.lock();
        state.unwrap_or_else(PoisonError::into_inner).1 = true;
        servers.changed.notify_all();
        last.await.expect("there is an answer");
        assert_eq!(servers.asked(), THREADS_MAX + 1);
    }
}
