//! Fuzzes `filter::parse`: whatever a notice says, what is read of it names a bucket and a key, and
//! says the same when it stands in an envelope of SQS; a moment that is printed reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::filter::{Event, parse, parse_moment, print_moment};

fuzz_target!(|data: &[u8]| {
    if let Some(text) = narthex_fuzz::text(data)
        && let Some(moment) = parse_moment(text)
    {
        assert_eq!(parse_moment(&print_moment(moment)), Some(moment));
    }
    let Ok(events) = parse(data) else { return };
    for event in &events {
        match event {
            Event::Uploaded { bucket, .. } | Event::Other { bucket, .. } => {
                assert!(!bucket.is_empty());
            }
            Event::Delivered { since, up_to } => assert!(since < up_to),
            Event::KeepAlive { .. } => {}
        }
    }
    let text = narthex_fuzz::text(data).expect("JSON is UTF-8");
    let wrapped = serde_json::json!({ "Messages": [{ "Body": text }] }).to_string();
    // One envelope more may be one too many.
    if let Ok(again) = parse(wrapped.as_bytes()) {
        assert_eq!(again, events);
    }
});
