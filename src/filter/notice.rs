//! What a notice of an upload says: S3's event notifications, by themselves or in the envelopes of
//! SNS and SQS, EventBridge's events, and keep-alives. Pure; called by `admin` with a request's
//! body.
//!
//! What cannot be read is an error for the whole body: it may have been an upload. A body without a
//! record tells nothing: a queue that is asked and has nothing brings an empty batch, in SQS's JSON
//! `{}`, to which a client of Amazon's adds `ResponseMetadata`.

use crate::clock::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// Envelopes in envelopes.
const DEPTH_MAX: usize = 6;
/// Characters of a wrong text that are told.
const TOLD_MAX: usize = 100;

/// What one record of a notice tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An object was uploaded.
    Uploaded {
        /// The bucket.
        bucket: String,
        /// Its key, decoded.
        key: String,
        /// The time; none if the notice has none.
        at: Option<Timestamp>,
    },
    /// Something else happened in a bucket, such as a removal: a sign of life of its feed.
    Other {
        /// The bucket.
        bucket: String,
        /// When.
        at: Option<Timestamp>,
    },
    /// The feed lives.
    KeepAlive {
        /// Up to when it has told everything; none for now.
        at: Option<Timestamp>,
    },
    /// The feed has told of every upload in a span of time.
    Delivered {
        /// Its begin.
        since: Timestamp,
        /// Its end.
        up_to: Timestamp,
    },
}

/// Why a body is no notice.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// Not JSON.
    #[error("not a notice of uploads: {0}")]
    Json(#[from] serde_json::Error),
    /// More than is read at once.
    #[error("a notice of more than {max} bytes; send fewer records at once")]
    TooLarge {
        /// How much is.
        max: usize,
    },
    /// JSON of another kind.
    #[error(
        "not a notice of uploads: {detail}; known are S3 event notifications, by themselves or in \
         SNS or SQS, EventBridge events, {{\"keep_alive\": true}} and {{\"delivered\": \
         {{\"since\": TIME, \"up_to\": TIME}}}}"
    )]
    Unknown {
        /// What it is, or lacks.
        detail: String,
    },
}

/// Reads a body: every record that it holds, in order; none of an empty one.
pub fn parse(body: &[u8]) -> Result<Vec<Event>, NoticeError> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let value: Value = serde_json::from_slice(body)?;
    if is_empty_reply(&value) {
        return Ok(Vec::new());
    }
    let mut events = Vec::new();
    read(&value, 0, &mut events)?;
    Ok(events)
}

/// Whether it is what SQS answers if it has no message.
fn is_empty_reply(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.keys().all(|name| name == "ResponseMetadata"))
}

fn unknown(detail: impl Into<String>) -> NoticeError {
    NoticeError::Unknown { detail: detail.into() }
}

fn read(value: &Value, depth: usize, events: &mut Vec<Event>) -> Result<(), NoticeError> {
    if depth > DEPTH_MAX {
        return Err(unknown("envelopes stand in too many envelopes"));
    }
    let fields = match value {
        Value::Array(values) => return each(values, depth, events),
        Value::Object(fields) => fields,
        Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {
            return Err(unknown("a record is no object"));
        }
    };
    for list in ["Records", "Messages"] {
        if let Some(Value::Array(values)) = fields.get(list) {
            return each(values, depth, events);
        }
    }
    if let Some(envelope @ Value::Object(_)) = fields.get("Sns") {
        return read(envelope, depth + 1, events);
    }
    if text(fields, "Type") == Some("SubscriptionConfirmation") {
        return Err(unknown("it asks for a subscription to be confirmed; do that by its URL"));
    }
    if fields.contains_key("s3") {
        events.push(of_s3(fields)?);
        return Ok(());
    }
    if let Some(kind) = text(fields, "detail-type") {
        events.push(of_event_bridge(kind, fields)?);
        return Ok(());
    }
    if let Some(own) = of_narthex(fields)? {
        events.push(own);
        return Ok(());
    }
    for content in ["Message", "Body", "body"] {
        if let Some(content) = text(fields, content) {
            return read(&serde_json::from_str(content)?, depth + 1, events);
        }
    }
    let names: Vec<&str> = fields.keys().take(5).map(String::as_str).collect();
    Err(unknown(format!("a record has none of their fields but {}", told(&names.join(", ")))))
}

fn each(values: &[Value], depth: usize, events: &mut Vec<Event>) -> Result<(), NoticeError> {
    values.iter().try_for_each(|value| read(value, depth + 1, events))
}

/// A record of an S3 event notification; its key is encoded as in a form.
fn of_s3(fields: &Map<String, Value>) -> Result<Event, NoticeError> {
    let s3 = fields.get("s3").unwrap_or(&Value::Null);
    let name = text(fields, "eventName").ok_or_else(|| unknown("a record has no eventName"))?;
    let bucket = named(s3.pointer("/bucket/name"), "s3.bucket.name")?.to_owned();
    let at = moment(fields, "eventTime")?;
    if !name.trim_start_matches("s3:").starts_with("ObjectCreated:") {
        return Ok(Event::Other { bucket, at });
    }
    let key = named(s3.pointer("/object/key"), "s3.object.key")?.replace('+', " ");
    let key = percent_decode_str(&key).decode_utf8();
    let key = key.map_err(|_| unknown("the key of a record is not UTF-8"))?.into_owned();
    Ok(Event::Uploaded { bucket, key, at })
}

/// An event of EventBridge; its key is not encoded.
fn of_event_bridge(kind: &str, fields: &Map<String, Value>) -> Result<Event, NoticeError> {
    let at = moment(fields, "time")?;
    if kind == "Scheduled Event" {
        return Ok(Event::KeepAlive { at });
    }
    if text(fields, "source") != Some("aws.s3") {
        return Err(unknown(format!("an event {} is not of S3", told(kind))));
    }
    let detail = fields.get("detail").unwrap_or(&Value::Null);
    let bucket = named(detail.pointer("/bucket/name"), "detail.bucket.name")?.to_owned();
    if kind != "Object Created" {
        return Ok(Event::Other { bucket, at });
    }
    let key = named(detail.pointer("/object/key"), "detail.object.key")?.to_owned();
    Ok(Event::Uploaded { bucket, key, at })
}

/// What is written for Narthex itself, and S3's own test of a new feed.
fn of_narthex(fields: &Map<String, Value>) -> Result<Option<Event>, NoticeError> {
    if fields.get("keep_alive") == Some(&Value::Bool(true)) && fields.len() == 1 {
        return Ok(Some(Event::KeepAlive { at: None }));
    }
    if text(fields, "Event") == Some("s3:TestEvent") {
        return Ok(Some(Event::KeepAlive { at: moment(fields, "Time")? }));
    }
    let Some(Value::Object(span)) = fields.get("delivered").filter(|_| fields.len() == 1) else {
        return Ok(None);
    };
    match (moment(span, "since")?, moment(span, "up_to")?, span.len()) {
        (Some(since), Some(up_to), 2) if since < up_to => {
            Ok(Some(Event::Delivered { since, up_to }))
        }
        _ => Err(unknown("\"delivered\" takes a \"since\" and a later \"up_to\", nothing else")),
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

fn named<'a>(value: Option<&'a Value>, name: &str) -> Result<&'a str, NoticeError> {
    let value = value.and_then(Value::as_str).filter(|value| !value.is_empty());
    value.ok_or_else(|| unknown(format!("a record has no {name}")))
}

fn moment(fields: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, NoticeError> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let moment = value.as_str().and_then(parse_moment);
    let wrong = || unknown(format!("{name} is {}, no time", told(&value.to_string())));
    moment.map(Some).ok_or_else(wrong)
}

/// A moment as RFC 3339 writes it.
pub fn parse_moment(text: &str) -> Option<Timestamp> {
    let moment: jiff::Timestamp = text.trim().parse().ok()?;
    Some(Timestamp::from_millis(moment.as_millisecond()))
}

/// A moment as RFC 3339 writes it.
pub fn print_moment(moment: Timestamp) -> String {
    let moment = jiff::Timestamp::from_millisecond(moment.millis());
    moment.map_or_else(|_| "never".to_owned(), |moment| moment.to_string())
}

fn told(text: &str) -> String {
    let text: String = text.chars().take(TOLD_MAX).collect();
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any, proptest};
    use serde_json::json;

    /// As in Amazon's "Event message structure".
    fn s3_record(name: &str, key: &str) -> Value {
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-west-2",
            "eventTime": "1970-01-01T00:00:01.500Z", "eventName": name,
            "s3": { "s3SchemaVersion": "1.0", "bucket": { "name": "cache" },
                    "object": { "key": key, "size": 1024, "sequencer": "0055AED6DCD90281E5" } }
        })
    }

    fn uploaded(key: &str, millis: i64) -> Event {
        let at = Some(Timestamp::from_millis(millis));
        Event::Uploaded { bucket: "cache".to_owned(), key: key.to_owned(), at }
    }

    fn events(body: &Value) -> Vec<Event> {
        parse(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn records_of_s3_with_their_keys_decoded() {
        let body = json!({ "Records": [
            s3_record("ObjectCreated:Put", "a.narinfo"),
            s3_record("s3:ObjectCreated:CompleteMultipartUpload", "log/g%2B%2B+x%C3%BC"),
            s3_record("ObjectRemoved:Delete", "b.narinfo"),
        ]});
        let other =
            Event::Other { bucket: "cache".to_owned(), at: Some(Timestamp::from_millis(1_500)) };
        let expected = [uploaded("a.narinfo", 1_500), uploaded("log/g++ x\u{fc}", 1_500), other];
        assert_eq!(events(&body), expected);
    }

    #[test]
    fn envelopes_of_sns_and_sqs() {
        let inner = json!({ "Records": [s3_record("ObjectCreated:Copy", "a")] }).to_string();
        let sns = json!({ "Type": "Notification", "TopicArn": "t", "Message": inner });
        for body in [
            sns.clone(),
            json!({ "Records": [{ "EventSource": "aws:sns", "Sns": sns }] }),
            json!({ "Messages": [{ "MessageId": "m", "Body": inner }] }),
            json!({ "Records": [{ "eventSource": "aws:sqs", "body": inner }] }),
            json!({ "Messages": [{ "Body": sns.to_string() }] }),
            json!([{ "Body": inner }]),
        ] {
            assert_eq!(events(&body), [uploaded("a", 1_500)], "{body}");
        }
    }

    #[test]
    fn events_of_event_bridge_and_its_schedule() {
        let event = |kind: &str, source: &str| {
            json!({ "version": "0", "detail-type": kind, "source": source,
                    "time": "1970-01-01T00:00:02Z", "detail": {
                        "bucket": { "name": "cache" },
                        "object": { "key": "log/a+b%20c", "size": 5 }, "reason": "PutObject" } })
        };
        let at = Some(Timestamp::from_secs(2));
        let created = event("Object Created", "aws.s3");
        assert_eq!(events(&created), [uploaded("log/a+b%20c", 2_000)]);
        let deleted = events(&event("Object Deleted", "aws.s3"));
        assert_eq!(deleted, [Event::Other { bucket: "cache".to_owned(), at }]);
        let tick = event("Scheduled Event", "aws.events");
        assert_eq!(events(&tick), [Event::KeepAlive { at }]);
        assert_eq!(events(&json!([created, tick])).len(), 2);
    }

    #[test]
    fn keep_alives_and_statements() {
        assert_eq!(events(&json!({ "keep_alive": true })), [Event::KeepAlive { at: None }]);
        let test = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent",
                           "Time": "1970-01-01T00:00:02.000Z", "Bucket": "cache" });
        let at = Some(Timestamp::from_secs(2));
        assert_eq!(events(&test), [Event::KeepAlive { at }]);
        let (since, up_to) = ("1970-01-01T00:00:02Z", "1970-01-01T01:00:03+01:00");
        let stated = json!({ "delivered": { "since": since, "up_to": up_to } });
        let (since, up_to) = (Timestamp::from_secs(2), Timestamp::from_secs(3));
        assert_eq!(events(&stated), [Event::Delivered { since, up_to }]);
    }

    #[test]
    fn what_may_have_been_an_upload_is_an_error() {
        let mut nested = json!({ "Records": [s3_record("ObjectCreated:Put", "a")] });
        for _ in 0..9 {
            nested = json!({ "Message": nested.to_string() });
        }
        let mut keyless = s3_record("ObjectCreated:Put", "a");
        keyless["s3"]["object"] = json!({});
        let mut undated = s3_record("ObjectCreated:Put", "a");
        undated["eventTime"] = json!("yesterday");
        for (body, word) in [
            (json!("text"), "no object"),
            (json!({ "Records": [keyless] }), "s3.object.key"),
            (json!({ "Records": [undated] }), "yesterday"),
            (json!({ "Records": [s3_record("ObjectCreated:Put", "%ff")] }), "UTF-8"),
            (json!({ "keep_alive": false }), "keep_alive"),
            (json!({ "delivered": { "since": "1970-01-01T00:00:02Z" } }), "up_to"),
            (json!({ "Type": "SubscriptionConfirmation", "Message": "m" }), "subscription"),
            (json!({ "detail-type": "EC2 Thing", "source": "aws.ec2" }), "EC2 Thing"),
            (json!({ "Message": "not json" }), "expected"),
            (nested, "too many"),
        ] {
            let error = parse(body.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.contains(word), "{body}: {error}");
        }
        assert!(parse(b"{").is_err());
    }

    /// FAULTS.md F6: what polls a queue sends on whatever it got.
    #[test]
    fn an_empty_batch_tells_nothing() {
        for body in [
            "",
            " \n",
            "[]",
            "{}",
            r#"{"Messages": []}"#,
            r#"{"Records": []}"#,
            r#"{"ResponseMetadata": {"RequestId": "r", "HTTPStatusCode": 200}}"#,
            r#"{"Messages": [], "ResponseMetadata": {"RequestId": "r"}}"#,
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap(), [], "{body}");
        }
        for body in [
            r#"{"Messages": null}"#,
            "[{}]",
            r#"{"Records": [{}]}"#,
            r#"{"Messages": [{"Body": "{}"}]}"#,
            r#"{"ResponseMetadata": {}, "Event": "s3:Unknown"}"#,
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn moments_read_back() {
        let moment = Timestamp::from_millis(1_780_000_000_250);
        assert_eq!(print_moment(moment), "2026-05-28T20:26:40.25Z");
        assert_eq!(parse_moment(&print_moment(moment)), Some(moment));
        assert_eq!(parse_moment("2026-05-28"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_body_panics(body in any::<Vec<u8>>()) {
            let _ = parse(&body);
        }

        #[test]
        fn any_key_comes_through(key in "\\PC{1,40}") {
            let encoded: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
            let body = json!({ "Records": [s3_record("ObjectCreated:Post", &encoded)] });
            assert_eq!(events(&body), [uploaded(&key, 1_500)]);
        }
    }
}
