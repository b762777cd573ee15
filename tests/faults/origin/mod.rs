//! An origin that misbehaves as it is told: HTTP/1.1 on bare TCP or TLS, so that it can break the
//! protocol wherever it is wanted broken, and HTTP/2. Three things use it: the harness of the
//! integration tests, with answers that follow a script, the program `matrix` (`tests/matrix`), and
//! the program `fault-origin`, which serves a folder or stands before another origin. A request is
//! read, the source answers it as it should be answered, a fault may spoil the answer, and the rest
//! is written, in pieces of any size if it is told so.

mod body;
pub(crate) mod fault;
mod http2;
pub(crate) mod pieces;
pub(crate) mod plan;
pub(crate) mod reply;
pub(crate) mod script;
pub(crate) mod secure;
pub(crate) mod sources;
pub(crate) mod wire;
