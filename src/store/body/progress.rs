//! Whether a disk takes what it is given: the writes of a store that have ended. One per store, as
//! long as it; lock-free.

use crate::store::error::WriteError;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// How long a disk may end no write at all before it counts as hanging, while one is waited for.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Counts writes that have ended.
#[derive(Debug, Default)]
pub(in crate::store) struct Writes(AtomicU64);

impl Writes {
    /// A write has ended.
    pub(in crate::store) fn ended(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for `writing` as long as the disk ends writes, of whatever object: a slow disk is
    /// waited for, a hanging one is not.
    pub(in crate::store) async fn bounded<F: Future>(
        &self,
        writing: F,
    ) -> Result<F::Output, WriteError> {
        let mut writing = pin!(writing);
        loop {
            let before = self.0.load(Ordering::Relaxed);
            if let Ok(output) = timeout(STALL_MAX, writing.as_mut()).await {
                return Ok(output);
            }
            if self.0.load(Ordering::Relaxed) == before {
                return Err(WriteError::Stalled { seconds: STALL_MAX.as_secs() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_slow_disk_is_waited_for_and_a_hanging_one_is_not() {
        let writes = Arc::new(Writes::default());
        let slow = Arc::clone(&writes);
        let other = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(STALL_MAX / 2).await;
                slow.ended();
            }
        });
        assert!(writes.bounded(other).await.unwrap().is_ok());
        let hanging = writes.bounded(std::future::pending::<()>()).await;
        assert!(matches!(hanging, Err(WriteError::Stalled { seconds: 10 })));
    }
}
