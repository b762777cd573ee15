//! Reads the error documents of S3 (`<Error><Code>..</Code><Message>..</Message></Error>`).
//! Pure, and tolerant: anything else is no document.

use quick_xml::Reader;
use quick_xml::events::Event;

/// The longest code or message that is kept, in characters.
const TEXT_CHARS_MAX: usize = 300;

/// What an S3 service says is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct S3ErrorDocument {
    /// `Code`: `NoSuchKey`, `AccessDenied` and so on.
    pub code: String,
    /// `Message`; empty if there is none.
    pub message: String,
}

impl S3ErrorDocument {
    /// The fault that `document` tells; `None` if its root is not `Error` or it has no code.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        let mut reader = Reader::from_reader(document);
        let mut open: Vec<String> = Vec::new();
        let (mut code, mut message) = (String::new(), String::new());
        // `NoSuchBucket` cut short may be `NoSuch`, which would tell of another fault or of none.
        let mut is_code_whole = false;
        loop {
            match reader.read_event() {
                Ok(Event::Start(start)) => open.push(start.local_name().as_ref().to_owned()),
                Ok(Event::End(_)) => {
                    is_code_whole |= matches!(field(&open), Some(Field::Code));
                    open.pop();
                }
                Ok(Event::Text(text)) => match field(&open) {
                    Some(Field::Code) => keep(&mut code, text.trim()),
                    Some(Field::Message) => keep(&mut message, &text),
                    None => {}
                },
                Ok(Event::Eof) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let is_code = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_' || c == '-';
        let is_sound = is_code_whole && !code.is_empty() && code.chars().all(is_code);
        is_sound.then_some(Self { code, message })
    }
}

enum Field {
    Code,
    Message,
}

/// Which field the text inside the `open` elements belongs to.
fn field(open: &[String]) -> Option<Field> {
    match open {
        [root, child] if root == "Error" && child == "Code" => Some(Field::Code),
        [root, child] if root == "Error" && child == "Message" => Some(Field::Message),
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
    }

    proptest! {
        #[test]
        fn no_input_upsets_it(document in any::<Vec<u8>>()) {
            let _ = S3ErrorDocument::parse(&document);
        }
    }
}
