//! What a failed request counts against its origin. Pure; called by `upstream`.

use super::breaker::SLOW;
use super::exchange::FetchError;
use http::StatusCode;
use std::time::Duration;

/// What an error counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureCost {
    /// No failure: the origin is there.
    None,
    /// Nothing follows.
    Nothing,
    /// So many failures.
    Failures(u32),
}

/// What costs a client a deadline counts more than what comes back at once.
pub(super) fn cost(error: &FetchError, took: Duration) -> FailureCost {
    if error.is_told() {
        return FailureCost::Nothing;
    }
    let base = match error {
        FetchError::Connect { .. } => 2,
        FetchError::Broken { .. } | FetchError::FirstByte { .. } => 1,
        FetchError::Status { status, .. } if is_trouble(*status) => 1,
        FetchError::Status { .. } | FetchError::Credentials { .. } => return FailureCost::None,
        FetchError::Upload { .. }
        | FetchError::Protocol { .. }
        | FetchError::Folder { .. }
        | FetchError::Open { .. }
        | FetchError::Throttled { .. }
        | FetchError::Busy { .. }
        | FetchError::Optional(_) => return FailureCost::Nothing,
    };
    FailureCost::Failures(if took >= SLOW { base + 3 } else { base })
}

fn is_trouble(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
