//! What an HTTP answer means, for S3 and for plain upstreams: FACTS's rules of absence and of
//! broken credentials, as pure functions over a status and, if that is not enough, the error
//! document.

use super::exchange::{Ask, Method};
use super::fault::S3ErrorDocument;
use http::{HeaderMap, StatusCode, header};

/// The kind of the answering server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// An S3 service, asked for a key.
    S3,
    /// Any HTTP server.
    Plain,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnswerVerdict {
    /// An object, whole or in part.
    Found,
    /// What is stored still holds.
    NotModified,
    /// There is no such object.
    Absent(Absence),
    /// The object is another than the one to be continued.
    Changed,
    /// The status alone does not tell; the error document may.
    Unclear,
    /// It is elsewhere.
    Redirect,
    /// The credentials, or the bucket's name, do not serve.
    Refused {
        /// The S3 code or the HTTP status.
        code: String,
        /// What the service said, or what to look at.
        detail: String,
        /// The region that signatures should name, if it said so.
        region: Option<String>,
    },
    /// A status that is neither an object nor absence.
    Status,
    /// An answer to something that was not asked.
    Protocol(String),
}

/// How sure an absence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// The origin knows that there is no such object.
    Known,
    /// `AccessDenied`: absence if the bucket may not be listed, or a wrong policy.
    Denied,
}

/// What `status` means as the answer to `ask`.
pub(super) fn by_status(dialect: Dialect, status: StatusCode, ask: &Ask) -> AnswerVerdict {
    let is_s3 = dialect == Dialect::S3;
    match status.as_u16() {
        200 => AnswerVerdict::Found,
        206 if ask.range.is_some() => AnswerVerdict::Found,
        206 => AnswerVerdict::Protocol("206 although no range was asked for".to_owned()),
        304 if ask.if_none_match.is_some() || ask.if_modified_since.is_some() => {
            AnswerVerdict::NotModified
        }
        304 => AnswerVerdict::Protocol("304 although nothing was to be compared".to_owned()),
        400 | 401 | 404 if is_s3 => AnswerVerdict::Unclear,
        404 | 410 => AnswerVerdict::Absent(Absence::Known),
        412 if ask.if_match.is_some() => AnswerVerdict::Changed,
        416 if ask.range.is_some() => AnswerVerdict::Changed,
        403 => AnswerVerdict::Unclear,
        401 => AnswerVerdict::Refused {
            code: status.as_str().to_owned(),
            detail: "the upstream asks for credentials; write what it is to be sent in \
                     [site.origin.credentials]"
                .to_owned(),
            region: None,
        },
        301 | 302 | 303 | 307 | 308 => AnswerVerdict::Redirect,
        _ => AnswerVerdict::Status,
    }
}

/// What an unclear `status` means with its error document.
pub(super) fn by_fault(
    dialect: Dialect,
    status: StatusCode,
    fault: Option<&S3ErrorDocument>,
) -> AnswerVerdict {
    let code = fault.map_or("", |fault| fault.code.as_str());
    let message = fault.map_or("", |fault| fault.message.as_str());
    let refused = || AnswerVerdict::Refused {
        code: if code.is_empty() { status.as_str() } else { code }.to_owned(),
        detail: if message.is_empty() { advice(code) } else { message }.to_owned(),
        // Some services name their region in every error.
        region: fault
            .filter(|fault| fault.code == "AuthorizationHeaderMalformed")
            .and_then(|fault| fault.region.clone()),
    };
    match (dialect, status.as_u16()) {
        (Dialect::S3, _) if is_refusal(code) => refused(),
        (Dialect::S3, 403) if code == "AccessDenied" && tells_of_a_bad_key(message) => refused(),
        (Dialect::S3, 401) => refused(),
        (Dialect::S3, 404) => AnswerVerdict::Absent(Absence::Known),
        (_, 403) if code == "NoSuchKey" => AnswerVerdict::Absent(Absence::Known),
        (_, 403) if code == "AccessDenied" => AnswerVerdict::Absent(Absence::Denied),
        _ => AnswerVerdict::Status,
    }
}

/// Codes that tell of the keys, the clock, the region or the bucket, never of one object.
fn is_refusal(code: &str) -> bool {
    matches!(
        code,
        "NoSuchBucket"
            | "SignatureDoesNotMatch"
            | "InvalidAccessKeyId"
            | "RequestTimeTooSkewed"
            | "RequestExpired"
            | "ExpiredToken"
            | "TokenRefreshRequired"
            | "InvalidToken"
            | "InvalidSecurity"
            | "NotSignedUp"
            | "AccountProblem"
            | "AuthorizationHeaderMalformed"
    )
}

/// Garage answers `AccessDenied` for a wrong secret and an unknown key too; its text tells.
fn tells_of_a_bad_key(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("invalid signature") || message.contains("no such key: gk")
}

fn advice(code: &str) -> &'static str {
    match code {
        "NoSuchBucket" => "check the bucket's name, the endpoint and the region",
        "RequestTimeTooSkewed" | "RequestExpired" => "set this machine's clock",
        "AuthorizationHeaderMalformed" => "check the region",
        _ => "check the access key, the secret and the session token",
    }
}

/// Whether the part that came is the part that was asked for (RFC 9110 section 14.4).
///
/// A 206 must name a single range that begins with the asked one, ends within it, and is as long as
/// the body (`length`, if known).
pub(super) fn check_part(
    ask: &Ask,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Result<(), String> {
    let Some(asked) = ask.range else {
        return Ok(());
    };
    let field = headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok())
        .ok_or("206 without a Content-Range")?;
    let (first, last) = parse_content_range(field)
        .ok_or_else(|| format!("206 with the Content-Range {field:?}"))?;
    let ends_within = asked.last.is_none_or(|asked_last| last <= asked_last);
    if first != asked.first || !ends_within {
        return Err(format!("206 with another range than was asked for: {field}"));
    }
    let body = (last - first).checked_add(1);
    if ask.method == Method::Get && length.is_some_and(|length| Some(length) != body) {
        return Err(format!("Content-Range and length of a 206 disagree: {field}"));
    }
    Ok(())
}

/// First and last byte of `bytes first-last/total`, if they are in order and below the total.
fn parse_content_range(field: &str) -> Option<(u64, u64)> {
    let (range, total) = field.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let is_below_total = total == "*" || number(total)? > last;
    (first <= last && is_below_total).then_some((first, last))
}

/// Digits only: `str::parse` takes a sign too.
fn number(text: &str) -> Option<u64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::exchange::RangeAsked;
    use super::super::testing::ask;
    use super::*;
    use http::HeaderValue;

    fn s3(status: u16, code: &str, message: &str) -> AnswerVerdict {
        let (code, message) = (code.to_owned(), message.to_owned());
        let fault = S3ErrorDocument { code, message, ..S3ErrorDocument::default() };
        let fault = Some(fault).filter(|fault| !fault.code.is_empty());
        by_fault(Dialect::S3, StatusCode::from_u16(status).unwrap(), fault.as_ref())
    }

    #[test]
    fn the_table_of_s3_faults() {
        let known = AnswerVerdict::Absent(Absence::Known);
        let denied = AnswerVerdict::Absent(Absence::Denied);
        for (status, code, expected) in [
            (403, "AccessDenied", denied),
            (403, "NoSuchKey", known.clone()),
            (404, "NoSuchKey", known.clone()),
            (404, "", known),
            (403, "", AnswerVerdict::Status),
            (403, "InvalidObjectState", AnswerVerdict::Status),
            (400, "InvalidArgument", AnswerVerdict::Status),
            (400, "", AnswerVerdict::Status),
        ] {
            assert_eq!(s3(status, code, ""), expected, "{status} {code}");
        }
        for (status, code) in [
            (403, "SignatureDoesNotMatch"),
            (403, "InvalidAccessKeyId"),
            (403, "RequestTimeTooSkewed"),
            (403, "NotSignedUp"),
            (400, "ExpiredToken"),
            (400, "InvalidToken"),
            (400, "AuthorizationHeaderMalformed"),
            (404, "NoSuchBucket"),
            (401, "Unauthorized"),
            (401, ""),
        ] {
            let AnswerVerdict::Refused { code: got, detail, .. } = s3(status, code, "") else {
                panic!("{status} {code} is not a refusal");
            };
            assert_eq!(got, if code.is_empty() { "401" } else { code });
            assert!(!detail.is_empty());
        }
        for message in ["Forbidden: Invalid signature", "Forbidden: No such key: GK31c2"] {
            assert!(matches!(s3(403, "AccessDenied", message), AnswerVerdict::Refused { .. }));
        }
    }

    #[test]
    fn a_plain_upstream_is_absent_on_403_only_with_s3_words() {
        let forbidden = StatusCode::FORBIDDEN;
        let fault =
            |code: &str| S3ErrorDocument { code: code.to_owned(), ..S3ErrorDocument::default() };
        assert_eq!(
            by_fault(Dialect::Plain, forbidden, Some(&fault("AccessDenied"))),
            AnswerVerdict::Absent(Absence::Denied)
        );
        assert_eq!(by_fault(Dialect::Plain, forbidden, None), AnswerVerdict::Status);
        let expired = by_fault(Dialect::Plain, forbidden, Some(&fault("ExpiredToken")));
        assert_eq!(expired, AnswerVerdict::Status);
    }

    #[test]
    fn statuses_mean_something_only_where_they_answer_what_was_asked() {
        let status =
            |code, ask: &Ask| by_status(Dialect::Plain, StatusCode::from_u16(code).unwrap(), ask);
        let whole = ask("/x");
        assert_eq!(status(200, &whole), AnswerVerdict::Found);
        assert!(matches!(status(206, &whole), AnswerVerdict::Protocol(_)));
        assert!(matches!(status(304, &whole), AnswerVerdict::Protocol(_)));
        assert_eq!(status(412, &whole), AnswerVerdict::Status);
        assert_eq!(status(416, &whole), AnswerVerdict::Status);
        assert_eq!(status(404, &whole), AnswerVerdict::Absent(Absence::Known));
        assert_eq!(status(410, &whole), AnswerVerdict::Absent(Absence::Known));
        for code in [204, 400, 405, 407, 408, 429, 500, 502, 503, 504] {
            assert_eq!(status(code, &whole), AnswerVerdict::Status, "{code}");
        }
        let mut part = ask("/x");
        part.range = Some(RangeAsked { first: 5, last: None });
        part.if_match = Some(HeaderValue::from_static("\"a\""));
        part.if_none_match = Some(HeaderValue::from_static("\"a\""));
        assert_eq!(status(206, &part), AnswerVerdict::Found);
        assert_eq!(status(304, &part), AnswerVerdict::NotModified);
        assert_eq!(status(412, &part), AnswerVerdict::Changed);
        assert_eq!(status(416, &part), AnswerVerdict::Changed);
    }

    #[test]
    fn a_part_must_be_the_part_that_was_asked_for() {
        let mut part = ask("/x");
        part.range = Some(RangeAsked { first: 5, last: Some(9) });
        let check = |range: &str, length| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
            check_part(&part, &headers, length)
        };
        assert_eq!(check("bytes 5-9/20", Some(5)), Ok(()));
        assert_eq!(check("bytes 5-7/8", None), Ok(()));
        assert_eq!(check("bytes 5-9/*", Some(5)), Ok(()));
        for wrong in [
            "bytes 4-9/20",
            "bytes 5-10/20",
            "bytes 5-9/9",
            "bytes +5-9/20",
            "bytes 9-5/20",
            "bytes */20",
            "items 5-9/20",
            "bytes 5-9",
            "bytes 5-99999999999999999999/*",
        ] {
            assert!(check(wrong, None).is_err(), "{wrong}");
        }
        assert!(check("bytes 5-9/20", Some(6)).is_err());
        assert!(check_part(&part, &HeaderMap::new(), None).is_err());
    }
}
