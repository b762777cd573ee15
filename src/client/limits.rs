//! The limits of connections and of what comes over them.

use std::time::Duration;

/// An idle connection is closed after this long.
pub(super) const IDLE: Duration = Duration::from_secs(75);
/// Header fields of a response.
pub(super) const HEADERS_MAX: usize = 500;
/// Bytes of a response's head, each field counted with its separators. curl takes 300 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 200 * 1024;
/// The read buffer of an HTTP/1 connection.
pub(super) const READ_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// What an HTTP/2 server may send ahead on one stream.
pub(super) const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// What an HTTP/2 server may send ahead on one connection: a full window of each stream, so that
/// bodies that are read slowly never hold up the others.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * 64;
/// For how long a connection gets further requests: if a name leads to another address by then, the
/// next connection goes there.
pub(super) const AGE_MAX: Duration = Duration::from_mins(5);
