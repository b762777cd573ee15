//! Just enough of Rust's lexical grammar to tell code from comments and strings. Pure functions
//! over text; the style checks call it, nothing else does.

/// The text with comments blanked and the contents of string and character literals replaced by
/// `~`, so that every byte keeps its line and column.
pub(crate) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match token_at(bytes, at) {
            Token::Code => {
                out.push(bytes[at]);
                at += 1;
                continue;
            }
            Token::Comment(end) => {
                out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
                end
            }
            Token::Literal { open, end } => {
                out.extend_from_slice(&bytes[at..at + open]);
                let inner = &bytes[at + open..end];
                out.extend(inner.iter().map(|b| if *b == b'\n' { b'\n' } else { b'~' }));
                end
            }
        };
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

enum Token {
    Code,
    Comment(usize),
    Literal { open: usize, end: usize },
}

fn token_at(bytes: &[u8], at: usize) -> Token {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let end = rest.iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
        return Token::Comment(end);
    }
    if rest.starts_with(b"/*") {
        return Token::Comment(block_comment_end(bytes, at));
    }
    let starts_word = at == 0 || !is_word(bytes[at - 1]);
    if starts_word && let Some(literal) = raw_string(bytes, at) {
        return literal;
    }
    match rest[0] {
        b'"' => Token::Literal { open: 1, end: quoted_end(bytes, at, b'"') },
        b'\'' if is_character(rest) => {
            Token::Literal { open: 1, end: quoted_end(bytes, at, b'\'') }
        }
        _ => Token::Code,
    }
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0_usize, start);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `r"..."`, `r#"..."#`, `br"..."` at `at`.
fn raw_string(bytes: &[u8], at: usize) -> Option<Token> {
    let prefix = if bytes[at..].starts_with(b"br") { 2 } else { 1 };
    if prefix == 1 && bytes[at] != b'r' {
        return None;
    }
    let hashes = bytes[at + prefix..].iter().take_while(|b| **b == b'#').count();
    let open = prefix + hashes + 1;
    if bytes.get(at + open - 1) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = &bytes[at + open..];
    let length = body.windows(close.len()).position(|w| w == close).unwrap_or(body.len());
    Some(Token::Literal { open, end: (at + open + length + close.len()).min(bytes.len()) })
}

/// Whether a quote opens a character literal rather than a lifetime.
fn is_character(rest: &[u8]) -> bool {
    match rest.get(1) {
        Some(b'\\') => true,
        Some(byte) if byte.is_ascii() => rest.get(2) == Some(&b'\''),
        Some(_) => true,
        None => false,
    }
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The code with every item under `#[cfg(test)]` blanked; takes the result of [`code_only`].
pub(crate) fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    let marker = b"#[cfg(test)]";
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(marker.len()).position(|w| w == marker) {
        let start = at + found;
        let end = item_end(&bytes, start + marker.len());
        bytes[start..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
        at = end;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The end of the item that begins at `start`: its `;`, the brace that closes it, or the comma
/// behind a field, which stands at the end of a line.
fn item_end(bytes: &[u8], start: usize) -> usize {
    if is_field(&bytes[start..]) {
        return field_end(bytes, start);
    }
    let stop = bytes[start..].iter().position(|b| matches!(b, b';' | b'{'));
    match stop.map(|n| start + n) {
        Some(at) if bytes[at] == b'{' => closing(bytes, at),
        Some(at) => at + 1,
        None => bytes.len(),
    }
}

/// Whether a field of a struct or a parameter begins here: a name and one colon.
fn is_field(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let text = match text.strip_prefix(b"pub") {
        Some(rest) if rest.starts_with(b"(") => {
            let end = rest.iter().position(|b| *b == b')').map_or(rest.len(), |at| at + 1);
            rest[end..].trim_ascii_start()
        }
        Some(rest) if rest.starts_with(b" ") => rest.trim_ascii_start(),
        Some(_) | None => text,
    };
    let name = text.iter().take_while(|b| is_word(**b)).count();
    name > 0 && text[name..].starts_with(b":") && !text[name..].starts_with(b"::")
}

fn field_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0_i32;
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 && bytes.get(at + 1) == Some(&b'\n') => return at + 1,
            _ => {}
        }
        if depth < 0 {
            return at;
        }
    }
    bytes.len()
}

/// One past the brace that closes the one at `open`.
pub(crate) fn closing(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    bytes.len()
}

/// Whether the byte may stand in an identifier.
pub(crate) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The offsets at which `word` stands with no identifier byte on either side.
pub(crate) fn words(code: &str, word: &str) -> Vec<usize> {
    let bytes = code.as_bytes();
    let is_free = |at: usize| {
        let before = at.checked_sub(1).is_none_or(|b| !is_word(bytes[b]));
        before && bytes.get(at + word.len()).is_none_or(|b| !is_word(*b))
    };
    code.match_indices(word).map(|(at, _)| at).filter(|at| is_free(*at)).collect()
}

/// The line of an offset, counted from 1.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// A function: its name, its offset, and the offsets of its signature and body.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) offset: usize,
    pub(crate) signature: std::ops::Range<usize>,
    pub(crate) body: std::ops::Range<usize>,
}

/// Every function that has a body; takes the result of [`code_only`].
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for offset in words(code, "fn") {
        let start = offset + 2;
        let name: String = code[start..]
            .trim_start()
            .bytes()
            .take_while(|b| is_word(*b))
            .map(char::from)
            .collect();
        let Some(open) = body_open(bytes, start) else { continue };
        if !name.is_empty() {
            let body = open..closing(bytes, open);
            found.push(Function { name, offset, signature: start..open, body });
        }
    }
    found
}

/// The `{` of the body of the function whose signature begins at `start`; `None` for a
/// declaration or a function pointer type.
fn body_open(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(at),
            b';' if depth == 0 => return None,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    None
}

#[test]
fn comments_and_literals_are_blanked_in_place() {
    let text = "a // crate::x\n\"crate::y\" 'c' r#\"crate::z\"# /* /* */ crate::w */ &'a b";
    let code = code_only(text);
    assert_eq!(code.len(), text.len());
    assert!(!code.contains("crate"), "{code}");
    assert!(code.starts_with("a ") && code.ends_with("&'a b"), "{code}");
}

#[test]
fn test_items_are_blanked_and_nothing_else() {
    let code = without_tests("fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}\n");
    assert!(code.contains("fn a") && code.contains("fn c") && !code.contains("fn b"), "{code}");
    let code =
        without_tests("struct A {\n    #[cfg(test)]\n    pub(super) b: B<u8, u8>,\n    c: C,\n}\n");
    assert!(code.contains("c: C,\n}") && !code.contains("b: B"), "{code}");
    let code = without_tests("A {\n    #[cfg(test)]\n    b: f(|| { 1 }),\n    c,\n}\nfn d() {}\n");
    assert!(code.contains("c,\n}\nfn d()") && !code.contains("b: f"), "{code}");
    let code = without_tests("#[cfg(test)]\nb::c();\nd();\n");
    assert_eq!(code.trim(), "d();");
}

#[test]
fn functions_are_found_with_their_bodies() {
    let code =
        "fn a<T>(x: fn(u8) -> u8) -> T where T: Into<[u8; 2]> {\n1\n}\ntrait X { fn b(); }\n";
    let found = functions(code);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].name.as_str(), &code[found[0].body.clone()]), ("a", "{\n1\n}"));
}
