//! What a scenario is told with: an edge in this process, an origin that follows a script, a
//! client, and the objects of a binary cache. Everything lives as long as its test; nothing
//! sleeps: what is waited for is an event, and a wait that lasts too long fails the test.

mod brittle;
mod client;
mod edge;
mod fixture;
pub(crate) mod http2_origin;
mod origin;
mod virtual_origin;

pub(crate) use crate::faults::fault::{Fault, Place};
pub(crate) use crate::faults::reply::{Asked, Gate};
pub(crate) use crate::faults::script::{Script, says};
pub(crate) use brittle::Brittle;
pub(crate) use client::{Arriving, Client, Said};
pub(crate) use edge::{Edge, Setup};
pub(crate) use fixture::{Draw, Package, noise, path_of_nar, trusted_key, untrusted_key};
pub(crate) use origin::{Origin, Strikes};
pub(crate) use virtual_origin::{Made, VirtualOrigin, Wish};

use std::time::Duration;

/// How long a test waits for its peer before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The one way to wait for something that sends no event: asks until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let asking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, asking).await;
    assert!(waited.is_ok(), "never came: {what}");
}
