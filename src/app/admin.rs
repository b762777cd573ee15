//! What the admin listener is given: metrics that are up to date, readiness, purging, notices of
//! uploads, and checks of the disk tier. Called by the assembly, once.

use super::filters::SiteFilters;
use super::purging::purge;
use super::readiness::ReadinessSources;
use super::uploads::UploadNotices;
use super::written::WrittenBytes;
use crate::admin::{AdminParts, FsckRefusal, FsckRequest};
use crate::metrics::Metrics;
use crate::purge::Purger;
use crate::store::{CheckReport, CheckStart, Disks};
use futures_util::FutureExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The parts of the admin listener.
pub(super) fn parts(
    ready: ReadinessSources,
    purger: Purger,
    metrics: Metrics,
    uploads: UploadNotices,
    filters: Arc<SiteFilters>,
    token_file: Option<PathBuf>,
) -> AdminParts {
    let engine = Arc::clone(&ready.engine);
    let store = ready.cache.store().cloned();
    let (cache, gauges) = (ready.cache.clone(), metrics.clone());
    let written = WrittenBytes::default();
    AdminParts {
        metrics,
        before_metrics: Arc::new(move || {
            cache.report(&gauges);
            written.report(&gauges);
            filters.show();
        }),
        readiness: Arc::new(move || ready.report()),
        purge: Arc::new(move |request| {
            let (engine, purger) = (Arc::clone(&engine), purger.clone());
            async move { purge(&engine, &purger, request).await }.boxed()
        }),
        uploads: Arc::new(move |request| {
            let uploads = uploads.clone();
            async move { uploads.take(request).await }.boxed()
        }),
        fsck: Arc::new(move |request| fsck(store.as_ref(), request)),
        token_file,
    }
}

fn fsck(store: Option<&Disks>, request: FsckRequest) -> Result<CheckReport, FsckRefusal> {
    let store = store.ok_or(FsckRefusal::NoDisk)?;
    match request {
        FsckRequest::Begin { mode, rate }
            if store.begin_check(mode, rate) == CheckStart::Already =>
        {
            return Err(FsckRefusal::Busy);
        }
        FsckRequest::Begin { .. } | FsckRequest::Look => {}
        FsckRequest::End => store.end_check(),
    }
    Ok(store.checked())
}
