//! Sites of the config become sites of the engine: origins set up, keys parsed.

use super::filters::ByName;
use crate::client::Trusts;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::engine::{Ports, ServedSite};
use crate::fill::{SiteKeys, SiteOrigins};
use crate::front::Door;
use crate::metrics::Metrics;
use crate::nix::signature::KeyError;
use crate::origin::{OriginSetupError, Origins};
use crate::tasks::Tasks;
use std::net::SocketAddr;
use std::sync::Arc;

/// Why a site cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SitesError {
    /// An origin.
    #[error("site {site}: {source}")]
    Origin {
        /// The site's name.
        site: String,
        /// What is wrong.
        source: OriginSetupError,
    },
    /// A trusted key.
    #[error("site {site}: trusted_public_keys: {source}")]
    Key {
        /// The site's name.
        site: String,
        /// What is wrong.
        source: KeyError,
    },
}

pub(super) fn build(
    config: &Config,
    addresses: &[(Door, SocketAddr)],
    clock: &Clock,
    metrics: &Metrics,
    tasks: &Tasks,
    filters: &ByName,
) -> Result<Vec<ServedSite>, SitesError> {
    let mut trusts = Trusts::default();
    let ports = Ports::of(addresses.iter().map(|(door, address)| match door {
        Door::Plain => ("http", address.port()),
        Door::Tls => ("https", address.port()),
    }));
    config
        .sites
        .iter()
        .map(|site| {
            let upstream = upstream(site, clock, metrics, tasks, &mut trusts)?;
            let filter = filters.get(&site.name).cloned();
            Ok(ServedSite::new(Arc::new(upstream), filter, ports.clone(), metrics.clone()))
        })
        .collect()
}

fn upstream(
    site: &config::Site,
    clock: &Clock,
    metrics: &Metrics,
    tasks: &Tasks,
    trusts: &mut Trusts,
) -> Result<SiteOrigins, SitesError> {
    let origins = Origins::new(site, clock.clone(), metrics.clone(), tasks.clone(), trusts);
    let origins =
        origins.map_err(|source| SitesError::Origin { site: site.name.clone(), source })?;
    let trusted =
        SiteKeys::of(site).map_err(|source| SitesError::Key { site: site.name.clone(), source })?;
    Ok(SiteOrigins { site: site.clone(), origins, trusted })
}
