//! The exchange of a cookie, before which nothing is remembered.

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use dimpl::{Config, Dtls, DtlsCertificate, Output};

use super::{
    DATAGRAM_BYTES_MAX,
    cookie::{self, Cookies},
    hello::Hello,
};

/// Answers first hellos with a cookie, and makes associations for those who bring it back.
pub(crate) struct Exchange {
    config: Arc<Config>,
    cookies: Cookies,
    started: Instant,
}

/// A first hello, and the period in which it was answered.
pub(crate) struct Answered {
    first: Vec<u8>,
    period: u64,
}

impl Exchange {
    /// # Errors
    /// The library has no cryptography that works, or the system no randomness.
    pub(crate) fn new() -> io::Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(Self {
            config: cookie::config().map_err(io::Error::other)?,
            cookies: Cookies::new(secret),
            started: Instant::now(),
        })
    }

    /// Answers a first hello; `None` if there is no answer that is at most as long.
    pub(crate) fn challenge(
        &self,
        certificate: &DtlsCertificate,
        client: SocketAddr,
        hello: &[u8],
    ) -> Option<Vec<u8>> {
        let (_, reply) = self.begin(certificate, client, self.period(), hello);
        (!reply.is_empty() && reply.len() <= hello.len()).then_some(reply)
    }

    /// Finds the first hello that a second one repeats; `None` unless the second one brings the cookie
    /// that the first one was answered with, in this period or the one before. Costs little.
    pub(crate) fn recognise(&self, client: SocketAddr, hello: &Hello<'_>) -> Option<Answered> {
        let (cookie, random) = (hello.cookie()?, hello.random()?);
        let period = self.period();
        for first in hello.firsts() {
            for period in [Some(period), period.checked_sub(1)].into_iter().flatten() {
                let cookies = &self.cookies;
                if cookies.is_of(client, period, bound(&first), random, cookie) {
                    return Some(Answered { first, period });
                }
            }
        }
        None
    }

    /// Makes an association for who has brought its cookie back; `None` if the hello breaks the rules.
    pub(crate) fn accept(
        &self,
        certificate: &DtlsCertificate,
        client: SocketAddr,
        answered: &Answered,
        datagram: &[u8],
    ) -> Option<Dtls> {
        let Answered { first, period } = answered;
        let (mut dtls, _) = self.begin(certificate, client, *period, first);
        let mut take = || dtls.handle_packet(datagram).is_ok();
        let is_taken = self.cookies.with(client, *period, bound(first), &mut take);
        is_taken.then_some(dtls)
    }

    /// Hands a first hello to a new association. Returns it, and the one datagram that it sends.
    fn begin(
        &self,
        certificate: &DtlsCertificate,
        client: SocketAddr,
        period: u64,
        hello: &[u8],
    ) -> (Dtls, Vec<u8>) {
        let now = Instant::now();
        let mut dtls = Dtls::new_auto(Arc::clone(&self.config), certificate.clone(), now);
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut reply = Vec::new();
        self.cookies.with(client, period, bound(hello), || {
            if dtls.handle_timeout(now).is_err() || dtls.handle_packet(hello).is_err() {
                return;
            }
            while let Output::Packet(packet) = dtls.poll_output(&mut buffer) {
                reply.extend_from_slice(packet);
            }
        });
        (dtls, reply)
    }

    fn period(&self) -> u64 {
        self.started.elapsed().as_secs() / COOKIE_PERIOD_SECS
    }
}

/// What of a first hello its cookie is bound to. The handshake of DTLS 1.3 covers it, so that it must be
/// made again exactly (RFC 9147 §5.1); that of DTLS 1.2 does not, and clients may change it.
fn bound(hello: &[u8]) -> &[u8] {
    match Hello::parse(hello) {
        Some(parsed) if parsed.offers_13() => hello,
        Some(_) | None => &[],
    }
}

/// A cookie is good for this time at least, and twice as long at most.
const COOKIE_PERIOD_SECS: u64 = 30;

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing {
    //! What holds of the exchange whatever comes.

    use super::*;

    /// Does with datagrams of one client what the front does, and checks what comes of it. Returns
    /// whether an association was made.
    ///
    /// # Panics
    /// What must hold does not.
    pub(crate) fn run(certificate: &DtlsCertificate, datagrams: &[&[u8]]) -> bool {
        thread_local! {
            static EXCHANGE: Exchange =
                Exchange::new().expect("cryptography and randomness are there");
        }
        EXCHANGE.with(|exchange| run_with(exchange, certificate, datagrams))
    }

    fn run_with(exchange: &Exchange, certificate: &DtlsCertificate, datagrams: &[&[u8]]) -> bool {
        let Some((first, rest)) = datagrams.split_first() else {
            return false;
        };
        let Some(hello) = Hello::parse(first) else {
            return false;
        };
        check(&hello, first.len());
        let own = CLIENT.parse().expect("a literal");
        let guessed = exchange.recognise(own, &hello);
        assert!(guessed.is_none(), "nobody guesses a cookie");
        let reply = exchange.challenge(certificate, own, first);
        assert!(
            reply
                .as_ref()
                .is_none_or(|reply| reply.len() <= first.len())
        );
        let Some(second) = reply.and_then(|reply| second_of(first, &reply)) else {
            return false;
        };
        let hello = Hello::parse(&second).expect("the first one is a hello");
        check(&hello, second.len());
        let other = OTHER.parse().expect("a literal");
        let stolen = exchange.recognise(other, &hello);
        assert!(stolen.is_none(), "a cookie is good from its address only");
        // Not so if the first one came in a record whose number is not 0.
        let Some(answered) = exchange.recognise(own, &hello) else {
            return false;
        };
        let Some(mut dtls) = exchange.accept(certificate, own, &answered, &second) else {
            return false;
        };
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        for datagram in rest {
            // An association that fails is let go.
            if dtls.handle_packet(datagram).is_err() {
                break;
            }
            while !matches!(dtls.poll_output(&mut buffer), Output::Timeout(_)) {}
        }
        true
    }

    fn check(hello: &Hello<'_>, len: usize) {
        assert!(hello.cookie().is_none_or(|cookie| cookie.len() < len));
        for first in hello.firsts() {
            assert!(first.len() <= len, "nothing grows");
            let parsed = Hello::parse(&first).expect("its lengths are right");
            assert!(parsed.is_first() && parsed.cookie().is_none());
            assert_eq!(parsed.offers_13(), hello.offers_13());
            assert_eq!(parsed.firsts().next().as_ref(), Some(&first));
        }
    }

    /// The hello that brings the cookie of a HelloVerifyRequest back. See RFC 6347 §4.2.2.
    fn second_of(first: &[u8], reply: &[u8]) -> Option<Vec<u8>> {
        let is_verify = reply.get(13) == Some(&3) && reply.get(27) == Some(&32);
        let cookie = reply.get(28..60).filter(|_| is_verify)?;
        let session_len = usize::from(*first.get(59)?);
        let cookie_at = 60 + session_len;
        if first.get(cookie_at) != Some(&0) {
            return None;
        }
        let mut second = first.to_vec();
        second.splice(cookie_at..=cookie_at, [&[32], cookie].concat());
        let body = u16::try_from(second.len() - 25).ok()?;
        // Sequence numbers of record and message; lengths of record, message and fragment.
        for (at, value) in [(9, 1), (11, body + 12), (15, body), (17, 1), (23, body)] {
            let value: u16 = value;
            second[at..at + 2].copy_from_slice(&value.to_be_bytes());
        }
        Some(second)
    }

    const CLIENT: &str = "192.0.2.1:1";
    const OTHER: &str = "192.0.2.1:2";
}
