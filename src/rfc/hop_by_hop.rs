//! Fields that belong to one connection only (RFC 9110 section 7.6.1). Pure. Called on every
//! response that is kept or passed on; requests to origins are built from scratch anyway.

use super::grammar;
use http::{HeaderMap, HeaderName, header};

/// Fields that never travel further, whether `Connection` lists them or not.
const ALWAYS: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Removes every hop-by-hop field, and every field that a `Connection` line lists.
pub fn remove(headers: &mut HeaderMap) {
    for name in listed(headers) {
        headers.remove(name);
    }
    for name in &ALWAYS {
        headers.remove(name);
    }
}

/// The names that `Connection` lists; what is no field name is left out.
fn listed(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| grammar::list_members(line.as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    #[test]
    fn what_connection_lists_goes_with_it() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-One"));
        headers.append("connection", HeaderValue::from_static("range,, not a name"));
        for name in ["x-one", "range", "x-two", "transfer-encoding", "te", "upgrade", "keep-alive"]
        {
            headers.append(name, HeaderValue::from_static("x"));
        }
        headers.append("proxy-authorization", HeaderValue::from_static("secret"));
        remove(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-two"]);
    }

    proptest! {
        #[test]
        fn any_connection_line_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(header::CONNECTION, value);
                remove(&mut headers);
                assert!(headers.is_empty());
            }
        }
    }
}
