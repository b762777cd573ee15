//! The configuration: what an operator may set, read from TOML, environment and flags.

pub mod model;

pub use model::*;
