//! What the assembly gives the admin interface, and what all of its requests share. Lives as long
//! as the listener.

use super::fsck::FsckHandler;
use super::purge::PurgeHandler;
use super::token::Tokens;
use super::uploads::UploadsHandler;
use crate::metrics::Metrics;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What the admin interface speaks of.
#[derive(Clone)]
pub struct AdminParts {
    /// `/metrics`.
    pub metrics: Metrics,
    /// Called before `/metrics` is printed.
    pub before_metrics: BeforeMetrics,
    /// `/readyz`; called for each request, so it must not block.
    pub readiness: ReadinessProbe,
    /// `POST /api/v1/purge`.
    pub purge: PurgeHandler,
    /// `POST /api/v1/uploads`.
    pub uploads: UploadsHandler,
    /// `/api/v1/fsck`.
    pub fsck: FsckHandler,
    /// File with the bearer token; without it, purging is off.
    pub token_file: Option<PathBuf>,
}

impl fmt::Debug for AdminParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("token_file", &self.token_file).finish_non_exhaustive()
    }
}

/// What all requests share.
pub(super) struct AdminState {
    pub(super) parts: AdminParts,
    pub(super) tokens: Tokens,
}

/// Brings gauges up to date that are only worth setting when they are read; must not block.
pub type BeforeMetrics = Arc<dyn Fn() + Send + Sync>;

/// Says whether the edge can serve; must not block.
pub type ReadinessProbe = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// Whether the edge can serve, and what each part says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether clients should be sent here.
    #[serde(rename = "ready")]
    pub is_ready: bool,
    /// The parts.
    pub checks: Vec<ReadinessCheck>,
}

/// What one part says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessCheck {
    /// The part.
    pub name: String,
    /// Whether it works.
    #[serde(rename = "ok")]
    pub is_ok: bool,
    /// What it does, or what is wrong and what to do.
    pub detail: String,
}
