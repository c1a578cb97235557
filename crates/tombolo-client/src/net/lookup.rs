//! What addresses a name has.
//!
//! The system is asked in a thread, which nobody can end: whoever wants to know what is being asked already waits for
//! the same answer. Where that takes too long, or the device may be in another network since, it is asked once more.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::interfaces::host_addresses;

/// A name that is not resolved by then is not resolved: systems go on asking servers that are silent for much longer,
/// a second one after 5 s.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(9);

/// Threads that ask for one name at a time.
const LOOKUPS_MAX: usize = 2;

/// Those that are under way, or whose answer somebody holds: each in its runtime, with which it would end.
static LOOKUPS: LazyLock<Mutex<Lookups>> = LazyLock::new(Mutex::default);

/// Of each name the oldest first.
type Lookups = HashMap<(Id, String), Vec<Begun>>;
type Answer = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

struct Begun {
    at: Instant,
    /// The addresses of this machine at that time.
    hosts: Vec<IpAddr>,
    answer: Weak<SetOnce<Answer>>,
}

impl Begun {
    fn is_under_way(&self) -> bool {
        self.answer.strong_count() > 0
    }

    /// Whether an answer may still come, and to what would be asked now.
    fn is_good(&self, now: Instant, hosts: &[IpAddr]) -> bool {
        now < self.at + LOOKUP_TIMEOUT && self.hosts == hosts
    }
}

/// The addresses of a name, or of an address.
pub(crate) async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Lookup::of(host).addresses(port).await
}

/// The same, where so much is not waited for.
pub(crate) async fn lookup_within(
    time: Duration,
    host: &str,
    port: u16,
) -> io::Result<Vec<SocketAddr>> {
    Lookup::of(host).addresses_within(time, port).await
}

/// A name that is looked up. For as long as this is held nobody has to look it up again.
pub(crate) struct Lookup(Arc<SetOnce<Answer>>);

impl Lookup {
    /// Begins, unless somebody has begun with that name of whose lookup something may come.
    pub(crate) fn of(host: &str) -> Self {
        if let Ok(ip) = host.parse::<IpAddr>() {
            let address = SocketAddr::new(ip, 0);
            return Self(Arc::new(SetOnce::new_with(Some(Ok(vec![address])))));
        }
        let runtime = Handle::current();
        let key = (runtime.id(), host.to_owned());
        let (now, hosts) = (Instant::now(), host_addresses(true));
        let mut lookups = LOOKUPS.lock().unwrap_or_else(PoisonError::into_inner);
        lookups.retain(|_, of_name| {
            of_name.retain(Begun::is_under_way);
            !of_name.is_empty()
        });
        let of_name = lookups.entry(key).or_default();
        let is_full = of_name.len() >= LOOKUPS_MAX;
        if let Some(newest) = of_name.last()
            && let Some(answer) = newest.answer.upgrade()
            && (is_full || answer.initialized() || newest.is_good(now, &hosts))
        {
            return Self(answer);
        }
        let begun = Arc::new(SetOnce::new());
        of_name.push(Begun {
            at: now,
            hosts,
            answer: Arc::downgrade(&begun),
        });
        drop(lookups);
        let (host, answer) = (host.to_owned(), Arc::clone(&begun));
        runtime.spawn(async move {
            let found = tokio::net::lookup_host((host, 0)).await;
            let found = found.map_err(|error| (error.kind(), error.to_string()));
            // Nobody else sets it.
            _ = answer.set(found.map(Iterator::collect));
        });
        Self(begun)
    }

    /// The addresses, with that port.
    pub(crate) async fn addresses(&self, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.addresses_within(LOOKUP_TIMEOUT, port).await
    }

    async fn addresses_within(&self, time: Duration, port: u16) -> io::Result<Vec<SocketAddr>> {
        let Ok(answer) = tokio::time::timeout(time, self.0.wait()).await else {
            let why = "the name was not resolved in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        };
        let mut addresses = answer
            .clone()
            .map_err(|(kind, why)| io::Error::new(kind, why))?;
        for address in &mut addresses {
            address.set_port(port);
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use tokio::runtime::Runtime;
    use tokio::time::advance;

    use super::*;
    use crate::Device;

    /// Names are resolved in a thread that others have: the only one is taken until something is sent.
    fn silent() -> (Runtime, Sender<()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true);
        let runtime = runtime.max_blocking_threads(1).build().unwrap();
        let (answer, silence) = channel();
        runtime.spawn_blocking(move || silence.recv());
        (runtime, answer)
    }

    #[test]
    fn a_name_is_waited_for_until_the_system_has_asked_a_second_server() {
        let (runtime, answer) = silent();
        runtime.block_on(async {
            let looking = tokio::spawn(lookup("localhost", 1));
            for _ in 0..60 {
                advance(Duration::from_millis(100)).await;
            }
            answer.send(()).unwrap();
            let found = looking.await.unwrap().unwrap();
            assert!(found.iter().all(|address| address.ip().is_loopback()));
        });
    }

    /// A lookup of that name, which the test answers.
    fn pending(host: &str) -> Lookup {
        pending_from(host, host_addresses(true))
    }

    /// The same, begun on a machine with these addresses.
    fn pending_from(host: &str, hosts: Vec<IpAddr>) -> Lookup {
        let lookup = Arc::new(SetOnce::new());
        let key = (Handle::current().id(), host.to_owned());
        let begun = Begun {
            at: Instant::now(),
            hosts,
            answer: Arc::downgrade(&lookup),
        };
        LOOKUPS.lock().unwrap().entry(key).or_default().push(begun);
        Lookup(lookup)
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_anew_where_nothing_came_in_time_and_once_beside_that() {
        let _silent = pending("localhost");
        let error = lookup("localhost", 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let found = lookup("localhost", 1).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));

        let [first, second] = [pending("silent.test"), pending("silent.test")];
        advance(LOOKUP_TIMEOUT).await;
        let asked = Lookup::of("silent.test");
        assert!(Arc::ptr_eq(&asked.0, &second.0), "no third thread is taken");
        drop(first);
    }

    #[tokio::test]
    async fn a_name_is_asked_for_anew_by_a_device_that_has_other_addresses() {
        let _elsewhere = pending_from("localhost", Vec::new());
        lookup("localhost", 1).await.unwrap();
    }

    /// Answers with this machine when so many wait for it.
    async fn answer(lookup: Lookup, waiting: usize) {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(
            Arc::strong_count(&lookup.0) > waiting,
            "others ask themselves"
        );
        let here = SocketAddr::from(([127, 0, 0, 1], 0));
        lookup.0.set(Ok(vec![here])).unwrap();
    }

    #[tokio::test]
    async fn whoever_asks_for_a_name_that_is_looked_up_waits_for_the_same_answer() {
        let asked = pending("several.test");
        let asking = [1, 2, 3].map(|port| tokio::spawn(lookup("several.test", port)));
        answer(asked, 3).await;
        for (asking, port) in asking.into_iter().zip(1..) {
            let found = asking.await.unwrap().unwrap();
            assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], port))]);
        }
    }

    #[tokio::test]
    async fn a_device_looks_the_name_of_its_node_up_once() {
        let node = tombolo_node::Node::builder()
            .dev()
            .listen([127, 0, 0, 1].into())
            .port(0)
            .turn_port(0)
            .turns_port(0);
        let node = node.start().await.unwrap();
        let url = node.ready().url.to_string();
        let url = url.replace("127.0.0.1", "once.test");
        let asked = pending("once.test");
        let connecting = Device::builder(&url).development_user("alice").connect();
        let connecting = tokio::spawn(connecting);
        answer(asked, 1).await;
        connecting.await.unwrap().unwrap();
        node.shutdown().await;
    }

    #[test]
    fn a_device_waits_for_no_resolver_that_does_not_answer() {
        let (runtime, _until_the_end) = silent();
        runtime.block_on(async {
            let began = Instant::now();
            let connecting = tokio::spawn(Device::connect("tombolo://node.test:1", "token"));
            while !connecting.is_finished() && began.elapsed() < Duration::from_secs(11) {
                advance(Duration::from_millis(50)).await;
            }
            assert!(connecting.is_finished(), "it waits");
            let error = connecting.await.unwrap().unwrap_err();
            assert!(error.is_unreachable(), "{error}");
        });
    }
}
