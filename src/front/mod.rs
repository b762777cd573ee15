//! The public listeners: sockets, protocols, limits and deadlines; what a request means is the
//! handler's business. Bound and served once by the assembly; ends when the process drains.
//!
//! A connection's way: `accept` admits it, `conn` finds out its protocol and runs it, `request`
//! looks at each request and calls the handler, `socket` is what hyper reads and writes, `watch`
//! knows what the connection may still wait for, `progress` what its client has taken, and
//! `watchdog` is the timer. Hits go a short way below hyper: `fast_path` takes their requests out of
//! what is read, `carry` writes the bodies that are files.

mod accept;
mod bare_lf;
mod bind;
mod body_writer;
mod connection;
mod connection_deadlines;
mod connection_limits;
mod fast_path;
mod file_sender;
mod handler;
mod listeners;
mod progress;
mod request;
mod send_buffer;
mod simple_request;
mod socket;
mod state;
mod tcp_socket;
#[cfg(test)]
mod tests;
mod tls_records;
mod watchdog;

pub use bind::ListenError;
pub use handler::{Door, Handler, HandlerBody};
pub use listeners::Front;
