//! Answers requests: one request, one decision table. One engine for each process, shared by every
//! connection. It reads the cache, begins fills, and is the one place that picks an
//! [`Outcome`](crate::outcome::Outcome). Holds no lock.
//!
//! | stored            | origin says      | the client gets        | outcome          |
//! |-------------------|------------------|------------------------|------------------|
//! | fresh             | is not asked     | the object             | hit_memory, hit_disk |
//! | absence, fresh    | is not asked     | 404                    | hit_absent       |
//! | stale             | 304              | the object             | revalidated      |
//! | stale             | nothing usable, or nothing in time | the stale object | hit_stale |
//! | stale or nothing  | an object        | it, while it arrives   | miss, collapsed, pass |
//! | stale or nothing  | there is none    | 404                    | absent           |
//! | nothing, and the absence filter lacks it | is not asked | 404  | absent_filter |
//! | nothing           | nothing: an optional origin is down | 404 | absent_optional |
//! | nothing           | nothing usable   | 502 or 504             | origin_failed    |
//!
//! "In time" is `revalidation_wait` after the fill began. The fill goes on after that, and what it
//! brings is for later requests. If the head of a replacement has come, a request gets the
//! replacement, however slowly its body comes: the stored object is known to be out of date then.
//!
//! The way of a request: `handle` finds the site and answers at once what memory or an open file
//! holds; `fast_path` does the same for simple requests, below hyper. `table` decides about
//! everything else: it looks in the cache (`lookup`), fetches missing ranges (`ranges`), or joins a
//! fill (`fetch`). `deliver` makes an object into an answer. `body` is what the connection polls,
//! `request_record` counts and logs it. `generic` is the same for generic sites.
//!
//! A stored file reaches the client in one of three ways. Over plain HTTP/1.1 the kernel sends it
//! (`sendfile_queue`). Elsewhere it is read when it is written (`file_chunk`), or read ahead if its
//! pages are not in memory. If it fails, the rest comes from elsewhere (`file_source`,
//! `file_fallback`).

mod answer;
mod body;
mod body_source;
mod connection;
mod deliver;
mod fast_path;
mod fetch;
mod file_chunk;
mod file_fallback;
mod file_source;
mod generic;
mod handle;
mod interim;
mod lookup;
mod multipart;
mod part_result;
mod ranges;
mod refetch;
mod request_record;
mod sendfile_queue;
mod simple_request;
mod site;
mod site_pages;
mod state;
mod table;
mod target;
mod upload;

pub use answer::Answering;
pub use body::AnswerBody;
pub use connection::{AnswerOrder, ClientConnection, Transport};
pub use file_chunk::{BodyData, FileChunk};
pub use interim::Interims;
pub use refetch::RefetchResult;
pub use sendfile_queue::{RangeRead, SendOutcome, SendfileQueue};
pub use simple_request::{FastAnswer, SimpleRequest};
pub use site::{Ports, ServedSite, Sites};
pub use state::{Engine, EngineParts};
