//! Admission of writers to the index's engine: few writers at once, none while the engine is
//! behind, and none waits for long. One per open index; a short lock, held neither while a writer
//! is inside nor while it asks the engine.
//!
//! Why it is safe: the engine lets writers sleep inside a commit from a point on that is some
//! memtables away from the point at which this admission closes. The writers inside write less than
//! a memtable together, so none of them meets that point, however long the engine stays behind.

use crate::store::error::IndexError;
use crate::sync::{Condvar, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Writers inside at once. Each writes a record and a body of less than 64 KiB, or 36 bytes for
/// each chunk of a part, so that all of them together stay below a memtable of each keyspace. Only
/// parts that have come to many tens of gigabytes, of which many go at once, would take more.
const WRITERS_MAX: u32 = 48;
/// How long a writer waits before it gives up: less than a request waits for the disk, since an
/// engine that is behind is no disk that hangs.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a writer asks whether the engine has caught up.
const PACE: Duration = Duration::from_millis(10);

/// The admission.
#[derive(Debug, Default)]
pub(in crate::store) struct WriteAdmission {
    inside: Mutex<u32>,
    left: Condvar,
}

/// Leave to be inside; given back when dropped.
#[derive(Debug)]
pub(in crate::store) struct AdmittedWrite<'a>(&'a WriteAdmission);

impl WriteAdmission {
    /// Waits until there is room and the engine is not behind; blocking, a few seconds at most.
    pub(in crate::store) fn enter(
        &self,
        is_behind: impl Fn() -> bool,
    ) -> Result<AdmittedWrite<'_>, IndexError> {
        self.enter_before(Instant::now() + PATIENCE, is_behind)
    }

    fn enter_before(
        &self,
        deadline: Instant,
        is_behind: impl Fn() -> bool,
    ) -> Result<AdmittedWrite<'_>, IndexError> {
        loop {
            if !is_behind() {
                let mut inside = self.inside.lock();
                if *inside < WRITERS_MAX {
                    *inside += 1;
                    return Ok(AdmittedWrite(self));
                }
            }
            if Instant::now() >= deadline {
                return Err(IndexError::Stalled);
            }
            let mut inside = self.inside.lock();
            self.left.wait_for(&mut inside, PACE);
        }
    }
}

impl Drop for AdmittedWrite<'_> {
    fn drop(&mut self) {
        let mut inside = self.0.inside.lock();
        *inside = inside.saturating_sub(1);
        drop(inside);
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_full_gate_refuses_and_opens_when_one_leaves() {
        let admission = WriteAdmission::default();
        let mut inside: Vec<_> =
            (0..WRITERS_MAX).map(|_| admission.enter(|| false).unwrap()).collect();
        let now = Instant::now();
        assert!(matches!(admission.enter_before(now, || false), Err(IndexError::Stalled)));
        inside.pop();
        admission.enter_before(now, || false).unwrap();
    }

    #[test]
    fn nobody_goes_in_while_the_engine_is_behind() {
        let admission = WriteAdmission::default();
        let is_behind = || true;
        assert!(matches!(
            admission.enter_before(Instant::now(), is_behind),
            Err(IndexError::Stalled)
        ));
        let has_caught_up = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let waiting = scope
                .spawn(|| admission.enter(|| !has_caught_up.load(Ordering::Acquire)).map(|_| ()));
            has_caught_up.store(true, Ordering::Release);
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(*admission.inside.lock(), 0);
    }
}
