//! What each client may receive: the plain model that the real code is compared with. It knows what
//! the origin has had at which moment, and which purges were answered; nothing of caches.

use bytes::Bytes;
use std::time::Duration;

/// A moment, since the simulation began.
pub(super) type Moment = Duration;

/// How long an absence may be remembered.
const ABSENCE_MAX: Duration = Duration::from_millis(5_100);

/// Ages are told in whole seconds.
const AGE_STEP: Duration = Duration::from_secs(2);
/// How long a fill may be joined after its last byte has come.
const FILL_MAX: Duration = Duration::from_secs(10);

/// What the origin has had under one path.
#[derive(Debug, Default)]
pub(super) struct Object {
    pub(super) versions: Vec<Version>,
    pub(super) tags: Vec<String>,
    /// How long an answer is fresh.
    pub(super) lifetime: Duration,
    /// When the edge had been told that it was uploaded.
    pub(super) noticed: Option<Moment>,
}

/// One body of an object.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) from: Moment,
    pub(super) body: Bytes,
    pub(super) etag: String,
    /// The language that it is in, if the object varies.
    pub(super) language: Option<&'static str>,
    /// When the origin sent its head last, and when the last answer with it had ended.
    pub(super) sent: Moment,
    pub(super) ended: Moment,
}

/// What is purged.
#[derive(Debug, Clone)]
pub(super) enum Purged {
    Path(String),
    Prefix(String),
    Tag(String),
    All,
}

/// A purge that was answered.
#[derive(Debug)]
pub(super) struct Purge {
    pub(super) of: Purged,
    pub(super) begun: Moment,
    pub(super) answered: Moment,
    /// Whether it outlasts a life that ends without a drain.
    pub(super) is_lasting: bool,
}

/// What an answer is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) purges: &'a [Purge],
    /// Whether nothing may be older than its lifetime.
    pub(super) ages: bool,
}

/// What a client got.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) begun: Moment,
    pub(super) language: Option<&'static str>,
    pub(super) status: u16,
    pub(super) etag: Option<String>,
    /// The first byte of the whole that was to come, the end, and the length of the whole.
    pub(super) range: Option<(usize, usize, usize)>,
    pub(super) body: Vec<u8>,
    pub(super) end: End,
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    Clean,
    Cut,
    /// The client left.
    Left,
}

impl Object {
    /// The version at present for a language.
    pub(super) fn current(&self, language: Option<&str>) -> Option<&Version> {
        self.versions.iter().rev().find(|version| version.language == language)
    }

    /// Bytes of the shortest version.
    pub(super) fn length(&self) -> usize {
        self.versions.iter().map(|version| version.body.len()).min().unwrap_or(0)
    }

    /// The versions that an answer to a question at `begun` may be of: those that the origin had
    /// at or after `oldest`, for this language.
    fn allowed(
        &self,
        oldest: Moment,
        language: Option<&str>,
    ) -> impl Iterator<Item = &Version> + Clone {
        let of = self.versions.iter().filter(move |version| version.language == language);
        let ends = of.clone().skip(1).map(|version| version.from).chain([Moment::MAX]);
        of.zip(ends).filter(move |(_, end)| *end > oldest).map(|(version, _)| version)
    }
}

impl Object {
    /// Whether a request that begins at `begun` may be told that there is none.
    fn may_be_absent(&self, begun: Moment) -> bool {
        let Some(first) = self.versions.first() else { return true };
        let is_told = self.noticed.is_some_and(|noticed| begun >= noticed);
        !is_told && begun < first.from + ABSENCE_MAX
    }
}

impl Purge {
    fn covers(&self, path: &str, object: &Object) -> bool {
        match &self.of {
            Purged::Path(own) => own == path,
            Purged::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Purged::Tag(tag) => object.tags.contains(tag),
            Purged::All => true,
        }
    }
}

/// What is wrong with what a client got; nothing if the model allows it.
pub(super) fn judge(
    path: &str,
    object: &Object,
    rules: &Rules<'_>,
    got: &Got,
) -> Result<(), String> {
    let purges = rules.purges.iter().filter(|purge| purge.answered <= got.begun);
    let oldest = purges.filter(|purge| purge.covers(path, object)).map(|purge| purge.begun);
    let oldest = oldest.max().unwrap_or_default();
    let allowed = object.allowed(oldest, got.language);
    let with_tag = |version: &&Version| got.etag.as_ref().is_none_or(|tag| *tag == version.etag);
    let describe = || {
        let age = object.allowed(Moment::ZERO, got.language);
        let old = age.filter(with_tag).any(|version| is_part_of(got, version));
        let why = if old { "a version that was purged" } else { "a body that never was" };
        format!("{path}: {why}: {} {:?}, {} bytes", got.status, got.end, got.body.len())
    };
    match got.status {
        200 | 206 => {
            let mut fitting = allowed.filter(with_tag).filter(|version| is_part_of(got, version));
            let Some(version) = fitting.next() else { return Err(describe()) };
            let is_last =
                object.current(got.language).is_some_and(|last| last.from == version.from);
            let until = (version.sent + object.lifetime + AGE_STEP).max(version.ended + FILL_MAX);
            if rules.ages && !is_last && got.begun > until && fitting.next().is_none() {
                return Err(format!("{path}: older than its lifetime, and not asked for again"));
            }
            Ok(())
        }
        304 => {
            if allowed.clone().any(|version| Some(&version.etag) == got.etag.as_ref()) {
                Ok(())
            } else {
                Err(format!("{path}: 304 with a tag that is no more: {:?}", got.etag))
            }
        }
        404 if object.may_be_absent(got.begun) => Ok(()),
        404 => Err(format!("{path}: 404, but it is there")),
        _ => Ok(()),
    }
}

/// Whether what was got is all of a version, or its beginning if it did not end cleanly.
fn is_part_of(got: &Got, version: &Version) -> bool {
    let whole = &version.body;
    let (from, end, length) = got.range.unwrap_or((0, whole.len(), whole.len()));
    let Some(part) = whole.get(from..end) else { return false };
    length == whole.len()
        && part.starts_with(&got.body)
        && (got.end != End::Clean || got.body.len() == part.len())
}
