//! What a small body of a binary cache becomes before it is judged. A narinfo, or a
//! `nix-cache-info`, is taken out of its content coding, so that it is read, proven and served
//! plain; a coding that is not known stays. A narinfo that spells out the host of its cache gets a
//! relative `URL`, so that clients fetch its NAR through this cache. Called by the leader of a
//! fill.

use super::error::{FillError, Rejection};
use super::site_origins::SiteOrigins;
use crate::config::OriginUrl;
use crate::nix::Class;
use crate::nix::nar_url::{self, CachePlace};
use crate::nix::narinfo::NARINFO_BYTES_MAX;
use crate::object::Meta;
use crate::policy;
use crate::policy::response::Coding;
use crate::rfc::ContentCodings;
use crate::rfc::content_coding::DecodeError;
use crate::tasks::Tasks;
use bytes::Bytes;
use std::sync::Arc;

/// A whole small body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SmallBody {
    pub(super) bytes: Bytes,
    pub(super) coding: Coding,
}

impl SmallBody {
    /// The body without its coding, if it is one that this cache reads and the coding is known.
    /// Then `meta` describes the plain bytes.
    pub(super) async fn decoded(self, tasks: &Tasks, meta: &mut Meta) -> Result<Self, FillError> {
        let is_read = matches!(meta.class, Class::Narinfo | Class::CacheInfo);
        if self.coding == Coding::Identity || !is_read {
            return Ok(self);
        }
        let Some(codings) = ContentCodings::of(&meta.headers) else { return Ok(self) };
        let bytes = self.bytes.clone();
        let decoding = move || codings.decode(&bytes, NARINFO_BYTES_MAX);
        let decoded = tasks.blocking("decode", decoding).await.map_err(|error| {
            tracing::error!(path = meta.key.path(), %error, "decoding ended without a result");
            FillError::NoResult
        })?;
        let plain = decoded.map_err(|error| FillError::Rejected {
            origin: Arc::clone(&meta.origin),
            rejection: rejection(meta.class, &error),
        })?;
        policy::describe_changed(&mut meta.headers);
        Ok(Self { bytes: plain.into(), coding: Coding::Identity })
    }

    /// A narinfo from the origin at `position`, with the path of its NAR in this cache if its `URL`
    /// leads to that origin or to the site itself. Then `meta` describes the bytes that it has now.
    pub(super) fn with_own_url(
        self,
        upstream: &SiteOrigins,
        position: usize,
        meta: &mut Meta,
    ) -> Self {
        if meta.class != Class::Narinfo || self.coding == Coding::Encoded {
            return self;
        }
        let Some(replaced) = nar_url::with_own_url(&self.bytes, &places(upstream, position)) else {
            return self;
        };
        policy::describe_changed(&mut meta.headers);
        Self { bytes: replaced.into(), ..self }
    }
}

/// The places that serve what the origin at `position` has.
fn places(upstream: &SiteOrigins, position: usize) -> Vec<CachePlace<'_>> {
    let site = &upstream.site;
    let prefix = &*site.base_path;
    let own = site.hosts.iter().map(|host| CachePlace { authority: host, prefix });
    let origin = site.origins.get(position).and_then(|origin| match &origin.url {
        OriginUrl::Http(url) => {
            let prefix = url.path().trim_end_matches('/');
            Some(CachePlace { authority: url.authority()?.as_str(), prefix })
        }
        OriginUrl::S3(_) | OriginUrl::File(_) => None,
    });
    own.chain(origin).collect()
}

fn rejection(class: Class, error: &DecodeError) -> Rejection {
    match error {
        DecodeError::TooLarge { max } => {
            let limit = *max as u64;
            Rejection::TooLarge { limit, actual: limit + 1 }
        }
        DecodeError::Broken { .. } => {
            let detail = error.to_string();
            if class == Class::CacheInfo {
                Rejection::CacheInfo { detail }
            } else {
                Rejection::Narinfo { detail }
            }
        }
    }
}
