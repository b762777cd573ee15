//! Narthex: a streaming edge cache for Nix binary caches.
//!
//! The order of the `mod` lines is the layering: a module names only modules of
//! earlier layers, and the modules of one layer never name each other.
//! `tests/it/style.rs` keeps it.

// 0 base
pub mod clock;
pub mod nix;
pub mod outcome;
mod random;
pub mod rfc;
#[cfg(test)]
mod simulation;
mod sync;
pub mod units;
// 1 vocabulary
pub mod config;
pub mod metrics;
pub mod object;
pub mod tasks;
// 2 judgement
pub mod policy;
pub mod telemetry;
// 3 resources
pub mod client;
pub mod filter;
pub mod memory;
pub mod store;
// 4 tiers
pub mod cache;
pub mod cluster;
pub mod origin;
pub mod tls;
// 5 work
pub mod fill;
pub mod purge;
// 6 request
pub mod engine;
// 7 doors
pub mod admin;
pub mod front;
// 8 assembly
pub mod app;
// 9 entry
pub mod cli;
#[cfg(test)]
mod simulator;
