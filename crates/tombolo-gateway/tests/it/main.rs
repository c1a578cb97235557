//! A gateway on loopback, and bare clients of both transports.

mod device;
mod fixture;
mod http;
mod refusal;
mod session;
mod shutdown;
