//! The origins of a site, and what a fill of one of its objects is for. Values only.

use super::proof::SiteKeys;
use crate::config;
use crate::nix::Class;
use crate::origin::{Asker, Origins};
use std::sync::Arc;

/// The origins of a site, and the keys that must have signed its narinfos.
#[derive(Debug)]
pub struct SiteOrigins {
    /// The site's settings.
    pub site: config::Site,
    /// Its origins.
    pub origins: Origins,
    /// The trusted keys of each origin.
    pub trusted: SiteKeys,
}

/// What is to be fetched, and for which client.
#[derive(Debug, Clone)]
pub(super) struct Demand {
    /// The client.
    pub(super) asker: Asker,
    /// The object's class.
    pub(super) class: Class,
    /// The origins of its site.
    pub(super) upstream: Arc<SiteOrigins>,
}
