//! What the program tells its operators beside metrics: the access log and the diagnostic log.

mod access;
mod diagnostics;
mod form;
mod queue;
mod repeats;
mod request_id;

pub use access::{AccessLog, AccessLogError, AccessLogSink};
pub use diagnostics::{Diagnostics, LevelError, diagnostics};
pub use form::{AccessRecord, TlsUse};
pub use request_id::RequestId;
