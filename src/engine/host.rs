//! The host a request is for: from the authority of its target, else from its one `Host` field.
//! Pure.

use http::uri::Authority;
use http::{HeaderMap, Uri, Version, header};

/// A request whose host cannot be made out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum HostError {
    #[error("the Host field is missing")]
    Missing,
    #[error("there is more than one Host field")]
    Repeated,
    #[error("the host is not a host name with an optional port")]
    Invalid,
    #[error("the Host field and the authority of the target disagree")]
    Disagrees,
}

/// The host of a request, lower case and without port or final dot (RFC 9112 section 3.2); `None`
/// where HTTP/1.0 leaves it out.
pub(super) fn of(
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Option<String>, HostError> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(HostError::Repeated);
    }
    let field = field
        .map(|value| Authority::try_from(value.as_bytes()).map_err(|_| HostError::Invalid))
        .transpose()?;
    match (uri.authority(), &field) {
        (Some(target), Some(field)) if !same(target, field) => Err(HostError::Disagrees),
        (Some(authority), _) | (None, Some(authority)) => name(authority).map(Some),
        (None, None) if version <= Version::HTTP_10 => Ok(None),
        (None, None) => Err(HostError::Missing),
    }
}

fn same(one: &Authority, other: &Authority) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

fn name(authority: &Authority) -> Result<String, HostError> {
    let host = authority.host().trim_end_matches('.');
    let is_plain = !authority.as_str().contains('@') && !host.is_empty();
    let has_port = authority.as_str().len() == authority.host().len() || authority.port().is_some();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    if !is_plain || !has_port || !host.chars().all(allowed) {
        return Err(HostError::Invalid);
    }
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn host(uri: &str, version: Version, fields: &[&str]) -> Result<Option<String>, HostError> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(header::HOST, HeaderValue::from_str(field).unwrap());
        }
        of(&uri.parse().unwrap(), version, &headers)
    }

    #[test]
    fn one_host_field_names_the_host() {
        let name = |field| host("/x", Version::HTTP_11, &[field]);
        assert_eq!(name("Cache.Example.org:8080"), Ok(Some("cache.example.org".into())));
        assert_eq!(name("cache.example.org."), Ok(Some("cache.example.org".into())));
        assert_eq!(name("[::1]:80"), Ok(Some("[::1]".into())));
        assert_eq!(name("127.0.0.1"), Ok(Some("127.0.0.1".into())));
    }

    #[test]
    fn doubtful_hosts_are_refused() {
        let name = |fields: &[&str]| host("/x", Version::HTTP_11, fields);
        assert_eq!(name(&[]), Err(HostError::Missing));
        assert_eq!(name(&["a", "a"]), Err(HostError::Repeated));
        for bad in ["user@a", "a b", "", "a/b", "a:port", "a:", "a,b", "a%41"] {
            assert_eq!(name(&[bad]), Err(HostError::Invalid), "{bad:?}");
        }
        assert_eq!(host("/x", Version::HTTP_10, &[]), Ok(None));
    }

    #[test]
    fn the_authority_of_the_target_must_agree() {
        let at = |fields: &[&str]| host("http://a:80/x", Version::HTTP_2, fields);
        assert_eq!(at(&[]), Ok(Some("a".into())));
        assert_eq!(at(&["A:80"]), Ok(Some("a".into())));
        assert_eq!(at(&["b:80"]), Err(HostError::Disagrees));
    }
}
