//! Upstreams: pick, sign, retry, fail over, remember health.

pub mod exchange;

pub use exchange::{Answer, Ask, BodyError, FetchError, Method, RangeAsked};
