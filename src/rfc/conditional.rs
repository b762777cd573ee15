//! Conditional requests (RFC 9110 section 13), judged against what is stored. Pure. Called once
//! for each request that found an object.

use super::date::HttpDate;
use super::entity_tag::{EntityTag, TagList};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

/// What a representation offers to be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Validators<'a> {
    /// Its entity tag.
    pub etag: Option<EntityTag<'a>>,
    /// When it last changed.
    pub last_modified: Option<HttpDate>,
}

/// What the conditions of a request come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
}

impl<'a> Validators<'a> {
    /// The validators among the fields of a response; malformed ones count as absent.
    pub fn of(headers: &'a HeaderMap) -> Self {
        Self {
            etag: headers.get(header::ETAG).and_then(EntityTag::parse),
            last_modified: headers.get(header::LAST_MODIFIED).and_then(HttpDate::parse),
        }
    }

    /// Whether a line of the field `name` is `*` or lists a tag that `matches` the own one.
    fn is_listed(
        &self,
        request: &HeaderMap,
        name: &HeaderName,
        matches: fn(&EntityTag<'a>, &EntityTag<'_>) -> bool,
    ) -> bool {
        request.get_all(name).iter().any(|line| match TagList::parse(line) {
            TagList::Any => true,
            TagList::Tags(mut tags) => {
                self.etag.is_some_and(|own| tags.any(|tag| matches(&own, &tag)))
            }
        })
    }
}

/// Evaluates the conditions in the order of RFC 9110 section 13.2.2, steps 1 to 4, for a
/// representation that exists.
///
/// Dates that do not parse, that are sent twice, or that there is no `Last-Modified` for, are no
/// condition. A malformed `If-None-Match` matches nothing, so the whole answer is sent; a
/// malformed `If-Match` matches nothing either, so it fails.
pub fn evaluate(method: &Method, request: &HeaderMap, own: &Validators<'_>) -> Condition {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    if request.contains_key(header::IF_MATCH) {
        if !own.is_listed(request, &header::IF_MATCH, EntityTag::matches_strongly) {
            return Condition::PreconditionFailed;
        }
    } else if let (Some(limit), Some(changed)) =
        (single_date(request, &header::IF_UNMODIFIED_SINCE), own.last_modified)
        && changed > limit
    {
        return Condition::PreconditionFailed;
    }
    if request.contains_key(header::IF_NONE_MATCH) {
        return match own.is_listed(request, &header::IF_NONE_MATCH, EntityTag::matches_weakly) {
            false => Condition::Proceed,
            true if is_read => Condition::NotModified,
            true => Condition::PreconditionFailed,
        };
    }
    match (single_date(request, &header::IF_MODIFIED_SINCE), own.last_modified) {
        (Some(known), Some(changed)) if is_read && changed <= known => Condition::NotModified,
        _ => Condition::Proceed,
    }
}

/// Whether a `Range` of this request is to be looked at (RFC 9110 section 13.1.5): there is no
/// `If-Range`, or it is the strong tag or exactly the date of what is stored. A malformed, weak
/// or repeated `If-Range` means the whole object.
pub fn range_applies(request: &HeaderMap, own: &Validators<'_>) -> bool {
    let mut lines = request.get_all(header::IF_RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return !request.contains_key(header::IF_RANGE);
    };
    match EntityTag::parse(line) {
        Some(asked) => own.etag.is_some_and(|tag| tag.matches_strongly(&asked)),
        None => HttpDate::parse(line).is_some_and(|asked| own.last_modified == Some(asked)),
    }
}

fn single_date(request: &HeaderMap, name: &HeaderName) -> Option<HttpDate> {
    let mut lines = request.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => HttpDate::parse(line),
        _ => None,
    }
}

/// The conditional fields that say "only if it is another than this one".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeCondition {
    /// `If-None-Match`.
    Tag(HeaderValue),
    /// `If-Modified-Since`.
    Date(HeaderValue),
}

impl ChangeCondition {
    /// The condition that revalidates a response with these fields: its entity tag, else its
    /// date; `None` if it has neither in a form that origins understand.
    pub fn changed(stored: &HeaderMap) -> Option<Self> {
        let own = Validators::of(stored);
        match (own.etag, own.last_modified) {
            (Some(_), _) => stored.get(header::ETAG).cloned().map(Self::Tag),
            (None, Some(date)) => Some(Self::Date(date.to_header_value())),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
    use proptest::proptest;

    const OLD: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn fields(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        map
    }

    fn judge(own: &[(&str, &str)], request: &[(&str, &str)]) -> Condition {
        let own = fields(own);
        evaluate(&Method::GET, &fields(request), &Validators::of(&own))
    }

    #[test]
    fn a_known_tag_is_not_sent_again() {
        let own = [("etag", "\"a\""), ("last-modified", SAME)];
        assert_eq!(judge(&own, &[]), Condition::Proceed);
        assert_eq!(judge(&own, &[("if-none-match", "\"a\"")]), Condition::NotModified);
        assert_eq!(judge(&own, &[("if-none-match", "\"x\", W/\"a\"")]), Condition::NotModified);
        assert_eq!(judge(&own, &[("if-none-match", "*")]), Condition::NotModified);
        assert_eq!(judge(&own, &[("if-none-match", "\"b\"")]), Condition::Proceed);
        let two = [("if-none-match", "\"b\""), ("if-none-match", "\"a\"")];
        assert_eq!(judge(&own, &two), Condition::NotModified);
    }

    #[test]
    fn if_none_match_silences_if_modified_since() {
        let own = [("etag", "\"a\""), ("last-modified", SAME)];
        let request = [("if-none-match", "\"b\""), ("if-modified-since", NEW)];
        assert_eq!(judge(&own, &request), Condition::Proceed);
    }

    #[test]
    fn dates_count_to_the_second_and_only_once() {
        let own = [("last-modified", SAME)];
        assert_eq!(judge(&own, &[("if-modified-since", OLD)]), Condition::Proceed);
        assert_eq!(judge(&own, &[("if-modified-since", SAME)]), Condition::NotModified);
        assert_eq!(judge(&own, &[("if-modified-since", "yesterday")]), Condition::Proceed);
        let two = [("if-modified-since", NEW), ("if-modified-since", NEW)];
        assert_eq!(judge(&own, &two), Condition::Proceed);
        assert_eq!(judge(&[], &[("if-modified-since", NEW)]), Condition::Proceed);
        assert_eq!(judge(&own, &[("if-unmodified-since", OLD)]), Condition::PreconditionFailed);
        assert_eq!(judge(&own, &[("if-unmodified-since", SAME)]), Condition::Proceed);
        assert_eq!(judge(&[], &[("if-unmodified-since", OLD)]), Condition::Proceed);
    }

    #[test]
    fn if_match_compares_strongly_and_comes_first() {
        let own = [("etag", "\"a\""), ("last-modified", SAME)];
        assert_eq!(judge(&own, &[("if-match", "\"a\"")]), Condition::Proceed);
        assert_eq!(judge(&own, &[("if-match", "*")]), Condition::Proceed);
        assert_eq!(judge(&own, &[("if-match", "W/\"a\"")]), Condition::PreconditionFailed);
        assert_eq!(judge(&own, &[("if-match", "junk")]), Condition::PreconditionFailed);
        let both = [("if-match", "\"b\""), ("if-none-match", "\"a\"")];
        assert_eq!(judge(&own, &both), Condition::PreconditionFailed);
        let silenced = [("if-match", "\"a\""), ("if-unmodified-since", OLD)];
        assert_eq!(judge(&own, &silenced), Condition::Proceed);
    }

    #[test]
    fn other_methods_fail_where_reads_are_not_modified() {
        let own = fields(&[("etag", "\"a\"")]);
        let request = fields(&[("if-none-match", "\"a\"")]);
        let condition = evaluate(&Method::PUT, &request, &Validators::of(&own));
        assert_eq!(condition, Condition::PreconditionFailed);
    }

    #[test]
    fn a_range_holds_only_for_exactly_this_object() {
        let own = fields(&[("etag", "\"a\""), ("last-modified", SAME)]);
        let applies =
            |line: &str| range_applies(&fields(&[("if-range", line)]), &Validators::of(&own));
        assert!(range_applies(&HeaderMap::new(), &Validators::default()));
        assert!(applies("\"a\""));
        assert!(applies(SAME));
        for line in ["\"b\"", "W/\"a\"", OLD, NEW, "junk", ""] {
            assert!(!applies(line), "{line}");
        }
        let two = fields(&[("if-range", "\"a\""), ("if-range", "\"a\"")]);
        assert!(!range_applies(&two, &Validators::of(&own)));
        let weak = fields(&[("etag", "W/\"a\"")]);
        let request = fields(&[("if-range", "W/\"a\"")]);
        assert!(!range_applies(&request, &Validators::of(&weak)));
    }

    #[test]
    fn revalidation_asks_by_tag_else_by_date() {
        let both = fields(&[("etag", "W/\"a\""), ("last-modified", SAME)]);
        assert_eq!(
            ChangeCondition::changed(&both),
            Some(ChangeCondition::Tag("W/\"a\"".parse().unwrap()))
        );
        let unquoted = fields(&[("etag", "a"), ("last-modified", SAME)]);
        assert_eq!(
            ChangeCondition::changed(&unquoted),
            Some(ChangeCondition::Date(SAME.parse().unwrap()))
        );
        assert_eq!(ChangeCondition::changed(&HeaderMap::new()), None);
    }

    /// RFC 9110 section 13.2.2 word by word, on values instead of fields.
    fn model(
        own: (Option<u8>, Option<i64>),
        if_match: Option<&[u8]>,
        if_unmodified_since: Option<i64>,
        if_none_match: Option<&[u8]>,
        if_modified_since: Option<i64>,
    ) -> Condition {
        let has = |list: &[u8]| own.0.is_some_and(|tag| list.contains(&tag));
        let step_1 = if_match.map(has);
        let step_2 = match (step_1, if_unmodified_since, own.1) {
            (None, Some(date), Some(changed)) => Some(changed <= date),
            _ => None,
        };
        if step_1 == Some(false) || step_2 == Some(false) {
            return Condition::PreconditionFailed;
        }
        let step_3 = if_none_match.map(|list| !has(list));
        let step_4 = match (step_3, if_modified_since, own.1) {
            (None, Some(date), Some(changed)) => Some(changed > date),
            _ => None,
        };
        match (step_3, step_4) {
            (Some(false), _) | (_, Some(false)) => Condition::NotModified,
            _ => Condition::Proceed,
        }
    }

    fn list() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop_oneof![Just(None), prop::collection::vec(b'a'..b'e', 1..3).prop_map(Some)]
    }

    proptest! {
        #[test]
        fn conditions_agree_with_the_model(
            tag in prop::option::of(b'a'..b'e'),
            changed in prop::option::of(0..4_i64),
            if_match in list(),
            if_none_match in list(),
            before in prop::option::of(0..4_i64),
            after in prop::option::of(0..4_i64),
        ) {
            let quoted = |tag: u8| format!("\"{}\"", char::from(tag));
            let date = |seconds: i64| HttpDate::from_secs(seconds).to_header_value();
            let mut own = HeaderMap::new();
            tag.map(|tag| own.insert(header::ETAG, quoted(tag).parse().unwrap()));
            changed.map(|changed| own.insert(header::LAST_MODIFIED, date(changed)));
            let mut request = HeaderMap::new();
            let lists = [(header::IF_MATCH, &if_match), (header::IF_NONE_MATCH, &if_none_match)];
            for (name, list) in lists {
                for tag in list.iter().flatten() {
                    request.append(&name, quoted(*tag).parse().unwrap());
                }
            }
            before.map(|at| request.insert(header::IF_UNMODIFIED_SINCE, date(at)));
            after.map(|at| request.insert(header::IF_MODIFIED_SINCE, date(at)));
            assert_eq!(
                evaluate(&Method::GET, &request, &Validators::of(&own)),
                model((tag, changed), if_match.as_deref(), before, if_none_match.as_deref(), after)
            );
        }

        #[test]
        fn junk_never_panics_and_never_yields_not_modified(
            bytes in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let own = fields(&[("etag", "\"a-tag-that-is-not-guessed\"")]);
            let mut request = HeaderMap::new();
            request.insert(header::IF_RANGE, value.clone());
            assert!(!range_applies(&request, &Validators::of(&own)));
            request.insert(header::IF_MODIFIED_SINCE, value);
            let condition = evaluate(&Method::GET, &request, &Validators::of(&own));
            assert_eq!(condition, Condition::Proceed);
        }
    }
}
