//! Percent-encodes object paths for origins. Pure.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but RFC 3986's unreserved characters and the `/` between segments: what SigV4 wants
/// encoded (Amazon S3 API, "Signature Calculations: UriEncode"), and fit for any HTTP server.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The decoded `path`, encoded once.
pub(super) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn odd_characters_are_encoded_once() {
        assert_eq!(encode_path("/nar/a.nar.xz"), "/nar/a.nar.xz");
        assert_eq!(
            encode_path("/realisations/sha256:abc!out.doi"),
            "/realisations/sha256%3Aabc%21out.doi"
        );
        assert_eq!(encode_path("/a b+c%d\u{e9}~"), "/a%20b%2Bc%25d%C3%A9~");
    }

    proptest! {
        #[test]
        fn decoding_gives_the_path_back(path in any::<String>()) {
            let encoded = encode_path(&path);
            assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/%".contains(&b)));
            let decoded = percent_encoding::percent_decode_str(&encoded).decode_utf8().unwrap();
            assert_eq!(decoded, path);
        }
    }
}
