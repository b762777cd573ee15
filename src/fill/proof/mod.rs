//! What proves a body, and what is known of bodies that nothing proved: what it must turn out to
//! be (`expected`), which signatures count (`site_keys`), what a narinfo must say (`narinfo`), and
//! which objects had rejected bodies (`rejected_bodies`).

mod expected;
mod narinfo;
mod rejected_bodies;
mod site_keys;

pub(super) use expected::{ExpectedBody, better_lifetime};
pub(super) use narinfo::{cache_info, narinfo};
pub(super) use rejected_bodies::{Advice, Basis, RejectedBodies, TRIES_MAX};
pub use site_keys::SiteKeys;
