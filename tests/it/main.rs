//! The integration tests: one binary, in-process, loopback only, no sleeps, no timing.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test says that something is wrong by a panic, in its harness too"
)]
#![expect(clippy::format_push_string, reason = "the texts of a test are short")]

#[path = "../faults/origin/mod.rs"]
mod faults;
mod harness;
mod journeys;
mod process;
mod style;
