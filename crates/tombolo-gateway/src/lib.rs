//! Device sessions over QUIC and WebSocket, and the HTTP API.
//!
//! A [`Gateway`] listens on one port number, UDP and TCP, of every address that it is given:
//!
//! ```text
//! UDP  QUIC, ALPN `tombolo/1`: one bidirectional stream of frames, datagrams for unreliable ones
//! TCP  TLS: WebSocket at /v1/session, one binary message per frame
//!           HTTP: /healthz, /readyz, /v1/ice-servers, /v1/tokens (development only), the API of servers
//! ```
//!
//! What the frames mean is the business of `tombolo-services`; the gateway brings them there and
//! back, the same way for both transports (`connection`), and protects the node from strangers:
//! bounds on connections, in all and per source prefix (`admission`), places that the fullest network
//! gives to a newcomer (`openings`), a pace of handshakes (`pace`), deadlines until a `Hello` is there, address validation under load, receive windows of two frames. Whoever is refused is
//! told why in a `Reject`, and counted in [`Stats`].
//!
//! ```no_run
//! # async fn example(
//! #     services: tombolo_services::Services,
//! #     certificates: Vec<rustls::pki_types::CertificateDer<'static>>,
//! #     key: rustls::pki_types::PrivateKeyDer<'static>,
//! # ) -> Result<(), tombolo_gateway::BindError> {
//! use tombolo_gateway::{Gateway, GatewayConfig};
//!
//! let config = GatewayConfig::new(vec!["192.0.2.1".parse().unwrap()], certificates, key);
//! let gateway = Gateway::bind(config, services)?;
//! gateway.set_ready();
//! println!("listening on {:?}", gateway.addrs());
//! gateway.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Left out on purpose: 0-RTT (a `Hello` must not be replayable), HTTP/2 and HTTP/3 (a device
//! makes few requests), multipath towards the node (a session resumes within a round trip).
#![forbid(unsafe_code)]

mod admission;
mod api;
mod api_keys;
mod config;
mod connection;
mod error;
mod gateway;
mod groups;
mod http;
mod https;
mod listen;
mod network;
mod openings;
mod pace;
mod quic;
mod shared;
mod stats;
mod tls;
mod transport;
mod websocket;

pub use api_keys::{ApiKey, Scope};
pub use config::{GatewayConfig, Limits};
pub use error::BindError;
pub use gateway::Gateway;
pub use groups::{GroupOwner, GroupPage, GroupStatus};
pub use stats::Stats;
