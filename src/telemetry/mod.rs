//! What the program tells its operators beside metrics: the access log and the diagnostic log.

mod access;
mod diagnostics;
mod form;

pub use access::{AccessLog, Sink, StartError};
pub use diagnostics::{LevelError, check_level, diagnostics};
pub use form::{AccessRecord, TlsUse};
