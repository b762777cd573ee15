//! The access log and the diagnostic log.
