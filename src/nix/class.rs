//! Which class of object a path names: the grammar of what a binary cache holds. Pure. What lies
//! outside it does not exist here, and no origin is asked for it. The engine asks for every
//! request, with the canonical path: decoded, with a leading `/`.

use super::{base32, store_path};

/// Bytes that one segment of a NAR's path may have.
const SEGMENT_LEN_MAX: usize = 255;

/// Digits of the shortest and of the longest build id.
const BUILD_ID_LEN: std::ops::RangeInclusive<usize> = 8..=64;

/// Digits of the SHA-256 in a realisation's id.
const REALISATION_HASH_LEN: usize = 64;

/// The class of an object in a binary cache; a closed set, used as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Class {
    /// `<32 nix32>.narinfo`.
    Narinfo,
    /// `nar/...`.
    Nar,
    /// `<hash>.ls`.
    Listing,
    /// `log/<drv>`.
    Log,
    /// `debuginfo/<build-id>`.
    Debuginfo,
    /// `realisations/<id>.doi` and `build-trace-v2/<drv>/<out>.doi`.
    Realisation,
    /// `nix-cache-info`.
    CacheInfo,
    /// `index.html`, also asked for as `/`.
    Index,
    /// A response of a generic site; no path of a binary cache is of this class.
    Other,
}

impl Class {
    /// Every class, in the order of the metric's label values.
    pub const ALL: [Self; 9] = [
        Self::Narinfo,
        Self::Nar,
        Self::Listing,
        Self::Log,
        Self::Debuginfo,
        Self::Realisation,
        Self::CacheInfo,
        Self::Index,
        Self::Other,
    ];

    /// The name in logs, metrics and the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Narinfo => "narinfo",
            Self::Nar => "nar",
            Self::Listing => "listing",
            Self::Log => "log",
            Self::Debuginfo => "debuginfo",
            Self::Realisation => "realisation",
            Self::CacheInfo => "cache_info",
            Self::Index => "index",
            Self::Other => "other",
        }
    }

    /// The position in [`Class::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether its objects are a few kilobytes that a client waits for before anything else: they
    /// are asked for first, at more than one origin if the first is slow, and checked whole before
    /// a reader sees any of them.
    pub const fn is_small(self) -> bool {
        match self {
            Self::Narinfo | Self::CacheInfo => true,
            Self::Nar
            | Self::Listing
            | Self::Log
            | Self::Debuginfo
            | Self::Realisation
            | Self::Index
            | Self::Other => false,
        }
    }

    /// The class of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The `Content-Type` if the origin states none.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Narinfo => "text/x-nix-narinfo",
            Self::Nar => "application/x-nix-nar",
            Self::Listing | Self::Debuginfo | Self::Realisation => "application/json",
            Self::Log => "text/plain; charset=utf-8",
            Self::CacheInfo => "text/x-nix-cache-info",
            Self::Index => "text/html; charset=utf-8",
            Self::Other => "application/octet-stream",
        }
    }
}

/// The class of the object at `path`, canonical, decoded, with its leading `/`.
///
/// `None` outside the grammar of a binary cache: nothing is there, and no origin is asked.
pub fn classify(path: &str) -> Option<Class> {
    let path = path.strip_prefix('/')?;
    // At once for what is asked for most: to look for a byte is cheaper than to split a string.
    if !path.as_bytes().contains(&b'/') {
        return top_level(path);
    }
    match path.split_once('/') {
        None => top_level(path),
        Some(("nar", rest)) => rest.split('/').all(is_nar_segment).then_some(Class::Nar),
        Some(("log", rest)) => is_store_path(rest).then_some(Class::Log),
        Some(("debuginfo", rest)) => {
            let build_id = rest.strip_suffix(".debug").unwrap_or(rest);
            is_build_id(build_id).then_some(Class::Debuginfo)
        }
        Some(("realisations", rest)) => is_realisation(rest).then_some(Class::Realisation),
        Some(("build-trace-v2", rest)) => is_build_trace(rest).then_some(Class::Realisation),
        Some(_) => None,
    }
}

/// The hash part of the store path that `/<hash part>.narinfo` or `/<hash part>.ls` is about.
pub fn hash_part_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix('/')?;
    let hash_part = name.strip_suffix(".narinfo").or_else(|| name.strip_suffix(".ls"))?;
    store_path::is_hash_part(hash_part).then_some(hash_part)
}

/// The SHA-256 that the file at `path` must have, if its name says so: `/nar/<52 digits>.nar.xz`
/// or `.bz2`. Never for `.nar.zst` and `.nar`: those are named by the hash of what is inside.
pub fn file_hash_of(path: &str) -> Option<[u8; 32]> {
    let name = path.strip_prefix("/nar/")?;
    let digits = name.strip_suffix(".nar.xz").or_else(|| name.strip_suffix(".nar.bz2"))?;
    base32::decode(digits).ok()
}

fn top_level(name: &str) -> Option<Class> {
    match name {
        "" | "index.html" => return Some(Class::Index),
        "nix-cache-info" => return Some(Class::CacheInfo),
        _ => {}
    }
    let (hash_part, class) = match name.strip_suffix(".narinfo") {
        Some(hash_part) => (hash_part, Class::Narinfo),
        None => (name.strip_suffix(".ls")?, Class::Listing),
    };
    store_path::is_hash_part(hash_part).then_some(class)
}

fn is_nar_segment(segment: &str) -> bool {
    let is_safe =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'=' | b'-');
    !matches!(segment, "" | "." | "..")
        && segment.len() <= SEGMENT_LEN_MAX
        && segment.bytes().all(is_safe)
}

fn is_store_path(base_name: &str) -> bool {
    store_path::check_base_name(base_name).is_ok()
}

fn is_build_id(text: &str) -> bool {
    BUILD_ID_LEN.contains(&text.len()) && is_lower_base16(text)
}

/// `sha256:<64 digits>!<output>.doi`.
fn is_realisation(text: &str) -> bool {
    let parts = text.strip_prefix("sha256:").and_then(|rest| rest.split_once('!'));
    parts.is_some_and(|(hash, output)| {
        hash.len() == REALISATION_HASH_LEN && is_lower_base16(hash) && is_output_file(output)
    })
}

/// `<derivation>/<output>.doi`.
fn is_build_trace(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(derivation, output)| is_store_path(derivation) && is_output_file(output))
}

fn is_output_file(name: &str) -> bool {
    name.strip_suffix(".doi").is_some_and(|output| store_path::check_name(output).is_ok())
}

fn is_lower_base16(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    const HASH: &str = "2qzg4zbq1mshms228hga5qxn1cf74q0a";
    const FILE: &str = "0rwlk7j4wvisf4c9gd7l6cr3lvkjr9sqlrrhsw6nhj1yyg5vlrdv";

    #[test]
    fn every_kind_of_object_has_its_class() {
        let id = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for (path, class) in [
            ("/".to_owned(), Class::Index),
            ("/index.html".to_owned(), Class::Index),
            ("/nix-cache-info".to_owned(), Class::CacheInfo),
            (format!("/{HASH}.narinfo"), Class::Narinfo),
            (format!("/{HASH}.ls"), Class::Listing),
            (format!("/nar/{FILE}.nar.xz"), Class::Nar),
            (format!("/nar/{FILE}.nar"), Class::Nar),
            ("/nar/a".to_owned(), Class::Nar),
            ("/nar/snix-castore/EiQKIGVjYj==".to_owned(), Class::Nar),
            (format!("/nar/{HASH}-{FILE}.nar.zst"), Class::Nar),
            (format!("/log/{HASH}-hello-2.10.drv"), Class::Log),
            (format!("/log/{HASH}-hello-2.10.drv.bz2"), Class::Log),
            (format!("/log/{HASH}-hello-2.10"), Class::Log),
            ("/debuginfo/0032733b6513f9afeb0e3f78e638ea24dc374a4d".to_owned(), Class::Debuginfo),
            ("/debuginfo/0032733b6513f9af.debug".to_owned(), Class::Debuginfo),
            (format!("/realisations/sha256:{id}!out.doi"), Class::Realisation),
            (format!("/build-trace-v2/{HASH}-x.drv/out.doi"), Class::Realisation),
        ] {
            assert_eq!(classify(&path), Some(class), "{path}");
        }
    }

    #[test]
    fn nothing_else_is_there() {
        let long = "a".repeat(SEGMENT_LEN_MAX + 1);
        let id = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for path in [
            String::new(),
            HASH.to_owned(),
            format!("{HASH}.narinfo"),
            format!("//{HASH}.narinfo"),
            format!("/{HASH}.narinfo/"),
            format!("/{HASH}.narinfo/x.css"),
            format!("/{HASH}.NARINFO"),
            format!("/{}.narinfo", HASH.to_uppercase()),
            format!("/{HASH}0.narinfo"),
            "/2qzg4zbq1mshms228hga5qxn1cf74q0e.narinfo".to_owned(),
            format!("/{HASH}"),
            "/favicon.ico".to_owned(),
            "/wp-login.php".to_owned(),
            "/nar".to_owned(),
            "/nar/".to_owned(),
            "/nar//a".to_owned(),
            "/nar/a/".to_owned(),
            "/nar/../nix-cache-info".to_owned(),
            "/nar/./a".to_owned(),
            "/nar/a b".to_owned(),
            "/nar/a%2f".to_owned(),
            "/nar/a\0".to_owned(),
            "/nar/a\\b".to_owned(),
            "/nar/\u{e4}".to_owned(),
            format!("/nar/{long}"),
            "/log/hello.drv".to_owned(),
            format!("/log/{HASH}-a/b"),
            "/debuginfo/".to_owned(),
            "/debuginfo/.debug".to_owned(),
            "/debuginfo/0032733B6513F9AF.debug".to_owned(),
            "/debuginfo/0032733.debug".to_owned(),
            format!("/debuginfo/{id}0"),
            format!("/realisations/sha256:{id}!.doi"),
            format!("/realisations/sha256:{id}!out"),
            format!("/realisations/sha256:{id}%21out.doi"),
            format!("/realisations/sha512:{id}!out.doi"),
            format!("/realisations/sha256:{HASH}!out.doi"),
            format!("/build-trace-v2/{HASH}-x.drv"),
            format!("/build-trace-v2/{HASH}-x.drv/a/out.doi"),
            "/index.html/".to_owned(),
        ] {
            assert_eq!(classify(&path), None, "{path}");
        }
    }

    #[test]
    fn a_name_proves_a_file_only_where_it_is_the_files_hash() {
        let hash = base32::decode::<32>(FILE).ok();
        assert!(hash.is_some());
        assert_eq!(file_hash_of(&format!("/nar/{FILE}.nar.xz")), hash);
        assert_eq!(file_hash_of(&format!("/nar/{FILE}.nar.bz2")), hash);
        for name in [
            format!("{FILE}.nar.zst"),
            format!("{FILE}.nar"),
            format!("x/{FILE}.nar.xz"),
            format!("{HASH}-{FILE}.nar.xz"),
            format!("{HASH}.nar.xz"),
            format!("z{}.nar.xz", "0".repeat(51)),
        ] {
            assert_eq!(file_hash_of(&format!("/nar/{name}")), None, "{name}");
        }
        assert_eq!(file_hash_of(&format!("/{FILE}.nar.xz")), None);
        assert_eq!(hash_part_of(&format!("/{HASH}.narinfo")), Some(HASH));
        assert_eq!(hash_part_of(&format!("/{HASH}.ls")), Some(HASH));
        assert_eq!(hash_part_of("/nix-cache-info"), None);
    }

    #[test]
    fn names_lead_back_to_classes() {
        for class in Class::ALL {
            assert_eq!(Class::named(class.as_str()), Some(class));
            assert!(!class.content_type().is_empty());
            assert_eq!(Class::ALL[class.index()], class);
        }
        assert_eq!(Class::named("narinfos"), None);
    }

    proptest! {
        #[test]
        fn no_path_is_too_strange(path in any::<String>()) {
            let _ = (classify(&path), file_hash_of(&path), hash_part_of(&path));
        }

        #[test]
        fn what_is_served_is_safe_on_a_disk_and_in_a_url(
            path in "/(nar|log|debuginfo|realisations)?/?[0-9a-zA-Z._+/%?!: -]{0,60}",
        ) {
            if classify(&path).is_some() {
                let is_safe = |c: char| c.is_ascii_graphic() && !matches!(c, '%' | '#' | '\\');
                assert!(path.chars().all(is_safe));
                assert!(!path.contains("//") && !path.contains("/../") && !path.contains("/./"));
            }
        }

        #[test]
        fn what_proves_a_file_is_a_nar(
            path in "/nar/[01][0-9a-df-np-sv-z]{51}\\.nar\\.(xz|bz2|zst)",
        ) {
            assert_eq!(classify(&path), Some(Class::Nar));
            assert_eq!(file_hash_of(&path).is_some(), !path.contains(".zst"));
        }
    }
}
