//! From values to the absence filter of a site, and what is wrong between them. Pure; called once
//! for each site that is read.

use super::model::{AbsenceFilter, Origin, OriginUrl};
use super::problem::Report;
use super::scope::Scope;
use std::path::PathBuf;

/// The filter of the site of `scope`, whose origins are these.
///
/// What is absent from one bucket may be elsewhere: a site with a filter has one origin, or several
/// that are the same bucket.
pub(super) fn absence_filter(
    scope: &Scope,
    origins: &[Origin],
    report: &mut Report,
) -> Option<AbsenceFilter> {
    let table = "site.absence_filter";
    if !scope.has_table(table) {
        return None;
    }
    let given = scope.text("site.absence_filter.bucket");
    let buckets: Vec<Option<&str>> = origins.iter().map(|origin| bucket_of(&origin.url)).collect();
    let first = buckets.iter().copied().flatten().next();
    let bucket = given.as_ref().map(|given| given.value.as_str()).or(first);
    let is_only = origins.len() == 1;
    let is_other = |own: Option<&str>| match own {
        Some(own) => Some(own) != bucket,
        None => !is_only,
    };
    let spot = scope.spot_of(table);
    if bucket.is_none_or(str::is_empty) {
        let message = "says not which bucket it is of, and the origin is no s3:// URL; write \
                       bucket = \"NAME\"";
        report.problem(spot.problem(message));
    } else if buckets.iter().copied().any(is_other) {
        let message = "is of one bucket, and the site has an origin that is another place: what \
                       the bucket lacks may be there; give that origin to another site";
        report.problem(spot.problem(message));
    }
    let file = scope.path("site.absence_filter.file").unwrap_or_default();
    let beside = || {
        let mut name = file.clone().into_os_string();
        name.push(".uploads");
        PathBuf::from(name)
    };
    Some(AbsenceFilter {
        journal: scope.path("site.absence_filter.journal").unwrap_or_else(beside),
        bucket: bucket.unwrap_or_default().to_owned(),
        feed_timeout: scope.duration("site.absence_filter.feed_timeout"),
        feed_retention: scope.duration("site.absence_filter.feed_retention"),
        uploads_max: scope.number("site.absence_filter.uploads_max").unwrap_or_default(),
        file,
    })
}

fn bucket_of(url: &OriginUrl) -> Option<&str> {
    match url {
        OriginUrl::S3(s3) => Some(&s3.bucket),
        OriginUrl::Http(_) | OriginUrl::File(_) => None,
    }
}
