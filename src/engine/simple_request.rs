//! A request that asks for an object and for nothing else, and the result of the fast path for it.
//! Made by the front from the bytes of an HTTP/1.1 connection. Plain values.

use crate::policy::request::ReadMethod;
use crate::rfc::path::PlainPath;

/// A request of HTTP/1.1 without conditions, ranges, or anything else that changes its answer.
#[derive(Debug, Clone, Copy)]
pub struct SimpleRequest<'a> {
    /// GET or HEAD.
    pub method: ReadMethod,
    /// The request target.
    pub target: PlainPath<'a>,
    /// `Host`.
    pub host: &'a str,
    /// `Referer`, for the log.
    pub referer: Option<&'a [u8]>,
    /// `User-Agent`, for the log.
    pub user_agent: Option<&'a [u8]>,
}

/// What the fast path did for a request.
#[derive(Debug)]
pub enum FastAnswer<B> {
    /// The whole answer was written, and the request is counted and logged.
    Complete,
    /// The answer's head was written; this is its body, which counts and logs the request.
    HeadWritten(B),
    /// Nothing was done; the request takes the usual path.
    NotTaken,
}
