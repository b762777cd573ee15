//! Carries out notices of uploads: each filter of the bucket notes them, then every site of the
//! bucket forgets that the object was absent, and only then is the notice answered. Called by the
//! admin listener.

use super::purging::key;
use crate::admin::{UploadsError, UploadsReply, UploadsRequest};
use crate::config::OriginUrl;
use crate::engine::{Engine, ServedSite};
use crate::filter::{Event, Filter};
use crate::metrics::Metrics;
use crate::object::Key;
use crate::purge::Purger;
use crate::rfc::path::encode_path;
use crate::tasks::Tasks;
use std::sync::Arc;

/// What notices are carried out with.
#[derive(Debug, Clone)]
pub(super) struct UploadNotices {
    pub(super) engine: Arc<Engine>,
    pub(super) purger: Purger,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
}

impl UploadNotices {
    /// Takes what `request` tells of.
    pub(super) async fn take(&self, request: UploadsRequest) -> Result<UploadsReply, UploadsError> {
        let sites = self.sites(request.site)?;
        let events = match request.notices {
            Ok(events) => events,
            Err(error) => {
                self.count("unreadable", 1);
                for site in &sites {
                    if let Some(filter) = &site.filter {
                        let name = site.name();
                        tracing::error!(site = name, %error, "unreadable upload notice");
                        self.blocking(filter, Filter::lose).await?;
                    }
                }
                return Err(error.into());
            }
        };
        let is_general =
            |event: &Event| matches!(event, Event::KeepAlive { .. } | Event::Delivered { .. });
        let with_filter = sites.iter().filter(|site| site.filter.is_some()).count();
        let (mut events, mut refused) = (events, None);
        if with_filter > 1 && events.iter().any(is_general) {
            // What else is in the same notice counts all the same.
            events.retain(|event| !is_general(event));
            refused = Some(UploadsError::WhichSite);
        }
        for site in &sites {
            if let Err(error) = self.tell(site, &events).await {
                refused.get_or_insert(error);
            }
        }
        let is_upload = |event: &&Event| {
            matches!(event, Event::Uploaded { bucket, .. }
                if sites.iter().any(|site| is_of(site, bucket)))
        };
        let uploads = events.iter().filter(is_upload).count() as u64;
        if let Some(refused) = refused {
            self.count("refused", events.len() as u64);
            return Err(refused);
        }
        let foreign = |event: &&Event| match event {
            Event::Uploaded { bucket, .. } | Event::Other { bucket, .. } => {
                !sites.iter().any(|site| is_of(site, bucket))
            }
            Event::KeepAlive { .. } | Event::Delivered { .. } => false,
        };
        let foreign = events.iter().filter(foreign).count() as u64;
        let others = events.len() as u64 - uploads;
        self.count("noted", uploads);
        self.count("foreign", foreign);
        self.count("other", others - foreign);
        Ok(UploadsReply { uploads, others })
    }

    fn count(&self, result: &str, records: u64) {
        self.metrics.upload_notices.with_label_values(&[result]).inc_by(records);
    }

    /// The site that is named, or all.
    fn sites(&self, name: Option<String>) -> Result<Vec<Arc<ServedSite>>, UploadsError> {
        let sites = self.engine.sites();
        match name {
            None => Ok(sites.all().to_vec()),
            Some(name) => match sites.named(&name) {
                Some(site) => Ok(vec![Arc::clone(site)]),
                None => Err(UploadsError::UnknownSite { name }),
            },
        }
    }

    /// Tells one site what concerns its bucket. What it remembers of absences is forgotten even
    /// if its filter cannot note the uploads.
    async fn tell(&self, site: &Arc<ServedSite>, events: &[Event]) -> Result<(), UploadsError> {
        let own = |event: &&Event| match event {
            Event::Uploaded { bucket, .. } | Event::Other { bucket, .. } => is_of(site, bucket),
            Event::KeepAlive { .. } | Event::Delivered { .. } => site.filter.is_some(),
        };
        let events: Vec<Event> = events.iter().filter(own).cloned().collect();
        if events.is_empty() {
            return Ok(());
        }
        let keys: Vec<Key> = events.iter().flat_map(|event| uploaded(site, event)).collect();
        let noted = match &site.filter {
            Some(filter) => {
                let taken = self.blocking(filter, move |filter| filter.take(&events)).await?;
                taken.map_err(|error| {
                    tracing::error!(site = site.name(), %error, "upload notices refused");
                    UploadsError::Refused { detail: error.to_string() }
                })
            }
            None => Ok(()),
        };
        if !keys.is_empty() {
            self.purger.uploaded(keys).await;
        }
        noted
    }

    async fn blocking<T: Send + 'static>(
        &self,
        filter: &Arc<Filter>,
        work: impl FnOnce(&Filter) -> T + Send + 'static,
    ) -> Result<T, UploadsError> {
        let filter = Arc::clone(filter);
        let working = self.tasks.blocking("uploads", move || work(&filter));
        working.await.map_err(|error| UploadsError::Refused { detail: error.to_string() })
    }
}

/// Whether a site's objects are those of a bucket.
fn is_of(site: &ServedSite, bucket: &str) -> bool {
    let has_origin = |url: &OriginUrl| matches!(url, OriginUrl::S3(s3) if s3.bucket == bucket);
    site.filter.as_ref().is_some_and(|filter| filter.bucket() == bucket)
        || site.upstream.site.origins.iter().any(|origin| has_origin(&origin.url))
}

/// The keys of an uploaded object in the cache, one for each prefix that the site has of its
/// bucket; none if no request can be for it.
fn uploaded(site: &ServedSite, event: &Event) -> Vec<Key> {
    let Event::Uploaded { bucket, key: name, .. } = event else { return Vec::new() };
    let origins = site.upstream.site.origins.iter();
    let below_prefix = |url: &OriginUrl| match url {
        OriginUrl::S3(s3) if s3.bucket == *bucket => path_below(name, &s3.prefix),
        OriginUrl::S3(_) | OriginUrl::Http(_) | OriginUrl::File(_) => None,
    };
    let mut paths: Vec<String> = origins.filter_map(|origin| below_prefix(&origin.url)).collect();
    // A filter may know its bucket by another name than the URL of its origin.
    if site.filter.as_ref().is_some_and(|filter| filter.bucket() == *bucket) {
        paths.extend(path_below(name, ""));
    }
    paths.sort_unstable();
    paths.dedup();
    paths.iter().filter_map(|path| key(site, &encode_path(path)).ok()).collect()
}

/// The path of the object `name` of a bucket below `prefix`; none if it lies elsewhere.
fn path_below(name: &str, prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some(format!("/{name}"));
    }
    let rest = name.strip_prefix(prefix)?;
    rest.starts_with('/').then(|| rest.to_owned())
}
