//! The relay over loopback, driven by the TURN client core on real sockets.

mod alpn;
mod asker;
mod bind;
mod device;
mod discovery;
mod dtls;
mod elsewhere;
mod foreign;
mod headers;
mod hook;
mod icmp;
mod log;
mod mobility;
mod moving;
mod operating;
mod plain;
mod ports;
mod proxy;
mod relaying;
mod streams;
mod tcp_relaying;
