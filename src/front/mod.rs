//! The public listeners: sockets, protocols, limits and deadlines. What a request means is decided
//! by the handler. Bound and served once by the assembly; ends when the process drains.
//!
//! The way of a connection: `accept` admits it within `connection_limits`. `connection` finds out
//! its protocol and runs hyper. `request` checks each request and calls the handler. hyper reads
//! and writes a `socket`: a `tcp_socket`, in the clear or behind `tls_records`.
//! `connection_deadlines` knows how long the connection may still wait, and for what. `progress`
//! asks the kernel what the client has acknowledged, `control_frames` counts what floods, and
//! `watchdog` is the timer.
//!
//! Hits of HTTP/1.1 take a fast path below hyper. `simple_request` parses their heads, `fast_path`
//! takes them out of what is read, and `body_writer` writes bodies that are files: by `sendfile`
//! (`file_sender`), while the chunk is trusted and its pages are in the page cache. Below 8 KiB,
//! over TLS and over HTTP/2 the bytes are read at the moment of writing. TLS is written in whole
//! records, seven at a time, and flushed by the task of the connection. A fast client may have more
//! bytes unsent (`send_buffer`). No counter that all cores share is touched by a hit.

mod accept;
mod bare_lf;
mod bind;
mod body_writer;
mod connection;
mod connection_deadlines;
mod connection_limits;
mod control_frames;
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
