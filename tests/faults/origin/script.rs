//! What an object is, and what a good server makes of a request for it: conditions, then ranges.
//! Pure.

use super::pieces::Pieces;
use super::reply::{Asked, Content, Cut, Framing, Gate, Head, Manner, Reply};
use bytes::Bytes;
use std::path::PathBuf;

/// What is made of preconditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    Heeded,
    Ignored,
}

/// The source of the bytes of an object.
#[derive(Debug, Clone)]
pub(crate) enum Stored {
    Bytes(Bytes),
    File { path: PathBuf, length: u64 },
}

impl Stored {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// The bytes from `first` to before `end`.
    fn slice(&self, first: u64, end: u64) -> Content {
        match self {
            Self::Bytes(bytes) => {
                let [first, end] = [first, end].map(|at| usize::try_from(at).unwrap_or(usize::MAX));
                Content::Bytes(bytes.slice(first..end))
            }
            Self::File { path, .. } => {
                Content::File { path: path.clone(), first, length: end - first, opened: None }
            }
        }
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    status: u16,
    fields: Vec<(String, String)>,
    stored: Stored,
    framing: Framing,
    knows_ranges: bool,
    etag: Option<String>,
    last_modified: Option<String>,
    conditions: Conditions,
    is_for_ranges: bool,
    content_range: Option<String>,
    manner: Manner,
}

/// 200 with `body`, its length, and ranges.
pub(crate) fn says(body: impl Into<Bytes>) -> Script {
    Script::of(Stored::Bytes(body.into()))
}

impl Script {
    /// 200 with what is stored, its length, and ranges.
    pub(crate) fn of(stored: Stored) -> Self {
        Self {
            status: 200,
            fields: Vec::new(),
            stored,
            framing: Framing::Length,
            knows_ranges: true,
            etag: None,
            last_modified: None,
            conditions: Conditions::Heeded,
            is_for_ranges: false,
            content_range: None,
            manner: Manner::default(),
        }
    }

    /// `status` with a short body.
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..says(format!("origin says {status}\n")) }
    }

    /// `status` with the error document of S3.
    pub(crate) fn fault(status: u16, code: &str) -> Self {
        Self::fault_with(status, code, "")
    }

    /// The same with further elements in the document.
    pub(crate) fn fault_with(status: u16, code: &str, more: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>no</Message>{more}</Error>");
        Self { status, ..says(body) }.field("content-type", "application/xml")
    }

    /// No answer, ever.
    pub(crate) fn hangs() -> Self {
        let mut script = says("");
        script.manner.head = Head::Never;
        script
    }

    /// With this field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this entity tag, quotes included; conditions on it are honoured.
    pub(crate) fn etag(self, etag: &str) -> Self {
        Self { etag: Some(etag.to_owned()), ..self }
    }

    /// With this date; `If-Modified-Since` with the same text gets 304.
    pub(crate) fn last_modified(self, date: &str) -> Self {
        Self { last_modified: Some(date.to_owned()), ..self }
    }

    /// Ranges are ignored: 200 to everything.
    pub(crate) fn without_ranges(self) -> Self {
        Self { knows_ranges: false, ..self }
    }

    /// Chunked, without a length.
    pub(crate) fn chunked(self) -> Self {
        Self { framing: Framing::Chunked, ..self }
    }

    /// Without a length, ended by the end of the connection.
    pub(crate) fn until_close(self) -> Self {
        Self { framing: Framing::UntilClose, ..self }
    }

    /// The connection is closed after so many bytes of what is sent.
    pub(crate) fn cut_at(mut self, bytes: usize) -> Self {
        self.manner.cut_at = Some((bytes as u64, Cut::Closed));
        self
    }

    /// The connection is reset after so many bytes of what is sent.
    pub(crate) fn reset_at(mut self, bytes: usize) -> Self {
        self.manner.cut_at = Some((bytes as u64, Cut::Reset));
        self
    }

    /// So many bytes follow behind the body.
    pub(crate) fn surplus(mut self, bytes: usize) -> Self {
        self.manner.surplus = bytes;
        self
    }

    /// The body comes in pieces.
    pub(crate) fn in_pieces(mut self, pieces: Pieces) -> Self {
        self.manner.pieces = Some(pieces);
        self
    }

    /// Conditions are ignored.
    pub(crate) fn unconditional(self) -> Self {
        Self { conditions: Conditions::Ignored, ..self }
    }

    /// A request without a range gets 501.
    pub(crate) fn for_ranges_alone(self) -> Self {
        Self { is_for_ranges: true, ..self }
    }

    /// Every 206 says this of itself, whatever it is.
    pub(crate) fn content_range(self, value: &str) -> Self {
        Self { content_range: Some(value.to_owned()), ..self }
    }

    /// Stops after so many bytes of what is sent until the gate opens.
    pub(crate) fn held_at(mut self, bytes: usize, gate: &Gate) -> Self {
        self.manner.hold_at = Some((bytes as u64, gate.clone()));
        self
    }

    /// Says nothing until the gate opens.
    pub(crate) fn held(mut self, gate: &Gate) -> Self {
        self.manner.hold_head = Some(gate.clone());
        self
    }

    /// The same answer with another body.
    pub(crate) fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { stored: Stored::Bytes(body.into()), ..self }
    }

    /// What answers a request.
    pub(crate) fn reply(&self, asked: &Asked, conditions: Conditions) -> Reply {
        let (status, extra, content) = self.select(asked, conditions);
        let mut fields = self.fields.clone();
        fields.extend(extra);
        Reply { status, fields, content, framing: self.framing, manner: self.manner.clone() }
    }

    fn select(
        &self,
        asked: &Asked,
        conditions: Conditions,
    ) -> (u16, Vec<(String, String)>, Content) {
        let length = self.stored.length();
        let (whole, nothing) = (|| self.stored.slice(0, length), || Content::Bytes(Bytes::new()));
        let mut extra = Vec::new();
        let mut add = |name: &str, value: &str| extra.push((name.to_owned(), value.to_owned()));
        if let Some(etag) = &self.etag {
            add("etag", etag);
        }
        if let Some(date) = &self.last_modified {
            add("last-modified", date);
        }
        if self.is_for_ranges && asked.field("range").is_none() {
            return (501, extra, nothing());
        }
        if self.status != 200 {
            return (self.status, extra, whole());
        }
        let are_heeded = [self.conditions, conditions] == [Conditions::Heeded; 2];
        let is_same =
            |name, own: &Option<String>| own.is_some() && asked.field(name) == own.as_deref();
        if are_heeded && asked.field("if-match").is_some() && !is_same("if-match", &self.etag) {
            return (412, extra, nothing());
        }
        // RFC 9110 section 13.1.2: by the weak comparison.
        let opaque = |tag: &str| tag.trim_start_matches("W/").to_owned();
        let is_tagged = self.etag.is_some()
            && asked.field("if-none-match").map(opaque) == self.etag.as_deref().map(opaque);
        let is_known = is_tagged || is_same("if-modified-since", &self.last_modified);
        if is_known && conditions == Conditions::Heeded {
            return (304, extra, nothing());
        }
        let is_other = are_heeded
            && asked.field("if-range").is_some()
            && !is_same("if-range", &self.etag)
            && !is_same("if-range", &self.last_modified);
        let range = asked.field("range").filter(|_| self.knows_ranges && !is_other);
        // Suffixes and several ranges get the whole.
        let Some((first, last)) = range.and_then(first_and_last) else {
            return (200, extra, whole());
        };
        if first >= length {
            return (416, extra, nothing());
        }
        let end = last.map_or(length, |last| last.saturating_add(1).min(length));
        let content_range = format!("bytes {first}-{}/{length}", end - 1);
        let content_range = self.content_range.clone().unwrap_or(content_range);
        extra.push(("content-range".to_owned(), content_range));
        (206, extra, self.stored.slice(first, end))
    }
}

/// First byte and, where named, last byte of a single range that is in order.
fn first_and_last(range: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    match last {
        "" => Some((first, None)),
        last => last.parse().ok().filter(|last| *last >= first).map(|last| (first, Some(last))),
    }
}
