//! Fuzzes the private `origin::fault`, taken in by path: whatever document an origin sends, its
//! code and message are short, fit for a log, and read back from a clean document.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/origin/fault.rs"]
mod fault;

use fault::S3ErrorDocument;

const TEXT_CHARS_MAX: usize = 300;

fuzz_target!(|data: &[u8]| {
    if let Some(fault) = S3ErrorDocument::parse(data) {
        check(&fault);
    }
    // The document that the bytes would make as a message.
    let document =
        [b"<Error><Code>NoSuchKey</Code><Message>", data, b"</Message></Error>"].concat();
    if let Some(fault) = S3ErrorDocument::parse(&document) {
        check(&fault);
    }
});

fn check(fault: &S3ErrorDocument) {
    let is_code = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    assert!(!fault.code.is_empty() && fault.code.chars().all(is_code));
    let places = fault.region.iter().chain(&fault.endpoint);
    for text in [&fault.code, &fault.message].into_iter().chain(places) {
        assert!(text.chars().count() <= TEXT_CHARS_MAX && !text.contains(char::is_control));
    }
    if !fault.message.contains(['<', '&']) {
        let S3ErrorDocument { code, message, .. } = fault;
        let document = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
        let again = S3ErrorDocument::parse(document.as_bytes());
        let again = again.map(|again| (again.code, again.message));
        assert_eq!(again, Some((code.clone(), message.clone())));
    }
}
