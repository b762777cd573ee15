//! The integration tests: one binary, in-process, loopback only, no sleeps, no timing.

#[test]
fn placeholder() {}

mod style;
