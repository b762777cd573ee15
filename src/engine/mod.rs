//! One request, one decision table. One engine per process, shared by every connection; reads the
//! cache, begins fills, and is the one place that picks an [`Outcome`]. Holds no lock.
//!
//! | stored            | origin says      | the client gets        | outcome          |
//! |-------------------|------------------|------------------------|------------------|
//! | fresh             | is not asked     | the object             | hit_memory, hit_disk |
//! | absence, fresh    | is not asked     | 404                    | hit_absent       |
//! | stale             | 304              | the object             | revalidated      |
//! | stale             | nothing usable, or nothing in time | the stale object | hit_stale |
//! | stale or nothing  | an object        | it, while it arrives   | miss, collapsed, pass |
//! | stale or nothing  | there is none    | 404                    | absent           |
//! | nothing, and the site's filter knows it for absent: is not asked | 404 | absent_filter |
//! | nothing           | nothing usable   | 502 or 504             | origin_failed    |
//!
//! "In time" is `revalidation_wait` after the fill began: the fill goes on, and what it brings is
//! for later requests. Once the head of a replacement is here, a request gets that, however slowly
//! its body comes: the stored object is known to be out of date then.
//!
//! A range of what is not stored as a whole goes its own way, chunk by chunk: see `ranges`.

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
