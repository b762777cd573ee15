//! What RFCs 3986, 5861, 7932, 8246, 8586, 8878, 9110, 9111, 9211 and 9213 fix, as pure functions.
//! Knows neither Nix nor the configuration; never awaits, never reads a clock, holds nothing.

pub mod age;
pub mod authority;
pub mod cache_control;
pub mod cache_status;
pub mod cdn_loop;
pub mod conditional;
pub mod content_coding;
pub mod content_length;
pub mod date;
pub mod entity_tag;
pub mod grammar;
pub mod hop_by_hop;
pub mod path;
pub mod range;
pub mod targeted;

pub use authority::{Authority, HostError};
pub use cache_control::CacheControl;
pub use cache_status::CacheStatus;
pub use cdn_loop::CdnLoop;
pub use conditional::{Condition, Validators};
pub use content_coding::ContentCodings;
pub use date::HttpDate;
pub use entity_tag::EntityTag;
pub use path::PathError;
pub use range::{ByteRanges, ContentRange};
