//! Device sessions over QUIC and WebSocket, and the HTTP API.
#![forbid(unsafe_code)]
