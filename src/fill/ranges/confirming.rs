//! A request that is to confirm what is here in part, and what came of it. Values; no locks.

use crate::fill::error::FillError;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// What an origin says to what is here in part.
#[derive(Debug, Clone)]
pub enum PartConfirmation {
    /// It is the same: its head is as fresh as can be.
    Same,
    /// It is another now, is gone, or may not be stored any more: begin anew.
    Other,
    /// The origin of a generic site is in trouble: 500, 502, 503 or 504.
    Trouble,
    /// The answer says nothing of the object: a refusal, a redirect, a wish for fewer requests.
    /// What is here stays, and must still be confirmed.
    Unsaid,
    /// No usable answer.
    Failed(Arc<FillError>),
}

/// A request under way that is to confirm an object.
#[derive(Debug, Clone)]
pub(super) struct ConfirmRequest {
    pub(super) begun: Instant,
    pub(super) said: watch::Receiver<Option<PartConfirmation>>,
}

impl ConfirmRequest {
    pub(super) fn is_under_way(&self) -> bool {
        self.said.borrow().is_none() && self.said.has_changed().is_ok()
    }

    pub(super) async fn said(mut self) -> PartConfirmation {
        let said = self.said.wait_for(Option::is_some).await;
        let said = said.ok().and_then(|said| said.clone());
        said.unwrap_or_else(|| PartConfirmation::Failed(Arc::new(FillError::NoResult)))
    }
}
