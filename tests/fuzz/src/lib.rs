//! What the fuzz targets share: texts, fields and numbers made of the fuzzer's bytes. Pure; each
//! file in `targets` is one target, which states what holds of its parser for every input.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `data` as text; `None` if it is not UTF-8.
pub fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// The lines of `data`, without their line feeds.
pub fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == b'\n')
}

/// One field `name` for each line of `data` that can be a field's value.
pub fn fields(name: &HeaderName, data: &[u8]) -> HeaderMap {
    lines(data)
        .filter_map(|line| Some((name.clone(), HeaderValue::from_bytes(line).ok()?)))
        .fold(HeaderMap::new(), with)
}

/// The fields that the lines `name: value` of `data` make; other lines are passed over.
pub fn named_fields(data: &[u8]) -> HeaderMap {
    lines(data).filter_map(named_field).fold(HeaderMap::new(), with)
}

/// The first eight bytes of `data` as a number, missing ones as zero, and what follows them.
pub fn number(data: &[u8]) -> (u64, &[u8]) {
    let (head, rest) = data.split_at(data.len().min(8));
    let number = head.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    (number, rest)
}

fn named_field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii_start()).ok()?;
    Some((name, value))
}

fn with(mut headers: HeaderMap, (name, value): (HeaderName, HeaderValue)) -> HeaderMap {
    headers.append(name, value);
    headers
}
