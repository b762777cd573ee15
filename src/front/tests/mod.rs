//! Scenarios over real sockets on the loopback interface: what a client sends and what it gets.

mod deadlines;
mod drain;
mod fast_path;
mod framing;
pub(super) mod harness;
mod http2;
mod limits;
mod slow;
mod tls;
