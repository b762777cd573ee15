//! What a request with conditions and ranges gets of an object, a million times, held against a
//! model that never reads a field: it knows what the request was made of, and marks the bytes
//! asked for one by one. By the rules of binary caches and by those of generic sites.

use crate::harness::Draw;
use http::header::{
    DATE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use narthex::policy::generic::selection as generic;
use narthex::policy::request::ReadMethod;
use narthex::policy::selection as nix;
use narthex::rfc::range::ByteSpan;
use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

/// Requests that are made.
const CASES: usize = 1_000_000;
/// Seconds at which objects change.
const CHANGED: u64 = 1_700_000_000;
/// Ranges with fewer bytes between them than these are sent as one by a generic site.
const GAP: usize = 128;
/// Ranges of one request, at most.
const RANGES_MAX: usize = 16;

impl Draw {
    fn maybe<T>(&mut self, one_in: u64, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(one_in) == 0).then(|| make(self))
    }

    fn tag(&mut self) -> Tag {
        Tag { name: self.below(3), is_weak: self.below(3) == 0 }
    }

    fn tags(&mut self) -> Tags {
        match self.below(5) {
            0 => Tags::Any,
            1 => Tags::Garbage,
            _ => Tags::List((0..=self.below(3)).map(|_| self.tag()).collect()),
        }
    }

    fn date(&mut self) -> Date {
        match self.below(6) {
            0 => Date::Garbage,
            1 => Date::Twice,
            _ => Date::At(CHANGED - 2 + self.below(5)),
        }
    }

    fn spec(&mut self, length: u64) -> Spec {
        let first = self.below(length + length / 4 + 2);
        match self.below(8) {
            0 => Spec::Suffix(self.below(length + 3)),
            1 => Spec::From(first),
            2 if self.below(4) == 0 => Spec::Malformed,
            _ => Spec::FromTo(first, first + self.below(1 + length / 3)),
        }
    }

    fn ranges(&mut self, length: u64) -> Vec<Spec> {
        let count = if self.below(20) == 0 { 15 + self.below(4) } else { 1 + self.below(3) };
        (0..count).map(|_| self.spec(length)).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Tag {
    name: u64,
    is_weak: bool,
}

#[derive(Debug)]
enum Tags {
    Any,
    Garbage,
    List(Vec<Tag>),
}

#[derive(Debug, Clone, Copy)]
enum Date {
    At(u64),
    Garbage,
    Twice,
}

#[derive(Debug)]
enum If {
    Tag(Tag),
    Date(Date),
}

#[derive(Debug, Clone, Copy)]
enum Spec {
    FromTo(u64, u64),
    From(u64),
    Suffix(u64),
    Malformed,
}

#[derive(Debug)]
struct Object {
    length: u64,
    tag: Option<Tag>,
    changed: Option<u64>,
    date: Option<u64>,
}

#[derive(Debug)]
struct Request {
    method: ReadMethod,
    matches: Option<Tags>,
    matches_none: Option<Tags>,
    modified_since: Option<Date>,
    unmodified_since: Option<Date>,
    range: Option<Vec<Spec>>,
    if_range: Option<If>,
}

/// What the request gets.
#[derive(Debug, PartialEq)]
enum Gets {
    Whole,
    Spans(Vec<(u64, u64)>),
    NotModified,
    Failed,
    Unsatisfiable,
}

/// Which rules count.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rules {
    BinaryCache,
    Generic,
}

impl Tag {
    fn text(self) -> String {
        format!("{}\"{}\"", if self.is_weak { "W/" } else { "" }, self.name)
    }

    fn is_strongly(self, other: Self) -> bool {
        !self.is_weak && !other.is_weak && self.name == other.name
    }
}

fn date_text(seconds: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds))
}

impl Object {
    fn draw(draw: &mut Draw) -> Self {
        let length = match draw.below(10) {
            0 => draw.below(4),
            1 => 2_000 + draw.below(500),
            _ => draw.below(900),
        };
        let changed = draw.maybe(2, |_| CHANGED);
        Self {
            length,
            tag: draw.maybe(2, Draw::tag),
            changed,
            date: draw.maybe(2, |draw| CHANGED + draw.below(3) * 59 + draw.below(2)),
        }
    }

    fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        put(&mut fields, &ETAG, self.tag.map(Tag::text));
        put(&mut fields, &LAST_MODIFIED, self.changed.map(date_text));
        put(&mut fields, &DATE, self.date.map(date_text));
        fields
    }
}

fn put(fields: &mut HeaderMap, name: &HeaderName, value: Option<String>) {
    if let Some(value) = value {
        fields.append(name, HeaderValue::from_str(&value).unwrap());
    }
}

fn put_tags(fields: &mut HeaderMap, name: &HeaderName, tags: Option<&Tags>) {
    let text = |tags: &Tags| match tags {
        Tags::Any => "*".to_owned(),
        Tags::Garbage => "no tag".to_owned(),
        Tags::List(tags) => tags.iter().map(|tag| tag.text()).collect::<Vec<_>>().join(", "),
    };
    put(fields, name, tags.map(text));
}

fn put_date(fields: &mut HeaderMap, name: &HeaderName, date: Option<Date>) {
    match date {
        None => {}
        Some(Date::At(seconds)) => put(fields, name, Some(date_text(seconds))),
        Some(Date::Garbage) => put(fields, name, Some("yesterday".to_owned())),
        Some(Date::Twice) => {
            put(fields, name, Some(date_text(CHANGED)));
            put(fields, name, Some(date_text(CHANGED)));
        }
    }
}

impl Request {
    fn draw(draw: &mut Draw, length: u64) -> Self {
        Self {
            method: if draw.below(8) == 0 { ReadMethod::Head } else { ReadMethod::Get },
            matches: draw.maybe(6, Draw::tags),
            matches_none: draw.maybe(5, Draw::tags),
            modified_since: draw.maybe(5, Draw::date),
            unmodified_since: draw.maybe(6, Draw::date),
            range: (draw.below(4) > 0).then(|| draw.ranges(length)),
            if_range: draw.maybe(4, |draw| match draw.below(2) {
                0 => If::Tag(draw.tag()),
                _ => If::Date(draw.date()),
            }),
        }
    }

    fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        put_tags(&mut fields, &IF_MATCH, self.matches.as_ref());
        put_tags(&mut fields, &IF_NONE_MATCH, self.matches_none.as_ref());
        put_date(&mut fields, &IF_MODIFIED_SINCE, self.modified_since);
        put_date(&mut fields, &IF_UNMODIFIED_SINCE, self.unmodified_since);
        match &self.if_range {
            None => {}
            Some(If::Tag(tag)) => put(&mut fields, &IF_RANGE, Some(tag.text())),
            Some(If::Date(date)) => put_date(&mut fields, &IF_RANGE, Some(*date)),
        }
        let spec = |spec: &Spec| match spec {
            Spec::FromTo(first, last) => format!("{first}-{last}"),
            Spec::From(first) => format!("{first}-"),
            Spec::Suffix(length) => format!("-{length}"),
            Spec::Malformed => "9-8".to_owned(),
        };
        let ranges = self.range.as_ref().map(|specs| {
            let specs: Vec<_> = specs.iter().map(spec).collect();
            format!("bytes={}", specs.join(","))
        });
        put(&mut fields, &RANGE, ranges);
        fields
    }

    /// RFC 9110 section 13.2.2, step by step.
    fn gets(&self, object: &Object, rules: Rules) -> Gets {
        let is_listed = |tags: &Tags, is_same: &dyn Fn(Tag, Tag) -> bool| match tags {
            Tags::Any => true,
            Tags::Garbage => false,
            Tags::List(tags) => object.tag.is_some_and(|own| tags.iter().any(|t| is_same(own, *t))),
        };
        if let Some(tags) = &self.matches {
            if !is_listed(tags, &Tag::is_strongly) {
                return Gets::Failed;
            }
        } else if let (Some(Date::At(limit)), Some(changed)) =
            (self.unmodified_since, object.changed)
            && changed > limit
        {
            return Gets::Failed;
        }
        if let Some(tags) = &self.matches_none {
            if is_listed(tags, &|one, other| one.name == other.name) {
                return Gets::NotModified;
            }
        } else if let (Some(Date::At(known)), Some(changed)) = (self.modified_since, object.changed)
            && changed <= known
        {
            return Gets::NotModified;
        }
        match &self.range {
            Some(specs) if self.method == ReadMethod::Get && self.range_counts(object, rules) => {
                ranges(specs, object.length, rules)
            }
            _ => Gets::Whole,
        }
    }

    fn range_counts(&self, object: &Object, rules: Rules) -> bool {
        match &self.if_range {
            None => true,
            Some(If::Tag(tag)) => object.tag.is_some_and(|own| own.is_strongly(*tag)),
            Some(If::Date(Date::At(at))) => {
                let is_strong = rules == Rules::BinaryCache
                    || object.date.is_some_and(|date| date >= CHANGED + 60);
                object.changed == Some(*at) && is_strong
            }
            Some(If::Date(Date::Garbage | Date::Twice)) => false,
        }
    }
}

/// The bytes asked for, marked one by one.
fn ranges(specs: &[Spec], length: u64, rules: Rules) -> Gets {
    if specs.len() > RANGES_MAX || specs.iter().any(|spec| matches!(spec, Spec::Malformed)) {
        return Gets::Whole;
    }
    if length == 0 && specs.iter().any(|spec| matches!(spec, Spec::Suffix(1..))) {
        return Gets::Whole;
    }
    let is_wanted = |at: u64| {
        specs.iter().any(|spec| match *spec {
            Spec::FromTo(first, last) => first <= at && at <= last,
            Spec::From(first) => first <= at,
            Spec::Suffix(count) => at + count >= length,
            Spec::Malformed => false,
        })
    };
    let gap = if rules == Rules::Generic { GAP as u64 } else { 1 };
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for at in (0..length).filter(|at| is_wanted(*at)) {
        match spans.last_mut() {
            Some((_, last)) if at - *last <= gap => *last = at,
            _ => spans.push((at, at)),
        }
    }
    let sent: u64 = spans.iter().map(|(first, last)| last - first + 1 + GAP as u64).sum();
    match spans.len() {
        0 => Gets::Unsatisfiable,
        1 => Gets::Spans(spans),
        _ if rules == Rules::Generic && sent < length => Gets::Spans(spans),
        _ => Gets::Whole,
    }
}

fn spans(found: &[ByteSpan]) -> Gets {
    let mut spans: Vec<_> = found.iter().map(|span| (span.first, span.last)).collect();
    spans.sort_unstable();
    Gets::Spans(spans)
}

fn of_binary_cache(object: &Object, stored: &HeaderMap, request: &Request) -> Gets {
    let (fields, length) = (request.fields(), Some(object.length));
    match nix::select(request.method, &fields, || Cow::Borrowed(stored), length) {
        nix::Selection::Whole => Gets::Whole,
        nix::Selection::Part(span) => spans(&[span]),
        nix::Selection::NotModified => Gets::NotModified,
        nix::Selection::PreconditionFailed => Gets::Failed,
        nix::Selection::Unsatisfiable { length } => {
            assert_eq!(length, object.length);
            Gets::Unsatisfiable
        }
    }
}

fn of_generic(object: &Object, stored: &HeaderMap, request: &Request) -> Gets {
    let (length, several) = (Some(object.length), generic::Several::Sent);
    match generic::select(request.method, &request.fields(), stored, length, several) {
        generic::GenericSelection::Whole => Gets::Whole,
        generic::GenericSelection::Part(span) => spans(&[span]),
        generic::GenericSelection::Parts(parts) => spans(&parts),
        generic::GenericSelection::NotModified => Gets::NotModified,
        generic::GenericSelection::PreconditionFailed => Gets::Failed,
        generic::GenericSelection::Unsatisfiable { length } => {
            assert_eq!(length, object.length);
            Gets::Unsatisfiable
        }
    }
}

/// FAULTS.md Held: ranges and conditions against a model.
#[test]
fn a_million_requests_get_what_the_model_says() {
    let mut draw = Draw(0x9e37_79b9_7f4a_7c15);
    let mut seen = [0_usize; 6];
    for _ in 0..CASES / 20 {
        let object = Object::draw(&mut draw);
        let stored = object.fields();
        for case in 0..20 {
            let request = Request::draw(&mut draw, object.length);
            let rules = if case % 2 == 0 { Rules::BinaryCache } else { Rules::Generic };
            let found = match rules {
                Rules::BinaryCache => of_binary_cache(&object, &stored, &request),
                Rules::Generic => of_generic(&object, &stored, &request),
            };
            let expected = request.gets(&object, rules);
            assert_eq!(found, expected, "{rules:?} {object:?} {request:?}");
            let kind = match expected {
                Gets::Whole => 0,
                Gets::Spans(spans) if spans.len() == 1 => 1,
                Gets::Spans(_) => 2,
                Gets::NotModified => 3,
                Gets::Failed => 4,
                Gets::Unsatisfiable => 5,
            };
            seen[kind] += 1;
        }
    }
    // Each kind of answer was among them often enough to count.
    assert!(seen.iter().all(|count| *count > CASES / 200), "{seen:?}");
}
