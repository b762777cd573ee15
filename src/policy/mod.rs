//! RFC, Nix class and site settings as pure decisions that take `now`. Never awaits, never
//! reads a clock, does no I/O, holds nothing. `engine` and `fill` ask; no other module decides.

pub mod continuation;
pub mod freshness;
pub mod generic;
pub mod head;
pub mod request;
pub mod response;
pub mod revalidation;
pub mod rules;
pub mod selection;

mod fields;
#[cfg(test)]
mod testing;

pub use fields::{Challenge, describe_changed, take_of_one_client};
pub use freshness::Freshness;
pub use request::{RequestPlan, RequestRefusal};
pub use response::{AdmittedHead, ObjectReply, ObjectVerdict};
pub use selection::Selection;
