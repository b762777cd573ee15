//! Fuzzes the private `front::simple_request`, taken in by path. What it takes for a request
//! without a body ends at the first empty line, has nothing that announces a body, and no bare line
//! feed. A request for an object and nothing else has one host and no field that alters its answer.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/front/bare_lf.rs"]
#[expect(dead_code, reason = "the target needs one function of it")]
mod bare_lf;
#[path = "../../../src/front/simple_request.rs"]
mod simple_request;

/// The names that the included file uses, at the paths that it uses.
mod engine {
    pub use narthex::engine::SimpleRequest;
}
mod policy {
    pub mod request {
        pub use narthex::policy::request::ReadMethod;
    }
}
mod rfc {
    pub mod path {
        pub use narthex::rfc::path::PlainPath;
    }
}

use simple_request::{HeadLimits, RequestHead};

const FRAMING: [&str; 5] = ["content-length", "transfer-encoding", "expect", "upgrade", "trailer"];
const ASKING: [&str; 8] = [
    "range",
    "if-range",
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "cache-control",
    "cdn-loop",
];

fuzz_target!(|data: &[u8]| {
    let limits = HeadLimits { bytes_max: 1_000, fields_max: 20 };
    let (length, is_plain) = match RequestHead::of(data, limits) {
        RequestHead::Simple(request, length) => {
            assert!(request.target.as_str().starts_with('/'));
            (length, true)
        }
        RequestHead::Bodiless(length) => (length, false),
        RequestHead::Partial => {
            assert!(data.len() < limits.bytes_max);
            return;
        }
        RequestHead::Other => return,
    };
    assert!(length <= limits.bytes_max);
    let mut head = &data[..length];
    // Empty lines may stand before it.
    while let Some(rest) = head.strip_prefix(b"\r\n") {
        head = rest;
    }
    let end = head.windows(4).position(|four| four == b"\r\n\r\n").expect("an empty line");
    assert_eq!(end + 4, head.len(), "not the first empty line");
    let text = String::from_utf8_lossy(head);
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "a bare line feed");
    let mut lines = text.trim_end().split("\r\n");
    let request = lines.next().expect("a line");
    assert!(request.starts_with("GET ") || request.starts_with("HEAD "));
    assert!(request.ends_with(" HTTP/1.1"));
    let names: Vec<String> =
        lines.map(|line| line.split(':').next().unwrap_or_default().to_ascii_lowercase()).collect();
    assert!(names.len() <= limits.fields_max);
    let is_there = |name: &&str| names.iter().any(|other| other == name);
    assert!(!FRAMING.iter().any(|name| is_there(&name)), "a body is announced");
    if is_plain {
        assert_eq!(names.iter().filter(|name| *name == "host").count(), 1);
        assert!(!ASKING.iter().any(|name| is_there(&name)), "a field that has a say");
    }
});
