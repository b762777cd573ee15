//! Requests for sites of kind `generic`: the decision table of an HTTP cache (RFC 9111 section 4).
//! Called by `Engine::handle`; holds no lock.
//!
//! | stored                | origin says        | the client gets          | outcome          |
//! |-----------------------|--------------------|--------------------------|------------------|
//! | may be used           | is not asked       | it                       | hit_memory, hit_disk |
//! | may be used meanwhile | is asked after     | it                       | hit_stale        |
//! | must be confirmed     | 304                | it                       | revalidated      |
//! | must be confirmed     | nothing, nothing in time, or 5xx | it, if permitted | hit_stale |
//! | anything, or nothing  | an answer          | it, of any status   | miss, pass, collapsed |
//! | nothing usable        | nothing            | 502 or 504               | origin_failed    |
//!
//! `Engine::handle` separates the two kinds of site, which share cache, fills and origins;
//! `policy::generic` decides. `target` computes once what a request asks for. What an origin is
//! told is part of the key, so a purge can name every key. A response that varies is stored under
//! the key of its variant, one that does not under the key of the object; the newer one replaces
//! the other. Interim answers wait in `engine::interim` until the socket can write them between
//! answers.
//!
//! `parts` answers from responses that are stored in part, and ranges of responses that are not
//! stored.
//!
//! A method other than GET or HEAD goes to the origin unchanged (`forward`). If it is a write that
//! was done, what it may have changed is dropped before the client is answered (`write`).

mod deliver;
mod fetch;
mod forward;
mod handle;
mod parts;
mod request;
mod table;
mod target;
mod write;

pub(super) use handle::{IncomingRequest, answer, outbound};
pub(super) use target::RequestAddress;
