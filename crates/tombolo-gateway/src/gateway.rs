use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use noq::Endpoint;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tombolo_services::Services;

use crate::api_keys::ApiKey;
use crate::config::GatewayConfig;
use crate::error::BindError;
use crate::quic::WatchedRuntime;
use crate::shared::{Phase, Shared};
use crate::stats::Stats;
use crate::tls::{self, Identity};
use crate::transport::Farewell;
use crate::{http, https, listen, quic};

/// Listens for devices until [`Gateway::shutdown`]; dropping it ends everything at once.
pub struct Gateway {
    addrs: Vec<SocketAddr>,
    endpoints: Vec<Endpoint>,
    /// Each ends by itself when the gateway is closed.
    accepting: Vec<JoinHandle<()>>,
    /// Says `None` when all UDP sockets are closed.
    released: mpsc::Receiver<()>,
    identity: Arc<Identity>,
    shared: Arc<Shared>,
}

impl Gateway {
    /// Binds all sockets and starts to accept. Devices are told `UNAVAILABLE` until
    /// [`Gateway::set_ready`].
    ///
    /// Has to be called within a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// An address cannot be listened on, or the certificate is unusable.
    pub fn bind(config: GatewayConfig, services: Services) -> Result<Self, BindError> {
        let GatewayConfig {
            listen,
            port,
            certificates,
            key,
            limits,
            dev_tokens,
            api_keys,
        } = config;
        let identity = Arc::new(Identity::new(certificates, key)?);
        let for_quic = Arc::new(tls::for_quic(&identity)?);
        let for_https = TlsAcceptor::from(Arc::new(tls::for_https(&identity)?));
        let pairs = listen::bind_all(&listen, port)?;
        let shared = Arc::new(Shared::new(limits, services, dev_tokens, api_keys));
        let (runtime, released) = WatchedRuntime::new();
        let mut gateway = Self {
            addrs: Vec::new(),
            endpoints: Vec::new(),
            accepting: Vec::new(),
            released,
            identity,
            shared,
        };
        let shared = &gateway.shared;
        let router = http::router(Arc::clone(shared));
        for pair in pairs {
            let listener = TcpListener::from_std(pair.tcp).map_err(BindError::Runtime)?;
            let endpoint = quic::endpoint(pair.udp, &for_quic, &shared.limits, runtime.clone())?;
            gateway.addrs.push(pair.addr);
            gateway.endpoints.push(endpoint.clone());
            let (tls, router) = (for_https.clone(), router.clone());
            let vitals = shared.services.vitals();
            let quic = quic::serve(endpoint, Arc::clone(shared));
            let https = https::serve(listener, tls, router, Arc::clone(shared));
            gateway.accepting.extend([
                tokio::spawn(vitals.hold("connections over QUIC", quic)),
                tokio::spawn(vitals.hold("connections over TLS", https)),
            ]);
        }
        Ok(gateway)
    }

    /// From now on devices get sessions and `/readyz` says 200.
    pub fn set_ready(&self) {
        self.shared.advance(Phase::Serving);
    }

    /// Proves itself with another certificate from now on, its own first in the chain. Connections that
    /// are open keep the one that they began with.
    ///
    /// # Errors
    /// The certificate and the key are of no use together; the old ones stay in use.
    pub fn replace_certificate(
        &self,
        certificates: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), rustls::Error> {
        self.identity.replace(Identity::new(certificates, key)?);
        Ok(())
    }

    /// Lets these use the API for game servers from now on, and nobody else.
    pub fn set_api_keys(&self, keys: Vec<ApiKey>) {
        self.shared.set_api_keys(keys);
    }

    /// What is listened on: UDP and TCP, in the order of the configuration.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Ends in good order: takes nobody new, tells every device to go elsewhere (`GoAway`), and
    /// returns when all connections are closed and the ports are free, which takes at most a few
    /// farewell timeouts.
    pub async fn shutdown(mut self) {
        self.shared.advance(Phase::Draining);
        let farewell_timeout = self.shared.limits.farewell_timeout;
        let _ = timeout(2 * farewell_timeout, self.shared.admission.emptied()).await;
        self.shared.advance(Phase::Closed);
        for task in self.accepting.drain(..) {
            // It may have panicked; there is nothing left to do for it here.
            let _ = task.await;
        }
        self.shared.admission.emptied().await;
        for endpoint in self.endpoints.drain(..) {
            let farewell = Farewell::GoingAway;
            endpoint.close(farewell.quic_code(), farewell.reason().as_bytes());
        }
        let _ = timeout(farewell_timeout, self.released.recv()).await;
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shared.advance(Phase::Closed);
    }
}
