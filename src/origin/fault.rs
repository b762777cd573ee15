//! Reads the error documents of S3 (`<Error><Code>..</Code><Message>..</Message></Error>`).
//! Pure, and tolerant: anything else is no document.

use quick_xml::Reader;
use quick_xml::events::Event;

/// The longest code or message that is kept, in characters.
const TEXT_CHARS_MAX: usize = 300;

/// What an S3 service says is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct S3ErrorDocument {
    /// `Code`: `NoSuchKey`, `AccessDenied` and so on.
    pub code: String,
    /// `Message`; empty if there is none.
    pub message: String,
    /// `Region`: that of the bucket.
    pub region: Option<String>,
    /// `Endpoint`: the host to ask instead.
    pub endpoint: Option<String>,
}

impl S3ErrorDocument {
    /// The fault that `document` tells; `None` if its root is not `Error` or it has no code.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        let mut reader = Reader::from_reader(document);
        let mut open: Vec<String> = Vec::new();
        let (mut code, mut message) = (String::new(), String::new());
        let (mut region, mut endpoint) = (String::new(), String::new());
        // `NoSuchBucket` cut short may be `NoSuch`, which would tell of another fault or of none.
        // Half of a region or a host would name another.
        let mut whole = Vec::new();
        loop {
            match reader.read_event() {
                Ok(Event::Start(start)) => open.push(start.local_name().as_ref().to_owned()),
                Ok(Event::End(_)) => {
                    whole.extend(field(&open));
                    open.pop();
                }
                Ok(Event::Text(text)) => match field(&open) {
                    Some(Field::Code) => keep(&mut code, text.trim()),
                    Some(Field::Message) => keep(&mut message, &text),
                    Some(Field::Region) => keep(&mut region, text.trim()),
                    Some(Field::Endpoint) => keep(&mut endpoint, text.trim()),
                    None => {}
                },
                Ok(Event::Eof) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let is_code = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '-';
        let is_whole = |field| whole.contains(&field);
        let is_sound = is_whole(Field::Code) && !code.is_empty() && code.chars().all(is_code);
        let region = Some(region).filter(|_| is_whole(Field::Region));
        let endpoint = Some(endpoint).filter(|_| is_whole(Field::Endpoint));
        is_sound.then_some(Self { code, message, region, endpoint })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Code,
    Message,
    Region,
    Endpoint,
}

/// Which field the text inside the `open` elements belongs to.
fn field(open: &[String]) -> Option<Field> {
    match open {
        [root, child] if root == "Error" && child == "Code" => Some(Field::Code),
        [root, child] if root == "Error" && child == "Message" => Some(Field::Message),
        [root, child] if root == "Error" && child == "Region" => Some(Field::Region),
        [root, child] if root == "Error" && child == "Endpoint" => Some(Field::Endpoint),
        _ => None,
    }
}

/// Adds `text`, bounded and without control characters, so that it may be logged.
fn keep(to: &mut String, text: &str) {
    let room = TEXT_CHARS_MAX.saturating_sub(to.chars().count());
    to.extend(text.chars().filter(|c| !c.is_control()).take(room));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn the_documents_of_several_services_are_read() {
        let amazon = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>\
            <Message>The specified key does not exist.</Message><Key>x</Key></Error>";
        let fault = S3ErrorDocument::parse(amazon).unwrap();
        assert_eq!(fault.code, "NoSuchKey");
        assert_eq!(fault.message, "The specified key does not exist.");
        let namespace = b"<Error xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\n  \
            <Code>\n AccessDenied\n</Code>\n</Error>";
        assert_eq!(S3ErrorDocument::parse(namespace).unwrap().code, "AccessDenied");
    }

    #[test]
    fn anything_else_is_no_document() {
        for document in [
            "",
            "Forbidden",
            "<html><Code>NoSuchKey</Code></html>",
            "<Error><Detail><Code>NoSuchKey</Code></Detail></Error>",
            "<Error><Code></Code></Error>",
            "<Error><Code>No Such Key</Code></Error>",
            "{\"Code\": \"NoSuchKey\"}",
        ] {
            assert_eq!(S3ErrorDocument::parse(document.as_bytes()), None, "{document}");
        }
    }

    #[test]
    fn a_document_cut_short_still_tells_its_code() {
        let cut = b"<Error><Code>AccessDenied</Code><Message>Acc";
        assert_eq!(S3ErrorDocument::parse(cut).unwrap().code, "AccessDenied");
        assert_eq!(S3ErrorDocument::parse(b"<Error><Code>NoSuch"), None, "but not a half of it");
        let cut = b"<Error><Code>PermanentRedirect</Code><Endpoint>h</Endpoint><Region>eu-w";
        let fault = S3ErrorDocument::parse(cut).unwrap();
        assert_eq!((fault.region, fault.endpoint.as_deref()), (None, Some("h")));
    }

    proptest! {
        #[test]
        fn no_input_upsets_it(document in any::<Vec<u8>>()) {
            let _ = S3ErrorDocument::parse(&document);
        }
    }
}
