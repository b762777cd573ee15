//! The public listeners: sockets, protocols, limits and deadlines; what a request means is the
//! handler's business. Bound and served once by the assembly; ends when the process drains.
//!
//! A connection's way: `accept` admits it, `conn` finds out its protocol and runs it, `request`
//! looks at each request and calls the handler, `socket` is what hyper reads and writes, `watch`
//! knows what the connection may still wait for, `progress` what its client has taken, and
//! `watchdog` is the timer. Hits go a short way below hyper: `express` takes their requests out of
//! what is read, `carry` writes the bodies that are files.

mod accept;
mod admission;
mod bind;
mod carry;
mod conn;
mod express;
mod handler;
mod lines;
mod listeners;
mod pace;
mod plain;
mod progress;
mod request;
mod secure;
mod sender;
mod socket;
mod state;
mod tcp_socket;
#[cfg(test)]
mod tests;
mod watch;
mod watchdog;

pub use bind::BindError;
pub use handler::{AnswerBody, Door, Handler};
pub use listeners::Front;
