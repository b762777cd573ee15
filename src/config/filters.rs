//! From values to the absence filter of a site, and what is wrong between them. Pure; called once
//! for each site that is read.

use super::model::{AbsenceFilter, Origin, OriginUrl};
use super::problem::ProblemReport;
use super::process::required_file;
use super::scope::TableValues;
use std::path::PathBuf;

/// The filter of the site of `scope`, which has these `origins`.
///
/// What is absent from one bucket may be elsewhere: a site with a filter has one origin, or several
/// that are the same bucket. Notices may know it by another name than its URL, which may be that of
/// an access point.
pub(super) fn absence_filter(
    scope: &TableValues,
    origins: &[Origin],
    report: &mut ProblemReport,
) -> Option<AbsenceFilter> {
    let table = "site.absence_filter";
    if !scope.has_table(table) {
        return None;
    }
    let given = scope.text("site.absence_filter.bucket").map(|given| given.value);
    let mut buckets: Vec<Option<&str>> =
        origins.iter().map(|origin| bucket_of(&origin.url)).collect();
    let bucket = given.or_else(|| buckets.first().copied().flatten().map(str::to_owned));
    buckets.dedup();
    let spot = scope.spot_of(table);
    // An origin that is wrong is told already.
    if !origins.is_empty() && bucket.as_deref().is_none_or(str::is_empty) {
        let message = "says not which bucket it is of, and the origin is no s3:// URL; write \
                       bucket = \"NAME\"";
        report.problem(spot.problem(message));
    }
    if buckets.len() > 1 || (origins.len() > 1 && buckets.contains(&None)) {
        let message = "is of one bucket, and the site has an origin that is another place: what \
                       the bucket lacks may be there; give that origin to another site";
        report.problem(spot.problem(message));
    }
    let has_prefix =
        |origin: &Origin| matches!(&origin.url, OriginUrl::S3(s3) if !s3.prefix.is_empty());
    if origins.iter().any(has_prefix) {
        let message = "is of all keys of a bucket, and an origin of the site has a prefix; leave \
                       one of both out";
        report.problem(scope.spot_of(table).problem(message));
    }
    let file = required_file(scope, "site.absence_filter.file", report);
    let beside = || {
        let mut name = file.clone().into_os_string();
        name.push(".uploads");
        PathBuf::from(name)
    };
    Some(AbsenceFilter {
        journal: scope.path("site.absence_filter.journal").unwrap_or_else(beside),
        bucket: bucket.unwrap_or_default(),
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
