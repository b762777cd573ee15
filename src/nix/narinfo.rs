//! narinfos: what a cache says of one store path (Nix: `src/libstore/nar-info.cc`). Pure. Reading
//! never changes what is passed on: the bytes that came are the bytes that are served; printing
//! is for narinfos that are made here. As strict as Nix, and stricter if two readers might
//! understand the same bytes in two ways.

use super::hash::{HashError, NixHash};
use super::nar_file::{NarCompression, NarContents};
use super::store_path::{StoreDir, StorePath, StorePathError};
use std::fmt;

/// Bytes that a narinfo may have. The largest of cache.nixos.org have some 100 KiB.
pub const NARINFO_BYTES_MAX: usize = 1024 * 1024;

/// `Sig` lines that a narinfo may have: each one may cost a verification.
pub const SIGNATURES_MAX: usize = 64;

/// The value of `Deriver` if it is unknown.
const UNKNOWN_DERIVER: &str = "unknown-deriver";

/// The compression of a bare archive.
const NO_COMPRESSION: &str = "none";

/// The compression of a narinfo that names none.
const DEFAULT_COMPRESSION: &str = "bzip2";

/// What a cache says of one store path.
///
/// The texts never hold a line break; a caller that builds one by hand ensures that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The folder of `StorePath`.
    pub store_dir: StoreDir,
    /// `StorePath`, without its folder.
    pub store_path: StorePath,
    /// `URL`: the place of the archive, relative to the cache; opaque, a query included.
    pub url: String,
    /// `Compression` of the archive.
    pub compression: String,
    /// `FileHash`, of the compressed archive.
    pub file_hash: Option<NixHash>,
    /// `FileSize`, bytes of the compressed archive; 0 is read as unknown, as in Nix.
    pub file_size: Option<u64>,
    /// `NarHash`, SHA-256 of the archive.
    pub nar_sha256: [u8; 32],
    /// `NarSize`, bytes of the archive; never 0.
    pub nar_size: u64,
    /// `References`, sorted, none twice.
    pub references: Vec<StorePath>,
    /// `Deriver`, if known.
    pub deriver: Option<StorePath>,
    /// `System`; only old caches say it.
    pub system: Option<String>,
    /// The values of the `Sig` lines, in their order.
    pub signatures: Vec<String>,
    /// `CA`: how the path follows from its content, if it does.
    pub content_address: Option<String>,
}

/// The place of the archive: a path as this cache's keys spell it, and a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarLocation {
    /// Decoded, with a leading `/`.
    pub path: String,
    /// As it stands in the URL, without the `?`.
    pub query: Option<String>,
}

/// Why bytes are not a narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarInfoError {
    /// Too large.
    #[error("a narinfo of {found} bytes; at most {NARINFO_BYTES_MAX} are read")]
    TooLarge {
        /// Bytes of the text.
        found: usize,
    },
    /// Nothing at all.
    #[error("the narinfo is empty")]
    Empty,
    /// A web page, mostly of a captive portal or a failing upstream.
    #[error("a web page or other markup in place of a narinfo")]
    Markup,
    /// Not UTF-8, or with a control character such as CR or NUL.
    #[error("line {line} holds bytes that are not UTF-8 or a control character")]
    Characters {
        /// The line, from 1.
        line: usize,
    },
    /// A line that is not `Key: value`.
    #[error("line {line} is not 'Key: value'")]
    Line {
        /// The line, from 1.
        line: usize,
    },
    /// The last line does not end.
    #[error("the last line does not end with a line feed; the narinfo may be cut short")]
    Unterminated,
    /// A key stands twice, with values that cannot both hold.
    #[error("{key} occurs twice")]
    Twice {
        /// The key.
        key: &'static str,
    },
    /// Too many `Sig` lines.
    #[error("more than {SIGNATURES_MAX} Sig lines")]
    TooManySignatures,
    /// A key that every narinfo has is missing or empty.
    #[error("{key} is missing or empty")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A number that is none, or a `NarSize` of 0.
    #[error("{key} is not a number of bytes")]
    Number {
        /// The key.
        key: &'static str,
    },
    /// A hash that is none.
    #[error("{key}: {source}")]
    Hash {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: HashError,
    },
    /// A `NarHash` by another algorithm. Only a SHA-256 can be checked.
    #[error("NarHash is not a SHA-256")]
    NarHashAlgorithm,
    /// A store path that is none.
    #[error("{key}: {source}")]
    StorePath {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        source: StorePathError,
    },
}

impl NarInfo {
    /// Reads a narinfo.
    pub fn parse(bytes: &[u8]) -> Result<Self, NarInfoError> {
        NarInfoLines::read(bytes)?.into_narinfo()
    }

    /// Whether this is the narinfo of `<hash_part>.narinfo`.
    pub fn matches_hash_part(&self, hash_part: &str) -> bool {
        self.store_path.hash_part() == hash_part
    }

    /// What a signature is of: `1;<path>;<NarHash>;<NarSize>;<references>`, full paths, references
    /// separated by commas. Nothing else of a narinfo is signed.
    pub fn fingerprint(&self) -> String {
        fingerprint(
            &self.store_dir,
            &self.store_path,
            self.nar_sha256,
            self.nar_size,
            &self.references,
        )
    }

    /// SHA-256 of the file at `URL`: `FileHash`, or `NarHash` if nothing is compressed.
    pub fn file_sha256(&self) -> Option<[u8; 32]> {
        match &self.file_hash {
            Some(file_hash) => file_hash.sha256(),
            None => (self.compression == NO_COMPRESSION).then_some(self.nar_sha256),
        }
    }

    /// Bytes of the file at `URL`: `FileSize`, or `NarSize` if nothing is compressed.
    pub fn file_bytes(&self) -> Option<u64> {
        self.file_size.or((self.compression == NO_COMPRESSION).then_some(self.nar_size))
    }

    /// What the file at `URL` holds.
    pub fn contents(&self) -> NarContents {
        let compression = NarCompression::of(&self.compression);
        NarContents { sha256: self.nar_sha256, bytes: self.nar_size, compression }
    }

    /// The place of the archive in the cache that the narinfo came from.
    ///
    /// `None` if `URL` leads out of the cache (a scheme, a host, `..`) or cannot be a path
    /// (a broken escape, a fragment, a control character).
    pub fn nar_location(&self) -> Option<NarLocation> {
        let (path, query) = match self.url.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.url.as_str(), None),
        };
        let has_scheme = path.split('/').next().is_some_and(|first| first.contains(':'));
        let is_local = !has_scheme && !path.starts_with('/') && !self.url.contains('#');
        let decoded = percent_decode(path)?;
        let is_clean = decoded.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !decoded.contains(|c: char| c.is_control() || c == '\\')
            && !query.is_some_and(|query| query.contains(|c: char| c.is_control() || c == ' '));
        (is_local && is_clean)
            .then(|| NarLocation { path: format!("/{decoded}"), query: query.map(str::to_owned) })
    }
}

/// What a signature is of; see [`NarInfo::fingerprint`]. References are sorted, none twice.
pub fn fingerprint(
    store_dir: &StoreDir,
    store_path: &StorePath,
    nar_sha256: [u8; 32],
    nar_size: u64,
    references: &[StorePath],
) -> String {
    let mut sorted: Vec<&StorePath> = references.iter().collect();
    sorted.sort();
    sorted.dedup();
    let references: Vec<String> = sorted.into_iter().map(|path| store_dir.join(path)).collect();
    let nar_hash = NixHash::Sha256(nar_sha256);
    format!("1;{store_dir}/{store_path};{nar_hash};{nar_size};{}", references.join(","))
}

/// The text of the narinfo, in the order in which Nix writes it.
impl fmt::Display for NarInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "StorePath: {}/{}", self.store_dir, self.store_path)?;
        writeln!(f, "URL: {}", self.url)?;
        writeln!(f, "Compression: {}", self.compression)?;
        if let Some(file_hash) = &self.file_hash {
            writeln!(f, "FileHash: {file_hash}")?;
        }
        if let Some(file_size) = self.file_size {
            writeln!(f, "FileSize: {file_size}")?;
        }
        writeln!(f, "NarHash: {}", NixHash::Sha256(self.nar_sha256))?;
        writeln!(f, "NarSize: {}", self.nar_size)?;
        let references: Vec<&str> = self.references.iter().map(StorePath::base_name).collect();
        writeln!(f, "References: {}", references.join(" "))?;
        if let Some(deriver) = &self.deriver {
            writeln!(f, "Deriver: {deriver}")?;
        }
        if let Some(system) = &self.system {
            writeln!(f, "System: {system}")?;
        }
        for signature in &self.signatures {
            writeln!(f, "Sig: {signature}")?;
        }
        if let Some(content_address) = &self.content_address {
            writeln!(f, "CA: {content_address}")?;
        }
        Ok(())
    }
}

/// The values of the known keys, not yet understood.
#[derive(Default)]
struct NarInfoLines<'a> {
    store_path: Option<&'a str>,
    url: Option<&'a str>,
    compression: Option<&'a str>,
    file_hash: Option<&'a str>,
    file_size: Option<&'a str>,
    nar_hash: Option<&'a str>,
    nar_size: Option<&'a str>,
    references: Option<&'a str>,
    deriver: Option<&'a str>,
    system: Option<&'a str>,
    signatures: Vec<&'a str>,
    content_address: Option<&'a str>,
}

impl<'a> NarInfoLines<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, NarInfoError> {
        let text = check_text(bytes)?;
        let mut lines = Self::default();
        for (number, line) in text.split_terminator('\n').enumerate() {
            let (key, value) = line
                .split_once(':')
                .and_then(|(key, rest)| Some((key, rest.strip_prefix(' ')?)))
                .ok_or(NarInfoError::Line { line: number + 1 })?;
            lines.set(key, value)?;
        }
        Ok(lines)
    }

    /// Keys that Nix does not know are passed over, as Nix does.
    fn set(&mut self, key: &str, value: &'a str) -> Result<(), NarInfoError> {
        match key {
            "StorePath" => once(&mut self.store_path, "StorePath", value),
            "URL" => once(&mut self.url, "URL", value),
            "Compression" => once(&mut self.compression, "Compression", value),
            "FileHash" => once(&mut self.file_hash, "FileHash", value),
            "FileSize" => once(&mut self.file_size, "FileSize", value),
            "NarHash" => once(&mut self.nar_hash, "NarHash", value),
            "NarSize" => once(&mut self.nar_size, "NarSize", value),
            "References" => once(&mut self.references, "References", value),
            "Deriver" => once(&mut self.deriver, "Deriver", value),
            "System" => once(&mut self.system, "System", value),
            "CA" => once(&mut self.content_address, "CA", value),
            "Sig" if self.signatures.len() == SIGNATURES_MAX => {
                Err(NarInfoError::TooManySignatures)
            }
            "Sig" => {
                self.signatures.push(value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn into_narinfo(self) -> Result<NarInfo, NarInfoError> {
        let (store_dir, store_path) =
            StorePath::parse_anywhere(required("StorePath", self.store_path)?)
                .map_err(|source| NarInfoError::StorePath { key: "StorePath", source })?;
        let url = required("URL", self.url)?.to_owned();
        let nar_sha256 = hash("NarHash", required("NarHash", self.nar_hash)?)?
            .sha256()
            .ok_or(NarInfoError::NarHashAlgorithm)?;
        let nar_size = match number("NarSize", required("NarSize", self.nar_size)?)? {
            0 => return Err(NarInfoError::Number { key: "NarSize" }),
            nar_size => nar_size,
        };
        let deriver = self.deriver.filter(|deriver| *deriver != UNKNOWN_DERIVER);
        Ok(NarInfo {
            store_dir,
            store_path,
            url,
            compression: given(self.compression).unwrap_or(DEFAULT_COMPRESSION).to_owned(),
            file_hash: self.file_hash.map(|text| hash("FileHash", text)).transpose()?,
            file_size: self
                .file_size
                .map(|text| number("FileSize", text))
                .transpose()?
                .filter(|bytes| *bytes != 0),
            nar_sha256,
            nar_size,
            references: references(self.references.unwrap_or_default())?,
            deriver: deriver.map(|text| base_name("Deriver", text)).transpose()?,
            system: given(self.system).map(str::to_owned),
            signatures: self.signatures.into_iter().map(str::to_owned).collect(),
            content_address: given(self.content_address).map(str::to_owned),
        })
    }
}

/// Whole lines of UTF-8 without control characters, and no markup.
fn check_text(bytes: &[u8]) -> Result<&str, NarInfoError> {
    if bytes.len() > NARINFO_BYTES_MAX {
        return Err(NarInfoError::TooLarge { found: bytes.len() });
    }
    match bytes.trim_ascii_start().first() {
        None => return Err(NarInfoError::Empty),
        Some(b'<' | b'{') => return Err(NarInfoError::Markup),
        Some(_) => {}
    }
    let at = |offset: usize| {
        let breaks = bytes.iter().take(offset).filter(|byte| **byte == b'\n').count();
        NarInfoError::Characters { line: breaks + 1 }
    };
    let text = std::str::from_utf8(bytes).map_err(|fault| at(fault.valid_up_to()))?;
    if let Some(offset) = text.bytes().position(|byte| byte != b'\n' && byte.is_ascii_control()) {
        return Err(at(offset));
    }
    if text.ends_with('\n') { Ok(text) } else { Err(NarInfoError::Unterminated) }
}

fn once<'a>(
    slot: &mut Option<&'a str>,
    key: &'static str,
    value: &'a str,
) -> Result<(), NarInfoError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(NarInfoError::Twice { key }),
    }
}

/// An empty value says as much as a missing key.
fn given(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn required<'a>(key: &'static str, value: Option<&'a str>) -> Result<&'a str, NarInfoError> {
    given(value).ok_or(NarInfoError::Missing { key })
}

fn hash(key: &'static str, text: &str) -> Result<NixHash, NarInfoError> {
    NixHash::parse(text).map_err(|source| NarInfoError::Hash { key, source })
}

fn number(key: &'static str, text: &str) -> Result<u64, NarInfoError> {
    let has_only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| has_only_digits);
    number.ok_or(NarInfoError::Number { key })
}

fn base_name(key: &'static str, text: &str) -> Result<StorePath, NarInfoError> {
    StorePath::from_base_name(text).map_err(|source| NarInfoError::StorePath { key, source })
}

fn references(text: &str) -> Result<Vec<StorePath>, NarInfoError> {
    let mut paths = text
        .split(' ')
        .filter(|part| !part.is_empty())
        .map(|part| base_name("References", part))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    paths.dedup();
    Ok(paths)
}

/// `None` for a broken escape, or bytes that are not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut decoded = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (escape, rest) = piece.split_at_checked(2)?;
        let is_hexadecimal = escape.bytes().all(|byte| byte.is_ascii_hexdigit());
        decoded.push(u8::from_str_radix(escape, 16).ok().filter(|_| is_hexadecimal)?);
        decoded.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests;
