//! An HTTP/1.1 origin that misbehaves as it is told, on bare TCP so that it can break the protocol
//! wherever it is wanted broken. Two things use it: the harness of the integration tests, whose
//! answers follow a script, and the program `fault-origin`, which serves a folder or stands before
//! another origin. A request is read, the source answers it as it should be answered, a fault may
//! spoil the answer, and the rest is written.

pub(crate) mod fault;
pub(crate) mod plan;
pub(crate) mod reply;
pub(crate) mod script;
pub(crate) mod sources;
pub(crate) mod wire;
