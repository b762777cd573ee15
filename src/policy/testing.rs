//! Values that the tests of `policy` share. Exists only under test.

use crate::clock::Timestamp;
use crate::config::LifetimeTerms;
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, Proof, Variant};
use http::{HeaderMap, HeaderName, StatusCode};
use std::time::Duration;

/// The fields of `lines`, in their order.
pub(super) fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    headers
}

/// A day, 10 s for absence, an hour in outages, nothing meanwhile.
pub(super) fn terms() -> LifetimeTerms {
    LifetimeTerms {
        fresh: Duration::from_hours(24),
        absent: Duration::from_secs(10),
        stale_if_error: Duration::from_hours(1),
        ..LifetimeTerms::default()
    }
}

/// A narinfo with these fields that arrived new at second 1000.
pub(super) fn meta(lines: &[(&str, &str)]) -> Meta {
    Meta {
        key: Key::new("main", "/x.narinfo", None),
        class: Class::Narinfo,
        status: StatusCode::OK,
        headers: fields(lines),
        origin: "origin".into(),
        request_time: Timestamp::from_secs(1_000),
        response_time: Timestamp::from_secs(1_000),
        age_at_response: 0,
        lifetime: Lifetime::Seconds(86_400),
        is_invalidated: false,
        proof: Proof::Parsed,
        variant: Variant::default(),
    }
}
