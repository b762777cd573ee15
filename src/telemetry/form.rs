//! An access-log record and the two forms it is written in. Pure; called by the log's writer
//! thread, never on a request's path.

use super::RequestId;
use crate::clock::Timestamp;
use crate::nix::Class;
use crate::outcome::Outcome;
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// What the access log says of one answered request. Cheap to make: header values and the URI
/// share the bytes of the request. Never holds the client's address.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// When the request's head was complete.
    pub timestamp: Timestamp,
    /// From there to the end of the answer.
    pub elapsed: Duration,
    /// `Host`, or the `:authority` of HTTP/2, as received.
    pub host: Option<HeaderValue>,
    /// The method.
    pub method: Method,
    /// The protocol's version.
    pub version: Version,
    /// The target, as received.
    pub uri: Uri,
    /// `Referer`, as received.
    pub referer: Option<HeaderValue>,
    /// `User-Agent`, as received.
    pub user_agent: Option<HeaderValue>,
    /// Bytes of the request's head, if known.
    pub request_bytes: Option<u64>,
    /// The status of the answer.
    pub status: StatusCode,
    /// Body bytes handed to the connection.
    pub response_body_bytes: u64,
    /// How the request was answered.
    pub outcome: Outcome,
    /// The site, if one was found.
    pub site: Option<Arc<str>>,
    /// The class of the path, if there is a site.
    pub class: Option<Class>,
    /// The origin asked, or the one that the stored object came from.
    pub origin: Option<Arc<str>>,
    /// The request's id, as the client sees it.
    pub request_id: RequestId,
    /// What TLS was used, if any.
    pub tls: Option<TlsUse>,
}

/// The TLS parameters of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsUse {
    /// `TLSv1.2` or `TLSv1.3`.
    pub protocol: &'static str,
    /// The cipher suite's IANA name.
    pub cipher: &'static str,
}

/// Appends the record as one JSON object and a line end; the names are those of the layer that
/// Narthex replaces, if it has them. Bytes that are not UTF-8 become U+FFFD.
///
/// Written by hand, which takes half the instructions that a serializer does: with the log on, the
/// largest part of what a hit from memory takes outside the kernel.
pub(super) fn json(record: &AccessRecord, line: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let elapsed = u64::try_from(record.elapsed.as_micros()).unwrap_or(u64::MAX);
    let [host, referer, agent] = [&record.host, &record.referer, &record.user_agent]
        .map(|value| value.as_ref().map(HeaderValue::as_bytes));
    let mut object = JsonObject { line };
    object.line.extend_from_slice(b"{\"timestamp\":\"");
    rfc3339(record.timestamp, object.line);
    object.line.push(b'"');
    object.number("elapsed_usec", elapsed);
    object.text_of("host", host)?;
    object.text("request_method", record.method.as_str().as_bytes())?;
    object.text("request_protocol", protocol(record.version).as_bytes())?;
    object.text("url", target(&record.uri).as_bytes())?;
    object.text_of("request_referer", referer)?;
    object.text_of("request_user_agent", agent)?;
    if let Some(bytes) = record.request_bytes {
        object.number("request_size", bytes);
    }
    object.number("response_status", record.status.as_u16().into());
    let reason = record.status.canonical_reason().unwrap_or("");
    object.text("response_reason", reason.as_bytes())?;
    object.number("response_body_size", record.response_body_bytes);
    object.text("response_state", record.outcome.as_str().as_bytes())?;
    object.text_of("site", record.site.as_deref().map(str::as_bytes))?;
    object.text_of("class", record.class.map(|class| class.as_str().as_bytes()))?;
    object.text_of("origin", record.origin.as_deref().map(str::as_bytes))?;
    object.text("request_id", record.request_id.to_header_value().as_bytes())?;
    object.text_of("tls_client_protocol", record.tls.map(|tls| tls.protocol.as_bytes()))?;
    object.text_of("tls_client_cipher", record.tls.map(|tls| tls.cipher.as_bytes()))?;
    object.line.extend_from_slice(b"}\n");
    Ok(())
}

/// A JSON object that is being written, with a member in it.
struct JsonObject<'a> {
    line: &'a mut Vec<u8>,
}

impl JsonObject<'_> {
    /// `name` is one of ours: nothing in it needs an escape.
    fn name(&mut self, name: &str) {
        self.line.extend_from_slice(b",\"");
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(b"\":");
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    fn text(&mut self, name: &str, value: &[u8]) -> Result<(), serde_json::Error> {
        let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
        self.name(name);
        if !value.iter().all(is_plain) {
            return serde_json::to_writer(&mut *self.line, &String::from_utf8_lossy(value));
        }
        self.line.push(b'"');
        self.line.extend_from_slice(value);
        self.line.push(b'"');
        Ok(())
    }

    fn text_of(&mut self, name: &str, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        value.map_or(Ok(()), |value| self.text(name, value))
    }
}

/// Appends the record in the combined log format, `-` standing for the client's address.
///
/// In quoted fields, quotes, backslashes and all bytes outside printable ASCII are `\xhh`.
pub(super) fn combined(record: &AccessRecord, line: &mut Vec<u8>) {
    line.extend_from_slice(b"- - - [");
    line.extend_from_slice(common_date(record.timestamp).as_bytes());
    line.extend_from_slice(b"] \"");
    quoted(record.method.as_str().as_bytes(), line);
    line.push(b' ');
    quoted(target(&record.uri).as_bytes(), line);
    line.push(b' ');
    line.extend_from_slice(protocol(record.version).as_bytes());
    let numbers = format!("\" {} {} \"", record.status.as_u16(), record.response_body_bytes);
    line.extend_from_slice(numbers.as_bytes());
    quoted(record.referer.as_ref().map_or(b"-", HeaderValue::as_bytes), line);
    line.extend_from_slice(b"\" \"");
    quoted(record.user_agent.as_ref().map_or(b"-", HeaderValue::as_bytes), line);
    line.extend_from_slice(b"\"\n");
}

fn quoted(bytes: &[u8], line: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff => {
                line.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
            _ => line.push(byte),
        }
    }
}

/// Path and query; the whole target if it has no path, as `*` or an authority.
fn target(uri: &Uri) -> Cow<'_, str> {
    match uri.path_and_query() {
        Some(path) => Cow::Borrowed(path.as_str()),
        None => Cow::Owned(uri.to_string()),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "",
    }
}

/// A moment in UTC, taken apart.
struct Calendar {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millis: i64,
}

impl Calendar {
    /// The proleptic Gregorian calendar, counted in eras of 400 years that begin on 1 March.
    fn of(moment: Timestamp) -> Self {
        let days = moment.secs().div_euclid(86_400);
        let of_day = moment.secs().rem_euclid(86_400);
        let from_march_0000 = days + 719_468;
        let era = from_march_0000.div_euclid(146_097);
        let day_of_era = from_march_0000.rem_euclid(146_097);
        let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leap_days) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            millis: moment.millis().rem_euclid(1_000),
        }
    }
}

/// Appends `2026-08-01T12:34:56.789Z` (RFC 3339).
fn rfc3339(moment: Timestamp, line: &mut Vec<u8>) {
    let Calendar { year, month, day, hour, minute, second, millis } = Calendar::of(moment);
    let parts = [
        (year, 1_000, b'-'),
        (month, 10, b'-'),
        (day, 10, b'T'),
        (hour, 10, b':'),
        (minute, 10, b':'),
        (second, 10, b'.'),
        (millis, 100, b'Z'),
    ];
    for (number, mut place, end) in parts {
        while place > 0 {
            // Of years beyond four digits the last four.
            line.push(b'0' + u8::try_from(number / place % 10).unwrap_or(0));
            place /= 10;
        }
        line.push(end);
    }
}

/// `01/Aug/2026:12:34:56 +0000`, the date of the common log format.
fn common_date(moment: Timestamp) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let Calendar { year, month, day, hour, minute, second, .. } = Calendar::of(moment);
    let name = usize::try_from(month - 1).ok().and_then(|index| MONTHS.get(index));
    let mut date = String::with_capacity(26);
    // Writing to a String cannot fail.
    let _ = write!(
        date,
        "{day:02}/{}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000",
        name.unwrap_or(&"-")
    );
    date
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, proptest};
    use proptest::prop_assert_eq;

    pub(crate) fn record(path: &str) -> AccessRecord {
        AccessRecord {
            timestamp: Timestamp::from_millis(1_785_587_696_789),
            elapsed: Duration::from_micros(1_234),
            host: Some(HeaderValue::from_static("cache.example.org")),
            method: Method::GET,
            version: Version::HTTP_11,
            uri: path.parse().unwrap(),
            referer: None,
            user_agent: Some(HeaderValue::from_static("curl/8.0 Nix/2.34.8")),
            request_bytes: Some(120),
            status: StatusCode::OK,
            response_body_bytes: 1_100,
            outcome: Outcome::HitMemory,
            site: Some("main".into()),
            class: Some(Class::Narinfo),
            origin: Some("nix-cache".into()),
            request_id: RequestId::from_bits(0x7f3a),
            tls: Some(TlsUse { protocol: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256" }),
        }
    }

    fn parsed(record: &AccessRecord) -> serde_json::Value {
        let mut line = Vec::new();
        json(record, &mut line).unwrap();
        assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn json_has_the_names_of_the_layer_before() {
        let expected = serde_json::json!({
            "timestamp": "2026-08-01T12:34:56.789Z",
            "elapsed_usec": 1234,
            "host": "cache.example.org",
            "request_method": "GET",
            "request_protocol": "HTTP/1.1",
            "url": "/abc.narinfo?a=b",
            "request_user_agent": "curl/8.0 Nix/2.34.8",
            "request_size": 120,
            "response_status": 200,
            "response_reason": "OK",
            "response_body_size": 1100,
            "response_state": "hit_memory",
            "site": "main",
            "class": "narinfo",
            "origin": "nix-cache",
            "request_id": "0000000000007f3a",
            "tls_client_protocol": "TLSv1.3",
            "tls_client_cipher": "TLS_AES_128_GCM_SHA256",
        });
        assert_eq!(parsed(&record("/abc.narinfo?a=b")), expected);
    }

    #[test]
    fn json_escapes_what_would_break_a_line_or_a_field() {
        let mut record = record("/");
        record.user_agent =
            Some(HeaderValue::from_bytes(b"a\",\"response_status\":1,\\\t\xff\x80").unwrap());
        let value = parsed(&record);
        assert_eq!(value["request_user_agent"], "a\",\"response_status\":1,\\\t\u{fffd}\u{fffd}");
        assert_eq!(value["response_status"], 200);
    }

    #[test]
    fn combined_hides_the_address_and_escapes() {
        let mut record = record("/a?b=c");
        record.referer = Some(HeaderValue::from_bytes(b"x\" 200 \\\xe4\t").unwrap());
        let mut line = Vec::new();
        combined(&record, &mut line);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "- - - [01/Aug/2026:12:34:56 +0000] \"GET /a?b=c HTTP/1.1\" 200 1100 \
             \"x\\x22 200 \\x5c\\xe4\\x09\" \"curl/8.0 Nix/2.34.8\"\n"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn whatever_a_client_sends_is_one_line_of_json(
            agent in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)
        ) {
            let Ok(value) = HeaderValue::from_bytes(&agent) else { return Ok(()) };
            let mut record = record("/");
            record.user_agent = Some(value);
            let expected = String::from_utf8_lossy(&agent);
            prop_assert_eq!(&parsed(&record)["request_user_agent"], expected.as_ref());
        }

        #[test]
        fn dates_agree_with_a_date_library(secs in 0_i64..253_402_300_800) {
            let moment = Timestamp::from_secs(secs);
            let ours = Calendar::of(moment);
            let theirs = httpdate::fmt_http_date(moment.to_system_time());
            let date = common_date(moment);
            let clock = format!("{:02}:{:02}:{:02}", ours.hour, ours.minute, ours.second);
            let (ours, _) = date.split_once(':').unwrap();
            let expected = format!("{} {clock} GMT", ours.replace('/', " "));
            prop_assert_eq!(theirs.split_once(", ").unwrap().1, expected.as_str());
        }
    }
}
