//! The `URL` of a narinfo as the cache's own: a path relative to the cache, although the narinfo
//! spells out its host, or begins with `/` (Nix: `src/libstore/http-binary-cache-store.cc`). Pure.
//! No signature covers `URL`, so a cache in front of another one may put its own.

use super::narinfo::NarInfo;

/// What stands before the value of the line.
const KEY: &[u8] = b"URL: ";

/// A place that serves a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachePlace<'a> {
    /// `host` or `host:port`.
    pub authority: &'a str,
    /// What its paths begin with: nothing, or `/` and more without a `/` at its end.
    pub prefix: &'a str,
}

/// Replaces the `URL` of the narinfo `text` by a path relative to the cache, if it leads to one of
/// `places`, or begins with `/`. `None` if it is relative already, leads elsewhere, or cannot be
/// read.
pub fn with_own_url(text: &[u8], places: &[CachePlace<'_>]) -> Option<Vec<u8>> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let start = lines.take_while(|line| !line.starts_with(KEY)).map(<[u8]>::len).sum();
    let (before, rest) = text.split_at_checked(start)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (line, after) = rest.split_at_checked(end)?;
    let own = own_url(str::from_utf8(line.strip_prefix(KEY)?).ok()?, places)?;
    let replaced = [before, KEY, own.as_bytes(), after].concat();
    // What is no narinfo, or leads out of the cache, stays as it is.
    let is_local = NarInfo::parse(&replaced).ok()?.nar_location().is_some();
    is_local.then_some(replaced)
}

/// The path that `url` has in the cache; `None` if it is relative already or leads elsewhere.
fn own_url<'u>(url: &'u str, places: &[CachePlace<'_>]) -> Option<&'u str> {
    let at = |authority: &str, path: &'u str| {
        let mut own = places.iter().filter(|place| is_same(place.authority, authority));
        own.find_map(|place| path.strip_prefix(place.prefix)?.strip_prefix('/'))
    };
    if let Some(rest) = after_scheme(url) {
        let (authority, path) = rest.split_at_checked(rest.find('/')?)?;
        return at(authority, path);
    }
    // Older versions of Nix put the cache and a `/` before it; newer ones resolve it.
    let trimmed = url.trim_start_matches('/');
    if trimmed.len() == url.len() {
        return None;
    }
    if url.starts_with("//")
        && let Some((authority, path)) =
            trimmed.find('/').and_then(|at| trimmed.split_at_checked(at))
        && let Some(path) = at(authority, path)
    {
        return Some(path);
    }
    let inside = |place: &CachePlace<'_>| {
        let prefix = place.prefix.strip_prefix('/')?;
        trimmed.strip_prefix(prefix)?.strip_prefix('/')
    };
    Some(places.iter().find_map(inside).unwrap_or(trimmed))
}

/// What follows `http://` or `https://`.
fn after_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    is_http.then_some(rest)
}

/// Whether both are the same host and port. The ports that a URL need not name count as none: a
/// cache is the same one over `http` and `https`.
fn is_same(one: &str, other: &str) -> bool {
    let plain = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        let bare = [":80", ":443"].iter().find_map(|port| authority.strip_suffix(port));
        bare.map(str::to_owned).unwrap_or(authority)
    };
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    const PLACES: [CachePlace<'static>; 2] = [
        CachePlace { authority: "cache.example.org", prefix: "" },
        CachePlace { authority: "mirror:8080", prefix: "/nix/cache" },
    ];

    #[test]
    fn the_own_path_is_found() {
        for (url, expected) in [
            ("https://cache.example.org/nar/a.nar.xz", Some("nar/a.nar.xz")),
            ("HTTP://Cache.Example.org:80/nar/a.nar?hash=b", Some("nar/a.nar?hash=b")),
            ("https://cache.example.org:443/nar/a.nar", Some("nar/a.nar")),
            ("http://mirror:8080/nix/cache/nar/a.nar", Some("nar/a.nar")),
            ("http://mirror:8080/nar/a.nar", None),
            ("http://mirror:8080/nix/cached/a.nar", None),
            ("http://mirror/nix/cache/nar/a.nar", None),
            ("https://cache.example.org", None),
            ("https://cache.example.org.evil/nar/a.nar", None),
            ("https://user@cache.example.org/nar/a.nar", None),
            ("https://elsewhere/nar/a.nar", None),
            ("ftp://cache.example.org/nar/a.nar", None),
            ("/nar/a.nar", Some("nar/a.nar")),
            ("//nar/a.nar", Some("nar/a.nar")),
            ("//cache.example.org/nar/a.nar", Some("nar/a.nar")),
            ("/nix/cache/nar/a.nar", Some("nar/a.nar")),
            ("nar/a.nar", None),
            ("", None),
        ] {
            assert_eq!(own_url(url, &PLACES), expected, "{url}");
        }
    }

    fn text(url: &str) -> String {
        format!(
            "StorePath: /nix/store/2qzg4zbq1mshms228hga5qxn1cf74q0a-x\nURL: {url}\n\
             NarHash: sha256:1f1layi40aar7sfj6mbwpp9r02pp8i0zzcv9nxb15zhkdag66bv4\n\
             NarSize: 1\nReferences: \nSig: URL: a:b\n"
        )
    }

    #[test]
    fn one_line_changes_and_no_more() {
        let replaced = |url: &str| {
            let changed = with_own_url(text(url).as_bytes(), &PLACES)?;
            Some(String::from_utf8(changed).unwrap())
        };
        assert_eq!(replaced("/nar/a%20b.nar?x=y"), Some(text("nar/a%20b.nar?x=y")));
        assert_eq!(replaced("https://cache.example.org/a.nar"), Some(text("a.nar")));
        for url in ["nar/a.nar", "https://elsewhere/a.nar", "/../a.nar", "/a#b", "/", "/a//b"] {
            assert_eq!(replaced(url), None, "{url}");
        }
        assert_eq!(with_own_url(b"URL: /a\n", &PLACES), None);
        assert_eq!(with_own_url(b"URL: /a", &PLACES), None);
    }

    proptest! {
        #[test]
        fn no_url_is_too_strange(url in "(https?:)?/{0,3}(cache.example.org|mirror:8080)?\\PC*") {
            if let Some(changed) = with_own_url(text(&url).as_bytes(), &PLACES) {
                assert!(NarInfo::parse(&changed).unwrap().nar_location().is_some());
            }
        }
    }
}
